"""TF-IDF and a linear classifier: the honest cheap baseline, more accurate than fastText below 10,000 labels.

Features are those of our fastText (words and hashed word n-grams), so that scoring costs what fastText costs; idf and
the classifiers are scikit-learn's, whose coefficients are taken over.

Shape legend: W features, C classes, D = 1 + C, L labelled, B batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from svp_nlp.arrays import fingerprint_array, fingerprint_json
from svp_nlp.errors import ModelError, TrainingError
from svp_nlp.models import fasttext_native as native
from svp_nlp.models import tfidf_fit
from svp_nlp.models import tfidf_kernels as kernels
from svp_nlp.models.base import (
    TEXT,
    FitContext,
    Labeled,
    LearnerSpec,
    Prediction,
    Predictor,
    read_config,
    write_config,
)
from svp_nlp.models.class_weights import DESCRIPTION, ClassWeights
from svp_nlp.models.normalize import Normalization

WEIGHTS_FILE = "weights.safetensors"
Array = npt.NDArray[Any]


class TfidfSpec(LearnerSpec):
    """Options of the features under the names of fastText's, of the classifiers under scikit-learn's."""

    kind: Literal["tfidf"] = "tfidf"
    word_ngrams: Annotated[int, Field(ge=1, le=5)] = 2
    min_count: Annotated[int, Field(ge=1)] = 1
    bucket: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=10_000_000, description="hash values of word n-grams; only those that occur take memory"
    )
    normalize: Normalization = Field(
        default="svp",
        description="svp: lower-case ASCII and set off punctuation as the paper's scripts do; none: leave texts",
    )
    classifier: Literal["complement_nb", "logistic_regression"] = Field(
        default="logistic_regression",
        description="complement_nb fits in a fifth of the time and is as accurate on random labels, but chooses worse, "
        "on some data worse than random (benchmarks/README.md)",
    )
    alpha: Annotated[float, Field(gt=0)] = Field(default=1.0, description="smoothing of complement_nb")
    C: Annotated[float, Field(gt=0)] = Field(
        default=10.0, description="of logistic_regression; smaller regularises more"
    )
    class_weights: ClassWeights = Field(default="none", description=DESCRIPTION)
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="class scores are divided by it before the softmax; auto: cross-validated on the labelled rows for "
        "complement_nb, whose own probabilities are far too flat; 1 for logistic_regression",
    )

    @model_validator(mode="after")
    def _no_idle_option(self) -> TfidfSpec:
        # A value that is the default is no clash: a dump holds all values and must be readable again.
        other = "C" if self.classifier == "complement_nb" else "alpha"
        if getattr(self, other) != type(self).model_fields[other].default:
            raise ValueError(f"{other} does nothing with classifier {self.classifier}: remove it")
        return self


@dataclass(eq=False)
class TfidfPredictor:
    """A fitted model.

    Attributes:
        weights_WD: float32; column 0 is idf, column 1 + c is idf x the coefficient of class c.
        bias_C: float32.
    """

    spec: TfidfSpec
    class_names: tuple[str, ...]
    features: native.Features
    weights_WD: npt.NDArray[np.float32]
    bias_C: npt.NDArray[np.float32]
    report: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        arrays = {name: fingerprint_array(array) for name, array in self._arrays().items()}
        parts = {"spec": self.spec.fingerprint, "class_names": self.class_names, "arrays": arrays}
        self.fingerprint = fingerprint_json(parts)

    def _arrays(self) -> dict[str, Array]:
        return {**self.features.arrays, "weights": self.weights_WD, "bias": self.bias_C}

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities; as embeddings the class scores before the softmax [B, C], for there is no dense layer.

        The scores of a row have mean 0 over the classes that were trained on; classes without examples have -50.
        """
        texts = native.texts_of(batch)
        scores_BC = np.empty((len(texts), len(self.class_names)), dtype=np.float32)
        probs_BC = np.empty_like(scores_BC)
        _ = self.features.lookup  # built here, so that threads do not build it twice

        def run(block: native.Block) -> None:
            ends, ids = native.ids_of_block(block, self.features, self.spec.normalize)
            rows = slice(block.start, block.stop)
            longest = int(np.diff(ends, prepend=0).max(initial=0))
            table_V = np.empty(max(16, 1 << (2 * longest).bit_length()), dtype=np.uint64)
            kernels.score(ends, ids, self.weights_WD, self.bias_C, table_V, scores_BC[rows], probs_BC[rows])

        native.for_each_block(texts, run)
        return Prediction(probs_BC, scores_BC if embeddings else None)

    def save(self, directory: Path) -> None:
        """Write config.json and weights.safetensors into an existing directory."""
        save_file(self._arrays(), directory / WEIGHTS_FILE)
        write_config(directory, spec=self.spec, class_names=self.class_names, weights=WEIGHTS_FILE, report=self.report)


@dataclass(frozen=True)
class TfidfLearner:
    """TF-IDF with a linear classifier as a learner; see TfidfSpec for its options."""

    spec: TfidfSpec
    reproducible = True

    def fit(self, train: Labeled, *, dev: Labeled | None = None, seed: int, context: FitContext) -> Predictor:
        """Fit from scratch; there is no checkpoint: an interrupted fit starts again. `dev` is not used.

        The seed decides only who is in which fold when a temperature is cross-validated. Peak memory, which grows
        linearly: 430 MB for complement_nb at 177,000 news items (534,000 different features, 4 classes).

        Raises:
            TrainingError: no example.
            Interrupted: the process was asked to stop.
        """
        if len(train) == 0:
            raise TrainingError("tfidf: the training set has no example; label at least one")
        spec, texts = self.spec, native.texts_of(train.rows)
        context.raise_if_stopped("counting the features of tfidf")
        features, num_ids = native.find_features(
            texts,
            word_ngrams=spec.word_ngrams,
            bucket=spec.bucket,
            min_count=spec.min_count,
            normalize=spec.normalize,
        )
        features = tfidf_fit.without_end_of_text(features)
        counts_LW = tfidf_fit.count_matrix(texts, features, num_ids, spec.normalize)
        context.raise_if_stopped("fitting the classifier of tfidf")
        matrix_LW, idf_W = tfidf_fit.tfidf_in_place(counts_LW)
        del counts_LW
        num_classes = len(train.class_names)
        coefficients_CW, bias_C, more = tfidf_fit.fit_classifier(spec, matrix_LW, train.labels_L, num_classes)
        temperature = spec.temperature
        if temperature == "auto":
            temperature = 1.0
            if spec.classifier == "complement_nb":
                temperature = tfidf_fit.cross_validated(spec, matrix_LW, train, seed=seed, context=context)
        weights_WD = np.empty((len(idf_W), 1 + len(bias_C)), dtype=np.float32)
        weights_WD[:, 0] = idf_W
        for c, coefficients_W in enumerate(coefficients_CW):
            weights_WD[:, 1 + c] = coefficients_W / temperature * idf_W
        absent_C = bias_C == tfidf_fit.ABSENT
        scaled_C = np.where(absent_C, bias_C, bias_C / temperature).astype(np.float32)
        report = {
            "labeled_size": len(train),
            "words": len(features.word_counts),
            "ngrams": len(features.bucket_ids),
            "temperature": temperature,
            **more,
        }
        return TfidfPredictor(spec, train.class_names, features, weights_WD, scaled_C, report)

    def warm_up(self) -> None:
        """Compile the kernels and import scikit-learn, so that no measured time holds it."""
        rows = pa.table({TEXT: ["a b", "c d"]})
        tiny = self.spec.model_copy(update={"min_count": 1, "bucket": 100, "normalize": "svp"})
        labeled = Labeled(rows, np.array([0, 1]), np.array([0, 1]), ("a", "b"))
        TfidfLearner(tiny).fit(labeled, seed=0, context=FitContext()).predict(rows)

    def load(self, directory: Path) -> Predictor:
        """Load what `save` wrote.

        Raises:
            ModelError: a file is missing, changed, or does not fit the others.
        """
        config = read_config(directory)
        spec, class_names = TfidfSpec.model_validate(config["spec"]), tuple(config["class_names"])
        path = directory / config["weights"]
        try:
            arrays = load_file(path)
            features = native.features_of(arrays, bucket=spec.bucket, word_ngrams=spec.word_ngrams)
            weights_WD, bias_C = arrays["weights"], arrays["bias"]
        except (SafetensorError, KeyError) as error:
            raise ModelError(f"{path} is not a tfidf model of svp_nlp ({error}); train it again") from None
        predictor = TfidfPredictor(spec, class_names, features, weights_WD, bias_C, dict(config.get("report", {})))
        native.check_arrays(features, lambda: _misfit(predictor), where=str(path))
        return predictor


def _misfit(predictor: TfidfPredictor) -> str:
    weights_WD, bias_C, classes = predictor.weights_WD, predictor.bias_C, len(predictor.class_names)
    if weights_WD.dtype != np.float32 or bias_C.dtype != np.float32:
        return "weights or bias are not float32"
    expected = (predictor.features.num_rows, 1 + classes), (classes,)
    if (weights_WD.shape, bias_C.shape) != expected:
        return f"weights and bias have shapes {weights_WD.shape} and {bias_C.shape}, expected {expected}"
    if not (math.isfinite(weights_WD.sum()) and math.isfinite(bias_C.sum())):
        return "weights or bias hold NaN or infinity"
    return ""


spec_class = TfidfSpec
learner_class = TfidfLearner
