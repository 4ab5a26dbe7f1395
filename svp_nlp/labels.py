"""Labels that have been given: an append-only table, by position and id, with who said it and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.arrays import IntK, fingerprint_array
from svp_nlp.errors import LabelError
from svp_nlp.files import atomic_file

_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("id", pa.string()),
        ("label", pa.string()),
        ("round", pa.int32()),
        ("source", pa.string()),
        ("annotator", pa.string()),
    ]
)


@dataclass(frozen=True)
class LabelSet:
    """Labels in the order in which they were given. Labels are names, never numbers; one label a position."""

    table: pa.Table  # columns: position, id, label, round, source, annotator

    @classmethod
    def empty(cls) -> LabelSet:
        return cls(_SCHEMA.empty_table())

    @classmethod
    def of(
        cls, positions_K: IntK, ids_K: pa.Array, names_K: pa.Array, *, round: int, source: str, annotator: str = ""
    ) -> LabelSet:
        """Labels of one round from one source."""
        rows = len(positions_K)
        columns = [
            pa.array(positions_K, pa.int64()),
            pc.cast(ids_K, pa.string()),
            pc.cast(names_K, pa.string()),
            pa.repeat(pa.scalar(round, pa.int32()), rows),
            pa.repeat(pa.scalar(source, pa.string()), rows),
            pa.repeat(pa.scalar(annotator, pa.string()), rows),
        ]
        return cls(pa.Table.from_arrays(columns, schema=_SCHEMA))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def positions_L(self) -> IntK:
        return np.asarray(self.table["position"].to_numpy(), dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """Hash of (position, label) in order: what a learner that is fitted on them depends on."""
        codes = self.table["label"].combine_chunks().dictionary_encode()
        names = "\0".join(codes.dictionary.to_pylist())
        pairs = np.stack([self.positions_L, np.asarray(codes.indices.to_numpy(zero_copy_only=False), np.int64)])
        return fingerprint_array(np.concatenate([pairs.ravel(), np.frombuffer(names.encode(), np.uint8).astype("i8")]))

    def append(self, more: LabelSet) -> LabelSet:
        """Both, in order.

        Raises:
            LabelError: a position is labelled twice; names the first.
        """
        twice = np.intersect1d(self.positions_L, more.positions_L)
        if len(twice):
            raise LabelError(f"position {twice[0]} is labelled already ({len(twice):,} such rows)")
        return LabelSet(pa.concat_tables([self.table, more.table]))

    def of_positions(self, positions_K: IntK) -> LabelSet:
        """The labels of some positions, in the order given.

        Raises:
            LabelError: a position has none; names the first.
        """
        order = np.argsort(self.positions_L)
        at_K = np.searchsorted(self.positions_L, positions_K, sorter=order)
        known = self.positions_L[order[np.minimum(at_K, len(order) - 1)]] == positions_K if len(order) else at_K < 0
        if not np.all(known):
            raise LabelError(f"position {positions_K[~known][0]:,} has no label ({int((~known).sum()):,} such rows)")
        return LabelSet(self.table.take(order[at_K]))

    def indices(self, class_names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Labels as int64 [L] into `class_names`.

        Raises:
            LabelError: a label is not among them; names the distinct offenders.
        """
        found = pc.index_in(self.table["label"], pa.array(list(class_names), pa.string()))
        if found.null_count:
            unknown = pc.unique(self.table["label"].filter(pc.is_null(found))).to_pylist()
            raise LabelError(f"labels {unknown[:10]} are not among the classes {list(class_names)[:20]}")
        return np.asarray(found.to_numpy(), dtype=np.int64)

    def class_counts(self, class_names: Sequence[str]) -> dict[str, int]:
        """How many labels each class has, classes without any included."""
        counts = np.bincount(self.indices(class_names), minlength=len(class_names))
        return {name: int(count) for name, count in zip(class_names, counts, strict=True)}

    def save(self, path: Path) -> None:
        """Write Parquet, atomically."""
        with atomic_file(path) as tmp:
            pq.write_table(self.table, tmp)

    @classmethod
    def load(cls, path: Path) -> LabelSet:
        return cls(pq.read_table(path).cast(_SCHEMA))
