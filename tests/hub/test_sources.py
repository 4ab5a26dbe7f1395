"""What `svp push` takes for a run or a selection, and what of this machine goes along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from finished_run import finished_run
from huggingface_hub import HfApi
from toy import write_toy
from typer.testing import CliRunner

from svp_nlp import Selection, active_learning, load_pool, open_workspace
from svp_nlp.cli import app
from svp_nlp.errors import HubRefused
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.sharing import bundle_of
from svp_nlp.hub.source import find_source, finished_rounds, shareable

ROUND_1 = "seed-0/proxy-margin/round-001/selection"

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture
def run(tmp_path) -> Path:
    """Two rounds of margin."""
    pool = load_pool(write_toy(tmp_path / "toy.csv"))
    with open_workspace(pool, run_dir=tmp_path / "made") as work:
        list(active_learning(work, learner="fasttext", strategy="margin", initial=20, labeled_sizes=[40, 60]))
    return tmp_path / "made"


def test_copies_beside_the_directories_of_a_run_are_not_the_runs(run):
    before = find_source(run), finished_rounds(run)
    for name in ("seed-0", "seed-0/proxy-margin/round-001"):
        shutil.copytree(run / name, run / f"{name}.bak")
    assert (find_source(run), finished_rounds(run)) == before


def test_a_selection_that_was_saved_below_a_run_stands_for_itself(run):
    selection = Selection.load(run / ROUND_1)
    for place in ("mine", "seed-0/mine", "seed-0/proxy-margin/mine/selection"):
        selection.save(run / place)
        found = find_source(run / place)
        assert (found.run_dir, found.selections) == (None, ((run / place).resolve(),))
    of_the_run = find_source(run / ROUND_1)
    assert (of_the_run.run_dir, of_the_run.arm, len(of_the_run.selections)) == (run.resolve(), "proxy-margin", 2)
    assert find_source(run / "seed-0/start/selection").arm == "start"


@pytest.mark.parametrize("option", [{"arm": "random"}, {"seed": 0}, {"round": 2}])
def test_what_chooses_in_a_run_is_refused_for_one_selection(run, option):
    with pytest.raises(HubRefused, match=r"is one selection; --arm, --seed and --round choose among those of a run"):
        find_source(run / ROUND_1, **option)


@pytest.mark.parametrize(
    "options",
    [["--index-only"], ["--private"], ["--public"], ["--message", "x"], ["--version", "v1"], ["--create-pr"],
     ["--dry-run"], ["--arm", "random"], ["--config", "a"], ["--what", "proxy"]],
)  # fmt: skip
def test_without_a_repository_no_option_is_passed_over(tmp_path, options):
    settings = {
        "repo_id": "acme/x",
        "private": None,
        "index_only": False,
        "arms": [],
        "by_arm": False,
        "by_seed": False,
    }
    (tmp_path / "published.json").write_text(json.dumps({"settings": settings, "versions": []}))
    assert "all rounds were pushed before" in CliRunner().invoke(app, ["push", str(tmp_path)]).output
    refused = CliRunner().invoke(app, ["push", str(tmp_path), *options])
    assert refused.exit_code == 2
    assert "name the repository" in refused.output


def test_a_run_that_is_not_there_is_said_to_be_so(tmp_path):
    refused = CliRunner().invoke(app, ["push", str(tmp_path / "rnu")])
    assert refused.exit_code == 2
    assert "rnu does not exist; expected what `svp run` made" in " ".join(refused.output.split())


def test_of_local_paths_only_the_last_part_goes_along_and_what_is_on_the_hub_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clients/acme").mkdir(parents=True)
    assert shareable({"pool": {"path": "clients/acme"}, "title": "either/or"}) == {
        "pool": {"path": "acme"}, "title": "either/or"
    }  # fmt: skip
    values = {
        "path": "clients/acme/pool.csv", "model_name_or_path": "./models/ours", "split": "train",
        "test": [{"path": "fancyzhx/ag_news"}, {"path": "builtin:docstrings"}, {"path": ""}],
    }  # fmt: skip
    assert shareable(values) == values | {"path": "pool.csv", "model_name_or_path": "ours"}
    assert shareable(["/home/ann/x", "~/y"]) == ["x", "y"]


def test_a_relative_path_of_the_pool_is_in_nothing_that_is_pushed(hub, repo_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = finished_run(Path("clients/acme"), labeled_sizes=[40])
    with bundle_of(run_dir, "selection") as bundle:
        push_bundle(bundle, Remote(repo_id, "dataset"))
    assert hub.saw("clients") == []
    files = [
        Path(HfApi().hf_hub_download(repo_id, name, repo_type="dataset")) for name in ("README.md", "lineage.json")
    ]
    assert all("clients" not in file.read_text() for file in files)
    assert json.loads(files[1].read_text())["configs"]["default"]["lineage"]["pool"]["path"] == "pool"
