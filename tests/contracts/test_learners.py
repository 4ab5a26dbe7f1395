"""One suite over every learner. A new model adds one row to `OPTIONS`."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from toy import CLASS_NAMES, toy_rows

from svp_nlp.errors import Interrupted, ModelError, RecipeError
from svp_nlp.models import LEARNERS, load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled

# kind -> options that make it small
OPTIONS = {
    "embedding": {
        "config": {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        "vocab_size": 400,
        "head": "mlp",  # a linear head does not depend on the seed
        "hidden_size": 16,
    },
    "fasttext": {"bucket": 1000, "epochs": 5, "learning_rate": 0.5},
    "tfidf": {"bucket": 1000, "classifier": "complement_nb"},  # the other one needs no seed
    "transformer": {
        "config": {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        "vocab_size": 400,
        "max_length": 32,
        "training": {"num_train_epochs": 1},
    },
    "vdcnn": {
        "depth": 9,
        "lite": True,
        "max_length": 64,
        "training": {"num_train_epochs": 1, "global_batch_size": 16},
    },
}
KINDS = sorted(LEARNERS)


def labeled(rows: int = 60, *, labels: list[int] | None = None) -> Labeled:
    texts, drawn = toy_rows(rows)
    labels_L = np.array(drawn if labels is None else labels, np.int64)
    return Labeled(pa.table({"text": pa.array(texts, pa.large_string())}), labels_L, np.arange(rows), CLASS_NAMES)


def fitted(kind: str, train: Labeled | None = None, *, seed: int = 0):
    learner = make_learner(kind, **OPTIONS[kind])
    return learner.fit(train or labeled(), dev=None, seed=seed, context=FitContext())


def test_every_learner_has_a_row_here():
    assert sorted(OPTIONS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_probabilities_of_all_classes_and_embeddings_are_aligned(kind):
    predictor, rows = fitted(kind), labeled().rows
    prediction = predictor.predict(rows, embeddings=True)
    assert prediction.probs_BC.shape == (60, 4)
    assert prediction.probs_BC.dtype == prediction.embeddings_BD.dtype == np.float32
    np.testing.assert_allclose(prediction.probs_BC.sum(axis=1), 1, atol=1e-5)
    assert len(prediction.embeddings_BD) == 60
    assert predictor.predict(rows).embeddings_BD is None
    np.testing.assert_array_equal(predictor.predict(rows).probs_BC, prediction.probs_BC)
    assert predictor.predict(rows.slice(0, 0)).probs_BC.shape == (0, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_model_and_another_seed_another(kind):
    assert make_learner(kind, **OPTIONS[kind]).reproducible
    one, again, other = (fitted(kind, seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_same_when_loaded_and_holds_no_pickle(kind, tmp_path):
    predictor = fitted(kind)
    predictor.save(tmp_path)
    again = load_predictor(tmp_path)
    assert again.fingerprint == predictor.fingerprint
    assert again.class_names == CLASS_NAMES
    rows = labeled().rows
    np.testing.assert_array_equal(again.predict(rows).probs_BC, predictor.predict(rows).probs_BC)
    assert json.loads(json.dumps(again.report)) == json.loads(json.dumps(predictor.report))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".safetensors"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_weights_are_not_loaded(kind, damage, tmp_path):
    fitted(kind).save(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    if damage == "delete":
        weights.unlink()
    else:
        data[len(data) // 2] ^= 1
        weights.write_bytes(bytes(data) if damage == "flip" else bytes(data[: len(data) // 2]))
    with pytest.raises(ModelError, match=weights.name):
        load_predictor(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_and_a_single_class_do_not_crash(kind):
    for train in (labeled(2), labeled(20, labels=[1] * 20)):
        probs = fitted(kind, train).predict(labeled().rows).probs_BC
        assert np.isfinite(probs).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_is_asked_to_stop_stops(kind):
    learner = make_learner(kind, **OPTIONS[kind])
    with pytest.raises(Interrupted):
        learner.fit(labeled(), dev=None, seed=0, context=FitContext(stop_requested=lambda: True))


@pytest.mark.parametrize("kind", KINDS)
def test_options_survive_a_recipe_and_unknown_ones_are_refused(kind):
    spec = make_learner(kind, **OPTIONS[kind]).spec
    assert type(spec).model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    with pytest.raises(RecipeError, match="no_such_option"):
        make_learner(kind, no_such_option=1)


def test_a_directory_of_something_else_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_predictor(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"not a config\.json of svp_nlp"):
        load_predictor(tmp_path)
