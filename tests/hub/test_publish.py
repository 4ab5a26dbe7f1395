"""`publish:` in a recipe: each round becomes a version while the run goes on, and the Hub never stands in its way."""

from __future__ import annotations

import json
import re
import time
import types
from pathlib import Path

import pytest
from datasets import Dataset
from huggingface_hub import CommitOperationAdd, HfApi, constants
from localhub import ALICE_READ, BOB, Fault
from small_run import FASTTEXT, outcome, small_recipe
from toy import write_toy
from typer.testing import CliRunner

from svp_nlp import load_selected
from svp_nlp.cli import app
from svp_nlp.errors import HubRefused, Interrupted
from svp_nlp.experiment import run_recipe
from svp_nlp.recipe import dump_recipe
from svp_nlp.recipe_yaml import write_yaml

SIZES = [40, 60, 80]

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return write_toy(tmp_path_factory.mktemp("publish") / "pool")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """A push waits for nothing, but its deadline comes as if it had."""
    waits = []
    fake = types.SimpleNamespace(monotonic=lambda: time.monotonic() + sum(waits), sleep=waits.append)
    monkeypatch.setattr("svp_nlp.hub.retry.time", fake)


def published(pool: Path, repo_id: str | None, **changes):
    publish = None if repo_id is None else {"repo_id": repo_id, **changes.pop("publish", {})}
    return small_recipe(pool, **{"labeled_sizes": SIZES, "target": None, "test": None, "publish": publish, **changes})


def run(recipe, run_dir: Path, meanwhile=lambda: False) -> dict:
    """Run it; `meanwhile` is called between its steps, and stops it where it says True."""
    run_recipe(recipe, run_dir, stop_requested=lambda: bool(meanwhile()))
    return json.loads((run_dir / "results.json").read_text())


def svp(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def recipe_file(recipe, folder: Path) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(dump_recipe(recipe) + write_yaml({"publish": recipe.publish.model_dump()}))
    return file


def versions(hub, repo_id: str) -> list[str]:
    """The tags on the server, without a request."""
    repo = hub.find("datasets", repo_id)
    refs = [] if repo is None else [ref.decode() for ref in repo.git.get_refs() if ref.startswith(b"refs/tags/")]
    return sorted(ref.removeprefix("refs/tags/") for ref in refs)


def titles(repo_id: str) -> list[str]:
    return [made.title for made in HfApi().list_repo_commits(repo_id, repo_type="dataset")][-2::-1]


def finished_rounds(run_dir: Path) -> int:
    return len(list(run_dir.glob("seed-0/proxy-margin/round-*/labels/step.json")))


def test_versions_appear_as_rounds_finish_and_hold_what_was_labelled_so_far(hub, repo_id, pool, tmp_path):
    seen = set()
    results = run(
        published(pool, repo_id), tmp_path / "run",
        lambda: seen.add((finished_rounds(tmp_path / "run"), len(versions(hub, repo_id)))),
    )  # fmt: skip
    assert seen >= {(0, 0), (1, 1), (2, 2)}
    assert all(rounds - 1 <= pushed <= rounds for rounds, pushed in seen)
    assert versions(hub, repo_id) == ["v1", "v2", "v3"]
    assert [len(load_selected(repo_id, revision=f"v{n}")) for n in (1, 2, 3)] == SIZES
    assert len(titles(repo_id)) == 3
    assert not [warning for warning in results["warnings"] if "publish" in warning]
    told = json.loads((tmp_path / "run/published.json").read_text())
    assert [(one["round"], one["version"]) for one in told["versions"]] == [(1, "v1"), (2, "v2"), (3, "v3")]


def test_strategies_and_seeds_become_configurations_side_by_side(hub, repo_id, pool, tmp_path):
    changes = {"strategies": ["margin", "entropy"], "seeds": [0, 1], "labeled_sizes": [40]}
    run(published(pool, repo_id, **changes), tmp_path / "run")
    assert versions(hub, repo_id) == ["v1", "v2", "v3", "v4"]
    for strategy in changes["strategies"]:
        for seed in (0, 1):
            selected = load_selected(repo_id, config=f"proxy-{strategy}-seed-{seed}")
            exported = tmp_path / f"run/seed-{seed}/proxy-{strategy}/selected/dataset/data"
            assert selected.to_dict() == Dataset.from_parquet([str(file) for file in exported.iterdir()]).to_dict()


def test_a_run_finds_the_same_with_publish_and_without(hub, repo_id, pool, tmp_path):
    run(published(pool, None), tmp_path / "alone")
    run(published(pool, repo_id, publish={"index_only": True, "private": True}), tmp_path / "shared")
    assert outcome(tmp_path / "alone") == outcome(tmp_path / "shared")
    assert HfApi().dataset_info(repo_id).private
    assert not (tmp_path / "alone/published.json").exists()


def test_a_hub_that_is_down_is_said_and_reported_and_svp_push_finishes_it_later(hub, repo_id, pool, tmp_path, caplog):
    file = recipe_file(published(pool, repo_id), tmp_path)
    hub.die_at(1)
    ended = svp("run", file, "--run-dir", tmp_path / "run")
    assert ended.exit_code == 0, ended.output
    [warning] = json.loads((tmp_path / "run/results.json").read_text())["warnings"]
    assert warning.startswith("publish: 3 of 3 versions are not on the Hub (")
    assert warning.endswith(f"`svp push {tmp_path / 'run'}` pushes them later")
    assert warning in ended.stderr
    assert "the run goes on" in ended.stderr
    down = svp("push", tmp_path / "run")
    assert down.exit_code == 1
    assert "the Hub did not take it within" in down.stderr.splitlines()[-1]
    hub.revive()
    later = svp("push", tmp_path / "run")
    assert later.exit_code == 0, later.output
    assert [line.split()[1] for line in later.stdout.splitlines()] == ["v1", "v2", "v3"]
    assert [len(load_selected(repo_id, revision=f"v{n}")) for n in (1, 2, 3)] == SIZES
    assert svp("push", tmp_path / "run").stdout.strip() == "all rounds were pushed before"


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_hub_that_goes_down_after_the_first_round_costs_no_round(hub, repo_id, pool, tmp_path, comes_back):
    def meanwhile():
        if comes_back and finished_rounds(tmp_path / "run") == 3:
            hub.revive()
        elif not hub.dead and versions(hub, repo_id) == ["v1"]:
            hub.die_at(1)

    # At the end it asks once more; random's round comes after the last of margin's.
    results = run(published(pool, repo_id, baselines=["random"]), tmp_path / "run", meanwhile)
    hub.revive()
    told = [warning for warning in results["warnings"] if warning.startswith("publish: 2 of 3")]
    assert bool(told) == (not comes_back)
    assert results["finished"]
    assert versions(hub, repo_id) == (["v1", "v2", "v3"] if comes_back else ["v1"])
    assert svp("push", tmp_path / "run").exit_code == 0
    assert versions(hub, repo_id) == ["v1", "v2", "v3"]
    assert len(titles(repo_id)) == 3


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "publish: dataset .*: no token; log in with"),
        ("hf_" + "x" * 30, "publish: dataset .*: the Hub does not know this token"),
        (ALICE_READ, "publish: dataset .*: the token of alice can only read"),
        (BOB, "publish: dataset .*: this token may not do that"),
    ],
)
def test_who_cannot_push_is_told_before_any_work(hub, repo_id, pool, tmp_path, monkeypatch, token, message):
    HfApi().create_repo(repo_id, repo_type="dataset")
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    file = recipe_file(published(pool, repo_id), tmp_path)
    for option in (["--dry-run"], []):
        ended = svp("run", file, "--run-dir", tmp_path / "run", *option)
        assert ended.exit_code == 2, ended.output
        [line] = ended.stderr.splitlines()
        assert re.match(f"error: {message}", line)
    assert not (tmp_path / "run").exists()


def test_a_repository_with_other_things_is_refused_before_any_work(hub, repo_id, pool, tmp_path):
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset")
    api.upload_file(path_or_fileobj=b"a", path_in_repo="mine.csv", repo_id=repo_id, repo_type="dataset")
    ended = svp("run", recipe_file(published(pool, repo_id), tmp_path), "--run-dir", tmp_path / "run")
    assert ended.exit_code == 2
    assert "holds files that svp_nlp did not write (mine.csv)" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_changes_nothing_at_the_hub(hub, repo_id, pool, tmp_path):
    file = recipe_file(published(pool, repo_id), tmp_path)
    ended = svp("run", file, "--run-dir", tmp_path / "run", "--dry-run")
    assert ended.exit_code == 0, ended.output
    assert not HfApi().repo_exists(repo_id, repo_type="dataset")
    assert not (tmp_path / "run").exists()
    assert {entry["method"] for entry in hub.requests} == {"GET"}


@pytest.mark.parametrize("forgets", [False, True])
def test_a_resumed_run_pushes_nothing_twice(hub, repo_id, pool, tmp_path, forgets):
    recipe = published(pool, repo_id)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", lambda: "v2" in versions(hub, repo_id))
    assert versions(hub, repo_id) == ["v1", "v2"]
    if forgets:  # as if it had been killed after the push, before it was written down
        told = json.loads((tmp_path / "run/published.json").read_text())
        (tmp_path / "run/published.json").write_text(json.dumps(told | {"versions": told["versions"][:1]}))
    hub.mark()
    run(recipe, tmp_path / "run")
    assert versions(hub, repo_id) == ["v1", "v2", "v3"]
    assert len(titles(repo_id)) == 3
    before = len(hub.requests)
    run(recipe, tmp_path / "run")
    assert {entry["method"] for entry in hub.requests[before:]} <= {"GET", "HEAD"}
    assert len(titles(repo_id)) == 3


def full_disk(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_a_full_disk_or_a_file_by_a_stranger_stops_publishing_and_not_the_run(
    hub, repo_id, pool, tmp_path, monkeypatch
):
    def meanwhile():
        if versions(hub, repo_id) == ["v1"] and len(titles(repo_id)) == 1:
            broken = b'{"format": 1, "kind": "selection", "configs": {"default": 7}, "versions": [{"version": "v1"}]}'
            HfApi().create_commit(
                repo_id, [CommitOperationAdd("lineage.json", broken)], commit_message="x", repo_type="dataset"
            )

    results = run(published(pool, repo_id), tmp_path / "stranger", meanwhile)
    [warning] = results["warnings"]
    assert warning.startswith("publish: 2 of 3 versions are not on the Hub (")
    assert "lineage.json" in warning
    assert results["finished"]
    monkeypatch.setattr("svp_nlp.hub.selections.write_rows", full_disk)
    results = run(published(pool, f"{repo_id}-2"), tmp_path / "full")
    assert results["warnings"] == [
        "publish: 3 of 3 versions are not on the Hub (OSError: [Errno 28] No space left on device); "
        f"`svp push {tmp_path / 'full'}` pushes them later"
    ]
    assert results["finished"]


def shared_results(repo_id: str) -> set[str]:
    """The selectors whose errors the newest card tells."""
    file = HfApi().hf_hub_download(repo_id, "lineage.json", repo_type="dataset")
    return {point["selector"] for point in json.loads(Path(file).read_text())["configs"]["default"]["results"]["rows"]}


# The errors of random are known only after the version of margin was pushed.
WITH_RANDOM = {"labeled_sizes": [40], "target": FASTTEXT, "test": {}, "baselines": ["random"]}


def test_a_card_that_fails_at_the_end_is_reported_and_svp_push_finishes_it(hub, repo_id, pool, tmp_path):
    def meanwhile():
        if versions(hub, repo_id) == ["v1"] and not hub.faults:
            hub.faults = [Fault("POST .*/commit/main", 503, times=-1)]

    results = run(published(pool, repo_id, **WITH_RANDOM), tmp_path / "run", meanwhile)
    [warning] = [warning for warning in results["warnings"] if warning.startswith("publish")]
    assert warning.startswith("publish: the card is not up to date (")
    assert warning.endswith(f"`svp push {tmp_path / 'run'}` brings it up to date later")
    again = svp("push", tmp_path / "run")
    assert again.exit_code == 1
    assert "the card of v1 is as it was" in again.stderr
    assert shared_results(repo_id) == {"proxy"}
    hub.faults = []
    assert svp("push", tmp_path / "run").stdout.startswith("card of v1 ")
    assert shared_results(repo_id) == {"proxy", "random"}
    assert svp("push", tmp_path / "run").stdout.strip() == "all rounds were pushed before"
    assert versions(hub, repo_id) == ["v1"]


def test_the_card_of_an_unfinished_run_waits_for_its_end(hub, repo_id, pool, tmp_path):
    recipe = published(pool, repo_id, **WITH_RANDOM)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", lambda: versions(hub, repo_id) == ["v1"])
    assert svp("push", tmp_path / "run").stdout.strip() == "all rounds were pushed before"
    assert shared_results(repo_id) == {"proxy"}
    run(recipe, tmp_path / "run")
    assert shared_results(repo_id) == {"proxy", "random"}


@pytest.mark.parametrize("how", ["offline", "expired"])
def test_a_run_that_has_begun_to_publish_is_resumed_without_the_hub(hub, repo_id, pool, tmp_path, monkeypatch, how):
    recipe = published(pool, repo_id)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", lambda: "v2" in versions(hub, repo_id))
    with monkeypatch.context() as without:
        if how == "offline":
            without.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            without.setenv("HF_TOKEN", "hf_" + "x" * 30)
        results = run(recipe, tmp_path / "run")
        assert results["finished"]
        [warning] = results["warnings"]
        assert warning.startswith("publish: 1 of 3 versions are not on the Hub (")
        with pytest.raises(HubRefused):  # another repository is another matter
            run(published(pool, f"{repo_id}-2"), tmp_path / "run")
    assert svp("push", tmp_path / "run").exit_code == 0
    with monkeypatch.context() as without:
        without.setattr(constants, "HF_HUB_OFFLINE", True)
        assert run(recipe, tmp_path / "run")["warnings"] == []
    assert versions(hub, repo_id) == ["v1", "v2", "v3"]


def test_a_finished_run_can_be_published_by_resuming_it_and_again_elsewhere(hub, repo_id, pool, tmp_path):
    run(published(pool, None), tmp_path / "run")
    for name, index_only in ((repo_id, False), (f"{repo_id}-2", True)):
        results = run(published(pool, name, publish={"index_only": index_only}), tmp_path / "run")
        assert versions(hub, name) == ["v1", "v2", "v3"]
        assert results["finished"]
    assert len(titles(repo_id)) == 3


def test_a_recipe_without_publish_has_nothing_that_svp_push_could_finish(hub, pool, tmp_path):
    run(published(pool, None), tmp_path / "run")
    refused = svp("push", tmp_path / "run")
    assert refused.exit_code == 2
    assert "its recipe has no `publish`; name the repository" in refused.stderr
