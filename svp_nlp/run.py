"""The run directory: finished steps, a lock, and nothing else.

A step is a directory. It is complete if and only if its `step.json` exists: that is written last and holds what the
step depended on and the sha256 of each of its files. There is no other state, so what a crash can leave is a step
without `step.json`, and that step is done again.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import logging
import os
import platform
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import filelock

from svp_nlp.errors import Interrupted, RunError, RunRefused
from svp_nlp.files import append_line, read_json, remove_leftovers, sha256_file, sha256_files, write_json, write_text
from svp_nlp.ranks import ALONE, AnyRanks

log = logging.getLogger(__name__)

STEP_FILE = "step.json"
RECIPE_FILE = "recipe.resolved.json"
ENVIRONMENT_FILE = "environment.json"
LOCK_FILE = ".lock"
START = "start"  # directory of what all arms of a seed share in active learning
FULL = "full"  # the same for core-set selection: models trained on all labels
_OWNER_FILE = ".lock-owner.json"
_LIBRARIES = (
    "svp_nlp", "torch", "transformers", "datasets", "accelerate", "evaluate", "numpy", "pyarrow", "numba",
    "scikit-learn", "safetensors", "huggingface_hub", "tokenizers", "fasttext", "ray",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A finished step."""

    path: Path
    output: Mapping[str, Any]  # what the step's function returned; JSON values
    seconds: float  # work of all attempts, as far as the step knows; the time since its start otherwise
    skipped: bool  # found finished


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result; what is not installed is left out. Imports nothing."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """What the numbers of a run were measured on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    memory_gb = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    gpu = None
    torch = sys.modules.get("torch")  # a machine line is not worth two seconds of import
    if torch is not None and torch.cuda.is_available():
        gpu = torch.cuda.get_device_name(0)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "memory_gb": memory_gb, "gpu": gpu, "platform": platform.platform(terse=True)}


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


class Run:
    """A run directory that this process holds the lock of; made by `open_run`."""

    def __init__(self, directory: Path, stop_requested: Callable[[], bool], ranks: AnyRanks = ALONE) -> None:
        self.directory = directory
        self.stop_requested = stop_requested
        self.ranks = ranks
        self.steps_done = 0  # now, not found finished
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []  # get all events as well

    def log_event(self, event: Mapping[str, Any]) -> None:
        """Append to metrics.jsonl; for people and plots, never read back to decide anything."""
        if self.ranks.is_main:
            append_line(self.directory / "metrics.jsonl", {"time": now(), **event})
            for listener in self.listeners:
                listener(event)

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        do: Callable[[Path], Mapping[str, Any]],
        *,
        together: bool = False,
    ) -> Step:
        """Do a step once. Under several processes the main one does it and the others wait for what it found.

        Args:
            name: path of the step below the run directory, such as `seed-0/random/round-001/selection`.
            inputs: what the result depends on, JSON values; compared with those of a finished step.
            do: fills the directory that it is given and returns the step's output (JSON values). It may find what an
                earlier, interrupted attempt has left there. A key `seconds` in the output replaces the clock.
            together: all processes call `do`; what the main one returns counts.
        Returns:
            the step, done now or found finished.
        Raises:
            RunError: the step was finished with other inputs; names the first that differs.
            Interrupted: the process was asked to stop, before this step began.
        """
        path = self.directory / name
        inputs = json.loads(json.dumps(inputs))  # tuples become lists, as they will be when read back

        def begin() -> dict[str, Any]:
            finished = self._finished(path, name)
            if finished is not None:
                _compare_inputs(path, finished["inputs"], inputs)
                return {"output": finished["output"], "seconds": finished["seconds"], "skipped": True}
            self.ranks.refresh()
            if self.stop_requested():
                raise Interrupted(f"stopped before {name}; the same command goes on from here")
            with disk_errors(path):
                path.mkdir(parents=True, exist_ok=True)
            return {}

        def end(output: dict[str, Any], seconds: float) -> dict[str, Any]:
            seconds = float(output.pop("seconds", seconds))
            with disk_errors(path):
                record = {
                    "name": name,
                    "finished": now(),
                    "seconds": seconds,
                    "inputs": inputs,
                    "output": output,
                    "files": sha256_files(path),
                }
                write_json(path / STEP_FILE, record)
            return {"output": read_json(path / STEP_FILE)["output"], "seconds": seconds, "skipped": False}

        def work() -> tuple[dict[str, Any], float]:
            started = time.perf_counter()
            with disk_errors(path):
                return dict(do(path)), time.perf_counter() - started

        if together:
            found = self.ranks.on_main(f"begin {name}", begin)
            if not found:
                result = work()
                found = self.ranks.on_main(f"end {name}", lambda: end(*result))
        else:
            found = self.ranks.on_main(name, lambda: begin() or end(*work()))
        self.steps_done += not found["skipped"]
        return Step(path, found["output"], found["seconds"], skipped=found["skipped"])

    def _finished(self, path: Path, name: str) -> dict[str, Any] | None:
        if not (path / STEP_FILE).exists():
            return None
        record: dict[str, Any] = read_json(path / STEP_FILE)
        for file, expected in record["files"].items():
            found = sha256_file(path / file) if (path / file).is_file() else None
            if found != expected:
                log.warning("%s: %s is %s; the step is done again", name, file, "damaged" if found else "missing")
                shutil.rmtree(path)
                return None
        return record


def _compare_inputs(path: Path, before: Mapping[str, Any], now_: Mapping[str, Any]) -> None:
    for key in sorted(before.keys() | now_.keys()):
        if before.get(key) != now_.get(key):
            raise RunError(
                f"{path} was made with {key} = {_short(before.get(key))}, now it is {_short(now_.get(key))}; "
                f"use a new run directory or delete {path}"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def check_directory(
    directory: Path, *, recipe: Mapping[str, Any], differences: Callable[[Any, Any], list[str]]
) -> None:
    """Refuse a directory that cannot take this recipe; writes nothing, so `--dry-run` asks it too.

    Raises:
        RunRefused: it is a file, holds other things, or belongs to another recipe; names the keys that differ.
    """
    if directory.exists() and not directory.is_dir():
        raise RunRefused(f"{directory} is a file; name a directory with --run-dir")
    if (directory / RECIPE_FILE).exists():
        changed = differences(read_json(directory / RECIPE_FILE), json.loads(json.dumps(recipe)))
        if changed:
            raise RunRefused(
                f"{directory} was started with another recipe: {'; '.join(changed)}; "
                "use a new --run-dir, or restore the recipe"
            )
    elif directory.is_dir() and _foreign(directory):
        raise RunRefused(f"{directory} is not empty and not a run directory; name another with --run-dir")


@contextlib.contextmanager
def open_run(
    directory: Path,
    *,
    recipe: Mapping[str, Any],
    recipe_text: str,
    differences: Callable[[Any, Any], list[str]],
    stop_requested: Callable[[], bool],
) -> Iterator[Run]:
    """Create or reopen a run directory and hold its lock.

    Args:
        recipe: resolved, JSON values; a directory belongs to one recipe for ever, but for what may change.
        recipe_text: kept beside it for people.
        differences: says in words what differs between two resolved recipes and may not.
    Raises:
        RunRefused: another process works on it, it belongs to another recipe, or it is not a run directory.
        RunError: it cannot be written.
    """
    directory = Path(directory)
    check_directory(directory, recipe=recipe, differences=differences)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunRefused(f"{directory} cannot be made ({error.strerror}); name another with --run-dir") from None
    with _locked(filelock.FileLock(directory / LOCK_FILE), directory):
        remove_leftovers(directory)
        is_new = not (directory / RECIPE_FILE).exists()
        if not is_new:
            _warn_of_upgrades(directory)
        with disk_errors(directory):
            if is_new:
                environment = {"created": now(), "versions": library_versions(), "machine": machine()}
                write_json(directory / ENVIRONMENT_FILE, environment)
            if is_new or read_json(directory / RECIPE_FILE) != json.loads(json.dumps(recipe)):
                write_text(directory / "recipe.yaml", recipe_text)
                write_json(directory / RECIPE_FILE, recipe)  # last: with it, the directory is one
        yield Run(directory, stop_requested)


@contextlib.contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """A full or failing disk as a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error.filename or directory}: {error.strerror or error}; what was finished is kept: "
            "mend that and run the same command again"
        ) from error


def _foreign(directory: Path) -> bool:
    ours = {LOCK_FILE, _OWNER_FILE, "recipe.yaml", ENVIRONMENT_FILE}
    return any(p.name not in ours and not p.name.startswith(".tmp-") for p in directory.iterdir())


@contextlib.contextmanager
def _locked(lock: filelock.BaseFileLock, directory: Path) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        owner: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            owner = json.loads((directory / _OWNER_FILE).read_bytes())
        raise RunRefused(
            f"{directory} is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')} "
            f"since {owner.get('since', '?')}; wait for it, stop it, or use another --run-dir"
        ) from None
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
        (directory / _OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        (directory / _OWNER_FILE).unlink(missing_ok=True)
        lock.release()


def _warn_of_upgrades(directory: Path) -> None:
    before, after = read_json(directory / ENVIRONMENT_FILE)["versions"], library_versions()
    changed = [f"{n} {before[n]} -> {after.get(n, 'none')}" for n in before if before[n] != after.get(n)]
    if changed:
        log.warning("this run was started with other library versions (%s); results may differ", ", ".join(changed))


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM or Ctrl-C has come; a second Ctrl-C stops at once."""
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)
        log.warning(
            "%s: finishing what is begun, then stopping; resume with the same command", signal.Signals(number).name
        )

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
