"""When would each rule have stopped, what did that save, and what did it cost?

    .venv/bin/python benchmarks/stopping.py [DATASET ...]

Simulated active learning by margin on the data sets of ../shared/data (folders with data/train-*.parquet and
data/test-*.parquet): 20 equal rounds from a random start, a model is trained from scratch in each and is proxy and
target at once. The rules see what a run sees: a stop set of 2,000 rows of the pool, and for `gain` 500 labelled rows
that were set aside. Saved: labels that were not asked for, of those of all 20 rounds. Lost: points of test error
against the last round (negative: it was better before). A rule that never holds saves and loses nothing.

The last table: how often the 80 % interval of the expected gain held what 500 more labels really brought. Traces are
kept in .cache/benchmarks (delete stopping-*.json there to train again); rules can be tried without training anything.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["SVP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
from fasttext_engine import read
from rich.console import Console
from rich.table import Table
from sklearn.isotonic import IsotonicRegression
from synthetic import CACHE, machine

from svp_nlp.models import make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.stop_spec import MORE, RULES, StopSpec
from svp_nlp.stopping import classification_change, kappa, overall_uncertainty, stop_set
from svp_nlp.stopping_curve import LEAST_POINTS, expected_gain
from svp_nlp.strategies import select

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
LABELS = {"ag_news": 6_000, "banking77": 6_000, "trec6": 3_000, "sst2": 6_000}  # after the last round
TESTED = {"ag_news": 3_000, "banking77": 3_000, "trec6": 500, "sst2": 872}
MODELS: dict[str, dict[str, Any]] = {"tfidf": {}, "fasttext": {"bucket": 200_000}}
POOL, DEV, TEST, ROUNDS, SEEDS = 12_000, 500, 3_000, 20, (0, 1)
OTHERS = (
    ("kappa", 0.99, 1), ("kappa", 0.98, 3), ("kappa", 0.97, 3), ("kappa", 0.95, 3), ("change", 0.02, 3),
    ("change", 0.03, 3), ("uncertainty", 0.1, 1), ("uncertainty", 0.2, 1), ("gain", 0.005, 2), ("gain", 0.01, 1),
    ("gain", 0.015, 2), ("gain", 0.02, 2),
)  # fmt: skip
Rows = list[dict[str, Any]]


def rows_of(table: pa.Table, positions: np.ndarray, classes: int) -> Labeled:
    labels = np.asarray(table["label"].to_numpy()[positions], dtype=np.int64)
    names = tuple(f"{c:03d}" for c in range(classes))
    return Labeled(pa.table({"text": table["text"].take(pa.array(positions))}), labels, positions, names)


def simulate(dataset: str, model: str, seed: int) -> Rows:
    """The signals of each round, and the test error of its model."""
    train, test, _ = read(SHARED / dataset)
    classes = int(train["label"].to_numpy().max()) + 1
    order = np.random.default_rng(seed).permutation(train.num_rows)
    dev = rows_of(train, np.sort(order[:DEV]), classes)
    pool = rows_of(train, np.sort(order[DEV : DEV + POOL]), classes)
    # Always the same ones: errors of seeds are compared.
    tested = rows_of(test, np.random.default_rng(9).permutation(test.num_rows)[:TEST], classes)
    keys = np.arange(len(pool), dtype=np.uint64)
    stop = stop_set(keys, np.ones(len(pool), dtype=np.bool_), seed=seed)
    learner = make_learner(model, **MODELS[model])
    step = LABELS[dataset] // ROUNDS
    labeled = np.zeros(len(pool), dtype=np.bool_)
    labeled[np.random.default_rng(seed).permutation(len(pool))[:step]] = True
    rows: Rows = []
    before = None
    for round in range(ROUNDS):
        at = np.flatnonzero(labeled)
        part = Labeled(pool.rows.take(pa.array(at)), pool.labels_L[at], at, pool.class_names)
        predictor = learner.fit(part, dev=None, seed=seed, context=FitContext())
        started = time.process_time()
        probs = predictor.predict(pool.rows.take(pa.array(stop))).probs_BC
        given = probs.argmax(axis=1)
        row = {
            "round": round,
            "labeled_size": len(at),
            "uncertainty": overall_uncertainty(probs),
            "classes_predicted": len(np.unique(given)),
            "kappa": None if before is None else kappa(before, given),
            "changed": None if before is None else classification_change(before, given),
            "error": float(np.mean(predictor.predict(dev.rows).probs_BC.argmax(axis=1) != dev.labels_L)),
        }
        row["seconds"] = time.process_time() - started
        row["test_error"] = float(np.mean(predictor.predict(tested.rows).probs_BC.argmax(axis=1) != tested.labels_L))
        rows.append(row)
        before = given
        scores = predictor.predict(pool.rows).probs_BC
        picks = select("margin", {"probs": scores, "keys": keys}, budget=step, seed=seed, labeled=labeled, keys=keys)
        labeled[picks.positions_K] = True
    return rows


def trace(dataset: str, model: str, seed: int) -> Rows:
    path = CACHE / f"stopping-{dataset}-{model}-{seed}-{LABELS[dataset]}-{ROUNDS}.json"
    if not path.exists():
        rows = simulate(dataset, model, seed)
        CACHE.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads(path.read_text(encoding="utf-8"))
    for number, row in enumerate(rows, start=1):
        row["gain"] = row["gain_high"] = None
        if number >= LEAST_POINTS:
            sizes, errors = ([r[key] for r in rows[:number]] for key in ("labeled_size", "error"))
            found = expected_gain(sizes, errors, more=MORE, tested_P=DEV)
            row |= {"gain": found.gain, "gain_high": found.high}
    return rows


def stopped_at(spec: StopSpec, rows: Rows) -> dict[str, Any] | None:
    return next((rows[k - 1] for k in range(1, len(rows)) if spec.holds(rows[:k])), None)


@dataclass(frozen=True)
class Outcome:
    """What a rule came to, means over seeds; a run that it never stopped counts with its last round."""

    labels: float
    error: float
    last_error: float
    saved: float  # share of all labels
    never: int

    @property
    def lost(self) -> float:
        return self.error - self.last_error


def outcome(spec: StopSpec, traces: Sequence[Rows]) -> Outcome:
    ends = [stopped_at(spec, rows) for rows in traces]
    counted = [end or rows[-1] for end, rows in zip(ends, traces, strict=True)]
    labels, error = (float(np.mean([row[key] for row in counted])) for key in ("labeled_size", "test_error"))
    last = float(np.mean([rows[-1]["test_error"] for rows in traces]))
    return Outcome(labels, error, last, 1 - labels / traces[0][-1]["labeled_size"], ends.count(None))


def rules_table(
    title: str, specs: Sequence[StopSpec], traces: Mapping[tuple[str, str], list[Rows]], each: bool
) -> Table:
    table = Table(title=f"{title}; means of {len(SEEDS)} seeds")
    for column in ("rule", "data, model", "stops at", "never", "error, %", "at the end, %", "saved, %", "lost, points"):
        table.add_column(column, justify="left" if column in ("rule", "data, model") else "right")
    for spec in specs:
        name = f"{spec.rule} {spec.threshold:g} x{spec.patience}"
        found = {key: outcome(spec, parts) for key, parts in traces.items()}
        for (dataset, model), one in found.items() if each else ():
            table.add_row(
                name, f"{dataset}, {model}", f"{one.labels:,.0f}", f"{one.never} of {len(SEEDS)}",
                f"{100 * one.error:.1f}", f"{100 * one.last_error:.1f}", f"{100 * one.saved:.0f}",
                f"{100 * one.lost:+.1f}",
            )  # fmt: skip
        saved, lost = np.mean([one.saved for one in found.values()]), np.mean([one.lost for one in found.values()])
        table.add_row(
            name, "all", "", f"{sum(one.never for one in found.values())} of {len(found) * len(SEEDS)}", "", "",
            f"{100 * saved:.0f}", f"{100 * lost:+.1f} (worst {100 * max(one.lost for one in found.values()):+.1f})",
            end_section=each,
        )  # fmt: skip
    return table


def coverage(parts: Sequence[Rows], dataset: str, number: int) -> list[tuple[float, float, bool, bool]]:
    """For each seed: the gain that was told on dev rows, the real one on test rows, and whether the interval held it.

    First as it is, then with what measuring the real one can tell: 80 % of its own scatter on so many test rows.
    """
    found = []
    for rows in parts:
        sizes = np.array([row["labeled_size"] for row in rows], dtype=float)
        # Measured differences scatter: a curve that only falls is taken for the truth.
        test = IsotonicRegression(increasing=False).fit_transform(sizes, [row["test_error"] for row in rows])
        told = expected_gain(sizes[:number], [r["error"] for r in rows[:number]], more=MORE, tested_P=DEV)
        real = test[number - 1] - float(np.interp(sizes[number - 1] + MORE, sizes, test))
        scatter = 1.28 * (rows[number]["changed"] / TESTED[dataset]) ** 0.5
        found.append(
            (told.gain, real, told.low <= real <= told.high, told.low - scatter <= real <= told.high + scatter)
        )
    return found


def gains_table(traces: Mapping[tuple[str, str], list[Rows]]) -> Table:
    table = Table(
        title=f"Points that {MORE} more labels bring: told / real (interval held; with the scatter of measuring)"
    )
    numbers = (4, 8, 14)
    for column in ("data, model", *(f"after {number} rounds" for number in numbers)):
        table.add_column(column, justify="left" if column == "data, model" else "right")
    every: dict[int, list[tuple[float, float, bool, bool]]] = {number: [] for number in numbers}
    for (dataset, model), parts in traces.items():
        cells = []
        for number in numbers:
            every[number] += (found := coverage(parts, dataset, number))
            cells.append(_gains(found))
        table.add_row(f"{dataset}, {model}", *cells)
    table.add_section()
    table.add_row("all", *map(_gains, every.values()))
    return table


def _gains(found: Sequence[tuple[float, float, bool, bool]]) -> str:
    told, real, held, near = (np.array(part) for part in zip(*found, strict=True))
    return f"{100 * told.mean():.1f} / {100 * real.mean():.1f} ({held.sum()}; {near.sum()} of {len(found)})"


def main() -> None:
    wanted = sys.argv[1:] or list(LABELS)
    console = Console(width=130)
    traces = {
        (dataset, model): [trace(dataset, model, seed) for seed in SEEDS] for dataset in wanted for model in MODELS
    }
    defaults = [StopSpec(rule=name) for name in RULES]
    others = [StopSpec(rule=name, threshold=threshold, patience=patience) for name, threshold, patience in OTHERS]
    console.print(rules_table("Each rule with its defaults", defaults, traces, each=True))
    console.print(rules_table("Other thresholds", others, traces, each=False))
    console.print(gains_table(traces))
    spent = [row["seconds"] for parts in traces.values() for rows in parts for row in rows]
    console.print(f"signals of a round: {np.median(spent):.2f} CPU seconds, at most {max(spent):.2f}")
    console.print(machine(), soft_wrap=True)


if __name__ == "__main__":
    main()
