"""Rows of a Hub dataset in one Arrow file of our own, by commit: made once, then opened without the Hub.

Two kinds: `hub` is what our readers make of CSV and JSON lines, `stream` is what is read row by row over the network.
A commit never changes, so neither does what is kept under it.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from svp_nlp.arrays import fingerprint_json
from svp_nlp.cache import cache_root, cached_directory
from svp_nlp.errors import PoolError
from svp_nlp.files import read_json, write_json
from svp_nlp.hub_errors import dataset_errors
from svp_nlp.pool_files import files_to_arrow
from svp_nlp.pool_source import (
    Part,
    Source,
    arrow_source,
    builder_errors,
    class_names_of,
    delimiter_of,
    is_csv_or_json,
    is_json_array,
    name_classes,
    part_of,
)
from svp_nlp.rows import write_arrow

_BATCH_ROWS = 2_000
_CHECK_BYTES = 16 << 20  # how much is written between two looks at the disk
_META = "meta.json"


@dataclass(frozen=True)
class Wanted:
    """Which rows of which commit of a Hub dataset."""

    repo_id: str
    name: str | None
    split: str
    sha: str
    text_columns: tuple[str, ...]  # read as strings from CSV and JSON lines

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.repo_id} at {self.sha[:10]}"

    @property
    def part(self) -> Part | None:
        """The split and the rows of it."""
        return part_of(self.split)

    @property
    def plain_key(self) -> str:
        """Of the whole split, as our readers of CSV and JSON lines give it."""
        split = self.part.split if self.part else self.split
        return fingerprint_json(["hub-1", self.repo_id, self.name, split, self.sha, sorted(self.text_columns)])

    @property
    def stream_key(self) -> str:
        """Of the rows as datasets gives them."""
        return fingerprint_json(["stream-1", self.repo_id, self.name, self.split, self.sha])

    @property
    def mark_key(self) -> str:
        """Of the note that datasets itself must read these CSV or JSON files."""
        return fingerprint_json(["mark-1", self.repo_id, self.name, self.sha])


def kept(wanted: Wanted) -> Source | None:
    """What an earlier opening has left, if anything."""
    root = cache_root()
    if wanted.part is not None and (root / "hub" / wanted.plain_key).is_dir():
        return _opened(root / "hub" / wanted.plain_key, wanted, wanted.part)
    if (root / "stream" / wanted.stream_key).is_dir():
        return _opened(root / "stream" / wanted.stream_key, wanted, None)
    return None


def mark_read_by_datasets(wanted: Wanted) -> None:
    """Note that datasets itself had to read this CSV or JSON, so that its cache is the right place offline."""
    cached_directory("hub", wanted.mark_key, lambda directory: write_json(directory / _META, {"reader": "datasets"}))


def is_read_by_datasets(wanted: Wanted) -> bool:
    """Whether `mark_read_by_datasets` was called."""
    return (cache_root() / "hub" / wanted.mark_key).is_dir()


def keep_plain(wanted: Wanted, builder: Any, files: Sequence[Path]) -> Source:
    """Read CSV or JSON lines files that are on this machine; they hold the whole split.

    Raises:
        PoolError: a broken row.
    """
    assert wanted.part is not None
    build = functools.partial(_build_plain, wanted, builder, files)
    return _opened(cached_directory("hub", wanted.plain_key, build), wanted, wanted.part)


def stream(wanted: Wanted, builder: Any, plain: Sequence[str] | None) -> Source:
    """Write the rows into one Arrow file without keeping the files of the Hub.

    CSV and JSON lines are downloaded beside it and deleted, for they have to be read twice; all else goes row by row.

    Args:
        builder: the dataset's, of this commit.
        plain: the CSV or JSON lines files of the split, as addresses; None: datasets reads them.
    Raises:
        PoolError: the disk is too small, the Hub fails, a broken row; nothing half-written is left.
    """
    part = wanted.part
    if part is None:
        raise PoolError(
            f"{wanted.repo_id}: streaming reads a split or rows of it as train[:1000], found split {wanted.split!r}; "
            "leave streaming out"
        )
    if plain is None and is_csv_or_json(builder):
        raise PoolError(f"{wanted.where}: its files have options that only a download can follow; leave streaming out")
    if plain is not None:
        fetch = functools.partial(_build_fetched, wanted, builder, plain)
        return _opened(cached_directory("hub", wanted.plain_key, fetch), wanted, part)
    build = functools.partial(_build_stream, wanted, builder, part)
    return _opened(cached_directory("stream", wanted.stream_key, build), wanted, None)


def _opened(directory: Path, wanted: Wanted, part: Part | None) -> Source:
    source = arrow_source(directory, directory.name)
    name_classes(source.dataset, read_json(directory / _META)["class_names"])
    return source if part is None else part.cut(source, wanted.where)


def _build_plain(wanted: Wanted, builder: Any, files: Sequence[Path], directory: Path) -> None:
    files_to_arrow(files, wanted.text_columns, delimiter=delimiter_of(builder))(directory)
    write_json(directory / _META, {"class_names": class_names_of(builder)})


def _build_fetched(wanted: Wanted, builder: Any, plain: Sequence[str], directory: Path) -> None:
    import huggingface_hub

    # An error that were an OSError would look like a cache that cannot be written.
    with builder_errors(wanted.where), dataset_errors(wanted.repo_id, wanted.sha):
        names = _names(plain)
        _check_space(directory, 2 * sum(_sizes(wanted, names)), wanted.where)
        raw = directory / "raw"
        files = [
            Path(
                huggingface_hub.hf_hub_download(
                    wanted.repo_id, name, repo_type="dataset", revision=wanted.sha, local_dir=raw
                )
            )
            for name in names
        ]
        for name, file in zip(names, files, strict=True):
            if is_json_array(file):
                raise PoolError(f"{wanted.where}: {name} is one JSON array, not JSON lines; leave streaming out")
        try:
            _build_plain(wanted, builder, files, directory)
        except PoolError as error:
            raise PoolError(str(error).replace(f"{raw}/", f"{wanted.where}: ")) from None
        shutil.rmtree(raw)


def _names(addresses: Sequence[str]) -> list[str]:
    """Paths in the repository of addresses such as hf://datasets/user/dataset@sha/data/train.csv."""
    import huggingface_hub

    fs: Any = huggingface_hub.HfFileSystem()
    return [fs.resolve_path(address).path_in_repo for address in addresses if address.startswith("hf://")]


def _sizes(wanted: Wanted, names: Sequence[str]) -> list[int]:
    import huggingface_hub

    found = huggingface_hub.HfApi().get_paths_info(
        wanted.repo_id, list(names), repo_type="dataset", revision=wanted.sha
    )
    return [int(getattr(entry, "size", 0)) for entry in found]


def _build_stream(wanted: Wanted, builder: Any, part: Part, directory: Path) -> None:
    import datasets

    # An error that were an OSError would look like a cache that cannot be written.
    with builder_errors(wanted.where), dataset_errors(wanted.repo_id, wanted.sha):
        told = (builder.info.splits or {}).get(part.split)
        rows = told.num_examples if told is not None else None
        wished = _length(part, rows)
        if told is not None and told.num_bytes:
            needed = told.num_bytes * (wished or 0) // rows if rows else told.num_bytes
        else:  # compressed in most formats, so a lower bound
            names = _names((builder.config.data_files or {}).get(part.split, []))
            needed = sum(_sizes(wanted, names)) if part.whole else 0
        _check_space(directory, needed, wanted.where)
        dataset = builder.as_streaming_dataset(split=part.split)
        dataset = dataset if dataset.features is not None else dataset._resolve_features()
        schema = dataset.features.arrow_schema
        if part.start:
            dataset = dataset.skip(part.start)
        if part.stop is not None:
            dataset = dataset.take(max(part.stop - part.start, 0))
        with datasets.utils.tqdm(
            total=wished, desc=f"{wanted.repo_id} [{wanted.split}]", unit=" rows", unit_scale=True,
            disable=not sys.stderr.isatty() or None,
        ) as bar:  # fmt: skip
            write_arrow(
                directory / "data.arrow", schema, _watched(dataset, schema, bar, directory, needed, wanted.where)
            )
        write_json(directory / _META, {"class_names": {}})


def _length(part: Part, rows: int | None) -> int | None:
    """How many rows a part of a split has, where that is known."""
    if rows is None:
        return None if part.stop is None else max(part.stop - part.start, 0)
    return max(min(rows, rows if part.stop is None else part.stop) - part.start, 0)


def _watched(
    dataset: Any, schema: pa.Schema, bar: Any, directory: Path, needed: int, where: str
) -> Iterator[pa.RecordBatch]:
    """The batches of a streaming dataset; counts them and looks at the disk now and then."""
    written, looked = 0, 0
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS):
        for batch in table.cast(schema).to_batches():
            written += batch.nbytes
            if written - looked >= _CHECK_BYTES:
                looked = written
                _check_space(directory, max(needed - written, 2 * _CHECK_BYTES), where, written=written)
            yield batch
            bar.update(batch.num_rows)


def _check_space(directory: Path, needed: int, where: str, *, written: int = 0) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        more = f"{_size(needed)} more after {_size(written)}" if written else f"at least {_size(needed)}"
        raise PoolError(
            f"{where}: reading it needs {more}, but {_size(free)} are free in {cache_root()}; free some, or set "
            "SVP_CACHE to a directory on a larger disk"
        )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"
