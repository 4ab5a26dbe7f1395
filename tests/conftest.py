"""For all tests: no network, caches inside the checkout, one thread each (two workers share two cores).

Set before anything is imported, because these libraries read their environment once. The Hugging Face Hub of all tests
is a loopback port that is bound here: nothing listens there until tests/hub starts its local Hub on it, and what a
test asks of "the Hub" can reach nothing else.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

_CACHE = Path(__file__).resolve().parents[1] / ".cache"
_SOCKET = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else asyncio waits 40 ms to send
_SOCKET.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
_SOCKET.bind(("127.0.0.1", 0))
atexit.register(_SOCKET.close)

os.environ.setdefault("SVP_CACHE", str(_CACHE / "svp_nlp"))
os.environ.setdefault("HF_HOME", str(_CACHE / "huggingface"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{_SOCKET.getsockname()[1]}",  # a trailing slash would break datasets
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets would count at an address of its own
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_TOKEN_PATH": str(_CACHE / "no-token" / "token"),
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
for name in (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_OIDC_RESOURCE",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_XET_CACHE",
):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def hub_socket() -> socket.socket:
    """The bound loopback socket that HF_ENDPOINT names; tests/hub serves on it."""
    return _SOCKET


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Take back what a command of `svp` that runs in this process has set up."""
    root, ours = logging.getLogger(), logging.getLogger("svp_nlp")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
