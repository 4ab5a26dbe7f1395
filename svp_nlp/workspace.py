"""What the loops are made of: a workspace, and the step that ranks; asking.py and fitting.py have the others.

Each step is written to the run directory when it is finished, so every function here can be called again after a
crash and goes on where it was.

    run/seed-0/start/{selection,labels}                             the random start set, shared by all arms
    run/seed-0/start/proxy-0000001200-<options>/{model,signals-margin}  a model lies beside its scores
    run/seed-0/proxy-margin/round-001/{selection,labels}            and reduced, candidates: which rows are looked at
    run/seed-0/proxy-margin/target-0000006000-<options>/{model,metrics}
    run/encoders/<options>/{model,features}                         the pool as a frozen encoder sees it

Under several processes all of them call these functions in the same order. The main one fits what is small, ranks and
asks; all of them score, and train targets.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from svp_nlp.arrays import BoolN, FloatN, IntK, fingerprint_array, fingerprint_json, keyed_hash
from svp_nlp.engines import Engine, LocalEngine
from svp_nlp.labels import LabelSet
from svp_nlp.models.base import Labeled, Learner
from svp_nlp.oracles.base import Oracle
from svp_nlp.pool import Pool
from svp_nlp.run import Run, Step, library_versions
from svp_nlp.selection import Lineage, Selection
from svp_nlp.stopping import Watched
from svp_nlp.strategies import Picks, Strategy, select, top_k
from svp_nlp.strategies.strata import stratified
from svp_nlp.strategies.warm_up import warm_up
from svp_nlp.strategy_spec import StrategySpec

ROWS_PER_BATCH = 32_768


@dataclass(frozen=True)
class Workspace:
    """What the loops share: a pool, who labels it, a seed, and the directory that remembers.

    Attributes:
        class_names: known from the start.
        available_N: rows that may be picked: usable, and the oracle can answer for them.
        dev: rows for choosing among epochs, or the share of the labelled rows that is held out for it.
        shared_strategies: strategies that are scored together with the models that all arms share.
        shared_dynamics: signals that are recorded while those models are trained.
        seeds: labels that are there before anybody is asked.
    """

    run: Run
    pool: Pool
    class_names: tuple[str, ...]
    available_N: BoolN
    oracle: Oracle
    seed: int
    dev: Labeled | float | None = None
    engine: Engine = dataclasses.field(default_factory=LocalEngine)
    recipe_sha256: str | None = None
    shared_strategies: tuple[str, ...] = ()
    shared_dynamics: tuple[str, ...] = ()
    seeds: LabelSet = dataclasses.field(default_factory=LabelSet.empty)

    @property
    def num_available(self) -> int:
        return int(np.count_nonzero(self.available_N))

    def open_rows(self, labels: LabelSet, asked: Sequence[Selection] = ()) -> BoolN:
        """Rows that may be picked: neither labelled, nor asked of people before."""
        open_N = self.available_N.copy()
        open_N[labels.positions_L] = False
        for selection in asked:
            open_N[selection.positions_K] = False
        return open_N

    def classes(self, labels: LabelSet) -> tuple[str, ...]:
        """The class names, with those that people added."""
        return labels.classes_after(self.class_names)

    def labeled(self, labels: LabelSet, class_names: tuple[str, ...]) -> Labeled:
        """The labelled rows as a learner takes them."""
        positions_L = labels.positions_L
        return Labeled(self.pool.take(positions_L), labels.indices(class_names), positions_L, class_names)

    def split_dev(self, labels: LabelSet) -> tuple[LabelSet, Labeled | None]:
        """Labels to train on, and rows to choose epochs by; a held-out row stays held out in every later round.

        Where a share would leave one side empty, the row goes there that is nearest to it, though not for ever: a run
        goes on to more labels. Nothing can be held out of one row.
        """
        if self.dev is None:
            return labels, None
        class_names = self.classes(labels)
        if not isinstance(self.dev, float):
            return labels, dataclasses.replace(self.dev, class_names=class_names)
        draw_L = keyed_hash(self.pool.keys_N[labels.positions_L], self.seed, "dev") >> np.uint64(11)
        held_L = draw_L * 2.0**-53 < self.dev
        if len(labels) < 2:
            return labels, None
        if not held_L.any():
            held_L[np.argmin(draw_L)] = True
        elif held_L.all():
            held_L[np.argmax(draw_L)] = False
        held = LabelSet(labels.table.filter(held_L))
        return LabelSet(labels.table.filter(~held_L)), self.labeled(held, class_names)

    def step(self, name: str, inputs: Mapping[str, Any], do: Any, *, together: bool = False) -> Step:
        """A step of this seed."""
        return self.run.step(f"seed-{self.seed}/{name}", inputs, do, together=together)


@dataclass(frozen=True)
class Encoded:
    """A pool as a frozen encoder sees it, in the run directory."""

    directory: Path  # of the encoder
    fingerprint: str  # of the encoder
    features_file: Path  # .npy [N, D]
    seconds: float  # fine-tuning the encoder, if it was, and encoding the pool


@dataclass(frozen=True)
class Fitted:
    """A model in the run directory."""

    directory: Path
    fingerprint: str
    seconds: float
    report: Mapping[str, Any]
    learner: Learner
    name: str  # of its directory below the seed's, without the last part
    processes: int = 1  # that trained it together
    encoded: Encoded | None = None  # what its head reads
    dynamics_dir: Path | None = None  # what was recorded while it was trained

    @property
    def lineage(self) -> dict[str, Any]:
        spec = self.learner.spec
        encoder = {} if self.encoded is None else {"encoder": self.encoded.fingerprint}
        return {
            "kind": spec.kind,
            "spec": spec.model_dump(mode="json"),
            "spec_fingerprint": spec.fingerprint,
            "fingerprint": self.fingerprint,
            "reproducible": self.learner.reproducible,
            "processes": self.processes,
            **encoder,
        }


@dataclass(frozen=True)
class RowsFile:
    """Positions in the run directory."""

    path: Path  # .npy int64 [R], ascending
    fingerprint: str
    seconds: float  # choosing them

    @cached_property
    def positions_R(self) -> IntK:
        positions_R: IntK = np.load(self.path, allow_pickle=False)
        return positions_R


class Signals(Protocol):
    """Named arrays [R, ...]; a SignalStore is such."""

    def __getitem__(self, name: str) -> Any: ...


@dataclass(frozen=True)
class Scored:
    """What a model said about the rows that a round looks at.

    Attributes:
        signals: [R, ...] in the order of `rows`; None: nothing yet.
        rows: those that were looked at; None: all of the pool.
        seconds: scoring, choosing which rows, and encoding, of this round alone.
        facts: how many rows, or epochs, were looked at, for the lineage; empty where all were.
        carried: what the next round's reduction goes on from (`narrowing.py`).
    """

    signals: Signals | None = None
    rows: RowsFile | None = None
    seconds: float = 0.0
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    carried: Any = None

    @property
    def cut(self) -> Any:
        """What cuts an array [N, ...] down to these rows."""
        return slice(None) if self.rows is None else self.rows.positions_R

    def spread(self, name: str, num_rows: int) -> FloatN:
        """A score of all N rows; -inf where none was given."""
        assert self.signals is not None
        if self.rows is None:
            return np.asarray(self.signals[name])
        scores_N = np.full(num_rows, -np.inf, dtype=np.float32)
        scores_N[self.rows.positions_R] = self.signals[name]
        return scores_N


@dataclass(frozen=True)
class Round:
    """A finished round.

    Attributes:
        labeled_size: labels so far; people may have returned fewer than were planned.
        selection: what this round picked (in core-set selection: all that is kept).
        labels: all labels so far, the start set included.
        added: those that came with this round; None: all that it picked.
        asked: what was asked for so far, answered or not; empty in core-set selection.
        planned_size: what labeled_size was to be.
        fitted: the model that chose; None for random.
        scored: what it said about the pool; None for random.
        proxy_seconds, scoring_seconds, ranking_seconds: cost of this round alone.
        watched: what the proxy that has learned all these labels says; None: nobody asked it.
    """

    round: int
    labeled_size: int
    selection: Selection
    labels: LabelSet
    added: LabelSet
    asked: tuple[Selection, ...] = ()
    planned_size: int = 0
    fitted: Fitted | None = None
    scored: Scored | None = None
    proxy_seconds: float = 0.0
    scoring_seconds: float = 0.0
    ranking_seconds: float = 0.0
    watched: Watched | None = None

    @property
    def signals(self) -> Signals | None:
        """What the model said, in the order of `scored.rows`."""
        return None if self.scored is None else self.scored.signals


def rank(
    workspace: Workspace,
    name: str,
    strategy: StrategySpec,
    *,
    labels: LabelSet,
    budget: int,
    round: int,
    fitted: Fitted | None,
    scored: Scored | None,
    parent: str | None,
    asked: Sequence[Selection] = (),
) -> tuple[Selection, float]:
    """Pick `budget` rows by the signals of a round, once; returns them and the seconds.

    Args:
        labels, asked: whose rows are not picked: labelled ones, and those that people were asked for before.
    """
    pool, seed = workspace.pool, workspace.seed
    ref = pool.ref
    part = {} if ref.rows is None else {"part": True}  # `rows` alone does not tell a part of a source from all of it
    inputs = {
        "strategy": strategy.name,
        "budget": budget,
        "seed": seed,
        "pool": pool.fingerprint,
        "labels": labels.fingerprint,
        "available": fingerprint_array(np.packbits(workspace.available_N)),
        "model": None if fitted is None else fitted.fingerprint,
    }
    open_N = workspace.open_rows(labels, asked)
    if int(open_N.sum()) < workspace.num_available - len(labels):  # people were asked for rows that have no label
        inputs["asked"] = fingerprint_array(np.packbits(open_N))
    if strategy.options:
        inputs["options"] = strategy.options
    if fitted is None and scored is not None:
        inputs["scored"] = dict(scored.facts)  # by an encoder that nobody trained

    ranks = workspace.run.ranks
    together = ranks.world_size > 1 and strategy.strategy.over_ranks is not None

    def do(path: Path) -> Mapping[str, Any]:
        if scored is not None and strategy.strategy.kind == "setwise":
            warm_up(strategy.strategy)
        started = time.perf_counter()
        picks = _pick(workspace, strategy, scored, open_N=open_N, labels=labels, budget=budget)
        if not ranks.is_main:
            return {}
        lineage = Lineage(
            pool={**ref.meaning, "rows": len(pool), "fingerprint": pool.fingerprint, **part},
            strategy=strategy.name,
            budget=budget,
            round=round,
            seed=seed,
            labeled_size=len(labels) + budget,
            parent=parent,
            proxy=None if fitted is None else fitted.lineage,
            scoring=_scoring(workspace, fitted, scored),
            recipe_sha256=workspace.recipe_sha256,
            versions=library_versions(),
            options={**strategy.options, **({} if scored is None else scored.facts)},
        )
        selection = Selection(picks.positions_K, pool.ids(picks.positions_K), picks.scores_K, lineage)
        selection.save(path)
        found = {"fingerprint": selection.fingerprint, "picked": len(selection), "labeled_size": lineage.labeled_size}
        return {**found, "seconds": time.perf_counter() - started}

    step = workspace.step(f"{name}/selection", inputs, do, together=together)
    return Selection.load(step.path), step.seconds


def _scoring(workspace: Workspace, fitted: Fitted | None, scored: Scored | None) -> dict[str, Any]:
    dtype = "float32" if fitted is None else str(getattr(fitted.learner, "scoring_dtype", "float32"))
    rows = len(workspace.pool) if scored is None or scored.rows is None else len(scored.rows.positions_R)
    return {"dtype": dtype, "world_size": workspace.engine.workers, "rows": rows}


def _pick(
    workspace: Workspace, spec: StrategySpec, scored: Scored | None, *, open_N: BoolN, labels: LabelSet, budget: int
) -> Picks:
    """Positions in the pool, from signals that may be of a part of its rows."""
    strategy, pool, seed = spec.strategy, workspace.pool, workspace.seed
    if budget == 0:  # a start set that seeds fill
        return Picks(np.empty(0, np.int64), None, strategy.name)
    rows: Any = slice(None) if scored is None else scored.cut
    signals = None if scored is None else scored.signals
    labeled_N = np.zeros(len(pool), dtype=np.bool_)
    labeled_N[labels.positions_L] = True
    available_R, labeled_R, keys_R = open_N[rows], labeled_N[rows], pool.keys_N[rows]
    if signals is None or strategy.kind == "setwise":
        arrays: dict[str, Any] = {"keys": keys_R}
        if signals is not None:
            arrays |= {name: signals[name] for name in strategy.signals}
        if strategy.over_ranks is not None and workspace.run.ranks.world_size > 1:
            positions_K = _pick_over_ranks(workspace, strategy, arrays, available_R, labeled_R, budget=budget)
            picks = Picks(positions_K, None, strategy.name)
        else:
            picks = select(
                strategy, arrays, budget=budget, seed=seed, available=available_R, labeled=labeled_R, keys=keys_R
            )
    else:  # the scores are there already: only the cut is left
        scores_R = signals[strategy.name]
        if spec.strata is None:
            positions_K = top_k(
                scores_R, keys_R, budget=budget, seed=seed, available_N=available_R, name=f"{strategy.name} scores"
            )
        else:
            positions_K = stratified(
                scores_R, keys_R, budget=budget, seed=seed, available_N=available_R, strata=spec.strata.count,
                drop_hardest=spec.strata.dropped,
            )  # fmt: skip
        picks = Picks(positions_K, np.asarray(scores_R[positions_K]), strategy.name)
    if scored is None or scored.rows is None:
        return picks
    return dataclasses.replace(picks, positions_K=scored.rows.positions_R[picks.positions_K])


def _pick_over_ranks(
    workspace: Workspace,
    strategy: Strategy,
    arrays: Mapping[str, Any],
    available_R: BoolN,
    labeled_R: BoolN,
    *,
    budget: int,
) -> IntK:
    """The picks of `select`, found by all processes together: each looks at one stretch of the rows."""
    from svp_nlp.models.devices import process_state
    from svp_nlp.strategies.kcenters_torch import torch_exchange

    process_state()  # opens the process group, where nothing has been trained together yet
    ranks, assigned = workspace.run.ranks, strategy.over_ranks
    assert assigned is not None
    edges = np.linspace(0, len(available_R), ranks.world_size + 1).astype(np.int64)
    mine = slice(edges[ranks.rank], edges[ranks.rank + 1])
    owners_K, positions_K = assigned(
        *(arrays[name][mine] for name in strategy.signals), available_N=available_R[mine], labeled_N=labeled_R[mine],
        budget=budget, keys_N=arrays["keys"][mine], seed=workspace.seed, rank=ranks.rank, exchange=torch_exchange(),
    )  # fmt: skip
    found_K: IntK = edges[owners_K] + positions_K
    return found_K


def model_name(place: str, role: str, labeled_size: int, learner: Learner, dynamics: Sequence[str] = ()) -> str:
    """Where a model lies below the seed's directory: by role, labelled size, and a hash of its options.

    One whose training was recorded lies beside one that was not, for it has something to say that the other has not.
    """
    recorded = f"-{fingerprint_json(sorted(dynamics))[:4]}" if dynamics else ""
    return f"{place}/{role}-{labeled_size:010d}-{learner.spec.fingerprint[:8]}{recorded}"
