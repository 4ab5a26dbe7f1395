"""What people answered on a Label Studio server, into the journal; each version of an annotation once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from svp_nlp.content import normalise
from svp_nlp.errors import LabelError
from svp_nlp.labeling.answers import Answer, Kind
from svp_nlp.labeling.formats.label_studio import rows_of_task
from svp_nlp.labeling.label_studio import locate, row_id, sendable
from svp_nlp.labeling.label_studio_client import Client
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.table import LabelRow

SOURCE = "label_studio"
_SHOWN = 10


@dataclass(frozen=True)
class PullReport:
    """What a pull found.

    Attributes:
        tasks: of rows that this run asked for.
        foreign: tasks that are not.
        new: answers that were written now; of them `skipped` are skips, `retracted` took a label back.
        known: annotations that were taken before.
        empty: annotations without a class, which are no answers.
    """

    project: int
    title: str
    tasks: int
    foreign: int
    new: int
    skipped: int
    retracted: int
    known: int
    empty: int


def pull(queue: LabelQueue, client: Client, *, project: int | str | None = None) -> PullReport:
    """Take in all annotations of a project that were made or changed since.

    Each is an answer of the person who made it; where one person made several of a task, the newest counts.

    Args:
        project: number or title; None: the one of the last push.
    Raises:
        LabelError: a text was changed there, an annotation has two classes or one that is not known; lists them, and
            nothing was written.
        LabelStudioRefused: wrong address, token or project.
        LabelStudioError: the server failed, and goes on failing.
    """
    client.version()
    found_project = locate(queue, client, project)
    number, title = int(found_project["id"]), str(found_project["title"])
    people = client.users()
    tasks = foreign = 0
    found: list[LabelRow] = []
    for task in client.tasks(number, annotations=True):
        if row_id(task) not in queue.rows:
            foreign += 1
            continue
        tasks += 1
        for annotation in task["annotations"]:
            if isinstance(who := annotation.get("completed_by"), int):
                annotation["completed_by"] = people.get(who, who)
        found += rows_of_task(task, at=f"task {task['id']}") if task["annotations"] else []
    _refuse([row for row in found if _is_changed(row, queue)], f"texts that were changed in project {number}")
    _refuse([row for row in found if row.problem], "annotations with more than one class")
    found.sort(key=_moment)
    with queue.locked():
        said = [_answer(row, queue) for row in found if (SOURCE, row.origin) not in queue.origins]
        answers = [answer for answer in said if answer is not None]
        queue.append(answers)
    kinds = [answer.kind for answer in answers]
    return PullReport(
        project=number,
        title=title,
        tasks=tasks,
        foreign=foreign,
        new=len(answers),
        skipped=kinds.count("skip"),
        retracted=kinds.count("retract"),
        known=len(found) - len(said),
        empty=len(said) - len(answers),
    )


def _refuse(rows: list[LabelRow], what: str) -> None:
    if rows:
        told = [f"{row.at} (row {row.svp_id})" for row in rows[:_SHOWN]]
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        raise LabelError(f"{what}: {', '.join(told)}{more}; nothing was taken: correct them there and pull again")


def _is_changed(row: LabelRow, queue: LabelQueue) -> bool:
    return normalise(row.text) != normalise(sendable(queue.rows[row.svp_id].text))


def _moment(row: LabelRow) -> tuple[datetime, int]:
    return datetime.fromisoformat(row.timestamp.replace("Z", "+00:00")), _number(row.origin)


def _number(origin: str) -> int:
    """Of the annotation."""
    return int(origin.partition("@")[0])


def _answer(row: LabelRow, queue: LabelQueue) -> Answer | None:
    """What an annotation says; None: nothing, and it did not before."""
    kind: Kind = "skip" if row.kind == "skip" else "label"
    if not row.is_answered:
        given = queue.answers_of(row.svp_id)
        last = given.by_annotator.get(row.annotator) if given else None
        if last is None or last.source != SOURCE or _number(last.origin) != _number(row.origin):
            return None
        kind = "retract"
    return Answer(
        id=row.svp_id,
        kind=kind,
        label=row.label if kind == "label" else None,
        annotator=row.annotator,
        time=row.timestamp,
        source=SOURCE,
        origin=row.origin,
    )
