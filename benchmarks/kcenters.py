"""Greedy k-centers of 100,000 rows: our two ways and the one that is chosen, numpy, scikit-activeml, small-text.

    .venv/bin/python benchmarks/kcenters.py [--quick] [--width D]... [--budget K]... [--rows N]

One thread, CPU seconds. Goal: at width 384 and 10,000 picks at least 8 times numpy, and half of the rate of matrix
products that is measured in the same run. `x`: extrapolated from 100 picks; the peers from fewer, in proportion to rows
and picks, in their favour. Widths 10 and 64: averages of 38 word vectors, some of which tell one of 4 classes; 384 and
768: 200 clusters with a decaying spectrum, of unit length. All are made up. --quick: 10,000 rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import machine

PEER_ROWS, PEER_PICKS = 10_000, 20  # what the peers finish; scaled by rows and picks, in their favour


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--budget", type=int, action="append")
    parser.add_argument("--rows", type=int)
    asked = parser.parse_args()
    rows = asked.rows or (10_000 if asked.quick else 100_000)
    budgets = asked.budget or ([100, 1000] if asked.quick else [1000, 10_000])
    peak = product_rate()
    table = Table(title=f"{rows:,} rows, CPU seconds on one thread; matrix products: {peak / 1e9:.0f} GFLOP/s")
    for name in ("width", "picks", "pruned", "blocks", "of peak", "chosen", "which", "numpy x", "numpy/chosen", *PEERS):
        table.add_column(name, justify="right")
    for width in asked.width or ([10, 64, 384] if asked.quick else [10, 64, 384, 768]):
        embeddings_ND = word_averages(rows, width) if width < 128 else clusters(rows, width)
        one_s, expected = numpy_greedy(embeddings_ND, 100)
        peers = {name: peer(embeddings_ND) for name, peer in PEERS.items()}
        for budget in budgets:
            table.add_row(*measure(embeddings_ND, budget, peak, one_s * budget, expected, peers))
    Console(width=140).print(table)
    for name, reason in REASONS.items():
        print(f"{name}: {reason}")
    print(machine())


def measure(
    embeddings_ND: np.ndarray, budget: int, peak: float, numpy_s: float, expected: list[int],
    peers: dict[str, Callable[[int], str]],
) -> list[str]:  # fmt: skip
    from svp_nlp.arrays import keyed_hash
    from svp_nlp.strategies.kcenters import VARIANTS, Problem, choose_variant
    from svp_nlp.strategies.kcenters_rows import largest_value

    rows, width = embeddings_ND.shape
    everywhere = np.arange(rows)
    problem = Problem(
        embeddings_ND, everywhere[1:], everywhere[:1], keyed_hash(everywhere[1:].astype(np.uint64), 0, "tie"),
        largest_value(embeddings_ND, everywhere),
    )  # fmt: skip
    for name in ("pruned", "blocks"):
        VARIANTS[name](problem, 20)  # compiled or read from the disk
    spent: dict[str, float] = {}
    picks: dict[str, np.ndarray] = {}
    for name in ("pruned", "blocks"):
        # Pruning that does not help takes as long as what it is compared with.
        cut = 100 if name == "pruned" and width > 128 else budget
        start = time.process_time()
        picks[name] = VARIANTS[name](problem, cut)
        spent[name] = (time.process_time() - start) * budget / cut
    start = time.process_time()
    largest_value(embeddings_ND, everywhere)
    chosen = choose_variant(problem, budget)
    chosen_s = time.process_time() - start + spent[chosen]
    assert picks["pruned"].tolist() == picks["blocks"][: len(picks["pruned"])].tolist()
    # numpy's rounding may order near ties otherwise from some pick on.
    assert picks["blocks"][:5].tolist() == expected[:5]
    share = 2.0 * rows * width * budget / spent["blocks"] / peak
    return [
        str(width), f"{budget:,}", f"{spent['pruned']:.2f}" + " x" * (width > 128),
        f"{spent['blocks']:.2f}", f"{share:.0%}", f"{chosen_s:.2f}", chosen,
        f"{numpy_s:.1f}", f"{numpy_s / chosen_s:.1f}", *(peer(budget) for peer in peers.values()),
    ]  # fmt: skip


def product_rate() -> float:
    """float32 operations per CPU second of numpy's matrix product; the best of five."""
    square = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
    best = 0.0
    for _ in range(5):
        start = time.process_time()
        square @ square
        best = max(best, 2.0 * 2048**3 / (time.process_time() - start))
    return best


def numpy_greedy(embeddings_ND: np.ndarray, picks: int) -> tuple[float, list[int]]:
    """CPU seconds per pick of what one would write: a matrix-vector product and a running minimum; and the picks."""
    start = time.process_time()
    squares_N = np.einsum("ij,ij->i", embeddings_ND, embeddings_ND)
    nearest_N = squares_N + squares_N[0] - 2 * (embeddings_ND @ embeddings_ND[0])
    picked: list[int] = []
    for _ in range(picks):
        row = int(nearest_N.argmax())
        picked.append(row)
        np.minimum(nearest_N, squares_N + squares_N[row] - 2 * (embeddings_ND @ embeddings_ND[row]), out=nearest_N)
    return (time.process_time() - start) / picks, picked


REASONS: dict[str, str] = {}


def peer_seconds(name: str, run: Callable[[np.ndarray], Any], rows_ND: np.ndarray) -> Callable[[int], str]:
    start = time.process_time()
    run(np.ascontiguousarray(rows_ND[:PEER_ROWS]))
    per_pick_s = (time.process_time() - start) / PEER_PICKS * len(rows_ND) / PEER_ROWS
    REASONS[name] = f"x from {PEER_PICKS} picks of {PEER_ROWS:,} rows, in proportion to rows and picks"
    return lambda budget: f"{per_pick_s * budget:.0f} x"


def small_text(embeddings_ND: np.ndarray) -> Callable[[int], str]:
    if importlib.util.find_spec("small_text") is None:
        REASONS["small-text"] = "is not installed"
        return lambda budget: "-"
    from small_text.query_strategies.coresets import greedy_coreset

    def run(rows_ND: np.ndarray) -> None:
        # Its unlabelled positions are used as rows (a defect): with the labelled row last they are.
        greedy_coreset(rows_ND, np.arange(len(rows_ND) - 1), np.array([len(rows_ND) - 1]), PEER_PICKS, "euclidean")

    return peer_seconds("small-text", run, embeddings_ND)


def scikit_activeml(embeddings_ND: np.ndarray) -> Callable[[int], str]:
    if importlib.util.find_spec("skactiveml") is None:
        REASONS["scikit-activeml"] = "is not installed"
        return lambda budget: "-"
    from skactiveml.pool import CoreSet

    def run(rows_ND: np.ndarray) -> None:
        labels_N = np.full(len(rows_ND), np.nan)
        labels_N[0] = 0
        CoreSet(random_state=0).query(rows_ND, labels_N, batch_size=PEER_PICKS)

    return peer_seconds("scikit-activeml", run, embeddings_ND)


PEERS: dict[str, Callable[[np.ndarray], Callable[[int], str]]] = {
    "scikit-activeml": scikit_activeml, "small-text": small_text,
}  # fmt: skip


def word_averages(rows: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    words = 20_000
    vectors_WD = (rng.random((words, width), dtype=np.float32) - 0.5) * np.float32(2 / width)
    telling_W = rng.random(words) < 0.3
    directions_CD = rng.standard_normal((4, width)).astype(np.float32) / np.float32(width**0.5)
    word_class_W = rng.integers(4, size=words)
    vectors_WD[telling_W] += directions_CD[word_class_W[telling_W]] * rng.random((telling_W.sum(), 1), dtype=np.float32)
    embeddings_ND = np.empty((rows, width), dtype=np.float32)
    for start in range(0, rows, 1000):
        size = min(1000, rows - start)
        drawn = rng.zipf(1.2, size=(size, 38)) % words
        # Half of the telling words are those of the row's class.
        label_B = rng.integers(4, size=(size, 1))
        moved = np.where((word_class_W[drawn] != label_B) & telling_W[drawn] & (rng.random(drawn.shape) < 0.7),
                         rng.integers(words, size=drawn.shape), drawn)  # fmt: skip
        embeddings_ND[start : start + size] = vectors_WD[moved].mean(axis=1)
    return embeddings_ND


def clusters(rows: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    spectrum_D = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    centres_CD = rng.standard_normal((200, width), dtype=np.float32) * spectrum_D
    rotation_DD = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    embeddings_ND = rng.standard_normal((rows, width), dtype=np.float32) * spectrum_D
    embeddings_ND += centres_CD[rng.integers(200, size=rows)]
    embeddings_ND = embeddings_ND @ rotation_DD
    return embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
