"""The TF-IDF learner: reproducible, honest about odd texts and odd training sets, saved whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import check_probs, labeled, planted, rows
from safetensors.numpy import load_file, save_file

from svp_nlp.errors import Interrupted, ModelError, RecipeError
from svp_nlp.files import sha256_file
from svp_nlp.models import load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.tfidf import TfidfLearner, TfidfPredictor, TfidfSpec

CLASSIFIERS = ["complement_nb", "logistic_regression"]


def fit(train: Labeled, seed: int = 0, context: FitContext | None = None, **options) -> TfidfPredictor:
    learner = TfidfLearner(TfidfSpec(**options))
    predictor = learner.fit(train, dev=None, seed=seed, context=context or FitContext())
    assert isinstance(predictor, TfidfPredictor)
    return predictor


def loss_of(predictor: TfidfPredictor, test: Labeled) -> float:
    probs_BC = predictor.predict(test.rows).probs_BC
    return float(-np.log(probs_BC[np.arange(len(test)), test.labels_L]).mean())


@pytest.mark.parametrize("word_ngrams", [1, 5])
def test_texts_of_one_letter_words_fit_into_the_room_for_their_features(word_ngrams):
    texts = ["a", "a b", "a b c d e f g", "", ".", "()'!?" * 40, "a " * 500]
    predictor = fit(labeled(texts, [0, 1, 0, 1, 0, 1, 0]), word_ngrams=word_ngrams)
    check_probs(predictor.predict(rows(texts)).probs_BC, len(texts), 2)


def test_the_end_of_text_is_no_word():
    predictor = fit(labeled(["a b", "<s/> c"], [0, 1]), word_ngrams=1, normalize="none")
    assert predictor.features.words.tobytes() == b"ab<s/>c"
    assert np.diff(predictor.features.word_offsets).tolist() == [1, 1, 4, 1]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_class_without_examples_is_nearly_impossible_but_finite(classifier):
    names = ("animals", "never", "tools", "nor this")
    train = planted(60)
    predictor = fit(
        labeled(train.rows["text"].to_pylist(), (2 * train.labels_L).tolist(), names), classifier=classifier
    )
    prediction = predictor.predict(rows(["cat dog", "saw nail", "", "unknown"]), embeddings=True)
    check_probs(prediction.probs_BC, 4, 4)
    assert (prediction.probs_BC[:, [1, 3]] < 1e-20).all()
    assert np.isfinite(prediction.embeddings_BD).all()
    assert prediction.probs_BC.argmax(axis=1)[:2].tolist() == [0, 2]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize(
    ("texts", "labels"),
    [(["a b"], [1]), (["a b", "c"], [0, 0]), (["", " "], [0, 1]), (["", "\n"], [1, 1]), (["a", "a"], [0, 1])],
)
def test_training_sets_that_say_little_give_probabilities(classifier, texts, labels):
    probs_BC = fit(labeled(texts, labels), classifier=classifier).predict(rows(["a b", "", "zzz"])).probs_BC
    check_probs(probs_BC, 3, 2)
    if len(set(labels)) == 1:
        assert (probs_BC[:, labels[0]] > 0.999).all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_class_for_every_row_is_no_reason_for_a_warning(classifier):
    texts = [f"word{i} common" for i in range(30)]
    predictor = fit(labeled(texts, list(range(30)), tuple(map(str, range(30)))), classifier=classifier)
    assert predictor.predict(rows(texts)).probs_BC.argmax(axis=1).tolist() == list(range(30))


def test_words_below_min_count_are_no_features():
    predictor = fit(labeled(["a a b", "a c"], [0, 1]), min_count=2, word_ngrams=1)
    assert predictor.features.words.tobytes() == b"a"


def test_the_temperature_makes_probabilities_better_and_leaves_the_classes_alone():
    train, test = planted(300, filler=20), planted(300, seed=1, filler=20)
    flat, fitted = (fit(train, classifier="complement_nb", temperature=t) for t in (1.0, "auto"))
    assert 0.02 < fitted.report["temperature"] < 1
    assert loss_of(fitted, test) < loss_of(flat, test) / 2
    classes = [p.predict(test.rows).probs_BC.argmax(axis=1) for p in (flat, fitted)]
    assert np.array_equal(*classes)


def test_labels_that_follow_no_rule_give_flatter_probabilities_than_those_that_do():
    learned, noise = (fit(planted(200, wrong=wrong), classifier="complement_nb") for wrong in (0.05, 0.5))
    assert noise.report["temperature"] > learned.report["temperature"]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("value", [0.5, 3.0])
def test_a_given_temperature_divides_the_scores(value, classifier):
    test, train = planted(20, seed=1).rows, planted(50)
    plain, warm = (
        fit(train, temperature=t, classifier=classifier).predict(test, embeddings=True) for t in (1.0, value)
    )
    np.testing.assert_allclose(warm.embeddings_BD, plain.embeddings_BD / value, rtol=1e-4, atol=1e-6)


def test_logistic_regression_depends_on_no_seed():
    assert fit(planted(50), 0, C=3.0).fingerprint == fit(planted(50), 1, C=3.0).fingerprint


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_a_stop_is_heard_between_all_stages(calls):
    asked = 0

    def stop_requested() -> bool:
        nonlocal asked
        asked += 1
        return asked > calls

    with pytest.raises(Interrupted, match="tfidf"):
        fit(planted(50), classifier="complement_nb", context=FitContext(stop_requested=stop_requested))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": "complement_nb", "C": 2.0}, "C does nothing with classifier complement_nb"),
        ({"alpha": 0.5}, "alpha does nothing with classifier logistic_regression"),
        ({"classifier": "svm"}, "complement_nb"),
        ({"temperature": 0}, "temperature"),
        ({"alpha": 0}, "alpha"),
    ],
)
def test_options_that_do_nothing_or_cannot_be_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        make_learner("tfidf", **options)


@pytest.mark.parametrize("options", [{"classifier": "complement_nb", "alpha": 0.3}, {"C": 1.0}])
def test_a_dump_of_the_options_can_be_read_again(options):
    spec = TfidfSpec(**options)
    assert TfidfSpec.model_validate(json.loads(spec.model_dump_json())) == spec


def damage(arrays: dict[str, np.ndarray], what: str) -> None:
    if what == "shape":
        arrays["weights"] = arrays["weights"][:-1]
    elif what == "classes":
        arrays["bias"] = arrays["bias"][:-1]
    elif what == "nan":
        arrays["weights"][3, 1] = np.nan
    elif what == "type":
        arrays["weights"] = arrays["weights"].astype(np.float64)
    elif what == "offsets":
        arrays["word_offsets"][1] = 1_000_000
    elif what == "buckets":
        arrays["bucket_ids"][-1] = 1_000_000_000
    elif what == "rank":
        arrays["bucket_ids"] = arrays["bucket_ids"][:, None]
    else:
        del arrays["bias"]


@pytest.mark.parametrize("what", ["shape", "classes", "nan", "type", "offsets", "buckets", "rank", "missing"])
def test_arrays_that_do_not_fit_are_refused_before_the_kernels_read_them(what, tmp_path):
    fit(planted(30)).save(tmp_path)
    path = tmp_path / "weights.safetensors"
    arrays = load_file(path)
    damage(arrays, what)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"weights_sha256": sha256_file(path)}))
    with pytest.raises(ModelError, match="train it again"):
        load_predictor(tmp_path)
