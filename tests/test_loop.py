"""The loops: exact sizes, nothing picked twice, nothing trained that nobody reads, the same picks every time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_run import FASTTEXT, VDCNN, outcome, small_recipe
from toy import write_toy

from svp_nlp import active_learning, core_set, load_pool, load_test, make_learner, open_workspace, train_target
from svp_nlp import workspace as workspace_module
from svp_nlp.arms import arms_of
from svp_nlp.errors import BudgetError, Interrupted, PoolError, RecipeError, RunError
from svp_nlp.experiment import run_recipe
from svp_nlp.labels import LabelSet
from svp_nlp.models import LEARNERS, spec_classes
from svp_nlp.models.base import LearnerSpec, Prediction
from svp_nlp.results import collect, run_status


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


def fasttext():
    return make_learner("fasttext", **{k: v for k, v in FASTTEXT.items() if k != "kind"})


def rounds_of(toy, *, seed=0, strategy="margin", sizes=(40, 60), **options):
    with open_workspace(toy, seed=seed, **options) as work:
        return list(active_learning(work, learner=fasttext(), strategy=strategy, initial=20, labeled_sizes=sizes))


def test_rounds_have_the_asked_sizes_and_no_row_is_labelled_twice(toy):
    rounds = rounds_of(toy)
    assert [r.labeled_size for r in rounds] == [20, 40, 60]
    assert [len(r.selection) for r in rounds] == [20, 20, 20]
    positions = np.concatenate([r.selection.positions_K for r in rounds])
    assert len(np.unique(positions)) == 60
    assert rounds[-1].labels.positions_L.tolist() == positions.tolist()
    assert rounds[1].selection.lineage.parent == rounds[0].selection.fingerprint
    assert rounds[2].selection.lineage.proxy["spec"]["epochs"] == 3


def test_the_same_seed_gives_the_same_rounds_and_another_seed_others(toy):
    one, again, other = (
        [r.selection.fingerprint for r in rounds_of(toy, seed=seed, strategy="entropy")] for seed in (3, 3, 4)
    )
    assert one == again
    assert not set(one) & set(other)


@pytest.mark.parametrize("rows_per_batch", [7, 64])
def test_picks_do_not_depend_on_how_the_pool_is_cut(toy, monkeypatch, rows_per_batch):
    expected = [r.selection.fingerprint for r in rounds_of(toy)]
    monkeypatch.setattr(workspace_module, "ROWS_PER_BATCH", rows_per_batch)
    assert [r.selection.fingerprint for r in rounds_of(toy)] == expected


def test_random_trains_nothing_and_goes_on_where_the_start_set_ended(toy, tmp_path):
    rounds = rounds_of(toy, strategy="random", run_dir=tmp_path / "run")
    assert not list((tmp_path / "run").rglob("weights*"))
    everything = rounds_of(toy, strategy="random", sizes=(60,))
    assert everything[-1].labels.positions_L.tolist() == rounds[-1].labels.positions_L.tolist()


def test_a_proxy_picks_better_than_random_on_a_planted_case(tmp_path):
    import csv

    # 3 % of the rows are of a class that a random start set of 40 hardly holds; an uncertain proxy finds them.
    rng = np.random.default_rng(0)
    path = tmp_path / "rare.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(600):
            label = "rare" if row % 33 == 0 else ("even" if row % 2 == 0 else "odd")
            words = {"rare": "zebra quartz onyx", "even": "two four six eight", "odd": "one three five seven"}[label]
            writer.writerow([" ".join([*rng.choice(words.split(), 4), f"id{row}"]), label])
    found = {}
    for strategy in ("entropy", "random"):
        with open_workspace(path) as work:
            learner = make_learner("fasttext", bucket=1000, epochs=10, learning_rate=0.5)
            *_, last = active_learning(work, learner=learner, strategy=strategy, initial=40, labeled_sizes=[60, 80])
            found[strategy] = last.labels.class_counts(work.class_names)["rare"]
    assert found["entropy"] > 2 * found["random"]


def test_core_sets_nest_and_hold_the_highest_scores(toy):
    with open_workspace(toy) as work:
        small, large = core_set(work, learner=fasttext(), strategy="least_confidence", labeled_sizes=[30, "50%"])
        scores = np.asarray(large.signals["least_confidence"])
    assert large.labeled_size == 100
    assert large.selection.positions_K[:30].tolist() == small.selection.positions_K.tolist()
    left = np.setdiff1d(np.arange(200), large.selection.positions_K)
    assert scores[large.selection.positions_K].min() >= scores[left].max()
    assert large.labels.positions_L.tolist() == large.selection.positions_K.tolist()


def test_a_target_learns_from_a_selection_and_the_test_set_is_aligned_by_name(toy, tmp_path):
    turned = write_toy(tmp_path / "turned", class_names=["weather", "music", "kitchen", "animals"], seed=0)
    with open_workspace(toy, run_dir=tmp_path / "run") as work:
        *_, last = active_learning(work, learner="fasttext", strategy="margin", initial=20, labeled_sizes=[100])
        learner = make_learner("fasttext", bucket=1000, epochs=25, learning_rate=0.5)
        results = [
            train_target(work, last.labels, learner=learner, test=load_test(work, path), arm=path.name)
            for path in (toy, turned)
        ]
    assert results[0].metrics == results[1].metrics
    assert results[0].metrics["accuracy"] > 0.5
    assert results[0].load().class_names == work.class_names


def test_a_dev_share_is_held_out_of_training_and_stays_held_out(toy):
    with open_workspace(toy, dev=0.25) as work:
        *_, last = active_learning(work, learner=fasttext(), strategy="random", initial=50, labeled_sizes=[100])
        train, dev = work.split_dev(last.labels)
        first = LabelSet(last.labels.table.slice(0, 50))
        _early, early_dev = work.split_dev(first)
    assert set(train.positions_L).isdisjoint(dev.positions_L)
    assert len(train) + len(dev) == 100
    assert 10 <= len(dev) <= 40
    assert set(early_dev.positions_L) <= set(dev.positions_L)
    for share, held in ((0.001, 1), (0.999, len(first) - 1)):
        with open_workspace(toy, dev=share) as work:
            train, dev = work.split_dev(first)
            assert (len(train), len(dev)) == (len(first) - held, held)
            assert not set(train.positions_L.tolist()) & set(dev.positions_L.tolist())
            alone = LabelSet(first.table.slice(0, 1))
            assert work.split_dev(alone) == (alone, None)


def test_sizes_beyond_the_pool_and_sizes_that_do_not_grow_are_refused(toy):
    with pytest.raises(BudgetError, match="201 rows, the pool has 200"):
        rounds_of(toy, sizes=(201,))
    with pytest.raises(BudgetError, match="not more than the 40 before it"):
        rounds_of(toy, sizes=(40, 40))


def test_a_notebook_that_is_run_again_goes_on_with_what_is_there(toy, tmp_path):
    first = rounds_of(toy, run_dir=tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("step.json")}
    second = rounds_of(toy, run_dir=tmp_path / "run", sizes=(40, 60, 80))
    assert [r.selection.fingerprint for r in second[:3]] == [r.selection.fingerprint for r in first]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(RunError, match="noise"):
        rounds_of(toy, run_dir=tmp_path / "run", noise=0.5)


def test_a_recipe_runs_all_arms_shares_what_they_share_and_writes_the_report(toy, tmp_path):
    recipe = small_recipe(
        toy,
        strategies=["margin", "entropy"],
        labeled_sizes=[30, 40],
        train_target_at=["initial", 40],
        baselines=["random", "target_selects"],
        seeds=[0, 1],
    )
    result = run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    names = [arm.name for arm in arms_of(recipe)]
    assert names == ["proxy-margin", "proxy-entropy", "random", "target_selects-margin", "target_selects-entropy"]
    collected = collect(tmp_path / "run")
    assert len(collected["rows"]) == 2 * len(names) * 2
    starts = [r for r in collected["rows"] if r["labeled_size"] == 20 and r["seed"] == 0]
    assert len({r["error"] for r in starts}) == 1  # one start set, one target on it
    assert all(r["selection_seconds"] == 0 for r in starts)
    # Round 1 of both strategies shares one proxy and one pass over the pool.
    models = sorted(p.parent.name.rpartition("-")[0] for p in (tmp_path / "run" / "seed-0" / "start").glob("*/model"))
    assert models == ["proxy-0000000020", "target-0000000020"]
    assert len(collected["agreement"]) == 2 * 2 * 2
    assert all(0 <= a["overlap"] <= 1 for a in collected["agreement"])
    for kind in ("report_html", "report_md", "report_json"):
        assert (tmp_path / "run" / result[kind].rpartition("/")[2]).stat().st_size > 500
    status = run_status(tmp_path / "run")
    assert status["state"] == "done"
    assert len(status["rounds"]) == 2 * (1 + 2 * len(names))
    # The same recipe in another directory gives the same everything.
    run_recipe(recipe, tmp_path / "again", stop_requested=lambda: False)
    assert outcome(tmp_path / "again") == outcome(tmp_path / "run")


def test_a_core_set_recipe_runs(toy, tmp_path):
    recipe = small_recipe(
        toy, mode="core_set", initial=None, labeled_sizes=["20%", "40%"], baselines=["random", "target_selects"]
    )
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    rows = collect(tmp_path / "run")["rows"]
    assert [(r["selector"], r["labeled_size"]) for r in rows] == [
        (selector, size) for selector in ("proxy", "random", "target_selects") for size in (40, 80)
    ]
    proxy = [r for r in rows if r["selector"] == "proxy"]
    assert proxy[0]["proxy_seconds"] == proxy[1]["proxy_seconds"] > 0  # trained once


def test_test_texts_in_the_pool_are_refused_unless_allowed(tmp_path):
    path = write_toy(tmp_path / "toy")
    recipe = small_recipe(path, test={"split": "train"})
    with pytest.raises(PoolError, match=r"200 texts of the test set are in the pool.*allow_overlap"):
        run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert not (tmp_path / "run").exists()
    allowed = small_recipe(path, test={"split": "train"}, allow_overlap=True)
    run_recipe(allowed, tmp_path / "run", stop_requested=lambda: False)
    assert any("200 texts" in w for w in collect(tmp_path / "run")["warnings"])


def test_a_budget_above_the_pool_is_found_before_anything_is_written(toy, tmp_path):
    with pytest.raises(BudgetError, match="200"):
        run_recipe(small_recipe(toy, labeled_sizes=[500]), tmp_path / "run", stop_requested=lambda: False)
    assert not (tmp_path / "run").exists()


def test_a_changed_recipe_is_refused_with_the_key_that_changed(toy, tmp_path):
    run_recipe(small_recipe(toy), tmp_path / "run", stop_requested=lambda: False)
    changed = small_recipe(toy, proxy={**FASTTEXT, "epochs": 4})
    with pytest.raises(RunError, match=r"proxy\.epochs: 3 -> 4"):
        run_recipe(changed, tmp_path / "run", stop_requested=lambda: False)


def test_the_selected_folder_is_what_the_last_round_labelled(toy, tmp_path):
    from datasets import load_dataset

    result = run_recipe(small_recipe(toy), tmp_path / "run", stop_requested=lambda: False)
    dataset = load_dataset(result["selected"], split="train")
    assert len(dataset) == 40
    assert dataset["svp_round"][:] == [0] * 20 + [1] * 20
    assert dataset["svp_score"][:20] == [None] * 20
    scores = dataset["svp_score"][20:]
    assert scores == sorted(scores, reverse=True)
    pool = load_pool(toy)
    assert dataset["text"][:] == pool.take(dataset["svp_position"][:])["text"].to_pylist()


def test_damaged_scores_are_made_again_and_a_damaged_selection_does_not_pass(toy, tmp_path, caplog):
    recipe = small_recipe(toy)
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    expected = outcome(tmp_path / "run")
    for name in ("margin.npy", "selection.parquet", "weights.safetensors", "labels.parquet"):
        for path in sorted((tmp_path / "run").rglob(name)):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(bytes(data))
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert outcome(tmp_path / "run") == expected
    assert caplog.text.count("done again") >= 7


def test_an_unknown_option_of_a_learner_is_told_what_there_is():
    with pytest.raises(RecipeError, match=r"epoch.*it takes .*epochs"):
        make_learner("fasttext", epoch=3)
    with pytest.raises(RecipeError, match=f"choose one of {', '.join(sorted(LEARNERS))}"):
        make_learner("bert")


def test_every_learner_spec_is_found_by_its_kind():

    for kind, spec_class in spec_classes().items():
        assert issubclass(spec_class, LearnerSpec)
        assert spec_class.model_fields["kind"].default == kind
        assert kind in LEARNERS


def test_events_are_logged_as_json_lines(toy, tmp_path):
    run_recipe(small_recipe(toy, target=VDCNN), tmp_path / "run", stop_requested=lambda: False)
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {e["event"] for e in events} >= {"epoch", "scoring"}


def test_strategies_and_learners_can_be_compared_in_one_workspace(toy):
    with open_workspace(toy) as work:
        found = {}
        for strategy in ("margin", "entropy", "least_confidence"):
            *_, last = active_learning(work, learner=fasttext(), strategy=strategy, initial=20, labeled_sizes=[40])
            *_, core = core_set(work, learner=fasttext(), strategy=strategy, labeled_sizes=[40])
            found[strategy] = (last.selection.lineage.strategy, len(core.labels))
        other = make_learner("fasttext", bucket=500, epochs=2, learning_rate=0.5)
        list(active_learning(work, learner=other, strategy="margin", initial=20, labeled_sizes=[40], arm="other"))
    assert found == {s: (s, 40) for s in ("margin", "entropy", "least_confidence")}


def test_another_test_set_or_other_labels_on_the_same_directory_are_noticed(toy, tmp_path):
    other = write_toy(tmp_path / "other", seed=9)
    with open_workspace(toy, run_dir=tmp_path / "run") as work:
        *_, last = active_learning(work, learner=fasttext(), strategy="random", initial=20, labeled_sizes=[40])
        train_target(work, last.labels, learner=fasttext(), test=load_test(work, toy))
        with pytest.raises(RunError, match=r"metrics was made with test ="):
            train_target(work, last.labels, learner=fasttext(), test=load_test(work, other))
        half = work.available_N.copy()
        half[:100] = False
        fewer = dataclasses.replace(work, available_N=half)
        with pytest.raises(RunError, match=r"made with available ="):
            list(active_learning(fewer, learner=fasttext(), strategy="random", initial=20, labeled_sizes=[40]))


def test_what_was_trained_and_scored_is_not_done_again_when_only_the_record_was_missing(toy, tmp_path):
    recipe = small_recipe(toy)
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    expected = outcome(tmp_path / "run")
    weights = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")}
    scores = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.npy")}
    for step in (tmp_path / "run").rglob("step.json"):
        if step.parent.name == "model" or step.parent.name.startswith("signals-"):
            step.unlink()
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert outcome(tmp_path / "run") == expected
    assert {p: p.stat().st_mtime_ns for p in weights} == weights
    assert {p: p.stat().st_mtime_ns for p in scores} == scores


def test_a_strategy_of_random_exports_what_it_picked(toy, tmp_path):
    recipe = small_recipe(toy, strategies=["random"])
    result = run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert result["selected"].endswith("random/selected/dataset")
    assert run_status(tmp_path / "run")["state"] == "done"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ["random"], "baselines": ["target_selects"]}, "a strategy other than random"),
        ({"target": {**VDCNN, "training": {"early_stopping_patience": 2}}}, "needs a dev set"),
        ({"target": FASTTEXT, "dev": 0.1}, "trains in epochs"),
    ],
)
def test_options_that_would_do_nothing_or_fail_late_are_refused(toy, changes, message):
    with pytest.raises(RecipeError, match=message):
        small_recipe(toy, **changes)


def test_the_lineage_names_the_recipe_file_of_the_run_by_its_hash(toy, tmp_path):
    run_recipe(small_recipe(toy), tmp_path / "run", stop_requested=lambda: False)
    (path,) = (tmp_path / "run").glob("seed-0/proxy-margin/round-001/selection/lineage.json")
    expected = hashlib.sha256((tmp_path / "run" / "recipe.yaml").read_bytes()).hexdigest()
    assert json.loads(path.read_text())["recipe_sha256"] == expected


def test_a_finished_run_that_is_cut_short_when_called_again_keeps_its_whole_results(toy, tmp_path, monkeypatch):
    from svp_nlp import experiment

    recipe = small_recipe(toy, baselines=["random"])
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    before = collect(tmp_path / "run")
    run_arm, calls = experiment._run_arm, []

    def cut_short(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_arm(*args, **kwargs)

    monkeypatch.setattr(experiment, "_run_arm", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert collect(tmp_path / "run") == before
    assert run_status(tmp_path / "run")["state"] == "done"


class MovingModel:
    """Stands in for a model of the Hub whose main branch moves with every look."""

    def __init__(self, monkeypatch):
        from svp_nlp.models import pretrained

        self.looks = 0
        monkeypatch.setattr(pretrained, "load_config", self.look)
        tokenizer = type("Tokenizer", (), {"model_max_length": 512})
        monkeypatch.setattr(pretrained, "load_tokenizer", lambda name, **options: tokenizer)

    def look(self, name, *, revision=None, trust_remote_code=False):
        self.looks += 1
        return type("Config", (), {"_commit_hash": f"{self.looks:040x}"})


def test_a_run_reads_one_commit_of_a_model_from_start_to_end(tmp_path, monkeypatch):
    import contextlib

    from svp_nlp import experiment

    hub, used = MovingModel(monkeypatch), []

    def stop_here(recipe, data, run, **options):
        used.append((recipe.proxy.revision, recipe.strategies[1].reduce.encoder.revision))
        raise Interrupted("enough")

    monkeypatch.setattr(experiment, "workspace_of", stop_here)
    proxy = {"kind": "transformer", "model_name_or_path": "some/model"}
    near = {"kind": "seals", "encoder": {"kind": "embedding", "model_name_or_path": "some/encoder"}}
    strategies = ["margin", {"name": "margin", "reduce": near}]
    recipe = small_recipe(write_toy(tmp_path / "pool"), proxy=proxy, target=None, strategies=strategies)
    for _ in range(3):
        with contextlib.suppress(Interrupted):
            run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert used == [(f"{1:040x}", f"{2:040x}")] * 3
    assert hub.looks == 2
    assert recipe.proxy.revision is None


TINY = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
REFRESHED = {
    "kind": "embedding", "config": TINY, "vocab_size": 300, "refresh": {"at": 30, "training": {"num_train_epochs": 1}},
}  # fmt: skip


@pytest.mark.slow
def test_an_encoder_is_fine_tuned_once_on_the_first_labels_whichever_round_or_arm_asks(tmp_path):
    recipe = small_recipe(
        write_toy(tmp_path / "pool"), proxy=REFRESHED, target=None, test=None, strategies=["margin", "entropy"],
        initial=30, labeled_sizes=[40, 50],
    )  # fmt: skip
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert len(list((tmp_path / "run").glob("seed-0/*/encoder-*/model/step.json"))) == 1
    assert len(list((tmp_path / "run/encoders").glob("*/features/embeddings.npy"))) == 1


@pytest.mark.slow
def test_a_core_set_tunes_an_encoder_for_each_set_of_labels_on_rows_of_all_classes(tmp_path):
    recipe = small_recipe(
        write_toy(tmp_path / "pool"), mode="core_set", proxy=FASTTEXT, target=REFRESHED, initial=None,
        labeled_sizes=[60], baselines=["random"],
    )  # fmt: skip
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    tuned = list((tmp_path / "run").glob("seed-0/start/encoder-*/model/weights/config.json"))
    assert len(tuned) == 2  # one for the rows that margin kept, one for random ones


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"proxy": {**REFRESHED, "refresh": {"at": 5000}}, "target": None, "test": None},
            "there are never more than 40",
        ),
        ({"target": {"kind": "transformer", "config": TINY, "max_length": 10_000}}, "takes 512 tokens"),
    ],
)
def test_what_a_model_cannot_do_is_found_before_any_work(changes, message, tmp_path):
    recipe = small_recipe(write_toy(tmp_path / "pool"), **changes)
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("classes", [1, 2])
def test_a_target_that_gives_one_class_for_all_is_said_to_have_learned_nothing(toy, tmp_path, monkeypatch, classes):
    def predict(batch, *, embeddings=False):
        return Prediction(np.eye(4, dtype=np.float32)[np.arange(batch.num_rows) % classes])

    monkeypatch.setattr("svp_nlp.loop.load_predictor", lambda directory: SimpleNamespace(predict=predict))
    result = run_recipe(small_recipe(toy, target=FASTTEXT), tmp_path / "run", stop_requested=lambda: False)
    said = "gives one class for every text" in Path(result["report_md"]).read_text()
    assert said == (classes == 1)
