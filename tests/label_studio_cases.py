"""What pushing and pulling must do, tried with a real server and with what one said: each case has a server to itself.

A case gets the address of a server without projects of its name, and an empty folder.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from label_studio_wire import TOKEN

from svp_nlp.errors import LabelError, LabelStudioRefused
from svp_nlp.labeling import label_studio
from svp_nlp.labeling.label_studio import PushReport, push
from svp_nlp.labeling.label_studio_client import Client
from svp_nlp.labeling.label_studio_http import Patience
from svp_nlp.labeling.label_studio_pull import PullReport, pull
from svp_nlp.labeling.queue import LabelQueue, Project
from svp_nlp.labeling.requests import Request, Row

CLASSES = ("billing", 'bug "x" <b> & more', "two\nlines", "$5 \u05d0\U0001f600")
TEXTS = (
    "where is my <script>money</script>",
    "=1+1",
    "nul \0 inside",
    "s3://bucket/x",
    "two\r\nlines",
    "\u05e9\u05dc\u05d5\u05dd",
)
QUICK = Patience(deadline_s=5, unreachable_s=0.1, first_wait_s=0.01, longest_wait_s=0.05, answer_s=60, import_s=60)


class Killed(BaseException):
    """As kill -9: nothing after it is done."""


def make_queue(folder: Path, name: str, *, rows: int = len(TEXTS), **project: Any) -> LabelQueue:
    values = {"labels": CLASSES, "name": name, **project}
    queue = LabelQueue.begin(folder / "run", Project(**values))
    queue.ask(Request(0, "train", tuple(Row(f"id{k}", 7 * k, TEXTS[k]) for k in reversed(range(rows)))))
    return queue


def ask_second_round(queue: LabelQueue) -> None:
    suggestions = ((CLASSES[1], 0.6), (CLASSES[0], 0.4))
    rows = tuple(Row(f"later{k}", 100 + k, f"later text {k}", "", 0.5, suggestions) for k in range(2))
    queue.ask(Request(1, "train", rows))


def client_of(url: str, token: str = TOKEN) -> Client:
    return Client(url, token, patience=QUICK)


def call(url: str, method: str, path: str, body: Any = None) -> Any:
    """What somebody else does on the server."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as answer:
        return json.loads(answer.read())


def chosen(*labels: str) -> list[dict[str, Any]]:
    return [{"from_name": "svp_label", "to_name": "text", "type": "choices", "value": {"choices": list(labels)}}]


def annotate(url: str, task: int, *labels: str, **more: Any) -> int:
    result = chosen(*labels) if labels else []
    return call(url, "POST", f"/api/tasks/{task}/annotations", {"result": result, **more})["id"]


def tasks_of(url: str, project: int) -> dict[str, dict[str, Any]]:
    """Row -> task, in the order in which people see them."""
    tasks = list(client_of(url).tasks(project, annotations=True))
    assert len({task["data"].get("svp_id") for task in tasks}) == len(tasks)
    return {task["data"].get("svp_id"): task for task in tasks}


def counts(report: PullReport | PushReport, *names: str) -> tuple[int, ...]:
    return tuple(getattr(report, name) for name in names)


def rows_become_tasks_in_the_order_of_the_request_and_pushing_again_adds_none(url: str, folder: Path) -> None:
    queue = make_queue(folder, "order", guidelines="# Rules\n\nBe <b>kind</b>.\nAlways.", answers_per_row=2)
    done = push(queue, client_of(url))
    assert (done.created, done.title) == (True, "order") and counts(done, "new", "known", "twice") == (6, 0, 0)
    tasks = tasks_of(url, done.project)
    assert list(tasks) == [row.id for row in queue.requests[0].rows]
    for row in queue.requests[0].rows:
        data = {"svp_id": row.id, "svp_run": "order", "svp_round": 0, "svp_part": "train"}
        assert tasks[row.id]["data"] == {**data, "text": row.text.replace("\0", "\ufffd")}
    project = client_of(url).project(done.project)
    assert project["parsed_label_config"]["svp_label"]["labels"] == list(CLASSES)
    assert project["expert_instruction"] == "<p># Rules</p><p>Be &lt;b&gt;kind&lt;/b&gt;.<br>Always.</p>"
    assert project["show_instruction"] and project["maximum_annotations"] == 2
    again = push(queue, client_of(url))
    assert (again.created, again.project) == (False, done.project) and counts(again, "new", "known") == (0, 6)


def answers_come_back_with_their_person_and_pulling_again_takes_none(url: str, folder: Path) -> None:
    queue = make_queue(folder, "answers", conflicts="latest")
    project = push(queue, client_of(url)).project
    tasks = {row: task["id"] for row, task in tasks_of(url, project).items()}
    bo = call(url, "POST", "/api/users", {"email": "bo-answers@example.com", "username": "bo-answers"})["id"]
    annotate(url, tasks["id0"], CLASSES[1])
    annotate(url, tasks["id1"], was_cancelled=True)
    annotate(url, tasks["id2"])
    annotate(url, tasks["id3"], CLASSES[0])
    annotate(url, tasks["id3"], CLASSES[2])
    annotate(url, tasks["id4"], CLASSES[0])
    annotate(url, tasks["id4"], CLASSES[3], completed_by=bo)
    done = pull(queue, client_of(url))
    assert counts(done, "tasks", "foreign", "new", "skipped", "known", "empty") == (6, 0, 6, 1, 0, 1)
    found = {row: queue.resolution(row) for row in queue.rows}
    assert [found[f"id{k}"].status for k in range(6)] == ["labelled", "skipped", "open", "labelled", "labelled", "open"]
    assert [found[f"id{k}"].label for k in (0, 3, 4)] == [CLASSES[1], CLASSES[2], CLASSES[3]]
    assert [found[f"id{k}"].annotators for k in (0, 4)] == ["ann@example.com", "bo-answers@example.com"]
    assert {found[row].source for row in ("id0", "id3", "id4")} == {"label_studio"}
    before = queue.journal.path.read_bytes()
    again = pull(LabelQueue.open(queue.run_dir), client_of(url), project="answers")
    assert counts(again, "new", "known", "empty") == (0, 6, 1)
    assert queue.journal.path.read_bytes() == before


def who_changes_or_clears_an_annotation_has_changed_his_mind(url: str, folder: Path) -> None:
    queue = make_queue(folder, "edited", rows=3)
    project = push(queue, client_of(url)).project
    tasks = {row: task["id"] for row, task in tasks_of(url, project).items()}
    made = {row: annotate(url, tasks[row], CLASSES[0]) for row in tasks}
    assert pull(queue, client_of(url)).new == 3
    call(url, "PATCH", f"/api/annotations/{made['id0']}", {"result": chosen(CLASSES[1])})
    call(url, "PATCH", f"/api/annotations/{made['id1']}", {"result": []})
    done = pull(queue, client_of(url))
    assert counts(done, "new", "changed", "known") == (2, 2, 1)
    assert queue.resolution("id0").label == CLASSES[1]
    assert queue.resolution("id1").status == "open"
    again = pull(queue, client_of(url))
    assert counts(again, "new", "known", "empty") == (0, 3, 0)


def wrong_labels_and_changed_texts_are_told_together_and_nothing_is_taken(url: str, folder: Path) -> None:
    queue = make_queue(folder, "refused", rows=4)
    project = push(queue, client_of(url)).project
    tasks = {row: task["id"] for row, task in tasks_of(url, project).items()}
    annotate(url, tasks["id0"], CLASSES[0])
    annotate(url, tasks["id1"], "biling")
    annotate(url, tasks["id2"], CLASSES[0], CLASSES[1])
    annotate(url, tasks["id3"], CLASSES[0])
    data = {"text": "not what was asked", "svp_id": "id3"}
    call(url, "PATCH", f"/api/tasks/{tasks['id3']}", {"data": data})
    with pytest.raises(LabelError) as told:
        pull(queue, client_of(url))
    message = str(told.value)
    assert "project" in message and "'biling'" in message and "did you mean 'billing'" in message
    assert f"task {tasks['id2']}" in message and f"task {tasks['id3']}: id3" in message
    assert not queue.journal.answers and not queue.journal.path.exists()


def a_new_class_is_taken_where_that_is_allowed_and_joins_the_configuration(url: str, folder: Path) -> None:
    queue = make_queue(folder, "extend", rows=2, new_classes="extend")
    project = push(queue, client_of(url)).project
    tasks = {row: task["id"] for row, task in tasks_of(url, project).items()}
    annotate(url, tasks["id0"], "un<seen>")
    assert pull(queue, client_of(url)).new == 1
    assert queue.classes == (*CLASSES, "un<seen>")
    ask_second_round(queue)
    done = push(queue, client_of(url), suggestions=True)
    assert (done.project, done.config_changed) == (project, True) and counts(done, "new", "known") == (2, 1)
    parsed = client_of(url).project(project)["parsed_label_config"]["svp_label"]
    assert parsed["labels"] == [*CLASSES, "un<seen>"]
    assert [choice.get("hotkey") for choice in parsed["labels_attrs"].values()] == ["1", "2", "3", "4", "5"]
    assert list(tasks_of(url, project)) == ["id1", "id0", "later0", "later1"]


def suggestions_are_predictions_that_the_project_shows(url: str, folder: Path) -> None:
    queue = make_queue(folder, "suggestions", rows=1)
    ask_second_round(queue)
    project = push(queue, client_of(url), suggestions=True).project
    tasks = call(url, "GET", f"/api/tasks?project={project}&fields=all")["tasks"]
    shown = {
        task["data"]["svp_id"]: [(p["score"], p["result"][0]["value"]["choices"]) for p in task["predictions"]]
        for task in tasks
    }
    assert shown == {"id0": [], "later0": [(0.6, [CLASSES[1]])], "later1": [(0.6, [CLASSES[1]])]}
    settings = client_of(url).project(project)
    assert (
        settings["show_collab_predictions"] and settings["model_version"] == tasks[1]["predictions"][0]["model_version"]
    )


def tasks_and_projects_of_others_are_left_alone(url: str, folder: Path) -> None:
    other = "<View><Text name='t' value='$text'/><Choices name='c' toName='t'><Choice value='x'/></Choices></View>"
    theirs = call(url, "POST", "/api/projects", {"title": "others", "label_config": other})["id"]
    queue = make_queue(folder, "others", rows=2)
    with pytest.raises(LabelStudioRefused, match="a labelling configuration of its own"):
        push(queue, client_of(url))
    assert not tasks_of(url, theirs)
    shared = push(make_queue(folder / "second", "shared", rows=1), client_of(url)).project
    foreign = LabelQueue.begin(folder / "third", Project(labels=CLASSES, name="shared"))
    foreign.ask(Request(0, "train", (Row("x0", 0, "another text"),)))
    with pytest.raises(LabelStudioRefused, match="tasks of something else"):
        push(foreign, client_of(url))
    assert push(foreign, client_of(url), project=shared).new == 1
    call(url, "POST", f"/api/projects/{shared}/import", [{"data": {"text": "no id"}}])
    call(url, "POST", f"/api/projects/{shared}/import", [{"data": {"text": "a number", "svp_id": 5}}])
    for task in client_of(url).tasks(shared):
        annotate(url, task["id"], CLASSES[0])
    assert counts(pull(foreign, client_of(url)), "tasks", "foreign", "new") == (1, 3, 1)
    call(url, "POST", "/api/projects", {"title": "others"})
    with pytest.raises(LabelStudioRefused, match=r"2 projects 'others'; give --project one of \d+, \d+"):
        push(queue, client_of(url))


def a_push_that_was_killed_anywhere_is_finished_by_the_next(url: str, folder: Path) -> None:
    queue = make_queue(folder, "killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_studio, "_BATCH", 4)
        patch.setattr(label_studio, "write_json", killed)  # the project is there, and nobody knows it
        with pytest.raises(Killed):
            push(queue, client_of(url))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_studio, "_BATCH", 4)
        client = client_of(url)
        import_tasks = client.import_tasks

        def once(*args: Any) -> int:
            import_tasks(*args)
            raise Killed

        patch.setattr(client, "import_tasks", once)
        with pytest.raises(Killed):
            push(queue, client)
    done = push(queue, client_of(url))
    assert not done.created and counts(done, "new", "known", "twice") == (2, 4, 0)
    assert list(tasks_of(url, done.project)) == [row.id for row in queue.requests[0].rows]


def killed(*args: Any) -> None:
    raise Killed


def a_row_that_the_server_refuses_is_named(url: str, folder: Path) -> None:
    queue = make_queue(folder, "bad row", rows=5)
    with pytest.MonkeyPatch.context() as patch:
        task = label_studio._task

        def broken(row: Row, *args: Any, **more: Any) -> Any:
            made = task(row, *args, **more)
            if row.id == "id1":
                made["data"]["text"] = None
            return made

        patch.setattr(label_studio, "_task", broken)
        with pytest.raises(LabelStudioRefused, match=r"row id1: .* refused \(HTTP 400: .*Error at item 0"):
            push(queue, client_of(url))
    done = push(queue, client_of(url))
    assert counts(done, "new", "known") == (2, 3)


def a_personal_token_is_exchanged_for_one_that_lives_for_minutes(url: str, folder: Path) -> None:
    token = call(url, "POST", "/api/token", {})["token"]
    queue = make_queue(folder, "personal", rows=1)
    assert push(queue, client_of(url, token)).new == 1
    with pytest.raises(LabelStudioRefused, match="does not know your token") as told:
        client_of(url, "eyJ.wrong.token").project(1)
    assert "eyJ" not in str(told.value)
    with pytest.raises(LabelStudioRefused, match="does not know your token") as told:
        client_of(url, "f" * 40).project(1)
    assert "ffff" not in str(told.value)


def what_is_not_there_is_told(url: str, folder: Path) -> None:
    queue = make_queue(folder, "nowhere", rows=1)
    with pytest.raises(LabelStudioRefused, match="no project 99999"):
        push(queue, client_of(url), project=99999)
    with pytest.raises(LabelStudioRefused, match="no project 99999"):
        pull(queue, client_of(url), project=99999)
    with pytest.raises(LabelStudioRefused, match="no project 'nobody has this'"):
        pull(queue, client_of(url), project="nobody has this")
    with pytest.raises(LabelStudioRefused, match="were not pushed"):
        pull(queue, client_of(url))


CASES = (
    rows_become_tasks_in_the_order_of_the_request_and_pushing_again_adds_none,
    answers_come_back_with_their_person_and_pulling_again_takes_none,
    who_changes_or_clears_an_annotation_has_changed_his_mind,
    wrong_labels_and_changed_texts_are_told_together_and_nothing_is_taken,
    a_new_class_is_taken_where_that_is_allowed_and_joins_the_configuration,
    suggestions_are_predictions_that_the_project_shows,
    tasks_and_projects_of_others_are_left_alone,
    a_push_that_was_killed_anywhere_is_finished_by_the_next,
    a_row_that_the_server_refuses_is_named,
    a_personal_token_is_exchanged_for_one_that_lives_for_minutes,
    what_is_not_there_is_told,
)
