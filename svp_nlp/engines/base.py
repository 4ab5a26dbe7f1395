"""What an engine is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from svp_nlp.pool import Shard
from svp_nlp.scoring import ScoreTask

T = TypeVar("T")


class Engine(Protocol):
    """Divides shards among workers. The scores do not depend on which engine runs, or on how many workers."""

    rank: int
    world_size: int

    def map_shards(self, task: ScoreTask, shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
        """Score these shards; on return all of them are in the task's store."""

    def on_main(self, fn: Callable[[], T]) -> T:
        """Run `fn` on one rank; every rank gets its value, or the same error."""
