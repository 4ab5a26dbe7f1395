"""Becomes tests/conftest.py of huggingface_hub's tests, whose source package has none; nothing but loopback."""

from __future__ import annotations

import importlib.util
import socket

import pytest
from huggingface_hub import HfApi, HfFileSystem, constants

from .testing_constants import ENDPOINT_STAGING, TOKEN
from .testing_utils import repo_name

MARKERS = ("api", "transfer", "inference", "xet", "no_xet", "production", "deprecated(*names)", "git_lfs", "vcr")
_resolve = socket.getaddrinfo


def _resolve_loopback(host, *arguments, **options):
    if host not in ("127.0.0.1", "localhost"):
        raise OSError(f"{host} is not this machine")
    return _resolve(host, *arguments, **options)


socket.getaddrinfo = _resolve_loopback


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(items):
    has_mocker = importlib.util.find_spec("pytest_mock") is not None
    for item in items:
        if item.get_closest_marker("production") or "api_prod" in item.fixturenames:
            item.add_marker(pytest.mark.skip(reason="asks huggingface.co"))
        elif item.get_closest_marker("xet"):
            item.add_marker(pytest.mark.skip(reason="Xet is switched off here"))
        elif "mocker" in item.fixturenames and not has_mocker:
            item.add_marker(pytest.mark.skip(reason="needs pytest-mock, and is of the client alone"))


class RepoFactory:
    """Makes repositories and deletes them after the test."""

    def __init__(self) -> None:
        self.made = []

    def __call__(self, repo_type=None, *, repo_id=None, token=TOKEN, **options):
        api = HfApi(endpoint=ENDPOINT_STAGING, token=token)
        url = api.create_repo(repo_id or repo_name(), repo_type=repo_type, **options)
        self.made.append((api, url))
        return url

    def clean(self) -> None:
        for api, url in self.made:
            api.delete_repo(url.repo_id, repo_type=url.repo_type, missing_ok=True)


@pytest.fixture(scope="session")
def api():
    return HfApi(endpoint=ENDPOINT_STAGING, token=TOKEN)


@pytest.fixture
def repo_factory():
    factory = RepoFactory()
    yield factory
    factory.clean()


@pytest.fixture(autouse=True)
def _fresh_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "fresh_cache"))
    HfFileSystem.clear_instance_cache()
