"""What a push makes of what it finds: names, moved tags, pull requests, cards; and that a preview tells the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from finished_run import finished_run
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from localhub import ALICE, BOB, Fault
from toy_versions import QUICK, push_toy, toy_bundle

from svp_nlp.errors import HubRefused, RemoteConflict
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.sharing import bundle_of, preview


def document(repo_id: str, revision: str = "main") -> dict:
    file = HfApi().hf_hub_download(repo_id, "lineage.json", repo_type="dataset", revision=revision)
    return json.loads(Path(file).read_text())


def commit(repo_id: str, *operations, **options):
    options = {"commit_message": "by hand", "repo_type": "dataset", **options}
    return HfApi().create_commit(repo_id, list(operations), **options)


def push_entry(folder: Path, repo_id: str, number: int, entry: dict, **options):
    """Push content `number` with more facts, and with a card that shows all facts."""
    bundle = toy_bundle(folder / repo_id, number, config=options.pop("config", "default"))
    bundle = dataclasses.replace(bundle, entry={**bundle.entry, **entry}, card=all_facts)
    return push_bundle(bundle, Remote(repo_id, "dataset", patience=QUICK), **options)


def all_facts(context) -> str:
    return "---\nlicense: mit\n---\n" + json.dumps([context.version, context.document["configs"]])


def move_tag(repo_id: str, tag: str, to: str) -> None:
    HfApi().delete_tag(repo_id, tag=tag, repo_type="dataset")
    HfApi().create_tag(repo_id, tag=tag, revision=to, repo_type="dataset")


def test_content_with_two_names_is_found_by_each_of_them_and_else_by_the_newer(hub, repo_id, tmp_path):
    first = push_toy(tmp_path, repo_id, 1)
    pilot = push_toy(tmp_path, repo_id, 1, version="pilot")
    assert (first.version, pilot.version, pilot.new) == ("v1", "pilot", True)
    for version, expected in (("v1", first), ("pilot", pilot), (None, pilot)):
        again = push_toy(tmp_path, repo_id, 1, version=version)
        assert (again.version, again.sha, again.new) == (expected.version, expected.sha, False)


def test_content_whose_tag_was_moved_to_a_later_version_gets_the_next_version(hub, repo_id, tmp_path):
    push_toy(tmp_path, repo_id, 1)
    second = push_toy(tmp_path, repo_id, 2)
    move_tag(repo_id, "v1", to="v2")
    again = push_toy(tmp_path, repo_id, 1)
    assert (again.version, again.new) == ("v3", True)
    assert push_toy(tmp_path, repo_id, 2).sha == second.sha
    assert push_toy(tmp_path, repo_id, 1).sha == again.sha


def test_a_tag_that_was_set_by_hand_on_what_is_not_ours_is_no_version_of_ours(hub, repo_id, tmp_path):
    push_toy(tmp_path, repo_id, 1)
    made = commit(repo_id, CommitOperationAdd("lineage.json", b"{}"), create_pr=True)
    move_tag(repo_id, "v1", to=made.oid)
    assert push_toy(tmp_path, repo_id, 1).version == "v2"


def test_known_content_renews_results_and_keeps_all_that_tells_of_the_rows_on_the_hub(hub, repo_id, tmp_path):
    rows = {"class_names": ["ham", "spam"], "dataset_info": {"features": "ham, spam"}, "results": None}
    push_entry(tmp_path, repo_id, 1, rows)
    other = {"class_names": ["spam", "ham"], "dataset_info": {"features": "spam, ham"}, "results": {"error": 0.1}}
    done = push_entry(tmp_path, repo_id, 1, other)
    assert (done.version, done.new, done.card_updated) == ("v1", False, True)
    found = document(repo_id)["configs"]["default"]
    assert found == document(repo_id, "v1")["configs"]["default"] | {"results": {"error": 0.1}}
    assert not push_entry(tmp_path, repo_id, 1, rows).card_updated  # who knows no results takes none away


def test_results_are_renewed_in_all_configurations_that_the_same_recipe_made(hub, repo_id, tmp_path):
    one, other = {"lineage": {"recipe_sha256": "1"}}, {"lineage": {"recipe_sha256": "2"}}
    push_entry(tmp_path, repo_id, 1, {**one, "results": {"seeds": 1}}, config="seed-0")
    push_entry(tmp_path, repo_id, 2, {**other, "results": {"seeds": 9}}, config="alien")
    push_entry(tmp_path, repo_id, 3, one, config="seed-1")
    assert push_entry(tmp_path, repo_id, 3, {**one, "results": {"seeds": 2}}, config="seed-1").card_updated
    found = {name: entry.get("results") for name, entry in document(repo_id)["configs"].items()}
    assert found == {"seed-0": {"seeds": 2}, "alien": {"seeds": 9}, "seed-1": {"seeds": 2}}


def test_a_card_that_cannot_be_renewed_is_told_and_is_renewed_by_the_next_push(hub, repo_id, tmp_path):
    push_entry(tmp_path, repo_id, 1, {})
    hub.faults = [Fault("POST .*/commit/main", 403)]
    told = push_entry(tmp_path, repo_id, 1, {"results": {"error": 0.1}})
    assert (told.version, told.new, told.card_updated) == ("v1", False, False)
    assert "injected fault" in told.card_failure
    done = push_entry(tmp_path, repo_id, 1, {"results": {"error": 0.1}})
    assert (done.card_updated, done.card_failure) == (True, None)


def pull_requests(hub, repo_id: str) -> list[str]:
    return [found["status"] for found in hub.find("datasets", repo_id).meta["discussions"]]


def test_a_proposal_that_was_closed_is_made_anew(hub, repo_id, tmp_path):
    push_toy(tmp_path, repo_id, 0)
    push_toy(tmp_path, repo_id, 1, create_pr=True)
    HfApi().change_discussion_status(repo_id, 1, "closed", repo_type="dataset")
    again = push_toy(tmp_path, repo_id, 1, create_pr=True)
    assert again.new
    assert again.url.endswith("/discussions/2")
    assert not push_toy(tmp_path, repo_id, 1, create_pr=True).new
    assert pull_requests(hub, repo_id) == ["closed", "open"]


def test_a_proposal_that_could_not_be_merged_any_more_is_made_anew_on_what_is_there_now(hub, repo_id, tmp_path, caplog):
    push_toy(tmp_path, repo_id, 0)
    push_toy(tmp_path, repo_id, 1, create_pr=True)
    push_toy(tmp_path, repo_id, 2)
    again = push_toy(tmp_path, repo_id, 1, create_pr=True)
    assert (again.version, again.new) == ("v3", True)
    assert "main has moved on since pull request 1, so it cannot be merged any more; close it" in caplog.text
    HfApi().merge_pull_request(repo_id, 2, repo_type="dataset")
    done = push_toy(tmp_path, repo_id, 1)
    assert (done.version, done.new) == ("v3", False)


@pytest.mark.parametrize("content", [b"{}", b"[", None])
def test_pull_requests_by_others_and_what_is_in_them_are_left_alone(hub, repo_id, tmp_path, monkeypatch, content):
    push_toy(tmp_path, repo_id, 0)
    by_hand = CommitOperationDelete("lineage.json") if content is None else CommitOperationAdd("lineage.json", content)
    commit(repo_id, by_hand, create_pr=True)
    monkeypatch.setenv("HF_TOKEN", BOB)
    assert push_toy(tmp_path, repo_id, 1, create_pr=True).url.endswith("/discussions/2")
    monkeypatch.setenv("HF_TOKEN", ALICE)
    mine = push_toy(tmp_path, repo_id, 1, create_pr=True)
    assert (mine.new, mine.url.rsplit("/", 1)[-1]) == (True, "3")
    assert not push_toy(tmp_path, repo_id, 1, create_pr=True).new


@pytest.mark.parametrize("more", [0, 1, 4])
def test_a_proposal_that_was_squashed_is_tagged_where_it_was_squashed(hub, repo_id, tmp_path, more):
    push_toy(tmp_path, repo_id, 0)
    proposed = push_toy(tmp_path, repo_id, 1, create_pr=True)
    api, operations = HfApi(), []
    for file in ("README.md", "lineage.json", "data/default/train-00001.parquet"):
        there = api.hf_hub_download(repo_id, file, repo_type="dataset", revision=proposed.sha)
        operations.append(CommitOperationAdd(file, there))
    operations.append(CommitOperationDelete("data/default/train-00000.parquet"))
    squashed = commit(repo_id, *operations, commit_message="Add rows (#1)")
    commit(repo_id, CommitOperationAdd("note.txt", b"by hand"))
    for number in range(more):
        push_toy(tmp_path, repo_id, 2 + number)
    done = push_toy(tmp_path, repo_id, 1)
    assert (done.version, done.sha, done.new) == ("v2", squashed.oid, False)
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id, repo_type="dataset").tags}
    assert tags["v2"] == squashed.oid


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("finished"))


def look(run: Path, repo_id: str, round: int, **options) -> dict:
    with bundle_of(run, "selection", round=round) as bundle:
        return preview(bundle, Remote(repo_id, "dataset", patience=QUICK), **options)


def push(run: Path, repo_id: str, round: int, **options):
    with bundle_of(run, "selection", round=round) as bundle:
        return push_bundle(bundle, Remote(repo_id, "dataset", patience=QUICK), **options)


def test_a_preview_decides_as_the_push_would(hub, repo_id, run):
    push(run, repo_id, 1)
    with pytest.raises(RemoteConflict, match="version v1 exists with other content"):
        look(run, repo_id, 2, version="v1")
    assert look(run, repo_id, 1, version="pilot")["lines"][0].startswith(
        "would push 40 rows by margin, round 1 as pilot"
    )
    push(run, repo_id, 1, version="pilot")
    for version, expected in (("v1", "v1"), ("pilot", "pilot"), (None, "pilot")):
        found = look(run, repo_id, 1, version=version)
        assert found["lines"][0].startswith(f"nothing to push: this content is version {expected} of ")
        assert (found["files"], found["card"], found["added"]) == ({}, "", None)
    move_tag(repo_id, "v1", to="pilot")
    move_tag(repo_id, "pilot", to="main")
    assert look(run, repo_id, 2, create_pr=True)["lines"][0].startswith(
        "would propose 60 rows by margin, round 2 as v2"
    )
    proposed = push(run, repo_id, 2, create_pr=True)
    assert look(run, repo_id, 2, create_pr=True)["lines"][0] == (
        f"nothing to push: {proposed.url} proposes this content as v2"
    )
    assert look(run, repo_id, 2)["version"] == "v2"


def test_a_preview_tells_that_only_the_card_would_be_renewed(hub, repo_id, run):
    push(run, repo_id, 1)
    commit(repo_id, CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n"))
    found = look(run, repo_id, 1)
    assert found["lines"][0].endswith("; its card would be brought up to date")
    assert set(found["files"]) == {"README.md", "lineage.json"}
    assert look(run, repo_id, 1, create_pr=True)["files"] == {}
    assert not push(run, repo_id, 1, create_pr=True).card_updated  # who only proposes does not move main
    assert push(run, repo_id, 1).card_updated


def test_a_preview_reads_nothing_but_ids_and_goes_on_where_it_cannot(hub, repo_id, run):
    push(run, repo_id, 2)
    found = look(run, repo_id, 3)
    assert (found["added"], found["removed"]) == (20, 0)
    assert "  rows: 20 added, 0 removed against the version before" in found["lines"]
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.parquet"))  # not fetched as a whole
    commit(repo_id, CommitOperationAdd("data/default/train-00000-of-00001.parquet", b"junk"))
    found = look(run, repo_id, 3)
    assert (found["version"], found["added"], found["removed"]) == ("v2", None, None)
    [line] = [line for line in found["lines"] if line.startswith("  rows: ")]
    assert line.startswith("  rows: 80; those of the version before cannot be read (ArrowInvalid: ")
    commit(repo_id, CommitOperationDelete("data/default/train-00000-of-00001.parquet"))
    assert look(run, repo_id, 3)["added"] is None
    assert push(run, repo_id, 3).version == "v2"


def test_a_public_repository_takes_nothing_that_should_be_private(hub, repo_id, tmp_path):
    push_toy(tmp_path, repo_id, 1, private=False)
    with pytest.raises(
        HubRefused, match=r"exists and is public; change that in its settings .*, or leave --private out"
    ):
        push_toy(tmp_path, repo_id, 2, private=True)
    assert push_toy(tmp_path, repo_id, 2, private=False).version == "v2"


def test_content_that_is_no_more_the_newest_says_what_is(hub, repo_id, tmp_path):
    assert push_toy(tmp_path, repo_id, 1).newest is None
    push_toy(tmp_path, repo_id, 2)
    assert push_toy(tmp_path, repo_id, 1).newest == "v2"
    assert push_toy(tmp_path, repo_id, 2).newest is None


def test_a_target_is_not_pushed_among_proxies_nor_ids_silently_after_texts(hub, repo_id, tmp_path, caplog):
    bundle = toy_bundle(tmp_path, 1)
    remote = Remote(repo_id, "dataset", patience=QUICK)
    texts = dataclasses.replace(bundle, entry={**bundle.entry, "role": "proxy", "index_only": False})
    push_bundle(texts, remote)
    other = dataclasses.replace(toy_bundle(tmp_path, 2), entry={**bundle.entry, "role": "target"})
    with pytest.raises(HubRefused, match="holds a proxy, not a target; name another repository"):
        push_bundle(other, remote)
    ids = dataclasses.replace(toy_bundle(tmp_path, 2), entry={**bundle.entry, "index_only": True})
    push_bundle(ids, remote)
    assert "versions before this one hold the texts" in caplog.text
