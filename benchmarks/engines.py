"""One million made-up rows scored by one process, two worker processes and two actors of Ray: rows/s, overhead, memory.

    .venv/bin/python benchmarks/engines.py [ROWS]

One thread per worker. Start is the time to the first stored shard less what scoring it took; overhead per shard is the
wall time between the first and the last shard that a worker was not scoring in, by shard. Memory is the sum of the
proportional set sizes (a page that several processes share counts once) of the process and all that it started.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ |= {"SVP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import CACHE, machine, synthetic_pool

LABELS = 10_000


def main() -> None:
    os.environ.setdefault("SVP_CACHE", str(CACHE / "svp_nlp"))
    os.environ.setdefault("HF_HOME", str(CACHE / "huggingface"))
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    from svp_nlp.engines import make_engine
    from svp_nlp.engines.local import LocalEngineSpec
    from svp_nlp.engines.processes import ProcessesEngineSpec
    from svp_nlp.engines.ray import RayEngineSpec
    from svp_nlp.models import load_predictor, make_learner
    from svp_nlp.models.base import FitContext, Labeled
    from svp_nlp.pool import PoolRef, read_labels
    from svp_nlp.scoring import ScoreTask

    pool = PoolRef(str(synthetic_pool(rows))).open()
    positions = np.random.default_rng(0).choice(rows, min(LABELS, rows // 2), replace=False)
    labels = read_labels(pool, "label")
    train = Labeled(pool.take(positions), labels.labels_N[positions].astype(np.int64), positions, labels.class_names)
    table = Table(title=f"{rows:,} rows, 12 words each; fastText, one thread per worker")
    columns = (
        "engine",
        "start s",
        "wall s",
        "rows/s",
        "against local",
        "overhead ms per shard",
        "peak MB, all processes",
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "engine" else "right")
    baseline, scores = 0.0, []
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        model = Path(tmp) / "model"
        model.mkdir()
        make_learner("fasttext").fit(train, dev=None, seed=0, context=FitContext()).save(model)
        fingerprint = load_predictor(model).fingerprint
        specs = (LocalEngineSpec(), ProcessesEngineSpec(workers=2), RayEngineSpec(workers=2))
        for spec in specs:
            task = ScoreTask(pool.ref, model, fingerprint, Path(tmp) / spec.kind, rows, 32_768 // 4, ("margin",))
            shards = task.shards(pool)
            engine = make_engine(spec)
            started, clock = time.time(), time.perf_counter()
            with AllMemory() as memory:
                engine.map_shards(task, shards, stop_requested=lambda: False)
            wall_s = time.perf_counter() - clock
            stored = sorted(path.stat().st_mtime for path in task.store_dir.rglob("shard-*.part"))
            scoring_s = task.store().seal(shards)["seconds"] / len(shards)
            steady_s = stored[-1] - stored[0]
            overhead_s = steady_s * engine.workers / (len(shards) - 1) - scoring_s
            rate = (rows - len(shards[0])) / steady_s
            baseline = baseline or rate
            scores.append(np.array(task.store()["margin"]))
            name = spec.kind if engine.workers == 1 else f"{spec.kind} x {engine.workers}"
            table.add_row(
                name, f"{stored[0] - started - scoring_s:.1f}", f"{wall_s:.1f}", f"{rate:,.0f}",
                f"{rate / baseline:.2f}", f"{1000 * overhead_s:.0f}", f"{memory.peak_mb:,.0f}",
            )  # fmt: skip
    Console(width=140).print(table)
    same = all(np.array_equal(scores[0], other) for other in scores)
    print(f"{len(shards)} shards of {len(shards[0]):,} rows; the same scores from all: {same}; {machine()}")


class AllMemory:
    """The highest memory of this process and all its descendants while inside, in MB."""

    def __enter__(self) -> AllMemory:
        self.peak_mb, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self.peak_mb = max(self.peak_mb, sum(map(_proportional_mb, _family(os.getpid()))))

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()


def _family(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    family, found = [], [pid]
    while found:
        family += found
        found = [child for child, parent in parents.items() if parent in found]
    return family


def _proportional_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
