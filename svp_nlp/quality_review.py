"""Which labels of a run somebody should look at again: those that annotators differ on, then the likely errors.

What is known about rows and labels comes from the label queue, so a run that was moved elsewhere can be reviewed there;
only images, and a dev set of its own, are read from where the recipe says.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from svp_nlp.content import hash_strings, keys_of
from svp_nlp.data import labeled_rows, pool_ref
from svp_nlp.errors import LabelError, RecipeError
from svp_nlp.files import read_json
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.requests import Row
from svp_nlp.models import make_learner
from svp_nlp.models.base import TEXT, Labeled, Learner
from svp_nlp.pool import IMAGE
from svp_nlp.quality import Score, find_label_errors
from svp_nlp.quality_folds import FOLDS, out_of_fold
from svp_nlp.recipe import HeldOutSpec, Recipe, make_recipe
from svp_nlp.run import RECIPE_FILE, STEP_FILE

log = logging.getLogger(__name__)
_SLOW_SECONDS = 60.0


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
        doubts: conflicts between annotators in the order of the requests, then labels, the most suspicious first.
        labelled: rows that were looked at.
        likely: labels that are likely wrong, also those that `doubts` leaves out.
        reviewed: labels that somebody has decided on already; they are not doubted again.
        alone: labels that nobody else gave: nothing can be said about them.
        proxy: kind of the models.
    """

    doubts: tuple[Doubt, ...]
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
            **{name: value for name, value in vars(self).items() if name != "doubts"},
        }


def review_run(
    run_dir: str | Path,
    *,
    top: int | None = None,
    proxy: str | None = None,
    score: Score = "self_confidence",
    folds: int = FOLDS,
) -> Review:
    """Look at all labels of a run's training rows, by models that were trained without the row itself.

    Args:
        top: so many labels, whether likely wrong or not; None: those that are likely wrong.
        proxy: kind of a learner with default options; None: the proxy of the run's recipe.
    Raises:
        RecipeError: nothing of the run is labelled by people, or the proxy cannot read its rows.
        LabelError: too few labels to compare any.
    """
    queue = LabelQueue.open(run_dir)
    recipe = make_recipe(read_json(queue.run_dir / RECIPE_FILE), f"{queue.run_dir / RECIPE_FILE}")
    learner = _learner(queue, recipe, proxy)
    rows = [row for request in queue.requests if request.part == "train" for row in request.rows]
    conflicts = [_conflict(queue, row) for row in rows if queue.resolution(row.id).status == "conflict"]
    rows = [row for row in rows if queue.resolution(row.id).status == "labelled"]
    try:
        doubts, facts = _doubts(queue, recipe, learner, rows, score=score, folds=folds)
    except LabelError as error:
        if not conflicts:
            raise
        log.warning("%s", error)
        doubts, facts = [], {"likely": 0, "reviewed": 0, "alone": 0}
    shown = [doubt for doubt in doubts if doubt.is_likely] if top is None else doubts[:top]
    return Review(
        (*conflicts, *shown),
        labelled=len(rows),
        conflicts=len(conflicts),
        proxy=learner.spec.kind,
        folds=min(folds, len(rows)),
        **facts,
    )


def _learner(queue: LabelQueue, recipe: Recipe, kind: str | None) -> Learner:
    spec = recipe.proxy if kind is None else make_learner(kind).spec
    if spec.reads != queue.project.modality:
        raise RecipeError(
            f"--proxy {spec.kind} reads {spec.reads}s, but the rows of this run are {queue.project.modality}s"
        )
    commits = queue.run_dir / "models" / STEP_FILE
    if kind is None and commits.exists() and (commit := read_json(commits)["output"].get("proxy")) is not None:
        spec = spec.at(commit)  # type: ignore[attr-defined]  # the model of the Hub as the run knows it
    return make_learner(spec)


def _doubts(
    queue: LabelQueue, recipe: Recipe, learner: Learner, rows: list[Row], *, score: Score, folds: int
) -> tuple[list[Doubt], dict[str, int]]:
    """All labelled rows that nobody has decided on, the most suspicious first."""
    labeled = _labeled(queue, recipe, rows)
    keys_L = keys_of(hash_strings(pa.array([row.id for row in rows], pa.large_string())))
    _say_cost(queue, learner, rows=len(rows), folds=folds)
    probs_LC = out_of_fold(
        learner,
        labeled,
        keys_L=keys_L,
        seed=recipe.seeds[0],
        folds=folds,
        dev=_dev(recipe, labeled),
        on_fold=lambda fold: log.debug("fold %d of %d", fold, folds),
    )
    found = find_label_errors(labeled.labels_L, probs_LC, keys_L=keys_L, score=score)
    names, doubts = labeled.class_names, []
    is_decided = [(said := queue.answers_of(row.id)) is not None and said.decision is not None for row in rows]
    for at in found.order.tolist():
        if is_decided[at] or not found.judged[at]:
            continue
        given, other = int(labeled.labels_L[at]), int(found.suggested[at])
        shares = dict.fromkeys([names[other], names[given]])
        told = ", ".join(f"{name} {100 * probs_LC[at, names.index(name)]:.0f} %" for name in shares)
        doubts.append(
            Doubt(
                id=rows[at].id,
                text=rows[at].text or rows[at].image,
                given=names[given],
                suggested=None if other == given else names[other],
                score=round(float(found.scores[at]), 4),
                is_likely=bool(found.likely[at]),
                reason=f"{learner.spec.kind} on the other rows says {told}",
            )
        )
    facts = {
        "likely": sum(doubt.is_likely for doubt in doubts),
        "reviewed": sum(is_decided),
        "alone": int(np.count_nonzero(~found.judged)),
    }
    return doubts, facts


def _labeled(queue: LabelQueue, recipe: Recipe, rows: list[Row]) -> Labeled:
    labels = [queue.resolution(row.id).label for row in rows]
    positions_L = np.array([row.position for row in rows], dtype=np.int64)
    if queue.project.modality == IMAGE:
        pools = queue.run_dir / "pools" / STEP_FILE
        commit = read_json(pools)["output"].get("pool") if pools.exists() else None
        inputs = pool_ref(recipe.pool, revision=commit).open().take(positions_L)
    else:
        inputs = pa.table({TEXT: pa.array([row.text for row in rows], pa.large_string())})
    at = {name: number for number, name in enumerate(queue.classes)}
    labels_L = np.array([at[label] for label in labels if label is not None], dtype=np.int64)
    return Labeled(inputs, labels_L, positions_L, queue.classes)


def _dev(recipe: Recipe, labeled: Labeled) -> Labeled | float | None:
    """As the run has it."""
    if not isinstance(recipe.dev, HeldOutSpec) or not hasattr(recipe.proxy, "training"):
        return None if isinstance(recipe.dev, HeldOutSpec) else recipe.dev
    names = labeled.class_names
    return labeled_rows(pool_ref(recipe.dev).open(), recipe.dev.label_column, names, source="dev set")[0]


def _conflict(queue: LabelQueue, row: Row) -> Doubt:
    said = queue.answers_of(row.id)
    assert said is not None
    votes = ", ".join(f"{vote.annotator or 'somebody'} says {vote.label}" for vote in said.votes)
    return Doubt(row.id, row.text or row.image, None, None, None, False, f"annotators differ: {votes}")


def _say_cost(queue: LabelQueue, learner: Learner, *, rows: int, folds: int) -> None:
    """What is about to be done, before it takes long: as long as the run's own trainings of this learner took."""
    steps = [read_json(path) for path in sorted(queue.run_dir.glob(f"seed-*/**/model/{STEP_FILE}"))]
    spec = learner.spec.model_dump(mode="json")
    known = [step["output"]["seconds"] for step in steps if step["inputs"].get("learner") == spec]
    message = f"{folds} trainings of {learner.spec.kind} on {rows:,} rows without a part of them each"
    if not known:
        log.info("%s", message)
    elif (seconds := folds * max(known)) < _SLOW_SECONDS:
        log.info("%s: a minute at most", message)
    else:
        log.warning("%s: about %.0f minutes; --proxy fasttext takes seconds", message, seconds / 60)
