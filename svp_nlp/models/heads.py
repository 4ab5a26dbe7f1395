"""Small classifiers on stored features: fitted in seconds, read without torch.

Letters in shapes: L labelled, B batch, C classes, D width of the features, H hidden units.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from pydantic import Field
from safetensors import SafetensorError
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from svp_nlp.arrays import FloatNC, FloatND, IntK, IntN
from svp_nlp.errors import ModelError
from svp_nlp.models import training
from svp_nlp.models.base import FitContext, Labeled, TrainingSpec
from svp_nlp.models.class_weights import ClassWeights, class_weights

log = logging.getLogger(__name__)
_MAX_ITERATIONS = 1_000  # lbfgs took 20 to 80 on 100 to 10,000 rows of MiniLM features


class HeadTrainingSpec(TrainingSpec):
    """TrainingSpec with defaults for a small head on features of variance 1."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    num_train_epochs: Annotated[int, Field(ge=1)] = 10
    min_train_steps: Annotated[int, Field(ge=1)] | None = 100
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    global_batch_size: Annotated[int, Field(ge=1)] = 32


@dataclass(frozen=True)
class Head:
    """Layers of a classifier, ReLU between them; the last one gives logits.

    Attributes:
        weights: one [in, out] per layer, float32.
        biases: one [out] per layer, float32; -inf in the last one for a class that had no example.
    """

    weights: tuple[npt.NDArray[np.floating[Any]], ...]
    biases: tuple[npt.NDArray[np.floating[Any]], ...]

    @property
    def width(self) -> int:
        """D: columns that the features must have."""
        return int(self.weights[0].shape[0])

    def probs(self, features_BD: FloatND) -> FloatNC:
        """Class probabilities [B, C], float32; a row's bits hardly depend on its neighbours or on threads.

        Raises:
            ModelError: the features have another width.
        """
        if features_BD.ndim != 2 or features_BD.shape[1] != self.width:
            raise ModelError(
                f"features are {list(features_BD.shape)}, this head reads [rows, {self.width}]; encode the pool again "
                "with the encoder that the head was fitted on"
            )
        # In float64 the order of a BLAS's sums, which changes with threads and batch, is gone once rounded to float32.
        hidden = features_BD.astype(np.float64)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                np.maximum(hidden, 0, out=hidden)
            hidden = hidden @ weight.astype(np.float64) + bias
        hidden -= hidden.max(axis=1, keepdims=True, initial=-np.inf)
        np.exp(hidden, out=hidden)
        hidden /= hidden.sum(axis=1, keepdims=True)
        return hidden.astype(np.float32)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        pairs = zip(self.weights, self.biases, strict=True)
        arrays = {f"{name}{i}": array for i, pair in enumerate(pairs) for name, array in zip("wb", pair, strict=True)}
        return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def read_head(path: Path, *, num_classes: int) -> Head:
    """Read what `Head.to_bytes` gave.

    Raises:
        ModelError: not the tensors of a head for so many classes.
    """
    try:
        arrays = safetensors.numpy.load_file(path)
        layers = range(len(arrays) // 2)
        head = Head(tuple(arrays[f"w{i}"] for i in layers), tuple(arrays[f"b{i}"] for i in layers))
    except (SafetensorError, KeyError) as error:
        raise ModelError(f"{path} does not hold a head ({error}); fit it again") from None
    shapes = [(*w.shape, *b.shape) for w, b in zip(head.weights, head.biases, strict=True)]
    fits = bool(shapes) and all(len(shape) == 3 and shape[1] == shape[2] for shape in shapes)
    fits = fits and all(one[1] == two[0] for one, two in itertools.pairwise(shapes))
    if not fits or shapes[-1][1] != num_classes:
        raise ModelError(f"{path}: layers are {shapes}, config.json names {num_classes} classes; fit it again")
    return head


def fit_linear(
    features_LD: FloatND, labels_L: IntN, *, num_classes: int, inverse_penalty: float, weights: ClassWeights = "none"
) -> Head:
    """Logistic regression (multinomial, L2) on centred features of norm 1 on average, which the weights then undo.

    Standard scores of each column, the usual way, need a C that falls with L: at C = 1 they cost 2.5 points of
    accuracy at 300 labels and 7 at 3,000 (AG News, MiniLM). One scale for all columns leaves the features of
    sentence-transformers, which have norm 1, as they are, and makes C mean the same for any encoder.

    O(L D C) per iteration. Deterministic: no seed.

    Args:
        features_LD: float32.
        labels_L: int64 in [0, num_classes); classes without a row get probability zero.
        num_classes: C.
        inverse_penalty: scikit-learn's C, > 0.
        weights: of classes.
    """
    present_K, targets_L = np.unique(labels_L, return_inverse=True)
    if len(present_K) == 1:
        return _one_class(features_LD.shape[1], present_K, num_classes)
    mean_D, scale = _mean_and_norm(features_LD)
    weights_C = class_weights(labels_L, weights, num_classes=num_classes)
    weights_L = None if weights_C is None else weights_C[labels_L]
    model = LogisticRegression(C=inverse_penalty, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit((features_LD - mean_D) / scale, targets_L, sample_weight=weights_L)
    if said:
        log.warning("the linear head did not converge in %d iterations; a smaller C helps", _MAX_ITERATIONS)
    weight_DC, bias_C = model.coef_.T, model.intercept_
    if len(present_K) == 2:  # scikit-learn gives the log-odds of the second class alone
        weight_DC, bias_C = np.hstack([np.zeros_like(weight_DC), weight_DC]), np.append(0.0, bias_C)
    weight_DC = weight_DC / scale
    return _widened(Head((weight_DC,), (bias_C - mean_D @ weight_DC,)), present_K, num_classes)


def fit_mlp(
    features_LD: FloatND,
    train: Labeled,
    *,
    hidden_size: int,
    spec: TrainingSpec,
    seed: int,
    context: FitContext,
) -> tuple[Head, dict[str, Any]]:
    """One hidden layer of ReLU on centred features of variance 1 on average, trained by the shared loop.

    Returns:
        The head, and what the training reports.
    Raises:
        TrainingError, Interrupted: see `training.train`.
    """
    num_classes = len(train.class_names)
    present_K, targets_L = np.unique(train.labels_L, return_inverse=True)
    if len(present_K) == 1:
        return _one_class(features_LD.shape[1], present_K, num_classes), {}
    mean_D, scale = _mean_and_norm(features_LD)
    scale /= np.sqrt(features_LD.shape[1])
    with training.seeded(seed):
        model = nn.Sequential(
            nn.Linear(features_LD.shape[1], hidden_size), nn.ReLU(), nn.Linear(hidden_size, len(present_K))
        )
    result = training.train(
        model,
        _FeatureExamples(((features_LD - mean_D) / scale).astype(np.float32)),
        targets_L.astype(np.int64),
        positions_L=train.positions_L,
        dev=None,
        training=spec,
        seed=seed,
        context=replace(context, data_parallel=False),  # too small to share, and selections must not depend on it
        what="MLP head",
    )
    state = {name: value.double().cpu().numpy() for name, value in model.state_dict().items()}
    first_DH = state["0.weight"].T / scale
    head = Head((first_DH, state["2.weight"].T), (state["0.bias"] - mean_D @ first_DH, state["2.bias"]))
    return _widened(head, present_K, num_classes), result.report


@dataclass
class _FeatureExamples:
    """Features as the training loop reads them."""

    features_LD: FloatND
    lengths_N: IntN | None = None

    def __len__(self) -> int:
        return len(self.features_LD)

    def collate(self, rows_B: IntK, *, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        return {"input": torch.from_numpy(self.features_LD[rows_B])}


def _mean_and_norm(features_LD: FloatND) -> tuple[npt.NDArray[np.float64], float]:
    """Mean of each column, and the root mean square distance of a row from it (1 when all rows are the same)."""
    mean_D = features_LD.mean(axis=0, dtype=np.float64)
    norm = float(np.sqrt(np.square(features_LD - mean_D).sum(axis=1).mean()))
    return mean_D, norm if norm > 1e-6 else 1.0


def _one_class(width: int, present_K: IntN, num_classes: int) -> Head:
    return _widened(Head((np.zeros((width, 1)),), (np.zeros(1),)), present_K, num_classes)


def _widened(head: Head, present_K: IntN, num_classes: int) -> Head:
    """The head in float32, with a column for every class; those that are not present get probability zero."""
    hidden = head.weights[-1].shape[0]
    weight_HC = np.zeros((hidden, num_classes), np.float32)
    bias_C = np.full(num_classes, -np.inf, np.float32)
    weight_HC[:, present_K], bias_C[present_K] = head.weights[-1], head.biases[-1]
    weights = tuple(weight.astype(np.float32) for weight in head.weights[:-1])
    biases = tuple(bias.astype(np.float32) for bias in head.biases[:-1])
    return Head((*weights, weight_HC), (*biases, bias_C))
