"""The local Hub goes wrong as it is told, and only so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError
from localhub import ALICE, Fault


def commit(repo_id, text):
    return HfApi().create_commit(
        repo_id, [CommitOperationAdd("a.txt", text.encode())], commit_message=text, repo_type="dataset"
    )


def titles(repo_id):
    return [made.title for made in HfApi().list_repo_commits(repo_id, repo_type="dataset")][:-1]


@pytest.fixture
def repo(hub, repo_id):
    HfApi().create_repo(repo_id, repo_type="dataset")
    return repo_id


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
def test_a_fault_answers_with_its_status_as_often_as_told(hub, repo, status):
    hub.faults = [Fault("POST .*/commit/", status, times=2, headers={"Retry-After": "7"})]
    for text in ("1", "2"):
        with pytest.raises(HfHubHTTPError) as refused:
            commit(repo, text)
        assert refused.value.response.status_code == status
        assert refused.value.response.headers["Retry-After"] == "7"
    commit(repo, "3")
    assert titles(repo) == ["3"]


@pytest.mark.parametrize(("after", "kept"), [(False, []), (True, ["1"])])
def test_a_broken_connection_keeps_the_effect_only_after_the_work(hub, repo, after, kept):
    hub.faults = [Fault("POST .*/commit/", drop=True, after=after)]
    with pytest.raises(httpx2.TransportError):
        commit(repo, "1")
    assert titles(repo) == kept


def test_a_head_request_can_lose_its_answer_too(hub):
    hub.faults = [Fault("HEAD ", drop=True)]
    with pytest.raises(httpx2.TransportError):
        get_session().head(f"{hub.endpoint}/api/whoami-v2")


def test_a_delay_comes_before_the_usual_answer(hub):
    hub.faults = [Fault("whoami", delay=0.2, proceed=True)]
    started = time.monotonic()
    assert HfApi().whoami()["name"] == "alice"
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(("when", "kept"), [("before", []), ("after", ["1"])])
def test_the_hub_dies_at_the_request_that_it_was_told_and_stays_dead(hub, repo, when, kept):
    hub.mark()
    commit(repo, "0")
    of_one_commit = hub.requests_since_mark
    hub.die_at(of_one_commit, when)
    with pytest.raises(httpx2.TransportError):
        commit(repo, "1")
    assert hub.dead
    with pytest.raises(httpx2.TransportError):
        HfApi().dataset_info(repo)
    hub.revive()
    assert titles(repo) == [*kept, "0"]


def test_every_request_of_a_commit_can_be_the_last(hub, repo, short_waits):
    hub.mark()
    commit(repo, "0")
    requests = hub.requests_since_mark
    for k in range(1, requests + 1):
        hub.die_at(k)
        with pytest.raises((httpx2.TransportError, RuntimeError)):
            commit(repo, f"{k}")
        hub.revive()
    assert requests > 1
    assert titles(repo) == ["0"]


def test_a_hub_in_another_process_takes_its_orders_by_http(tmp_path, hub):
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "localhub", "--root", str(tmp_path / "hub"), "--token", f"{ALICE}=alice"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            endpoint = json.loads(process.stdout.readline())["endpoint"]
            api, ask = HfApi(endpoint=endpoint), get_session()
            assert api.whoami()["name"] == "alice"
            ask.post(f"{endpoint}/__hub__/faults", json=[{"path": "whoami", "status": 503}])
            assert ask.get(f"{endpoint}/api/whoami-v2").status_code == 503
            ask.post(f"{endpoint}/__hub__/die_at", json={"k": 1})
            with pytest.raises(httpx2.TransportError):
                ask.get(f"{endpoint}/api/whoami-v2")
            ask.post(f"{endpoint}/__hub__/revive")
            assert api.whoami()["name"] == "alice"
            seen = ask.get(f"{endpoint}/__hub__/requests").json()
            assert [entry["status"] for entry in seen] == [200, 503, 0, 200]
            assert ask.get(f"{endpoint}/__hub__/saw", params={"text": ALICE}).json() == []
        finally:
            process.terminate()
