"""Made-up pools for the benchmarks, kept in .cache/benchmarks. (No benchmark itself.)"""

from __future__ import annotations

import os
import platform
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "benchmarks"
_CLASSES = 2
_WORDS_PER_TEXT = 12


def synthetic_pool(rows: int) -> Path:
    """A Parquet file of `rows` different texts of 12 words in 2 classes (columns text, label); made once."""
    path = CACHE / f"pool-{rows}.parquet"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = np.array([f"w{i:x}" for i in range(20_000)], dtype=object)
    schema = pa.schema([("text", pa.large_string()), ("label", pa.int8())])
    tmp = path.with_suffix(".tmp")
    with pq.ParquetWriter(tmp, schema) as writer:
        for start in range(0, rows, 100_000):
            size = min(100_000, rows - start)
            labels = rng.integers(_CLASSES, size=size)
            # A tenth of the words tell the class, half of the time.
            picked = rng.zipf(1.3, size=(size, _WORDS_PER_TEXT)) % 18_000
            telling = rng.random((size, _WORDS_PER_TEXT)) < 0.05
            picked[telling] = 18_000 + (
                rng.integers(1000, size=telling.sum()) + 1000 * np.repeat(labels, telling.sum(1))
            )
            texts = [f"{' '.join(words[row])} n{start + i}" for i, row in enumerate(picked)]
            writer.write_table(
                pa.table([pa.array(texts, pa.large_string()), pa.array(labels, pa.int8())], schema=schema)
            )
    tmp.replace(path)
    return path


def machine() -> str:
    """One line on what the numbers were measured on."""
    from svp_nlp.run import machine as describe

    found = describe()
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )


class PeakMemory:
    """The highest anonymous memory of this process while inside, in MB (what memory-mapped files do not count to)."""

    def __enter__(self) -> PeakMemory:
        self.before_mb = self.peak_mb = _anonymous_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak_mb = max(self.peak_mb, _anonymous_mb())

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()


def _anonymous_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")
