"""What every learner is made of: its spec, the rows it is fitted on, what it predicts. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from svp_nlp.arrays import FloatNC, FloatND, IntK, fingerprint_array, fingerprint_json
from svp_nlp.errors import Interrupted, ModelError
from svp_nlp.files import sha256_file
from svp_nlp.models.class_weights import DESCRIPTION, ClassWeights
from svp_nlp.pool import IMAGE, Pool
from svp_nlp.pool import TEXT as TEXT
from svp_nlp.pool_images import hash_images, read_image

if TYPE_CHECKING:
    from svp_nlp.models.dynamics import DynamicsRecorder

CONFIG_FILE = "config.json"


class Spec(BaseModel):
    """A part of a recipe: unknown keys are errors, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class LearnerSpec(Spec):
    """The options of one learner. `kind` tells which; subclasses narrow it to a Literal.

    Attributes:
        reads: what its rows are: of a pool with a text column or with an image column.
        records_dynamics: its training can tell, epoch by epoch, how each labelled row is learned.
    """

    reads: ClassVar[Literal["text", "image"]] = "text"
    records_dynamics: ClassVar[bool] = False

    kind: str

    @property
    def fingerprint(self) -> str:
        """Hash of all options: two learners with one fingerprint, one seed and one training set are the same."""
        return fingerprint_json(self.model_dump(mode="json"))


class ScheduleStage(Spec):
    """A constant learning rate for a number of epochs."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]


class TrainingSpec(Spec):
    """How an nn.Module is trained. The batch size is global: a recipe means the same on any hardware."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: tuple[ScheduleStage, ...] | None = Field(
        default=None,
        description="stages of constant learning rate; excludes num_train_epochs, min_train_steps, learning_rate, "
        "lr_scheduler and warmup_ratio",
    )
    num_train_epochs: Annotated[int, Field(ge=1)] = 15
    min_train_steps: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="epochs are added until there are so many optimiser steps, which a training on few labels needs; "
        "early stopping may still end it before",
    )
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    lr_scheduler: Literal["constant", "linear", "cosine"] = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: ClassWeights = Field(default="none", description=DESCRIPTION)
    global_batch_size: Annotated[int, Field(ge=1)] = 128
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a global batch is computed in this many parts: same result, less memory"
    )
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    eval_batch_size: Annotated[int, Field(ge=1)] = 256
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after this many epochs without a better dev accuracy; needs a dev set"
    )
    checkpoint_every_s: Annotated[float, Field(ge=0)] = Field(
        default=300.0, description="seconds between checkpoints; 0 = after every optimiser step"
    )
    data_parallel: bool | None = Field(
        default=None,
        description="whether all processes of a launch share each batch; the weights then depend, in dropout and last "
        "bits, on how many there are. null: targets yes, proxies no, so that selections do not",
    )

    @model_validator(mode="after")
    def _schedule_or_scheduler(self) -> TrainingSpec:
        # A value that is the default is no clash: a dump holds all values and must be readable again.
        fields = type(self).model_fields
        constant = ("num_train_epochs", "min_train_steps", "learning_rate", "lr_scheduler", "warmup_ratio")
        clash = [name for name in constant if getattr(self, name) != fields[name].default]
        if self.schedule is not None and clash:
            raise ValueError(f"schedule excludes {', '.join(clash)}: give one or the other")
        if self.schedule is not None and not self.schedule:
            raise ValueError("schedule has no stage")
        return self

    @property
    def epochs(self) -> int:
        """Epochs in all, whichever way they are given."""
        return sum(stage.epochs for stage in self.schedule) if self.schedule else self.num_train_epochs


@dataclass(frozen=True)
class Labeled:
    """Rows with labels: what a learner is fitted or evaluated on."""

    rows: pa.Table  # [L] model inputs only (column `text` or `image`)
    labels_L: npt.NDArray[np.int64]  # in [0, len(class_names))
    positions_L: IntK  # absolute positions in the pool, named in errors and in training dynamics
    class_names: tuple[str, ...]
    source: str = "pool"  # or the set that positions count in, for errors

    def __post_init__(self) -> None:
        assert self.rows.num_rows == len(self.labels_L) == len(self.positions_L)

    def __len__(self) -> int:
        return len(self.labels_L)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of inputs, labels and class names; O(bytes of text, or of encoded images, which are read one by one)."""
        if IMAGE in self.rows.column_names:
            content = fingerprint_array(hash_images(map(read_image, self.rows.column(IMAGE)))[0])
        else:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.rows.schema) as writer:
                writer.write_table(self.rows.combine_chunks())
            content = fingerprint_array(np.frombuffer(sink.getvalue(), np.uint8))
        return fingerprint_json([content, fingerprint_array(self.labels_L), list(self.class_names)])


@dataclass(frozen=True)
class Prediction:
    """Class probabilities (float32, rows sum to 1) and, when asked for, the features before the last layer."""

    probs_BC: FloatNC
    embeddings_BD: FloatND | None = None


Event: TypeAlias = dict[str, Any]


def _never() -> bool:
    return False


def _ignore(event: Event) -> None:
    return None


@dataclass(frozen=True)
class FitContext:
    """What a learner needs from its surroundings while it is fitted."""

    checkpoint_dir: Path | None = None  # None: nothing is written, an interrupted fit starts again
    on_event: Callable[[Event], None] = field(default=_ignore)  # one dict per epoch, JSON values only
    stop_requested: Callable[[], bool] = field(default=_never)  # asked between steps; True: checkpoint, Interrupted
    data_parallel: bool = False  # all processes of the launch call `fit` and share each batch; False: only this one
    pool: Pool | None = None  # for what is learned from unlabelled texts (a tokenizer); None: from the labelled rows
    features_LD: FloatND | None = None  # of the rows, for a FeatureLearner; None: it computes them
    encoder_dir: Path | None = None  # where a FeatureLearner's encoder was saved; None: made from its spec
    dynamics: DynamicsRecorder | None = None  # filled by a training whose spec `records_dynamics`; None: not recorded

    def raise_if_stopped(self, what: str) -> None:
        """Raises Interrupted when the process was asked to stop."""
        if self.stop_requested():
            raise Interrupted(f"stopped during {what}; the same command goes on from here")


class Predictor(Protocol):
    """A fitted learner.

    One that reads tokens may also have `token_statistics(rows)`: mean, p95, truncated (share) and max_length, for what
    a dry run says before any work.
    """

    class_names: tuple[str, ...]
    fingerprint: str  # hash of spec, weights and class names
    report: dict[str, Any]  # what fit chose or measured (JSON values): resolved hyper-parameters, epochs run

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities of a batch; the same batch gives the same bits on the same machine."""

    def save(self, directory: Path) -> None:
        """Write config.json and weights into an existing, empty directory. No pickle."""


class Learner(Protocol):
    """A kind of model with its options; proxy and target are roles of it.

    A learner may also have: `rows_per_batch` (int: rows given to `predict` at once when a pool is scored), `warm_up()`
    (compiles; its time is not counted), `scoring_dtype` (str, written in the lineage; float32 when absent). One whose
    spec has `training` is given a dev set, and may be fitted by several processes together (FitContext.data_parallel).
    """

    spec: LearnerSpec
    reproducible: bool  # False: the same seed may give other weights; the lineage says so

    def fit(self, train: Labeled, *, dev: Labeled | None, seed: int, context: FitContext) -> Predictor:
        """Fit from scratch. `dev` is for choosing among epochs, never for training."""

    def load(self, directory: Path) -> Predictor:
        """Load what Predictor.save wrote."""


class FeaturePredictor(Predictor, Protocol):
    """A predictor whose head works on stored features."""

    def predict_features(self, features_BD: FloatND) -> Prediction:
        """As `predict`, from what the encoder gave for these rows."""


class FeatureLearner(Learner, Protocol):
    """A learner that is all frozen encoder but for a small head: a pool is encoded once and its features are kept."""

    refresh_at: int | None  # labelled size at which the encoder is fine-tuned, once; None: never
    encoder_key: str  # hash of the options that decide what the encoder gives; needs no weights

    def encoder(self, tuned: Path | None = None, *, pool: Pool | None = None) -> Predictor:
        """The frozen part: `predict(batch, embeddings=True)` gives features and probabilities [B, 0].

        Args:
            tuned: directory of the fine-tuned model whose encoder is to be used; None: the one that the spec names.
            pool: what a tokenizer is trained on, where the spec asks for random weights.
        """

    def tuner(self) -> Learner:
        """The learner that fine-tunes the encoder on the first `refresh_at` labels."""


def texts_of(rows: pa.Table) -> pa.ChunkedArray:
    """The text column of a table.

    Raises:
        ModelError: there is none, or it does not hold texts.
    """
    if TEXT not in rows.column_names:
        raise ModelError(f"the model reads the column {TEXT!r}; found {rows.column_names}")
    texts = rows.column(TEXT)
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise ModelError(f"column {TEXT!r} is of type {texts.type}; the model expects string or large_string")
    return texts


# What config.json holds of ours; a model that was saved here and is trained on has them in its own config.
OUR_KEYS = frozenset(
    {"svp_kind", "svp_format", "spec", "class_names", "weights", "weights_sha256", "report"}
    | {"encoder", "encoder_fingerprint", "encoder_files"}
)


def write_config(
    directory: Path, *, spec: LearnerSpec, class_names: tuple[str, ...], weights: str, **more: Any
) -> None:
    """Write config.json beside `weights`, whose sha256 it holds: the reader checks it before it opens the file."""
    config = {
        "svp_kind": spec.kind,
        "svp_format": 1,
        "spec": spec.model_dump(mode="json"),
        "class_names": list(class_names),
        "weights": weights,
        "weights_sha256": sha256_file(directory / weights),
        **more,
    }
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json and verify the weights that it names.

    Raises:
        ModelError: a file is missing, is not ours, or differs from what was saved.
    """
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        weights, expected = config["weights"], config["weights_sha256"]
        found = sha256_file(directory / weights)
    except FileNotFoundError as error:
        raise ModelError(f"{error.filename} is missing; expected a directory that svp_nlp saved a model in") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a config.json of svp_nlp ({type(error).__name__}: {error})") from None
    if found != expected:
        raise ModelError(
            f"{directory / weights}: sha256 is {found[:12]}..., config.json says {str(expected)[:12]}...; "
            "the file was changed or cut short: copy or train it again"
        )
    return dict(config)
