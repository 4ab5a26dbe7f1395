"""Pushes to a Hub that dies, refuses, is busy, or whose answers get lost: a version is there wholly or not at all."""

from __future__ import annotations

import re
import time
import types

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from localhub import Fault
from toy_versions import HOPELESS, push_toy, shorten_downloads, whole_versions

from svp_nlp.errors import HubError, HubRefused, RemoteConflict
from svp_nlp.hub.retry import Patience

COMMIT, TAG = "POST .*/commit/main", "POST .*/tag/"


@pytest.fixture
def short_waits(short_waits, monkeypatch):
    shorten_downloads(monkeypatch)


@pytest.fixture
def clock(monkeypatch):
    """Pushes wait for nothing; `waits` has the seconds, and `meanwhile` is called instead."""
    found = types.SimpleNamespace(waits=[], meanwhile=lambda: None)

    def sleep(seconds):
        found.waits.append(seconds)
        found.meanwhile()

    fake = types.SimpleNamespace(monotonic=lambda: time.monotonic() + sum(found.waits), sleep=sleep)
    monkeypatch.setattr("svp_nlp.hub.retry.time", fake)
    return found


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hub_that_dies_at_any_request_of_the_first_push_holds_all_of_it_or_nothing(
    hub, repo_id, tmp_path, when, short_waits
):
    for k in range(1, 100):
        mine = f"{repo_id}-{k}"
        hub.die_at(k, when)
        if survived(hub, tmp_path, mine, 1):
            break
        keys, _ = whole_versions(hub, mine)
        assert keys in ([], ["default-1"])
        done = push_toy(tmp_path, mine, 1)
        assert (done.version, done.new) == ("v1", not keys)
        assert whole_versions(hub, mine) == (["default-1"], {"v1": "default-1"})
    assert k > 10


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hub_that_dies_at_any_request_of_a_later_push_holds_the_old_or_the_new_version(
    hub, repo_id, tmp_path, when, short_waits
):
    push_toy(tmp_path, repo_id, 0)
    expected = ["default-0"]
    for k in range(1, 100):
        hub.die_at(k, when)
        if survived(hub, tmp_path, repo_id, k):
            break
        keys, tags = whole_versions(hub, repo_id)
        assert keys in (expected, [*expected, f"default-{k}"])
        assert sorted(tags.values()) in (sorted(expected), sorted(keys))
        done = push_toy(tmp_path, repo_id, k)
        assert done.version == f"v{k + 1}"
        expected.append(f"default-{k}")
        assert whole_versions(hub, repo_id) == (expected, {f"v{n + 1}": key for n, key in enumerate(expected)})
    assert k > 8


def survived(hub, folder, repo_id, number) -> bool:
    """Push to a Hub that is to die; whether the push was over before that. The Hub lives afterwards."""
    try:
        push_toy(folder, repo_id, number, patience=HOPELESS)
    except HubError as error:
        assert hub.dead and not isinstance(error, HubRefused), error
        assert "\n" not in str(error)
        assert "nothing is lost: run the same command again later" in str(error)
        return False
    else:
        return not hub.dead
    finally:
        hub.revive()


FAULTS = [
    *({"status": status} for status in (409, 412, 500, 503)),
    {"status": 429, "headers": {"Retry-After": "7"}},
    {"status": 503, "headers": {"Retry-After": "9"}},
    {"status": 429, "headers": {"ratelimit": '"api";r=0;t=11'}},
    {"drop": True},
]


@pytest.mark.parametrize("after", [False, True])
def test_a_commit_that_fails_or_whose_answer_gets_lost_is_made_exactly_once(hub, repo_id, tmp_path, after, clock):
    expected = []
    for number, fault in enumerate(FAULTS):
        clock.waits.clear()
        hub.faults = [Fault(COMMIT, after=after, **fault)]
        done = push_toy(tmp_path, repo_id, number, patience=Patience(first_wait_s=0.01))
        assert (done.version, done.new) == (f"v{number + 1}", True), fault
        expected.append(f"default-{number}")
        [waited] = clock.waits
        asked = {"7": 7, "9": 9, '"api";r=0;t=11': 12}.get(next(iter(fault.get("headers", {}).values()), ""))
        assert waited == asked if asked else waited <= 0.01, fault
    assert whole_versions(hub, repo_id)[0] == expected


def test_waiting_as_long_as_the_hub_asks_ends_with_the_deadline(hub, repo_id, tmp_path, clock):
    hub.faults = [Fault(COMMIT, 429, times=-1, headers={"Retry-After": "50"})]
    patience = Patience(deadline_s=120)
    with pytest.raises(HubError, match=r"pushing: the Hub did not take it within 120 s \(last: .*; nothing is lost"):
        push_toy(tmp_path, repo_id, 1, patience=patience)
    assert clock.waits == [50, 50]
    assert whole_versions(hub, repo_id) == ([], {})
    hub.faults = []
    assert push_toy(tmp_path, repo_id, 1).version == "v1"


@pytest.mark.parametrize("after", [False, True])
def test_a_pull_request_whose_answer_gets_lost_is_opened_once(hub, repo_id, tmp_path, after):
    push_toy(tmp_path, repo_id, 0)
    hub.faults = [Fault(COMMIT, 503, after=after)]
    proposed = push_toy(tmp_path, repo_id, 1, create_pr=True)
    assert proposed.pull_request
    assert proposed.url.endswith("/discussions/1")
    assert [found["num"] for found in hub.find("datasets", repo_id).meta["discussions"]] == [1]
    assert whole_versions(hub, repo_id) == (["default-0"], {"v1": "default-0"})


@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 500}, {"status": 503}])
def test_a_tag_whose_answer_gets_lost_is_found(hub, repo_id, tmp_path, fault):
    hub.faults = [Fault(TAG, after=True, **fault)]
    done = push_toy(tmp_path, repo_id, 1)
    assert (done.version, done.new) == ("v1", True)
    assert whole_versions(hub, repo_id) == (["default-1"], {"v1": "default-1"})


def test_a_commit_without_its_tag_is_tagged_by_the_next_push_also_under_newer_versions(hub, repo_id, tmp_path):
    hub.faults = [Fault(TAG, 500, times=-1)]
    with pytest.raises(HubError, match="tagging v1: the Hub did not take it"):
        push_toy(tmp_path, repo_id, 1, patience=HOPELESS)
    hub.faults = []
    assert whole_versions(hub, repo_id) == (["default-1"], {})
    assert push_toy(tmp_path, repo_id, 2).version == "v2"
    done = push_toy(tmp_path, repo_id, 1)
    assert (done.version, done.new) == ("v1", False)
    assert whole_versions(hub, repo_id) == (
        ["default-1", "default-2"], {"v1": "default-1", "v2": "default-2"}
    )  # fmt: skip


def test_a_tag_that_somebody_else_was_faster_with_is_a_conflict_with_both_commits(hub, repo_id, tmp_path, clock):
    push_toy(tmp_path, repo_id, 0)

    def tag_by_hand():
        repo = hub.find("datasets", repo_id)
        repo.git.refs.add_if_new(b"refs/tags/v2", repo.resolve("v1")[1])

    clock.meanwhile = tag_by_hand
    hub.faults = [Fault(TAG, 503)]
    with pytest.raises(RemoteConflict, match="version v2 was taken by somebody else meanwhile") as conflict:
        push_toy(tmp_path, repo_id, 1)
    repo = hub.find("datasets", repo_id)
    theirs, ours = (repo.resolve(rev)[1].decode() for rev in ("v1", "main"))
    assert re.findall(r"[0-9a-f]{40}", str(conflict.value)) == [theirs, ours]
    assert "\n" not in str(conflict.value)
    done = push_toy(tmp_path, repo_id, 1)
    assert (done.version, done.new) == ("v3", True)
    assert repo.resolve("v2")[1].decode() == theirs
    with pytest.raises(RemoteConflict, match="version v2 exists with other content"):
        push_toy(tmp_path, repo_id, 1, version="v2")
    again = push_toy(tmp_path, repo_id, 1)
    assert (again.version, again.sha, again.new) == ("v3", done.sha, False)


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("POST .*/preupload/", {"status": 500, "times": 2}),
        ("POST .*/preupload/", {"drop": True, "after": True}),
        ("POST .*/lfs/objects/batch", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("PUT .*/_storage/", {"drop": True}),
        ("PUT .*/_storage/", {"status": 503, "after": True}),
        ("POST .*/validate-yaml", {"status": 503}),
        ("POST .*/api/repos/create", {"drop": True, "after": True}),
        ("GET .*/refs", {"status": 502}),
        ("GET .*/whoami", {"status": 503}),
    ],
)
def test_a_step_before_the_commit_that_fails_once_or_twice_costs_only_time(
    hub, repo_id, tmp_path, step, fault, short_waits
):
    hub.faults = [Fault(step, **fault)]
    assert push_toy(tmp_path, repo_id, 1).version == "v1"
    assert hub.faults[0].times == 0
    assert whole_versions(hub, repo_id) == (["default-1"], {"v1": "default-1"})


def test_a_file_that_the_storage_never_takes_ends_with_the_deadline_and_changes_nothing(
    hub, repo_id, tmp_path, short_waits
):
    hub.faults = [Fault("PUT .*/_storage/", 503, times=-1)]
    with pytest.raises(HubError, match="pushing: the Hub did not take it within") as failed:
        push_toy(tmp_path, repo_id, 1, patience=HOPELESS)
    assert not isinstance(failed.value, HubRefused)
    assert whole_versions(hub, repo_id) == ([], {})


STEPS = [COMMIT, TAG, "GET .*/refs", "POST .*/preupload/", "HEAD .*/lineage.json", "GET .*/tree/"]
FAULT = st.builds(
    Fault,
    st.sampled_from(STEPS),
    status=st.sampled_from([409, 429, 500, 503]),
    times=st.integers(1, 2),
    after=st.booleans(),
    drop=st.booleans(),
)
PUSH = st.tuples(st.integers(0, 2), st.sampled_from(["a", "b"]), st.none() | FAULT)


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(pushes=st.lists(PUSH, min_size=2, max_size=6))
def test_whatever_is_pushed_in_whatever_order_under_whatever_faults_is_one_version_each(
    hub, repo_id, tmp_path, short_waits, pushes
):
    mine = f"{repo_id}-{time.monotonic_ns()}"
    expected, shas = [], {}
    for number, config, fault in pushes:
        hub.faults = [] if fault is None else [fault]
        done = push_toy(tmp_path, mine, number, config=config)
        key = f"{config}-{number}"
        assert done.new == (key not in expected)
        expected += [key] if done.new else []
        assert done.version == f"v{expected.index(key) + 1}"
        assert shas.setdefault(done.version, done.sha) == done.sha
    assert whole_versions(hub, mine) == (expected, {f"v{n + 1}": key for n, key in enumerate(expected)})
    repo = hub.find("datasets", mine)
    assert {tag: repo.resolve(tag)[1].decode() for tag in shas} == shas
