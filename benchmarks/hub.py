"""Push, push again, pull and load a selection of 200 MB, and one of 1.8 million rows without texts, on a local Hub.

    .venv/bin/python benchmarks/hub.py [MEGABYTES] [ROWS]

The Hub (tests/hub/localhub) is a process of its own on loopback, so the network costs nothing here. Each step is a
fresh process; its seconds begin when everything is imported and the pool is open, and its memory is anonymous memory,
with what was imported, without memory-mapped files. Uploads go by git-lfs. Pools are kept in .cache/benchmarks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from synthetic import CACHE, PeakMemory, machine, synthetic_pool

LOCALHUB = Path(__file__).resolve().parents[1] / "tests" / "hub"
TOKEN, TEXT_BYTES = "hf_benchmarkBenchmarkBenchmark", 700


def main() -> None:
    megabytes, rows = [int(value) for value in (*sys.argv[1:], *("200", "1800000")[len(sys.argv) - 1 :])]
    console = Console(width=120)
    table = Table(title=f"a selection of {megabytes} MB; one of {rows:,} rows without texts")
    for column in ("step", "seconds", "CPU s", "peak MB", "before MB", "requests"):
        table.add_column(column, justify="left" if column == "step" else "right")
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp, Hub(Path(tmp) / "hub") as hub:
        large, many = long_texts(megabytes), synthetic_pool(2 * rows)
        for pool, share, name in ((large, 0.8, "large"), (many, 0.5, "many")):
            measure(hub, Path(tmp), "select", pool=str(pool), selection=f"{tmp}/{name}", share=share)
        pushed = {"pool": str(large), "selection": f"{tmp}/large", "repo_id": "me/large"}
        index = {"pool": str(many), "selection": f"{tmp}/many", "repo_id": "me/many", "index_only": True}
        for step, action, options in (
            ("push", "push", pushed),
            ("push the same again", "push", pushed),
            ("pull", "pull", {"repo_id": "me/large", "directory": f"{tmp}/pulled"}),
            ("load_selected, from the cache", "load", {"repo_id": "me/large"}),
            ("push without texts", "push", index),
            ("push the same again", "push", index),
            ("load_selected, joined with the pool", "load", {"repo_id": "me/many", "pool": str(many)}),
        ):
            found = measure(hub, Path(tmp), action, **options)
            table.add_row(
                f"{step} ({found['said']})",
                *(f"{found[key]:.2f}" for key in ("seconds", "cpu_seconds")),
                *(f"{found[key]:,.0f}" for key in ("peak_mb", "before_mb")),
                str(found["requests"]),
            )
    console.print(table)
    console.print(machine())


def long_texts(megabytes: int) -> Path:
    """A pool of random letters, which no compression makes small; four fifths of it are `megabytes`."""
    path = CACHE / f"pool-long-{megabytes}.parquet"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        rng, rows = np.random.default_rng(0), megabytes * 1_000_000 * 5 // 4 // TEXT_BYTES
        with pq.ParquetWriter(path.with_suffix(".tmp"), pa.schema({"text": pa.string(), "label": pa.int8()})) as writer:
            for start in range(0, rows, 20_000):
                size = min(20_000, rows - start)
                letters = rng.integers(ord("!"), ord("~"), size=size * TEXT_BYTES, dtype=np.uint8)
                offsets = np.arange(size + 1, dtype=np.int32) * TEXT_BYTES
                texts = pa.StringArray.from_buffers(size, pa.py_buffer(offsets), pa.py_buffer(letters))
                writer.write_table(pa.table({"text": texts, "label": pa.array(rng.integers(2, size=size), pa.int8())}))
        path.with_suffix(".tmp").replace(path)
    return path


class Hub:
    """The local Hub in a process of its own."""

    def __init__(self, root: Path) -> None:
        self._command = [sys.executable, "-m", "localhub", "--root", str(root), "--token", f"{TOKEN}=me"]

    def __enter__(self) -> Hub:
        environment = os.environ | {"PYTHONPATH": str(LOCALHUB)}
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        self.endpoint: str = json.loads(self._process.stdout.readline())["endpoint"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def requests(self) -> int:
        with urllib.request.urlopen(f"{self.endpoint}/__hub__/requests") as answer:
            return len(json.load(answer))


def measure(hub: Hub, folder: Path, action: str, **options: Any) -> dict[str, Any]:
    """Do something in a fresh process; pushing and pulling have caches of their own."""
    home = folder / ("writer" if action in ("push", "select") else "reader")
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "SVP_CACHE": str(CACHE / "svp_nlp"),
        "OMP_NUM_THREADS": "1",
    }
    before = hub.requests
    command = [sys.executable, __file__, "--do", action, json.dumps(options)]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return {**json.loads(ran.stdout), "requests": hub.requests - before}


def do(action: str, options: dict[str, Any]) -> dict[str, Any]:
    """One step, in the process that is measured."""
    import huggingface_hub.hf_api

    import svp_nlp.hub.sharing  # noqa: F401  both imported before the clock starts
    from svp_nlp import Selection, load_pool, load_selected
    from svp_nlp.hub.load import pull_selection

    assert huggingface_hub.hf_api
    pool = load_pool(options["pool"]) if "pool" in options else None
    if action == "select":
        assert pool is not None
        select(pool, Path(options["selection"]), share=options["share"])
        return {}
    selection = Selection.load(options["selection"]) if "selection" in options else None
    started, cpu = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        if selection is not None:
            assert pool is not None
            pushed = selection.push_to_hub(options["repo_id"], pool=pool, index_only=options.get("index_only", False))
            said = f"{pushed.version}{'' if pushed.new else ', nothing new'}"
        elif action == "pull":
            pulled = pull_selection(options["repo_id"], Path(options["directory"]))
            size = sum(file.stat().st_size for file in Path(options["directory"]).rglob("*.parquet"))
            said = f"{pulled['rows']:,} rows, {size / 1e6:,.0f} MB"
        else:
            said = f"{len(load_selected(options['repo_id'], pool=pool)):,} rows"
    return {
        "said": said,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": memory.peak_mb,
        "before_mb": memory.before_mb,
    }


def select(pool: Any, directory: Path, *, share: float) -> None:
    """A share of the rows, in random order."""
    from svp_nlp import Selection
    from svp_nlp.selection import Lineage

    positions = np.random.default_rng(0).permutation(len(pool))[: int(share * len(pool))]
    directory.mkdir()
    Selection(
        positions,
        pool.ids(positions),
        np.linspace(1, 0, len(positions), dtype=np.float32),
        Lineage(
            pool={**pool.ref.meaning, "rows": len(pool), "fingerprint": pool.fingerprint},
            strategy="random",
            budget=len(positions),
            round=1,
            seed=0,
            labeled_size=len(positions),
        ),
    ).save(directory)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--do"]:
        print(json.dumps(do(sys.argv[2], json.loads(sys.argv[3]))))
    else:
        main()
