"""How fast a learner is here: a few optimiser steps at the real batch size, a few batches scored. Writes nothing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from svp_nlp.arrays import IntK
from svp_nlp.data import Data
from svp_nlp.models import make_learner
from svp_nlp.models.base import Event, FitContext, Labeled, Learner, LearnerSpec, Predictor, TrainingSpec

TOKEN_ROWS = 2_000
_ROWS_WITHOUT_STEPS = 2_000
_STEPS = 20
_SECONDS = 60.0  # of steps; a step of a large target on a CPU takes longer than three seconds
_WARM_UP_ROWS = 8
_ROWS_SCORED_FIRST = 32
_SCORING_SECONDS = 5.0


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Attributes:
        seconds_per_training: loading or building the model, encoding the rows: what does not grow with the steps.
        seconds_per_row: of a labelled row over a whole training, besides the steps.
        seconds_per_step: of an optimiser step; 0 for learners without.
        seconds_per_text: to read a text to its probabilities (or to its features, where an encoder is frozen).
        seconds_per_scored_row: to score a row of the pool: as above, or from stored features.
        steps, batch_size: how many steps were timed, of how many rows.
        tokens: mean, p95, truncated (share), max_length, rows; empty where texts have no tokens.
        training: how the steps were set.
        tuner: of the fine-tuning of an encoder that is refreshed.
    """

    seconds_per_training: float
    seconds_per_row: float
    seconds_per_step: float
    seconds_per_text: float
    seconds_per_scored_row: float
    steps: int = 0
    batch_size: int = 0
    tokens: dict[str, float] = field(default_factory=dict)
    training: TrainingSpec | None = None
    tuner: Probe | None = None


def probe(spec: LearnerSpec, data: Data) -> Probe:
    """Time a learner on evenly spaced rows of the pool; takes about a minute where steps are slow."""
    learner = make_learner(spec)
    if hasattr(learner, "warm_up"):
        learner.warm_up()
    if hasattr(learner, "encoder"):
        return _probe_features(learner, data)
    if getattr(spec, "training", None) is not None:
        return _probe_steps(spec, data)
    return _probe_rows(learner, data)


def _probe_rows(learner: Learner, data: Data) -> Probe:
    """A learner without steps: its time grows with the rows."""
    _fit(learner, data, _WARM_UP_ROWS)
    labeled, predictor, seconds, _ = _fit(learner, data, _ROWS_WITHOUT_STEPS)
    per_text = _seconds_per_row(predictor.predict, labeled.rows)
    return Probe(0.0, seconds / len(labeled), 0.0, per_text, per_text, tokens=_tokens(predictor, data))


def _probe_steps(spec: LearnerSpec, data: Data) -> Probe:
    """A learner that is trained in steps: some of them, with the batch size and the texts of the recipe."""
    training: TrainingSpec = spec.training  # type: ignore[attr-defined]
    batch_size = training.global_batch_size
    _, _, _, events = _fit(_one_epoch(spec, batch_size=_WARM_UP_ROWS), data, _WARM_UP_ROWS)
    slowest = events[-1]["seconds"] * max(1.0, batch_size / _WARM_UP_ROWS)  # the first step is the slowest
    steps = int(min(max(_SECONDS / max(slowest, 1e-9), 2), _STEPS))
    learner = _one_epoch(spec, batch_size=batch_size)
    labeled, predictor, seconds, events = _fit(learner, data, steps * batch_size)
    steps = -(-len(labeled) // batch_size)
    in_epochs = sum(event["seconds"] for event in events)
    per_text = _seconds_per_row(predictor.predict, _rows(data, TOKEN_ROWS).rows)
    return Probe(
        seconds_per_training=max(0.0, seconds - in_epochs),
        # Epochs before the last one are another stage (a head that is trained first), done in full already.
        seconds_per_row=sum(event["seconds"] for event in events[:-1]) / len(labeled),
        seconds_per_step=events[-1]["seconds"] / steps,
        seconds_per_text=per_text,
        seconds_per_scored_row=per_text,
        steps=steps,
        batch_size=min(batch_size, len(labeled)),
        tokens=_tokens(predictor, data),
        training=training,
    )


def _probe_features(learner: Any, data: Data) -> Probe:
    """A head on a frozen encoder: texts are encoded once, heads are fitted on what was stored."""
    encoder = learner.encoder(pool=data.pool)
    per_text = _seconds_per_row(lambda batch: encoder.predict(batch, embeddings=True), _rows(data, TOKEN_ROWS).rows)
    labeled = _rows(data, int(min(_ROWS_WITHOUT_STEPS, max(_ROWS_SCORED_FIRST, _SCORING_SECONDS / per_text))))
    features_LD = encoder.predict(labeled.rows, embeddings=True).embeddings_BD
    with tempfile.TemporaryDirectory() as directory:  # a head is fitted beside a saved encoder, as in a run
        encoder.save(Path(directory))
        context = FitContext(pool=data.pool, features_LD=features_LD, encoder_dir=Path(directory))
        started = time.perf_counter()
        predictor = learner.fit(labeled, dev=None, seed=0, context=context)
        per_row = (time.perf_counter() - started) / len(labeled)
        started = time.perf_counter()
        predictor.predict_features(features_LD)
        per_scored_row = (time.perf_counter() - started) / len(labeled)
    tuner = _probe_steps(learner.tuner().spec, data) if learner.refresh_at is not None else None
    return Probe(0.0, per_row, 0.0, per_text, per_scored_row, tokens=_tokens(encoder, data), tuner=tuner)


def _one_epoch(spec: LearnerSpec, *, batch_size: int) -> Learner:
    """The same learner, for one epoch of batches of this size."""
    training: TrainingSpec = spec.training  # type: ignore[attr-defined]
    changes = {
        "schedule": None,
        "num_train_epochs": 1,
        "min_train_steps": None,
        "early_stopping_patience": None,
        "global_batch_size": batch_size,
    }
    return make_learner(spec.model_copy(update={"training": training.model_copy(update=changes)}))


def _fit(learner: Learner, data: Data, rows: int) -> tuple[Labeled, Predictor, float, list[Event]]:
    """A training on evenly spaced rows: they, the predictor, the seconds, the events of its epochs."""
    labeled = _rows(data, rows)
    events: list[Event] = []
    context = FitContext(on_event=events.append, pool=data.pool)
    started = time.perf_counter()
    predictor = learner.fit(labeled, dev=None, seed=0, context=context)
    return labeled, predictor, time.perf_counter() - started, [e for e in events if e.get("event") == "epoch"]


def _rows(data: Data, rows: int) -> Labeled:
    """So many rows of the pool, or all, evenly spaced: texts of typical lengths."""
    available = np.flatnonzero(data.available_N)
    positions_K: IntK = available[np.linspace(0, len(available) - 1, min(rows, len(available))).astype(np.int64)]
    # Where people are asked nothing is known yet; what an epoch costs does not depend on who is what.
    names = data.class_names if len(data.class_names) > 1 else ("a", "b")
    labels = np.arange(len(positions_K)) % len(names) if data.labels is None else data.labels.labels_N[positions_K]
    return Labeled(data.pool.take(positions_K), labels.astype(np.int64), positions_K, names)


def _seconds_per_row(predict: Callable[[pa.Table], Any], rows: pa.Table) -> float:
    """Seconds a row: of a few first, then of as many as a few seconds allow."""
    first = rows.slice(0, _ROWS_SCORED_FIRST)
    predict(first)  # warms up
    per_row = _seconds(predict, first) / max(first.num_rows, 1)
    more = rows.slice(0, int(min(rows.num_rows, _SCORING_SECONDS / max(per_row, 1e-9))))
    return _seconds(predict, more) / float(more.num_rows) if more.num_rows > first.num_rows else float(per_row)


def _seconds(predict: Callable[[pa.Table], Any], rows: pa.Table) -> float:
    started = time.perf_counter()
    predict(rows)
    return time.perf_counter() - started


def _tokens(predictor: Any, data: Data) -> dict[str, float]:
    """Lengths of evenly spaced texts in tokens, where the model reads tokens."""
    if not hasattr(predictor, "token_statistics"):
        return {}
    rows = _rows(data, TOKEN_ROWS).rows
    return {**predictor.token_statistics(rows), "rows": rows.num_rows}
