"""Scores of a pool, or of some rows of it: a picklable task, cut into shards that anybody may do in any order.

The scores of a row do not depend on who computes them: shards are cut by the pool, batches inside the shard, and
pointwise strategies look at one row at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import IntK, check_probs, fingerprint_array, fingerprint_json
from svp_nlp.errors import ImageError, Interrupted, PoolError, SignalError
from svp_nlp.models import load_predictor
from svp_nlp.models.base import FeaturePredictor, Prediction, Predictor
from svp_nlp.pool import Pool, PoolRef, Shard, cut
from svp_nlp.store import SignalStore
from svp_nlp.strategies import get_strategy

log = logging.getLogger(__name__)
_BATCHES_PER_SHARD = 4  # the most that is lost when a process ends
_SECONDS_BETWEEN_LINES = 10.0


def _never() -> bool:
    return False


@dataclass(frozen=True)
class ScoreTask:
    """What is scored with what, and where the scores go. Small and picklable: workers open the rest themselves.

    Args:
        strategies: names of pointwise strategies, each becomes a signal of its name.
        keep: of `probs` and `embeddings`, those to store as signals as well.
        features_file: .npy [N, D] that the predictor's head reads in place of the rows; None: the rows.
        rows_file: .npy int64 [R], ascending positions of the rows that are scored, which all signals and shards then
            count by; None: all N.
    """

    pool_ref: PoolRef
    predictor_dir: Path
    predictor_fingerprint: str
    store_dir: Path
    num_rows: int
    rows_per_batch: int
    strategies: tuple[str, ...]
    keep: tuple[str, ...] = ()
    features_file: Path | None = None
    rows_file: Path | None = None

    @cached_property
    def num_scored(self) -> int:
        """R: how many rows are scored."""
        return self.num_rows if self.rows_file is None else len(np.load(self.rows_file, allow_pickle=False))

    @property
    def signal_names(self) -> tuple[str, ...]:
        return (*self.strategies, *self.keep)

    @cached_property
    def key(self) -> str:
        """What a finished shard must agree with to be used again."""
        parts = [self.predictor_fingerprint, self.num_rows, self.rows_per_batch, sorted(self.signal_names)]
        if self.rows_file is not None:
            parts.append(fingerprint_array(np.load(self.rows_file)))
        return fingerprint_json(parts)

    def store(self) -> SignalStore:
        return SignalStore(self.store_dir, self.num_scored, key=self.key)

    def shards(self) -> list[Shard]:
        return cut(self.num_scored, self.rows_per_batch * _BATCHES_PER_SHARD)


def score_shard(
    task: ScoreTask,
    shard: Shard,
    *,
    pool: Pool,
    predictor: Predictor,
    rows_R: IntK | None = None,
    stop_requested: Callable[[], bool] = _never,
) -> dict[str, npt.NDArray[Any]]:
    """Signals of one shard.

    Args:
        rows_R: what `task.rows_file` holds.
        stop_requested: asked between batches: a shard of a large model takes minutes, and launchers do not wait for so
            long before they kill.

    Returns:
        name -> array [rows of the shard, ...], float32.
    Raises:
        Interrupted: asked to stop with batches left to do.
        SignalError: the predictor gave NaN or no probabilities; names the first position.
        PoolError: a row cannot be read; names the position of a damaged image.
    """
    signals: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in task.signal_names}
    start = shard.start
    for prediction in _predictions(task, shard, pool=pool, predictor=predictor, rows_R=rows_R):
        stop = start + len(prediction.probs_BC)
        if task.strategies or "probs" in task.keep:  # an encoder alone gives none
            try:
                check_probs(prediction.probs_BC)
            except SignalError as error:
                raise SignalError(f"{_where(start, stop, rows_R)}: {error}") from None
        arrays = {"probs": prediction.probs_BC}
        for name in task.strategies:
            signals[name].append(get_strategy(name).scores(arrays, seed=0))
        if "probs" in task.keep:
            signals["probs"].append(prediction.probs_BC)
        if "embeddings" in task.keep:
            assert prediction.embeddings_BD is not None
            signals["embeddings"].append(prediction.embeddings_BD)
        start = stop
        if start < shard.stop and stop_requested():
            raise stopped_before(shard)
    return {name: np.concatenate(parts) for name, parts in signals.items()}


def _predictions(
    task: ScoreTask, shard: Shard, *, pool: Pool, predictor: Predictor, rows_R: IntK | None
) -> Iterator[Prediction]:
    features_ND = None if task.features_file is None else np.load(task.features_file, mmap_mode="r", allow_pickle=False)

    def of(start: int, stop: int) -> Prediction:
        if features_ND is not None:
            head = cast(FeaturePredictor, predictor)
            return head.predict_features(features_ND[slice(start, stop) if rows_R is None else rows_R[start:stop]])
        if rows_R is None:
            rows = next(pool.batches(Shard(shard.index, start, stop), stop - start))
        else:
            rows = pool.take(rows_R[start:stop])
        return predictor.predict(rows, embeddings="embeddings" in task.keep)

    for start in range(shard.start, shard.stop, task.rows_per_batch):
        stop = min(start + task.rows_per_batch, shard.stop)
        try:
            yield of(start, stop)
        except ImageError as error:
            row = start + error.row
            position = row if rows_R is None else rows_R[row]
            raise PoolError(f"the image at pool position {position} {error.reason}") from None
        except PoolError as error:
            raise PoolError(f"{_where(start, stop, rows_R)}: {error}") from None


def _where(start: int, stop: int, rows_R: IntK | None) -> str:
    of = "" if rows_R is None else f" of the {len(rows_R):,} that are scored"
    return f"batch of rows {start:,} to {stop:,}{of}"


@dataclass(frozen=True)
class OpenTask:
    """A task with its pool and its predictor: what a worker opens once, while shards come and go."""

    task: ScoreTask
    pool: Pool
    predictor: Predictor
    store: SignalStore
    rows_R: IntK | None = None

    def score(self, shard: Shard, *, stop_requested: Callable[[], bool] = _never) -> float:
        """Score a shard and store it durably; returns the seconds that the scoring took.

        Raises:
            Interrupted: asked to stop between two batches; nothing of the shard is stored.
        """
        started = time.perf_counter()
        columns = score_shard(
            self.task, shard, pool=self.pool, predictor=self.predictor, rows_R=self.rows_R,
            stop_requested=stop_requested,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        self.store.write(shard, seconds=seconds, **columns)
        return seconds


def open_task(task: ScoreTask) -> OpenTask:
    """Open what a task names, in the process that is going to score.

    Raises:
        PoolError: the pool cannot be opened, or has another number of rows here.
        ModelError: the predictor is missing or damaged.
    """
    pool = task.pool_ref.open()
    if len(pool) != task.num_rows:
        raise PoolError(
            f"{task.pool_ref.path} [{task.pool_ref.split}] has {len(pool):,} rows here, the run began with "
            f"{task.num_rows:,}; every worker must see the same files"
        )
    rows_R = None if task.rows_file is None else np.load(task.rows_file, allow_pickle=False)
    return OpenTask(task, pool, load_predictor(task.predictor_dir), task.store(), rows_R)


class Progress:
    """Says how far a scoring is, every few seconds."""

    def __init__(self, shards: int) -> None:
        """`shards`: how many there are to score."""
        self._shards, self._done, self._said = shards, 0, time.monotonic()

    def add(self, shard: Shard) -> None:
        """Count a shard that was scored."""
        self._done += 1
        if time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            log.info("    scored %d of %d shards, up to row %s", self._done, self._shards, f"{shard.stop:,}")


def score_shards(
    task: ScoreTask,
    shards: list[Shard],
    *,
    stop_requested: Callable[[], bool] = _never,
) -> None:
    """Score shards one after the other and store each durably.

    Raises:
        Interrupted: the process was asked to stop; the shards before are stored, nothing of the one at work.
    """
    if not shards:
        return
    opened, progress = open_task(task), Progress(len(shards))
    for shard in shards:
        if stop_requested():
            raise stopped_before(shard)
        opened.score(shard, stop_requested=stop_requested)
        progress.add(shard)


def stopped_before(shard: Shard) -> Interrupted:
    """What is raised when the process was asked to stop and this shard was next, or begun."""
    return Interrupted(f"stopped before scoring rows {shard.start:,} to {shard.stop:,}")
