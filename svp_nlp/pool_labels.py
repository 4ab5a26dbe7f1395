"""What is asked of a pool beside its rows: their labels, duplicates that disagree, rows that a test set shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svp_nlp.columns import LabelColumn, label_column
from svp_nlp.content import find_duplicates, keys_of
from svp_nlp.pool import Pool

_SHOWN = 5


@dataclass(frozen=True)
class Overlap:
    """Rows of a test set that are also in the pool."""

    count: int
    first: tuple[tuple[int, int], ...]  # (position in the pool, position in the test set)


def read_labels(pool: Pool, column: str, *, class_names: tuple[str, ...] | None = None) -> LabelColumn:
    """Labels of all rows of a pool or test set.

    Args:
        pool: where the column is.
        column: ClassLabel, strings, integers or booleans; null, "" and -1 in a ClassLabel mean "no label".
        class_names: the pool's names when this is a test set: labels are aligned by name, never by index.
    Raises:
        LabelError: a label of a wrong type, out of range, or not among `class_names`; lists the distinct offenders.
        PoolError: no such column.
    """
    values = pool.column(column)
    declared = getattr(pool.features[column], "names", None)
    where = f"{pool.ref.path} [{pool.ref.split}], column {column!r}"
    return label_column(values, declared, where=where, class_names=class_names)


def conflicting_labels(pool: Pool, labels: LabelColumn) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Duplicates whose label differs from that of the first row with the same content.

    Returns:
        How many, and the first of them as (position, position of the first row with this content).
    """
    rows, firsts = pool.duplicates_D2[:, 0], pool.duplicates_D2[:, 1]
    a, b = labels.labels_N[rows], labels.labels_N[firsts]
    pairs = pool.duplicates_D2[(a != b) & (a >= 0) & (b >= 0)]
    return len(pairs), tuple((row, first) for row, first in pairs[:_SHOWN].tolist())


def overlap(pool: Pool, test: Pool) -> Overlap:
    """Rows of `test` whose content is in `pool`, exactly the same after normalisation. O((N + T) log T)."""
    test_rows = np.setdiff1d(np.arange(len(test)), test._blank)
    test_keys, pool_keys = keys_of(test._hashes_N)[test_rows], keys_of(pool._hashes_N)
    # Half of a hash tells who may be equal; only those few are compared in full.
    pool_rows = np.flatnonzero(np.isin(pool_keys, test_keys) & pool.usable_N)
    test_rows = test_rows[np.isin(test_keys, pool_keys[pool_rows])]
    both = np.concatenate([pool._hashes_N[pool_rows], test._hashes_N[test_rows]])
    pairs = find_duplicates(both, np.zeros(len(both), dtype=bool))
    pairs = pairs[(pairs[:, 0] >= len(pool_rows)) & (pairs[:, 1] < len(pool_rows))]
    first = pairs[:_SHOWN]
    shown = zip(pool_rows[first[:, 1]].tolist(), test_rows[first[:, 0] - len(pool_rows)].tolist(), strict=True)
    return Overlap(len(pairs), tuple(shown))
