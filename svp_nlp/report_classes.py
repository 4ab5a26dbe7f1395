"""Recall class by class: how many rows of each class the target finds, the rare classes and the worst ones first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svp_nlp.metrics import rarest
from svp_nlp.report_merge import Run, Series, number
from svp_nlp.report_statistics import Stat, Summary, stat

_LONGEST_NAME = 200


@dataclass(frozen=True)
class ClassLine:
    """A class, or the mean over several, with its recall for each series, over seeds."""

    name: str
    pool_rows: float | None
    recalls: tuple[Stat | None, ...]

    @property
    def mean(self) -> float:
        """Over all series; what has none comes last."""
        found = [recall.mean for recall in self.recalls if recall is not None]
        return float(np.mean(found)) if found else 2.0


@dataclass(frozen=True)
class ClassTable:
    """Recalls where the target had the most labels."""

    labeled_size: int
    series: tuple[Series, ...]
    means: tuple[ClassLine, ...]  # over all classes, and over the rare ones (metrics.rarest) where the pool tells them
    lines: tuple[ClassLine, ...]  # every class, as the pool names them

    @property
    def knows_pool(self) -> bool:
        """Whether the pool tells its classes."""
        return any(line.pool_rows is not None for line in self.lines)

    def rarest(self, count: int) -> tuple[ClassLine, ...]:
        """Those with the fewest rows in the pool, of equals the worst; none where the pool has no labels."""
        known = [line for line in self.lines if line.pool_rows is not None]
        return tuple(sorted(known, key=lambda line: (line.pool_rows, line.mean))[:count])

    def worst(self, count: int) -> tuple[ClassLine, ...]:
        """Those of which the fewest rows are found."""
        return tuple(sorted(self.lines, key=lambda line: line.mean)[:count])

    def shown(self, count: int) -> tuple[ClassLine, ...]:
        """All where they are few, else `count` of the rarest and as many of the worst."""
        if len(self.lines) <= 2 * count:
            return self.lines
        return tuple(dict.fromkeys([*self.rarest(count), *self.worst(count)]))


def class_table(runs: Sequence[Run], summary: Summary) -> ClassTable | None:
    """What the report shows of single classes; None where no target was tested."""
    rows = [row for row in summary.rows if row.get("recall_by_class")]
    if not rows:
        return None
    size = max(row["labeled_size"] for row in rows)
    rows = [row for row in rows if row["labeled_size"] == size]
    series = tuple(one for one in summary.series if any(row["series"] == one for row in rows))
    pool: Mapping[str, Any] = runs[0].get("pool") or {}
    counts: Mapping[str, int] = pool.get("class_counts") or {}
    tested = dict.fromkeys(name for row in rows for name in row["recall_by_class"])
    names = [name for name in dict.fromkeys([*(pool.get("class_names") or ()), *tested]) if name in tested]

    def line(title: str, pool_rows: float | None, over: Iterable[str]) -> ClassLine:
        members = set(over)
        recalls = []
        for one in series:
            found = [_mean(row["recall_by_class"], members) for row in rows if row["series"] == one]
            recalls.append(stat(found))
        return ClassLine(title[:_LONGEST_NAME], pool_rows, tuple(recalls))

    means = [line(f"mean of all {len(names)} classes", None, names)]
    is_rare = dict(zip(counts, rarest(np.array(list(counts.values()), dtype=np.int64)), strict=True))
    rare = [name for name in names if is_rare.get(name)]
    if rare and len(rare) < len(names):
        least, most = (fold(counts[name] for name in rare) for fold in (min, max))
        between = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        what = "1 rare class" if len(rare) == 1 else f"{len(rare)} rare classes"
        means.append(line(f"mean of {what}, {between} rows each", None, rare))
    lines = [line(str(name), counts.get(name), [name]) for name in names]
    return ClassTable(size, series, tuple(means), tuple(lines))


def _mean(recalls: Mapping[str, Any], members: set[str]) -> float | None:
    found = [value for name, value in recalls.items() if name in members and number(value) is not None]
    return float(np.mean(found)) if found else None
