"""The two loops and the target: active learning (grow), core-set selection (shrink), train_target.

Plain functions over a `Workspace`; what each step of them leaves on disk is described in workspace.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svp_nlp.arrays import IntK
from svp_nlp.asking import ask
from svp_nlp.cold_start import look_unlabelled
from svp_nlp.errors import BudgetError, EngineError, ImageError, Interrupted, PoolError
from svp_nlp.fitting import fit, score_dynamics
from svp_nlp.labels import LabelSet
from svp_nlp.metrics import compute_metrics, recall_by_class
from svp_nlp.models import load_predictor, make_learner
from svp_nlp.models.base import Labeled, Learner
from svp_nlp.narrowing import View, look
from svp_nlp.oracles.base import Question
from svp_nlp.run import FULL, START
from svp_nlp.selection import Lineage, Selection
from svp_nlp.sizes import resolve_size
from svp_nlp.stop_spec import StopSpec
from svp_nlp.stopping import Watched
from svp_nlp.stopping_step import watch
from svp_nlp.strategy_checks import check_start, check_strategy
from svp_nlp.strategy_spec import StartSpec, StrategySpec, arm_name, as_spec, as_start
from svp_nlp.workspace import ROWS_PER_BATCH, Fitted, Round, Scored, Workspace, rank


@dataclass(frozen=True)
class TargetResult:
    """A trained target and what it scores on the test set, which was read once, after training."""

    fitted: Fitted
    labeled_size: int
    metrics: Mapping[str, float]
    classes_predicted: int  # how many of the classes it gave at all
    recall_by_class: Mapping[str, float]  # without classes that the test set does not hold

    def load(self) -> Any:
        """The predictor."""
        return load_predictor(self.fitted.directory)


def start_set(workspace: Workspace, size: int, start: StartSpec, proxy: Learner) -> Round:
    """Round 0: `size` labelled rows, the workspace's seeds and those that `start` chooses.

    The same for all arms of a seed; random arms go on in the order of a random one.

    Args:
        proxy: of the recipe, whose encoder `start` may use.
    """
    budget = max(0, size - len(workspace.seeds))
    scored = look_unlabelled(workspace, start, proxy) if budget and start.name != "random" else None
    selection, seconds = rank(
        workspace,
        START,
        start.strategy,
        labels=workspace.seeds,
        budget=budget,
        round=0,
        fitted=None,
        scored=scored,
        parent=None,
    )
    added = workspace.seeds.updated(ask(workspace, START, selection, labels=workspace.seeds))
    return Round(
        0,
        len(added),
        selection,
        added,
        added,
        (selection,),
        size,
        scoring_seconds=0.0 if scored is None else scored.seconds,
        ranking_seconds=seconds,
    )


def active_learning(
    workspace: Workspace,
    *,
    learner: Learner | str,
    strategy: str | StrategySpec,
    initial: int | str = "2%",
    labeled_sizes: Sequence[int | str],
    start: str | StartSpec = "random",
    start_learner: Learner | None = None,
    arm: str | None = None,
    role: str = "proxy",
    stop: StopSpec | None = None,
    watched: bool = False,
) -> Iterator[Round]:
    """Grow: train the proxy on what is labelled, score the pool, pick, label, again. Yields each finished round.

    Args:
        learner: the proxy, or its `kind`; trained from scratch in each round, not at all where `strategy` is random.
        strategy: a name from STRATEGIES, or one with options.
        initial: size of the start set, rows or a share such as "2%" of the available rows.
        start: how it is chosen: "random", or a setwise strategy of embeddings.
        start_learner: whose encoder it looks with where `start` names none; None: `learner`.
        labeled_sizes: labelled rows after each round, the start set included; strictly increasing.
        arm: name of the directory; default `<role>-<strategy>`.
        role: "proxy" or "target"; where both roles are filled by one learner, models are found by role and size.
        stop: when no more rows are asked for; None: after the last size.
        watched: have each proxy say whether more labels help, also where no rule asks; it changes no selection.
    Yields:
        Round 0 (the start set), then one for each size that labels have not reached yet: people answer late.
    Raises:
        WaitingForLabels: people have not answered yet; call it again later.
        BudgetError: a size is above the number of available rows, or not above the one before.
        BudgetError, RecipeError: what the strategy asks for cannot be; see `check_strategy`.
    """
    sizes = resolve_sizes([initial, *labeled_sizes], workspace.num_available)
    spec, learner = as_spec(strategy), make_learner(learner) if isinstance(learner, str) else learner
    check_strategy(
        spec, learner.spec, num_available=workspace.num_available, sizes=sizes, grows=True, dev=workspace.dev
    )
    start, start_learner = as_start(start), start_learner or learner
    check_start(start, start_learner.spec, num_available=workspace.num_available, size=sizes[0], grows=True)
    arm = arm or arm_name(spec, role)

    def fitted_for(number: int, labels: LabelSet) -> Fitted:
        return fit(workspace, START if number == 1 else arm, role, learner, labels)

    def judged(round_: Round, previous: Watched | None) -> Round:
        """With what its proxy says, and the last one where a rule ends the run there."""
        number = next((number for number, size in enumerate(sizes) if size > round_.planned_size), None)
        if number is None or not (_can_choose(workspace, spec, round_.labels) and (watched or stop is not None)):
            return round_
        fitted, place = fitted_for(number, round_.labels), f"{arm}/round-{round_.round:03d}"
        found = watch(workspace, place, round_, fitted, previous=previous, stop=stop)
        if found.holds and not _is_begun(workspace, f"{arm}/round-{number:03d}"):
            return replace(round_, watched=replace(found, ends=True), planned_size=sizes[-1])
        return replace(round_, watched=found)

    before = judged(
        _planned(workspace, start_set(workspace, sizes[0], start, start_learner), sizes, next_place=f"{arm}/round-001"),
        None,
    )
    yield before
    for number, size in enumerate(sizes[1:], start=1):
        labels, place = before.labels, f"{arm}/round-{number:03d}"
        budget = min(size - len(labels), int(workspace.open_rows(labels, before.asked).sum()))
        if budget <= 0 or before.planned_size >= size:  # late answers to earlier rounds, or nothing more is asked for
            continue
        fitted, scored, chosen_by = None, None, spec
        if not spec.strategy.needs_model or not _can_choose(workspace, spec, labels):
            chosen_by = as_spec("random") if spec.strategy.needs_model else spec
        else:
            fitted = fitted_for(number, labels)
            together = workspace.shared_strategies if number == 1 else ()
            scored = look(
                View(workspace, place, spec, fitted, labels, number=number, budget=budget, before=before),
                together=together,
            )
        selection, ranking_seconds = rank(
            workspace,
            place,
            chosen_by,
            labels=labels,
            budget=budget,
            round=number,
            fitted=fitted,
            scored=scored,
            parent=before.selection.fingerprint,
            asked=before.asked,
        )
        added = ask(workspace, place, selection, labels=labels, asked=before.asked, fitted=fitted)
        labels = labels.updated(added)
        after = Round(
            number,
            len(labels),
            selection,
            labels,
            added,
            (*before.asked, selection),
            size,
            fitted,
            scored,
            proxy_seconds=0.0 if fitted is None else fitted.seconds,
            scoring_seconds=_scoring_seconds(fitted, scored, before.fitted),
            ranking_seconds=ranking_seconds,
        )
        after = _planned(workspace, after, sizes, next_place=f"{arm}/round-{number + 1:03d}")
        before = judged(after, before.watched)
        yield before


def _can_choose(workspace: Workspace, spec: StrategySpec, labels: LabelSet) -> bool:
    """Whether a proxy can be trained and asked: people may have skipped all rows, or seen one class only."""
    return spec.strategy.needs_model and len(labels) > 0 and len(workspace.classes(labels)) > 1


def _planned(workspace: Workspace, round_: Round, sizes: list[int], *, next_place: str) -> Round:
    """The round with the largest size that it stands for.

    That is the size that was planned, or a later one: people also answer late, may want no round more, or have seen
    all rows there are.
    """
    reached = max([round_.planned_size, *(size for size in sizes if size <= round_.labeled_size)])
    finished: bool = workspace.run.ranks.on_main(f"last before {next_place}", lambda: workspace.oracle.is_finished)
    if (finished and not _is_begun(workspace, next_place)) or not workspace.open_rows(
        round_.labels, round_.asked
    ).any():
        reached = sizes[-1]
    return replace(round_, planned_size=reached)


def _is_begun(workspace: Workspace, place: str) -> bool:
    """Whether a round was begun by an earlier call: what people were asked is not forgotten."""
    directory = workspace.run.directory / f"seed-{workspace.seed}" / place
    begun: bool = workspace.run.ranks.on_main(f"begun {place}", directory.exists)
    return begun


def core_set(
    workspace: Workspace,
    *,
    learner: Learner | str,
    strategy: str | StrategySpec,
    labeled_sizes: Sequence[int | str],
    arm: str | None = None,
    role: str = "proxy",
) -> Iterator[Round]:
    """Shrink: train the proxy on all labels, score them with it, keep the part that the target needs.

    Args:
        labeled_sizes: how many rows to keep, rows or shares; each size is picked from the whole pool. The smaller is
            the head of the larger with pointwise strategies without strata.
        learner, strategy, arm, role: as in `active_learning`.
    Yields:
        one Round a size; its selection and labels are all that is kept.
    Raises:
        BudgetError, RecipeError: as `active_learning`.
    """
    sizes = resolve_sizes(labeled_sizes, workspace.num_available)
    spec, learner = as_spec(strategy), make_learner(learner) if isinstance(learner, str) else learner
    check_strategy(
        spec, learner.spec, num_available=workspace.num_available, sizes=sizes, grows=False, dev=workspace.dev
    )
    arm = arm or arm_name(spec, role)
    everything = all_labels(workspace)
    fitted = None
    if spec.strategy.needs_model:
        dynamics = set(spec.strategy.signals) if spec.strategy.uses_dynamics else set()
        recorded = sorted(dynamics | set(workspace.shared_dynamics))
        fitted = fit(workspace, FULL, role, learner, everything, dynamics=recorded)
    for number, size in enumerate(sizes, start=1):
        place, scored = f"{arm}/keep-{size:010d}", None
        if fitted is not None and spec.strategy.uses_dynamics:
            scored = score_dynamics(workspace, fitted, spec)
        elif fitted is not None:
            scored = look(
                View(workspace, place, spec, fitted, LabelSet.empty(), number=number, budget=size),
                together=workspace.shared_strategies,
            )
        selection, ranking_seconds = rank(
            workspace,
            place,
            spec,
            labels=LabelSet.empty(),
            budget=size,
            round=number,
            fitted=fitted,
            scored=scored,
            parent=None,
        )
        at_K = np.searchsorted(everything.positions_L, selection.positions_K)  # in pool order, so sorted
        labels = LabelSet(everything.table.take(at_K))
        assert np.array_equal(labels.positions_L, selection.positions_K)
        yield Round(
            number,
            size,
            selection,
            labels,
            labels,
            (),
            size,
            fitted,
            scored,
            proxy_seconds=0.0 if fitted is None else fitted.seconds,
            scoring_seconds=_scoring_seconds(fitted, scored, None),
            ranking_seconds=ranking_seconds,
        )


def _scoring_seconds(fitted: Fitted | None, scored: Scored | None, before: Fitted | None) -> float:
    if fitted is None or scored is None:
        return 0.0
    return scored.seconds + encoding_seconds(fitted, before)


def encoding_seconds(fitted: Fitted, before: Fitted | None) -> float:
    """What the features of a round cost: nothing when the round before used the same."""
    if fitted.encoded is None:
        return 0.0
    same = (
        before is not None and before.encoded is not None and before.encoded.fingerprint == fitted.encoded.fingerprint
    )
    return 0.0 if same else fitted.encoded.seconds


def all_labels(workspace: Workspace) -> LabelSet:
    """Labels of all available rows, in pool order."""
    positions_L: IntK = np.flatnonzero(workspace.available_N).astype(np.int64)
    lineage = Lineage(pool={"path": workspace.pool.ref.path}, strategy="all", budget=len(positions_L), round=0,
                      seed=workspace.seed, labeled_size=len(positions_L))  # fmt: skip
    everything = Selection(positions_L, workspace.pool.ids(positions_L), None, lineage)
    return workspace.oracle.collect(Question(everything, (), LabelSet.empty()))


def train_target(
    workspace: Workspace,
    labels: LabelSet,
    *,
    learner: Learner | str,
    test: Labeled,
    metrics: Sequence[str] = ("accuracy", "macro_f1"),
    class_counts: Mapping[str, int] | None = None,
    arm: str = "target",
) -> TargetResult:
    """Train the target on labels, then read the test set once.

    Args:
        arm: directory of the model, below the seed's.
        metrics: ours (accuracy, error, macro_f1, ...) or names that `evaluate.load` knows.
        class_counts: rows of each class in the pool, which say what is rare; None: among the labels.
    """
    names = max(workspace.classes(labels), test.class_names, key=len)
    counts = dict(class_counts or labels.class_counts(names))
    fitted = fit(workspace, arm, "target", learner, labels)

    ranks = workspace.run.ranks

    def do(path: Path) -> Mapping[str, Any]:
        predictor = load_predictor(fitted.directory)
        rows_per_batch = getattr(fitted.learner, "rows_per_batch", ROWS_PER_BATCH)
        starts = list(range(0, len(test), rows_per_batch))[ranks.rank :: ranks.world_size]
        predicted = [np.empty((2, 0), dtype=np.int64)]
        for start in starts:
            if workspace.run.stop_requested():
                raise Interrupted(f"stopped while testing {fitted.name}; the same command goes on from here")
            try:
                classes_B = predictor.predict(test.rows.slice(start, rows_per_batch)).probs_BC.argmax(axis=1)
            except ImageError as error:
                position = test.positions_L[start + error.row]
                raise PoolError(f"the image at {test.source} position {position} {error.reason}") from None
            predicted.append(np.stack([np.arange(start, start + len(classes_B)), classes_B]))
        gathered = ranks.gather(np.concatenate(predicted, axis=1))
        if not ranks.is_main:
            return {}
        rows_T, classes_T = np.concatenate(gathered, axis=1)
        if not np.array_equal(np.sort(rows_T), np.arange(len(test))):
            raise EngineError(
                f"{fitted.name}: the processes tested {len(rows_T):,} rows of {len(test):,}, not each once"
            )
        classes_T = classes_T[np.argsort(rows_T)]
        values = compute_metrics(
            list(metrics),
            classes_T,
            references_N=test.labels_L,
            num_classes=len(names),
            counts_C=np.array([counts.get(name, 0) for name in names]),
        )
        recall_C = recall_by_class(classes_T, test.labels_L, len(names)).tolist()
        recalls = {name: recall for name, recall in zip(names, recall_C, strict=True) if not np.isnan(recall)}
        return {"metrics": values, "classes_predicted": len(np.unique(classes_T)), "recall_by_class": recalls}

    inputs = {
        "model": fitted.fingerprint,
        "test": test.fingerprint,
        "metrics": list(metrics),
        "class_counts": counts,
    }
    found = workspace.step(f"{fitted.name}/metrics", inputs, do, together=True).output
    return TargetResult(fitted, len(labels), found["metrics"], found["classes_predicted"], found["recall_by_class"])


def resolve_sizes(sizes: Sequence[int | str], num_available: int) -> list[int]:
    """Sizes in rows from rows or shares ("2%"), strictly increasing and at most `num_available`.

    Raises:
        BudgetError: names the size and the number of available rows.
    """
    resolved: list[int] = []
    for size in sizes:
        rows = resolve_size(size, num_available, f"size {size}")
        if resolved and rows <= resolved[-1]:
            raise BudgetError(f"size {size} is {rows:,} rows, not more than the {resolved[-1]:,} before it; raise it")
        resolved.append(rows)
    return resolved
