"""Labels that people give, over days: asked for and answered through files in the run directory."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field

from svp_nlp.arrays import fingerprint_json
from svp_nlp.errors import RecipeError, WaitingForLabels
from svp_nlp.labeling.queue import Counts, LabelQueue, Project
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.labeling.resolve import Policy
from svp_nlp.labels import LabelSet
from svp_nlp.models.base import Spec
from svp_nlp.oracles.base import Question
from svp_nlp.pictures import displayable
from svp_nlp.pool import IMAGE, Pool
from svp_nlp.pool_images import read_image
from svp_nlp.selection import Selection
from svp_nlp.sizes import Size, amount, wrong

_SUGGESTIONS = 5  # classes a row


def _class_names(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.strip() or value != value.strip():
            raise wrong(f"{value!r} is blank, or has white space at an end; expected the name of a class")
    twice = sorted({value for number, value in enumerate(values) if value in values[:number]})
    if twice:
        raise wrong(f"{', '.join(twice)}: given twice; list each class once")
    return values


class FilesOracleSpec(Spec):
    """Options of labelling by people."""

    kind: Literal["files"]
    labels: Annotated[tuple[str, ...], AfterValidator(_class_names)] = Field(description="the classes, by name")
    new_classes: Literal["refuse", "extend"] = Field(
        "refuse", description="what to do with a label that is not among them: refuse it, or make it a class"
    )
    min_returned: Size = Field(
        "100%", description="of the rows that a round asks for: so many answers, skips included, and the run goes on"
    )
    conflicts: Policy = Field(
        "majority", description="where annotators differ: majority (ties wait), latest, or adjudicate (all wait)"
    )
    answers_per_row: Annotated[int, Field(ge=1)] = Field(1, description="annotators that must have answered a row")
    test_rows: Size | None = Field(
        None, description="so many random rows are labelled as well, kept out of training, and are the test set"
    )
    seed_labels: str | None = Field(
        None, description="a file of rows of the pool that are labelled already (svp_id or text, and label)"
    )
    guidelines: str | None = Field(None, description="a Markdown file that those who label see")


class FilesOracle:
    """Answers of people, from the queue of a run.

    Only the main process of a launch asks it.
    """

    source = "people"

    def __init__(self, spec: FilesOracleSpec, queue: LabelQueue) -> None:
        self.spec = spec
        self.queue = queue

    @property
    def fingerprint(self) -> str:
        """Hash of the options; what people will say is not known."""
        return fingerprint_json(self.spec.model_dump(mode="json"))

    @property
    def is_finished(self) -> bool:
        """Somebody asked to finish: `svp label finish`."""
        return self.queue.finish_requested

    def request(self, question: Question, pool: Pool) -> None:
        """Write the request, in the order of the selection, with what the proxy suggests."""
        selection = question.selection
        request = Request(selection.lineage.round, "test" if question.is_test else "train", ())
        if any(known.name == request.name for known in self.queue.requests):
            return
        ids = selection.ids_K.to_pylist()
        probs_KC = question.suggest()
        scores = [None] * len(ids) if selection.scores_K is None or probs_KC is None else selection.scores_K.tolist()
        texts, images = self._contents(pool, selection.positions_K, ids)
        rows = tuple(
            Row(
                id=id,
                position=int(position),
                text=text,
                image=image,
                score=score,
                suggestions=() if probs_KC is None else _likeliest(probs_KC[row], question.class_names),
            )
            for row, (id, position, text, image, score) in enumerate(
                zip(ids, selection.positions_K, texts, images, scores, strict=True)
            )
        )
        self.queue.ask(Request(request.round, request.part, rows))

    def _contents(self, pool: Pool, positions_K: Any, ids: list[str]) -> tuple[list[str], list[str]]:
        column = pool.take(positions_K).column(0)
        if pool.ref.modality != IMAGE:
            return column.to_pylist(), [""] * len(ids)
        directory = self.queue.directory / "images"
        directory.mkdir(parents=True, exist_ok=True)
        names = []
        for position, value in zip(positions_K, column, strict=True):
            content, suffix = displayable(read_image(value))
            names.append(f"{int(position):010d}{suffix}")
            (directory / names[-1]).write_bytes(content)
        return [""] * len(ids), names

    def collect(self, question: Question) -> LabelSet:
        """What has come in; rows in the order in which they were asked for, whoever answered when.

        Raises:
            WaitingForLabels: fewer answers than `min_returned`, and nobody asked to finish. A test set is waited for
                even then; but not for a decision on rows where annotators differ.
        """
        self.queue.refresh()
        selection = question.selection
        if question.is_test or not self.is_finished:
            self._check_enough(question)
        round = selection.lineage.round
        parts = [self._given(asked, round) for asked in (*question.earlier, selection)]
        given = LabelSet(pa.concat_tables([part.table for part in parts]))
        return given.changes_to(question.labels)

    def _check_enough(self, question: Question) -> None:
        selection = question.selection
        [request] = [
            request
            for request in self.queue.requests
            if (request.round, request.part == "test") == (selection.lineage.round, question.is_test)
        ]
        counts = self.queue.counts(request)
        needed = _enough(self.spec.min_returned, len(selection))
        returned = counts.returned + (counts.conflicts if self.is_finished else 0)
        if returned < needed:
            raise WaitingForLabels(waiting(self.queue, request, counts, needed))

    def _given(self, selection: Selection, round: int) -> LabelSet:
        """One label a row; null where there is none, or none any more: it was taken back, or is in dispute."""
        given = [self.queue.resolution(id) for id in selection.ids_K.to_pylist()]
        return LabelSet.of(
            selection.positions_K,
            selection.ids_K,
            pa.array([found.label for found in given], pa.string()),
            round=round,
            source=[found.source for found in given],
            annotator=[found.annotators for found in given],
        )


def _enough(wanted: int | str, rows: int) -> int:
    """Answers that let a run go on: never more than there are rows, and one at least where there are any."""
    if isinstance(wanted, int) or not rows:
        return min(int(wanted) if rows else 0, rows)
    return max(1, math.floor(amount(wanted) / 100 * rows + Fraction(1, 2)))


def project_of(
    spec: FilesOracleSpec, *, class_names: tuple[str, ...], modality: Any, planned: int, name: str
) -> Project:
    """What those who label need to know.

    Raises:
        RecipeError: the guidelines cannot be read.
    """
    return Project(
        labels=class_names,
        new_classes=spec.new_classes,
        conflicts=spec.conflicts,
        answers_per_row=spec.answers_per_row,
        planned=planned,
        modality=modality,
        guidelines=read_guidelines(spec.guidelines),
        name=name,
    )


def read_guidelines(path: str | None) -> str:
    """The text of a Markdown file; empty where none is named.

    Raises:
        RecipeError: it cannot be read.
    """
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise RecipeError(f"oracle.guidelines: {path} cannot be read ({reason}); expected a Markdown file") from None


def _likeliest(probs_C: Any, class_names: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probs_C, kind="stable")[:_SUGGESTIONS]
    return tuple((class_names[at], round(float(probs_C[at]), 4)) for at in order)


def waiting(queue: LabelQueue, request: Request, counts: Counts, needed: int) -> str:
    """What a run that stands still says: what is missing, and what to do."""
    run = queue.run_dir
    of_what = "of the test set" if request.part == "test" else f"of round {request.round}"
    enough = "" if needed >= counts.requested else f" ({needed:,} are enough)"
    conflicts = f", {counts.conflicts:,} where annotators differ (svp label review {run})" if counts.conflicts else ""
    others = sum(queue.counts(other).open for other in queue.requests if other.name != request.name)
    beside = f"; {others:,} rows that were asked for before wait as well" if others else ""
    return (
        f"{counts.returned:,} of {counts.requested:,} answers {of_what} have come in{enough}{conflicts}{beside}. Label "
        f"in your browser: svp label serve {run}; in files: svp label export {run} --to csv, svp label import {run} "
        f"FILE; or in Label Studio: svp label push {run} --url URL. Then run the same command again"
    )
