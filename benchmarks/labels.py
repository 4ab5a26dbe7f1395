"""Files of 100,000 labels, out and in, in each format: seconds of the whole command, and of its parts.

    .venv/bin/python benchmarks/labels.py [ROWS]

Each row has a text of 30 words, an answer, and five suggestions. "command" is what `svp label export --all` and
`svp label import` take from start to end, in a process of their own; "again" imports the same file a second time.
CPU seconds as well, for they do not depend on what else the machine does. Goal: import in under 5 s.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import machine

from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.formats import FORMATS
from svp_nlp.labeling.queue import LabelQueue, Project
from svp_nlp.labeling.requests import Request, Row

CLASSES = tuple(f"class {number}" for number in range(20))
WORDS_PER_TEXT = 30


def make_run(run_dir: Path, rows: int, *, answered: bool) -> None:
    """A run that asks for `rows` rows, with an answer to each or with none."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number:x}" for number in range(20_000)], dtype=object)
    texts = [" ".join(words[drawn]) for drawn in rng.integers(0, len(words), (rows, WORDS_PER_TEXT))]
    suggestions = tuple((name, 0.2) for name in CLASSES[:5])
    asked = tuple(
        Row(f"{number:032x}", number, text, score=0.5, suggestions=suggestions) for number, text in enumerate(texts)
    )
    queue = LabelQueue.begin(run_dir, Project(labels=CLASSES))
    queue.ask(Request(1, "train", asked))
    if answered:
        labels = rng.integers(0, len(CLASSES), rows).tolist()
        stamp = "2026-01-01T00:00:00+00:00"
        queue.add(
            [Answer(row.id, "label", CLASSES[c], "ann", stamp, "page") for row, c in zip(asked, labels, strict=True)]
        )


def seconds(*arguments: str) -> tuple[float, float]:
    """Wall and CPU seconds of `svp label ...`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "svp_nlp", "label", *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    console = Console(width=120)
    console.print(f"{rows:,} labels; {machine()}")
    table = Table("format", "MB", "export", "CPU", "import", "CPU", "again", "CPU", title="seconds of the command")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_run(directory / "answered", rows, answered=True)
        make_run(directory / "open", rows, answered=False)
        for format in FORMATS.values():
            file, run_dir = directory / f"labels-{format.name}{format.suffix}", directory / f"run-{format.name}"
            option = format.name.replace("_", "-")
            there = seconds("export", str(directory / "answered"), "--to", option, "--all", "--output", str(file))
            shutil.copytree(directory / "open", run_dir)
            back = seconds("import", str(run_dir), str(file))
            again = seconds("import", str(run_dir), str(file))
            assert len(LabelQueue.open(run_dir).journal.answers) == rows
            shutil.rmtree(run_dir)
            size = f"{file.stat().st_size / 1e6:.0f}"
            table.add_row(format.name, size, *(f"{value:.2f}" for pair in (there, back, again) for value in pair))
    console.print(table)


if __name__ == "__main__":
    main()
