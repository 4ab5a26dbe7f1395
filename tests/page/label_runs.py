"""Runs that are labelled, made without a pool and without training, and servers of their page."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2 as httpx
import uvicorn

from svp_nlp.labeling.access import Access
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.queue import LabelQueue, Project
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.labeling.server import LabelServer
from svp_nlp.labeling.session import Session

CLASSES = ("animals", "kitchen", "music", "weather")
SECRET = "a-secret-of-this-run"


def make_run(
    directory: Path,
    texts: Sequence[str] = tuple(f"text {at}" for at in range(6)),
    *,
    labels: Sequence[str] = CLASSES,
    suggestions: Sequence[tuple[str, float]] = (),
    images: Sequence[str] = (),
    **project,
) -> LabelQueue:
    """A run that asks for these texts in round 1; their ids are row-0, row-1, ..."""
    directory.mkdir(parents=True, exist_ok=True)
    queue = LabelQueue.begin(directory, Project(labels=tuple(labels), planned=40, name="demo", **project))
    ask(queue, texts, suggestions=suggestions, images=images)
    return queue


def ask(
    queue: LabelQueue,
    texts: Sequence[str],
    *,
    round: int = 1,
    suggestions: Sequence[tuple[str, float]] = (),
    images: Sequence[str] = (),
) -> None:
    """Ask for more rows, as the next round of a run does."""
    first = len(queue.rows)
    rows = tuple(
        Row(f"row-{first + at}", first + at, text, image, suggestions=tuple(suggestions))
        for at, (text, image) in enumerate(zip(texts, images or [""] * len(texts), strict=True))
    )
    queue.ask(Request(round, "train", rows))


def said(run_dir: Path) -> list[tuple[str, str, str | None, str]]:
    """The journal: (annotator, kind, label, row)."""
    answers = LabelQueue.open(run_dir).journal.answers
    return [(answer.annotator, answer.kind, answer.label, answer.id) for answer in answers]


def answer(id: str, label: str | None = None, annotator: str = "ann", *, kind: str = "label", **more) -> Answer:
    values = {"time": "2026-01-01T00:00:00+00:00", "source": "csv", **more}
    return Answer(id, kind, label, annotator, **values)  # type: ignore[arg-type]


@contextlib.contextmanager
def served(run_dir: Path, *, password: str | None = None, **options) -> Iterator[str]:
    """Serve a run in a thread of this process; yields the address with its token."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # who comes before the thread runs waits, and is not refused
    port = listener.getsockname()[1]
    label_server = LabelServer(Session(LabelQueue.open(run_dir)), Access(SECRET, port, password=password), **options)
    server = uvicorn.Server(uvicorn.Config(label_server.app(), log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/?token={SECRET}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextlib.contextmanager
def process(run_dir: Path, *, port: int, **environment: str) -> Iterator[subprocess.Popen]:
    """Serve a run with `svp label serve`; its first line has the address."""
    command = [sys.executable, "-m", "svp_nlp", "label", "serve", str(run_dir), "--port", str(port), "--no-open"]
    child = subprocess.Popen(
        [*command, "--format", "quiet"], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def address(child: subprocess.Popen) -> str:
    """What the process says when it listens; it answers by then."""
    url = child.stdout.readline().strip()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url)
            return url
    raise AssertionError(f"{url} does not answer")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
