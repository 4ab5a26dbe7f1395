"""The labelling page: from an answer to the next text, over HTTP and in a browser, on the run of a large pool.

    .venv/bin/python benchmarks/page.py [ROWS] [ASKED] [ANSWERS]

The goal is under 50 ms at the 95th percentile on two cores with a pool of a million rows. Each answer is on disk before
the next text is sent. In the browser (where there is a chromium) it is the time from a key to the next text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import CACHE, machine, synthetic_pool

LABELS = ["first", "second"]
# Times are taken inside the page; its policy, which forbids foreign scripts, is switched off for this one.
STOPWATCH = """() => {
  let began = 0;
  window.times = [];
  addEventListener("keydown", () => { began = performance.now(); }, true);
  new MutationObserver(() => window.times.push(performance.now() - began))
    .observe(document.getElementById("text"), { attributes: true, attributeFilter: ["data-id"] });
}"""


def main() -> None:
    os.environ.setdefault("SVP_CACHE", str(CACHE / "svp_nlp"))
    os.environ.setdefault("HF_HOME", str(CACHE / "huggingface"))
    rows, asked, answers = (
        int(given) if given else default
        for given, default in zip([*sys.argv[1:4], "", "", ""], (1_000_000, 10_000, 1_000), strict=False)
    )
    table = Table(title=f"pool of {rows:,} rows, {asked:,} asked for, {answers:,} answers; ms from answer to next text")
    for name in ("", "p50", "p95", "p99", "longest"):
        table.add_column(name, justify="right" if name else "left")
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        run_dir = Path(tmp) / "run"
        make_run(run_dir, rows=rows, asked=asked)
        table.add_row("a line and fsync alone", *quantiles(only_fsync(Path(tmp) / "lines", answers // 4)))
        with serve(run_dir) as (url, pid):
            before = cpu_seconds(pid)
            table.add_row("over HTTP, two annotators", *quantiles(over_http(url, answers)))
            cpu_ms = 1_000 * (cpu_seconds(pid) - before) / answers
            if shutil.which("chromium"):
                table.add_row("in chromium, key to text", *quantiles(in_browser(url, answers // 4)))
    Console(width=110).print(table)
    print(f"CPU of the server for one answer over HTTP: {cpu_ms:.1f} ms")
    print(machine())


def only_fsync(path: Path, lines: int) -> list[float]:
    """What the disk asks for an answer, whatever the program."""
    times = []
    for _ in range(lines):
        began = time.perf_counter()
        with path.open("ab") as file:
            file.write(b"x" * 200 + b"\n")
            file.flush()
            os.fsync(file.fileno())
        times.append(time.perf_counter() - began)
    return times


def cpu_seconds(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def make_run(run_dir: Path, *, rows: int, asked: int) -> None:
    from svp_nlp.errors import WaitingForLabels
    from svp_nlp.experiment import run_recipe
    from svp_nlp.recipe import make_recipe

    recipe = make_recipe(
        {
            "mode": "active_learning",
            "pool": {"path": str(synthetic_pool(rows))},
            "oracle": {"kind": "files", "labels": LABELS},
            "proxy": {"kind": "fasttext"},
            "strategies": ["margin"],
            "initial": asked,
            "labeled_sizes": [2 * asked],
        }
    )
    try:
        run_recipe(recipe, run_dir, stop_requested=lambda: False)
    except WaitingForLabels:
        return
    raise AssertionError("nobody was asked")


@contextmanager
def serve(run_dir: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "svp_nlp", "label", "serve", str(run_dir), "--no-open", "--format", "quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), server.pid
        finally:
            server.terminate()


def over_http(url: str, answers: int) -> list[float]:
    """Two annotators in turn, each with a connection of its own, as two browsers have."""
    base = re.sub(r"/\?.*", "", url)
    clients = [httpx.Client(base_url=base, headers={"x-svp-label": "1"}) for _ in range(2)]
    rows, times = [], []
    for at, client in enumerate(clients):
        client.get(url, follow_redirects=True)
        found = client.post("/api/next", json={"annotator": f"annotator {at}", "tab": f"{at}"}).json()
        rows.append(found["row"])
    for number in range(answers):
        at = number % 2
        body = {"annotator": f"annotator {at}", "tab": f"{at}", "id": rows[at]["id"], "origin": f"{at}.{number}"}
        began = time.perf_counter()
        found = clients[at].post("/api/answer", json={**body, "kind": "label", "label": LABELS[at]})
        times.append(time.perf_counter() - began)
        rows[at] = found.raise_for_status().json()["row"]
    for client in clients:
        client.close()
    return times


def in_browser(url: str, answers: int) -> list[float]:
    from playwright.sync_api import sync_playwright

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_context(bypass_csp=True).new_page()
        page.goto(f"{url}&annotator=browser")
        page.wait_for_selector("#text[data-id]")
        page.evaluate(STOPWATCH)
        for number in range(answers):
            page.keyboard.press("1")
            page.wait_for_function(f"window.times.length > {number}", polling=5)
        times = page.evaluate("window.times")
        browser.close()
    return [milliseconds / 1_000 for milliseconds in times]


def quantiles(times: list[float]) -> list[str]:
    found = [*np.percentile(times, [50, 95, 99]), max(times)]
    return [f"{1_000 * seconds:.1f}" for seconds in found]


if __name__ == "__main__":
    main()
