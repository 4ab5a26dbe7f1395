"""All processes of a launch score, each shard by the one that claims it. No collective calls: nothing can time out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from svp_nlp.engines.base import Engine
from svp_nlp.engines.local import LocalEngine
from svp_nlp.pool import Shard
from svp_nlp.ranks import AnyRanks, Ranks
from svp_nlp.scoring import Progress, ScoreTask, open_task, stopped_before


class RanksEngine:
    """Scores with every process of `accelerate launch`; all of them call `map_shards` with the same arguments."""

    def __init__(self, ranks: Ranks) -> None:
        """The processes."""
        self.ranks, self.workers = ranks, ranks.world_size

    def check(self) -> None:
        """The processes are there."""

    def map_shards(self, task: ScoreTask, shards: Sequence[Shard], *, stop_requested: Callable[[], bool]) -> None:
        """Score what no other process has claimed; the main one then waits for what the others claimed.

        Raises:
            Interrupted: one of the processes was asked to stop.
            EngineError: one of them failed; names it.
        """
        by_number = {shard.index: shard for shard in shards}
        opened, progress = None, Progress(len(shards))
        for number in self.ranks.claim(sorted(by_number)):
            shard = by_number[number]
            if stop_requested():
                raise stopped_before(shard)
            opened = opened or open_task(task)
            opened.score(shard, stop_requested=stop_requested)
            progress.add(shard)
        if not self.ranks.is_main:
            return  # the main process joins the parts and deletes them
        store = task.store()
        self.ranks.wait_until(lambda: all(store.has_part(shard) for shard in shards))


def shared_engine(engine: Engine, ranks: AnyRanks) -> Engine:
    """All processes of a launch where `engine` is the local one, else `engine`."""
    return RanksEngine(ranks) if isinstance(ranks, Ranks) and isinstance(engine, LocalEngine) else engine
