"""Pools that every installation has."""

from __future__ import annotations

from pathlib import Path

from svp_nlp.errors import PoolError

PREFIX = "builtin:"


def build_builtin(path: str) -> dict[str, Path]:
    """split -> Arrow file."""
    raise PoolError(f"{path}: unknown")
