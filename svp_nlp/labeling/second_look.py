"""Rows that somebody should look at again: annotators differ, a row was flagged, or its label is probably wrong.

What is said there is a decision, which overrules the answers before it; they stay in the journal.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from svp_nlp.errors import LabelError, RunError
from svp_nlp.files import read_json
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.table import SKIP
from svp_nlp.run import now

REVIEW_FILE = "review.json"  # {"rows": [{"id", "given", "suggested", "reason"}]}, written by `svp label review`


class DecidedMeanwhile(LabelError):
    """Somebody else has decided the row since it was shown; nothing was written."""


@dataclass(frozen=True, slots=True)
class Item:
    """A row to look at.

    Attributes:
        given: its label; None: it has none.
        suggested: what it should perhaps be; None: nothing is suggested.
        votes: who said what: (annotator, kind, label or None, note).
        source: what the decision will be called: adjudication or review.
    """

    id: str
    given: str | None
    suggested: str | None
    reason: str
    votes: tuple[tuple[str, str, str | None, str], ...]
    source: Literal["adjudication", "review"]


def items(queue: LabelQueue) -> list[Item]:
    """What is to be decided: conflicts, flagged rows, likely errors in the order of their ranking; each row once."""
    conflicts, flagged = [], []
    for request in queue.requests:
        for row in request.rows:
            found = queue.resolution(row.id)
            if found.status == "conflict":
                conflicts.append(_item(queue, row.id, "annotators differ"))
            elif found.status == "flagged":
                flagged.append(_item(queue, row.id, "flagged"))
    likely = []
    for values in _ranked(queue):
        answers = queue.answers_of(values["id"])
        found = queue.resolution(values["id"])
        # A label that is no longer the one that was doubted has been looked at since.
        if answers is None or answers.decision is not None or found.label != values["given"]:
            continue
        item = _item(queue, values["id"], str(values.get("reason") or "the label is unlikely"), source="review")
        likely.append(dataclasses.replace(item, given=found.label, suggested=values.get("suggested")))
    return [*conflicts, *flagged, *likely]


def decide(
    queue: LabelQueue, annotator: str, *, id: str, label: str | None, seen: str | None, source: str, origin: str
) -> None:
    """Write a decision; it is on disk when this returns. The same origin again is the same decision.

    Args:
        label: None: nobody can tell.
        seen: the decision that the page knew of, `[skip]` where that was that nobody can tell; None: there was none.
    Raises:
        DecidedMeanwhile: there is another one by now.
        LabelError: a row that was not asked for, a label that is not among the classes, or another source.
        RunError: it could not be written; nothing was.
    """
    if source not in ("adjudication", "review"):
        raise LabelError(f"a decision from {source!r}; expected adjudication or review")
    with queue.locked():
        if (source, origin) in queue.origins:
            return
        answers = queue.answers_of(id)
        decision = answers.decision if answers is not None else None
        if decision is not None and (said := decision.label or SKIP) != seen:
            raise DecidedMeanwhile(f"{decision.annotator} has decided in between: {said}")
        queue.append([Answer(id, "decision", label, annotator, now(), source, origin=origin)])


def _item(
    queue: LabelQueue, id: str, reason: str, *, source: Literal["adjudication", "review"] = "adjudication"
) -> Item:
    answers = queue.answers_of(id)
    said = () if answers is None else tuple(answers.by_annotator.values())
    votes = tuple((vote.annotator, vote.kind, vote.label, vote.note) for vote in said)
    return Item(id, None, None, reason, votes, source)


def _ranked(queue: LabelQueue) -> list[dict[str, Any]]:
    rows: list[Any] = []
    # None was written yet, or one by hand that is none: the other rows are still to be decided.
    with contextlib.suppress(RunError, KeyError, TypeError):
        rows = list(read_json(queue.directory / REVIEW_FILE)["rows"])
    found = [row for row in rows if isinstance(row, dict) and isinstance(row.get("given"), str)]
    return list({row["id"]: row for row in found if str(row.get("id")) in queue.rows}.values())
