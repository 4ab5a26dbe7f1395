"""From what a user writes (Hub id, folder, file, built-in) to a memory-mapped `datasets.Dataset`."""

from __future__ import annotations

import contextlib
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
from svp_nlp.pool_files import CSV_SUFFIXES, JSON_SUFFIXES, files_to_arrow

if TYPE_CHECKING:
    from datasets import Dataset

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SHA = re.compile(r"[0-9a-f]{40}")
_FILE_SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES, ".parquet")
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Source:
    """An opened source of rows."""

    dataset: Dataset
    key: str  # changes when the content may have changed; for caches on this machine only
    revision: str | None  # commit sha of a Hub dataset


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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


def _file_suffix(path: str) -> str | None:
    name = path.lower().removesuffix(".gz")
    return next((suffix for suffix in _FILE_SUFFIXES if name.endswith(suffix)), None)


def _stamp(files: Sequence[Path]) -> list[Any]:
    return [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _check_split(split: str, available: Sequence[str], where: str) -> None:
    # "train[:10%]" and "train+test" are left to datasets, which knows that language.
    if re.fullmatch(r"[\w.-]+", split) and available and split not in available:
        raise PoolError(
            f"{where}: no split {split!r}{closest(split, list(available))}; it has {', '.join(map(repr, available))}"
        )


def _first_line(error: BaseException) -> str:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = str(root).strip().splitlines() or [""]
    return f"{type(root).__name__}: {lines[0][:300]}"


def _arrow_source(files: Sequence[Path], text_columns: Sequence[str], delimiter: str | None = None) -> Source:
    from datasets import Dataset

    key = fingerprint_json(["arrow-1", _stamp(files), sorted(text_columns), delimiter])
    directory = cached_directory("arrow", key, files_to_arrow(files, text_columns, delimiter=delimiter))
    return Source(Dataset.from_file(str(directory / "data.arrow")), key, None)


def _open_file(path: Path, suffix: str, split: str, text_columns: Sequence[str]) -> Source:
    if not path.is_file():
        raise PoolError(f"{path}: no such file (looked for {path.absolute()}); a Hub id has no {suffix} at its end")
    _check_split(split, ["train"], f"{path} (a single file)")
    if path.stat().st_size == 0:
        raise PoolError(f"{path}: the file is empty; expected at least one row")
    try:
        if suffix != ".parquet":
            return _arrow_source([path], text_columns)
        import pyarrow.parquet as pq
        from datasets import Dataset

        if pq.read_metadata(path).num_rows == 0:  # datasets 5.2 fails on it with a message about batch sizes
            raise PoolError(f"{path}: no row; expected at least one")
        with _quiet():
            dataset = Dataset.from_parquet(str(path))
    except PoolError:
        raise
    except Exception as error:
        raise PoolError(f"{path}: cannot be read as {suffix} ({_first_line(error)})") from error
    return Source(dataset, dataset._fingerprint, None)


def _saved_to_disk(path: Path, split: str) -> Source | None:
    """A folder that `Dataset.save_to_disk` wrote, which load_dataset refuses."""
    from datasets import Dataset, DatasetDict

    if (path / "dataset_dict.json").exists():
        splits = DatasetDict.load_from_disk(str(path))
        _check_split(split, list(splits), str(path))
        dataset = splits[split]
    elif (path / "state.json").exists():
        _check_split(split, ["train"], f"{path} (a single dataset)")
        dataset = Dataset.load_from_disk(str(path))
    else:
        return None
    return Source(dataset, fingerprint_json(_stamp([Path(f["filename"]) for f in dataset.cache_files])), None)


def _open_builder(
    path: str, name: str | None, split: str, revision: str | None, text_columns: Sequence[str], where: str
) -> Source:
    """A folder or a Hub dataset, through the builder that datasets chooses for it; never code of the dataset."""
    import datasets
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    try:
        with _quiet():
            builder = _cached_builder(path, name, revision) or datasets.load_dataset_builder(
                path, name=name, revision=revision
            )
            sha = builder.hash if _SHA.fullmatch(str(builder.hash)) else None
            if revision is not None and sha is not None and sha != revision:
                raise PoolError(f"{where}: the cache holds revision {sha}, not {revision}; go online once to fetch it")
            available = list(builder.config.data_files or builder.info.splits or [])
            _check_split(split, available, where)
            if isinstance(builder, (Csv, Json)) and (files := _plain_files(builder, split)):
                delimiter = builder.config.sep if isinstance(builder, Csv) and builder.config.sep != "," else None
                source = _arrow_source(files, text_columns, delimiter)
                return Source(_with_class_names(source.dataset, builder.info.features), source.key, sha or revision)
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=split)
    except PoolError:
        raise
    except Exception as error:
        message = _first_line(error)
        if "BuilderConfig" in message and "not found" in message:
            message += "; give one of these as `name`"
        elif "OfflineModeIsEnabled" in message:
            message = "offline, and nothing of it is in the cache; go online once to fetch it"
        elif "Config name is missing" in message:
            message = " ".join(str(error).split())[:400]
        raise PoolError(f"{where}: {message}") from error
    return Source(dataset, dataset._fingerprint, sha or revision)


def _cached_builder(path: str, name: str | None, revision: str | None) -> Any:
    """Offline, load_dataset opens whichever revision was cached last; this opens the one that is asked for."""
    import huggingface_hub
    from datasets.packaged_modules.cache.cache import Cache

    if revision is None or not huggingface_hub.constants.HF_HUB_OFFLINE:
        return None
    builder = Cache(dataset_name=path.split("/")[-1], config_name=name or "default", hash=revision, repo_id=path)
    return builder if Path(builder.cache_dir).is_dir() else None


def _plain_files(builder: Any, split: str) -> list[Path]:
    """The CSV or JSON lines files of a split on this machine; none where datasets must read them itself."""
    import datasets

    if split not in (builder.config.data_files or {}):
        return []
    defaults = type(builder.config)(name=builder.config.name)
    special = [
        field
        for field in builder.config.__dataclass_fields__
        if field not in ("name", "version", "data_dir", "data_files", "description", "sep", "delimiter", "features")
        and getattr(builder.config, field) != getattr(defaults, field)
    ]
    if special:
        return []
    found = datasets.DownloadManager().download(list(builder.config.data_files[split]))
    files = [Path(file) for file in found]
    for file in files:
        with file.open("rb") as opened:
            if opened.read(64).lstrip()[:1] == b"[":
                return []
    return files


def _with_class_names(dataset: Dataset, features: Any) -> Dataset:
    """Give integer columns the class names that the dataset's card declares."""
    from datasets import ClassLabel, Value

    declared = {
        name: feature
        for name, feature in (features or {}).items()
        if isinstance(feature, ClassLabel) and dataset.features.get(name) == Value("int64")
    }
    # Both are int64 in storage, so only the description changes.
    for name, feature in declared.items():
        dataset.info.features[name] = feature
    return dataset


def _resolve(path: str, revision: str | None) -> str | None:
    """The commit sha that a branch or tag names now; None when offline (the cache then decides)."""
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        if revision is not None and not _SHA.fullmatch(revision):
            raise PoolError(
                f"{path}: offline, so revision {revision!r} cannot be resolved; give the 40-digit commit sha"
            )
        return revision
    try:
        return str(huggingface_hub.HfApi().dataset_info(path, revision=revision, timeout=_HUB_TIMEOUT_S).sha)
    except RevisionNotFoundError:
        raise PoolError(
            f"{path}: no revision {revision!r} on the Hub; expected a branch, a tag or a commit sha"
        ) from None
    except GatedRepoError:
        raise PoolError(f"{path}: access to this dataset must be asked for on its page on the Hub") from None
    except RepositoryNotFoundError:
        raise PoolError(
            f"{path}: no such dataset on the Hub, no such folder here ({Path.cwd()}); for a private dataset log in "
            "with `hf auth login`"
        ) from None
    except OfflineModeIsEnabled:
        return revision
    except HfHubHTTPError as error:
        raise PoolError(f"{path}: the Hub refused ({_first_line(error)})") from None
    except Exception as error:
        raise PoolError(
            f"{path}: no such folder here, and the Hub cannot be reached ({_first_line(error)}); check the network, "
            "or set HF_HUB_OFFLINE=1 to use what is in the cache"
        ) from None


def open_source(
    path: str, name: str | None, *, split: str, revision: str | None, text_columns: Sequence[str]
) -> Source:
    """Open what `path` means: built-in, file, folder, else Hub id.

    Raises:
        PoolError: nothing there, no such split or configuration, a broken row, no network.
    """
    from datasets import Dataset

    if path.startswith(PREFIX):
        if revision is not None or name is not None:
            raise PoolError(f"{path}: built-in pools have no name and no revision; leave them out")
        splits = build_builtin(path)
        _check_split(split, list(splits), path)
        file = splits[split]
        return Source(Dataset.from_file(str(file)), fingerprint_json(_stamp([file])), None)
    suffix = _file_suffix(path)
    local = Path(path).expanduser()
    if suffix is not None or local.exists():
        if revision is not None:
            raise PoolError(f"{path}: revision {revision!r} is for Hub datasets; this is on your disk: leave it out")
        if local.is_dir():
            folder = local.resolve()
            with _quiet():
                saved = _saved_to_disk(folder, split)
            return saved or _open_builder(str(folder), name, split, None, text_columns, path)
        if suffix is None:
            raise PoolError(f"{path}: unknown kind of file; expected one of {', '.join(_FILE_SUFFIXES)}, or a folder")
        if name is not None:
            raise PoolError(f"{path}: a single file has no configuration {name!r}; leave `name` out")
        return _open_file(local, suffix, split, text_columns)
    if not _HUB_ID.fullmatch(path) or ".." in path:
        raise PoolError(f"{path}: no such file or folder (looked for {local.absolute()})")
    return _open_builder(path, name, split, _resolve(path, revision), text_columns, path)
