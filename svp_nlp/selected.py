"""The selected rows as Parquet files laid out like a Hub dataset: `load_dataset(folder)` reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.arrays import FloatN
from svp_nlp.files import atomic_directory
from svp_nlp.labels import LabelSet
from svp_nlp.markdown import render
from svp_nlp.pool import Pool

if TYPE_CHECKING:
    from datasets import Features

OWN_LABELS = "column"  # the source of a label that is the pool's own
_ROWS_PER_GROUP = 50_000
_ROWS_PER_FILE = 500_000


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
        """The rows with the columns of `features`, 50,000 at a time."""
        schema = self.features(index_only=index_only).arrow_schema
        for start in range(0, len(self), _ROWS_PER_GROUP):
            part = LabelSet(self.labels.table.slice(start, _ROWS_PER_GROUP))
            scores = self.scores_L[start : start + _ROWS_PER_GROUP]
            columns: dict[str, Any] = {}
            if not index_only:
                table = self.pool.dataset(part.positions_L).data.table
                columns = {name: table[name] for name in table.column_names}
                if self.class_names is not None:
                    columns[self.label_column or "label"] = pa.chunked_array([part.indices(self.class_names)])
            columns["svp_position"] = part.table["position"]
            columns["svp_id"] = part.table["id"]
            columns["svp_score"] = pa.chunked_array([pa.array(scores, mask=np.isnan(scores))])
            columns["svp_round"] = part.table["round"]
            columns["svp_label_source"] = part.table["source"]
            if index_only:  # the pool's own labels are as little ours to give away as its texts
                own = pc.equal(part.table["source"], OWN_LABELS)
                columns["svp_label"] = pc.if_else(own, pa.scalar(None, pa.string()), part.table["label"])
            yield pa.table([columns[name] for name in schema.names], schema.names).cast(schema)


def write_rows(directory: Path, rows: SelectedRows, *, index_only: bool = False) -> list[Path]:
    """Write `train-00000-of-00001.parquet` and so on into an existing directory, at most 500,000 rows a file.

    Args:
        index_only: positions, ids and what svp_nlp adds, but no column of the pool.
    Returns:
        the files, in order.
    """
    schema = rows.features(index_only=index_only).arrow_schema
    number = max(1, -(-len(rows) // _ROWS_PER_FILE))
    files = [directory / f"train-{file:05d}-of-{number:05d}.parquet" for file in range(number)]
    tables = rows.tables(index_only=index_only)
    for file in files:
        with pq.ParquetWriter(file, schema) as writer:
            for _ in range(_ROWS_PER_FILE // _ROWS_PER_GROUP):
                if (table := next(tables, None)) is None:
                    break
                writer.write_table(table)
    return files


def write_selected(directory: Path, rows: SelectedRows, *, strategy: str) -> None:
    """Write the rows (`data/train-*.parquet`) and README.md, atomically."""
    with atomic_directory(directory) as tmp:
        (tmp / "data").mkdir()
        write_rows(tmp / "data", rows)
        values = {"rows": len(rows), "strategy": strategy, "pool": rows.pool.ref, "label_column": rows.label_column}
        (tmp / "README.md").write_text(f"{render('selected.md', **values)}\n", encoding="utf-8")
