"""`svp run` as a child of the labelling page: it takes in the answers, trains the proxy and asks for the next rows."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal, TypeAlias

from svp_nlp.errors import WaitingForLabels, scrub
from svp_nlp.labeling.queue import DIRECTORY, RECIPE_FILE

State: TypeAlias = Literal["idle", "running", "asked", "finished", "failed"]
_LINES = 40
_STOP_S = 20.0


class NextRound:
    """At most one `svp run` at a time, and how the last one ended.

    It is started where the server was, because paths in a recipe are relative to where people start `svp run`.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._state: State = "idle"
        self._started = 0.0
        self._seconds = 0.0

    def start(self) -> bool:
        """Begin, unless it runs already; returns whether it began."""
        with self._lock:
            if self._state == "running":
                return False
            self._lines.clear()
            self._started = time.monotonic()
            # A password is for people, not for what runs in their name.
            environment = {k: v for k, v in os.environ.items() if k != "SVP_LABEL_PASSWORD"}
            recipe, run = str(self.run_dir / DIRECTORY / RECIPE_FILE), str(self.run_dir)
            self._process = subprocess.Popen(  # noqa: S603  our own program, no shell
                [sys.executable, "-m", "svp_nlp", "run", recipe, "--run-dir", run],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                start_new_session=True,  # Ctrl-C is for the server, which then stops it in good order
            )
            self._state = "running"
            self._reader = threading.Thread(target=self._follow, args=(self._process,), daemon=True)
            self._reader.start()
            return True

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                if line.strip():
                    self._lines.append(scrub(line.rstrip()))
        code = process.wait()
        with self._lock:
            self._seconds = time.monotonic() - self._started
            self._state = "finished" if code == 0 else "asked" if code == WaitingForLabels.exit_code else "failed"

    def status(self) -> dict[str, Any]:
        """What to show: state, seconds, the last lines, and the sentence with which it ended; JSON values."""
        with self._lock:
            running = self._state == "running"
            seconds = time.monotonic() - self._started if running else self._seconds
            lines = list(self._lines)
            return {
                "state": self._state,
                "seconds": round(seconds, 1),
                "lines": lines,
                "message": "" if running else _sentence(lines),
            }

    def forget(self) -> None:
        """After another answer, what a round said that asked for rows is no longer so."""
        with self._lock:
            if self._state == "asked":
                self._lines.clear()

    def stop(self) -> None:
        """Have it stop where it can go on later, and wait for that."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:  # a long step; what is finished is kept
            process.kill()
        reader.join(_STOP_S)


def _sentence(lines: list[str]) -> str:
    for line in reversed(lines):
        for word in ("error: ", "stopped: ", "waiting: "):
            if line.startswith(word):
                return line.removeprefix(word)
    return lines[-1] if lines else ""
