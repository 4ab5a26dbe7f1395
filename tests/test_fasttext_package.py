"""The engine that calls the official package: the same contract, the known traps avoided."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest

from svp_nlp.errors import ModelError
from svp_nlp.models import fasttext_package, load_predictor
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.fasttext import FastTextLearner, FastTextSpec

SPEC = FastTextSpec(engine="fasttext", epochs=20, learning_rate=0.5, bucket=1000)
LEARNER = FastTextLearner(SPEC)


def rows(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


def labeled(texts: list[str], labels: list[int], num_classes: int = 3) -> Labeled:
    names = tuple(f"class {c}" for c in range(num_classes))
    return Labeled(rows(texts), np.asarray(labels, dtype=np.int64), np.arange(len(labels)), names)


TRAIN = labeled(
    ["cat dog.", "a\ncat", "dog", "saw __label__0 drill", "a saw </s> nail", "nail"] * 5, [0, 0, 0, 2, 2, 2] * 5
)


@pytest.fixture
def package():
    return pytest.importorskip("fasttext")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", None)
    fasttext_package.self_test.cache_clear()
    with pytest.raises(ModelError, match=r'pip install "svp_nlp\[fasttext\]"'):
        LEARNER.fit(TRAIN, dev=None, seed=0, context=FitContext())


def test_fits_predicts_saves_and_loads(package, tmp_path):
    predictor = LEARNER.fit(TRAIN, dev=None, seed=0, context=FitContext())
    batch = rows(["cat", "nail drill", "", "unseen", "two\nlines cat", "x __label__2 </s> </s> __label__1 cat"])
    prediction = predictor.predict(batch, embeddings=True)
    assert prediction.probs_BC.dtype == np.float32 and prediction.embeddings_BD.shape == (6, 10)
    assert abs(prediction.probs_BC.astype(float).sum(axis=1) - 1).max() < 1e-6
    assert prediction.probs_BC[:2].argmax(axis=1).tolist() == [0, 2]
    assert prediction.probs_BC[:, 1].max() < 0.01  # no example of this class, its column stays
    assert not LEARNER.reproducible and predictor.report["learning_rate"] == 0.5
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert loaded.fingerprint == predictor.fingerprint
    assert np.array_equal(loaded.predict(batch).probs_BC, prediction.probs_BC)
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:-100])
    with pytest.raises(ModelError, match="sha256"):
        load_predictor(tmp_path)


def test_agrees_with_the_native_engine_on_what_a_text_is(package):
    predictor = LEARNER.fit(TRAIN, dev=None, seed=0, context=FitContext())
    plain, reserved = predictor.predict(rows(["a cat", "__label__1 a </s> __label__2 cat </s>"])).probs_BC
    assert np.array_equal(plain, reserved)


@pytest.mark.parametrize("dim", [2, 3, 7, 10])
@pytest.mark.parametrize("word_ngrams", [1, 2])
def test_small_tables_never_start_from_uninitialised_memory(package, dim, word_ngrams):
    learner = FastTextLearner(
        SPEC.model_copy(update={"dim": dim, "word_ngrams": word_ngrams, "epochs": 1, "bucket": 17})
    )
    for seed in range(4):
        trash = [np.full(300 + 20 * k, np.nan, dtype=np.float32) for k in range(50)]
        del trash
        predictor = learner.fit(TRAIN, dev=None, seed=seed, context=FitContext())
        assert np.isfinite(predictor.predict(TRAIN.rows).probs_BC).all()


def test_one_example_is_enough(package):
    predictor = LEARNER.fit(labeled(["cat"], [1]), dev=None, seed=0, context=FitContext())
    assert predictor.predict(rows(["cat", ""])).probs_BC.shape == (2, 3)
    assert predictor.predict(rows([])).probs_BC.shape == (0, 3)


def test_a_build_that_predicts_wrong_numbers_is_refused(package, monkeypatch):
    fasttext_package.self_test.cache_clear()
    real = package.FastText._FastText.predict

    def wrong(self, texts, k=1):
        labels, values = real(self, texts, k=k)
        return labels, [value * 2 for value in values]

    monkeypatch.setattr(package.FastText._FastText, "predict", wrong)
    with pytest.raises(ModelError, match="wrong numbers"):
        fasttext_package.self_test()
    monkeypatch.undo()
    fasttext_package.self_test()
