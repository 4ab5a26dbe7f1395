"""Rare classes: who chooses labels for them, and what class weights add. Recall at equal numbers of labels.

    .venv/bin/python benchmarks/imbalance.py

Reads ../shared/data/clinc150_imbalanced (151 intents, 25 to 100 rows each in the pool, 30 each in the test set but for
1,000 of `oos`, which is out of scope) and ../shared/data/ag_news, of which one class keeps one row in a hundred. One
thread, 3 seeds, mean and spread. A strategy starts from random rows and picks round by round with a proxy that is also
the target. `rare`: mean recall of the rare classes (metrics.rarest: 30 intents with 25 rows, or the one topic).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

os.environ["SVP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
from fasttext_engine import read
from rich.console import Console
from rich.table import Table
from synthetic import machine
from tfidf import take

from svp_nlp.metrics import compute_metrics, rarest, recall_by_class
from svp_nlp.models import make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.strategies import select

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
SEEDS = (0, 1, 2)
STRATEGIES = ("random", "margin", "entropy", "class_balanced", "rare_classes")
RARE_TOPIC, ROWS_OF_TOPICS = 1, 12_000


@dataclass(frozen=True)
class Case:
    """A pool, its test set, and how labels grow."""

    name: str
    train: pa.Table
    test: pa.Table
    sizes: tuple[int, ...]  # the first at random
    shown: tuple[int, ...]
    watched: int | None  # a class whose recall is told as well

    @property
    def counts_C(self) -> np.ndarray:
        return np.bincount(self.train["label"].to_numpy())

    def measure(self, kind: str, rows: np.ndarray, *, seed: int, weights: str = "none") -> list[float]:
        """Recall of rare classes, of all, accuracy, recall of the watched class, in percent; labels of a rare class."""
        predicted = probs(kind, take(self.train, rows), self.test, seed=seed, weights=weights).argmax(axis=1)
        truth, classes = self.test["label"].to_numpy(), len(self.counts_C)
        names = ["rare_recall", "balanced_accuracy", "accuracy"]
        found = compute_metrics(names, predicted, references_N=truth, num_classes=classes, counts_C=self.counts_C)
        watched = np.nan if self.watched is None else recall_by_class(predicted, truth, classes)[self.watched]
        labels_C = np.bincount(self.train["label"].to_numpy()[rows], minlength=classes)
        shares = [100 * float(value) for value in (*(found[name] for name in names), watched)]
        return [*shares, float(labels_C[rarest(self.counts_C)].mean())]


def intents(step: int, last: int) -> Case:
    train, test, name = read(SHARED / "clinc150_imbalanced")
    out_of_scope = int(np.bincount(test["label"].to_numpy()).argmax())
    return Case(name, train, test, tuple(range(300, last + 1, step)), tuple(range(600, last + 1, 600)), out_of_scope)


def topics() -> Case:
    train, test, name = read(SHARED / "ag_news")
    labels = train["label"].to_numpy()
    rare = np.flatnonzero(labels == RARE_TOPIC)[: ROWS_OF_TOPICS // 100]
    others = np.flatnonzero(labels != RARE_TOPIC)[:ROWS_OF_TOPICS]
    train = train.take(pa.array(np.sort(np.concatenate([others, rare]))))
    return Case(f"{name}, one class in 100", train, test, (200, 300, 400, 500, 600, 800), (400, 800), None)


def probs(kind: str, train: Labeled, rows: pa.Table, *, seed: int, weights: str = "none") -> np.ndarray:
    learner = make_learner(kind, class_weights=weights)
    return learner.fit(train, dev=None, seed=seed, context=FitContext()).predict(rows).probs_BC


def grow(case: Case, kind: str, strategy: str, *, seed: int) -> dict[int, np.ndarray]:
    """The rows that are labelled at each shown size."""
    size = case.train.num_rows
    labeled = np.zeros(size, dtype=np.bool_)
    labeled[np.random.default_rng(seed).permutation(size)[: case.sizes[0]]] = True
    keys = np.random.default_rng(seed + 1_000).permutation(size).astype(np.uint64)
    found = {}
    for next_size in case.sizes[1:]:
        signals = {"unused": np.zeros(size)}
        if strategy != "random":
            signals = {"probs": probs(kind, take(case.train, np.flatnonzero(labeled)), case.train, seed=seed)}
        budget = next_size - int(labeled.sum())
        labeled[select(strategy, signals, budget=budget, seed=seed, labeled=labeled, keys=keys).positions_K] = True
        if next_size in case.shown:
            found[next_size] = np.flatnonzero(labeled)
    return found


def compare(case: Case, kind: str, console: Console) -> None:
    table = Table("labels", "chosen by", "weights", "rare", "all classes", "accuracy", "out of scope", "labels, rare")
    lines: dict[tuple[int, str, str], list[list[float]]] = {}
    for strategy in STRATEGIES:
        for seed in SEEDS:
            for size, rows in grow(case, kind, strategy, seed=seed).items():
                for weights in ("none", "balanced"):
                    values = case.measure(kind, rows, seed=seed, weights=weights)
                    lines.setdefault((size, strategy, weights), []).append(values)
    for (size, strategy, weights), found in sorted(lines.items(), key=lambda line: line[0][0]):
        pairs = zip(np.mean(found, axis=0), np.std(found, axis=0, ddof=1), strict=True)
        table.add_row(f"{size:,}", strategy, weights, *(f"{mean:.1f} ± {std:.1f}" for mean, std in pairs))
    console.print(f"{case.name}: {case.train.num_rows:,} rows; proxy and target {kind}", table)


def main() -> None:
    console = Console(width=120)
    console.print(machine())
    for case, kind in ((topics(), "tfidf"), (intents(150, 1_800), "fasttext"), (intents(300, 1_200), "tfidf")):
        make_learner(kind).warm_up()  # type: ignore[attr-defined]
        compare(case, kind, console)


if __name__ == "__main__":
    main()
