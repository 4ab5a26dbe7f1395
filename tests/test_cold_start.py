"""The first rows, before there is a label: spread over what a frozen encoder makes of the pool, or given."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_run import outcome, small_recipe
from toy import write_toy

from svp_nlp import Selection, active_learning, make_learner, open_workspace
from svp_nlp.errors import BudgetError, RecipeError
from svp_nlp.experiment import run_recipe
from svp_nlp.plan import plan
from svp_nlp.strategies import STRATEGIES, select
from svp_nlp.strategy_spec import StartSpec

ENCODER = {
    "kind": "embedding",
    "config": {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "vocab_size": 300,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


def features(run_dir):
    [path] = run_dir.glob("encoders/*/features/embeddings.npy")
    return np.load(path)


@pytest.mark.parametrize(("name", "candidates"), [("typiclust", None), ("greedy_k_centers", 60)])
def test_the_start_set_is_what_the_strategy_picks_of_the_encoder_s_features(toy, tmp_path, name, candidates):
    start = {"name": name, "candidates": candidates, "encoder": ENCODER}
    recipe = small_recipe(toy, start=start, target=None, test=None)
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    found = Selection.load(tmp_path / "run/seed-0/start/selection")
    with open_workspace(toy) as work:
        keys, among = work.pool.keys_N, np.arange(len(work.pool))
    if candidates is not None:
        among = np.load(tmp_path / "run/seed-0/start/candidates/positions.npy")
        assert len(among) == candidates
    picks = select(
        STRATEGIES[name], {"embeddings": features(tmp_path / "run")[among], "keys": keys[among]}, budget=20, seed=0,
        available=np.ones(len(among), bool), labeled=np.zeros(len(among), bool), keys=keys[among],
    )  # fmt: skip
    assert found.positions_K.tolist() == among[picks.positions_K].tolist()
    assert found.lineage.strategy == name
    assert found.lineage.options["encoder"]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["rounds"][0]["scoring_seconds"] > 0
    again = tmp_path / "again"
    run_recipe(recipe, again, stop_requested=lambda: False)
    assert outcome(again) == outcome(tmp_path / "run")


def test_a_proxy_s_own_encoder_is_used_once_and_its_seconds_are_counted_once(toy, tmp_path):
    with open_workspace(toy, run_dir=tmp_path / "run") as work:
        learner = make_learner("embedding", **{key: value for key, value in ENCODER.items() if key != "kind"})
        start, first = active_learning(
            work, learner=learner, strategy="margin", initial=20, labeled_sizes=[30], start="typiclust"
        )
    assert start.selection.lineage.strategy == "typiclust"
    [_] = (tmp_path / "run/encoders").glob("*/features")
    assert start.scoring_seconds == 0 < first.scoring_seconds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "typiclust"}, "start: typiclust: fasttext has no features before it is trained"),
        ({"start": "margin"}, "margin needs a model, and nothing is labelled yet; expected random, facility_location"),
        ({"start": "typicluster"}, "did you mean 'typiclust'"),
        ({"start": {"name": "random", "candidates": 50}}, "random looks at no features"),
        ({"start": {"name": "typiclust", "encoder": {"kind": "fasttext"}}}, "only embedding has features"),
        ({"start": "typiclust", "mode": "core_set", "initial": None, "proxy": ENCODER}, "a core-set has no start set"),
    ],
)
def test_a_start_set_that_cannot_be_is_refused_with_the_recipe(toy, changes, message):
    with pytest.raises(RecipeError, match=message):
        small_recipe(toy, **changes)


def test_fewer_candidates_than_rows_to_pick_are_refused_before_any_work(toy, tmp_path):
    recipe = small_recipe(toy, start={"name": "typiclust", "candidates": 10, "encoder": ENCODER})
    with pytest.raises(BudgetError, match="20 rows are to be picked of 10 candidates"):
        run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert not (tmp_path / "run").exists()
    with open_workspace(toy) as work, pytest.raises(RecipeError, match="start: margin needs a model"):
        next(active_learning(work, learner="fasttext", strategy="margin", labeled_sizes=[30], start="margin"))


def test_a_plan_counts_what_the_start_set_s_encoder_reads(toy):
    with_start = small_recipe(toy, start={"name": "typiclust", "encoder": ENCODER}, target=None, test=None)
    assert plan(with_start)["work"]["encoder"]["encoded"] == 200
    assert plan(small_recipe(toy, target=None, test=None))["work"]["encoder"]["encoded"] == 0


def test_a_start_set_without_options_is_its_name_in_the_recipe():
    assert StartSpec.model_validate("random").model_dump(mode="json") == "random"
    assert StartSpec.model_validate({"name": "typiclust"}).model_dump(mode="json") == "typiclust"
