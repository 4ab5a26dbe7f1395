"""Class weights: one formula for all learners, a mean of 1, and no bit changed where nothing is to be weighed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import labeled
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from test_training import PlainExamples, Toy, seeded, toy_rows, train
from torch import nn

from svp_nlp.errors import RecipeError
from svp_nlp.models import heads, make_learner, tfidf_fit
from svp_nlp.models.base import FitContext, Labeled, TrainingSpec
from svp_nlp.models.class_weights import class_weights
from svp_nlp.models.tfidf import TfidfSpec

VDCNN = {"depth": 9, "lite": True, "max_length": 64}
LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)


def imbalanced(common: int = 90, rare: int = 6, *, class_names: tuple[str, ...] = ("never", "common", "rare")):
    """Half of the words say nothing, and the rare class is 1 in 16; classes 1 and 2, class 0 has no row."""
    rng = np.random.default_rng(0)
    labels = [1] * common + [2] * rare
    words = [[*rng.choice([["a", "b", "c"], ["c", "d", "e"]][y - 1], 2), *rng.choice(list("xyz"), 3)] for y in labels]
    return labeled(list(map(" ".join, words)), labels, class_names)


@given(LABELS)
def test_weights_are_those_of_scikit_learn_below_the_limit(labels_L):
    weights_C = class_weights(labels_L, "balanced", num_classes=8)
    present = np.unique(labels_L)
    expected = compute_class_weight("balanced", classes=present, y=labels_L)
    if expected.max() <= 10:
        np.testing.assert_allclose(weights_C[present], expected)
    assert (np.delete(weights_C, present) == 0).all()


@given(LABELS, st.integers(1, 10_000))
def test_weights_are_1_on_average_finite_and_never_smaller_for_a_rarer_class(labels_L, times):
    labels_L = np.concatenate([labels_L, np.full(times, 3)])
    weights_C = class_weights(labels_L, "balanced", num_classes=6)
    counts_C = np.bincount(labels_L, minlength=6)
    assert np.isfinite(weights_C).all()
    assert weights_C[labels_L].mean() == pytest.approx(1)
    present = np.flatnonzero(counts_C)
    by_count = present[np.argsort(counts_C[present])]
    assert (np.diff(weights_C[by_count]) <= 1e-12).all()


def test_a_single_row_among_thousands_counts_no_more_than_the_limit():
    weights_C = class_weights(np.array([1] + [0] * 9_999), "balanced", num_classes=2)
    assert 15 < weights_C[1] / weights_C[0] <= 20 < 9_999  # limited to 10, against 0.5


@given(st.integers(1, 6), st.integers(1, 50))
def test_equally_many_rows_weigh_exactly_one(classes, rows):
    assert (class_weights(np.arange(classes * rows) % classes, "balanced", num_classes=classes) == 1).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("fasttext", {"bucket": 1000, "epochs": 3}),
        ("tfidf", {"bucket": 1000}),
        ("tfidf", {"bucket": 1000, "classifier": "complement_nb", "temperature": 1.0}),
    ],
)
def test_equally_many_rows_give_the_bits_of_no_weights_and_others_do_not(kind, options):
    def probs(train, **more):
        predictor = make_learner(kind, **options, **more).fit(train, dev=None, seed=0, context=FitContext())
        return predictor.predict(train.rows).probs_BC

    even, odd = imbalanced(20, 20), imbalanced(30, 10)
    np.testing.assert_array_equal(probs(even, class_weights="balanced"), probs(even))
    assert not np.array_equal(probs(odd, class_weights="balanced"), probs(odd))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("fasttext", {"bucket": 1000, "epochs": 4}), ("tfidf", {"bucket": 1000, "C": 0.1})],
)
def test_weighted_models_find_more_of_the_rare_class_and_nothing_of_one_without_rows(kind, options):
    train, test = imbalanced(), imbalanced(60, 60)
    found = {}
    for weights in ("none", "balanced"):
        learner = make_learner(kind, class_weights=weights, **options)
        predicted = learner.fit(train, dev=None, seed=0, context=FitContext()).predict(test.rows).probs_BC.argmax(1)
        found[weights] = float((predicted[test.labels_L == 2] == 2).mean())
        assert not (predicted == 0).any()
    assert found["balanced"] > found["none"] + 0.2


@pytest.mark.parametrize(
    ("classifier", "option", "power"), [("logistic_regression", "C", 1), ("complement_nb", "alpha", -1)]
)
def test_a_weighted_linear_model_is_one_on_repeated_rows(classifier, option, power):
    rng = np.random.default_rng(1)
    matrix = csr_matrix(rng.integers(0, 3, size=(30, 6)).astype(np.float32))
    labels_L = np.array([0] * 20 + [2] * 10)
    # Weights are 3/4 and 3/2: twice the rows of the rarer class, at 3/4 of the loss.
    spec = TfidfSpec(classifier=classifier, class_weights="balanced", **{option: 1.5})
    same = TfidfSpec(classifier=classifier, **{option: 1.5 * 0.75**power})
    twice = np.r_[np.arange(30), np.arange(20, 30)]
    found = tfidf_fit.fit_classifier(spec, matrix, labels_L, 3)
    expected = tfidf_fit.fit_classifier(same, matrix[twice], labels_L[twice], 3)
    for one, other in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_weighted_linear_head_is_that_of_scikit_learn():
    labels_L = np.array([0] * 40 + [2] * 8 + [3] * 12)
    features_LD = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    features_LD[np.arange(60), labels_L] += 1
    head = heads.fit_linear(features_LD, labels_L, num_classes=4, inverse_penalty=2.0, weights="balanced")
    centred_LD = features_LD - features_LD.mean(0)
    centred_LD /= np.sqrt((centred_LD**2).sum(1).mean())
    reference = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000, class_weight="balanced").fit(centred_LD, labels_L)
    np.testing.assert_allclose(head.probs(features_LD)[:, [0, 2, 3]], reference.predict_proba(centred_LD), atol=2e-3)


def trained(labels_L: np.ndarray, **options) -> tuple[nn.Module, float]:
    with seeded(0):
        model = Toy(norm=False)
    model.dropout = nn.Identity()
    examples = PlainExamples(toy_rows(len(labels_L))[0].tokens_NT, None)
    result = train(
        model, examples, labels_L, positions_L=np.arange(len(labels_L)), dev=None, seed=0, context=FitContext(),
        training=TrainingSpec(**{"num_train_epochs": 2, "label_smoothing": 0.2, **options}),
    )  # fmt: skip
    return model, result.history[0]["loss"]


def test_a_weighted_step_is_the_mean_over_rows_of_weight_times_loss():
    labels_L = np.array([0, 0, 0, 0, 2, 2])  # weights 3/4 and 3/2
    model, loss = trained(labels_L, class_weights="balanced", num_train_epochs=1, learning_rate=0.1, weight_decay=0,
                          lr_scheduler="constant")  # fmt: skip
    with seeded(0):
        before = Toy(norm=False)
    before.dropout = nn.Identity()
    logits_BC = before(torch.from_numpy(toy_rows(6)[0].tokens_NT))
    log_probs_BC = logits_BC.log_softmax(1)
    targets_BC = 0.8 * nn.functional.one_hot(torch.from_numpy(labels_L), 3) + 0.2 / 3
    weights_B = torch.tensor([0.75] * 4 + [1.5] * 2)
    expected = -(weights_B * (targets_BC * log_probs_BC).sum(1)).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for (name, value), old in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(value, old - 0.1 * old.grad, rtol=1e-5, atol=1e-6, msg=lambda text, n=name: n + text)


def test_weights_are_the_same_however_a_batch_is_cut_and_none_where_classes_are_even():
    labels_L = np.array([0] * 17 + [2] * 7)
    whole, _ = trained(labels_L, class_weights="balanced", global_batch_size=9)
    for parts in (2, 4):
        cut, _ = trained(labels_L, class_weights="balanced", global_batch_size=9, gradient_accumulation_steps=parts)
        for name, value in cut.state_dict().items():
            torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-5, atol=1e-6)
    plain, _ = trained(labels_L, global_batch_size=9)
    assert not all(map(torch.equal, plain.state_dict().values(), whole.state_dict().values()))
    even_L = np.arange(24) % 3
    one, other = (trained(even_L, class_weights=kind)[0].state_dict() for kind in ("none", "balanced"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-7)


def test_the_options_of_networks_reach_their_training():
    learner = make_learner("vdcnn", **VDCNN, training={"class_weights": "balanced"})
    assert learner.spec.training.class_weights == "balanced"
    train = Labeled(pa.table({"text": ["a"] * 12}), np.array([0] * 9 + [1] * 3), np.arange(12), ("no", "yes"))
    features_LD = np.zeros((12, 3), np.float32)  # nothing to be told apart: the bias follows the weighted shares
    spec = heads.HeadTrainingSpec(num_train_epochs=150, learning_rate=0.05, weight_decay=0)
    shares = [
        heads.fit_mlp(features_LD, train, hidden_size=2, seed=0, context=FitContext(),
                      spec=spec.model_copy(update={"class_weights": kind}))[0].probs(features_LD)[0, 1]
        for kind in ("none", "balanced")
    ]  # fmt: skip
    np.testing.assert_allclose(shares, [0.25, 0.5], atol=0.02)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("fasttext", {"engine": "fasttext"}, "the official package knows none; use engine native"),
        ("embedding", {"head": "mlp", "config": {"model_type": "distilbert"}}, "class_weights does nothing for head"),
    ],
)
def test_who_cannot_weigh_says_so(kind, options, named):
    with pytest.raises(RecipeError, match=named):
        make_learner(kind, class_weights="balanced", **options)
