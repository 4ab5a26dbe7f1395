"""The TF-IDF proxy against fastText and scikit-learn's own pipeline: accuracy, seconds to fit, texts scored per second.

    .venv/bin/python benchmarks/tfidf.py [DATASET]

DATASET is a folder with data/train-*.parquet and data/test-*.parquet (columns text, label); without it
../shared/data/ag_news where that exists, else the built-in docstrings. One thread. scikit-learn's pipeline is
TfidfVectorizer(ngram_range=(1, 2)) with its own tokens. Goal: at least 5 times its texts per CPU second.

The second table asks what probabilities tell about doubt: how many of the half that a model is surest of are right, and
how many of the tenth that it doubts most logistic regression doubts as well. The third asks what that is worth for
choosing: rounds that double the labels by margin, and the error of three models on what was chosen.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["SVP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
from fasttext_engine import SHARED, read, seconds
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import make_pipeline
from synthetic import machine

from svp_nlp.models import make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.strategies import get_strategy

SIZES, SEEDS, SCORE_ROUNDS = (1200, 6000, 10_000), (0, 1, 2), 5
LABELED = (600, 1200, 2400, 4800)
Scorer = Callable[[], Any]


def draw(train: pa.Table, size: int, seed: int) -> Labeled:
    return take(train, np.random.default_rng(seed).permutation(train.num_rows)[:size])


def take(train: pa.Table, positions: np.ndarray) -> Labeled:
    positions = np.sort(positions)
    labels = np.asarray(train["label"].to_numpy()[positions], dtype=np.int64)
    names = tuple(str(c) for c in range(int(train["label"].to_numpy().max()) + 1))
    return Labeled(pa.table({"text": train["text"].take(pa.array(positions))}), labels, positions, names)


def ours(kind: str, **options: Any) -> Callable[[Labeled, int, pa.Table], tuple[float, Scorer]]:
    """Fit a learner; CPU seconds, and what scores the test texts."""

    def fit(train: Labeled, seed: int, test: pa.Table) -> tuple[float, Scorer]:
        learner = make_learner(kind, **options)
        cpu, _, predictor = seconds(lambda: learner.fit(train, dev=None, seed=seed, context=FitContext()))
        return cpu, lambda: predictor.predict(test).probs_BC

    make_learner(kind, **options).warm_up()  # type: ignore[attr-defined]
    return fit


def theirs(classifier: Any) -> Callable[[Labeled, int, pa.Table], tuple[float, Scorer]]:
    def fit(train: Labeled, seed: int, test: pa.Table) -> tuple[float, Scorer]:
        pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), classifier)
        texts, rows = train.rows["text"].to_pylist(), test["text"].to_pylist()
        cpu, _, _ = seconds(lambda: pipeline.fit(texts, train.labels_L))
        return cpu, lambda: pipeline.predict_proba(rows)

    return fit


def compare(train: pa.Table, test: pa.Table, console: Console) -> None:
    models = {
        "fastText": ours("fasttext"),
        "tfidf logistic_regression": ours("tfidf"),
        "tfidf complement_nb": ours("tfidf", classifier="complement_nb"),
        "scikit-learn ComplementNB": theirs(ComplementNB()),
        "scikit-learn LogisticRegression": theirs(LogisticRegression(C=10, max_iter=500)),
    }
    truth = test["label"].to_numpy()
    table = Table("labels", "model", "accuracy (seeds)", "fit, CPU s", "score, texts per CPU s")
    for size in (s for s in SIZES if s < train.num_rows):
        for name, fit in models.items():
            accuracies, fits, rates = [], [], []
            for seed in SEEDS:
                cpu, scorer = fit(draw(train, size, seed), seed, test)
                fits.append(cpu)
                runs = [seconds(scorer) for _ in range(SCORE_ROUNDS if "scikit" not in name else 1)]
                rates.append(test.num_rows / min(run[0] for run in runs))
                accuracies.append(100 * float((runs[0][2].argmax(axis=1) == truth).mean()))
            each = ", ".join(f"{value:.1f}" for value in accuracies)
            table.add_row(
                f"{size:,}",
                name,
                f"{statistics.mean(accuracies):.1f} ({each})",
                f"{statistics.median(fits):.2f}",
                f"{statistics.median(rates):,.0f}",
            )
        table.add_section()
    console.print(table)


def compare_doubt(train: pa.Table, test: pa.Table, console: Console) -> None:
    table = Table(
        "labels", "model", "log loss", "surest half right: margin", "entropy", "doubt as LR: margin", "entropy"
    )
    models = {
        "logistic_regression": {},
        "complement_nb, temperature 1": {"classifier": "complement_nb", "temperature": 1.0},
        "complement_nb, temperature auto": {"classifier": "complement_nb"},
    }
    truth = test["label"].to_numpy()
    tenth, half = test.num_rows // 10, test.num_rows // 2
    for size in (s for s in SIZES if s < train.num_rows):
        rows: dict[str, list[list[float]]] = {name: [] for name in models}
        for seed in SEEDS:
            reference: dict[str, set[int]] = {}
            for name, options in models.items():
                _, scorer = ours("tfidf", **options)(draw(train, size, seed), seed, test)
                probs = scorer()
                right = probs.argmax(axis=1) == truth
                found = [-float(np.log(np.maximum(probs[np.arange(len(truth)), truth], 1e-12)).mean())]
                overlaps = []
                for strategy in ("margin", "entropy"):
                    order = np.argsort(get_strategy(strategy).scores({"probs": probs}, seed=0), kind="stable")
                    found.append(100 * float(right[order[:half]].mean()))
                    doubted = set(order[-tenth:].tolist())
                    overlaps.append(100 * len(doubted & reference.setdefault(strategy, doubted)) / tenth)
                rows[name].append(found + overlaps)
        for name, values in rows.items():
            loss, *shares = np.mean(values, axis=0)
            table.add_row(f"{size:,}", name, f"{loss:.3f}", *(f"{share:.1f}" for share in shares))
        table.add_section()
    console.print(table)


def compare_choosing(train: pa.Table, test: pa.Table, console: Console) -> None:
    makers = {
        "fastText": ours("fasttext"),
        "logistic_regression": ours("tfidf"),
        "complement_nb": ours("tfidf", classifier="complement_nb"),
        "complement_nb, alpha 0.1": ours("tfidf", classifier="complement_nb", alpha=0.1),
    }
    truth, size = test["label"].to_numpy(), train.num_rows
    targets = [name for name in makers if name != "complement_nb, alpha 0.1"]
    errors: dict[tuple[int, str], list[list[float]]] = {}
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(size)
        for chooser in ("random", *makers):
            chosen = order[: LABELED[0]]
            for labeled_size in LABELED[1:]:
                scores = -np.argsort(order).astype(np.float64)  # random: the order goes on
                if chooser != "random":
                    probs = makers[chooser](take(train, chosen), seed, train)[1]()
                    scores = get_strategy("margin").scores({"probs": probs}, seed=0).astype(np.float64)
                scores[chosen] = -np.inf
                new = np.argsort(-scores, kind="stable")[: labeled_size - len(chosen)]
                chosen = np.concatenate([chosen, new])
                fitted = [makers[target](take(train, chosen), seed, test)[1]() for target in targets]
                wrong = [100 * float((probs.argmax(axis=1) != truth).mean()) for probs in fitted]
                errors.setdefault((labeled_size, chooser), []).append(wrong)
    table = Table("labels", "chosen by", *(f"error of {target}" for target in targets))
    for (labeled_size, chooser), values in sorted(errors.items(), key=lambda item: item[0][0]):
        cells = zip(np.mean(values, axis=0), np.std(values, axis=0), strict=True)
        table.add_row(f"{labeled_size:,}", chooser, *(f"{mean:.1f} ± {std:.1f}" for mean, std in cells))
        if chooser == list(makers)[-1]:
            table.add_section()
    console.print(table)


def main() -> None:
    console = Console(width=140)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED if SHARED.exists() else None
    train, test, name = read(folder)
    console.print(f"{name}: {train.num_rows:,} rows, {test.num_rows:,} for testing; {machine()}")
    compare(train, test, console)
    compare_doubt(train, test, console)
    compare_choosing(train, test, console)


if __name__ == "__main__":
    main()
