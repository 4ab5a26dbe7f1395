"""What a model says about the rows that a round looks at: all, a reduced pool, or candidates of a setwise strategy.

What was left out is counted in the lineage. Shape legend: N pool rows, R rows that are looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svp_nlp.arrays import BoolN, IntK, fingerprint_array, keyed_hash
from svp_nlp.files import atomic_file
from svp_nlp.fitting import encode, is_feature_learner, score
from svp_nlp.labels import LabelSet
from svp_nlp.models import make_learner
from svp_nlp.sizes import resolve_size
from svp_nlp.strategies import top_k
from svp_nlp.strategies.reduction import nearest_neighbours, unlabeled_pool_subsampling
from svp_nlp.strategy_spec import SEALSSpec, StrategySpec, UPSSpec
from svp_nlp.workspace import Fitted, Round, RowsFile, Scored, Workspace

log = logging.getLogger(__name__)
_ROWS_FILE, _REACHED_FILE = "positions.npy", "reached.npy"


@dataclass(frozen=True)
class View:
    """One round's choice: who looks, with which strategy, and what may be picked."""

    workspace: Workspace
    place: str  # directory of the round, below the seed's
    strategy: StrategySpec
    fitted: Fitted
    labels: LabelSet
    number: int  # of the round
    budget: int
    before: Round | None = None  # None in core-set selection

    @property
    def open_N(self) -> BoolN:
        """Rows that may be picked."""
        return self.workspace.open_rows(self.labels, () if self.before is None else self.before.asked)

    @property
    def carried(self) -> Any:
        """What the reduction of the round before left: last known scores [N] (UPS), or rows reached so far (SEALS)."""
        return None if self.before is None or self.before.scored is None else self.before.scored.carried

    def rows_step(self, name: str, inputs: Mapping[str, Any], do: Callable[[Path], IntK]) -> RowsFile:
        """Decide once which rows are looked at."""

        def write(path: Path) -> Mapping[str, Any]:
            rows_R = do(path)
            _write(path / _ROWS_FILE, rows_R)
            return {"rows": len(rows_R), "fingerprint": fingerprint_array(rows_R)}

        base = {
            "strategy": self.strategy.name,
            "options": self.strategy.options,
            "model": self.fitted.fingerprint,
            "pool": self.workspace.pool.fingerprint,
            "open": fingerprint_array(np.packbits(self.open_N)),
            "seed": self.workspace.seed,
            "budget": self.budget,
        }
        step = self.workspace.step(f"{self.place}/{name}", {**base, **inputs}, write)
        return RowsFile(step.path / _ROWS_FILE, step.output["fingerprint"], step.seconds)


def look(view: View, *, together: tuple[str, ...] = ()) -> Scored:
    """Have the model score what the strategy needs.

    Args:
        view: the round.
        together: pointwise strategies that are scored in the same pass over the whole pool, for other arms.
    """
    strategy, by = view.strategy, view.strategy.scored_by
    scored = _reduced(view)
    if by is not None:
        names = sorted({by, *together}) if scored.rows is None else [by]
        signals, seconds = score(view.workspace, view.fitted, names, rows=scored.rows)
        scored = replace(scored, signals=signals, seconds=scored.seconds + seconds)
        if isinstance(strategy.reduce, UPSSpec):
            known_N = np.array(signals[by]) if scored.carried is None else scored.carried.copy()
            known_N[scored.cut] = signals[by]
            scored = replace(scored, carried=known_N)
    return scored if strategy.strategy.kind == "pointwise" else _candidates(view, scored)


def _candidates(view: View, first: Scored) -> Scored:
    """The signals of the rows that a setwise strategy chooses among, and of labelled ones where it looks at them.

    `first` is what was found before: rows that a reduction left, and scores of the prefilter.
    """
    workspace, strategy = view.workspace, view.strategy
    among = np.flatnonzero(view.open_N) if first.rows is None else first.rows.positions_R
    count = len(among)
    if strategy.candidates is not None:
        count = min(count, resolve_size(strategy.candidates, workspace.num_available, f"{strategy.title}: candidates"))
    assert count >= view.budget, "strategy_checks looks at it before any work"

    def choose(path: Path) -> IntK:
        keys_R = workspace.pool.keys_N[among]
        if count == len(among):
            chosen_K = np.arange(count)
        elif strategy.prefilter is None:
            order_R = np.argsort(keyed_hash(keys_R, workspace.seed, f"candidates {view.place}"), kind="stable")
            chosen_K = order_R[:count]
        else:
            assert first.signals is not None
            scores = first.signals[strategy.prefilter]
            scores_R = np.asarray(scores[among] if first.rows is None else scores)
            chosen_K = top_k(scores_R, keys_R, budget=count, seed=workspace.seed, name=f"{strategy.prefilter} scores")
        labeled = view.labels.positions_L if strategy.strategy.uses_labeled else np.empty(0, np.int64)
        return np.union1d(among[chosen_K], labeled)

    rows = view.rows_step("candidates", {"among": fingerprint_array(among), "count": count}, choose)
    signals, seconds = score(workspace, view.fitted, (), keep=strategy.strategy.signals, rows=rows)
    return replace(
        first,
        signals=signals,
        rows=rows,
        seconds=first.seconds + rows.seconds + seconds,
        facts={**first.facts, "candidate_rows": count},
    )


def _reduced(view: View) -> Scored:
    """The rows that are worth scoring, by the strategy's reduction; all where it has none."""
    reduce, workspace, carried = view.strategy.reduce, view.workspace, view.carried
    if reduce is None:
        return Scored()
    if isinstance(reduce, UPSSpec):
        if carried is None:  # nothing was scored before
            return Scored(facts={"scored_rows": len(workspace.pool)})

        def subsample(path: Path) -> IntK:
            return unlabeled_pool_subsampling(
                carried, workspace.pool.keys_N, open_N=view.open_N, budget=view.budget, seed=workspace.seed,
                round=view.number, gamma=reduce.gamma, temperature=reduce.temperature,
            )  # fmt: skip

        rows = view.rows_step("reduced", {"scores": fingerprint_array(carried)}, subsample)
        return Scored(rows=rows, seconds=rows.seconds, facts={"scored_rows": len(rows.positions_R)}, carried=carried)
    return _neighbours(view, reduce)


def _neighbours(view: View, reduce: SEALSSpec) -> Scored:
    """The neighbours of all labelled rows; each round looks for those of its new ones only."""
    workspace, carried = view.workspace, view.carried
    encoded = view.fitted.encoded
    if reduce.encoder is not None:
        learner = make_learner(reduce.encoder)
        assert is_feature_learner(learner)
        encoded = encode(workspace, learner, LabelSet.empty())
    assert encoded is not None, "strategy_checks looks at it before any work"
    new = view.labels.positions_L
    if carried is not None:
        assert view.before is not None
        new = view.before.added.positions_L

    def reach(path: Path) -> IntK:
        reached_N = np.zeros(len(workspace.pool), dtype=np.bool_)
        if carried is not None:
            reached_N[carried] = True
        reached_N |= nearest_neighbours(
            np.load(encoded.features_file, mmap_mode="r", allow_pickle=False), new, open_N=view.open_N,
            count=reduce.neighbours, keys_N=workspace.pool.keys_N,
        )  # fmt: skip
        reached_N &= view.open_N
        _write(path / _REACHED_FILE, np.flatnonzero(reached_N))
        missing = view.budget - int(reached_N.sum())
        if missing > 0:  # few labels have few neighbours: what is missing is drawn at random, and counted
            others = np.flatnonzero(view.open_N & ~reached_N)
            hash_R = keyed_hash(workspace.pool.keys_N[others], workspace.seed, f"seals {view.place}")
            reached_N[others[np.argsort(hash_R, kind="stable")[:missing]]] = True
        return np.flatnonzero(reached_N)

    inputs = {"encoder": encoded.fingerprint, "new": fingerprint_array(new)}
    rows = view.rows_step("reduced", inputs, reach)
    reached = np.load(rows.path.parent / _REACHED_FILE, allow_pickle=False)
    facts = {"scored_rows": len(rows.positions_R), "drawn_at_random": len(rows.positions_R) - len(reached)}
    if facts["drawn_at_random"]:
        log.warning(
            "%s: %s rows are near to labelled ones, %s are to be picked: the others were drawn at random; raise "
            "reduce.neighbours or initial", view.place, f"{len(reached):,}", f"{view.budget:,}",
        )  # fmt: skip
    # Once, and not where the proxy has the same features: its own cost holds them.
    own = view.fitted.encoded is None or view.fitted.encoded.fingerprint != encoded.fingerprint
    encoding = encoded.seconds if own and carried is None else 0.0
    return Scored(rows=rows, seconds=rows.seconds + encoding, facts=facts, carried=reached)


def _write(path: Path, array: Any) -> None:
    with atomic_file(path) as tmp, tmp.open("wb") as file:
        np.save(file, array, allow_pickle=False)
