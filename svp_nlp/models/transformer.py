"""Any AutoModelForSequenceClassification of transformers as a learner: fine-tuned, scored, saved as transformers does.

Letters in shapes: B batch, L tokens, C classes, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from svp_nlp.arrays import fingerprint_json
from svp_nlp.errors import ModelError
from svp_nlp.models import training
from svp_nlp.models.base import (
    FitContext,
    Labeled,
    Prediction,
    texts_of,
)
from svp_nlp.models.classifiers import (
    WithFeatures,
    checkpoint_activations,
    load_classifier,
    make_classifier,
    save_classifier,
    weights_digest,
)
from svp_nlp.models.encoders import tokenizer_content
from svp_nlp.models.finetuning import FineTuningSpec, check_labels, fine_tune
from svp_nlp.models.prediction import ScoringDtype
from svp_nlp.models.pretrained import PretrainedSpec, load_tokenizer
from svp_nlp.models.tokens import TokenExamples, token_examples, token_lengths


class TransformerSpec(PretrainedSpec):
    """Options of a transformer."""

    records_dynamics: ClassVar[bool] = True

    kind: Literal["transformer"] = "transformer"
    max_length: Annotated[int, Field(ge=4, description="tokens kept of a text")] = 128
    classifier_dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="null: what the model says"
    )
    group_by_length: bool = Field(default=True, description="train on batches of like lengths: less padding")
    layerwise_lr_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="each layer learns at this factor of the rate of the layer above it"
    )
    head_first_epochs: Annotated[int, Field(ge=0)] = Field(
        default=0, description="epochs in which the head alone is trained, before everything is (LP-FT)"
    )
    head_learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="in head_first_epochs")
    gradient_checkpointing: bool = Field(default=False, description="less memory, a third more time")
    torch_compile: bool = Field(
        default=False, description="compile the training steps: minutes before the first one, and other dropout masks"
    )
    scoring_dtype: ScoringDtype = Field(default="float32", description="bfloat16: faster on most GPUs, not on CPUs")
    training: FineTuningSpec = Field(default_factory=FineTuningSpec)

    @model_validator(mode="after")
    def _rate_of_the_head(self) -> TransformerSpec:
        # A value that is the default is no clash: a dump holds all values and must be readable again.
        default = type(self).model_fields["head_learning_rate"].default
        if not self.head_first_epochs and self.head_learning_rate != default:
            raise ValueError("head_learning_rate does nothing without head_first_epochs; set that, or leave it out")
        return self


class TransformerPredictor:
    """A fitted transformer."""

    def __init__(
        self, spec: TransformerSpec, model: Any, tokenizer: Any, class_names: tuple[str, ...], *, report: dict[str, Any]
    ) -> None:
        """`model` and `tokenizer` must not be changed afterwards."""
        self.spec, self.class_names, self.report = spec, class_names, report
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer
        self._scorer = WithFeatures(model).eval()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of spec, weights, tokenizer and class names; a second for 1 GB, so only when asked for."""
        weights, tokenizer = weights_digest(self._model), tokenizer_content(self._tokenizer)
        return fingerprint_json([self.spec.fingerprint, weights, tokenizer, list(self.class_names)])

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities [B, C] and the input of the last layer [B, D], float32, in the order of `batch`.

        Rows are computed in order of length, `eval_batch_size` at a time: about half the work of the given order. The
        same batch gives the same bits; in another batch, a row may differ by 1e-6 (bfloat16: by 1e-2).
        """
        if batch.num_rows == 0:
            width = self._scorer.last.in_features
            empty = np.zeros((0, len(self.class_names)), np.float32)
            return Prediction(empty, np.zeros((0, width), np.float32) if embeddings else None)
        return training.predict(
            self._scorer,
            _examples(batch, self._tokenizer, self.spec),
            batch_size=self.spec.training.eval_batch_size,
            embeddings=embeddings,
            group_by_length=True,
            dtype=self.spec.scoring_dtype,
        )

    def token_statistics(self, rows: pa.Table) -> dict[str, float]:
        """Lengths of texts in tokens (`mean`, `p95`), and the share that is `truncated` at `max_length`."""
        lengths = token_lengths(texts_of(rows), self._tokenizer, max_length=self.spec.max_length)
        return {**dataclasses.asdict(lengths), "max_length": self.spec.max_length}

    def save(self, directory: Path) -> None:
        """Write what `AutoModelForSequenceClassification.from_pretrained` and `pipeline` read, with our keys in it."""
        self._tokenizer.save_pretrained(directory)
        save_classifier(directory, self._model, spec=self.spec, class_names=self.class_names, report=self.report)


def _examples(rows: pa.Table, tokenizer: Any, spec: TransformerSpec, *, group_by_length: bool = True) -> TokenExamples:
    wide = spec.torch_compile or training.device().type != "cpu"
    return token_examples(
        texts_of(rows),
        tokenizer,
        max_length=spec.max_length,
        group_by_length=group_by_length,
        pad_to_multiple_of=8 if wide else 1,
    )


class TransformerLearner:
    """Fine-tunes a transformer with the shared training loop."""

    reproducible = True
    rows_per_batch = (
        512  # when scoring: enough for batches of like lengths; a shard of four is a minute or two of a CPU
    )

    def __init__(self, spec: TransformerSpec) -> None:
        """The options; nothing is loaded yet."""
        self.spec = spec

    @property
    def scoring_dtype(self) -> str:
        """What `predict` computes in."""
        return self.spec.scoring_dtype

    def fit(self, train: Labeled, *, dev: Labeled | None, seed: int, context: FitContext) -> TransformerPredictor:
        """Fine-tune from the pretrained weights, or train from random ones. Texts are tokenised once, not per epoch.

        Raises:
            ModelError: see `pretrained`; or the options do not fit the model.
            TrainingError: see `training.train`; fewer than two classes.
        """
        spec, name = self.spec, self.spec.model_name
        check_labels(train, name)
        texts = texts_of(train.rows)
        made = make_classifier(
            spec, train.class_names, texts, pool=context.pool, seed=seed, max_length=spec.max_length,
            dropout=spec.classifier_dropout,
        )  # fmt: skip
        model, tokenizer = made.model, made.tokenizer
        result = self._train(model, tokenizer, train, dev=dev, seed=seed, context=context)
        lengths = token_lengths(texts, tokenizer, max_length=spec.max_length)
        report = {
            **result.report,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "model_revision": made.revision,
            "tokens": dataclasses.asdict(lengths),
        }
        return TransformerPredictor(spec, model, tokenizer, train.class_names, report=report)

    def _train(
        self, model: Any, tokenizer: Any, train: Labeled, *, dev: Labeled | None, seed: int, context: FitContext
    ) -> training.TrainingResult:
        spec = self.spec
        measured: training.Dev | None = None
        if dev is not None:  # in order of length: less padding
            order_N = np.argsort(pc.utf8_length(texts_of(dev.rows)).to_numpy(), kind="stable")
            measured = _examples(dev.rows.take(order_N), tokenizer, spec), dev.labels_L[order_N]
        if spec.gradient_checkpointing:
            if not model.supports_gradient_checkpointing:
                raise ModelError(f"{spec.model_name} has no gradient checkpointing; leave out gradient_checkpointing")
            checkpoint_activations(model, True)
        result = fine_tune(
            model,
            _examples(train.rows, tokenizer, spec, group_by_length=spec.group_by_length),
            train,
            dev=measured,
            spec=spec.training,
            seed=seed,
            context=context,
            what=spec.model_name,
            layerwise_lr_decay=spec.layerwise_lr_decay,
            head_first_epochs=spec.head_first_epochs,
            head_learning_rate=spec.head_learning_rate,
            compiled=spec.torch_compile,
        )
        if spec.gradient_checkpointing:
            checkpoint_activations(model, False)
        return result

    def load(self, directory: Path) -> TransformerPredictor:
        """Load what `TransformerPredictor.save` wrote.

        Raises:
            ModelError: a file is missing, damaged, or of another model.
        """
        from transformers import AutoModelForSequenceClassification

        trust = self.spec.trust_remote_code
        model, class_names, report = load_classifier(
            directory, AutoModelForSequenceClassification, trust_remote_code=trust
        )
        tokenizer = load_tokenizer(str(directory), trust_remote_code=trust)
        return TransformerPredictor(self.spec, model.to(training.device()), tokenizer, class_names, report=report)


spec_class = TransformerSpec
learner_class: Callable[[TransformerSpec], TransformerLearner] = TransformerLearner
