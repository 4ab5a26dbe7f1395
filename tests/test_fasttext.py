"""The fastText learner: reproducible, honest about odd texts and odd training sets, saved whole."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import check_probs, labeled, planted, rows
from pydantic import ValidationError

from svp_nlp.errors import Interrupted, ModelError, RecipeError, TrainingError
from svp_nlp.models import fasttext_native as native
from svp_nlp.models import load_predictor, threads
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.fasttext import FastTextLearner, FastTextPredictor, FastTextSpec, resolve

SPEC = FastTextSpec(epochs=5, learning_rate=0.5, bucket=10_000)


def fit(
    train: Labeled, spec: FastTextSpec = SPEC, seed: int = 0, context: FitContext | None = None
) -> FastTextPredictor:
    predictor = FastTextLearner(spec).fit(train, dev=None, seed=seed, context=context or FitContext())
    assert isinstance(predictor, FastTextPredictor)
    return predictor


@pytest.mark.parametrize("value", ["0", "two", "-1", "1.5"])
def test_a_wrong_thread_count_is_refused(monkeypatch, value):
    monkeypatch.setenv("SVP_NUM_THREADS", value)
    with pytest.raises(RecipeError, match="SVP_NUM_THREADS"):
        threads.num_threads()


@pytest.mark.parametrize("normalize", ["none", "svp"])
def test_training_sets_too_large_for_memory_train_alike(monkeypatch, normalize):
    spec = SPEC.model_copy(update={"normalize": normalize, "word_ngrams": 3})
    reference = fit(planted(50), spec)
    monkeypatch.setattr(native, "_IDS_IN_MEMORY", 0)
    monkeypatch.setattr(native, "_ROWS_PER_PART", 12)
    monkeypatch.setattr(native, "_ROWS_PER_BLOCK", 3)
    assert fit(planted(50), spec).fingerprint == reference.fingerprint


def test_growing_word_tables_lose_no_word():
    texts = [f"word{i} " + "x" * (i % 50) for i in range(5000)] + ["long" * 5000]
    features, _ = native.find_features(
        pa.chunked_array([pa.array(texts)]), word_ngrams=1, bucket=10, min_count=1, normalize="none"
    )
    assert len(features.word_counts) == 5000 + 49 + 2
    assert features.word_counts.sum() == sum(len(text.split()) for text in texts) + len(texts)


def test_memory_follows_the_texts_not_the_bucket():
    predictor = fit(planted(100), FastTextSpec(epochs=1, bucket=10_000_000))
    assert predictor.input_RD.nbytes + predictor.features.rank.nbytes < 4_000_000


def test_words_below_min_count_are_dropped_but_their_ngrams_stay():
    train = labeled(["rare cat", "cat", "cat saw", "saw"], [0, 0, 1, 1])
    features = fit(train, FastTextSpec(epochs=1, min_count=2)).features
    words = features.words.tobytes()
    assert words in (b"</s>catsaw", b"</s>sawcat") and features.word_counts.tolist() == [4, 3, 2]
    assert len(features.bucket_ids) == 4  # rare cat, cat </s>, cat saw, saw </s>, and nothing else
    check_probs(fit(train, FastTextSpec(epochs=1, min_count=99)).predict(train.rows).probs_BC, 4, 2)


def test_line_feeds_are_blanks_and_cut_nothing():
    predictor = fit(planted(50), SPEC.model_copy(update={"normalize": "none"}))
    one, other = predictor.predict(rows(["cat\nsaw\r\ndog\u2028x", "cat saw dog\u2028x"])).probs_BC
    assert np.array_equal(one, other)


def test_reserved_tokens_neither_label_nor_end_a_text():
    train = labeled(["cat __label__1 dog", "saw </s> drill"], [0, 1])
    assert fit(train).fingerprint == fit(labeled(["cat dog", "saw drill"], [0, 1])).fingerprint


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\x00" * 1000, "\u2028", "never seen", "a" * 10_000_000, "é. " * 3_000_000]
)
def test_odd_texts_get_valid_probabilities(text):
    predictor = fit(planted(20))
    prediction = predictor.predict(rows(["cat", text]), embeddings=True)
    check_probs(prediction.probs_BC, 2, 2)
    assert np.isfinite(prediction.embeddings_BD).all()
    assert np.array_equal(prediction.probs_BC[:1], predictor.predict(rows(["cat"])).probs_BC)


def test_odd_texts_can_be_trained_on():
    predictor = fit(labeled(["", "\x00 \n", "x" * 1_000_000, "é " * 100_000], [0, 1, 0, 1]))
    check_probs(predictor.predict(rows(["", "é"])).probs_BC, 2, 2)


def test_one_example_and_one_class_and_a_class_without_example():
    predictor = fit(labeled(["cat"], [1], ("a", "b", "c")), SPEC.model_copy(update={"epochs": 50}))
    probs_C = predictor.predict(rows(["cat"])).probs_BC[0]
    check_probs(probs_C[None], 1, 3)
    assert probs_C.argmax() == 1


def test_a_learning_rate_that_explodes_stops_with_the_epoch():
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1 of 5 at learning rate 1e\+38"):
        fit(planted(50), SPEC.model_copy(update={"learning_rate": 1e38}))


def test_epochs_are_told_and_a_stop_is_heard():
    events: list[dict] = []
    fit(planted(20), context=FitContext(on_event=events.append))
    assert [event["epoch"] for event in events] == [1, 2, 3, 4, 5]
    assert events[0]["learning_rate"] == pytest.approx(0.4) and events[-1]["learning_rate"] == 0
    assert events[-1]["loss"] < events[0]["loss"] and json.dumps(events)
    with pytest.raises(Interrupted, match="fastText epoch 1 of 5"):
        fit(planted(20), context=FitContext(stop_requested=lambda: True))
    with pytest.raises(Interrupted, match="fastText epoch 3 of 5"):
        fit(planted(20), context=FitContext(on_event=events.append, stop_requested=lambda: len(events) >= 7))


@given(st.integers(1, 4_000_000), st.integers(1, 200))
def test_auto_takes_enough_steps_and_is_written_down(labeled_size, num_classes):
    learning_rate, epochs = resolve(FastTextSpec(), labeled_size, num_classes)
    assert 0.05 <= learning_rate <= 0.5 and 10 <= epochs <= 100
    assert learning_rate * epochs * labeled_size >= 7_000 * math.sqrt(num_classes) or epochs == 100
    assert resolve(FastTextSpec(learning_rate=0.05, epochs=5), labeled_size, num_classes) == (0.05, 5)


def test_report_holds_what_auto_chose(tmp_path):
    predictor = fit(planted(2000), FastTextSpec(bucket=1000))
    assert (predictor.report["learning_rate"], predictor.report["epochs"]) == (0.5, 11)
    predictor.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["report"] == predictor.report


@pytest.mark.parametrize("name", ["words", "word_offsets", "bucket_ids", "input", "output"])
def test_arrays_that_do_not_fit_are_refused(tmp_path, name):
    from safetensors.numpy import load_file, save_file

    from svp_nlp.models.base import write_config

    fit(planted(20)).save(tmp_path)
    arrays = load_file(tmp_path / "weights.safetensors")
    arrays[name] = arrays[name][:-1].copy()
    save_file(arrays, tmp_path / "weights.safetensors")
    write_config(tmp_path, spec=SPEC, class_names=("animals", "tools"), weights="weights.safetensors")
    with pytest.raises(ModelError, match="train it again"):
        load_predictor(tmp_path)


@pytest.mark.parametrize(
    "options", [{"dim": 0}, {"word_ngrams": 6}, {"bucket": 0}, {"learning_rate": 0}, {"epochs": "many"}, {"lr": 1}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError):
        FastTextSpec(**options)
