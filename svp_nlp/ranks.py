"""Several processes of one launch: who is who, and how they speak with each other, through files. No torch here.

Only training uses collective calls. All else is one process working while the others wait for a file (a collective
would time out), or all of them taking shards. A session is a directory `.ranks/<id>` of the run:

    alive-1        a counter, its process and host: a rank whose counter stands still has stalled
    failed         which rank failed first, and of what
    main-000004    what rank 0 found in the 4th piece of work that it did for all
    claim-2-000017 who scores shard 17 in the 2nd scoring
    stop           some rank was asked to stop
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from svp_nlp import errors
from svp_nlp.errors import EngineError, Interrupted, RecipeError, SVPError, scrub, told

T = TypeVar("T")

SESSIONS = ".ranks"
STOP_FILE = "stop"
STALL_S = 40.0  # of a silent rank; with the grace below, all ranks have ended within a minute
_GRACE_S = 10.0  # for a rank to end by itself after another one failed, before its watchdog ends it
_BEAT_S = 1.0
_POLL_S = (0.01, 0.5)


@dataclass(frozen=True)
class Launch:
    """What the launcher says (torchrun, `accelerate launch`, Slurm with the same variables)."""

    rank: int
    world_size: int


def current_launch() -> Launch:
    """Rank and number of processes from RANK and WORLD_SIZE; alone without them.

    Raises:
        RecipeError: one of them is not a number, or they do not fit each other.
    """
    values = [os.environ.get(name, "") or default for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
    if not all(value.isdecimal() for value in values) or not int(values[0]) < max(int(values[1]), 1):
        raise RecipeError(
            f"RANK={values[0]} and WORLD_SIZE={values[1]} do not name a process of a launch; unset them, or start with "
            "`accelerate launch`"
        )
    return Launch(int(values[0]), max(int(values[1]), 1))


def pack_error(error: BaseException) -> dict[str, Any]:
    """An error as JSON, for another process."""
    if isinstance(error, SVPError):
        return {"kind": type(error).__name__, "message": scrub(str(error))}
    return {"kind": EngineError.__name__, "message": scrub(f"{type(error).__name__}: {' '.join(str(error).split())}")}


def unpack_error(packed: dict[str, Any]) -> SVPError:
    """The error that `pack_error` was given; what is not ours becomes an EngineError."""
    kind = getattr(errors, packed["kind"], EngineError)
    error: SVPError = kind(packed["message"])
    return error


class Ranks:
    """The processes of a launch, seen from one of them; `with` starts and ends its part in the session.

    All of them call the same methods in the same order.
    """

    def __init__(
        self,
        directory: Path,
        launch: Launch,
        *,
        asked: Callable[[], bool] = lambda: False,
        stall_s: float | None = None,
    ) -> None:
        """`directory` is one that `new_session` made, the same for all; `asked`: was this process told to stop?"""
        self.rank, self.world_size = launch.rank, launch.world_size
        self.directory, self._asked = directory, asked
        self._stall_s = float(os.environ.get("SVP_STALL_S", STALL_S)) if stall_s is None else stall_s
        self._calls = 0
        self._stop = False
        self._failure: tuple[int, dict[str, Any]] | None = None  # of another rank
        self._beats: dict[int, tuple[str, float]] = {}  # of the others: the last one, and when it was seen first
        self._ended = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="ranks", daemon=True)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> Ranks:
        self._beat(0)
        self._watchdog.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        known = None
        if error is not None:
            # A launcher stops the others when one has died: that is no stop in good order. And "connection closed by
            # peer" says less than what closed it.
            known = self._known_failure(wait_s=3.0 if not isinstance(error, SVPError) else 0.0)
            if known is None and not isinstance(error, Interrupted):
                self._tell_failure(self.rank, pack_error(error))
        with contextlib.suppress(OSError):
            self._write(f"done-{self.rank}", {})
        self._ended.set()
        self._watchdog.join()
        if error is None and self.is_main:
            self._wait(self._all_done, limit_s=10)
            if self._all_done():  # else it stays for those who come late; the next launch deletes it
                shutil.rmtree(self.directory, ignore_errors=True)
        if known is not None and (isinstance(error, Interrupted) or not isinstance(error, SVPError)):
            raise self._error_of(*known) from error

    def _all_done(self) -> bool:
        return all((self.directory / f"done-{rank}").exists() for rank in range(self.world_size))

    def stop_requested(self) -> bool:
        """Whether any rank was asked to stop; of the others it is known within a second."""
        if not self._stop and self._asked():
            (self.directory / STOP_FILE).touch()
            self._stop = True
        return self._stop

    def refresh(self) -> None:
        """Look now whether another rank was asked to stop."""
        self._look()

    def on_main(self, what: str, fn: Callable[[], T]) -> T:
        """Run `fn` on rank 0; every rank gets its value (JSON), or raises its error.

        Raises:
            EngineError: the ranks disagree about what comes next, or another rank failed.
        """
        self._calls += 1
        name = f"main-{self._calls:06d}"
        if self.is_main:
            try:
                value = fn()
            except SVPError as error:
                self._write(name, {"what": what, "error": pack_error(error)})
                raise
            self._write(name, {"what": what, "value": value})
            return value
        path = self.directory / name
        self._wait(path.exists)
        answer = json.loads(path.read_bytes())
        if answer["what"] != what:
            raise EngineError(
                f"rank {self.rank} waits for {what!r}, rank 0 did {answer['what']!r}: start all processes with the "
                "same recipe and options, on the same installation"
            )
        if "error" in answer:
            raise told(unpack_error(answer["error"]))
        result: T = answer["value"]
        return result

    def claim(self, numbers: Sequence[int]) -> Iterator[int]:
        """Numbers that this rank takes, each taken by exactly one; starts where no other rank starts."""
        self._calls += 1
        start = self.rank * len(numbers) // self.world_size
        for number in [*numbers[start:], *numbers[:start]]:
            with contextlib.suppress(FileExistsError):
                path = self.directory / f"claim-{self._calls}-{number:06d}"
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                yield number

    def gather(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The arrays of all ranks on rank 0, by rank; an empty list elsewhere."""
        self._calls += 1
        paths = [self.directory / f"gather-{self._calls:06d}-{rank}.npy" for rank in range(self.world_size)]
        with self._appear(paths[self.rank]) as tmp, tmp.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        if not self.is_main:
            return []
        self._wait(lambda: all(path.exists() for path in paths), stoppable=True)
        return [np.load(path, allow_pickle=False) for path in paths]

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait for the others to finish something.

        Raises:
            Interrupted: a rank was asked to stop.
            EngineError: another rank failed; names it.
        """
        self._wait(done, stoppable=True)

    def _wait(self, done: Callable[[], bool], *, stoppable: bool = False, limit_s: float | None = None) -> None:
        pause, until = _POLL_S[0], None if limit_s is None else time.monotonic() + limit_s
        while not done():
            if self._failure is not None and limit_s is None:
                raise self._error_of(*self._failure)
            if self._stop and limit_s is None and (stoppable or self._others_left()):
                raise Interrupted("stopped while other processes were working; the same command goes on from here")
            if until is not None and time.monotonic() > until:
                return
            time.sleep(pause)
            pause = min(2 * pause, _POLL_S[1])

    def _others_left(self) -> bool:
        return any((self.directory / f"done-{rank}").exists() for rank in range(self.world_size) if rank != self.rank)

    def _error_of(self, rank: int, failure: dict[str, Any]) -> SVPError:
        error = unpack_error(failure)
        if rank == 0 and failure.get("told", True):
            return told(error)
        return EngineError(f"rank {rank} failed: {failure['message']}")

    def _known_failure(self, *, wait_s: float) -> tuple[int, dict[str, Any]] | None:
        until = time.monotonic() + wait_s
        while True:
            with contextlib.suppress(OSError):
                self._look()
                self._look_for_silence()
            if self._failure is not None or time.monotonic() >= until:
                return self._failure
            time.sleep(0.1)

    def _watch(self) -> None:
        """The watchdog: says that this rank lives, looks whether the others do, ends this one when one of them failed.

        It must end the process itself: the main thread may hang in a collective call, where no exception reaches it.
        """
        beats, failed_at = 0, None
        while not self._ended.wait(_BEAT_S):
            beats += 1
            # One by one: what one of them cannot do keeps none of the others.
            for look in (partial(self._beat, beats), self.stop_requested, self._look, self._look_for_silence):
                with contextlib.suppress(OSError):
                    look()
            if self._failure is None:
                continue
            failed_at = failed_at or time.monotonic()
            if time.monotonic() - failed_at > _GRACE_S and not self._ended.is_set():
                sys.stderr.write(f"error: [rank {self.rank}] {self._error_of(*self._failure)}\n")
                sys.stderr.flush()
                os._exit(EngineError.exit_code)  # what is finished is on disk

    def _beat(self, number: int) -> None:
        with self._appear(self.directory / f"alive-{self.rank}") as tmp:
            tmp.write_text(f"{number} {os.getpid()} {socket.gethostname()}", encoding="utf-8")

    def _tell_failure(self, rank: int, failure: dict[str, Any]) -> None:
        if not (self.directory / "failed").exists():  # what comes later mostly follows from it
            self._write("failed", {"rank": rank, **failure})

    def _look(self) -> None:
        if self._failure is None and not self.directory.is_dir():
            message = f"{self.directory} is gone: another launch has taken over this run"
            self._failure = 0, {"kind": EngineError.__name__, "message": message, "told": False}
        if not self._stop and (self.directory / STOP_FILE).exists():
            self._stop = True
        path = self.directory / "failed"
        if self._failure is None and path.exists():
            failure = json.loads(path.read_bytes())
            if failure["rank"] != self.rank:
                self._failure = failure["rank"], failure

    def _look_for_silence(self) -> None:
        # The main process looks after all, the others after it: on a shared disk, looks of all at all would be many.
        now = time.monotonic()
        for rank in range(1, self.world_size) if self.is_main else (0,):
            if (self.directory / f"done-{rank}").exists():
                continue
            beat = ""
            with contextlib.suppress(OSError):
                beat = (self.directory / f"alive-{rank}").read_text(encoding="utf-8")
            if rank not in self._beats or self._beats[rank][0] != beat:
                self._beats[rank] = beat, now
            _, pid, host = beat.split() if beat else ("", "?", "?")
            gone = host == socket.gethostname() and not _exists(int(pid))
            if gone and (self.directory / f"done-{rank}").exists():
                continue  # it ended well in the meantime
            if self._failure is None and (gone or now - self._beats[rank][1] > self._stall_s):
                what = "has died" if gone else f"has not been heard from for {self._stall_s:.0f} s"
                then = "what was finished is kept: run the same command again"
                message = f"process {pid} on {host} {what}; {then}"
                self._failure = rank, {"kind": EngineError.__name__, "message": message, "told": False}
                self._tell_failure(*self._failure)

    def _write(self, name: str, value: Any) -> None:
        with self._appear(self.directory / name) as tmp:
            tmp.write_text(json.dumps(value), encoding="utf-8")

    @contextlib.contextmanager
    def _appear(self, path: Path) -> Iterator[Path]:
        # Whole or absent, but not flushed to the disk: a session does not outlive its processes.
        tmp = path.with_name(f".{path.name}-{self.rank}-{threading.get_ident()}")
        yield tmp
        tmp.replace(path)


def new_session(run_dir: Path) -> Path:
    """A new session directory; those of earlier launches are deleted. The caller holds the lock of the run."""
    shutil.rmtree(run_dir / SESSIONS, ignore_errors=True)
    directory = run_dir / SESSIONS / uuid.uuid4().hex[:12]
    directory.mkdir(parents=True)
    return directory


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


class _Alone:
    """The one process of a launch of one."""

    rank, world_size, is_main = 0, 1, True

    def on_main(self, what: str, fn: Callable[[], T]) -> T:
        """Run `fn`."""
        return fn()

    def refresh(self) -> None:
        """There is no other."""

    def gather(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The array."""
        return [array]


ALONE = _Alone()
AnyRanks = Ranks | _Alone
