"""Durable files: everything that must survive a crash is written here.

A file or directory appears under its final name only when it is complete: it is written under a temporary
name beside it, flushed to disk, and renamed. What a crash leaves behind is a temporary name (`.tmp-…`),
which `remove_leftovers` deletes.

Every durable write passes `fault_point`, so that a test can stop the process (`SVP_CRASH_AT=n`) or let the disk
be full (`SVP_ENOSPC_AT=n`) at the n-th write of a run, for every n.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svp_nlp.errors import RecipeError, RunError

_TMP_PREFIX = ".tmp-"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_writes = 0


def fault_point() -> None:
    """Count one durable write; stop here when a test asked for it. Costs two look-ups in the environment."""
    global _writes
    _writes += 1
    if os.environ.get("SVP_CRASH_AT") == str(_writes):
        os._exit(137)  # as kill -9: no clean-up, no flush
    if os.environ.get("SVP_ENOSPC_AT") == str(_writes):
        raise OSError(errno.ENOSPC, "No space left on device")


def safe_name(name: str, what: str = "name") -> str:
    """Return `name` if it can be a file name on every system and cannot leave its directory.

    Raises:
        RecipeError: anything but 1 to 96 letters, digits, `.`, `_`, `-`, starting with a letter or digit.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise RecipeError(
            f"{what} {name!r} cannot be used as a file name: use 1 to 96 letters, digits, '.', '_' or '-', "
            "starting with a letter or a digit"
        )
    return name


def fsync(path: Path) -> None:
    """Have what a file or directory holds on disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tmp_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{_TMP_PREFIX}{uuid.uuid4().hex[:8]}-{path.name[:80]}"


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it becomes `path`, on failure it is gone."""
    tmp = _tmp_beside(path)
    try:
        yield tmp
        fault_point()
        fsync(tmp)
        tmp.replace(path)
        fsync(path.parent)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary directory to fill; on success it becomes `path`, on failure it is gone.

    An older `path` is moved aside first and deleted last, so a crash between leaves at least one of them whole.
    """
    tmp = _tmp_beside(path)
    tmp.mkdir()
    old: Path | None = None
    try:
        yield tmp
        fault_point()
        for file in sorted(tmp.rglob("*")):
            fsync(file)
        fsync(tmp)
        if path.exists():
            old = _tmp_beside(path)
            path.replace(old)
        tmp.replace(path)
        fsync(path.parent)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        if old is not None and not path.exists():
            old.replace(path)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either the old content or all of the new one."""
    with atomic_file(path) as tmp:
        tmp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """As `write_bytes`; keys keep their order, NaN is refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that svp_nlp wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run again") from None


def json_lines(data: bytes) -> Iterator[Any]:
    """The values of JSON lines; read at once, which takes a third of the time of one after the other.

    Raises:
        ValueError: a line is no JSON; those before it have been yielded.
    """
    lines = data.splitlines()
    try:
        values = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        values = []
    yield from values if len(values) == len(lines) else map(json.loads, lines)


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line to a log. A crash may cut the last line short; `read_lines` then leaves it out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_files(directory: Path) -> dict[str, str]:
    """Relative name -> hex sha256 of each file below `directory`, sorted; temporary leftovers are not counted."""
    return {
        file.relative_to(directory).as_posix(): sha256_file(file)
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not any(p.startswith(_TMP_PREFIX) for p in file.relative_to(directory).parts)
    }


def remove_leftovers(directory: Path) -> int:
    """Delete what a crashed process left under temporary names below `directory`; returns how many."""
    found = list(directory.rglob(f"{_TMP_PREFIX}*")) if directory.is_dir() else []
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(found)


def shipped_directory(name: str) -> Path:
    """`recipes` or `hub_cards`: inside the package in a wheel, beside it in a checkout.

    Raises:
        RunError: neither exists.
    """
    package = Path(__file__).resolve().parent
    for directory in (package / name, package.parent / name):
        if directory.is_dir():
            return directory
    raise RunError(f"{package / name} is missing; install svp_nlp again")
