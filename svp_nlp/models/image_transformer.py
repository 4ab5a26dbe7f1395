"""Any AutoModelForImageClassification of transformers as a learner: ResNets of ImageNet, vision transformers, others.

The authors of SVP trained ResNet18 and ResNet50 on ImageNet so, which in a recipe is

    kind: image_transformer
    architecture: resnet50
    training:
      optimizer: sgd
      schedule:
        - {epochs: 1, learning_rate: 0.0167}
        - {epochs: 1, learning_rate: 0.0333}
        - {epochs: 1, learning_rate: 0.05}
        - {epochs: 1, learning_rate: 0.0667}
        - {epochs: 1, learning_rate: 0.0833}
        - {epochs: 25, learning_rate: 0.1}
        - {epochs: 30, learning_rate: 0.01}      # the proxy of 45 epochs: 15, and nothing after it
        - {epochs: 20, learning_rate: 0.001}
        - {epochs: 20, learning_rate: 0.0001}
      weight_decay: 0.0001
      label_smoothing: 0.1
      global_batch_size: 256
      max_grad_norm: null
      mixed_precision: bf16                      # they had float32

Letters in shapes: B batch, S size (pixels of a side), C classes, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from svp_nlp.arrays import fingerprint_json
from svp_nlp.errors import ModelError
from svp_nlp.models import training
from svp_nlp.models.base import FitContext, Labeled, Prediction
from svp_nlp.models.classifiers import WithFeatures, load_classifier, save_classifier, weights_digest
from svp_nlp.models.finetuning import check_labels, fine_tune
from svp_nlp.models.image import log_resized
from svp_nlp.models.image_classifier import ImageTransformerSpec, make_image_classifier
from svp_nlp.models.image_processor import FILE as PROCESSOR_FILE
from svp_nlp.models.image_processor import Pixels, load_pixels, save_pixels


class ImageTransformerPredictor:
    """A fitted image classifier."""

    def __init__(
        self,
        spec: ImageTransformerSpec,
        model: Any,
        pixels: Pixels,
        class_names: tuple[str, ...],
        *,
        report: dict[str, Any],
    ) -> None:
        """`model` must not be changed afterwards."""
        self.spec, self.class_names, self.report = spec, class_names, report
        self._model, self._pixels = model.eval().requires_grad_(False), pixels
        self._scorer = WithFeatures(model).eval()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of spec, weights, how images are prepared, and class names; a second for 1 GB, only when asked for."""
        pixels = dataclasses.asdict(self._pixels)
        weights = weights_digest(self._model)
        return fingerprint_json([self.spec.fingerprint, weights, pixels, list(self.class_names)])

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities [B, C] and the input of the last layer [B, D], float32; images are never augmented.

        Raises:
            ModelError: the table holds no images.
            PoolError: an image cannot be decoded; names it.
        """
        examples = self._pixels.examples(batch)
        if len(examples) == 0:
            nothing_BD = np.zeros((0, self._scorer.last.in_features), np.float32)
            return Prediction(np.zeros((0, len(self.class_names)), np.float32), nothing_BD if embeddings else None)
        return training.predict(
            self._scorer,
            examples,
            batch_size=self.spec.training.eval_batch_size,
            embeddings=embeddings,
            dtype=self.spec.scoring_dtype,
        )

    def save(self, directory: Path) -> None:
        """Write what `AutoModelForImageClassification.from_pretrained` and `pipeline` read, with our keys in it."""
        save_pixels(self._pixels, directory)
        save_classifier(directory, self._model, spec=self.spec, class_names=self.class_names, report=self.report)


class ImageTransformerLearner:
    """Fine-tunes an image classifier, or trains it from random weights, with the shared training loop."""

    reproducible = True
    rows_per_batch = 512  # when scoring: a shard of four is a minute or two of a CPU

    def __init__(self, spec: ImageTransformerSpec) -> None:
        """The options; nothing is loaded yet."""
        self.spec = spec

    @property
    def scoring_dtype(self) -> str:
        """What `predict` computes in."""
        return self.spec.scoring_dtype

    def fit(self, train: Labeled, *, dev: Labeled | None, seed: int, context: FitContext) -> ImageTransformerPredictor:
        """Train on augmented images; the dev set is never augmented.

        Raises:
            ModelError: see `pretrained`; the options do not fit the model, or the rows hold no images.
            PoolError: an image cannot be decoded; names its position in the pool.
            TrainingError: see `training.train`; fewer than two classes.
        """
        spec, name = self.spec, self.spec.model_name
        check_labels(train, name)
        made = make_image_classifier(spec, train.class_names, seed=seed)
        pixels, measured = made.pixels, None
        if dev is not None:
            measured = pixels.examples(dev.rows, positions_N=dev.positions_L, source=dev.source), dev.labels_L
        examples = pixels.examples(
            train.rows, train=spec.augmentation, positions_N=train.positions_L, source=train.source
        )
        log_resized(examples)
        result = fine_tune(
            made.model,
            examples,
            train,
            dev=measured,
            spec=spec.training,
            seed=seed,
            context=context,
            what=name,
            layerwise_lr_decay=spec.layerwise_lr_decay,
            head_first_epochs=spec.head_first_epochs,
            head_learning_rate=spec.head_learning_rate,
            compiled=spec.torch_compile,
        )
        report = {
            **result.report,
            "parameters": sum(parameter.numel() for parameter in made.model.parameters()),
            "model_revision": made.revision,
            "pixels": {**dataclasses.asdict(pixels), "mean": list(pixels.mean), "std": list(pixels.std)},
        }
        return ImageTransformerPredictor(spec, made.model, pixels, train.class_names, report=report)

    def load(self, directory: Path) -> ImageTransformerPredictor:
        """Load what `ImageTransformerPredictor.save` wrote.

        Raises:
            ModelError: a file is missing, damaged, or of another model.
        """
        from transformers import AutoModelForImageClassification

        model, class_names, report = load_classifier(
            directory, AutoModelForImageClassification, trust_remote_code=self.spec.trust_remote_code
        )
        pixels = load_pixels(str(directory))
        if pixels is None:
            raise ModelError(f"{directory / PROCESSOR_FILE} is missing; copy or train the model again")
        model = model.to(training.device(), memory_format=torch.channels_last)
        return ImageTransformerPredictor(self.spec, model, pixels, class_names, report=report)


spec_class = ImageTransformerSpec
learner_class: Callable[[ImageTransformerSpec], ImageTransformerLearner] = ImageTransformerLearner
