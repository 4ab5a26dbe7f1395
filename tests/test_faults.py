"""Bad input and bad luck, from the outside: what a user meets, end to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import FASTTEXT, VDCNN, outcome, small_recipe
from toy import toy_rows, write_toy

from svp_nlp import active_learning, load_test, make_learner, open_workspace, train_target
from svp_nlp.errors import Interrupted, SignalError
from svp_nlp.experiment import run_recipe
from svp_nlp.models.base import Prediction
from svp_nlp.pool import PoolRef, Shard
from svp_nlp.results import collect
from svp_nlp.scoring import OpenTask, ScoreTask, score_shard


def svp(*arguments: str, launcher: tuple[str, ...] = ("-m", "svp_nlp"), **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written(recipe, path: Path) -> Path:
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


@pytest.mark.slow
def test_sigterm_ends_with_4_and_neither_it_nor_the_environment_changes_the_result(tmp_path):
    toy = write_toy(tmp_path / "toy")
    # An epoch is two steps; forty of them leave time to be interrupted.
    target = {**VDCNN, "training": {"num_train_epochs": 40, "global_batch_size": 32, "checkpoint_every_s": 0.2}}
    recipe = written(small_recipe(toy, target=target), tmp_path / "r.yaml")
    calm = svp("run", str(recipe), "--run-dir", str(tmp_path / "calm"), "--format", "json")
    first = svp(
        *("run", str(recipe), "--run-dir", str(tmp_path / "stopped")),
        TZ="Asia/Kathmandu",
        LC_ALL="C",
        PYTHONHASHSEED="77",
        SVP_NUM_THREADS="3",
    )
    assert any("40 labelled" in line for line in first.stderr)  # up to here; the target is trained next
    first.send_signal(signal.SIGTERM)
    output, messages = first.communicate(timeout=120)
    assert first.returncode == 4, messages
    assert output == ""
    assert "same command" in messages
    again = svp("run", str(recipe), "--run-dir", str(tmp_path / "stopped"), "--format", "json", PYTHONHASHSEED="5")
    output, messages = again.communicate(timeout=120)
    assert again.returncode == 0, messages
    assert json.loads(output)["selected"]
    calm.communicate(timeout=120)
    assert calm.returncode == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "calm")


@pytest.mark.slow
def test_accelerate_launch_runs_a_recipe(tmp_path):
    recipe = written(small_recipe(write_toy(tmp_path / "toy")), tmp_path / "r.yaml")
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "svp_nlp")
    done = svp("run", str(recipe), "--run-dir", str(tmp_path / "run"), "--format", "json", launcher=launcher)
    output, messages = done.communicate(timeout=120)
    assert done.returncode == 0, messages
    assert json.loads(output)["run_dir"]


class NaNAt:
    """A predictor that fails on one text."""

    def __init__(self, text):
        self.text = text

    class_names = ("a", "b")
    fingerprint = "nan"
    report: dict = {}  # noqa: RUF012

    def predict(self, batch, *, embeddings=False):
        probs = np.full((batch.num_rows, 2), 0.5, np.float32)
        probs[[text == self.text for text in batch["text"].to_pylist()]] = np.nan
        return Prediction(probs)


def test_nan_probabilities_stop_before_the_selection_and_name_the_row(tmp_path):
    pool = PoolRef(str(write_toy(tmp_path / "toy"))).open()
    task = ScoreTask(pool.ref, tmp_path, "nan", tmp_path / "signals", len(pool), 8, ("margin",))
    with pytest.raises(SignalError, match=r"rows 8 to 16: .*position 5 holds \[nan, nan\]"):
        score_shard(task, Shard(0, 0, 200), pool=pool, predictor=NaNAt(pool.take([13])["text"][0].as_py()))


def test_asked_to_stop_inside_a_shard_it_ends_at_the_next_batch_and_stores_nothing_of_it(tmp_path):
    pool = PoolRef(str(write_toy(tmp_path / "toy"))).open()
    task = ScoreTask(pool.ref, tmp_path, "nan", tmp_path / "signals", len(pool), 8, ("margin",))
    opened, answers = OpenTask(task, pool, NaNAt(None), task.store()), iter([False, True])
    with pytest.raises(Interrupted, match=r"stopped before scoring rows 0 to 32"):
        opened.score(Shard(0, 0, 32), stop_requested=lambda: next(answers))
    assert not list(tmp_path.rglob("shard-*"))
    answers = iter([False] * 3)  # asked between four batches, and no more once all are done
    opened.score(Shard(0, 0, 32), stop_requested=lambda: next(answers))
    assert task.store().has_part(Shard(0, 0, 32))


def table_of(texts, labels) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string()), "label": [f"class {label}" for label in labels]})


def chosen_texts(path: Path) -> list[str]:
    with open_workspace(path) as work:
        learner = make_learner("fasttext", bucket=1000, epochs=2, learning_rate=0.5)
        rounds = list(active_learning(work, learner=learner, strategy="entropy", initial=10, labeled_sizes=[20, 30]))
        positions = np.concatenate([r.selection.positions_K for r in rounds])
        return work.pool.take(positions)["text"].to_pylist()


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_duplicates_and_the_order_of_rows_never_change_what_is_chosen(tmp_path_factory, data):
    texts, labels = toy_rows(60)
    directory = tmp_path_factory.mktemp("duplicates")
    pq.write_table(table_of(texts, labels), directory / "plain.parquet")
    again = data.draw(st.lists(st.integers(0, 59), max_size=30))
    order = data.draw(st.permutations(range(60)))
    # Copies come after their originals, with other white space; the originals in any order.
    copied = [texts[i] for i in order] + [f"  {texts[i].replace(' ', chr(10))} " for i in again]
    copied_labels = [labels[i] for i in order] + [labels[i] for i in again]
    pq.write_table(table_of(copied, copied_labels), directory / "copied.parquet")
    assert chosen_texts(directory / "plain.parquet") == chosen_texts(directory / "copied.parquet")


NASTY = [
    "NUL \0 inside",
    "line\u2028separator",
    "carriage\rreturn\r\n",
    "word " * 2_000_000,
    "é" * 5000,
    "😀",
    "a",
    "\ufeff",
]


def test_nasty_texts_pass_through_the_whole_loop(tmp_path):
    texts, labels = toy_rows(60)
    pq.write_table(table_of(texts + NASTY, labels + [0] * len(NASTY)), tmp_path / "nasty.parquet")
    with open_workspace(tmp_path / "nasty.parquet") as work:
        for kind in (FASTTEXT, VDCNN):
            learner = make_learner(kind["kind"], **{k: v for k, v in kind.items() if k != "kind"})
            *_, last = active_learning(
                work, learner=learner, strategy="margin", initial=30, labeled_sizes=["100%"], arm=kind["kind"]
            )
            assert last.labeled_size == work.num_available >= 60 + len(NASTY) - 1


def test_classes_without_or_with_a_single_example_do_not_crash_anything(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    texts, labels = toy_rows(80)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c", "d", "once", "never"])})
    for split in ("train", "test"):
        path = tmp_path / "toy" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        own = [f"{text} {split}" for text in texts]
        Dataset.from_dict({"text": [*own, f"just once {split}"], "label": [*labels, 4]}, features=features).to_parquet(
            path
        )
    run_recipe(small_recipe(tmp_path / "toy"), tmp_path / "run", stop_requested=lambda: False)
    results = collect(tmp_path / "run")
    assert any("never" in warning for warning in results["warnings"])
    assert set(results["rounds"][0]["class_counts"]) == {"a", "b", "c", "d", "once", "never"}
    with open_workspace(tmp_path / "toy") as work:
        *_, last = active_learning(work, learner="fasttext", strategy="margin", initial=2, labeled_sizes=[3])
        result = train_target(
            work, last.labels, learner=make_learner("fasttext"), test=load_test(work, tmp_path / "toy")
        )
        probs = result.load().predict(work.pool.take([0])).probs_BC
    assert probs.shape == (1, 6)
    assert np.isfinite(probs).all()


def test_an_empty_pool_and_an_empty_text_column_are_said(tmp_path):
    for name, texts in (("empty", []), ("blank", ["", " ", "\n"])):
        pq.write_table(table_of(texts, [0] * len(texts)), tmp_path / f"{name}.parquet")
        recipe = written(small_recipe(tmp_path / f"{name}.parquet", test=None, target=None), tmp_path / "r.yaml")
        done = svp("run", str(recipe), "--run-dir", str(tmp_path / "run"))
        _, messages = done.communicate(timeout=120)
        assert done.returncode == 2
        assert len(messages.strip().splitlines()) == 1, messages
        assert "expected" in messages
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_the_run_would_refuse_and_writes_nothing(tmp_path):
    recipe = written(small_recipe(write_toy(tmp_path / "toy")), tmp_path / "r.yaml")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    for directory, expected in (("full", 2), ("new", 0)):
        done = svp("run", str(recipe), "--run-dir", str(tmp_path / directory), "--dry-run")
        output, messages = done.communicate(timeout=120)
        assert done.returncode == expected, messages
        assert ("nothing was written" in output) == (expected == 0)
    assert not (tmp_path / "new").exists()


def test_too_few_start_labels_and_classes_that_are_not_tested_are_said(tmp_path):
    texts, labels = toy_rows(90)
    pq.write_table(table_of(texts, labels), tmp_path / "pool.parquet")
    pq.write_table(table_of(["one text", "another text"], [0, 1]), tmp_path / "test.parquet")
    recipe = small_recipe(
        tmp_path / "pool.parquet", test={"path": str(tmp_path / "test.parquet"), "split": "train"}, initial=2
    )
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    warnings = " ".join(collect(tmp_path / "run")["warnings"])
    assert "2 labels at the start for 4 classes" in warnings
    assert "2 classes of the pool are not in the test set: class 2, class 3" in warnings
