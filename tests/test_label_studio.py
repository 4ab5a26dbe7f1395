"""Label Studio: what a real server said is played back, and a server that fails, is slow, or is something else."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from label_studio_cases import CASES, CLASSES, QUICK, client_of, make_queue
from label_studio_wire import RECORDED, TOKEN, playing, serving
from typer.testing import CliRunner

from svp_nlp import files
from svp_nlp.cli import app
from svp_nlp.errors import LabelError, LabelStudioError, LabelStudioRefused, RunError
from svp_nlp.labeling.label_studio import push, remembered
from svp_nlp.labeling.label_studio_client import Client
from svp_nlp.labeling.label_studio_config import extended, new_config
from svp_nlp.labeling.label_studio_http import Uncertain, check_url


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_as_with_a_real_server(case, tmp_path):
    with playing(RECORDED / f"{case.__name__}.json") as url:
        case(url, tmp_path)


def said(status: int, value: object = "", **headers: str):
    return status, value.encode() if isinstance(value, str) else json.dumps(value).encode(), headers


def in_turn(*answers):
    """Gives one answer after the other, the last for ever; and the calls that it got."""
    calls = []

    def answer(method, path, body, headers):
        calls.append((method, path, body, headers))
        return answers[min(len(calls), len(answers)) - 1]

    return answer, calls


@pytest.mark.parametrize("busy", [said(429, "wait", **{"Retry-After": "0"}), said(503), said(500), said(502), None])
def test_a_busy_server_is_asked_again(busy):
    answer, calls = in_turn(busy, busy, said(200, {"id": 5}))
    with serving(answer) as url:
        assert client_of(url).project(5) == {"id": 5}
    assert len(calls) == 3


def test_a_server_that_stays_busy_is_given_up_and_named():
    answer, calls = in_turn(said(503, {"detail": "too much"}))
    with serving(answer) as url, pytest.raises(LabelStudioError, match=rf"{url} .*HTTP 503: too much") as told:
        Client(url, TOKEN, patience=replace(QUICK, deadline_s=0.05)).project(5)
    assert not isinstance(told.value, LabelStudioRefused) and told.value.exit_code == 1 and len(calls) > 1


def test_where_nothing_listens_is_told_soon():
    with serving(lambda *call: None) as url:
        pass
    with pytest.raises(LabelStudioError, match=r"within 0.1 s \(last: ConnectionRefusedError.*check that Label Studio"):
        client_of(url).version()


@pytest.mark.parametrize("lost", [None, said(500), said(502), said(504)])
def test_an_import_that_may_have_been_done_is_not_sent_again_by_itself(lost):
    answer, calls = in_turn(lost)
    with serving(answer) as url, pytest.raises(Uncertain):
        client_of(url).import_tasks(5, [{"data": {}}])
    assert len(calls) == 1


def test_a_push_looks_for_the_rows_of_a_lost_answer_and_sends_the_others(tmp_path):
    queue, there, losses = make_queue(tmp_path, "lossy"), [], [True, False, True]

    def answer(method, path, body, headers):
        if path == "/api/version":
            return said(200, {"release": "1.23.2"})
        if path.startswith("/api/tasks"):
            return said(200, {"total": len(there), "tasks": there})
        if method == "POST" and path.endswith("/import"):
            done = losses.pop(0) if losses else None
            there.extend({"id": len(there), **task} for task in json.loads(body) if done in (True, None))
            return said(201, {"task_count": 0}) if done is None else None
        return said(201 if method == "POST" else 200, {"id": 1, "title": "lossy", "results": []})

    with serving(answer) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr("svp_nlp.labeling.label_studio._BATCH", 2)
        assert push(queue, client_of(url)).new == 6
    assert [task["data"]["svp_id"] for task in there] == [row.id for row in queue.requests[0].rows]


def test_an_import_that_a_server_does_in_its_own_time_is_waited_for(tmp_path):
    queue, there, coming = make_queue(tmp_path, "later", rows=3), [], []

    def answer(method, path, body, headers):
        if path == "/api/version":
            return said(200, {"release": "2.0.0"})
        if path.startswith("/api/tasks"):
            there.extend(coming[:1])
            del coming[:1]
            return said(200, {"total": len(there), "tasks": there})
        if path.endswith("/import"):
            coming.extend(json.loads(body))
            return said(201, {"import": 7})
        return said(200, {"id": 1, "title": "later", "results": []})

    with serving(answer) as url:
        push(queue, client_of(url))
    assert len(there) == 3 and not coming


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            said(301, Location="https://labels.example.com/api/version?x=1"),
            "redirects to https://labels.example.com/api",
        ),
        (said(200, "<html>"), "is no Label Studio: /api/version answers with something else than JSON"),
        (said(200, {"status": "UP"}), "is no Label Studio: /api/version names no release"),
        (said(200, {"release": "1.7.3"}), r"is Label Studio 1.7.3; expected 1.10 or newer"),
        (said(403, {"detail": "no"}), "your token may not do this.*HTTP 403: no"),
        (said(404), "no such page"),
    ],
)
def test_what_is_no_label_studio_or_an_old_one_is_refused_with_what_to_do(answer, message):
    with serving(in_turn(answer)[0]) as url, pytest.raises(LabelStudioRefused, match=message) as told:
        client_of(url).version()
    assert told.value.exit_code == 2


def test_a_redirect_does_not_carry_the_token_elsewhere():
    elsewhere, calls = in_turn(said(200, {"id": 5}))
    with (
        serving(elsewhere) as other,
        serving(in_turn(said(302, Location=f"{other}/api/projects/5"))[0]) as url,
        pytest.raises(LabelStudioRefused, match="redirects"),
    ):
        client_of(url).project(5)
    assert not calls


def test_an_access_token_that_has_ended_is_renewed_once():
    spent = said(401, {"detail": "Token is expired"})
    access = said(200, {"access": "eyJ.a.b"})
    answer, calls = in_turn(access, spent, access, said(200, {"id": 5}), spent, access, spent)
    with serving(answer) as url:
        client = client_of(url, "eyJ.refresh.token")
        assert client.project(5) == {"id": 5}
        with pytest.raises(LabelStudioRefused, match="does not know your token"):
            client.project(5)
    assert [path for _, path, _, _ in calls if "token" in path] == ["/api/token/refresh"] * 3
    assert {h["Authorization"] for _, path, _, h in calls if "token" not in path} == {"Bearer eyJ.a.b"}
    assert not any("Authorization" in h for _, path, _, h in calls if "token" in path)


def test_the_token_is_in_no_message_and_no_file(tmp_path, caplog):
    queue = make_queue(tmp_path, "secret", rows=1)
    caplog.set_level(logging.DEBUG)
    echo = said(400, {"detail": f"what is Token {TOKEN}?"})
    with serving(in_turn(said(200, {"release": "1.23.2"}), said(503, TOKEN), echo)[0]) as url:
        with pytest.raises(LabelStudioRefused, match=r"what is Token \*\*\*\?"):
            push(queue, client_of(url))
        told = CliRunner().invoke(app, ["label", "push", str(queue.run_dir), "--url", url, "--token", TOKEN, "-v"])
    assert told.exit_code == 2 and "what is Token ***?" in told.output
    assert TOKEN not in told.output + caplog.text
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8080", "no address of a server"),
        ("ftp://localhost", "no address of a server"),
        ("", "no address of a server"),
        ("http://ann:secret@localhost", "leave it out"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url, message):
    with pytest.raises(LabelStudioRefused, match=message) as told:
        check_url(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("url", ["http://h:1/x/", "http://h:1/x/projects/5/data?tab=1", " http://h:1/x/api/ "])
def test_an_address_may_be_copied_from_the_browser(url):
    assert check_url(url) == "http://h:1/x"


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "schl\u00fcssel"])
def test_a_token_that_cannot_be_is_refused_and_not_shown(token):
    with pytest.raises(LabelStudioRefused, match="token") as told:
        Client("http://localhost", token)
    assert not token.strip() or token not in str(told.value)


@pytest.mark.parametrize(
    ("url", "is_told"), [("http://labels.example.com", True), ("https://labels.example.com", False)]
)
def test_who_sends_a_token_unencrypted_over_a_network_is_told(url, is_told, caplog):
    client_of(url)
    client_of("http://127.0.0.1:8080")
    assert [url in record.getMessage() for record in caplog.records] == [True] * is_told


def test_a_server_on_this_machine_is_reached_whatever_proxy_the_environment_names(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(in_turn(said(200, {"id": 5}))[0]) as url:
        assert client_of(url).project(5) == {"id": 5}


def test_a_push_onto_a_full_disk_says_so_and_the_next_one_finds_the_project(tmp_path, monkeypatch):
    queue, made = make_queue(tmp_path, "full", rows=1), []

    def answer(method, path, body, headers):
        if path == "/api/version":
            return said(200, {"release": "1.23.2"})
        if path.startswith("/api/tasks"):
            return said(200, {"total": 0, "tasks": []})
        if (method, path) == ("POST", "/api/projects"):
            made.append({**json.loads(body), "id": 1})
            return said(201, made[0])
        return said(200, {"task_count": 1, "results": made})

    with serving(answer) as url:
        with monkeypatch.context() as patch:
            patch.setenv("SVP_ENOSPC_AT", str(files._writes + 1))
            with pytest.raises(RunError, match="No space left"):
                push(queue, client_of(url))
        assert push(queue, client_of(url)).new == 1
    assert len(made) == 1


def test_images_are_for_the_page(tmp_path):
    queue = make_queue(tmp_path, "pictures", rows=1, modality="image")
    with pytest.raises(LabelError, match="svp label serve"):
        push(queue, client_of("http://localhost:1"))


@pytest.mark.parametrize("title", ["ab", "x" * 51])
def test_a_title_that_the_server_would_refuse_is_refused(tmp_path, title):
    queue = make_queue(tmp_path, "title", rows=1)
    answer, _ = in_turn(said(200, {"release": "1.23.2"}))
    with serving(answer) as url, pytest.raises(LabelStudioRefused, match="3 to 50 letters"):
        push(queue, client_of(url), project=title)


def test_two_pushes_of_a_run_at_once_would_double_its_rows_so_the_second_is_refused(tmp_path):
    queue = make_queue(tmp_path, "twice", rows=1)

    def answer(*call):
        with pytest.raises(RunError, match="another process is pushing"):
            push(queue, client_of(url))
        return said(200, {"release": "1.0"})

    with serving(answer) as url, pytest.raises(LabelStudioRefused, match=r"Label Studio 1\.0"):
        push(queue, client_of(url))


def test_a_configuration_keeps_what_people_changed_in_it():
    theirs = new_config(CLASSES[:2]).replace("<View>", '<View><Header value="Read the rules"/>')
    theirs = theirs.replace('value="billing"', 'value="Money" alias="billing"')
    config = extended(theirs, [*CLASSES, "last"], "project 1")
    assert '<Header value="Read the rules"' in config
    assert [config.count(name) for name in ('"Money"', '"billing"', '"two&#10;lines"', '"last"')] == [1, 1, 1, 1]
    assert extended(config, [*CLASSES, "last"], "project 1") is None
    assert extended("<View></View>", CLASSES, "project 1") == new_config(CLASSES)


@pytest.mark.parametrize("config", ["<View>", "", "<!DOCTYPE x []><View/>", '<View><Text name="a" value="$b"/></View>'])
def test_a_configuration_for_something_else_is_refused(config):
    with pytest.raises(LabelStudioRefused, match="project 1 has a labelling configuration of its own"):
        extended(config, CLASSES, "project 1")


def test_classes_that_the_tool_cannot_show_are_refused():
    with pytest.raises(LabelError, match=r"U\+0001"):
        new_config(["good", "a\x01"])
    with pytest.raises(LabelError, match="no class is known yet"):
        new_config([])


def test_the_commands_remember_the_server_and_the_project(tmp_path):
    queue = make_queue(tmp_path, "command", rows=2)
    tasks: list = []

    def answer(method, path, body, headers):
        assert headers["Authorization" if path != "/api/version" else "Host"]
        if path == "/api/version":
            return said(200, {"release": "1.23.2"})
        if path.endswith("/import"):
            tasks.extend(json.loads(body))
            return said(201, {"task_count": 2})
        if path.startswith("/api/tasks"):
            times = dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00Z")
            done = {"id": 9, "result": [], "completed_by": 3, "was_cancelled": True, **times}
            listed = [{"id": number, "annotations": [done][number:], **task} for number, task in enumerate(tasks)]
            return said(200, {"total": len(listed), "tasks": listed})
        if path == "/api/users":
            return said(403, {"detail": "not for you"})
        return said(200, {"id": 4, "title": "command", "results": []})

    def svp(*arguments: str):
        told = CliRunner().invoke(app, ["label", *arguments, "--format", "json"], env={"LABEL_STUDIO_API_KEY": TOKEN})
        assert told.exit_code == 0, told.output
        return json.loads(told.stdout)

    with serving(answer) as url:
        pushed = svp("push", str(queue.run_dir), "--to", "label-studio", "--url", f"{url}/")
        assert (pushed["new"], pushed["url"]) == (2, f"{url}/projects/4")
        assert remembered(queue).project == 4
        pulled = svp("pull", str(queue.run_dir))
        assert (pulled["new"], pulled["skipped"], pulled["waiting"]) == (1, 1, 1)
        assert svp("pull", str(queue.run_dir), "--project", "4")["new"] == 0
    queue.refresh()
    assert [answer.annotator for answer in queue.journal.answers] == ["label_studio:3"]


def test_the_commands_say_what_is_missing(tmp_path):
    queue = make_queue(tmp_path, "command", rows=2)
    no_token = {"LABEL_STUDIO_API_KEY": None, "LABEL_STUDIO_URL": None}
    told = CliRunner().invoke(app, ["label", "pull", str(queue.run_dir)], env=no_token)
    assert told.exit_code == 2 and "give --url" in told.output
    told = CliRunner().invoke(app, ["label", "push", str(queue.run_dir), "--url", "http://localhost:1"], env=no_token)
    assert told.exit_code == 2 and "set LABEL_STUDIO_API_KEY" in told.output
