"""A real Label Studio on loopback for the session, from its own virtual environment; `make test-label-studio`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from label_studio_wire import TOKEN

_HOME = Path(__file__).parents[2] / ".venv" / "label-studio"
_START_S = 1200.0  # the first start makes its tables: 105 s on two free cores, 400 s on busy ones


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[str]:
    """The address of a server that knows one user and no project."""
    program = _HOME / "bin" / "label-studio"
    if not program.exists():
        pytest.skip(f"{program} is missing; `make test-label-studio` installs it")
    made = _HOME / "made.sqlite3"
    if not made.exists():
        folder = tmp_path_factory.mktemp("made")
        with running(program, folder):
            pass
        shutil.copy(folder / "label_studio.sqlite3", made)
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(made, folder / "label_studio.sqlite3")
    with running(program, folder) as url:
        yield url


@contextlib.contextmanager
def running(program: Path, folder: Path) -> Iterator[str]:
    """A server with its data in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        **os.environ,
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "DJANGO_DB": "sqlite",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    options = ["--no-browser", "--internal-host", "127.0.0.1", "--port", port, "--user-token", TOKEN]
    who = ["--username", "ann@example.com", "--password", "invented-password"]
    url = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [program, "start", *options, *who],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + _START_S
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"Label Studio did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.5)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    request = urllib.request.Request(f"{url}/api/projects", headers={"Authorization": f"Token {TOKEN}"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status == 200
    return False
