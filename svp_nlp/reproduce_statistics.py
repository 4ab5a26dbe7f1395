"""What the runs of a table say, beside what the paper says: paired over seeds, and only as far as that goes.

A *cell* is a row of the table (a proxy) at one budget. Everything is computed from the raw rows of the results file.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from svp_nlp.errors import RunError
from svp_nlp.paper import PAPER, Published
from svp_nlp.report_merge import check_mergeable, number
from svp_nlp.report_statistics import Stat, stat

Verdict = Literal["no loss", "loss", "open", "at chance"]
MARGIN = 0.01  # one point of error: the most that the interval of a "no loss" may reach
FEWEST_SEEDS = 3
CHANCE = 0.9  # of the error of always naming the most frequent class: above it the target has learned next to nothing
_ALL_RESAMPLES = 50_000  # up to 6 seeds (6**6 = 46,656) every resample is taken
_DRAWN_RESAMPLES = 20_000
_COSTS = ("proxy_seconds", "scoring_seconds", "ranking_seconds")

RULE = (
    "no loss: at least 3 seeds, the mean of (error on what the proxy selected - error on what the target selected) is "
    "at most one standard deviation of the latter (the paper's own rule), and the interval ends at 1 point or below. "
    "loss: at least 3 seeds, and all of the interval is above 0. at chance: where the target selected for itself, its "
    "mean error is above 0.9 of that of always naming the most frequent class of the pool, so that it tells nothing "
    "about what was selected. open: none of these."
)
INTERVALS = (
    "Intervals are 95 % percentile intervals of the mean difference under resampling of the seeds: all n^n resamples "
    "for up to 6 seeds, else 20,000 drawn with seed 0. With 3 seeds they are the smallest and the largest difference, "
    "which miss the true median one time in four: read the differences of the seeds themselves."
)


@dataclass(frozen=True)
class Difference:
    """Errors of one selector minus those of another, paired by seed; 0.01 is one point."""

    by_seed: Mapping[int, float]
    mean: float
    std: float | None
    low: float
    high: float
    resamples: int


@dataclass(frozen=True)
class Cell:
    """A row of the table at one budget; errors are None where the target was not trained."""

    row: str
    labeled_size: int
    percent: float
    selection_seconds: Stat | None
    selection_speedup: Stat | None
    total_speedup: Stat | None
    proxy_error: Stat | None
    target_error: Stat | None
    random_error: Stat | None
    to_target: Difference | None
    to_random: Difference | None
    verdict: Verdict | None
    published: Published

    @property
    def budget(self) -> int | None:
        """The paper's budget that this is, in percent; None where it is none of a whole number."""
        nearest = round(self.percent)
        return nearest if abs(self.percent - nearest) < 0.5 and nearest > 0 else None


@dataclass(frozen=True)
class Table:
    """All that is shown of a results file."""

    results: Mapping[str, Any]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    everything_error: Stat | None  # of the target on all data, for a core-set
    everything_seconds: Stat | None
    warnings: tuple[str, ...]


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Differences over the seeds that both have, with a bootstrap interval of their mean; None without such a seed.

    Deterministic. O(n^n) for n <= 6 seeds, else 20,000 resamples.

    Args:
        ours, theirs: seed -> error.
    Source: Efron 1979, percentile interval; resampled are whole seeds, because both errors of a seed share its start
        set. Differs in taking all resamples where there are few.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences_S = np.array([ours[seed] - theirs[seed] for seed in seeds])
    count = len(seeds)
    if count**count <= _ALL_RESAMPLES:
        chosen_RS = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        chosen_RS = np.random.default_rng(0).integers(count, size=(_DRAWN_RESAMPLES, count))
    means_R = differences_S[chosen_RS].mean(axis=1)
    low, high = np.quantile(means_R, [0.025, 0.975], method="inverted_cdf")
    return Difference(
        by_seed={seed: float(value) for seed, value in zip(seeds, differences_S, strict=True)},
        mean=float(differences_S.mean()),
        std=float(differences_S.std(ddof=1)) if count > 1 else None,
        low=float(low),
        high=float(high),
        resamples=len(means_R),
    )


def judge(difference: Difference | None, baseline: Stat | None, *, chance_error: float) -> Verdict | None:
    """The verdict of `RULE`; None where one of the two was not measured.

    Args:
        difference: of the proxy to target-selects.
        baseline: error of target-selects.
        chance_error: of always naming the most frequent class.
    """
    if difference is None or baseline is None:
        return None
    if baseline.mean > CHANCE * chance_error:
        return "at chance"
    if len(difference.by_seed) < FEWEST_SEEDS or baseline.std is None:
        return "open"
    if difference.mean <= baseline.std and difference.high <= MARGIN:
        return "no loss"
    return "loss" if difference.low > 0 else "open"


@dataclass(frozen=True)
class _Arm:
    """One selector of one run, over its seeds."""

    machine: Any
    seconds: Mapping[int, Mapping[int, float]]  # labelled size -> seed -> seconds of selection up to there
    errors: Mapping[int, Mapping[int, float]]  # where the target was trained
    target_seconds: Mapping[int, Mapping[int, float]]

    def total_seconds(self, size: int) -> dict[int, float]:
        """Selection up to a size and the training of the target there, by seed."""
        spent = self.seconds.get(size, {})
        return {seed: s + spent[seed] for seed, s in self.target_seconds.get(size, {}).items() if seed in spent}


def build_table(results: Mapping[str, Any]) -> Table:
    """Everything that a table shows, from the raw rows of a results file.

    Raises:
        RunRefused: no rows, or rows on different data.
        RunError: seeds that did not start from the same rows.
    """
    runs = {entry["name"]: entry["run"] for entry in results["rows"]}
    check_mergeable(list(runs.values()))
    rows = {entry["name"]: entry["run"] for entry in results["rows"] if entry["role"] == "row"}
    _check_starts(rows)
    full = next((_arm(entry["run"], "random") for entry in results["rows"] if entry["role"] == "everything"), None)
    first = next(iter(rows.values()))
    cells: list[Cell] = []
    for name, run in rows.items():
        strategies = list(dict.fromkeys(e["strategy"] for e in run["rounds"] if e["selector"] == "proxy"))
        for strategy in strategies:
            label = name if len(strategies) == 1 else f"{name}, {strategy}"
            ours = _arm(run, "proxy", strategy)
            assert ours is not None
            theirs = _arm(run, "target_selects", strategy) or _arm(first, "target_selects", strategy)
            random = _arm(run, "random") or _arm(first, "random")
            cells += [_cell(label, name, size, run["pool"], ours, theirs, random, full) for size in ours.seconds]
    everything = max(full.errors) if full is not None and full.errors else 0
    return Table(
        results=results,
        cells=tuple(cells),
        seeds=tuple(sorted({row["seed"] for run in rows.values() for row in run["rounds"]})),
        everything_error=None if full is None else stat(full.errors.get(everything, {}).values()),
        everything_seconds=None if full is None else stat(full.target_seconds.get(everything, {}).values()),
        warnings=tuple(_warnings(runs)),
    )


def _warnings(runs: Mapping[str, Any]) -> list[str]:
    """What the runs warned of, each text once: several seeds say the same."""
    counts = Counter(f"{name}: {text}" for name, run in runs.items() for text in run.get("warnings") or ())
    return [text if times == 1 else f"{text} ({times} times)" for text, times in counts.items()]


def _check_starts(rows: Mapping[str, Any]) -> None:
    """Raises: RunError: the start set of a seed is not the same for all that selected."""
    starts: dict[int, tuple[str, str]] = {}
    for name, run in rows.items():
        for entry in run["rounds"]:
            if entry["round"] == 0:
                before, found = starts.setdefault(entry["seed"], (entry["fingerprint"], name))
                if before != entry["fingerprint"]:
                    raise RunError(
                        f"seed {entry['seed']} starts from other rows in {name} than in {found}: nothing can be "
                        "paired; run the table again in a new --run-dir"
                    )


def _arm(run: Mapping[str, Any], selector: str, strategy: str | None = None) -> _Arm | None:
    """A selector of a run with its strategy (None: whichever); None where the run has not got it."""

    def mine(entry: Mapping[str, Any]) -> bool:
        return entry["selector"] == selector and strategy in (None, entry["strategy"])

    seconds: dict[int, dict[int, float]] = {}
    spent: dict[int, float] = {}
    for entry in filter(mine, run["rounds"]):
        if entry["round"] == 0:
            continue
        seed, cost = entry["seed"], sum(entry[key] for key in _COSTS)
        # Each size of a core-set is picked anew from the same scores.
        spent[seed] = cost if run["mode"] == "core_set" else spent.get(seed, 0.0) + cost
        seconds.setdefault(entry["labeled_size"], {})[seed] = spent[seed]
    if not seconds:
        return None
    errors: dict[int, dict[int, float]] = {}
    target_seconds: dict[int, dict[int, float]] = {}
    for entry in filter(mine, run["rows"]):
        if (error := number(entry["error"])) is not None:
            errors.setdefault(entry["labeled_size"], {})[entry["seed"]] = error
            target_seconds.setdefault(entry["labeled_size"], {})[entry["seed"]] = entry["target_seconds"]
    return _Arm(run["machine"], seconds, errors, target_seconds)


def _cell(
    label: str,
    row: str,
    size: int,
    pool: Mapping[str, Any],
    ours: _Arm,
    theirs: _Arm | None,
    random: _Arm | None,
    full: _Arm | None,
) -> Cell:
    errors = [{} if arm is None else arm.errors.get(size, {}) for arm in (ours, theirs, random)]
    to_target, target_error = paired(errors[0], errors[1]), stat(errors[1].values())
    counts = pool["class_counts"].values()
    totals = ours.total_seconds(size)
    if full is not None:  # a core-set is for not training on everything
        total_speedup = _ratio(totals, full.target_seconds[max(full.target_seconds)], ours, full)
    else:
        total_speedup = None if theirs is None else _ratio(totals, theirs.total_seconds(size), ours, theirs)
    return Cell(
        row=label,
        labeled_size=size,
        percent=100 * size / pool["usable"],
        selection_seconds=stat(ours.seconds[size].values()),
        selection_speedup=None if theirs is None else _ratio(ours.seconds[size], theirs.seconds[size], ours, theirs),
        total_speedup=total_speedup,
        proxy_error=stat(errors[0].values()),
        target_error=target_error,
        random_error=stat(errors[2].values()),
        to_target=to_target,
        to_random=paired(errors[0], errors[2]),
        verdict=judge(to_target, target_error, chance_error=1 - max(counts) / sum(counts)),
        published=PAPER.get(row, Published()),
    )


def _ratio(ours: Mapping[int, float], theirs: Mapping[int, float], arm: _Arm, other: _Arm) -> Stat | None:
    """Their seconds over ours, seed by seed; None on different machines, whose seconds are not of one kind."""
    if arm.machine != other.machine:
        return None
    return stat(theirs[seed] / ours[seed] for seed in sorted(ours.keys() & theirs.keys()) if ours[seed] > 0)
