"""One million made-up rows scored by one process, two worker processes and two actors of Ray: rows/s, overhead, memory.

    .venv/bin/python benchmarks/engines.py [ROWS] [REPEATS]

One thread per worker; the median of the repeats, whose engines take turns. Rows/s, and the overhead per shard (what a
worker is not scoring), count from when each worker has stored its first shard; before that is the start. Memory is the
sum of the proportional set sizes (a page that several processes share counts once) of the process and all that it
started, less what the process had before.
"""

from __future__ import annotations

import dataclasses
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
    rows, repeats = [int(value) for value in (*sys.argv[1:], *("1000000", "3")[len(sys.argv) - 1 :])]
    from svp_nlp.engines import make_engine
    from svp_nlp.engines.local import LocalEngineSpec
    from svp_nlp.engines.processes import ProcessesEngineSpec
    from svp_nlp.engines.ray import RayEngineSpec
    from svp_nlp.models import load_predictor, make_learner
    from svp_nlp.models.base import FitContext, Labeled
    from svp_nlp.pool import PoolRef
    from svp_nlp.pool_labels import read_labels
    from svp_nlp.scoring import ScoreTask

    pool = PoolRef(str(synthetic_pool(rows))).open()
    positions = np.random.default_rng(0).choice(rows, min(LABELS, rows // 2), replace=False)
    labels = read_labels(pool, "label")
    train = Labeled(pool.take(positions), labels.labels_N[positions].astype(np.int64), positions, labels.class_names)
    found: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        model = Path(tmp) / "model"
        model.mkdir()
        make_learner("fasttext").fit(train, dev=None, seed=0, context=FitContext()).save(model)
        fingerprint = load_predictor(model).fingerprint
        scores: list[np.ndarray] = []
        for repeat in range(repeats):
            for spec in (LocalEngineSpec(), ProcessesEngineSpec(workers=2), RayEngineSpec(workers=2)):
                store = Path(tmp) / f"{spec.kind}-{repeat}"
                task = ScoreTask(pool.ref, model, fingerprint, store, rows, 32_768 // 4, ("margin",))
                found.setdefault(spec.kind, []).append(measure(make_engine(spec), task, task.shards()))
                scores.append(np.array(task.store()["margin"]))
    table = Table(title=f"{rows:,} rows, 12 words each; fastText, one thread per worker; median of {repeats}")
    columns = ("engine", "start s", "wall s", "rows/s", "against local", "overhead ms per shard", "peak MB of all")
    for name in columns:
        table.add_column(name, justify="left" if name == "engine" else "right")
    baseline = float(np.median([each.rate for each in found["local"]]))
    for kind, each in found.items():
        start, wall, rate, overhead, peak = np.median([dataclasses.astuple(one) for one in each], axis=0)
        table.add_row(
            kind if kind == "local" else f"{kind} x 2", f"{start:.1f}", f"{wall:.1f}", f"{rate:,.0f}",
            f"{rate / baseline:.2f}", f"{overhead:.0f}", f"{peak:,.0f}",
        )  # fmt: skip
    Console(width=140).print(table)
    same = all(np.array_equal(scores[0], other) for other in scores)
    print(f"{len(task.shards())} shards; the same scores from all: {same}; {machine()}")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One scoring."""

    start_s: float
    wall_s: float
    rate: float
    overhead_ms: float
    peak_mb: float


def measure(engine, task, shards) -> Measured:
    started, clock = time.time(), time.perf_counter()
    with AllMemory() as memory:
        engine.map_shards(task, shards, stop_requested=lambda: False)
    wall_s = time.perf_counter() - clock
    store = task.store()
    stored = sorted(
        (store._part(shard).stat().st_mtime, float(store._read_part(shard)["__seconds__"][0])) for shard in shards
    )
    store.seal(shards)
    first = engine.workers  # by then, at the soonest, each has stored one
    steady_s, count = stored[-1][0] - stored[first][0], len(stored) - 1 - first
    scoring_s = sum(seconds for _, seconds in stored[first + 1 :]) / count
    overhead_ms = 1000 * (steady_s * engine.workers / count - scoring_s)
    rate = count * len(shards[0]) / steady_s
    return Measured(stored[0][0] - started - stored[0][1], wall_s, rate, overhead_ms, memory.peak_mb)


class AllMemory:
    """The highest memory of this process and all its descendants while inside, in MB."""

    def __enter__(self) -> AllMemory:
        self._before_mb, self._done = _proportional_mb(os.getpid()), threading.Event()
        self.peak_mb = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            now_mb = sum(map(_proportional_mb, _family(os.getpid())))
            self.peak_mb = max(self.peak_mb, now_mb - self._before_mb)

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
