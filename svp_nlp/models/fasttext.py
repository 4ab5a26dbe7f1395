"""fastText: the cheapest proxy. Options, learner and predictor; the model itself is in fasttext_native.py.

Two engines behind one spec: `native` is ours, reproducible bit for bit from the seed; `fasttext` is the official
package (fasttext_package.py), for those who must compare with it.
"""

from __future__ import annotations

import math
import time
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
from svp_nlp.models.class_weights import DESCRIPTION, ClassWeights, class_weights
from svp_nlp.models.normalize import Normalization

WEIGHTS_FILE = "weights.safetensors"


class FastTextSpec(LearnerSpec):
    """Options of fastText's supervised mode, under the names of its papers and of Hugging Face."""

    kind: Literal["fasttext"] = "fasttext"
    engine: Literal["native", "fasttext"] = Field(
        default="native", description="native: ours, reproducible; fasttext: the official package, not reproducible"
    )
    dim: Annotated[int, Field(ge=1, le=1024)] = 10
    word_ngrams: Annotated[int, Field(ge=1, le=5)] = 2
    min_count: Annotated[int, Field(ge=1)] = 1
    bucket: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=10_000_000,
        description="hash values of word n-grams; only those that occur take memory in the native engine",
    )
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="auto: follows the labelled size"
    )
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="auto: follows the labelled size"
    )
    normalize: Normalization = Field(
        default="svp",
        description="svp: lower-case ASCII and set off punctuation as the paper's scripts do; none: leave texts",
    )
    class_weights: ClassWeights = Field(default="none", description=f"native: {DESCRIPTION}")

    @model_validator(mode="after")
    def _weighs_natively(self) -> FastTextSpec:
        if self.engine == "fasttext" and self.class_weights != "none":
            raise ValueError("class_weights: the official package knows none; use engine native, or leave it out")
        return self


def resolve(spec: FastTextSpec, labeled_size: int, num_classes: int) -> tuple[float, int]:
    """Learning rate and epochs for a labelled size; given values stay.

    What decides is learning rate x epochs x examples: below about 7,500 x sqrt(classes) the model is near chance (the
    paper's 0.05 x 5 epochs needs 60,000 examples of 4 classes), above it accuracy is flat within half a point and only
    the probabilities grow overconfident. So: 0.5 and as many epochs as that takes, 10 to 100; from 20,000 examples on
    10 epochs are more than enough and the rate falls instead. Measured on held-out parts of the training sets of AG
    News, Amazon reviews, SST-2, TREC-6 and Banking77 at 100 to 135,000 labels; no data set is tuned for.
    """
    auto_rate = 0.5 if labeled_size <= 20_000 else max(0.05, 0.5 * math.sqrt(20_000 / labeled_size))
    auto_epochs = min(max(round(15_000 * math.sqrt(num_classes) / max(labeled_size, 1)), 10), 100)
    learning_rate = auto_rate if spec.learning_rate == "auto" else spec.learning_rate
    epochs = auto_epochs if spec.epochs == "auto" else spec.epochs
    return learning_rate, epochs


@dataclass(eq=False)
class FastTextPredictor:
    """A fitted native model."""

    spec: FastTextSpec
    class_names: tuple[str, ...]
    features: native.Features
    input_RD: npt.NDArray[np.float32]
    output_CD: npt.NDArray[np.float32]
    report: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        arrays = {name: fingerprint_array(array) for name, array in self._arrays().items()}
        parts = {"spec": self.spec.fingerprint, "class_names": self.class_names, "arrays": arrays}
        self.fingerprint = fingerprint_json(parts)

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {**self.features.arrays, "input": self.input_RD, "output": self.output_CD}

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities and, at no extra cost, mean feature vectors. Line feeds and any length of text are fine."""
        probs_BC, hidden_BD = native.score(
            native.texts_of(batch), self.features, self.input_RD, self.output_CD, self.spec.normalize
        )
        return Prediction(probs_BC, hidden_BD if embeddings else None)

    def save(self, directory: Path) -> None:
        """Write config.json and weights.safetensors into an existing directory."""
        save_file(self._arrays(), directory / WEIGHTS_FILE)
        write_config(directory, spec=self.spec, class_names=self.class_names, weights=WEIGHTS_FILE, report=self.report)


@dataclass(frozen=True)
class FastTextLearner:
    """fastText as a learner; see FastTextSpec for its options."""

    spec: FastTextSpec

    @property
    def reproducible(self) -> bool:
        """The official package trains on several threads at once, so its weights depend on chance."""
        return self.spec.engine == "native"

    def fit(self, train: Labeled, *, dev: Labeled | None = None, seed: int, context: FitContext) -> Predictor:
        """Fit from scratch; seconds, so there is no checkpoint: an interrupted fit starts again. `dev` is not used.

        Raises:
            TrainingError: no example, or the loss is no longer a number.
            Interrupted: the process was asked to stop.
            ModelError: the engine `fasttext` is not installed or does not work.
        """
        if len(train) == 0:
            raise TrainingError("fastText: the training set has no example; label at least one")
        learning_rate, epochs = resolve(self.spec, len(train), len(train.class_names))
        if self.spec.engine == "fasttext":
            from svp_nlp.models.fasttext_package import fit

            return fit(self.spec, train, learning_rate=learning_rate, epochs=epochs, seed=seed, context=context)
        spec, texts = self.spec, native.texts_of(train.rows)
        losses: list[float] = []
        clock = time.perf_counter()

        def on_epoch(done: int, loss: float) -> None:
            nonlocal clock
            if done:
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                losses.append(loss)
                context.on_event(
                    {
                        "event": "epoch",
                        "what": "fastText",
                        "epoch": done,
                        "epochs": epochs,
                        "loss": loss,
                        "learning_rate": learning_rate * (1 - done / epochs),
                        "examples_per_second": len(train) / max(seconds, 1e-9),
                        "seconds": seconds,
                    }
                )
            if done < epochs:
                context.raise_if_stopped(f"fastText epoch {done + 1} of {epochs}")

        features, num_ids = native.find_features(
            texts,
            word_ngrams=spec.word_ngrams,
            bucket=spec.bucket,
            min_count=spec.min_count,
            normalize=spec.normalize,
        )
        input_RD, output_CD = native.train(
            texts,
            train.labels_L,
            features,
            num_ids=num_ids,
            num_classes=len(train.class_names),
            dim=spec.dim,
            learning_rate=learning_rate,
            epochs=epochs,
            seed=seed,
            normalize=spec.normalize,
            weights_C=class_weights(train.labels_L, spec.class_weights, num_classes=len(train.class_names)),
            on_epoch=on_epoch,
        )
        report = {
            "labeled_size": len(train),
            "learning_rate": learning_rate,
            "epochs": epochs,
            "words": len(features.word_counts),
            "ngrams": len(features.bucket_ids),
            "train_loss": losses[-1],
        }
        return FastTextPredictor(spec, train.class_names, features, input_RD, output_CD, report)

    def warm_up(self) -> None:
        """Compile the kernels, which takes seconds once an installation, so that no measured time holds it."""
        if self.spec.engine == "native":
            rows = pa.table({TEXT: ["a b", "c d"]})
            tiny = FastTextSpec(dim=self.spec.dim, word_ngrams=self.spec.word_ngrams, epochs=1, normalize="svp")
            labeled = Labeled(rows, np.array([0, 1]), np.array([0, 1]), ("a", "b"))
            FastTextLearner(tiny).fit(labeled, seed=0, context=FitContext()).predict(rows)

    def load(self, directory: Path) -> Predictor:
        """Load what `save` of either engine wrote.

        Raises:
            ModelError: a file is missing, changed, or does not fit the others.
        """
        config = read_config(directory)
        spec = FastTextSpec.model_validate(config["spec"])
        class_names, report = tuple(config["class_names"]), dict(config.get("report", {}))
        path = directory / config["weights"]
        if spec.engine == "fasttext":
            from svp_nlp.models.fasttext_package import load

            return load(path, spec=spec, class_names=class_names, report=report)
        try:
            arrays = load_file(path)
            features = native.features_of(arrays, bucket=spec.bucket, word_ngrams=spec.word_ngrams)
            predictor = FastTextPredictor(spec, class_names, features, arrays["input"], arrays["output"], report)
        except (SafetensorError, KeyError) as error:
            raise ModelError(f"{path} is not a fastText model of svp_nlp ({error}); train it again") from None
        check_arrays(predictor, str(path))
        return predictor


def check_arrays(predictor: FastTextPredictor, where: str) -> None:
    """Raises: ModelError: the arrays do not fit each other."""
    native.check_arrays(predictor.features, lambda: _misfit(predictor), where=where, writer="svp_nlp or fastText")


def _misfit(predictor: FastTextPredictor) -> str:
    expected, shape = [predictor.features.num_rows, predictor.spec.dim], list(predictor.input_RD.shape)
    if shape != expected:
        return f"input matrix has shape {shape}, expected {expected}"
    if predictor.output_CD.shape != (len(predictor.class_names), predictor.spec.dim):
        return f"output matrix has shape {list(predictor.output_CD.shape)} for {len(predictor.class_names)} classes"
    if predictor.input_RD.dtype != np.float32 or predictor.output_CD.dtype != np.float32:
        return "matrices are not float32"
    if not (math.isfinite(predictor.input_RD.sum()) and math.isfinite(predictor.output_CD.sum())):
        return "a matrix holds NaN or infinity"
    return ""


spec_class = FastTextSpec
learner_class = FastTextLearner
