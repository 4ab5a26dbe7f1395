"""What an engine is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from svp_nlp.models.base import Spec
from svp_nlp.pool import Shard
from svp_nlp.scoring import ScoreTask


class EngineSpec(Spec):
    """Who scores a pool. It is no part of what a recipe means: a run may be resumed with another engine."""

    kind: str


class Engine(Protocol):
    """Divides shards among workers. The scores do not depend on which engine runs, or on how many workers."""

    workers: int

    def check(self) -> None:
        """Look whether workers can be had; called before any work.

        Raises:
            RecipeError: a package is missing or a cluster cannot be reached; says what to do.
        """

    def map_shards(self, task: ScoreTask, shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
        """Score these shards; on return all of them are in the task's store.

        Raises:
            Interrupted: the process was asked to stop; finished shards are stored.
            EngineError: workers could not be started, or died too often; names them.
        """
