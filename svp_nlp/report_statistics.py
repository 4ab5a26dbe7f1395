"""What the finished runs say: means over seeds, speed-ups, label savings, agreement. Pure functions of dicts.

Runs are merged in report_merge.py. A *point* is a series (one line in a chart) at one labelled size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from svp_nlp.report_merge import (
    Run,
    Series,
    SeriesOf,
    check_mergeable,
    merged_rows,
    number,
    series_names,
    unique_names,
)

STAGES = ("proxy_seconds", "scoring_seconds", "ranking_seconds", "target_seconds")
TIMES = (*STAGES, "selection_seconds", "total_seconds")
ONE_SIDED_5_PERCENT = 1.645  # the normal quantile behind "no better than chance"


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation over seeds; `std` is None for one seed."""

    mean: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class Savings:
    """Labels that random selection needs for the same error, by linear interpolation on its mean curve.

    `bound`: `exact`, or `more_than` / `at_most` where the error lies beyond the ends of random's curve.
    """

    random_labels: float
    bound: Literal["exact", "more_than", "at_most"]
    saved: float  # random_labels minus the labels used; negative: random needs fewer


@dataclass(frozen=True)
class Point:
    """A series at one labelled size, over its seeds."""

    series: Series
    labeled_size: int
    labeled_percent: float | None
    seeds: tuple[int, ...]
    error: Stat | None
    accuracy: Stat | None
    macro_f1: Stat | None
    metrics: Mapping[str, Stat]
    seconds: Mapping[str, Stat | None]  # keys: TIMES
    selection_speedup: Stat | None  # seconds of target_selects / our seconds, per seed
    total_speedup: Stat | None
    savings: Savings | None


@dataclass(frozen=True)
class Agreement:
    """How the proxy's ranking relates to the target's, over seeds. `z`: overlap against chance; None: cannot tell."""

    series: Series
    labeled_size: int
    spearman: Stat | None
    overlap: Stat | None
    chance: float | None
    z: float | None
    no_better_than_chance: bool


@dataclass(frozen=True)
class Summary:
    """All that the report shows in tables and charts."""

    names: tuple[str, ...]
    mode: str
    seeds: tuple[int, ...]
    series: tuple[Series, ...]
    sizes: tuple[int, ...]
    points: tuple[Point, ...]
    agreement: tuple[Agreement, ...]
    warnings: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]  # one per run, seed, selector, strategy and labelled size; `series` is added

    def at(self, series: Series, labeled_size: int) -> Point | None:
        """The point of a series at a labelled size, if the target was trained there."""
        return next((p for p in self.points if p.series == series and p.labeled_size == labeled_size), None)

    def line(self, series: Series) -> list[Point]:
        """All points of a series by labelled size."""
        return [point for point in self.points if point.series == series]


def summarize(runs: Sequence[Run]) -> Summary:
    """Merge runs and compute what the report shows.

    Raises:
        RunRefused: no run, a format of another version, or runs on different pools or test sets.
    """
    check_mergeable(runs)
    names = unique_names(runs)
    series_of = series_names(runs, names)
    rows, warnings = merged_rows(runs, names, series_of)
    found = _ordered({row["series"] for row in rows}, names)
    sizes = sorted({row["labeled_size"] for row in rows})
    points = [_point(rows, series, size) for series in found for size in sizes]
    present = _with_savings([point for point in points if point is not None], rows)
    agreement = _agreement(runs, series_of)
    told = [
        f"{name}: {text}" if len(runs) > 1 else str(text)
        for run, name in zip(runs, names, strict=True)
        for text in run.get("warnings") or ()
    ]
    modes = sorted({run["mode"] for run in runs})
    return Summary(
        names=tuple(names),
        mode=modes[0] if len(modes) == 1 else "mixed",
        seeds=tuple(
            sorted({row["seed"] for row in rows} | {p["seed"] for run in runs for p in run.get("rounds") or ()})
        ),
        series=tuple(found),
        sizes=tuple(sizes),
        points=tuple(present),
        agreement=agreement,
        warnings=tuple(dict.fromkeys([*_chance_warnings(agreement), *told, *warnings])),
        rows=tuple(rows),
    )


def stat(values: Iterable[Any]) -> Stat | None:
    """Mean and sample standard deviation of what is a number; None if nothing is."""
    found = [v for v in map(number, values) if v is not None]
    if not found:
        return None
    return Stat(float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else None, len(found))


def label_savings(error: float, labeled_size: int, random_curve: Sequence[tuple[float, float]]) -> Savings:
    """Labels that random needs to reach `error`, where its mean curve first comes down to it.

    Args:
        error: what was reached, as the curve.
        labeled_size: with how many labels.
        random_curve: (labelled size, mean error) of random, sizes increasing, at least one.
    """
    first_size, first_error = random_curve[0]
    if error >= first_error:
        # At the very start of the curve an equal error is an exact match, a larger one was reached even earlier.
        return Savings(first_size, "exact" if error == first_error else "at_most", first_size - labeled_size)
    for (low_size, low_error), (high_size, high_error) in itertools.pairwise(random_curve):
        if high_error <= error:
            part = (low_error - error) / (low_error - high_error)
            size = low_size + part * (high_size - low_size)
            return Savings(size, "exact", size - labeled_size)
    last_size = random_curve[-1][0]
    return Savings(last_size, "more_than", last_size - labeled_size)


def overlap_z(overlap: float, budget: int, candidates: int) -> float | None:
    """How many standard deviations the overlap of two sets of `budget` rows lies above that of random sets.

    Two random sets of K out of N rows share a hypergeometric number of rows: mean K²/N, variance
    K²/N (1 - K/N) (N - K) / (N - 1). None if all rows are picked or none.
    """
    if not 0 < budget < candidates:
        return None
    chance = budget / candidates
    variance = budget * chance * (1 - chance) * (candidates - budget) / (candidates - 1)
    return (overlap * budget - budget * chance) / math.sqrt(variance)


def clear_difference(a: Stat, b: Stat) -> bool | None:
    """Whether two means differ by more than two standard errors (Welch); None if a side has one seed only."""
    if a.std is None or b.std is None:
        return None
    return abs(a.mean - b.mean) > 2 * math.sqrt(a.std**2 / a.seeds + b.std**2 / b.seeds)


def _ordered(series: set[Series], names: Sequence[str]) -> list[Series]:
    """Proxies first: they are what the report is about; then random, then the target; runs as they were given."""
    rank = {"proxy": 0, "random": 1, "target_selects": 2}
    order = {name: i for i, name in enumerate(names)}
    return sorted(series, key=lambda s: (rank.get(s.selector, 3), s.strategy or "", order.get(s.variant, -1)))


def _point(rows: Sequence[Mapping[str, Any]], series: Series, labeled_size: int) -> Point | None:
    here = [row for row in rows if row["series"] == series and row["labeled_size"] == labeled_size]
    if not here:
        return None
    names = dict.fromkeys(key for row in here for key in row.get("metrics") or {})
    metrics = {key: stat((row.get("metrics") or {}).get(key) for row in here) for key in names}
    return Point(
        series=series,
        labeled_size=labeled_size,
        labeled_percent=number(here[0].get("labeled_percent")),
        seeds=tuple(sorted(row["seed"] for row in here)),
        error=stat(row.get("error") for row in here),
        accuracy=stat(row.get("accuracy") for row in here),
        macro_f1=stat(row.get("macro_f1") for row in here),
        metrics={key: value for key, value in metrics.items() if value is not None},
        seconds={key: stat(row.get(key) for row in here) for key in TIMES},
        selection_speedup=_speedup(rows, here, "selection_seconds"),
        total_speedup=_speedup(rows, here, "total_seconds"),
        savings=None,
    )


def _speedup(rows: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]], key: str) -> Stat | None:
    """Seconds of target_selects over ours, per seed; from the same run, or else the same machine and target."""
    if here[0]["selector"] != "proxy":
        return None
    ratios = []
    for row in here:
        same = [
            other
            for other in rows
            if other["selector"] == "target_selects"
            and all(other.get(k) == row.get(k) for k in ("strategy", "labeled_size", "seed", "machine", "target"))
        ]
        same.sort(key=lambda other: other["run"] != row["run"])
        ours, theirs = number(row.get(key)), number(same[0].get(key)) if same else None
        # At the start set nothing has been selected: both are 0 and there is no ratio, in total time as well.
        if ours and theirs and number(row.get("selection_seconds")):
            ratios.append(theirs / ours)
    return stat(ratios)


def _with_savings(points: Sequence[Point], rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    curves: dict[Series, list[tuple[float, float]]] = {}
    targets: dict[Series, set[str]] = {}
    for point in points:
        if point.series.selector == "random" and point.error is not None:
            curves.setdefault(point.series, []).append((point.labeled_size, point.error.mean))
    for row in rows:
        targets.setdefault(row["series"], set()).add(row["target"])
    result = []
    for point in points:
        fitting = [series for series in curves if targets[series] & targets[point.series]]
        spent = point.seconds["selection_seconds"]
        chose = point.series.selector != "random" and (spent is None or spent.mean > 0)  # else it is the start set
        if chose and point.error is not None and len(fitting) == 1:
            savings = label_savings(point.error.mean, point.labeled_size, curves[fitting[0]])
            point = replace(point, savings=savings)
        result.append(point)
    return result


def _agreement(runs: Sequence[Run], series_of: SeriesOf) -> tuple[Agreement, ...]:
    groups: dict[tuple[Series, int], list[tuple[Mapping[str, Any], int, int]]] = {}
    for position, run in enumerate(runs):
        for entry in run.get("agreement") or ():
            # What was not labelled yet was a candidate; a collector that knows better says so.
            usable = (run.get("pool") or {}).get("usable") or 0
            candidates = int(entry.get("candidates") or max(usable - entry["labeled_size"], 0))
            budget = int(entry.get("budget") or round(candidates * (number(entry.get("chance")) or 0)))
            series = series_of[position, "proxy", entry.get("strategy")]
            groups.setdefault((series, entry["labeled_size"]), []).append((entry, budget, candidates))
    return tuple(_agree(*key, groups[key]) for key in sorted(groups, key=lambda k: (k[0].label, k[1])))


def _agree(series: Series, labeled_size: int, entries: Sequence[tuple[Mapping[str, Any], int, int]]) -> Agreement:
    overlaps = [(number(entry.get("overlap")), budget, candidates) for entry, budget, candidates in entries]
    scores = [overlap_z(overlap, b, c) for overlap, b, c in overlaps if overlap is not None]
    known = [z for z in scores if z is not None]
    z = sum(known) / math.sqrt(len(known)) if known else None  # Stouffer: the seeds are independent
    spearman = stat(entry.get("spearman") for entry, _, _ in entries)
    chance = stat(entry.get("chance") for entry, _, _ in entries)
    return Agreement(
        series=series,
        labeled_size=labeled_size,
        spearman=spearman,
        overlap=stat(entry.get("overlap") for entry, _, _ in entries),
        chance=None if chance is None else chance.mean,
        z=z,
        no_better_than_chance=(z is not None and z < ONE_SIDED_5_PERCENT)
        or (spearman is not None and spearman.mean <= 0),
    )


def _chance_warnings(agreement: Sequence[Agreement]) -> list[str]:
    by_series: dict[Series, list[Agreement]] = {}
    for entry in agreement:
        if entry.no_better_than_chance:
            by_series.setdefault(entry.series, []).append(entry)
    return [
        f"{series.label} agrees with the target no better than chance at "
        + ", ".join(f"{entry.labeled_size:,}" for entry in entries)
        + " labels: what the proxy picks there is not what the target would pick; compare with random"
        for series, entries in by_series.items()
    ]
