"""Which labels of a run somebody should look at again: those that annotators differ on, then the likely errors.

What is known about rows and labels comes from the label queue, so a run that was moved elsewhere can be reviewed there;
only images, seed labels' texts and a dev set of its own are read from where the recipe says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from svp_nlp.content import hash_strings, keys_of
from svp_nlp.data import labeled_rows, pool_ref
from svp_nlp.errors import LabelError, RecipeError
from svp_nlp.files import read_json
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.requests import Row
from svp_nlp.labeling.seeds import kept_seeds
from svp_nlp.labels import LabelSet
from svp_nlp.models import make_learner
from svp_nlp.models.base import TEXT, Labeled, Learner
from svp_nlp.pool import IMAGE
from svp_nlp.quality import Score, find_label_errors
from svp_nlp.quality_annotators import active_label_scores, check_cleanlab
from svp_nlp.quality_folds import default_folds, out_of_fold
from svp_nlp.recipe import HeldOutSpec, Recipe, make_recipe
from svp_nlp.run import RECIPE_FILE, STEP_FILE

log = logging.getLogger(__name__)
_SLOW_SECONDS = 60.0
_RELABELLED = 100  # rows that are named for another label, unless a number is given


@dataclass(frozen=True)
class Doubt:
    """A row to look at again.

    Attributes:
        given: its label; None where annotators differ.
        suggested: what the models say it is; None where they agree with the label, or were not asked.
        score: 0 to 1, lower is more suspicious; None where annotators differ.
        is_likely: the label is clearly wrong by the models; not only the most suspicious among those that are left.
    """

    id: str
    text: str
    given: str | None
    suggested: str | None
    score: float | None
    is_likely: bool
    reason: str


@dataclass(frozen=True)
class Review:
    """What a look at all labels of a run found.

    Attributes:
        doubts: conflicts between annotators in the order of the requests, those of the test set too; then labels, the
            most suspicious first.
        seeds: labels of oracle.seed_labels that are likely wrong. They were asked of nobody, so nobody can decide on
            them here.
        labelled: rows that were looked at.
        likely: labels that are likely wrong, also those that `doubts` leaves out.
        reviewed: labels that somebody has decided on already; they are not doubted again.
        alone: labels that nobody else gave: nothing can be said about them.
        proxy: kind of the models.
    """

    doubts: tuple[Doubt, ...]
    seeds: tuple[Doubt, ...]
    labelled: int
    likely: int
    conflicts: int
    reviewed: int
    alone: int
    proxy: str
    folds: int

    def as_json(self) -> dict[str, Any]:
        """JSON values; `rows` are the doubts."""
        return {
            "rows": [asdict(doubt) for doubt in self.doubts],
            "seeds": [asdict(doubt) for doubt in self.seeds],
            **{name: value for name, value in vars(self).items() if name not in ("doubts", "seeds")},
        }


def review_run(
    run_dir: str | Path,
    *,
    top: int | None = None,
    proxy: str | None = None,
    score: Score | Literal["activelab"] = "self_confidence",
    folds: int | None = None,
) -> Review:
    """Look at all labels of a run's training rows, by models that were trained without the row itself.

    Of the test set only the rows on which annotators differ: a model that doubts a test label is what is to be tested.

    Args:
        top: so many labels, whether likely wrong or not; None: those that are likely wrong.
        proxy: kind of a learner with default options; None: the proxy of the run's recipe.
        score: what labels are ranked by; `activelab`: by how much another annotator's label would help, conflicts among
            the others, see `quality_annotators`.
        folds: trainings; None: ten, or five of a learner that trains in epochs.
    Raises:
        RecipeError: nothing of the run is labelled by people, the proxy cannot read its rows, or cleanlab is missing.
        LabelError: too few labels to compare any.
        PoolError: the pool is needed (images, seed labels) and cannot be opened.
    """
    queue = LabelQueue.open(run_dir)
    recipe = make_recipe(read_json(queue.run_dir / RECIPE_FILE), f"{queue.run_dir / RECIPE_FILE}")
    learner = _learner(queue, recipe, proxy)
    folds = folds or default_folds(learner)
    if score == "activelab":
        check_cleanlab()
        top = top or _RELABELLED
    known = _known_rows(queue)
    differ = {
        row.id: _conflict(queue, row, "of the test set, " if request.part == "test" else "")
        for request in queue.requests
        for row in request.rows
        if queue.resolution(row.id).status == "conflict"
    }
    if score != "activelab":
        known = [one for one in known if one.given is not None]
    try:
        doubts, alone = _doubts(queue, recipe, learner, known, score=score, folds=folds)
    except LabelError as error:
        if not differ:
            raise
        log.warning("%s", error)
        doubts, alone = [], 0
    seeds = {one.row.id for one in known if one.is_seed}
    asked = [doubt for doubt in doubts if doubt.id not in seeds]
    ranked = {one.row.id for one in known if one.given is None}  # by ActiveLab, among the others
    shown = asked[:top] if top is not None else [doubt for doubt in asked if doubt.is_likely]
    return Review(
        (*(differ[id] for id in differ if id not in ranked), *shown),
        seeds=tuple(doubt for doubt in doubts if doubt.id in seeds and doubt.is_likely),
        labelled=sum(one.given is not None for one in known),
        likely=sum(doubt.is_likely for doubt in asked),
        conflicts=len(differ),
        reviewed=sum(one.is_decided for one in known),
        alone=alone,
        proxy=learner.spec.kind,
        folds=min(folds, len(known)),
    )


def _learner(queue: LabelQueue, recipe: Recipe, kind: str | None) -> Learner:
    spec = recipe.proxy if kind is None else make_learner(kind).spec
    wanted = queue.project.modality
    if spec.reads != wanted:
        raise RecipeError(
            f"--proxy {spec.kind} reads {spec.reads}s, but the rows of this run are {wanted}s; name another"
        )
    if kind is None and (commit := _step_output(queue, "models").get("proxy")) is not None:
        spec = spec.at(commit)  # type: ignore[attr-defined]  # the model of the Hub as the run knows it
    return make_learner(spec)


def _step_output(queue: LabelQueue, name: str) -> dict[str, Any]:
    path = queue.run_dir / name / STEP_FILE
    found: dict[str, Any] = read_json(path)["output"] if path.exists() else {}
    return found


@dataclass(frozen=True)
class _Known:
    """A row with a label; `given` is None where annotators differ, `label` is then one that most of them gave."""

    row: Row
    label: str
    given: str | None
    votes: dict[str, str]  # annotator -> label
    is_decided: bool = False
    is_seed: bool = False


def _known_rows(queue: LabelQueue) -> list[_Known]:
    found = []
    for row in (row for request in queue.requests if request.part == "train" for row in request.rows):
        resolution, said = queue.resolution(row.id), queue.answers_of(row.id)
        if said is None or resolution.status not in ("labelled", "conflict"):
            continue
        decision = said.decision
        counted = said.votes or ([decision] if decision is not None else [])
        votes = {vote.annotator: vote.label for vote in counted if vote.label}
        # Of several labels that most gave any will do: models need one.
        label = resolution.label or max(sorted(votes.values()), key=list(votes.values()).count)
        found.append(_Known(row, label, resolution.label, votes, is_decided=decision is not None))
    seeds = kept_seeds(queue.run_dir) or LabelSet.empty()
    for seed in seeds.table.select(["position", "id", "label", "annotator"]).to_pylist():
        row = Row(seed["id"], seed["position"], "")
        found.append(_Known(row, seed["label"], seed["label"], {seed["annotator"]: seed["label"]}, is_seed=True))
    return found


def _labeled(queue: LabelQueue, recipe: Recipe, known: Sequence[_Known]) -> Labeled:
    positions_L = np.array([one.row.position for one in known], dtype=np.int64)
    if queue.project.modality == IMAGE or any(one.is_seed for one in known):
        commit = _step_output(queue, "pools").get("pool")
        rows = pool_ref(recipe.pool, revision=commit).open().take(positions_L)
    else:
        rows = pa.table({TEXT: pa.array([one.row.text for one in known], pa.large_string())})
    class_names = tuple(dict.fromkeys([*queue.classes, *(one.label for one in known)]))
    at = {name: number for number, name in enumerate(class_names)}
    return Labeled(rows, np.array([at[one.label] for one in known], dtype=np.int64), positions_L, class_names)


def _dev(recipe: Recipe, learner: Learner, class_names: tuple[str, ...]) -> Labeled | float | None:
    """As the run has it."""
    if not isinstance(recipe.dev, HeldOutSpec):
        return recipe.dev
    if not hasattr(learner.spec, "training"):
        return None
    return labeled_rows(pool_ref(recipe.dev).open(), recipe.dev.label_column, class_names, source="dev set")[0]


def _doubts(
    queue: LabelQueue,
    recipe: Recipe,
    learner: Learner,
    known: Sequence[_Known],
    *,
    score: Score | Literal["activelab"],
    folds: int,
) -> tuple[list[Doubt], int]:
    """All rows that nobody has decided on, the most suspicious first; how many cannot be judged."""
    labeled = _labeled(queue, recipe, known)
    keys_L = keys_of(hash_strings(pa.array([one.row.id for one in known], pa.large_string())))
    _say_cost(queue, learner, rows=len(known), folds=folds)
    dev = _dev(recipe, learner, labeled.class_names)
    probs_LC = out_of_fold(learner, labeled, keys_L=keys_L, seed=recipe.seeds[0], folds=folds, dev=dev)
    by: Score = "self_confidence" if score == "activelab" else score
    found = find_label_errors(labeled.labels_L, probs_LC, keys_L=keys_L, score=by)
    if score == "activelab":
        scores_L = active_label_scores([one.votes for one in known], probs_LC, labeled.class_names)
        everyone_L = np.ones(len(known), dtype=bool)  # annotators judge what models cannot
        found = replace(found, scores=scores_L, order=np.lexsort((keys_L, scores_L)), judged=everyone_L)
    doubts = []
    for at in found.order.tolist():
        if known[at].is_decided or not found.judged[at]:
            continue
        likelier, label = int(found.suggested[at]), int(labeled.labels_L[at])
        shares = ", ".join(
            f"{labeled.class_names[c]} {100 * probs_LC[at, c]:.0f} %" for c in dict.fromkeys([likelier, label])
        )
        doubts.append(
            Doubt(
                id=known[at].row.id,
                text=known[at].row.image or labeled.rows.column(0)[at].as_py(),
                given=known[at].given,
                suggested=None if likelier == label else labeled.class_names[likelier],
                score=round(float(found.scores[at]), 4),
                is_likely=bool(found.likely[at]),
                reason=f"{learner.spec.kind} on the other rows says {shares}",
            )
        )
    return doubts, int(np.count_nonzero(~found.judged))


def _conflict(queue: LabelQueue, row: Row, of_what: str) -> Doubt:
    said = queue.answers_of(row.id)
    votes = ", ".join(f"{v.annotator or 'somebody'} says {v.label}" for v in (said.votes if said else ()))
    return Doubt(row.id, row.text or row.image, None, None, None, False, f"{of_what}annotators differ: {votes}")


def _say_cost(queue: LabelQueue, learner: Learner, *, rows: int, folds: int) -> None:
    """What is about to be done, before it takes long: as long as the run's own trainings of this learner took."""
    steps = [read_json(path) for path in sorted(queue.run_dir.glob(f"seed-*/**/model/{STEP_FILE}"))]
    spec = learner.spec.model_dump(mode="json")
    known = [float(step["seconds"]) for step in steps if step["inputs"].get("learner") == spec]
    message = f"{folds} trainings of {learner.spec.kind}, each without another part of {rows:,} rows"
    if not known:
        log.info("%s", message)
    elif (seconds := folds * max(known)) < _SLOW_SECONDS:
        log.info("%s: a minute at most", message)
    else:
        log.warning("%s: about %.0f minutes; --proxy fasttext takes seconds", message, seconds / 60)
