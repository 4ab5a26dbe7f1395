"""What people answered on a Label Studio server, into the journal; each version of an annotation once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from svp_nlp.labeling.formats.label_studio import LABEL_STUDIO, rows_of_task
from svp_nlp.labeling.importing import import_rows
from svp_nlp.labeling.label_studio import locate, row_id, sendable
from svp_nlp.labeling.label_studio_client import Client
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.table import LabelRow


@dataclass(frozen=True)
class PullReport:
    """What a pull found.

    Attributes:
        tasks: of rows that this run asked for.
        foreign: tasks that are not.
        new: answers that were written now; of them `skipped` are skips, `changed` replace another of the same person.
        known: annotations that were taken before.
        empty: annotations without a class, which are no answers; one that had a class before takes it back.
    """

    project: int
    title: str
    tasks: int
    foreign: int
    new: int
    skipped: int
    changed: int
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
    rows: list[LabelRow] = []
    for task in client.tasks(number, annotations=True):
        asked = queue.rows.get(row_id(task))
        if asked is None:
            foreign += 1
            continue
        tasks += 1
        for annotation in task["annotations"]:
            if isinstance(who := annotation["completed_by"], int):
                annotation["completed_by"] = people.get(who, who)
        if task["data"].get("text") == sendable(asked.text):
            task["data"]["text"] = asked.text
        if task["annotations"]:
            rows += rows_of_task(task, at=f"task {task['id']}")
    rows.sort(key=_moment)
    done = import_rows(queue, rows, source=LABEL_STUDIO.name, where=f"project {number} ({title}) of {client.url}")
    return PullReport(
        project=number,
        title=title,
        tasks=tasks,
        foreign=foreign,
        new=done.new,
        skipped=done.skipped,
        changed=done.changed,
        known=done.known,
        empty=done.unanswered,
    )


def _moment(row: LabelRow) -> tuple[datetime, int]:
    """When an annotation was changed last, and its number, for two at once."""
    return datetime.fromisoformat(row.timestamp.replace("Z", "+00:00")), int(row.origin.partition("@")[0])
