"""The plan: steps and rows are counted as a run would do them, probes are small, nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import FASTTEXT, VDCNN, small_recipe
from toy import write_toy

from svp_nlp import plan as planning
from svp_nlp import probe as probing
from svp_nlp.data import open_data
from svp_nlp.errors import RecipeError
from svp_nlp.experiment import run_recipe
from svp_nlp.models.base import LearnerSpec, Prediction, TrainingSpec
from svp_nlp.models.batches import epoch_batches
from svp_nlp.plan import optimizer_steps, plan
from svp_nlp.probe import Probe, probe


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "pool")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 50), st.integers(1, 3))
def test_optimiser_steps_are_those_of_the_batches(rows: int, batch_size: int, epochs: int) -> None:
    training = TrainingSpec(global_batch_size=batch_size, num_train_epochs=epochs)
    batches = epoch_batches(rows, seed=0, epoch=0, batch_size=min(batch_size, rows))
    assert optimizer_steps(training, rows) == epochs * len(batches)


def test_epochs_are_added_until_there_are_enough_steps() -> None:
    training = TrainingSpec(global_batch_size=10, num_train_epochs=2, min_train_steps=35)
    assert optimizer_steps(training, 100) == 40
    assert optimizer_steps(training, 1_000) == 200


def test_steps_are_those_of_the_run(pool: Path, tmp_path: Path) -> None:
    recipe = small_recipe(pool, labeled_sizes=[40, 70], baselines=["random", "target_selects"])
    work = plan(recipe)["work"]
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    steps = [json.loads(path.read_text()) for path in (tmp_path / "run").rglob("step.json")]
    models = [step for step in steps if step["name"].endswith("/model")]
    for role in ("proxy", "target"):
        mine = [step["output"]["report"] for step in models if Path(step["name"]).parts[-2].startswith(role)]
        assert work[role]["trainings"] == len(mine)
        if role == "target":
            assert work[role]["optimizer_steps"] == sum(report["steps"] for report in mine)
    scored = [step for step in steps if "/signals-" in step["name"]]
    assert work["proxy"]["scored"] + work["target"]["scored"] == 200 * len(scored)


def test_a_plan_tells_steps_probe_and_cost_and_writes_nothing(pool: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = plan(small_recipe(pool, dev=0.25))
    assert sorted(tmp_path.rglob("*")) == before
    text = "\n".join(result["lines"])
    assert "optimiser steps" in text and "steps of 16 rows" in text and "nothing was written" in text
    assert result["work"]["target"]["optimizer_steps_each"] == [2]  # 30 of 40 rows: the dev share is held out
    assert result["work"]["proxy"]["optimizer_steps"] == 0 and result["tokens"] == {}
    assert result["estimate"]["seconds"] == pytest.approx(sum(result["estimate"].values()) / 2)


def test_a_plan_refuses_a_refresh_that_is_never_reached_as_a_run_does(pool: Path, tmp_path: Path) -> None:
    config = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    proxy = {"kind": "embedding", "config": config, "vocab_size": 300, "refresh": {"at": 41}}
    recipe = small_recipe(pool, proxy=proxy)
    for look in (lambda: plan(recipe), lambda: run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)):
        with pytest.raises(RecipeError, match=r"proxy.refresh.at is 41, but there are never more than 40 labels"):
            look()
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_tells_who_is_near_is_counted_once_beside_the_proxy(pool: Path) -> None:
    config = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    encoder = {"kind": "embedding", "config": config, "vocab_size": 300, "max_length": 16}
    near = {"kind": "seals", "neighbours": 5, "encoder": encoder}
    strategies = [{"name": name, "reduce": near} for name in ("margin", "entropy")]
    beside = plan(small_recipe(pool, strategies=strategies))
    assert beside["work"]["encoder"]["encoded"] == 200 and beside["estimate"]["neighbours encoding"] > 0
    assert "encoder tells who is near: encodes 200 rows" in beside["lines"]
    same = plan(small_recipe(pool, strategies=strategies, proxy={**encoder, "C": 2.0}, target=None, test=None))
    assert same["work"]["encoder"]["encoded"] == 0 and same["work"]["proxy"]["encoded"] == 200


def test_a_proxy_alone_and_random_alone_are_planned(pool: Path) -> None:
    alone = plan(small_recipe(pool, target=None, test=None))
    assert alone["work"]["target"]["trainings"] == 0 and "testing" not in alone["estimate"]
    random = plan(small_recipe(pool, strategies=["random"]))
    assert random["work"]["proxy"]["trainings"] == 0 and "proxy training" not in random["estimate"]


def test_slow_steps_are_probed_less_often(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(pool)
    monkeypatch.setattr(probing, "_SECONDS", 1e-9)
    assert recipe.target is not None
    measured = probe(recipe.target, open_data(recipe))
    assert measured.steps == 2 and measured.batch_size == 16 and measured.seconds_per_step > 0


class FeatureLearner:
    """An encoder of 3 numbers a text, and a head that counts what it is given."""

    refresh_at = 30

    def __init__(self, spec: Any = None) -> None:
        self.spec = SimpleNamespace(kind="fake")
        self.encoded: list[int] = []
        self.fitted_on: list[int] = []

    def encoder(self, *, pool: Any) -> FeatureLearner:
        assert len(pool) == 200
        return self

    def save(self, directory: Path) -> None:
        (directory / "encoder").write_text("weights")

    def predict(self, batch: Any, *, embeddings: bool = False) -> Prediction:
        self.encoded.append(batch.num_rows)
        return Prediction(np.zeros((batch.num_rows, 0), np.float32), np.ones((batch.num_rows, 3), np.float32))

    def fit(self, train: Any, *, dev: Any, seed: int, context: Any) -> FeatureLearner:
        assert context.features_LD.shape == (len(train), 3) and (context.encoder_dir / "encoder").exists()
        self.fitted_on.append(len(train))
        return self

    def predict_features(self, features_BD: Any) -> Prediction:
        return Prediction(np.full((len(features_BD), 4), 0.25, np.float32))

    def tuner(self) -> Any:
        from svp_nlp.models import make_learner

        return make_learner("vdcnn", **{key: value for key, value in VDCNN.items() if key != "kind"})

    def token_statistics(self, rows: Any) -> dict[str, float]:
        return {"mean": 7.0, "p95": 11.0, "truncated": 0.25, "max_length": 16}


def test_a_frozen_encoder_reads_the_pool_once_and_once_more_after_a_refresh(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = FeatureLearner()
    make = planning.make_learner

    def fake(spec: LearnerSpec | str, **options: Any) -> Any:
        return learner if getattr(spec, "kind", None) == "fasttext" else make(spec, **options)

    monkeypatch.setattr(planning, "make_learner", fake)
    monkeypatch.setattr(probing, "make_learner", fake)
    recipe = small_recipe(pool, labeled_sizes=[40, 60], seeds=[0, 1])
    result = plan(recipe)
    # 200 rows once for all; heads at 20 and 40 labels, of which the second is past the refresh, for two seeds.
    assert result["work"]["proxy"]["encoded"] == 200 + 2 * 200
    assert result["work"]["proxy"]["trainings"] == 4
    assert result["estimate"]["proxy encoding"] > 0 and result["estimate"]["proxy refresh"] > 0
    assert result["tokens"]["proxy"] == {"mean": 7.0, "p95": 11.0, "truncated": 0.25, "max_length": 16, "rows": 200}
    text = "\n".join(result["lines"])
    assert "tokens  proxy: mean 7, p95 11, 25.0 % of 200 texts cut at 16" in text
    assert "2 fine-tunings of the encoder, encodes 600 rows" in text


def test_epochs_before_the_last_are_a_stage_of_their_own(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class TwoStages:
        spec = SimpleNamespace()

        def fit(self, train: Any, *, dev: Any, seed: int, context: Any) -> Any:
            context.on_event({"event": "epoch", "seconds": 4.0})
            context.on_event({"event": "epoch", "seconds": 2.0})
            return SimpleNamespace(predict=lambda rows: None)

    monkeypatch.setattr(probing, "make_learner", lambda spec: TwoStages())
    monkeypatch.setattr(probing, "_SECONDS", 1.0)
    recipe = small_recipe(pool)
    assert recipe.target is not None
    measured = probe(recipe.target, open_data(recipe))
    assert isinstance(measured, Probe) and measured.steps == 2
    assert measured.seconds_per_step == 1.0 and measured.seconds_per_row == pytest.approx(4.0 / 32)


def test_fasttext_is_probed_by_rows(pool: Path) -> None:
    measured = probe(small_recipe(pool, proxy=FASTTEXT).proxy, open_data(small_recipe(pool)))
    assert measured.seconds_per_row > 0 and measured.steps == 0 and measured.seconds_per_step == 0
