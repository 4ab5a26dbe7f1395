"""One process; the predictor may use threads of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from svp_nlp.pool import Shard
from svp_nlp.scoring import ScoreTask, score_shards

T = TypeVar("T")


class LocalEngine:
    """Scores in this process."""

    rank = 0
    world_size = 1

    def map_shards(self, task: ScoreTask, shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
        """Score these shards in order."""
        score_shards(task, list(shards), stop_requested=stop_requested)

    def on_main(self, fn: Callable[[], T]) -> T:
        """Run `fn`."""
        return fn()
