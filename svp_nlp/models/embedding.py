"""A frozen encoder and a small head: the pool is encoded once, then a round fits the head and costs seconds.

Source: the proxy on pre-computed features of Wen et al. 2024 (ASVP, arXiv 2403.01101), with their refresh: fine-tune
the encoder once, when there are labels enough, and encode again.

Letters in shapes: L labelled, B batch, C classes, D width of the features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from svp_nlp.arrays import FloatND, fingerprint_json
from svp_nlp.errors import ModelError, TrainingError
from svp_nlp.models import encoders, heads, make_learner, pretrained, training
from svp_nlp.models.base import (
    TEXT,
    FitContext,
    Labeled,
    Learner,
    Prediction,
    Spec,
    read_config,
    write_config,
)
from svp_nlp.models.class_weights import DESCRIPTION, ClassWeights
from svp_nlp.models.encoders import EncoderOptions, EncoderPredictor
from svp_nlp.models.finetuning import FineTuningSpec
from svp_nlp.models.heads import HeadTrainingSpec
from svp_nlp.models.prediction import ScoringDtype
from svp_nlp.models.pretrained import PretrainedSpec
from svp_nlp.models.tokens import pool_tokenizer
from svp_nlp.pool import Pool

HEAD_FILE = "head.safetensors"
ENCODER_DIRECTORY = "encoder"
ROWS_PER_BATCH = 512  # rows encoded at once: enough to sort by length; a shard of four is half a minute of a CPU
_TUNED_MAX_LENGTH = 128

# What decides the features of a text. The head is no part of it: recipes that differ in it share the encoded pool.
_ENCODER_FIELDS = (
    *("model_name_or_path", "revision", "trust_remote_code", "config", "vocab_size"),
    *("max_length", "pooling", "normalize", "encode_batch_size", "scoring_dtype"),
)


class RefreshSpec(Spec):
    """When the encoder is fine-tuned, and how."""

    at: Annotated[int, Field(ge=1, description="labelled size; the first so many labels are what it is tuned on")]
    training: FineTuningSpec = Field(default_factory=FineTuningSpec)


class EmbeddingSpec(PretrainedSpec):
    """Options of the frozen encoder, and of its head."""

    kind: Literal["embedding"] = "embedding"
    max_length: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="tokens kept of a text; null: what the model says, at most 256 (128 once it was fine-tuned)",
    )
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        default="auto", description="auto: what the model's sentence-transformers files say, else mean"
    )
    normalize: bool | None = Field(default=None, description="features of norm 1; null: what those files say, else no")
    head: Literal["linear", "mlp"] = "linear"
    C: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="linear: inverse of the L2 penalty, for centred features of norm 1 on average"
    )
    class_weights: ClassWeights = Field(
        default="none", description=f"linear: {DESCRIPTION}; mlp: head_training.class_weights"
    )
    hidden_size: Annotated[int, Field(ge=1)] = Field(default=128, description="mlp: units of its one hidden layer")
    head_training: HeadTrainingSpec = Field(default_factory=HeadTrainingSpec, description="mlp: how it is trained")
    refresh: RefreshSpec | None = Field(default=None, description="fine-tune the encoder once; null: never")
    encode_batch_size: Annotated[int, Field(ge=1)] = 32
    scoring_dtype: ScoringDtype = Field(
        default="float32", description="of the encoder; bfloat16 is faster on GPUs and slower on most CPUs"
    )

    @model_validator(mode="after")
    def _options_of_the_head(self) -> EmbeddingSpec:
        # A value that is the default is no clash: a dump holds all values and must be readable again.
        others = ("hidden_size", "head_training") if self.head == "linear" else ("C", "class_weights")
        fields = type(self).model_fields
        given = [name for name in others if getattr(self, name) != fields[name].get_default(call_default_factory=True)]
        if given:
            raise ValueError(f"{', '.join(given)} does nothing for head {self.head!r}; leave it out")
        if self.head_training.early_stopping_patience is not None:
            raise ValueError(
                "head_training: early_stopping_patience needs a dev set, and a head has none; leave it out"
            )
        return self


class EmbeddingPredictor:
    """A head, and where its encoder is; the encoder is loaded when texts are to be read, and only then."""

    def __init__(
        self,
        spec: EmbeddingSpec,
        head: heads.Head,
        class_names: tuple[str, ...],
        *,
        encoder: EncoderPredictor | Path,
        report: dict[str, Any],
    ) -> None:
        """`encoder` is one in memory, or the directory that it was saved in."""
        self.spec, self.class_names, self.report = spec, class_names, report
        self._head = head
        self._encoder_dir = encoder if isinstance(encoder, Path) else None
        self._encoder = None if isinstance(encoder, Path) else encoder
        self.encoder_fingerprint = (
            encoders.recorded_fingerprint(encoder) if isinstance(encoder, Path) else encoder.fingerprint
        )
        head_sha256 = hashlib.sha256(head.to_bytes()).hexdigest()
        self.fingerprint = fingerprint_json(
            [spec.fingerprint, self.encoder_fingerprint, head_sha256, list(class_names)]
        )

    @property
    def encoder(self) -> EncoderPredictor:
        """The encoder; loaded by the first call."""
        if self._encoder is None:
            assert self._encoder_dir is not None
            self._encoder = _load(self._encoder_dir, self.spec)
        return self._encoder

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities [B, C], and what the encoder gave [B, D] when asked for, float32."""
        features_BD = self.encoder.predict(batch, embeddings=True).embeddings_BD
        assert features_BD is not None
        return Prediction(self._head.probs(features_BD), features_BD if embeddings else None)

    def predict_features(self, features_BD: FloatND) -> Prediction:
        """Probabilities [B, C] from what the encoder gave, which is passed on as the embeddings.

        Raises:
            ModelError: the features have another width than those that the head was fitted on.
        """
        return Prediction(self._head.probs(features_BD), features_BD)

    def save(self, directory: Path) -> None:
        """Write the head, config.json, and the encoder: a hard link to the saved one where there is one."""
        (directory / HEAD_FILE).write_bytes(self._head.to_bytes())
        target = directory / ENCODER_DIRECTORY
        if self._encoder_dir is not None:
            encoders.link_encoder(self._encoder_dir, target)
        else:
            target.mkdir()
            self.encoder.save(target)
        write_config(
            directory, spec=self.spec, class_names=self.class_names, weights=HEAD_FILE, report=self.report,
            encoder_fingerprint=self.encoder_fingerprint,
        )  # fmt: skip


class EmbeddingLearner:
    """Fits a head on what a frozen encoder gives."""

    reproducible = True
    rows_per_batch = ROWS_PER_BATCH

    def __init__(self, spec: EmbeddingSpec) -> None:
        """The options; nothing is loaded yet."""
        self.spec = spec
        self.refresh_at: int | None = None if spec.refresh is None else spec.refresh.at
        self.scoring_dtype: str = spec.scoring_dtype
        self.encoder_key = fingerprint_json(spec.model_dump(mode="json", include=set(_ENCODER_FIELDS)))

    def encoder(self, tuned: Path | None = None, *, pool: Pool | None = None) -> EncoderPredictor:
        """The frozen part.

        Args:
            tuned: directory of the fine-tuned model whose encoder is to be used; None: the one that the spec names.
            pool: what the tokenizer of an encoder with random weights is trained on.
        Raises:
            ModelError: the model cannot be loaded, or is no encoder; random weights, and no pool.
        """
        return _make_encoder(self.spec, tuned=tuned, pool=pool)

    def tuner(self) -> Learner:
        """The learner that fine-tunes the encoder, at `max_length` tokens, or 128 when that is left to the model."""
        assert self.spec.refresh is not None
        model = self.spec.model_dump(include=set(PretrainedSpec.model_fields) - {"kind"})
        max_length = self.spec.max_length or _TUNED_MAX_LENGTH
        training_options = self.spec.refresh.training.model_dump()
        return make_learner("transformer", **model, max_length=max_length, training=training_options)

    def fit(self, train: Labeled, *, dev: Labeled | None = None, seed: int, context: FitContext) -> EmbeddingPredictor:
        """Fit the head; on `context.features_LD` if given, else the rows are encoded first.

        There are no epochs to choose from: `dev` is not used. A linear head does not depend on the seed.

        Raises:
            TrainingError: no row.
            ModelError: see `encoder`; or the features do not fit the rows.
        """
        if len(train) == 0:
            raise TrainingError("embedding: no labelled row to train on; label some rows first")
        context.raise_if_stopped("the fit of an embedding head")
        encoder: EncoderPredictor | Path
        if context.encoder_dir is not None:
            encoder = context.encoder_dir
        else:
            encoder = _make_encoder(self.spec, pool=context.pool, texts=train.rows.column(TEXT))
        features_LD = context.features_LD
        if features_LD is None:
            encoder = _load(encoder, self.spec) if isinstance(encoder, Path) else encoder
            features_LD = _encode(encoder, train.rows, context)
        if len(features_LD) != len(train):
            raise ModelError(f"{len(features_LD):,} rows of features for {len(train):,} labelled rows; encode again")
        if not np.isfinite(features_LD).all():
            row = int(np.argmin(np.isfinite(features_LD).all(axis=1)))
            raise ModelError(
                f"the encoder gave NaN or infinity for position {train.positions_L[row]:,}; use scoring_dtype float32 "
                "or another model"
            )
        context.raise_if_stopped("the fit of an embedding head")
        report: dict[str, Any] = {} if isinstance(encoder, Path) else {"encoder": encoder.report}
        if self.spec.head == "linear":
            head = heads.fit_linear(
                features_LD, train.labels_L, num_classes=len(train.class_names), inverse_penalty=self.spec.C,
                weights=self.spec.class_weights,
            )  # fmt: skip
        else:
            head, trained = heads.fit_mlp(
                features_LD, train, hidden_size=self.spec.hidden_size, spec=self.spec.head_training, seed=seed,
                context=context,
            )  # fmt: skip
            report |= trained
        return EmbeddingPredictor(self.spec, head, train.class_names, encoder=encoder, report=report)

    def load(self, directory: Path) -> EmbeddingPredictor | EncoderPredictor:
        """Load what `EmbeddingPredictor.save` or `EncoderPredictor.save` wrote.

        All files are verified; of a head's encoder no more than that, until texts are to be read.

        Raises:
            ModelError: a file is missing or damaged, or the encoder is not the one of the head.
        """
        config = read_config(directory)
        if "encoder_files" in config:
            return _load(directory, self.spec)
        class_names = tuple(config.get("class_names", ()))
        head = heads.read_head(directory / config["weights"], num_classes=len(class_names))
        found = encoders.read_encoder_config(directory / ENCODER_DIRECTORY).get("encoder_fingerprint")
        if found != config.get("encoder_fingerprint"):
            raise ModelError(
                f"{directory / ENCODER_DIRECTORY} is not the encoder of this head; copy both or fit it again"
            )
        return EmbeddingPredictor(
            self.spec, head, class_names, encoder=directory / ENCODER_DIRECTORY, report=dict(config.get("report", {}))
        )


def _load(directory: Path, spec: EmbeddingSpec) -> EncoderPredictor:
    return encoders.load_encoder(directory, spec, trust_remote_code=spec.trust_remote_code)


def _encode(encoder: EncoderPredictor, rows: pa.Table, context: FitContext) -> FloatND:
    parts = []
    for start in range(0, rows.num_rows, ROWS_PER_BATCH):
        context.raise_if_stopped("encoding the labelled rows")
        parts.append(encoder.predict(rows.slice(start, ROWS_PER_BATCH), embeddings=True).embeddings_BD)
    return np.concatenate([part for part in parts if part is not None])


def _make_encoder(
    spec: EmbeddingSpec, *, tuned: Path | None = None, pool: Pool | None, texts: pa.ChunkedArray | None = None
) -> EncoderPredictor:
    """The encoder of a spec; the pool, or else `texts`, train the tokenizer of one with random weights."""
    from transformers import AutoModel

    layout, revision, pinned = encoders.Layout(), None, None
    # Random weights, and a pooler that a checkpoint lacks, are the same for every seed: all share the encoded pool.
    with training.seeded(0):
        if spec.config is not None and tuned is None:
            if pool is None and texts is None:
                raise ModelError("an encoder from a config learns its tokenizer from the pool, and no pool was given")
            name = f"a {spec.config['model_type']} from config"
            tokenizer = pool_tokenizer(texts, pool, vocab_size=spec.vocab_size)
            with pretrained.clear_loading_errors(name):
                body = AutoModel.from_config(pretrained.build_config(spec.config, tokenizer), dtype=torch.float32)
        else:
            trust = {"trust_remote_code": spec.trust_remote_code}
            if spec.model_name_or_path is not None:
                config = pretrained.load_config(spec.model_name_or_path, revision=spec.revision, **trust)
                revision = pretrained.resolved_revision(config)
                pinned = revision or spec.revision  # all files from one commit, even if a branch moves
                layout = encoders.read_layout(spec.model_name_or_path, revision=pinned)
            name = str(tuned or spec.model_name_or_path)
            at = None if tuned is not None else pinned
            tokenizer = pretrained.load_tokenizer(name, revision=at, **trust)
            body = pretrained.load_model(AutoModel, name, revision=at, **trust)
    if body.config.is_encoder_decoder:
        raise ModelError(f"{name} ({body.config.model_type}) is an encoder with a decoder; name an encoder alone")
    body.config.use_cache = False  # for generating; decoders would keep keys and values of every batch
    options = _options(spec, layout, name, tokenizer=tokenizer, body=body)
    report = {
        "model_revision": revision,
        "parameters": sum(parameter.numel() for parameter in body.parameters()),
        **dataclasses.asdict(options),
    }
    return EncoderPredictor(spec, body, tokenizer, options, report=report)


def _options(spec: EmbeddingSpec, layout: encoders.Layout, name: str, *, tokenizer: Any, body: Any) -> EncoderOptions:
    """What the spec leaves open, filled in by the model.

    Raises:
        ModelError: the model has a part that is not computed here, or takes fewer tokens.
    """
    if layout.unsupported is not None and "auto" in (spec.pooling, "auto" if spec.normalize is None else ""):
        raise ModelError(
            f"{name}: modules.json asks for {layout.unsupported}, which is not computed here; set pooling and "
            "normalize to use its encoder without it"
        )
    limits = (layout.max_length, tokenizer.model_max_length, getattr(body.config, "max_position_embeddings", None))
    max_length = spec.max_length or min([encoders.LONGEST, *(limit for limit in limits if limit)])
    pretrained.check_fits(body, tokenizer, max_length=max_length, name=name)
    return EncoderOptions(
        pooling=layout.pooling if spec.pooling == "auto" else spec.pooling,
        normalize=layout.normalize if spec.normalize is None else spec.normalize,
        max_length=max_length,
        lower_case=layout.lower_case,
        batch_size=spec.encode_batch_size,
        dtype=spec.scoring_dtype,
    )


spec_class = EmbeddingSpec
learner_class: Callable[[EmbeddingSpec], EmbeddingLearner] = EmbeddingLearner
