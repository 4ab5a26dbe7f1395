"""Ray Data: actors on one machine or on a cluster, for pools that outgrow one machine.

What goes through Ray are descriptors of shards and, for each, how long it took. Texts are read and scores are written
by the actors themselves, so the run directory, and the pool if it is no Hub dataset, must lie on a disk that all of
them see under the same path.

Ray starts an actor that died again, and gives it its shards again, without end. So that a shard that is to blame does
not kill for ever, an actor leaves a mark before each shard (`.tmp-tried-<shard>-<attempt>` beside the parts) and takes
it away afterwards; a shard with three marks is given up.

Results are read to their end even when the run is to stop or a shard failed: a file (`.tmp-stop`) lets the actors
answer at once. Where the reader left off early, Ray Data's threads went on into a Ray that was being shut down, and
that ends the whole process without a word (seen with 2.60).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import pickle
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from svp_nlp.engines.base import EngineSpec
from svp_nlp.engines.environment import of_a_launch, processors
from svp_nlp.engines.worker import portable, rows_of
from svp_nlp.errors import EngineError, Interrupted, RecipeError
from svp_nlp.pool import Shard
from svp_nlp.scoring import OpenTask, Progress, ScoreTask, open_task, stopped_before

log = logging.getLogger(__name__)
_ATTEMPTS = 3
_CONNECT_S = 5.0
_OBJECT_STORE_BYTES = 100 * 2**20  # descriptors of shards need little; Ray takes no less than 75 MB
_STOP = ".tmp-stop"
_POLL_S = 0.2
_THREADS_S = 10.0
_READERS = ("iter_threaded", "StreamingExecutor", "ray-data-metadata-prefetch")  # threads of Ray Data that call Ray
_MOST_BLOCKS = 4096  # a block is what one actor is given at once; each costs the driver about a millisecond


class RayEngineSpec(EngineSpec):
    """Actors of Ray Data; needs `pip install 'svp_nlp[ray]'`, on a cluster on every machine."""

    kind: Literal["ray"] = "ray"
    workers: Annotated[int, Field(ge=1)] | None = Field(default=None, description="null: as many as there is room for")
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = Field(default=0.0, description="0: the workers see no GPU")
    address: str | None = Field(
        default=None,
        description="host:port of a cluster, or auto: the one that this machine is in; null: start one here",
    )


class RayEngine:
    """Starts Ray or attaches to it for each scoring, and leaves it as it was found."""

    def __init__(self, spec: RayEngineSpec) -> None:
        """Nothing is started yet."""
        self._spec = spec
        self.workers = spec.workers or 1

    def check(self) -> None:
        """Look whether Ray is installed and, for a cluster, whether it answers and has room.

        Raises:
            RecipeError: it is not or has none; says what to do.
        """
        if self._spec.address is None:
            _import_ray()
            return
        with self._attached():
            pass

    def map_shards(self, task: ScoreTask, shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
        """Score these shards; Ray starts actors that died again, up to three times over one shard.

        Raises:
            Interrupted: asked to stop; what was finished is stored.
            EngineError: an actor died three times over one shard, or Ray failed; names the rows.
        """
        if not shards:
            return
        if stop_requested():
            raise stopped_before(shards[0])
        task, spec, progress = _with_absolute_paths(task), self._spec, Progress(len(shards))
        task.store_dir.mkdir(parents=True, exist_ok=True)
        for mark in task.store_dir.glob(_mark("*", "*")):
            mark.unlink()
        by_index = {shard.index: shard for shard in shards}
        items = [dataclasses.asdict(shard) for shard in shards]
        with self._attached() as ray:
            results = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS)).map_batches(
                Actor,
                fn_constructor_args=(task, spec.cpus_per_worker, spec.gpus_per_worker),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(shards))),
                num_cpus=spec.cpus_per_worker,
                num_gpus=spec.gpus_per_worker,
            )
            errors: list[Exception] = []
            try:
                with _stop_file(task, lambda: bool(errors) or stop_requested()):
                    for row in results.iter_rows():
                        if row["error"]:
                            errors.append(pickle.loads(row["error"]))  # noqa: S301  # from our own actor
                        else:
                            progress.add(by_index[row["index"]])
            except ray.exceptions.RayError as error:
                raise _failed(error) from error
            if errors:
                raise min(errors, key=lambda error: isinstance(error, Interrupted))

    @contextlib.contextmanager
    def _attached(self) -> Iterator[Any]:
        """Ray, running and quiet."""
        ray = _import_ray()
        spec = self._spec
        ours = not ray.is_initialized()
        with _quiet(ray):
            try:
                on_sigterm = signal.getsignal(signal.SIGTERM)
                if ours and spec.address is None:
                    _start(ray, cpus=(spec.workers or processors()) * max(spec.cpus_per_worker, 1.0))
                elif ours:
                    _attach(ray, spec.address or "auto")
                # Ray ends this process on SIGTERM; the run wants to finish what it has begun.
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, on_sigterm)
                self.workers = self._room(ray, started_here=ours and spec.address is None)
                yield ray
            finally:
                if ours:
                    _await_readers()
                    ray.shutdown()  # of a cluster that we did not start, it takes this process's leave

    def _room(self, ray: Any, *, started_here: bool) -> int:
        spec, found = self._spec, ray.cluster_resources()
        cpus, gpus = found.get("CPU", 0.0), found.get("GPU", 0.0)
        # One CPU of a Ray that we started is for its own bookkeeping, not for a worker.
        room = spec.workers or processors() if started_here else int(cpus / spec.cpus_per_worker)
        if spec.gpus_per_worker:
            room = min(room, int(gpus / spec.gpus_per_worker))
        has = f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs"
        if not room:
            raise RecipeError(
                f"engine: one worker wants {spec.cpus_per_worker:g} CPUs and {spec.gpus_per_worker:g} GPUs, {has}; "
                "lower cpus_per_worker or gpus_per_worker, or add machines"
            )
        if spec.workers and room < spec.workers:
            log.warning("engine: %d workers were asked for, %s: there is room for %d", spec.workers, has, room)
        return min(spec.workers or room, room)


class Actor:
    """What runs on the workers; Ray wants a class. It opens the task once and answers with errors, not by raising them.

    An exception would come out of Ray Data wrapped, logged and, for some types, tried again.
    """

    def __init__(self, task: ScoreTask, cpus: float, gpus: float) -> None:
        """Runs before anything else in a fresh process of Ray."""
        for name in filter(of_a_launch, list(os.environ)):
            del os.environ[name]
        os.environ.setdefault("SVP_NUM_THREADS", str(max(1, int(cpus))))
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._opened: OpenTask | None = None
        self._task = task

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Score the one shard in this batch."""
        shard = Shard(*(int(batch[name][0]) for name in ("index", "start", "stop")))
        seconds, answer = 0.0, b""
        try:
            if self._stop_requested():
                raise stopped_before(shard)
            if self._opened is None:
                _check_visible(self._task)
                self._opened = open_task(self._task)
            with _marked(self._task, shard):
                seconds = self._score(shard)
        except Exception as error:
            answer = pickle.dumps(portable(error, None if self._opened is None else shard))
        return {"index": [shard.index], "rows": [len(shard)], "seconds": [seconds], "error": [answer]}

    def _score(self, shard: Shard) -> float:
        assert self._opened is not None
        return self._opened.score(shard, stop_requested=self._stop_requested)

    def _stop_requested(self) -> bool:
        return (self._task.store_dir / _STOP).exists()


def _mark(index: int | str, attempt: int | str) -> str:
    return f".tmp-tried-{index}-{attempt}"


@contextlib.contextmanager
def _marked(task: ScoreTask, shard: Shard) -> Iterator[None]:
    """Marks that stay when this process dies inside.

    Raises:
        EngineError: there are three already.
    """
    marks = list(task.store_dir.glob(_mark(shard.index, "*")))
    if len(marks) >= _ATTEMPTS:
        raise EngineError(
            f"{len(marks)} workers died over {rows_of(shard)} (out of memory?); look at the texts there, give the "
            "workers more memory or have fewer of them, then run the same command again"
        )
    marks.append(task.store_dir / _mark(shard.index, len(marks) + 1))
    marks[-1].touch()
    try:
        yield
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


@contextlib.contextmanager
def _stop_file(task: ScoreTask, stop_requested: Callable[[], bool]) -> Iterator[None]:
    """While inside, the wish to stop becomes a file that all actors see."""
    file, finished = task.store_dir / _STOP, threading.Event()
    file.unlink(missing_ok=True)

    def watch() -> None:
        while not finished.wait(_POLL_S):
            if stop_requested():
                file.touch()
                return

    watcher = threading.Thread(target=watch, name="stop of Ray's actors", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        file.unlink(missing_ok=True)


def _await_readers() -> None:
    until = time.monotonic() + _THREADS_S
    for thread in threading.enumerate():
        if thread.name.startswith(_READERS):
            thread.join(max(0.0, until - time.monotonic()))


def _check_visible(task: ScoreTask) -> None:
    for path in (task.predictor_dir, task.store_dir):
        if not path.is_dir():
            raise EngineError(
                f"a worker on {socket.gethostname()} does not see {path}; put the run directory (--run-dir) on a disk "
                "that all machines of the cluster share under the same path"
            )


def _with_absolute_paths(task: ScoreTask) -> ScoreTask:
    # An actor on another machine, and some on this one, have another working directory.
    pool = Path(task.pool_ref.path)
    return dataclasses.replace(
        task,
        pool_ref=dataclasses.replace(task.pool_ref, path=str(pool.resolve())) if pool.exists() else task.pool_ref,
        predictor_dir=task.predictor_dir.resolve(),
        store_dir=task.store_dir.resolve(),
        features_file=None if task.features_file is None else task.features_file.resolve(),
        rows_file=None if task.rows_file is None else task.rows_file.resolve(),
    )


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user wants it
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise RecipeError(f"engine: kind ray cannot be used ({error}); pip install 'svp_nlp[ray]'") from None
    return ray


def _start(ray: Any, *, cpus: float) -> None:
    try:
        ray.init(
            address="local",  # even where RAY_ADDRESS is set: the recipe says so
            num_cpus=int(cpus) + 1,  # of Ray's own bookkeeping; what the operating system gives is not bound by it
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"Ray could not be started here ({_in_one_line(error)}); use kind: processes") from error


def _attach(ray: Any, address: str) -> None:
    unreachable = f"engine: no Ray cluster answers at {address}"
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or "/" in address:
            raise RecipeError(f"engine: address is {address!r}; expected auto or host:port, as `ray start` prints it")
        try:  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise RecipeError(f"{unreachable} ({error}); start one with `ray start --head`, or correct it") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"{unreachable} ({_in_one_line(error)}); if it wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None


def _in_one_line(error: Exception) -> str:
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:300]  # Ray colours what it says


def _failed(error: Exception) -> EngineError:
    missing = re.search(r"No module named '([\w.]+)'", str(error))
    if missing:
        return EngineError(
            f"Ray: a worker has no module {missing[1]!r}; install svp_nlp[ray], in the same version, on every machine "
            "of the cluster, then run the same command again"
        )
    return EngineError(f"Ray: {_in_one_line(error)}; what was finished is kept: run the same command again")


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    context, names = ray.data.DataContext.get_current(), ("enable_progress_bars", "print_on_execution_start")
    before = {name: getattr(context, name) for name in names if hasattr(context, name)}
    logger = logging.getLogger("ray.data")
    level = logger.level
    for name in before:
        setattr(context, name, False)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)


spec_class = RayEngineSpec
engine_class = RayEngine
