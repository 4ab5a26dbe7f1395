"""The native fastText against the official package: seconds to score and to train, and the accuracy of both.

    .venv/bin/python benchmarks/fasttext_engine.py [DATASET]

DATASET is a folder with data/train-*.parquet and data/test-*.parquet (columns text, label); without it
../shared/data/ag_news where that exists, else the built-in docstrings. Both engines get the same normalised texts, 10
dimensions, bigrams, ten million buckets, the same learning rate and epochs. Rounds alternate between the engines; the
best of each counts. Goals: scoring per CPU second >= 3x; on two threads >= 1.8x that of one (wall, on two idle cores);
training 10,000 texts >= 5x; accuracy within 0.5 points.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from synthetic import machine

from svp_nlp.models import fasttext_native as native
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.fasttext import FastTextLearner, FastTextPredictor, FastTextSpec
from svp_nlp.models.fasttext_bin import write_bin
from svp_nlp.models.normalize import normalize_texts

SHARED = Path(__file__).resolve().parents[1] / "../shared/data/ag_news"
SIZES, SEEDS, ROUNDS, TRAIN_ROUNDS = (1200, 6000, 10_000), (0, 1, 2), 15, 3
LEARNING_RATE, EPOCHS = 0.5, 25
POOL_ROWS = 60_000


def read(folder: Path | None) -> tuple[pa.Table, pa.Table, str]:
    if folder is not None:
        tables = [
            pa.concat_tables(map(pq.read_table, sorted(folder.glob(f"data/{s}-*.parquet")))) for s in ("train", "test")
        ]
        return tables[0], tables[1], str(folder.name)
    from svp_nlp.builtin import build_builtin

    files = build_builtin("builtin:docstrings")
    tables = []
    for split in ("train", "test"):
        with pa.memory_map(str(files[split])) as source:
            tables.append(pa.ipc.open_stream(source).read_all())
    return tables[0], tables[1], "builtin:docstrings"


def labeled(table: pa.Table, positions: np.ndarray) -> Labeled:
    labels = np.asarray(table["label"].to_numpy()[positions], dtype=np.int64)
    texts = normalize_texts(table["text"].take(pa.array(positions)))
    classes = int(table["label"].to_numpy().max()) + 1
    return Labeled(pa.table({"text": texts}), labels, positions, tuple(str(c) for c in range(classes)))


def seconds(function: Callable[[], Any]) -> tuple[float, float, Any]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = function()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def train_native(train: Labeled, seed: int) -> FastTextPredictor:
    spec = FastTextSpec(learning_rate=LEARNING_RATE, epochs=EPOCHS, normalize="none")
    predictor = FastTextLearner(spec).fit(train, dev=None, seed=seed, context=FitContext())
    assert isinstance(predictor, FastTextPredictor)
    return predictor


def train_package(train: Labeled, seed: int, threads: int) -> Any:
    """As its own manual says: a file of lines, `train_supervised`; writing the file is not counted."""
    import fasttext

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "train.txt"
        texts = train.rows["text"].to_pylist()
        lines = (f"__label__{y} {t}\n" for y, t in zip(train.labels_L.tolist(), texts, strict=True))
        path.write_text("".join(line.replace("\n", " ") + "\n" for line in lines), encoding="utf-8")
        options = {
            "dim": 10,
            "wordNgrams": 2,
            "minCount": 1,
            "bucket": 10_000_000,
            "lr": LEARNING_RATE,
            "epoch": EPOCHS,
        }
        return seconds(
            lambda: fasttext.train_supervised(input=str(path), **options, thread=threads, seed=seed, verbose=0)
        )


def accuracy_of_package(model: Any, test: Labeled) -> float:
    lines = [text.replace("\n", " ") for text in test.rows["text"].to_pylist()]
    return float(
        np.mean(
            [int(names[0][9:]) == y for names, y in zip(model.predict(lines)[0], test.labels_L.tolist(), strict=True)]
        )
    )


def compare_scoring(pool: Labeled, predictor: FastTextPredictor, table: Table) -> None:
    import fasttext

    fasttext.FastText.eprint = lambda *_: None
    with tempfile.TemporaryDirectory() as directory:
        write_bin(predictor, Path(directory) / "model.bin")
        model = fasttext.load_model(str(Path(directory) / "model.bin"))
    lines = [text.replace("\n", " ") for text in pool.rows["text"].to_pylist()]
    times: dict[str, list[tuple[float, float]]] = {
        "package": [],
        "native 1": [],
        "native 2": [],
        "native 1, normalising": [],
    }
    normalising = FastTextPredictor(
        predictor.spec.model_copy(update={"normalize": "svp"}),
        predictor.class_names,
        predictor.features,
        predictor.input_RD,
        predictor.output_CD,
    )
    for _ in range(ROUNDS):
        for name in times:
            os.environ["SVP_NUM_THREADS"] = "2" if "2" in name else "1"
            scorer = normalising if "normalising" in name else predictor
            run = (lambda: model.predict(lines, k=-1)) if name == "package" else (lambda s=scorer: s.predict(pool.rows))
            times[name].append(seconds(run)[:2])
    del os.environ["SVP_NUM_THREADS"]
    best = {name: (min(cpu for cpu, _ in values), min(wall for _, wall in values)) for name, values in times.items()}
    for name, (cpu, wall) in best.items():
        goal = {"native 1": ">= 3 per CPU second", "native 2": ">= 1.8 x native 1, wall"}.get(name, "")
        table.add_row(
            f"score {len(lines):,}: {name}",
            f"{len(lines) / cpu:,.0f}",
            f"{len(lines) / wall:,.0f}",
            f"{best['package'][0] / cpu:.2f} / {best['package'][1] / wall:.2f}",
            goal + (f" (here {best['native 1'][1] / wall:.2f})" if "2" in name else ""),
        )
    probs = predictor.predict(pool.rows).probs_BC
    labels, values = model.predict(lines, k=-1)
    worst = max(
        abs(float(probs[r, int(name[9:])]) + 1e-5 - float(value))
        for r in range(len(lines))
        for name, value in zip(labels[r], values[r], strict=True)
    )
    table.add_row("same .bin, largest difference of a probability", "", "", f"{worst:.1e}", "<= 1e-5")


def compare_training(train: Labeled, table: Table) -> None:
    # Without this the package trains from uninitialised memory on one thread: every block comes fresh from the kernel.
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).mallopt(-3, 65_536)
    times: dict[str, list[tuple[float, float]]] = {"package, 1 thread": [], "package, 20 threads": [], "native": []}
    for seed in range(TRAIN_ROUNDS):
        for name in times:
            if name == "native":
                times[name].append(seconds(lambda s=seed: train_native(train, s))[:2])
            else:
                times[name].append(train_package(train, seed, 20 if "20" in name else 1)[:2])
    best = {name: (min(cpu for cpu, _ in values), min(wall for _, wall in values)) for name, values in times.items()}
    reference = best["package, 1 thread"]
    for name, (cpu, wall) in best.items():
        table.add_row(
            f"train {len(train):,} x {EPOCHS} epochs: {name}",
            f"{cpu:.2f} s",
            f"{wall:.2f} s",
            f"{reference[0] / cpu:.2f} / {reference[1] / wall:.2f}",
            ">= 5" if name == "native" else "",
        )


def compare_accuracy(train: pa.Table, test: Labeled, table: Table) -> None:
    for size in (size for size in SIZES if size <= len(train)):
        found: dict[str, list[float]] = {"native": [], "package": []}
        for seed in SEEDS:
            part = labeled(train, np.random.default_rng(seed).permutation(len(train))[:size])
            probs = train_native(part, seed).predict(test.rows).probs_BC
            found["native"].append(float((probs.argmax(axis=1) == test.labels_L).mean()))
            found["package"].append(accuracy_of_package(train_package(part, seed, 20)[2], test))
        ours, theirs = (100 * np.mean(values) for values in found.values())
        spread = "  ".join(f"{name} {100 * np.std(values):.2f}" for name, values in found.items())
        table.add_row(
            f"accuracy at {size:,} labels: native, package",
            f"{ours:.2f} %",
            f"{theirs:.2f} %",
            f"{ours - theirs:+.2f} points",
            f"within 0.5 (spread over {len(SEEDS)} seeds: {spread})",
        )


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED if SHARED.exists() else None
    train, test_table, name = read(folder)
    test = labeled(test_table, np.arange(len(test_table)))
    rng = np.random.default_rng(0)
    part = labeled(train, rng.permutation(len(train))[:10_000])
    pool = labeled(train, rng.permutation(len(train))[:POOL_ROWS])
    columns = ("what", "per CPU second / CPU", "per second / wall", "ratio to package, CPU / wall", "goal")
    table = Table(*columns, title=f"fastText engines on {name}: {len(train):,} pool rows, {len(test):,} test rows")
    cold_cpu, cold_wall, predictor = seconds(lambda: train_native(part, 0))
    native.score(pool.rows["text"], predictor.features, predictor.input_RD, predictor.output_CD, "none")
    compare_scoring(pool, predictor, table)
    compare_training(part, table)
    compare_accuracy(train, test, table)
    console = Console(width=170)
    console.print(table)
    console.print(
        f"first fit of this process (compiling or loading machine code): {cold_cpu:.1f} s CPU, {cold_wall:.1f} s"
    )
    versions = ", ".join(f"{package} {version(package)}" for package in ("numba", "numpy", "pyarrow", "fasttext"))
    console.print(f"{machine()}; {versions}")


if __name__ == "__main__":
    main()
