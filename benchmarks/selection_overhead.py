"""Everything between "probabilities are there" and "the selection is written", at 3.6 million rows and 2 classes.

    .venv/bin/python benchmarks/selection_overhead.py [ROWS]

The goal is under one second. Each strategy picks 10 % of a pool of which 10 % is labelled already; ids, scores, lineage
and checksums are written durably. The pool is made up; probabilities are drawn, not predicted.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import CACHE, machine, synthetic_pool

REPEATS = 3


def main() -> None:
    os.environ.setdefault("SVP_CACHE", str(CACHE / "svp_nlp"))
    os.environ.setdefault("HF_HOME", str(CACHE / "huggingface"))
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 3_600_000
    from svp_nlp.pool import PoolRef
    from svp_nlp.selection import Lineage, Selection
    from svp_nlp.strategies import STRATEGIES, select

    pool = PoolRef(str(synthetic_pool(rows))).open()
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([0.5, 0.5], rows).astype(np.float32)
    labeled = rng.choice(rows, rows // 10, replace=False)
    budget = rows // 10
    table = Table(title=f"{rows:,} rows, 2 classes, budget {budget:,}; seconds, best of {REPEATS}")
    for name in ("strategy", "score and rank", "ids", "write", "all"):
        table.add_column(name, justify="left" if name == "strategy" else "right")
    for name in [n for n, strategy in STRATEGIES.items() if set(strategy.signals) <= {"probs", "keys"}]:
        best = [float("inf")] * 4
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
                times = [time.perf_counter()]
                available = pool.usable_N.copy()
                available[labeled] = False
                picks = select(name, {"probs": probs}, budget=budget, seed=0, available=available, keys=pool.keys_N)
                times.append(time.perf_counter())
                ids = pool.ids(picks.positions_K)
                times.append(time.perf_counter())
                lineage = Lineage(pool={"path": "synthetic"}, strategy=name, budget=budget, round=1, seed=0,
                                  labeled_size=budget)  # fmt: skip
                Selection(picks.positions_K, ids, picks.scores_K, lineage).save(Path(tmp))
                times.append(time.perf_counter())
            spent = [*np.diff(times), times[-1] - times[0]]
            best = min(best, spent, key=lambda values: values[-1])
        table.add_row(name, *(f"{seconds:.3f}" for seconds in best))
    Console(width=100).print(table)
    print(machine())


if __name__ == "__main__":
    main()
