"""The local Hub for the real clients: one server thread for the session, a clean state and fresh caches for each test.

An old cache hides 403, 5xx and a wrong revision, so every test has its own. What huggingface_hub and datasets read at
import is changed in their modules, what they read later in the environment; subprocesses get the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import types
from pathlib import Path

import pytest
from localhub import ALICE, LocalHub


def hub_environment(folder: Path, endpoint: str, *, token: str | None = ALICE, xet: bool = False) -> dict[str, str]:
    """The environment of a client process with fresh caches below `folder`, as `token`'s user (None: anonymous)."""
    home = folder / "huggingface"
    home.mkdir(parents=True)
    # Without it the client's first request would ask for this registry: one request more, in whichever test is first.
    (home / ".agent_harnesses.json").write_text(json.dumps({"standardEnvVars": [], "harnesses": {}}))
    changed = {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "SVP_CACHE": str(folder / "svp_nlp"),
    }
    kept = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    return kept | changed | ({"HF_TOKEN": token} if token else {})


@pytest.fixture(scope="session")
def _server(hub_socket, tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub"), listening=hub_socket) as hub:
        yield hub


@pytest.fixture
def hub(_server, tmp_path, monkeypatch):
    """The running Hub, without faults, with an empty log; this process is alice, online, with fresh caches."""
    import datasets
    import huggingface_hub
    from huggingface_hub import constants

    environment = hub_environment(tmp_path / "caches", _server.endpoint)
    for name in environment.keys() - os.environ.keys() | {n for n in os.environ if os.environ[n] != environment.get(n)}:
        monkeypatch.setenv(name, environment[name])
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.setattr(constants, name, environment[name])
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(Path(environment["HF_HOME"]) / "stored_tokens"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(Path(environment["HF_HOME"]) / ".agent_harnesses.json"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    caches = Path(environment["HF_DATASETS_CACHE"])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", caches / "downloads")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", caches / "downloads" / "extracted")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    _server.reset()
    yield _server
    errors = _server.errors
    _server.reset()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    assert not errors, "the local Hub itself failed:\n" + "\n".join(errors)


@pytest.fixture
def hub_env(hub, tmp_path) -> dict[str, str]:
    """The environment of a subprocess: the same Hub as alice, with fresh caches that are not this process's."""
    return hub_environment(tmp_path / "subprocess", hub.endpoint)


@pytest.fixture
def xet_hub(tmp_path):
    """A Hub that speaks Xet, for clients in a subprocess under `xet_env`: this process has switched it off for good."""
    with LocalHub(tmp_path / "xet_hub", xet=True) as hub:
        yield hub
    assert not hub.errors, "the local Hub itself failed:\n" + "\n".join(hub.errors)


@pytest.fixture
def xet_env(xet_hub, tmp_path) -> dict[str, str]:
    """The environment of a subprocess with Xet and fresh caches; run it as [sys.executable, "-c", script]."""
    return hub_environment(tmp_path / "xet_subprocess", xet_hub.endpoint, xet=True)


@pytest.fixture
def short_waits(monkeypatch):
    """huggingface_hub waits a hundredth of the 23 s for which it tries again where nobody answers."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    clock = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: time.sleep(seconds / 100)})
    monkeypatch.setattr(_http, "time", clock)
    monkeypatch.setattr(file_download, "time", clock)


@pytest.fixture
def repo_id(request) -> str:
    """A repository name of alice's that no other test uses; the repository does not exist yet."""
    name = re.sub("[^A-Za-z0-9]+", "-", request.node.name)[:60].strip("-")
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]  # of what was cut off, and of the file
    return f"alice/{name}-{digest}"
