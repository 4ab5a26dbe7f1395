"""Strategies with options on the Hub: what a round looked at is told, and what was said of a part is not given out."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import small_recipe
from strangers import push_entry
from toy import write_toy

from svp_nlp import Selection, load_pool, load_signals, open_workspace, run_recipe
from svp_nlp.errors import HubRefused, SignalError
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.sharing import bundle_of
from svp_nlp.hub.source import find_source, open_pool
from svp_nlp.loop import active_learning
from svp_nlp.models import make_learner

HEAD = {
    "config": {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "vocab_size": 300,
}
STRATEGIES = [
    {"name": "margin", "reduce": {"kind": "ups", "gamma": 0.2}},
    {"name": "typiclust", "prefilter": "margin", "candidates": 60},
    {"name": "entropy", "strata": {"count": 5, "drop_hardest": "20%"}},
]
UPS, CANDIDATES, STRATA = "proxy-margin-ups", "proxy-typiclust-of-60-by-margin", "proxy-entropy-strata-5"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two rounds of three strategies with options; and two of one that looks at labelled rows, by a frozen encoder."""
    folder = tmp_path_factory.mktemp("options")
    recipe = small_recipe(
        write_toy(folder / "pool"), strategies=STRATEGIES, labeled_sizes=[40, 60], target=None, test=None
    )
    run_recipe(recipe, folder / "run", stop_requested=lambda: False)
    with open_workspace(load_pool(folder / "pool"), run_dir=folder / "head") as workspace:
        head = make_learner("embedding", **HEAD)
        list(active_learning(workspace, learner=head, strategy="typiclust", initial=20, labeled_sizes=[40, 60]))
    return folder


def push(repo_id, path, what="signals", **options):
    with bundle_of(path, what, **options) as bundle:
        return push_bundle(bundle, Remote(repo_id, bundle.repo_type))


def entry_of(repo_id):
    return json.loads(Remote(repo_id, "dataset").read("lineage.json", "main"))["configs"]["default"]


def selection(run_dir, place):
    return Selection.load(run_dir / "seed-0" / place / "selection")


def test_what_was_said_of_a_part_of_the_pool_is_refused_with_its_size_and_what_to_push_instead(hub, repo_id, run):
    scored = selection(run / "run", f"{UPS}/round-002").lineage.scoring["rows"]
    assert scored < 200
    with pytest.raises(HubRefused, match=rf"scored {scored} of 200 rows.*--what proxy.*another arm"):
        push(repo_id, run / "run", arm=UPS)
    assert hub.requests == []
    push(repo_id, run / "run", arm=UPS, round=1)  # the first time all rows are scored
    expected = selection(run / "run", f"{UPS}/round-001")
    assert load_signals(repo_id).select("margin", budget=20).fingerprint == expected.fingerprint


def test_of_a_round_with_candidates_the_scores_of_the_whole_pool_are_pushed(hub, repo_id, run):
    push(repo_id, run / "run", arm=CANDIDATES)
    signals = load_signals(repo_id)
    assert list(signals.arrays) == ["margin"] and len(signals) == 200
    assert signals.lineage["scoring"]["rows"] == 200
    labelled = [selection(run / "run", place).positions_K for place in ("start", f"{CANDIDATES}/round-001")]
    assert set(np.flatnonzero(signals.labeled_N)) == set(np.concatenate(labelled).tolist())
    assert not (signals.labeled_N & signals.available_N).any() and signals.labeled == 40


def test_a_strategy_that_looks_at_labelled_rows_chooses_from_shared_signals_as_the_run_did(hub, repo_id, run):
    push(repo_id, run / "head", arm="proxy-typiclust")
    signals = load_signals(repo_id)
    expected = selection(run / "head", "proxy-typiclust/round-002")
    found = signals.select("typiclust", budget=20)
    assert found.fingerprint == expected.fingerprint
    assert found.lineage.options == {} and found.lineage.labeled_size == expected.lineage.labeled_size == 60
    blind = dataclasses.replace(signals, labeled_N=np.zeros(200, np.bool_))
    assert blind.select("typiclust", budget=20).fingerprint != expected.fingerprint


def test_signals_that_do_not_tell_which_rows_are_labelled_are_read_and_only_refused_where_it_matters(
    hub, repo_id, tmp_path
):
    embeddings = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    table = {
        "svp_position": range(6), "svp_id": [f"{row:032x}" for row in range(6)], "svp_available": [False, *[True] * 5],
        "margin": pa.array(range(6), pa.float32()), "embeddings": pa.array(list(embeddings), pa.list_(pa.float32())),
    }  # fmt: skip
    pq.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), tmp_path / "old.parquet")
    kept = {"pool": {"id_column": None}, "proxy": {}, "parent": None, "scoring": {}, "recipe_sha256": None}
    entry = {
        "rows": 6, "labeled": 1, "class_names": [], "lineage": {**kept, "seed": 0, "round": 1, "versions": {}},
        "signals": {"margin": {"shape": [6]}, "embeddings": {"shape": [6, 2]}},
    }  # fmt: skip
    push_entry(repo_id, "signals", entry, {"old.parquet": tmp_path / "old.parquet"})
    signals = load_signals(repo_id)
    assert signals.labeled_N is None
    assert signals.select("margin", budget=2).positions_K.tolist() == [5, 4]
    with pytest.raises(SignalError, match="typiclust looks at labelled rows, and which 1 these are was not pushed"):
        signals.select("typiclust", budget=2)
    assert len(dataclasses.replace(signals, labeled=0).select("typiclust", budget=2)) == 2


def test_options_come_back_with_a_selection_and_none_are_written_where_there_are_none(hub, repo_id, run):
    push(repo_id, run / "run", "selection", arm=CANDIDATES)
    expected = selection(run / "run", f"{CANDIDATES}/round-002").lineage.options
    assert Selection.from_hub(repo_id).lineage.options == expected
    assert expected == {"prefilter": "margin", "candidates": 60, "candidate_rows": 60}
    plain = f"{repo_id}-plain"
    selection(run / "run", "start").push_to_hub(plain, pool=load_pool(run / "pool"))
    assert "options" not in entry_of(plain)["lineage"]  # as earlier versions wrote and read it
    assert Selection.from_hub(plain).lineage.options == {}


def test_a_folder_of_an_encoder_in_the_options_is_not_told(hub, repo_id, run, tmp_path):
    picked = selection(run / "run", "start")
    encoder = {"kind": "embedding", "model_name_or_path": str(tmp_path / "private" / "minilm")}
    options = {"reduce": {"kind": "seals", "neighbours": 5, "encoder": encoder}, "scored_rows": 80}
    picked = dataclasses.replace(picked, lineage=dataclasses.replace(picked.lineage, options=options))
    picked.push_to_hub(repo_id, pool=load_pool(run / "pool"))
    assert hub.saw(str(tmp_path / "private")) == []
    found = Selection.from_hub(repo_id).lineage.options
    assert found["reduce"]["encoder"]["model_name_or_path"] == "minilm" and found["scored_rows"] == 80


def test_the_first_strategy_of_a_recipe_is_found_whatever_options_it_has(run):
    assert find_source(run / "run").arm == UPS
    assert find_source(run / "run", arm=STRATA).arm == STRATA


@pytest.mark.parametrize("rows", [None, 120])
def test_the_pool_of_a_run_is_opened_as_the_whole_or_the_part_that_it_was(tmp_path, rows):
    pool = load_pool(write_toy(tmp_path / "pool"), rows=rows)
    with open_workspace(pool, run_dir=tmp_path / "run") as workspace:
        options = {"learner": "fasttext", "strategy": "random", "initial": 10, "labeled_sizes": [20]}
        list(active_learning(workspace, **options))
    source = find_source(tmp_path / "run", arm="random")
    found = open_pool(Selection.load(source.selections[-1]), of_part=source.of_part)
    assert found.fingerprint == pool.fingerprint
    assert found.ref.rows == rows  # the whole is not copied into memory
