"""Ten million rows: scored and the exact top 100,000 picked, in how much time and memory; then killed and resumed.

    .venv/bin/python benchmarks/pool_scale.py [ROWS]

The pool is made up (12 words a text, 2 classes, 0.9 GB of Parquet), a bigram fastText is fitted on 10,000 of its rows.
A child process is killed with SIGKILL when a third of the shards is stored; a second run must score only the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import CACHE, PeakMemory, machine, synthetic_pool

BUDGET = 100_000
LABELS = 10_000


def main() -> None:
    os.environ.setdefault("SVP_CACHE", str(CACHE / "svp_nlp"))
    os.environ.setdefault("HF_HOME", str(CACHE / "huggingface"))
    if len(sys.argv) > 2 and sys.argv[1] == "--score":
        score(Path(sys.argv[2]), int(sys.argv[3]))
        return
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    from svp_nlp.models import make_learner
    from svp_nlp.models.base import FitContext, Labeled
    from svp_nlp.pool import PoolRef
    from svp_nlp.pool_labels import read_labels
    from svp_nlp.scoring import score_shards
    from svp_nlp.strategies import top_k

    table = Table(title=f"{rows:,} rows, 12 words each, 2 classes")
    for name in ("stage", "seconds", "s per million rows", "peak anonymous MB"):
        table.add_column(name, justify="left" if name == "stage" else "right")

    def add(stage: str, seconds: float, peak_mb: float) -> None:
        table.add_row(stage, f"{seconds:.1f}", f"{seconds / rows * 1e6:.2f}", f"{peak_mb:,.0f}")

    path = synthetic_pool(rows)
    started = time.perf_counter()
    with PeakMemory() as memory:
        pool = PoolRef(str(path)).open()
    add("open the pool (the first time: to Arrow, and hash each row)", time.perf_counter() - started, memory.peak_mb)
    started = time.perf_counter()
    with PeakMemory() as memory:
        pool = PoolRef(str(path)).open()
    add("open the pool again", time.perf_counter() - started, memory.peak_mb)
    positions = np.random.default_rng(0).choice(rows, LABELS, replace=False)
    labels = read_labels(pool, "label")
    train = Labeled(pool.take(positions), labels.labels_N[positions].astype(np.int64), positions, labels.class_names)
    started = time.perf_counter()
    with PeakMemory() as memory:
        predictor = make_learner("fasttext").fit(train, dev=None, seed=0, context=FitContext())
    add(f"fit fastText on {LABELS:,} rows, bucket 10M", time.perf_counter() - started, memory.peak_mb)
    del labels
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        model = Path(tmp) / "model"
        model.mkdir()
        predictor.save(model)
        task = task_of(pool, Path(tmp))
        shards = task.shards()
        started = time.perf_counter()
        with PeakMemory() as memory:
            score_shards(task, shards)
            task.store().seal(shards)
        add(f"score by margin, {len(shards)} shards", time.perf_counter() - started, memory.peak_mb)
        scores = task.store()["margin"]
        started = time.perf_counter()
        with PeakMemory() as memory:
            picked = top_k(scores, pool.keys_N, budget=BUDGET, seed=0, available_N=pool.usable_N)
        add(f"exact top {BUDGET:,}", time.perf_counter() - started, memory.peak_mb)
        ties = int((scores == scores[picked[-1]]).sum())
        whole = (scores.copy(), picked)
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        model = Path(tmp) / "model"
        model.mkdir()
        predictor.save(model)
        parts = Path(tmp) / "signals" / "parts"
        child = subprocess.Popen([sys.executable, __file__, "--score", tmp, str(rows)])
        while len(list(parts.glob("*.part")) if parts.is_dir() else []) < len(shards) // 3:
            assert child.poll() is None, "the child ended too early"
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        task = task_of(pool, Path(tmp))
        stored = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.part")}
        left = task.store().missing(["margin"], shards)
        started = time.perf_counter()
        with PeakMemory() as memory:
            score_shards(task, left)
        untouched = all((parts / name).stat().st_mtime_ns == when for name, when in stored.items())
        task.store().seal(shards)
        add(f"after kill -9: the {len(left)} of {len(shards)} shards that were missing", time.perf_counter() - started,
            memory.peak_mb)  # fmt: skip
        same = bool((task.store()["margin"] == whole[0]).all())
    Console(width=120).print(table)
    print(f"stored shards untouched: {untouched}; same scores as without the kill: {same}; ties at the cut: {ties:,}")
    print(machine())


def task_of(pool, directory: Path):
    from svp_nlp.models import load_predictor
    from svp_nlp.scoring import ScoreTask

    fingerprint = load_predictor(directory / "model").fingerprint
    return ScoreTask(pool.ref, directory / "model", fingerprint, directory / "signals", len(pool), 32_768, ("margin",))


def score(directory: Path, rows: int) -> None:
    """What the child does until it is killed."""
    from svp_nlp.pool import PoolRef
    from svp_nlp.scoring import score_shards

    pool = PoolRef(str(synthetic_pool(rows))).open()
    task = task_of(pool, directory)
    score_shards(task, task.shards())


if __name__ == "__main__":
    main()
