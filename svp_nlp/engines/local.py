"""One process; the predictor may use threads of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from svp_nlp.engines.base import EngineSpec
from svp_nlp.pool import Shard
from svp_nlp.scoring import ScoreTask, score_shards


class LocalEngineSpec(EngineSpec):
    """This process; under `accelerate launch`, all processes of the launch."""

    kind: Literal["local"] = "local"


class LocalEngine:
    """Scores in this process."""

    workers = 1

    def __init__(self, spec: LocalEngineSpec | None = None) -> None:
        """There is nothing to choose."""

    def check(self) -> None:
        """This process is there."""

    def map_shards(self, task: ScoreTask, shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
        """Score these shards in order."""
        score_shards(task, list(shards), stop_requested=stop_requested)


spec_class = LocalEngineSpec
engine_class = LocalEngine
