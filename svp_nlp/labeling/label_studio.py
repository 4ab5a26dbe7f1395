"""Rows to a Label Studio server, as tasks of a project.

The server is the truth about what it has: a push looks there first, so one that was killed is simply called again.
Tasks are joined by `data.svp_id`; those without one are somebody else's and left alone.
"""

from __future__ import annotations

import contextlib
import html
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import filelock

from svp_nlp.errors import LabelError, LabelStudioRefused, RunError
from svp_nlp.files import read_json, write_json
from svp_nlp.labeling.formats.label_studio import task_of
from svp_nlp.labeling.label_studio_client import Client, Json
from svp_nlp.labeling.label_studio_config import extended, new_config
from svp_nlp.labeling.label_studio_http import BadRequest, Uncertain
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.labeling.table import About, LabelRow
from svp_nlp.run import disk_errors

log = logging.getLogger(__name__)
_BATCH = 200  # tasks
_FILE = "label_studio.json"
_TITLE_LENGTHS = (3, 50)
_TRIES = 3


@dataclass(frozen=True)
class Remembered:
    """Which project the rows of a run are in."""

    url: str
    project: int


@dataclass(frozen=True)
class PushReport:
    """What a push did; counts are rows.

    Attributes:
        created: whether the project is new.
        new: sent now.
        known: rows that wait for an answer and were in the project before.
        twice: rows that the project has more than one task for; somebody else must have added them.
        config_changed: whether classes were added to its labelling configuration.
    """

    project: int
    title: str
    url: str
    created: bool
    new: int
    known: int
    twice: int
    config_changed: bool


def remembered(queue: LabelQueue) -> Remembered | None:
    """Where the rows were pushed last.

    Raises:
        RunError: the file that says so is damaged.
    """
    path = queue.directory / _FILE
    if not path.exists():
        return None
    try:
        values = read_json(path)
        return Remembered(str(values["url"]), int(values["project"]))
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{path} names no project; remove it and give --url and --project") from None


def push(
    queue: LabelQueue, client: Client, *, project: int | str | None = None, suggestions: bool = False
) -> PushReport:
    """Make tasks of all rows that wait for an answer, in the order in which they should be labelled.

    Rows that the project has already stay as they are there.

    Args:
        project: number or title; None: the one of the last push, or one with the name of the run. A title that no
            project has makes a new one.
        suggestions: whether the class that the proxy finds likeliest is shown with each new task.
    Raises:
        LabelError: the rows are images, or there is no class to choose from.
        LabelStudioRefused: wrong address, token or project.
        LabelStudioError: the server failed, and goes on failing.
    """
    if queue.project.modality == "image":
        raise LabelError(
            f"{queue.run_dir}: its rows are images, which Label Studio would have to fetch from a web address; label "
            f"them with svp label serve {queue.run_dir}"
        )
    with _alone(queue):
        client.version()
        before = remembered(queue)
        found, created = _project(queue, client, project, before)
        id, title = int(found["id"]), str(found["title"])
        where = f"project {id} ({title}) of {client.url}"
        there = Counter[str]() if created else _tasks_of_rows(client, id)
        if project is None and before is None and there and not there.keys() & queue.rows.keys():
            raise LabelStudioRefused(
                f"{where} has the name of this run, and tasks of something else; give --project {id} to add to them, "
                "or another title"
            )
        config = None if created else extended(str(found.get("label_config") or ""), queue.classes, where)
        with disk_errors(queue.run_dir):
            write_json(queue.directory / _FILE, {"url": client.url, "project": id})
        if config is not None:
            client.change_project(id, {"label_config": config})
        open_rows = [
            (request, row)
            for request in queue.requests
            for row in request.rows
            if not queue.resolution(row.id).is_returned
        ]
        wanted = [(request, row) for request, row in open_rows if row.id not in there]
        about = About(queue.project.name or queue.run_dir.resolve().name, queue.classes)
        _import(client, id, [_task(row, request, about, suggestions=suggestions) for request, row in wanted])
        return PushReport(
            project=id,
            title=title,
            url=f"{client.url}/projects/{id}",
            created=created,
            new=len(wanted),
            known=len(open_rows) - len(wanted),
            twice=sum(count > 1 for row_id, count in there.items() if row_id in queue.rows),
            config_changed=config is not None,
        )


@contextlib.contextmanager
def _alone(queue: LabelQueue) -> Iterator[None]:
    """One push of a run at a time: two would both find that the project lacks the rows."""
    lock = filelock.FileLock(queue.directory / "label_studio.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise RunError(f"{queue.run_dir}: another process is pushing these rows; wait for its end") from None


def _project(
    queue: LabelQueue, client: Client, project: int | str | None, before: Remembered | None
) -> tuple[Json, bool]:
    """The project, and whether it was made now."""
    if project is None and before is not None and before.url == client.url:
        project = before.project
    if isinstance(project, int):
        return client.project(project), False
    shortest, longest = _TITLE_LENGTHS
    if project is None:
        name = " ".join((queue.project.name or queue.run_dir.resolve().name).split())
        title = name[:longest].strip() if len(name) >= shortest else f"svp {name}"
    else:
        title = " ".join(project.split())
    if not shortest <= len(title) <= longest:
        raise LabelStudioRefused(
            f"{title!r} can be no title of a project there; expected {shortest} to {longest} letters"
        )
    known = _by_title(client, title)
    if known is not None:
        return known, False
    fields: Json = {
        "title": title,
        "label_config": new_config(queue.classes),
        "maximum_annotations": queue.project.answers_per_row,
    }
    if queue.project.guidelines.strip():
        fields |= {"expert_instruction": _as_html(queue.project.guidelines), "show_instruction": True}
    return client.create_project(fields), True


def locate(queue: LabelQueue, client: Client, project: int | str | None) -> Json:
    """A project that there is.

    Args:
        project: number or title; None: the one of the last push.
    Raises:
        LabelStudioRefused: there is none, or several have that title.
    """
    if project is None:
        before = remembered(queue)
        if before is None or before.url != client.url:
            raise LabelStudioRefused(
                f"{queue.run_dir}: its rows were not pushed to {client.url}; give --project the number or title of a "
                "project there"
            )
        project = before.project
    found = client.project(project) if isinstance(project, int) else _by_title(client, project)
    if found is None:
        raise LabelStudioRefused(f"{client.url} has no project {project!r}; expected its title or its number")
    return found


def _by_title(client: Client, title: str) -> Json | None:
    found = client.projects(title)
    if len(found) > 1:
        numbers = ", ".join(str(one["id"]) for one in found)
        raise LabelStudioRefused(f"{client.url} has {len(found)} projects {title!r}; give --project one of {numbers}")
    return found[0] if found else None


def _as_html(markdown: str) -> str:
    """Markdown as it is written, in paragraphs: the tool knows HTML only."""
    blocks = re.split(r"\n\s*\n", html.escape(markdown.strip()))
    return "".join("<p>" + block.strip().replace("\n", "<br>") + "</p>" for block in blocks)


def _tasks_of_rows(client: Client, project: int) -> Counter[str]:
    """How many tasks there are of each row; those of others are counted under an empty id."""
    return Counter(row_id(task) for task in client.tasks(project))


def row_id(task: Json) -> str:
    id = task["data"].get("svp_id")
    return id if isinstance(id, str) else ""


def _task(row: Row, request: Request, about: About, *, suggestions: bool) -> Json:
    shown = LabelRow(
        svp_id=row.id,
        text=sendable(row.text),
        round=request.round,
        suggestions=row.suggestions if suggestions else (),
    )
    task = task_of([shown], about)
    task["data"]["svp_part"] = request.part
    return task


def sendable(text: str) -> str:
    return text.replace("\0", "\ufffd")  # a server on PostgreSQL fails on it


def _import(client: Client, project: int, tasks: Sequence[Json]) -> None:
    """Add tasks in batches; after an answer that did not come only what is not there is sent again."""
    waiting, failures = list(tasks), 0
    while waiting:
        try:
            _import_batch(client, project, waiting[:_BATCH])
            del waiting[:_BATCH]
            failures = 0
        except Uncertain:
            failures += 1
            if failures >= _TRIES:
                raise
            there, before = _tasks_of_rows(client, project), len(waiting)
            waiting = [task for task in waiting if row_id(task) not in there]
            failures = failures if len(waiting) == before else 0
        log.info("%s of %s tasks are there", f"{len(tasks) - len(waiting):,}", f"{len(tasks):,}")


def _import_batch(client: Client, project: int, tasks: Sequence[Json]) -> None:
    """Add tasks, in halves where the server takes all or none of them and refuses."""
    try:
        if not client.import_tasks(project, tasks):
            ids = {row_id(task) for task in tasks}
            client.wait_for(lambda: ids <= _tasks_of_rows(client, project).keys())
    except BadRequest as error:
        if len(tasks) == 1:
            raise LabelStudioRefused(
                f"row {row_id(tasks[0])}: {error}; the rows before it are there, this one and those after it are not"
            ) from None
        middle = len(tasks) // 2
        _import_batch(client, project, tasks[:middle])
        _import_batch(client, project, tasks[middle:])
