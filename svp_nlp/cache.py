"""What can be computed again: a directory per key below SVP_CACHE (default ~/.cache/svp_nlp).

A cache is never state: deleting all of it costs time, nothing else.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from svp_nlp.files import atomic_directory

logger = logging.getLogger(__name__)


def cache_root() -> Path:
    """The directory of all caches; it need not exist."""
    return Path(os.environ.get("SVP_CACHE") or "~/.cache/svp_nlp").expanduser()


@functools.cache
def _private_root() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="svp_nlp-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def cached_directory(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory `kind/key` of the cache; when it is missing, `build` fills it first.

    Processes that need the same key wait for the one that builds it. Where the cache cannot be written, a
    directory that lives as long as this process takes its place.

    Args:
        kind: what the directory holds; a plain name.
        key: everything that the content depends on, hashed.
        build: called with an empty directory; the result appears whole or not at all.
    """
    final = cache_root() / kind / key
    if final.is_dir():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # The lock file stays: deleting it would let two processes hold "the" lock on two different files.
        with FileLock(final.parent / f".{key}.lock"):
            if not final.is_dir():
                for leftover in final.parent.glob(f".tmp-*-{key}"):  # of a process that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                with atomic_directory(final) as directory:
                    build(directory)
        return final
    except OSError as error:
        if final.is_dir():
            return final
        logger.warning("%s cannot be written (%s): %s is built again in each process", final, error, kind)
    fallback = _private_root() / kind / key
    if not fallback.is_dir():
        with atomic_directory(fallback) as directory:
            build(directory)
    return fallback
