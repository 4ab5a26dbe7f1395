"""The selected rows as Parquet files laid out like a Hub dataset: `load_dataset(folder)` reads them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.arrays import FloatN
from svp_nlp.columns import LabelColumn
from svp_nlp.errors import LabelError, PoolError
from svp_nlp.files import atomic_directory, read_json
from svp_nlp.labels import LabelSet
from svp_nlp.markdown import render
from svp_nlp.pool import Pool
from svp_nlp.pool_labels import read_labels
from svp_nlp.run import STEP_FILE

if TYPE_CHECKING:
    from datasets import Features

_ROWS_PER_GROUP = 50_000
_ROWS_PER_FILE = 500_000
# Of rows with images: who wants one row reads its group, and a file is sent as a whole.
_ROWS_PER_READ = 100
_BYTES_PER_GROUP = 32 << 20
_BYTES_PER_FILE = 500_000_000


class Digest(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: Any, /) -> None:
        """Take in more bytes."""


@dataclass(frozen=True)
class SelectedRows:
    """Rows of a pool in the order in which they were picked.

    Attributes:
        labels: the rows, with what was said about them; a null label: none was given.
        scores_L: float32, what ranked each; NaN where nothing did (the start set, setwise strategies).
        class_names: of the labels; None where there are none, then the pool's columns stay as they are.
        label_column: gets the given labels as a ClassLabel: replaced where the pool has it, added where not.
    """

    pool: Pool
    labels: LabelSet
    scores_L: FloatN
    class_names: Sequence[str] | None
    label_column: str | None

    def __len__(self) -> int:
        return len(self.labels)

    def features(self, *, index_only: bool = False) -> Features:
        """Of the files that `write_rows` writes."""
        from datasets import ClassLabel, Features, Value

        added = {
            "svp_position": Value("int64"),
            "svp_id": Value("string"),
            "svp_score": Value("float32"),
            "svp_round": Value("int32"),
            "svp_label_source": Value("string"),
        }
        if index_only:
            return Features(added | {"svp_label": Value("string")})
        features = dict(self.pool.features)
        if self.class_names is not None:
            features[self.label_column or "label"] = ClassLabel(names=list(self.class_names))
        return Features(features | added)

    def tables(self, *, index_only: bool = False) -> Iterator[pa.Table]:
        """The rows with the columns of `features`, 50,000 at a time; with images fewer, about 32 MiB.

        Images are bytes in them, whether the pool holds them so or names their files.

        Raises:
            PoolError: the file of an image cannot be read.
        """
        if index_only or not self._media:
            for start in range(0, len(self), _ROWS_PER_GROUP):
                yield self._table(start, _ROWS_PER_GROUP, index_only=index_only)
            return
        waiting: list[pa.Table] = []
        for start in range(0, len(self), _ROWS_PER_READ):
            waiting.append(self._table(start, _ROWS_PER_READ))
            if sum(table.nbytes for table in waiting) >= _BYTES_PER_GROUP:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    def _table(self, start: int, count: int, *, index_only: bool = False) -> pa.Table:
        schema = self.features(index_only=index_only).arrow_schema
        part = LabelSet(self.labels.table.slice(start, count))
        scores = self.scores_L[start : start + count]
        columns: dict[str, Any] = {}
        if not index_only:
            table = self.pool.dataset(part.positions_L).data.table
            columns = {name: table[name] for name in table.column_names}
            columns |= {name: self._with_bytes(name, columns[name]) for name in self._media}
            if self.class_names is not None:
                columns[self.label_column or "label"] = pa.chunked_array([part.indices(self.class_names)])
        columns["svp_position"] = part.table["position"]
        columns["svp_id"] = part.table["id"]
        columns["svp_score"] = pa.chunked_array([pa.array(scores, mask=np.isnan(scores))])
        columns["svp_round"] = part.table["round"]
        columns["svp_label_source"] = part.table["source"]
        if index_only:  # the pool's own labels are as little ours to give away as its texts
            given, own = part.table["label"].combine_chunks(), self._own_labels(part)
            same = pc.fill_null(pc.equal(given, own), False)
            columns["svp_label"] = pc.if_else(same, pa.scalar(None, pa.string()), given)
        return pa.table([columns[name] for name in schema.names], schema.names).cast(schema)

    @functools.cached_property
    def _media(self) -> list[str]:
        """Columns whose values may lie in files beside the pool: images above all."""
        from datasets.features.features import require_storage_embed

        return [name for name, feature in self.pool.features.items() if require_storage_embed(feature)]

    def _with_bytes(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The column with the bytes of all files, and of their paths the last part: the others are this machine's."""
        from datasets.table import embed_array_storage

        try:
            return embed_array_storage(column, self.pool.features[name])
        except OSError as error:
            raise PoolError(
                f"{error.filename}: the image cannot be read ({error.strerror}); put the file back"
            ) from None

    def _own_labels(self, part: LabelSet) -> pa.Array:
        """The names that the pool's own label column gives these rows; null where it has none."""
        if self._pool_labels is None:
            return pa.nulls(len(part), pa.string())
        labels_L = self._pool_labels.labels_N[part.positions_L].astype(np.int64)
        names = pa.array(self._pool_labels.class_names, pa.string())
        return names.take(pa.array(labels_L, mask=labels_L < 0))

    @functools.cached_property
    def _pool_labels(self) -> LabelColumn | None:
        return None if self.class_names is None else own_labels(self.pool, self.label_column)


def own_labels(pool: Pool, column: str | None) -> LabelColumn | None:
    """What a pool itself says in a column for labels; None where it has no such column, or nothing to read in it."""
    if column is None or column not in pool.features:
        return None
    try:
        return read_labels(pool, column)
    except LabelError:
        return None


def write_rows(
    directory: Path, rows: SelectedRows, *, index_only: bool = False, digest: Digest | None = None
) -> list[Path]:
    """Write `train-00000-of-00001.parquet` and so on into an existing directory.

    A file has at most 500,000 rows, and about 500 MB, as `datasets` cuts them.

    Args:
        index_only: positions, ids and what svp_nlp adds, but no column of the pool.
        digest: takes in the columns and all rows but for their scores, which another machine may round differently.
    Returns:
        the files, in order.
    """
    schema = rows.features(index_only=index_only).arrow_schema
    tables = rows.tables(index_only=index_only)
    table, parts = next(tables, None), list[Path]()
    while table is not None or not parts:
        parts.append(directory / f"{len(parts):05d}.part")  # how many there are is known at the end
        held = size = 0
        with pq.ParquetWriter(parts[-1], schema) as writer:
            while table is not None and (held == 0 or held + len(table) <= _ROWS_PER_FILE) and size < _BYTES_PER_FILE:
                writer.write_table(table)
                if digest is not None:
                    _take_in(table.drop_columns(["svp_score"]), digest)
                held, size = held + len(table), size + table.nbytes
                table = next(tables, None)
    files = [directory / f"train-{number:05d}-of-{len(parts):05d}.parquet" for number in range(len(parts))]
    for part, file in zip(parts, files, strict=True):
        part.rename(file)
    return files


def _take_in(table: pa.Table, digest: Digest) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    digest.update(sink.getvalue())


def write_selected(directory: Path, rows: SelectedRows, *, strategy: str) -> None:
    """Write the rows (`data/train-*.parquet`) and README.md, atomically."""
    with atomic_directory(directory) as tmp:
        (tmp / "data").mkdir()
        write_rows(tmp / "data", rows)
        values = {"rows": len(rows), "strategy": strategy, "pool": rows.pool.ref, "label_column": rows.label_column}
        (tmp / "README.md").write_text(f"{render('selected.md', **values)}\n", encoding="utf-8")


def drop_outgrown(step_dir: Path, labels: LabelSet) -> None:
    """Remove what was written of a run that had ended, and that went on to other labels."""
    if (step_dir / STEP_FILE).exists() and read_json(step_dir / STEP_FILE)["inputs"]["labels"] != labels.fingerprint:
        shutil.rmtree(step_dir)
