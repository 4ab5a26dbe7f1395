"""Worker processes on this machine, each with its own copy of the predictor; a worker that dies costs one shard.

Workers are fresh interpreters that talk through a socket pair, not forks (threads and CUDA do not survive a fork) and
not multiprocessing's spawn (it runs the caller's script again, and has none to run in a notebook). concurrent.futures
is no choice either: its pool is broken for good when one worker dies.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from svp_nlp.engines.base import EngineSpec
from svp_nlp.engines.environment import of_a_launch, processors
from svp_nlp.engines.worker import rows_of
from svp_nlp.errors import EngineError, RecipeError
from svp_nlp.pool import Shard
from svp_nlp.scoring import Progress, ScoreTask, stopped_before

log = logging.getLogger(__name__)
_POLL_S = 0.2  # how soon a request to stop is seen
_END_S = 5.0  # a worker that is no longer needed ends at once, unless native code holds the interpreter
_DEATHS_PER_SHARD = 2
_THREADS = ("OMP_NUM_THREADS", "SVP_NUM_THREADS", "RAYON_NUM_THREADS")


class ProcessesEngineSpec(EngineSpec):
    """Worker processes on this machine; with GPUs, one after the other is given to them."""

    kind: Literal["processes"] = "processes"
    workers: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="null: as many as processors that this process may use"
    )


@dataclass(eq=False)
class _Worker:
    """A worker process as its parent sees it; `shard` is what it works on."""

    number: int
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    ready: bool = False
    shard: Shard | None = None

    @property
    def busy(self) -> bool:
        return self.shard is not None

    @property
    def name(self) -> str:
        return f"worker {self.number} (pid {self.process.pid})"


class ProcessesEngine:
    """Gives each worker the next shard as soon as it is done with one."""

    def __init__(self, spec: ProcessesEngineSpec) -> None:
        """Nothing is started yet."""
        self.workers = spec.workers or processors()

    def check(self) -> None:
        """Processes can be had on Linux and macOS.

        Raises:
            RecipeError: this is Windows, where a child cannot take over a socket.
        """
        if os.name != "posix":
            raise RecipeError(f"engine: kind processes needs Linux or macOS, this is {sys.platform}; use kind: local")

    def map_shards(self, task: ScoreTask, shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
        """Score these shards; an error in a worker ends it, the death of a worker does not.

        Raises:
            Interrupted: asked to stop; what the workers had begun is finished and stored.
            EngineError: all workers have died, or one shard was the last of two of them; names its rows.
        """
        if not shards:
            return
        count = min(self.workers, len(shards))
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(_started(number, count, task)) for number in range(1, count + 1)]
            _share_out(workers, shards, stop_requested=stop_requested)


def _share_out(workers: list[_Worker], shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
    to_do, alive, deaths, progress = deque(shards), list(workers), Counter[int](), Progress(len(shards))
    while to_do or any(worker.busy for worker in alive):
        if not alive:
            left = f"{len(to_do)} of {len(shards)} shards are left, the next {rows_of(to_do[0])}"
            raise EngineError(f"all {len(workers)} workers have died; {left}: run the same command again")
        stopping = stop_requested()
        if stopping and not any(worker.busy for worker in alive):
            raise stopped_before(to_do[0])
        for worker in [worker for worker in alive if worker.ready and not worker.busy]:
            if not to_do or stopping:
                break
            worker.shard = to_do.popleft()
            with contextlib.suppress(OSError):  # it has died: its end of the pair says so below
                worker.connection.send(worker.shard)
        heard = wait([worker.connection for worker in alive], timeout=_POLL_S)
        for worker in [worker for worker in alive if worker.connection in heard]:
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError):
                alive.remove(worker)
                _bury(worker, deaths)
                if worker.shard is not None:
                    to_do.append(worker.shard)  # last: if it is to blame, all else is stored by then
                continue
            if kind == "error":
                raise value
            if kind == "log":
                log.log(value[0], "%s: %s", worker.name, value[1])
                continue
            if worker.shard is not None:
                progress.add(worker.shard)
            worker.ready, worker.shard = True, None


def _bury(worker: _Worker, deaths: Counter[int]) -> None:
    """Say how a worker died and over what.

    Raises:
        EngineError: it is the second that died over this shard.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(_END_S)
    how = _how_it_ended(worker.process.returncode)
    if worker.shard is None:
        log.warning("%s %s before it was given rows; its last words are above, if any", worker.name, how)
        return
    rows = rows_of(worker.shard)
    deaths[worker.shard.index] += 1
    if deaths[worker.shard.index] >= _DEATHS_PER_SHARD:
        raise EngineError(
            f"{worker.name} {how} over {rows}, as another one did before; look at the texts there, give the workers "
            "more memory or have fewer of them, then run the same command again"
        )
    log.warning("%s %s over %s; another worker takes them", worker.name, how, rows)


def _how_it_ended(returncode: int | None) -> str:
    if returncode is None:
        return "does not answer"
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    hint = " (out of memory?)" if returncode == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-returncode).name}{hint}"


@contextlib.contextmanager
def _started(number: int, count: int, task: ScoreTask) -> Iterator[_Worker]:
    """A worker that has its task; it is gone when the block is left."""
    ours, theirs = socket.socketpair()
    descriptor = theirs.fileno()
    # The same sys.path as here, and nothing of the working directory's that this process did not have.
    code = f"import sys; sys.path[:] = {sys.path!r}; from svp_nlp.engines.worker import main; main({descriptor})"
    with theirs:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,  # stdout holds results
            pass_fds=[descriptor],
            env=_environment(number, count),
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
    worker = _Worker(number, process, Connection(ours.detach()))
    try:
        with contextlib.suppress(OSError):  # it has died already, which is noticed where it is listened to
            worker.connection.send(task)
        yield worker
    finally:
        worker.connection.close()  # it ends by itself on that
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _has_descriptor(stream: Any) -> bool:
    try:
        return isinstance(stream.fileno(), int)
    except (AttributeError, OSError, ValueError):  # a notebook's, or a test's
        return False


def _environment(number: int, count: int) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not of_a_launch(name)}
    for name in _THREADS:
        environment.setdefault(name, str(max(1, processors() // count)))
    gpus = _gpus()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[(number - 1) % len(gpus)]
    return environment


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    if not Path("/dev/nvidiactl").exists():  # torch takes seconds to import, and fastText has no use for it
        return []
    count: int = importlib.import_module("torch").cuda.device_count()
    return [str(number) for number in range(count)]


spec_class = ProcessesEngineSpec
engine_class = ProcessesEngine
