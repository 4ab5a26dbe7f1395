"""One run with ties at the cut, to be scored again by any engine: what must come out does not depend on which."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from toy import CLASS_NAMES, toy_rows

from svp_nlp import active_learning, fitting, make_learner, open_workspace
from svp_nlp.engines import Engine
from svp_nlp.pool import PoolRef
from svp_nlp.scoring import ScoreTask

ROWS = 200
ROWS_PER_BATCH = 7  # 8 shards, the last one shorter
_DIFFERENT = 12  # texts as a model sees them

_TINY = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
# kind -> options that make it small, and blind to the last word of a text
OPTIONS: dict[str, dict[str, Any]] = {
    "fasttext": {"bucket": 1000, "word_ngrams": 1, "epochs": 5, "learning_rate": 0.5},
    "transformer": {"config": _TINY, "vocab_size": 400, "max_length": 6, "training": {"num_train_epochs": 1}},
    "embedding": {"config": _TINY, "vocab_size": 400, "max_length": 6},
}
KINDS = list(OPTIONS)
NEVER = lambda: False  # noqa: E731


def write_tied_pool(path: Path) -> Path:
    """Different texts, of which many differ only in a last word that no model has learned."""
    texts, labels = toy_rows(_DIFFERENT)
    rows = [(f"{texts[i % _DIFFERENT]} zz{i:03d}", CLASS_NAMES[labels[i % _DIFFERENT]]) for i in range(ROWS)]
    pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
    return path


@dataclasses.dataclass(frozen=True)
class Case:
    """A finished run of one kind of proxy, scored in one process."""

    kind: str
    pool: Path
    run_dir: Path
    expected: dict[str, Any]

    def task(self, directory: Path, **changes: Any) -> ScoreTask:
        """The scoring of this run, into another directory."""
        (weights,) = self.run_dir.glob("seed-0/start/proxy-*/model/weights")
        pool = PoolRef(str(self.pool)).open()
        task = ScoreTask(pool.ref, weights, self.kind, directory, len(pool), ROWS_PER_BATCH, ("margin",))
        return dataclasses.replace(task, **changes)

    def unscored(self, directory: Path) -> Path:
        """A copy of the run in which nothing has been scored yet."""
        shutil.copytree(self.run_dir, directory)
        for path in [*directory.rglob("signals-*"), *directory.rglob("features*"), *directory.rglob("round-*")]:
            shutil.rmtree(path)
        return directory


def make_case(kind: str, directory: Path) -> Case:
    """Fit a small proxy of this kind and score with it in one process."""
    directory.mkdir(parents=True)
    pool, run_dir = write_tied_pool(directory / "pool.parquet"), directory / "run"
    case = Case(kind, pool, run_dir, {})
    return dataclasses.replace(case, expected=outcome(case, run_dir))


def made_once(directory: Path) -> Callable[[str], Case]:
    """`make_case` below this directory, at the first call for a kind; the same case at all others."""
    return functools.cache(lambda kind: make_case(kind, directory / kind))


def stored(run_dir: Path) -> int:
    """How many shards have been scored whose parts are not joined yet."""
    return len(list(run_dir.rglob("shard-*.part")))


def outcome(
    case: Case, run_dir: Path, engine: Engine | None = None, *, stop_requested: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Pick 60 of the 160 rows that 40 labels leave, on all steps that the directory does not hold yet."""
    learner: Any = make_learner(case.kind, **OPTIONS[case.kind])
    object.__setattr__(learner, "rows_per_batch", ROWS_PER_BATCH)  # learners are frozen
    with (
        mock.patch.object(fitting, "ROWS_PER_BATCH", ROWS_PER_BATCH),
        open_workspace(case.pool, run_dir=run_dir) as work,
    ):
        work = work if engine is None else dataclasses.replace(work, engine=engine)
        work.run.stop_requested = stop_requested or work.run.stop_requested
        rounds = list(active_learning(work, learner=learner, strategy="margin", initial=40, labeled_sizes=[100]))
    selection, signals = rounds[-1].selection, rounds[-1].signals
    assert signals is not None
    scores_N = signals["margin"]
    return {
        "selection": selection.fingerprint,
        "scores": scores_N.tobytes(),
        "tied": int((scores_N == selection.scores_K[-1]).sum()),
    }
