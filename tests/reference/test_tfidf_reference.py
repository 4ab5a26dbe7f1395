"""The TF-IDF learner against scikit-learn's own pipeline, and its kernel against a few lines of numpy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import make_pipeline

from svp_nlp.models import fasttext_native as native
from svp_nlp.models import tfidf_fit, tfidf_kernels
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.tfidf import TfidfLearner, TfidfPredictor, TfidfSpec

KNOWN = ["a", "b", "c", "dd", "naïve", "日本"]
TEXTS = st.lists(st.sampled_from(KNOWN), max_size=9).map(" ".join)
POOL_TEXTS = st.lists(st.sampled_from([*KNOWN, "unseen", "neither"]), max_size=12).map(" ".join)
ROWS = st.lists(st.tuples(TEXTS, st.integers(0, 2)), min_size=1, max_size=12)
NAMES = ("zero", "one", "two", "never")


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def fit(texts: list[str], labels: list[int], **options) -> TfidfPredictor:
    spec = TfidfSpec(normalize="none", temperature=1.0, **options)
    train = Labeled(pa.table({"text": column(texts)}), np.array(labels, np.int64), np.arange(len(labels)), NAMES)
    predictor = TfidfLearner(spec).fit(train, dev=None, seed=0, context=FitContext())
    assert isinstance(predictor, TfidfPredictor)
    return predictor


def ngrams(text: str, word_ngrams: int) -> list[str]:
    words = [*text.split(), "</s>"]
    found = [" ".join(words[i : i + n]) for n in range(1, word_ngrams + 1) for i in range(len(words) - n + 1)]
    return [ngram for ngram in found if ngram != "</s>"]


def probs_of(model, texts: list[str] | object, classes: np.ndarray, rows: int) -> np.ndarray:
    """predict_proba with a column of zeros for each class that has no example."""
    probs_BC = np.zeros((rows, len(NAMES)))
    probs_BC[:, classes] = model.predict_proba(texts)
    return probs_BC


@settings(deadline=None, max_examples=60)
@given(ROWS, st.lists(POOL_TEXTS, min_size=1, max_size=8), st.integers(1, 3), st.sampled_from([0.1, 1.0]))
def test_complement_nb_gives_the_probabilities_of_the_scikit_learn_pipeline(rows, pool, word_ngrams, alpha):
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    assume(any(text.split() for text in texts))
    vectorizer = CountVectorizer(analyzer=lambda text: ngrams(text, word_ngrams))
    model = make_pipeline(vectorizer, TfidfTransformer(), ComplementNB(alpha=alpha)).fit(texts, labels)
    predictor = fit(texts, labels, classifier="complement_nb", word_ngrams=word_ngrams, alpha=alpha)
    assert predictor.features.num_rows == len(vectorizer.vocabulary_)
    prediction = predictor.predict(pa.table({"text": column(pool)}), embeddings=True)
    expected_BC = probs_of(model, pool, np.unique(labels), len(pool))
    np.testing.assert_allclose(prediction.probs_BC, expected_BC, atol=1e-5)
    assert prediction.embeddings_BD is not None
    exp_BC = np.exp(prediction.embeddings_BD.astype(float))
    np.testing.assert_allclose(exp_BC / exp_BC.sum(axis=1, keepdims=True), prediction.probs_BC, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(ROWS, st.lists(POOL_TEXTS, min_size=1, max_size=8), st.sampled_from([1.0, 10.0]))
def test_logistic_regression_gives_the_probabilities_of_scikit_learn_on_the_same_matrix(rows, pool, C):
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    assume(len(set(labels)) > 1 and any(text.split() for text in texts))
    predictor = fit(texts, labels, C=C)
    train_LW, pool_BW = (
        tfidf_fit.count_matrix(column(each), predictor.features, 200, "none") for each in (texts, pool)
    )
    transformer = TfidfTransformer().fit(train_LW)
    model = LogisticRegression(C=C, tol=1e-8, max_iter=5000)
    model.fit(transformer.transform(train_LW.astype(np.float64)), labels)
    expected_BC = probs_of(model, transformer.transform(pool_BW), np.unique(labels), len(pool))
    probs_BC = predictor.predict(pa.table({"text": column(pool)})).probs_BC
    np.testing.assert_allclose(probs_BC, expected_BC, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(1, 3))
def test_the_matrix_counts_every_word_and_every_ngram(texts, word_ngrams):
    assume(any(text.split() for text in texts))
    features, num_ids = native.find_features(
        column(texts), word_ngrams=word_ngrams, bucket=10_000_000, min_count=1, normalize="none"
    )
    features = tfidf_fit.without_end_of_text(features)
    counts_LW = tfidf_fit.count_matrix(column(texts), features, num_ids, "none")
    assert counts_LW.indices.dtype == counts_LW.indptr.dtype == np.int32
    expected_LW = CountVectorizer(analyzer=lambda text: ngrams(text, word_ngrams)).fit_transform(texts)
    # The order of columns differs, so compare what does not depend on it.
    found, expected = (np.asarray(matrix.todense(), dtype=int) for matrix in (counts_LW, expected_LW))
    assert sorted(map(tuple, found.T)) == sorted(map(tuple, expected.T))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 19) | st.integers(0, 10_000), max_size=60), min_size=1, max_size=6),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_the_kernel_is_softmax_of_normalised_tfidf_times_coefficients(texts, classes, seed):
    rng = np.random.default_rng(seed)
    idf_W = rng.uniform(1, 9, 10_001)
    coefficients_WC = rng.standard_normal((10_001, classes))
    bias_C = rng.standard_normal(classes).astype(np.float32)
    weights_WD = np.column_stack([idf_W, coefficients_WC * idf_W[:, None]]).astype(np.float32)
    ends = np.cumsum([len(text) for text in texts])
    ids = np.array([w for text in texts for w in text] + [0], dtype=np.uint32)
    table_V = rng.integers(0, 2**63, 256).astype(np.uint64)  # what is left of another text must not matter
    scores_BC, probs_BC = np.empty((2, len(texts), classes), dtype=np.float32)
    tfidf_kernels.score(ends, ids, weights_WD, bias_C, table_V, scores_BC, probs_BC)
    for r, text in enumerate(texts):
        vector_W = np.bincount(text, minlength=10_001) * idf_W if text else np.zeros(10_001)
        vector_W = vector_W / max(np.linalg.norm(vector_W), 1e-300)
        expected_C = vector_W @ coefficients_WC + bias_C
        np.testing.assert_allclose(scores_BC[r], expected_C, rtol=1e-4, atol=1e-4)
        exp_C = np.exp(expected_C - expected_C.max())
        np.testing.assert_allclose(probs_BC[r], exp_C / exp_C.sum(), atol=1e-4)
    assert abs(probs_BC.astype(float).sum(axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("repeats", [1, 3, 70_000])
def test_a_word_that_fills_a_text_counts_as_often_as_it_occurs(repeats):
    texts, labels = ["a b", "c d", "a d d"], [0, 1, 1]
    pool = [" ".join(["a"] * repeats + ["d"] * 2)]
    model = make_pipeline(
        CountVectorizer(analyzer=lambda text: ngrams(text, 2)), TfidfTransformer(), ComplementNB()
    ).fit(texts, labels)
    probs_BC = fit(texts, labels, classifier="complement_nb").predict(pa.table({"text": column(pool)})).probs_BC
    np.testing.assert_allclose(probs_BC[:, :2], model.predict_proba(pool), atol=1e-5)
