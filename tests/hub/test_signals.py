"""Signals on the Hub: pushed from a round, read back in the pool's order, and rows chosen anew without scoring."""

from __future__ import annotations

import errno
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from localhub import ALICE
from strangers import push_entry
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp import load_pool, open_workspace
from svp_nlp.errors import BudgetError, HubRefused, LineageError, RunError, SignalError
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.shared_signals import load_signals
from svp_nlp.hub.signals import signals_bundle
from svp_nlp.loop import active_learning, core_set
from svp_nlp.models import make_learner
from svp_nlp.selection import Selection

ENCODER = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
SIZES = {"initial": 20, "labeled_sizes": [40, 70]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two rounds by margin and by random, with a head on a frozen encoder; and one that keeps a core-set."""
    folder = tmp_path_factory.mktemp("signals")
    pool = load_pool(write_toy(folder / "toy.csv"))
    with open_workspace(pool, run_dir=folder / "run") as workspace:
        head = make_learner("embedding", config=ENCODER, vocab_size=400)
        list(active_learning(workspace, learner=head, strategy="margin", **SIZES))
        list(active_learning(workspace, learner=head, strategy="random", **SIZES))
    with open_workspace(pool, run_dir=folder / "core") as workspace:
        fast = make_learner("fasttext", bucket=1000, epochs=3, learning_rate=0.5)
        list(core_set(workspace, learner=fast, strategy="entropy", labeled_sizes=[50, 100]))
    return folder, pool


def push(repo_id, run_dir, **options):
    with signals_bundle(run_dir, **options) as bundle:
        return push_bundle(bundle, Remote(repo_id, "dataset"))


def selection(run_dir, place):
    return Selection.load(run_dir / "seed-0" / place / "selection")


def test_signals_come_back_bit_for_bit_in_the_order_of_the_pool(hub, repo_id, run):
    folder, pool = run
    pushed = push(repo_id, folder / "run")
    signals = load_signals(repo_id, revision=pushed.version, pool=pool)
    assert list(signals.arrays) == ["margin", "embeddings"]
    (scores,) = (folder / "run/seed-0/proxy-margin").glob("proxy-0000000040-*/signals-margin/margin.npy")
    (features,) = (folder / "run/encoders").glob("*/features/embeddings.npy")
    np.testing.assert_array_equal(signals.arrays["margin"], np.load(scores))
    np.testing.assert_array_equal(signals.arrays["embeddings"], np.load(features))
    np.testing.assert_array_equal(signals.keys_N, pool.keys_N)
    assert signals.ids_N.to_pylist() == pool.ids(np.arange(len(pool))).to_pylist()
    assert signals.class_names == ("animals", "kitchen", "music", "weather")
    assert signals.lineage["labeled_size"] == signals.labeled == 40
    assert (
        signals.lineage["proxy"]["fingerprint"]
        == selection(folder / "run", "proxy-margin/round-002").lineage.proxy["fingerprint"]
    )


def test_the_same_choice_from_shared_signals_is_the_very_selection_of_the_run(hub, repo_id, run):
    folder, pool = run
    for round, place in ((1, "proxy-margin/round-001"), (2, "proxy-margin/round-002")):
        pushed = push(repo_id, folder / "run", round=round)
        expected = selection(folder / "run", place)
        found = load_signals(repo_id, revision=pushed.version).select("margin", budget=len(expected))
        assert found.fingerprint == expected.fingerprint
        np.testing.assert_array_equal(found.scores_K, expected.scores_K)
        assert (found.lineage.labeled_size, found.lineage.parent) == (
            expected.lineage.labeled_size,
            expected.lineage.parent,
        )
        assert found.to_dataset(pool).num_rows == len(expected)


def test_rows_are_also_chosen_at_random_and_from_what_is_kept_of_a_core_set(hub, repo_id, run):
    folder, _ = run
    push(repo_id, folder / "core", round=1)
    signals = load_signals(repo_id)
    for strategy, place in (("entropy", "proxy-entropy/keep-0000000100"), ("entropy", "proxy-entropy/keep-0000000050")):
        expected = selection(folder / "core", place)
        assert signals.select(strategy, budget=len(expected)).fingerprint == expected.fingerprint
    by_chance = signals.select("random", budget=30)
    assert by_chance.lineage.proxy is None
    assert by_chance.fingerprint != signals.select("random", budget=30, seed=1).fingerprint


def test_what_was_labelled_is_not_chosen_again_and_more_than_is_left_is_refused(hub, repo_id, run):
    folder, pool = run
    push(repo_id, folder / "run")
    signals = load_signals(repo_id)
    labelled = [selection(folder / "run", place).positions_K for place in ("start", "proxy-margin/round-001")]
    assert not signals.available_N[np.concatenate(labelled)].any()
    assert np.count_nonzero(signals.available_N) == pool.check.usable - 40
    with pytest.raises(BudgetError, match="160"):
        signals.select("margin", budget=161)
    with pytest.raises(SignalError, match="entropy needs the signal probs"):
        signals.select("entropy", budget=10)


def test_the_same_signals_pushed_again_make_no_commit(hub, repo_id, run):
    folder, _ = run
    first, again = push(repo_id, folder / "run"), push(repo_id, folder / "run")
    assert (first.new, again.new, again.sha) == (True, False, first.sha)
    assert push(repo_id, folder / "run", round=1).version == "v2"


def test_people_who_do_not_know_svp_nlp_read_them_as_a_dataset(hub, repo_id, run):
    folder, _ = run
    push(repo_id, folder / "run")
    dataset = load_dataset(repo_id, revision="v1", split="train")
    own = ["svp_position", "svp_id", "svp_available", "svp_labeled"]
    assert dataset.column_names == [*own, "margin", "embeddings"]
    assert dataset.num_rows == 200
    assert len(dataset[0]["embeddings"]) == 32


def test_nothing_in_it_tells_of_this_machine(hub, repo_id, run):
    folder, _ = run
    push(repo_id, folder / "run")
    assert hub.saw(str(folder)) == []
    document = json.loads(Remote(repo_id, "dataset").read("lineage.json", HfApi().dataset_info(repo_id).sha))
    assert document["configs"]["default"]["lineage"]["pool"]["path"] == "toy.csv"


def test_another_pool_is_refused_by_its_first_row_that_differs(hub, repo_id, run, tmp_path):
    folder, _ = run
    push(repo_id, folder / "run")
    text = (folder / "toy.csv").read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([*text[:8], "another text,music", *text[9:]]))
    with pytest.raises(LineageError, match="position 7 has the id"):
        load_signals(repo_id, pool=load_pool(tmp_path / "other.csv"))
    (tmp_path / "short.csv").write_text("\n".join(text[:101]))
    with pytest.raises(LineageError, match="200 rows, the pool has 100"):
        load_signals(repo_id, pool=load_pool(tmp_path / "short.csv"))
    with pytest.raises(LineageError, match=r"toy\.csv, is on no Hub"):
        load_signals(repo_id).open_pool()


def test_a_pool_of_the_hub_with_ids_of_its_own_is_opened_by_commit_and_the_choice_is_the_same(
    hub, repo_id, tmp_path, monkeypatch
):
    texts, labels = toy_rows(80)
    rows = {"text": texts, "label": [CLASS_NAMES[label] for label in labels], "name": [f"row {i}" for i in range(80)]}
    Dataset.from_dict(rows).push_to_hub(f"{repo_id}-pool", private=True)
    pool = load_pool(f"{repo_id}-pool", id_column="name")
    with open_workspace(pool, run_dir=tmp_path / "run") as workspace:
        fast = make_learner("fasttext", bucket=1000, epochs=3, learning_rate=0.5)
        *_, last = active_learning(workspace, learner=fast, strategy="margin", initial=20, labeled_sizes=[40])
    push(repo_id, tmp_path / "run")
    Dataset.from_dict({**rows, "text": texts[::-1]}).push_to_hub(f"{repo_id}-pool")
    signals = load_signals(repo_id)
    found = signals.select("margin", budget=20)
    assert found.fingerprint == last.selection.fingerprint
    monkeypatch.delenv("HF_TOKEN")  # and by whom it is opened is as given
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "fresh"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "fresh")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "fresh"))
    with pytest.raises(LineageError, match="cannot be opened"):
        signals.open_pool()
    assert found.to_dataset(signals.open_pool(token=ALICE))["text"] == [texts[p] for p in found.positions_K]


def test_a_file_that_was_changed_at_the_hub_is_refused(hub, repo_id, run):
    folder, _ = run
    push(repo_id, folder / "run")
    name = "data/default/train-00000-of-00001.parquet"
    HfApi().create_commit(
        repo_id, [CommitOperationAdd(name, b"PAR1 but not really")], commit_message="x", repo_type="dataset"
    )
    with pytest.raises(LineageError, match=r"train-00000.*sha256"):
        load_signals(repo_id)
    assert len(load_signals(repo_id, revision="v1")) == 200
    HfApi().create_commit(repo_id, [CommitOperationDelete(name)], commit_message="x", repo_type="dataset")
    with pytest.raises(LineageError, match=r"train-00000.*missing"):
        load_signals(repo_id)


def test_offline_the_cache_gives_the_version_that_was_asked_for(hub, repo_id, run, monkeypatch):
    folder, _ = run
    push(repo_id, folder / "run", round=1)
    push(repo_id, folder / "run", round=2)
    assert [load_signals(repo_id, revision=v).lineage["round"] for v in ("v1", "v2")] == [1, 2]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert [load_signals(repo_id, revision=v).lineage["round"] for v in ("v1", "v2")] == [1, 2]
    with pytest.raises(HubRefused, match="v3 is not in the cache"):
        load_signals(repo_id, revision="v3")


def test_a_round_without_a_model_and_a_changed_signal_are_refused_before_anything_is_pushed(hub, run, tmp_path):
    folder, _ = run
    with pytest.raises(HubRefused, match="no model chose there"), signals_bundle(folder / "run", arm="random"):
        pass
    with pytest.raises(HubRefused, match="no finished round 7"), signals_bundle(folder / "run", round=7):
        pass
    with pytest.raises(HubRefused, match="without its run"):
        Selection.load(folder / "run/seed-0/start/selection").save(tmp_path)
        with signals_bundle(tmp_path):
            pass
    (scores,) = (folder / "run/seed-0/proxy-margin").glob("proxy-0000000040-*/signals-margin/margin.npy")
    data = scores.read_bytes()
    scores.write_bytes(data[:-1] + b"\0")
    try:
        with pytest.raises(RunError, match=r"margin\.npy is missing or was changed"), signals_bundle(folder / "run"):
            pass
    finally:
        scores.write_bytes(data)
    assert hub.requests == []


def test_a_full_disk_is_an_error_that_says_what_to_do(hub, repo_id, run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    push(repo_id, run[0] / "run")
    monkeypatch.setattr("svp_nlp.hub.shared_signals.cached_directory", full)
    with pytest.raises(HubRefused, match=r"no space left on the disk.*SVP_CACHE"):
        load_signals(repo_id)


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_names_of_signals_in_the_lineage_of_a_stranger_never_become_files_elsewhere(hub, repo_id, tmp_path, kind):
    mine = tmp_path / "embeddings.npy"
    mine.write_bytes(b"precious")
    name = str(tmp_path / "embeddings") if kind == "absolute" else "../../../../embeddings"
    table = {"svp_position": [0], "svp_id": ["a"], "svp_available": [True], name: pa.array([1.0], pa.float32())}
    pq.write_table(pa.table(table), tmp_path / "theirs.parquet")
    entry = {"rows": 1, "labeled": 0, "class_names": [], "lineage": {}, "signals": {name: {"shape": [1]}}}
    push_entry(repo_id, "signals", entry, {"theirs.parquet": tmp_path / "theirs.parquet"})
    with pytest.raises(LineageError, match="it was not pushed by svp_nlp"):
        load_signals(repo_id)
    assert mine.read_bytes() == b"precious"
    assert not list(tmp_path.rglob("caches/**/embeddings.npy"))


def test_a_lineage_that_is_damaged_is_one_line(hub, repo_id):
    push_entry(repo_id, "signals", {"rows": 1}, {})
    with pytest.raises(LineageError, match=r"lineage\.json is damaged"):
        load_signals(repo_id)


def test_files_hold_no_more_rows_than_they_should_and_are_joined_in_order(hub, repo_id, run, monkeypatch):
    folder, pool = run
    monkeypatch.setattr("svp_nlp.hub.signals._ROWS_PER_FILE", 64)
    monkeypatch.setattr("svp_nlp.hub.signals._ROWS_PER_GROUP", 25)
    monkeypatch.setattr("svp_nlp.hub.shared_signals._ROWS_PER_BLOCK", 30)
    push(repo_id, folder / "run")
    assert len([f for f in HfApi().list_repo_files(repo_id, repo_type="dataset") if f.endswith(".parquet")]) == 4
    signals = load_signals(repo_id, pool=pool)
    assert [array.shape for array in signals.arrays.values()] == [(200,), (200, 32)]
    expected = selection(folder / "run", "proxy-margin/round-002")
    assert signals.select("margin", budget=30).fingerprint == expected.fingerprint
