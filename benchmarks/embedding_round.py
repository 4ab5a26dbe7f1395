"""One round of the embedding proxy on an encoded pool, against scoring the pool with the transformer again.

    .venv/bin/python benchmarks/embedding_round.py ENCODER [DATASET] [ROWS]

ENCODER is a folder with a model (or its name on the Hub), DATASET one with data/train-*.parquet and data/test-*.parquet
(columns text, label); without it ../shared/data/ag_news where that exists, else the built-in docstrings. ROWS training
rows (2,400) and 1,000 test rows are encoded. The head then scores as many rows as the whole pool has, the encoded ones
over and over, which costs the same; the seconds of the transformer for the whole pool are extrapolated from half of
ROWS, and its training is not counted. One thread. The second table is accuracy by labelled size, next to TF-IDF.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["SVP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
from fasttext_engine import SHARED, read, seconds
from rich.console import Console
from rich.table import Table
from synthetic import machine

from svp_nlp.models import load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.strategies import get_strategy

SIZES, SEEDS, TEST_ROWS, ROWS_PER_BATCH = (100, 300, 1200), (0, 1, 2), 1000, 32_768
HEADS: dict[str, dict[str, Any]] = {"linear": {}, "mlp": {"head": "mlp"}}


def labeled(table: pa.Table, rows_L: np.ndarray) -> Labeled:
    labels_L = np.asarray(table["label"].to_numpy()[rows_L], dtype=np.int64)
    names = tuple(str(c) for c in range(int(table["label"].to_numpy().max()) + 1))
    return Labeled(pa.table({"text": table["text"].take(pa.array(rows_L))}), labels_L, rows_L, names)


def encode(encoder: Any, rows: pa.Table) -> np.ndarray:
    parts = [
        encoder.predict(rows.slice(start, 512), embeddings=True).embeddings_BD for start in range(0, rows.num_rows, 512)
    ]
    return np.concatenate(parts)


def score(predictor: Any, features_ND: np.ndarray) -> np.ndarray:
    parts = [
        get_strategy("margin").scores(
            {"probs": predictor.predict_features(features_ND[start:][:ROWS_PER_BATCH]).probs_BC}, seed=0
        )
        for start in range(0, len(features_ND), ROWS_PER_BATCH)
    ]
    return np.concatenate(parts)


def time_rounds(
    model: str, train: Labeled, pool_rows: int, features_ND: np.ndarray, directory: Path, console: Console
) -> None:
    pool_ND = np.resize(features_ND, (pool_rows, features_ND.shape[1]))
    table = Table(title=f"seconds of one round at {max(SIZES):,} labels, pool of {pool_rows:,} rows")
    for column in ("proxy", "fit", "save and load", "score", "all"):
        table.add_column(column, justify="left" if column == "proxy" else "right")
    rows_L = np.arange(max(SIZES))
    few = labeled(pa.table({"text": train.rows["text"], "label": train.labels_L}), rows_L)
    totals = {}
    for name, options in HEADS.items():
        learner = make_learner("embedding", model_name_or_path=model, **options)
        context = FitContext(features_LD=features_ND[rows_L], encoder_dir=directory / "encoder")
        times = [time.perf_counter()]
        predictor = learner.fit(few, dev=None, seed=0, context=context)
        times.append(time.perf_counter())
        with tempfile.TemporaryDirectory(dir=directory) as saved:
            predictor.save(Path(saved))
            predictor = load_predictor(saved)
        times.append(time.perf_counter())
        score(predictor, pool_ND)
        spent = [*np.diff([*times, time.perf_counter()])]
        totals[name] = sum(spent)
        table.add_row(f"embedding, {name}", *(f"{each:.2f}" for each in (*spent, totals[name])))
    quick = {"num_train_epochs": 1, "global_batch_size": 8, "eval_batch_size": 32}
    transformer = make_learner("transformer", model_name_or_path=model, max_length=256, training=quick)
    fitted = transformer.fit(labeled(pa.table({"text": few.rows["text"], "label": few.labels_L}), np.arange(8)),
                             dev=None, seed=0, context=FitContext())  # fmt: skip
    half = train.rows.slice(0, len(train) // 2)
    _, wall, _ = seconds(lambda: [fitted.predict(half.slice(start, 512)) for start in range(0, half.num_rows, 512)])
    whole = wall * pool_rows / half.num_rows
    table.add_row("transformer (extrapolated)", "not counted", "", f"{whole:,.0f}", f"{whole:,.0f}")
    console.print(table)
    console.print(
        f"transformer: {half.num_rows / wall:.1f} texts/s; ratio "
        + ", ".join(f"{n} {whole / t:,.0f}x" for n, t in totals.items())
    )


def compare_accuracy(
    model: str,
    train: Labeled,
    test: Labeled,
    features: tuple[np.ndarray, np.ndarray],
    directory: Path,
    console: Console,
) -> None:
    table = Table(title=f"accuracy in points, mean and deviation of {len(SEEDS)} seeds, {len(test):,} test rows")
    for column in ("proxy", *(f"{size:,} labels" for size in SIZES)):
        table.add_column(column, justify="left" if column == "proxy" else "right")
    everything = pa.table({"text": train.rows["text"], "label": train.labels_L})
    for name in (*HEADS, "tfidf"):
        cells = []
        for size in SIZES:
            found = []
            for seed in SEEDS:
                rows_L = np.random.default_rng(seed).permutation(len(train))[:size]
                few = labeled(everything, rows_L)
                if name == "tfidf":
                    predictor: Any = make_learner("tfidf").fit(few, dev=None, seed=seed, context=FitContext())
                    probs_NC = predictor.predict(test.rows).probs_BC
                else:
                    learner = make_learner("embedding", model_name_or_path=model, **HEADS[name])
                    context = FitContext(features_LD=features[0][rows_L], encoder_dir=directory / "encoder")
                    predictor = learner.fit(few, dev=None, seed=seed, context=context)
                    probs_NC = predictor.predict_features(features[1]).probs_BC
                found.append(100 * float((probs_NC.argmax(1) == test.labels_L).mean()))
            cells.append(f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}")
        table.add_row(name if name == "tfidf" else f"embedding, {name}", *cells)
    console.print(table)


def main() -> None:
    console = Console(width=120)
    if len(sys.argv) < 2:
        sys.exit("which encoder? " + str(__doc__).splitlines()[2].strip())
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else SHARED if SHARED.exists() else None
    rows = int(sys.argv[3]) if len(sys.argv) > 3 else 2_400
    train_table, test_table, name = read(folder)
    rng = np.random.default_rng(0)
    train = labeled(train_table, rng.permutation(train_table.num_rows)[:rows])
    test = labeled(test_table, rng.permutation(test_table.num_rows)[:TEST_ROWS])
    console.print(f"{name}: {train_table.num_rows:,} rows; {machine()}")
    encoder: Any = make_learner("embedding", model_name_or_path=sys.argv[1]).encoder()  # type: ignore[attr-defined]
    cpu, wall, features_ND = seconds(lambda: encode(encoder, train.rows))
    console.print(
        f"encoding, once: {len(train) / cpu:.1f} texts per CPU second; "
        f"{wall * train_table.num_rows / len(train):,.0f} s for the whole pool (extrapolated)"
    )
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "encoder").mkdir()
        encoder.save(Path(directory) / "encoder")
        time_rounds(sys.argv[1], train, train_table.num_rows, features_ND, Path(directory), console)
        features = features_ND, encode(encoder, test.rows)
        compare_accuracy(sys.argv[1], train, test, features, Path(directory), console)


if __name__ == "__main__":
    main()
