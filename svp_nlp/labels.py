"""Labels that have been given, by position and id, with who said it and when."""

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
        cls,
        positions_K: IntK,
        ids_K: pa.Array,
        names_K: pa.Array,
        *,
        round: int,
        source: str | Sequence[str],
        annotator: str | Sequence[str] = "",
    ) -> LabelSet:
        """Labels of one round; `source` and `annotator` are one for all rows, or one for each."""
        rows = len(positions_K)

        def texts(value: str | Sequence[str]) -> pa.Array:
            return (
                pa.repeat(pa.scalar(value, pa.string()), rows)
                if isinstance(value, str)
                else pa.array(value, pa.string())
            )

        columns = [
            pa.array(positions_K, pa.int64()),
            pc.cast(ids_K, pa.string()),
            pc.cast(names_K, pa.string()),
            pa.repeat(pa.scalar(round, pa.int32()), rows),
            texts(source),
            texts(annotator),
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

    def updated(self, more: LabelSet) -> LabelSet:
        """Both in order: labels of positions that are here already take their place, null labels take them away."""
        mine, theirs = self.positions_L, more.positions_L
        if not len(mine) or not len(theirs):
            table = pa.concat_tables([self.table, more.table])
        else:
            order = np.argsort(theirs, kind="stable")
            at_L = order[np.minimum(np.searchsorted(theirs, mine, sorter=order), len(theirs) - 1)]
            again_L = theirs[at_L] == mine
            both = pa.concat_tables([self.table, more.table])
            kept = np.where(again_L, len(mine) + at_L, np.arange(len(mine)))
            new = len(mine) + np.flatnonzero(~np.isin(theirs, mine))
            table = both.take(pa.array(np.concatenate([kept, new])))
        return LabelSet(table.filter(pc.is_valid(table["label"])))

    def changes_to(self, before: LabelSet) -> LabelSet:
        """What `before.updated` needs to have the labels that are here: new ones, others than before, and nulls for
        those that were taken back.
        """
        old = dict(zip(before.table["position"].to_pylist(), before.table["label"].to_pylist(), strict=True))
        pairs = zip(self.table["position"].to_pylist(), self.table["label"].to_pylist(), strict=True)
        differs = [old.get(position) != label for position, label in pairs]
        return LabelSet(self.table.filter(pa.array(differs, pa.bool_())))

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

    def classes_after(self, declared: tuple[str, ...]) -> tuple[str, ...]:
        """`declared`, then the other classes that labels name, in the order in which they first do."""
        return tuple(dict.fromkeys([*declared, *pc.unique(self.table["label"]).to_pylist()]))

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
