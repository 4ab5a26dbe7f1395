"""The page's server: who is let in, what is refused, and that nothing it sends can run."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re

import pytest
from label_runs import CLASSES, SECRET, answer, ask, make_run, said
from starlette.testclient import TestClient
from typer.testing import CliRunner

from svp_nlp.cli import app as svp
from svp_nlp.labeling import access as access_module
from svp_nlp.labeling.access import Access, check_binding, secret_of
from svp_nlp.labeling.next_round import NextRound
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.server import LabelServer
from svp_nlp.labeling.session import Session

OURS = {"x-svp-label": "1"}
WHO = {"annotator": "ann", "tab": "1"}


class StillRound(NextRound):
    """Counts how often it was started and starts nothing."""

    def __init__(self, run_dir):
        super().__init__(run_dir)
        self.starts = 0
        self.is_busy = False

    def start(self) -> bool:
        self.starts += not self.is_busy
        return not self.is_busy


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run").run_dir


@contextlib.contextmanager
def visit(run, *, enter=True, password=None, **options):
    server = LabelServer(Session(LabelQueue.open(run)), Access(SECRET, 8000, password=password), **options)
    with TestClient(server.app(), base_url="http://127.0.0.1:8000", follow_redirects=False) as client:
        if enter:
            client.get(f"/?token={SECRET}")
        yield client


@pytest.fixture
def client(run):
    with visit(run) as client:
        yield client


def post(client, name, **values):
    return client.post(f"/api/{name}", json={**WHO, **values}, headers=OURS)


def give(client, **values):
    return post(client, "answer", **{"id": "row-0", "kind": "label", "label": "music", "origin": "1.a", **values})


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(run):
    with visit(run, enter=False) as client:
        assert client.get("/").status_code == client.get("/?token=wrong").status_code == 403
        assert client.get("/api/project").status_code == post(client, "next").status_code == 401
        assert client.get("/image/row-0").status_code == client.get("/report").status_code == 401
        found = client.get(f"/?token={SECRET}&annotator=ann%20b")
        assert found.status_code == 303 and found.headers["location"] == "/?annotator=ann+b"
        cookie = found.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=lax" in cookie and SECRET not in cookie
        assert client.get("/").status_code == 200 and client.get("/api/project").json()["name"] == "demo"


def test_a_password_is_asked_for_instead_of_a_token(run, monkeypatch):
    waited, sleep = [], access_module.asyncio.sleep

    async def wait(seconds):
        if seconds == 1.0:
            waited.append(seconds)
        else:  # another server of this process
            await sleep(seconds)

    monkeypatch.setattr(access_module.asyncio, "sleep", wait)
    with visit(run, enter=False, password="correct horse") as client:
        assert client.get(f"/?token={SECRET}").status_code == 401
        assert 'type="password"' in client.get("/").text
        wrong = client.post("/login", data={"password": "correct hors"})
        assert wrong.headers["location"] == "/#wrong" and "set-cookie" not in wrong.headers
        assert waited == [1.0]
        assert client.post("/login", data={"password": "correct horse"}, headers={"origin": "http://evil"}).is_error
        right = client.post("/login", data={"password": "correct horse"}, headers={"host": "labels.example:8000"})
        assert right.status_code == 303 and waited == [1.0]
        assert client.get("/api/project").status_code == 200
    with visit(run, enter=False, password="another one") as other:
        other.cookies.set("svp-label-8000", client.cookies["svp-label-8000"])
        assert other.get("/api/project").status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:9000", "[::1]:8000"])
def test_names_of_this_machine_are_served_on_any_port_because_ssh_tunnels_have_their_own(client, host):
    assert client.get("/api/project", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_strangers_name_that_points_here_is_refused(client, host):
    for path in ("/", "/api/project", f"/?token={SECRET}"):
        assert client.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({**OURS, "origin": "http://evil.example"}, 403),
        ({**OURS, "origin": "http://127.0.0.1:9999"}, 403),
        ({**OURS, "origin": "null"}, 403),
        ({**OURS, "sec-fetch-site": "cross-site"}, 403),
        ({**OURS, "sec-fetch-site": "same-site"}, 403),
        ({**OURS, "content-type": "text/plain"}, 415),
        ({**OURS, "content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_what_another_site_could_send_changes_nothing(run, client, headers, status):
    body = json.dumps({**WHO, "id": "row-0", "kind": "label", "label": "music", "origin": "1.a"})
    found = client.post("/api/answer", content=body, headers={"content-type": "application/json", **headers})
    assert found.status_code == status
    assert said(run) == []
    assert client.get("/api/answer").status_code == 405
    assert client.options("/api/answer", headers={"origin": "http://evil.example"}).is_error


def test_every_answer_forbids_scripts_that_are_not_ours_and_being_kept(client):
    for path in ("/", "/api/project", "/static/main.js", "/no-such-page", "/static/../server.py", "/report"):
        found = client.get(path)
        assert "default-src 'none'; script-src 'self'" in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in found.headers


def test_nothing_of_the_page_needs_another_machine(client):
    page = client.get("/").text
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    assert len(files) == 3
    for name in [*files, *(f"static/{module}.js" for module in ("common", "classes", "label", "review"))]:
        found = client.get(f"/{name}")
        assert found.status_code == 200
        assert not re.search(r"(?:url\(|from |import\(|src=|href=)[\"']?https?:", found.text)
        assert "eval(" not in found.text


def test_only_the_files_of_the_page_and_the_images_of_rows_are_sent(tmp_path):
    images = ["a.png", "../answers.jsonl", "/etc/passwd", "missing.png"]
    queue = make_run(tmp_path / "run", [""] * 4, modality="image", images=images)
    (queue.directory / "images").mkdir()
    (queue.directory / "images/a.png").write_bytes(b"\x89PNG")
    with visit(queue.run_dir) as client:
        assert client.get("/image/row-0").content == b"\x89PNG"
        assert {client.get(f"/image/row-{at}").status_code for at in (1, 2, 3, 99)} == {404}
        assert post(client, "next").json()["row"]["has_image"]
        for name in ("..%2fserver.py", "server.py", "%2e%2e/server.py", "index.html"):
            assert client.get(f"/static/{name}").status_code == 404


def test_an_answer_brings_the_next_row_and_is_on_disk_by_then(run, client):
    assert post(client, "next").json()["row"]["id"] == "row-0"
    found = give(client).json()
    assert found["row"]["id"] == "row-1" and found["progress"]["returned"] == 1
    assert give(client).json()["row"]["id"] == "row-1", "sent again: acknowledged, not written"
    assert said(run) == [("ann", "label", "music", "row-0")]


@pytest.mark.parametrize(
    "values",
    [
        {"label": "musics"},
        {"label": ""},
        {"label": None},
        {"id": "row-99"},
        {"kind": "decision"},
        {"kind": 3},
        {"annotator": " "},
        {"annotator": "x" * 61},
        {"annotator": "a\u0000b"},
        {"origin": "another-tab.a"},
        {"origin": ""},
        {"note": "x" * 4_001},
    ],
)
def test_what_cannot_be_an_answer_is_refused_with_a_sentence(run, client, values):
    found = give(client, **values)
    assert found.status_code == 422 and len(found.json()["error"]) > 15
    assert said(run) == []


def test_bodies_that_are_no_json_or_too_long_are_refused(client):
    send = {"headers": {**OURS, "content-type": "application/json"}}
    assert [client.post("/api/next", content=body, **send).status_code for body in (b"{", b"[]", b"1", b"\xff")] == [
        400
    ] * 4
    assert client.post("/api/next", content=b" " * 70_000, **send).status_code == 413


def test_a_label_that_was_given_by_a_file_meanwhile_is_not_given_twice(run, client):
    post(client, "next")
    LabelQueue.open(run).add([answer("row-0", "weather", "ann")])
    assert post(client, "state", id="row-0").json()["is_answered"]
    found = give(client)
    assert found.status_code == 409 and "already" in found.json()["error"]
    assert len(said(run)) == 1


def test_a_new_class_is_one_for_all_where_the_recipe_allows_it(tmp_path):
    run = make_run(tmp_path / "run", new_classes="extend").run_dir
    with visit(run) as client:
        assert give(client, label="  sports \n news ").json()["classes"] == [*CLASSES, "sports news"]
        assert give(client, id="row-1", origin="1.b", label="sports news").status_code == 200
        for label in ("x" * 201, "a\u0007b", "   "):
            assert give(client, id="row-2", origin="1.c", label=label).status_code == 422


def test_a_class_of_the_recipe_counts_as_it_is_however_odd(tmp_path):
    odd = ["<script>alert(1)</script>", 'a"b', "  two  spaces", "x" * 300, "مرحبا"]
    run = make_run(tmp_path / "run", labels=odd).run_dir
    with visit(run) as client:
        for at, label in enumerate(odd):
            assert give(client, id=f"row-{at}", origin=f"1.{at}", label=label).status_code == 200
    assert [label for _, _, label, _ in said(run)] == odd


def test_guidelines_are_markdown_in_which_nothing_runs_and_nothing_is_fetched(tmp_path):
    text = (
        "# T\n\n**b** <img src=x onerror=alert(1)>\n\n![p](http://evil/p.png) [l](javascript:alert(1)) [k](https://k)"
    )
    run = make_run(tmp_path / "run", guidelines=text).run_dir
    with visit(run) as client:
        found = client.get("/api/project").json()["guidelines"]
    assert "<h1>T</h1>" in found and "<strong>b</strong>" in found and '<a href="https://k">' in found
    assert "<img" not in found and 'href="javascript' not in found
    assert html.escape("<img src=x onerror=alert(1)>") in found


def test_a_full_disk_is_said_and_the_answer_can_be_sent_again(run, client, monkeypatch):
    from svp_nlp import files

    monkeypatch.setattr(files, "_writes", 0)
    monkeypatch.setenv("SVP_ENOSPC_AT", "1")
    found = give(client)
    assert found.status_code == 507 and "not saved" in found.json()["error"]
    assert said(run) == []
    assert give(client).json()["row"]["id"] == "row-1"


def test_a_journal_that_became_shorter_is_read_anew_and_the_answer_is_kept(run, client):
    give(client)
    (run / "labeling/answers.jsonl").write_bytes(b"")
    assert give(client, id="row-1", origin="1.b").json()["row"]["id"] == "row-0"
    assert [id for *_, id in said(run)] == ["row-1"]


def test_a_disk_that_is_full_when_somebody_finishes_is_said(run, client, monkeypatch):
    from svp_nlp import files

    give(client)
    monkeypatch.setattr(files, "_writes", 0)
    monkeypatch.setenv("SVP_ENOSPC_AT", "1")
    found = post(client, "finish")
    assert found.status_code == 507 and "No space left" in found.json()["error"]
    assert not LabelQueue.open(run).finish_requested


def test_a_full_round_starts_the_next_one_by_itself_only_if_that_was_asked_for(tmp_path):
    for auto in (False, True):
        run = make_run(tmp_path / str(auto), ["a", "b"]).run_dir
        next_round = StillRound(run)
        with visit(run, train_when_full=auto, next_round=next_round) as client:
            give(client)
            assert next_round.starts == 0
            assert give(client, id="row-1", origin="1.b").json()["why_empty"] == "full"
            assert next_round.starts == int(auto)
            post(client, "train")
            assert next_round.starts == 1 + int(auto)
    with visit(run, train_when_full=True, next_round=next_round):
        assert next_round.starts == 3, "it is full already when the server starts"


def test_a_round_that_is_full_before_the_run_that_asked_for_it_has_ended_is_trained_after_that(tmp_path):
    run = make_run(tmp_path / "run", ["a"]).run_dir
    next_round = StillRound(run)
    with visit(run, train_when_full=True, next_round=next_round) as client:
        next_round.is_busy = True
        give(client)
        post(client, "state")
        next_round.is_busy = False
        post(client, "state")
        post(client, "state")
        assert next_round.starts == 1


def test_what_a_round_said_that_asked_is_told_until_the_next_answer_and_why_one_failed_until_the_next_try(run):
    for id, state in (("row-0", "asked"), ("row-1", "failed")):
        next_round = StillRound(run)
        next_round._state = state
        next_round._lines.append("waiting: 0 of 3 answers have come in")
        with visit(run, next_round=next_round) as client:
            assert post(client, "next").json()["training"]["message"] == "0 of 3 answers have come in"
            given = give(client, id=id, origin=f"1.{state}")
            assert bool(given.json()["training"]["message"]) == (state == "failed"), given.text


def test_finishing_is_asked_of_the_run_when_there_is_something_to_finish_with(run):
    next_round = StillRound(run)
    with visit(run, next_round=next_round) as client:
        give(client, kind="skip", label="")
        found = post(client, "finish")
        assert found.status_code == 422 and "no row is labelled yet" in found.json()["error"]
        assert not LabelQueue.open(run).finish_requested and next_round.starts == 0
        LabelQueue.open(run).add([answer("row-1", "music", "ben")])  # in a file, meanwhile
        assert post(client, "finish").json()["finishing"]
    assert LabelQueue.open(run).finish_requested and next_round.starts == 1


def test_the_next_round_ends_with_the_sentence_of_its_command(run):
    next_round = NextRound(run)  # there is no recipe.yaml
    assert next_round.start()
    assert not next_round.start(), "one at a time"
    next_round._reader.join(60)
    found = next_round.status()
    assert found["state"] == "failed" and "recipe.yaml: no such file" in found["message"]
    assert not found["message"].startswith("error")


def test_a_server_that_ends_ends_the_round_that_it_trains(run):
    next_round = NextRound(run)
    next_round.start()
    next_round.stop()
    assert next_round.status()["state"] == "failed" and next_round._process.returncode != 0
    NextRound(run).stop()  # nothing to do


def test_a_second_look_lists_conflicts_flags_and_likely_errors_and_decides_them(run, client):
    queue = LabelQueue.open(run)
    queue.add([answer("row-0", "music"), answer("row-0", "weather", "ben")])
    queue.add([answer("row-1", kind="flag", note="<b>odd</b>"), answer("row-2", "music"), answer("row-3", "music")])
    ranked = [
        {"id": "row-3", "given": "music", "suggested": "kitchen", "reason": "0.1 % likely"},
        {"id": "row-2", "given": "weather", "suggested": "kitchen", "reason": "not its label any more"},
        {"id": "gone", "given": "music"},
    ]
    (queue.directory / "review.json").write_text(json.dumps({"rows": ranked}))
    items = post(client, "review").json()["items"]
    assert [(item["id"], item["source"]) for item in items] == [
        ("row-0", "adjudication"),
        ("row-1", "adjudication"),
        ("row-3", "review"),
    ]
    assert [vote["label"] for vote in items[0]["votes"]] == ["music", "weather"]
    assert items[1]["votes"][0]["note"] == "<b>odd</b>"
    assert (items[2]["given"], items[2]["suggested"]) == ("music", "kitchen")

    def decide(id, label, **values):
        return post(client, "decide", **{"id": id, "label": label, "source": "review", "origin": f"1.{id}", **values})

    assert decide("row-0", "weather", source="adjudication").status_code == 200
    assert decide("row-3", "music").status_code == 200  # it was right
    assert decide("row-3", "music").status_code == 200  # sent again
    assert decide("row-3", "kitchen", origin="1.other").status_code == 409  # somebody who saw the label before that
    assert decide("row-3", "kitchen", origin="1.other", seen="music").status_code == 200
    assert decide("row-1", "music", source="page").status_code == 422
    assert decide("row-3", "[skip]", origin="1.skip", seen="kitchen").status_code == 200  # nobody can tell
    assert decide("row-3", "kitchen", origin="1.last").status_code == 409
    queue.refresh()
    assert queue.resolution("row-3").status == "skipped"
    assert decide("row-3", "kitchen", origin="1.last", seen="[skip]").status_code == 200
    assert [item["id"] for item in post(client, "review").json()["items"]] == ["row-1"]
    queue.refresh()
    assert queue.resolution("row-0").label == "weather" and queue.resolution("row-3").label == "kitchen"
    assert len([kind for _, kind, _, _ in said(run) if kind == "decision"]) == 5


def test_a_ranking_that_is_damaged_does_not_hide_the_conflicts(run, client):
    queue = LabelQueue.open(run)
    queue.add([answer("row-0", "music"), answer("row-0", "weather", "ben")])
    for text in ("{", "[]", '{"rows": [1, {}, {"id": []}]}', '{"rows": null}'):
        (queue.directory / "review.json").write_text(text)
        assert [item["id"] for item in post(client, "review").json()["items"]] == ["row-0"]


def test_rows_of_the_next_round_come_while_the_page_is_open(run, client):
    ask(LabelQueue.open(run), ["new"], round=2)
    for at in range(6):
        found = give(client, id=f"row-{at}", origin=f"1.{at}").json()
    assert found["row"]["text"] == "new" and found["progress"]["round"] == 2


def test_a_secret_is_the_users_own_stays_the_same_and_is_not_in_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "cache"))
    first = secret_of(run)
    assert secret_of(run) == first != secret_of(tmp_path)
    [file, _] = sorted((tmp_path / "cache/label").iterdir(), key=lambda path: path.read_text() != first)
    assert file.stat().st_mode & 0o077 == 0
    assert not any(first.encode() in path.read_bytes() for path in run.rglob("*") if path.is_file())
    file.write_bytes(b"")  # a power failure
    assert len(secret_of(run)) >= 32
    monkeypatch.setenv("SVP_CACHE", os.devnull)
    assert len(secret_of(run)) >= 32


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "labels.example"])
def test_others_are_let_in_by_password_only(host):
    with pytest.raises(Exception, match=r"set a password.*ssh -L"):
        check_binding(host, None)
    with pytest.raises(Exception, match="at least 8"):
        check_binding(host, "short")
    check_binding(host, "long enough")
    check_binding("127.0.0.1", None)


def test_the_command_refuses_before_it_listens(run, logging_as_before):
    found = CliRunner().invoke(svp, ["label", "serve", str(run), "--host", "0.0.0.0"])
    assert found.exit_code == 2 and "set a password" in found.output
    found = CliRunner().invoke(svp, ["label", "serve", str(run.parent)])
    assert found.exit_code == 2 and "no rows were asked of people" in found.output
