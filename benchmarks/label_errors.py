"""How many wrong labels of people are found, by which score of which models: `svp label review` on labels with truth.

    .venv/bin/python benchmarks/label_errors.py [FOLDER]

FOLDER holds ag_news_noisy (10,000 rows, the label that a person gave and the true one: 19.75 % differ), sst2, trec6 and
banking77; without it ../shared/data. One thread.

First the scores as `svp label review` has them. Then ideas that might find more: averaging two kinds of models, more
folds, a second pass without the likely errors of the first, probabilities divided by how frequent a class is. These
also on parts of the rows in which the true classes are not equally frequent, for labels in a pool are not, and on
4,000 rows of other data with planted errors: 8 % have the class that complement_nb finds likeliest of the others, 4 %
any class.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["SVP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from synthetic import machine

from svp_nlp.content import hash_texts, keys_of
from svp_nlp.models import make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.quality import find_label_errors
from svp_nlp.quality_folds import FEW_FOLDS as FOLDS
from svp_nlp.quality_folds import FOLDS as MORE_FOLDS
from svp_nlp.quality_folds import assign_folds, out_of_fold, rows_of

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
PROXIES = {
    "fasttext": ("fasttext", {}),
    "tfidf": ("tfidf", {}),
    "tfidf complement_nb": ("tfidf", {"classifier": "complement_nb"}),
}
SCORES = ("self_confidence", "normalized_margin")
SHOWN = (100, 500, 1000)
PLANTED = ("sst2", "trec6", "banking77")
PARTS = {
    "people's labels": (1, 1, 1, 1),
    "first class the most frequent": (1, 0.4, 0.2, 0.1),
    "first class the rarest": (0.1, 0.2, 0.4, 1),
}


@dataclass(frozen=True)
class Noisy:
    """Labels of people, the truth, and keys of the rows."""

    labeled: Labeled
    truth_L: np.ndarray
    keys_L: np.ndarray

    @property
    def wrong_L(self) -> np.ndarray:
        return self.labeled.labels_L != self.truth_L

    def part(self, rows: np.ndarray) -> Noisy:
        return Noisy(rows_of(self.labeled, rows), self.truth_L[rows], self.keys_L[rows])


def read(folder: Path) -> Noisy:
    table = pa.concat_tables(map(pq.read_table, sorted(folder.glob("data/train-*.parquet"))))
    texts = table["text"].cast(pa.large_string()).combine_chunks()
    labels, truth = (table[name].to_numpy().astype(np.int64) for name in ("label", "true_label"))
    names = tuple(str(c) for c in range(int(truth.max()) + 1))
    labeled = Labeled(pa.table({"text": texts}), labels, np.arange(len(labels)), names)
    return Noisy(labeled, truth, np.array(keys_of(hash_texts(texts)[0])))


def read_planted(folder: Path, *, rows: int = 4000) -> Noisy:
    rng = np.random.default_rng(0)
    table = pa.concat_tables(map(pq.read_table, sorted(folder.glob("data/train-*.parquet"))))
    table = table.take(pa.array(np.sort(rng.permutation(table.num_rows)[:rows])))
    texts, truth = table["text"].cast(pa.large_string()).combine_chunks(), table["label"].to_numpy().astype(np.int64)
    names = tuple(str(c) for c in range(int(truth.max()) + 1))
    labeled = Labeled(pa.table({"text": texts}), truth, np.arange(len(truth)), names)
    keys_L = np.array(keys_of(hash_texts(texts)[0]))
    learner = make_learner("tfidf", classifier="complement_nb")
    others = out_of_fold(learner, labeled, keys_L=keys_L, seed=7)
    others[np.arange(len(truth)), truth] = -1
    draw = rng.random(len(truth))
    any_class = rng.integers(len(names), size=len(truth))
    labels = np.where(draw < 0.08, others.argmax(axis=1), np.where(draw < 0.12, any_class, truth))
    return Noisy(replace(labeled, labels_L=labels), truth, keys_L)


def predict(data: Noisy, proxy: str, folds: int = FOLDS) -> np.ndarray:
    kind, options = PROXIES[proxy]
    return out_of_fold(make_learner(kind, **options), data.labeled, keys_L=data.keys_L, seed=0, folds=folds)


def second_pass(data: Noisy, proxy: str, probs_LC: np.ndarray) -> np.ndarray:
    """The same folds, with models that are not shown the likely errors of the first pass."""
    kind, options = PROXIES[proxy]
    learner, labels_L = make_learner(kind, **options), data.labeled.labels_L
    likely_L = find_label_errors(labels_L, probs_LC, keys_L=data.keys_L).likely
    folds_L, found = assign_folds(labels_L, data.keys_L, folds=FOLDS, seed=0), np.empty_like(probs_LC)
    for fold in range(FOLDS):
        held, kept = np.flatnonzero(folds_L == fold), np.flatnonzero((folds_L != fold) & ~likely_L)
        predictor = learner.fit(rows_of(data.labeled, kept), dev=None, seed=0, context=FitContext())
        found[held] = predictor.predict(rows_of(data.labeled, held).rows).probs_BC
    return found


def by_frequency(data: Noisy, probs_LC: np.ndarray) -> np.ndarray:
    rows_C = np.bincount(data.labeled.labels_L, minlength=probs_LC.shape[1])
    found = probs_LC / np.maximum(rows_C, 1)
    return (found / found.sum(axis=1, keepdims=True)).astype(np.float32)


def average_precision(wrong_L: np.ndarray, order: np.ndarray) -> float:
    hits = wrong_L[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def ranking(data: Noisy, probs_LC: np.ndarray, score: str) -> list[str]:
    found = find_label_errors(data.labeled.labels_L, probs_LC, keys_L=data.keys_L, score=score)  # type: ignore[arg-type]
    wrong_L = data.wrong_L
    at = [*SHOWN, int(wrong_L.sum())]
    return [
        f"{average_precision(wrong_L, found.order):.3f}",
        *(f"{100 * wrong_L[found.order[:k]].mean():.1f}" for k in at),
    ]


def joint(data: Noisy, probs_LC: np.ndarray) -> list[str]:
    found = find_label_errors(data.labeled.labels_L, probs_LC, keys_L=data.keys_L)
    hits = found.likely & data.wrong_L
    right = (found.suggested == data.truth_L)[hits].mean()
    return [
        f"{found.likely.sum():,}",
        f"{100 * hits.sum() / found.likely.sum():.1f}",
        f"{100 * hits.sum() / data.wrong_L.sum():.1f}",
        f"{100 * right:.1f}",
    ]


def compare_scores(data: Noisy, console: Console) -> None:
    wrong = int(data.wrong_L.sum())
    head = ["proxy, CPU s", "score", "average precision", *(f"wrong of the first {k:,}, %" for k in (*SHOWN, wrong))]
    ranked = Table(*head, title=f"{len(data.truth_L):,} labels, {wrong:,} of them wrong")
    likely = Table(
        "proxy", "likely errors", "precision, %", "recall, %", "right suggestions, %", title="confident joint"
    )
    for proxy in PROXIES:
        predict(data.part(np.arange(200)), proxy)  # compiles
        started = time.process_time()
        probs_LC = predict(data, proxy)
        cpu = time.process_time() - started
        for score in SCORES:
            ranked.add_row(f"{proxy}, {cpu:.1f}", score, *ranking(data, probs_LC, score))
        likely.add_row(proxy, *joint(data, probs_LC))
    console.print(ranked)
    console.print(likely)


def compare_ideas(parts: dict[str, Noisy], console: Console) -> None:
    head = ("average precision", "likely errors", "precision, %", "recall, %")
    table = Table("data", "rows, wrong", "models", "self_confidence: average precision", "normalized_margin", *head[1:])
    kinds = ("fasttext", "tfidf complement_nb")
    for name, part in parts.items():
        first = {kind: predict(part, kind) for kind in kinds}
        ideas = {}
        for kind in kinds:
            ideas |= {
                kind: first[kind],
                f"{kind}, divided by frequency": by_frequency(part, first[kind]),
                f"{kind}, second pass": second_pass(part, kind, first[kind]),
                f"{kind}, {MORE_FOLDS} folds": predict(part, kind, folds=MORE_FOLDS),
            }
        ideas["mean of both"] = (first[kinds[0]] + first[kinds[1]]) / 2
        for idea, probs_LC in ideas.items():
            size = f"{len(part.truth_L):,}, {100 * part.wrong_L.mean():.1f} %"
            scores = (ranking(part, probs_LC, score)[0] for score in SCORES)
            table.add_row(name, size, idea, *scores, *joint(part, probs_LC)[:3])
        table.add_section()
    console.print(table)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
    if not folder.exists():
        sys.exit(f"{folder} does not exist; name the folder that holds {', '.join(('ag_news_noisy', *PLANTED))}")
    console, data = Console(width=150), read(folder / "ag_news_noisy")
    console.print(machine())
    compare_scores(data, console)
    parts = {}
    for name, shares in PARTS.items():
        drawn = np.random.default_rng(0).random(len(data.truth_L)) < np.array(shares)[data.truth_L]
        parts[name] = data.part(np.flatnonzero(drawn))
    compare_ideas(parts | {name: read_planted(folder / name) for name in PLANTED}, console)


if __name__ == "__main__":
    main()
