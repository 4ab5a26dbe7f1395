"""Pushing to and pulling from a real Label Studio. SVP_RECORD=1 writes down what it says, for the ordinary tests."""

from __future__ import annotations

import itertools
import json
import os
import urllib.error
from collections.abc import Mapping

import pytest
from label_studio_cases import CASES, CLASSES, annotate, call, client_of, make_queue, tasks_of
from label_studio_wire import RECORDED, TOKEN, forward, recording, serving
from scripted_labeler import BANKING, INITIAL, SIZES, hire, svp
from small_run import outcome

from svp_nlp.errors import LabelStudioError
from svp_nlp.labeling import label_studio
from svp_nlp.labeling.label_studio import push
from svp_nlp.labeling.label_studio_client import Client
from svp_nlp.labeling.label_studio_http import Patience
from svp_nlp.labeling.queue import LabelQueue

TITLE = "banking77"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_with_a_real_server(case, server, tmp_path):
    file = RECORDED / f"{case.__name__}.json" if os.environ.get("SVP_RECORD") else None
    with recording(server, file) as url:
        case(url, tmp_path)


@pytest.mark.parametrize("is_done", [False, True], ids=["lost on the way there", "lost on the way back"])
def test_whichever_call_of_a_push_is_lost_the_next_push_leaves_each_row_there_once(
    server, tmp_path, monkeypatch, is_done
):
    monkeypatch.setattr(label_studio, "_BATCH", 3)
    monkeypatch.setattr(label_studio, "_TRIES", 1)
    for lost in itertools.count():
        calls = itertools.count()

        def answer(method, path, body, headers, lost=lost, calls=calls):
            number = next(calls)
            if number >= lost and not (is_done and number == lost):
                return None
            status, content = forward(server, method, path, body, headers)
            return None if number == lost else (status, content, {})

        name = f"lost {lost} {is_done}"
        queue = make_queue(tmp_path / str(lost), name)
        with serving(answer) as url:
            client = Client(url, TOKEN, patience=Patience(deadline_s=0.01, first_wait_s=0.01))
            try:
                push(queue, client)
            except LabelStudioError:
                finished = False
            else:
                finished = True
        (queue.directory / "label_studio.json").unlink(missing_ok=True)  # it holds the address of that door
        done = push(queue, client_of(server), project=name)
        assert list(tasks_of(server, done.project)) == [row.id for row in queue.requests[0].rows]
        assert len(client_of(server).projects(name)) == 1
        if finished:
            return


@pytest.mark.skipif(not BANKING.is_dir(), reason=f"{BANKING} is not here")
def test_people_who_know_the_truth_give_the_run_of_a_simulation_through_label_studio(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    labeler = hire(tmp_path)
    run, recipe, pushed = tmp_path / "run", labeler.recipe("people"), []
    while (code := svp("run", recipe, "--run-dir", run)[0]) == 3:
        code, told = svp("label", "push", run, "--url", server, "--project", TITLE, "--suggestions", "--format", "json")
        assert code == 0, told
        done = json.loads(told)
        pushed.append((done["new"], done["known"]))
        queue = LabelQueue.open(run)
        waiting = [row.text for row in queue.requests[-1].rows if queue.resolution(row.id).status == "open"]
        some = None if done["known"] else len(waiting) // 2  # half of what is asked, and the rest after another push
        read = label_stream(server, done["project"], labeler.truth, some)
        assert read == waiting[:some]
        assert svp("label", "pull", run)[0] == 0
    assert code == 0
    halves = [size // 2 for size in (INITIAL, SIZES[0] - INITIAL, SIZES[1] - SIZES[0])]
    assert pushed == [counts for half in halves for counts in ((2 * half, 0), (0, half))]
    assert outcome(run) == labeler.simulated()


def label_stream(url: str, project: int, truth: Mapping[str, str], most: int | None) -> list[str]:
    """Somebody presses "Label All Tasks" and answers until there are no more: the texts as they were shown."""
    read: list[str] = []
    while most is None or len(read) < most:
        try:
            task = call(url, "GET", f"/api/projects/{project}/next/")
        except urllib.error.HTTPError as error:
            assert error.code == 404
            break
        read.append(task["data"]["text"])
        annotate(url, task["id"], truth[read[-1]])
    return read


def test_many_classes_can_be_searched(server, tmp_path):
    names = (*CLASSES, *(f"class {number}" for number in range(80)))
    project = push(make_queue(tmp_path, "many", labels=names, rows=1), client_of(server)).project
    settings = client_of(server).project(project)
    assert settings["parsed_label_config"]["svp_label"]["labels"] == list(names)
    assert "<Filter" in settings["label_config"]
