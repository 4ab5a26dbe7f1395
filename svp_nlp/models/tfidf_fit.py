"""How a TF-IDF model is fitted: the matrix of counts, scikit-learn's idf and classifiers, the temperature.

Shape legend: W features, C classes, L labelled.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from svp_nlp.arrays import keyed_hash
from svp_nlp.models import fasttext_native as native
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.class_weights import class_weights
from svp_nlp.models.fasttext_kernels import EOS
from svp_nlp.models.normalize import Normalization

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from svp_nlp.models.tfidf import TfidfSpec

ABSENT = -50.0  # score of a class without examples: others are centred, so its probability is below exp(-50)
_FOLDS = 5
_TEMPERATURES = (0.02, 5.0)

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]


def without_end_of_text(features: native.Features) -> native.Features:
    """Leave out the word `</s>`, which every text has; the n-gram of a text's last word with it stays a feature."""
    lengths_W, starts_W = np.diff(features.word_offsets), features.word_offsets[:-1]
    end = np.frombuffer(EOS, dtype=np.uint8)
    of_length = np.flatnonzero(lengths_W == len(end))
    found = of_length[(features.words[starts_W[of_length, None] + np.arange(len(end))] == end).all(axis=1)]
    keep_W = np.ones(len(lengths_W), dtype=np.bool_)
    keep_W[found] = False
    return dataclasses.replace(
        features,
        words=features.words[np.repeat(keep_W, lengths_W)],
        word_offsets=np.concatenate([[0], np.cumsum(lengths_W[keep_W])]).astype(np.int64),
        word_counts=features.word_counts[keep_W],
    )


def count_matrix(
    texts: pa.ChunkedArray, features: native.Features, num_ids: int, normalize: Normalization
) -> csr_matrix:
    """How often each text has each feature: float32 [L, W] with int32 indices.

    Args:
        num_ids: upper bound of the occurrences of features in all texts.
    """
    from scipy.sparse import csr_matrix

    ends, ids = native.ids_of(texts, features, num_ids, normalize)
    total = int(ends[-1]) if len(ends) else 0
    index = np.int32 if total < 2**31 else np.int64
    starts = np.concatenate([[0], ends]).astype(index)
    indices = ids[:total].view(np.int32).astype(index, copy=False)
    matrix = csr_matrix((np.ones(total, dtype=np.float32), indices, starts), shape=(len(ends), features.num_rows))
    matrix.sum_duplicates()
    return matrix


def tfidf_in_place(counts_LW: csr_matrix) -> tuple[csr_matrix, Array]:
    """The l2-normalised tf-idf, in place, and the smoothed idf [W], as scikit-learn computes them."""
    from sklearn.feature_extraction.text import TfidfTransformer

    if counts_LW.shape[1] == 0:
        return counts_LW, np.zeros(0, dtype=np.float32)
    transformer = TfidfTransformer().fit(counts_LW)
    return transformer.transform(counts_LW, copy=False), transformer.idf_


def fit_classifier(
    spec: TfidfSpec, matrix_LW: csr_matrix, labels_L: npt.NDArray[np.int64], num_classes: int
) -> tuple[Array, npt.NDArray[np.float64], dict[str, Any]]:
    """Fit scikit-learn's classifier.

    Returns:
        coefficients_CW and bias_C, of mean 0 over the classes that have examples: the softmax is the same, and float32
        sums lose less of it. Classes without examples have coefficients 0 and bias -50. And what to report.
    """
    classes = np.unique(labels_L)
    coefficients_CW = np.zeros((num_classes, matrix_LW.shape[1]))
    bias_C = np.full(num_classes, ABSENT)
    bias_C[classes] = 0
    if len(classes) == 1 or matrix_LW.shape[1] == 0:
        return coefficients_CW, bias_C, {}
    with warnings.catch_warnings():
        # Two labelled rows of different classes are a start, not the regression that scikit-learn takes them for.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        fit = _complement_nb if spec.classifier == "complement_nb" else _logistic_regression
        weights_C = class_weights(labels_L, spec.class_weights, num_classes=num_classes)
        weights_L = None if weights_C is None else weights_C[labels_L]
        found_CW, found_C, report = fit(spec, matrix_LW, labels_L, weights_L)
    coefficients_CW[classes] = found_CW - found_CW.mean(axis=0)
    bias_C[classes] = found_C - found_C.mean()
    return coefficients_CW, bias_C, report


def _complement_nb(
    spec: TfidfSpec, matrix_LW: csr_matrix, labels_L: Array, weights_L: Array | None
) -> tuple[Array, Array, dict[str, Any]]:
    from sklearn.naive_bayes import ComplementNB

    model = ComplementNB(alpha=spec.alpha).fit(matrix_LW, labels_L, sample_weight=weights_L)
    return model.feature_log_prob_, np.zeros(len(model.classes_)), {}


def _logistic_regression(
    spec: TfidfSpec, matrix_LW: csr_matrix, labels_L: Array, weights_L: Array | None
) -> tuple[Array, Array, dict[str, Any]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # newton-cg: the same optimum as lbfgs to three more digits in a tenth of the time (6,000 texts of AG News, 130,000
    # bigrams: 0.8 s against 9.5 s). In float64, for its line search fails on float32 gradients near the optimum.
    # One thread: sums, and so weights, depend on how many.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=spec.C, solver="newton-cg", tol=1e-6, max_iter=100)
        model.fit(matrix_LW.astype(np.float64), labels_L, sample_weight=weights_L)
    iterations = int(model.n_iter_.max())
    if iterations >= model.max_iter:
        log.warning("tfidf: logistic regression has not converged in %d iterations; a smaller C helps", iterations)
    coefficients_CW, bias_C = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # of the second class only
        coefficients_CW, bias_C = (np.concatenate([-half, half]) for half in (coefficients_CW / 2, bias_C / 2))
    return coefficients_CW, bias_C, {"iterations": iterations}


def cross_validated(spec: TfidfSpec, matrix_LW: csr_matrix, train: Labeled, *, seed: int, context: FitContext) -> float:
    """The temperature under which the labels of held-out rows are most likely; 1 where too few rows tell.

    A held-out row loses the features that only held-out rows have, as a row of the pool loses those it alone has. Rows
    whose class has no other example are left out. A label counts for 1 - 1/(rows + 2) only, lest rows that are all told
    apart make every probability 0 or 1.
    Source: Guo et al. 2017, "On calibration of modern neural networks", section 4.2, there on a validation set; Platt
    1999, "Probabilistic outputs for support vector machines", section 2.2, for the labels.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.preprocessing import normalize

    labels_L, num_classes = train.labels_L, len(train.class_names)
    fold_L = keyed_hash(train.positions_L, seed, "tfidf-folds") % np.uint64(_FOLDS)
    scores, labels = [np.zeros((0, num_classes))], [labels_L[:0]]
    for fold in range(_FOLDS):
        context.raise_if_stopped("cross-validating the temperature of tfidf")
        held_L = fold_L == fold
        if not held_L.any() or len(np.unique(labels_L[~held_L])) < 2:
            continue
        rest_LW, held_LW = matrix_LW[~held_L], matrix_LW[held_L]
        known_W = np.bincount(rest_LW.indices, minlength=rest_LW.shape[1]) > 0
        held_LW.data *= known_W[held_LW.indices]
        held_LW = normalize(held_LW, copy=False)
        coefficients_CW, bias_C, _ = fit_classifier(spec, rest_LW, labels_L[~held_L], num_classes)
        learned = bias_C[labels_L[held_L]] != ABSENT
        scores.append((held_LW @ coefficients_CW.T + bias_C)[learned])
        labels.append(labels_L[held_L][learned])
    scores_LC, truth_L = np.concatenate(scores), np.concatenate(labels)
    if len(scores_LC) == 0:
        return 1.0

    told_L = scores_LC[np.arange(len(truth_L)), truth_L] * (1 - 1 / (len(truth_L) + 2))  # scores are centred

    def loss(log_temperature: float) -> float:
        logits_LC = scores_LC / math.exp(log_temperature)
        most_L = logits_LC.max(axis=1)
        normaliser_L = most_L + np.log(np.exp(logits_LC - most_L[:, None]).sum(axis=1))
        return float((normaliser_L - told_L / math.exp(log_temperature)).mean())

    bounds = tuple(map(math.log, _TEMPERATURES))
    return float(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x))
