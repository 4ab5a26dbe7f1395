"""What a user has on disk (built-in, file, folder) to a memory-mapped `datasets.Dataset`; pool_hub.py has the Hub."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svp_nlp.arrays import fingerprint_json
from svp_nlp.builtin import PREFIX, build_builtin
from svp_nlp.cache import cached_directory
from svp_nlp.columns import closest
from svp_nlp.errors import PoolError
from svp_nlp.hub_errors import first_line
from svp_nlp.pool_files import CSV_SUFFIXES, JSON_SUFFIXES, files_to_arrow

if TYPE_CHECKING:
    from datasets import Dataset

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SLICE = re.compile(r"([\w.-]+)(?:\[(\d*):(\d*)\])?")
_FILE_SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES, ".parquet")


@dataclass(frozen=True)
class Source:
    """An opened source of rows."""

    dataset: Dataset
    key: str  # changes when the content may have changed; for caches on this machine only
    revision: str | None = None  # commit sha of a Hub dataset


@dataclass(frozen=True)
class Part:
    """A split, or the rows [start, stop) of it: `train`, `train[:1000]`, `train[500:]`."""

    split: str
    start: int = 0
    stop: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all rows of the split."""
        return self.start == 0 and self.stop is None

    def cut(self, source: Source, where: str) -> Source:
        """These rows of a source that holds the whole split.

        Raises:
            PoolError: there is none.
        """
        if self.whole:
            return source
        there = len(source.dataset)
        stop = there if self.stop is None else min(self.stop, there)
        if self.start >= stop:
            raise PoolError(f"{where}: no row from {self.start:,} on to {stop:,}; {self.split} has {there:,} rows")
        rows = source.dataset.select(range(self.start, stop))  # a range is a view, not a copy
        return dataclasses.replace(source, dataset=rows, key=fingerprint_json([source.key, self.start, self.stop]))


def part_of(split: str) -> Part | None:
    """What a split names; None for `train[:10%]`, `train+test` and the like, which only datasets understands."""
    found = _SLICE.fullmatch(split)
    if found is None:
        return None
    name, start, stop = found.groups()
    return Part(name, int(start or 0), int(stop) if stop else None)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars of Hugging Face libraries except on a terminal, and no second copy of an error in their logs."""
    import datasets
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = datasets.utils.are_progress_bars_disabled(), are_progress_bars_disabled()
    level = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.utils.disable_progress_bars()
        disable_progress_bars()
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(level)
        if not bars[0]:
            datasets.utils.enable_progress_bars()
        if not bars[1]:
            enable_progress_bars()


def check_split(split: str, available: Sequence[str], where: str) -> None:
    """Raises: PoolError: `split` is not one of those that there are."""
    part, names = part_of(split), [str(name) for name in available]  # datasets has a class of its own for them
    if part is not None and names and part.split not in names:
        raise PoolError(
            f"{where}: no split {part.split!r}{closest(part.split, names)}; it has {', '.join(map(repr, names))}: name "
            f"one of them as split (for a command: --set test.split={names[-1]}, or pool.split)"
        )


def _local_part(split: str, available: Sequence[str], where: str) -> Part:
    check_split(split, available, where)
    part = part_of(split)
    if part is None:
        raise PoolError(f"{where}: split {split!r} is not read here; expected a split or rows of it as train[:1000]")
    return part


def _file_suffix(path: str) -> str | None:
    name = path.lower().removesuffix(".gz")
    return next((suffix for suffix in _FILE_SUFFIXES if name.endswith(suffix)), None)


def _stamp(files: Sequence[Path]) -> list[Any]:
    return [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def arrow_source(directory: Path, key: str) -> Source:
    """The source whose rows `files_to_arrow` has written into a directory."""
    from datasets import Dataset

    return Source(Dataset.from_file(str(directory / "data.arrow")), key)


def _from_files(files: Sequence[Path], text_columns: Sequence[str], delimiter: str | None = None) -> Source:
    key = fingerprint_json(["arrow-1", _stamp(files), sorted(text_columns), delimiter])
    return arrow_source(cached_directory("arrow", key, files_to_arrow(files, text_columns, delimiter=delimiter)), key)


def _open_file(path: Path, suffix: str, split: str, text_columns: Sequence[str]) -> Source:
    if not path.is_file():
        raise PoolError(f"{path}: no such file (looked for {path.absolute()}); a Hub id has no {suffix} at its end")
    part = _local_part(split, ["train"], f"{path} (a single file)")
    if path.stat().st_size == 0:
        raise PoolError(f"{path}: the file is empty; expected at least one row")
    try:
        if suffix != ".parquet":
            return part.cut(_from_files([path], text_columns), str(path))
        import pyarrow.parquet as pq
        from datasets import Dataset

        if pq.read_metadata(path).num_rows == 0:  # datasets 5.2 fails on it with a message about batch sizes
            raise PoolError(f"{path}: no row; expected at least one")
        with quiet_libraries():
            dataset = Dataset.from_parquet(str(path))
    except PoolError:
        raise
    except Exception as error:
        raise PoolError(f"{path}: cannot be read as {suffix} ({first_line(error)})") from error
    return part.cut(Source(dataset, dataset._fingerprint), str(path))


def _saved_to_disk(path: Path, split: str) -> Source | None:
    """A folder that `Dataset.save_to_disk` wrote, which load_dataset refuses."""
    from datasets import Dataset, DatasetDict

    if (path / "dataset_dict.json").exists():
        splits = DatasetDict.load_from_disk(str(path))
        part = _local_part(split, list(splits), str(path))
        dataset = splits[part.split]
    elif (path / "state.json").exists():
        part = _local_part(split, ["train"], f"{path} (a single dataset)")
        dataset = Dataset.load_from_disk(str(path))
    else:
        return None
    key = fingerprint_json(_stamp([Path(f["filename"]) for f in dataset.cache_files]))
    return part.cut(Source(dataset, key), str(path))


def _open_folder(folder: Path, name: str | None, split: str, text_columns: Sequence[str], where: str) -> Source:
    import datasets

    with quiet_libraries(), builder_errors(where):
        builder = datasets.load_dataset_builder(str(folder), name=name)
        part, found = part_of(split), plain_files(builder, split)
        check_split(split, list(builder.config.data_files or builder.info.splits or []), where)
        if part is None or found is None or (files := local_files(found)) is None:
            return prepared(builder, split)
        return part.cut(with_class_names(_from_files(files, text_columns, delimiter_of(builder)), builder), where)


@contextlib.contextmanager
def builder_errors(where: str) -> Iterator[None]:
    """Raises: PoolError: one line in place of what datasets says."""
    try:
        yield
    except PoolError:
        raise
    except Exception as error:
        message = first_line(error)
        if found := re.search(r"BuilderConfig '?(.*?)'? not found\. Available: \[(.*)\]", message):
            names = [name.strip(" '\"") for name in found[2].split(",")]
            message = (
                f"no configuration {found[1]!r}{closest(found[1], names)}; it has {', '.join(map(repr, names))}: give "
                "one of these as `name`"
            )
        elif "Config name is missing" in message:
            message = " ".join(str(error).split())[:400]
        raise PoolError(f"{where}: {message}") from error


def prepared(builder: Any, split: str) -> Source:
    """Rows as datasets reads them, in its cache."""
    builder.download_and_prepare()
    dataset = builder.as_dataset(split=split)
    return Source(dataset, dataset._fingerprint)


def is_csv_or_json(builder: Any) -> bool:
    """Whether datasets would read these files with a reader that we do not trust with texts; see pool_files.py."""
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    return isinstance(builder, Csv | Json)


def plain_files(builder: Any, split: str) -> list[str] | None:
    """The CSV or JSON lines files of a split, not yet downloaded; None where datasets must read them itself."""
    part = part_of(split)
    if not is_csv_or_json(builder) or part is None or part.split not in (builder.config.data_files or {}):
        return None
    ours = ("name", "version", "data_dir", "data_files", "description", "sep", "delimiter", "features")
    defaults = type(builder.config)(name=builder.config.name)
    if any(
        getattr(builder.config, field) != getattr(defaults, field)
        for field in builder.config.__dataclass_fields__
        if field not in ours
    ):
        return None
    return list(builder.config.data_files[part.split])


def local_files(found: Sequence[str]) -> list[Path] | None:
    """Download what is not on this machine yet; None where a file holds one JSON array, which datasets must read."""
    import datasets

    files = [Path(file) for file in datasets.DownloadManager().download(list(found))]
    return None if any(map(is_json_array, files)) else files


def is_json_array(path: Path) -> bool:
    """Whether a file starts like one JSON array, which is not JSON lines."""
    with path.open("rb") as opened:
        return opened.read(64).lstrip()[:1] == b"["


def delimiter_of(builder: Any) -> str | None:
    """What a CSV dataset's card declares; None: what the file names say."""
    separator = getattr(builder.config, "sep", ",")
    return separator if separator != "," else None


def class_names_of(builder: Any) -> dict[str, list[str]]:
    """The class names that a dataset's card declares, by column."""
    from datasets import ClassLabel

    features = builder.info.features or {}
    return {name: list(feature.names) for name, feature in features.items() if isinstance(feature, ClassLabel)}


def with_class_names(source: Source, builder: Any) -> Source:
    """Give integer columns the class names that the dataset's card declares."""
    name_classes(source.dataset, class_names_of(builder))
    return source


def name_classes(dataset: Dataset, class_names: dict[str, list[str]]) -> None:
    """Describe integer columns as classes. Both are int64 in storage, so only the description changes."""
    from datasets import ClassLabel, Value

    for name, names in class_names.items():
        if dataset.features.get(name) == Value("int64"):
            dataset.info.features[name] = ClassLabel(names=names)


def is_hub_id(path: str) -> bool:
    """Whether `path` can only mean a dataset of the Hub."""
    if path.startswith(PREFIX) or _file_suffix(path) is not None or Path(path).expanduser().exists():
        return False
    return _HUB_ID.fullmatch(path) is not None and ".." not in path


def open_local(path: str, name: str | None, *, split: str, revision: str | None, text_columns: Sequence[str]) -> Source:
    """Open a built-in pool, a file or a folder.

    Raises:
        PoolError: nothing there, no such split or configuration, a broken row.
    """
    from datasets import Dataset

    if path.startswith(PREFIX):
        if revision is not None or name is not None:
            raise PoolError(f"{path}: built-in pools have no name and no revision; leave them out")
        splits = build_builtin(path)
        part = _local_part(split, list(splits), path)
        file = splits[part.split]
        return part.cut(Source(Dataset.from_file(str(file)), fingerprint_json(_stamp([file]))), path)
    suffix, local = _file_suffix(path), Path(path).expanduser()
    if suffix is None and not local.exists():
        raise PoolError(f"{path}: no such file or folder (looked for {local.absolute()})")
    if revision is not None:
        raise PoolError(f"{path}: revision {revision!r} is for Hub datasets; this is on your disk: leave it out")
    if local.is_dir():
        folder = local.resolve()
        with quiet_libraries():
            saved = _saved_to_disk(folder, split)
        return saved or _open_folder(folder, name, split, text_columns, path)
    if suffix is None:
        raise PoolError(f"{path}: unknown kind of file; expected one of {', '.join(_FILE_SUFFIXES)}, or a folder")
    if name is not None:
        raise PoolError(f"{path}: a single file has no configuration {name!r}; leave `name` out")
    return _open_file(local, suffix, split, text_columns)
