"""What this installation is and what it can reach: `svp doctor`. No finding is an error."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from svp_nlp.run import library_versions, machine

_HUB_TIMEOUT_S = 3.0
_COMPILERS = ("c++", "g++", "clang++", "cl")


def examine(hub_timeout_s: float = _HUB_TIMEOUT_S) -> dict[str, Any]:
    """Look at versions, devices, memory, disk, the Hub and fastText's package. JSON values, never a token."""
    return {
        **{f"version of {name}": version for name, version in library_versions().items()},
        **{name: value for name, value in machine().items() if name != "gpu"},
        **_devices(),
        "free disk here": _free_gb(Path.cwd()),
        "free disk in the cache": _free_gb(_cache_directory()),
        "Hub": hub_state(hub_timeout_s),
        "Hub login": "token found" if _has_token() else "no token; public data only (hf auth login)",
        "C++ compiler": next(filter(None, map(shutil.which, _COMPILERS)), None)
        or "none (make and [fasttext] need one)",
        "fasttext package": fasttext_state(),
    }


def _devices() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"device": f"torch does not import: {error}"}
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    mps = torch.backends.mps.is_available()
    return {
        "device": ", ".join(gpus) if gpus else "mps" if mps else "cpu",
        "CUDA of torch": torch.version.cuda or "none (CPU build)",
        "threads of torch": torch.get_num_threads(),
    }


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _free_gb(path: Path) -> str:
    path = path.expanduser().absolute()
    return f"{shutil.disk_usage(_existing(path)).free / 1e9:.1f} GB ({path})"


def _cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    cache = environment.get("XDG_CACHE_HOME", "~/.cache")
    return Path(environment.get("HF_HOME", f"{cache}/huggingface")).expanduser()


def _has_token(environment: Mapping[str, str] = os.environ) -> bool:
    return bool(environment.get("HF_TOKEN")) or (_cache_directory(environment) / "token").is_file()


def hub_state(timeout_s: float, environment: Mapping[str, str] = os.environ) -> str:
    """Whether a connection to the Hub can be opened within `timeout_s`; nothing is sent."""
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "offline (HF_HUB_OFFLINE is set)"
    endpoint = urlsplit(environment.get("HF_ENDPOINT") or "https://huggingface.co")
    address = (endpoint.hostname or "", endpoint.port or (443 if endpoint.scheme == "https" else 80))
    try:
        with socket.create_connection(address, timeout=timeout_s):
            return f"reachable ({address[0]})"
    except OSError as error:
        return f"not reachable ({address[0]}: {error}); local data and builtin pools work"


def fasttext_state() -> str:
    """Whether the official fastText package is there and predicts right; with numpy 2 some are silently wrong."""
    if importlib.util.find_spec("fasttext") is None:
        return "not installed; engine: native needs none"
    try:
        from svp_nlp.models.fasttext_package import self_test

        self_test()
    except Exception as error:
        return f"not usable ({' '.join(str(error).split())}); engine: native needs none"
    return "installed, predicts right"
