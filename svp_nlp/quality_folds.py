"""Probabilities of labelled rows by models that were not trained on them: cross-validation.

Shape legend: L labelled rows, C classes, F folds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from svp_nlp.arrays import FloatNC, FloatND, IntN, UIntN, keyed_hash
from svp_nlp.errors import LabelError
from svp_nlp.models.base import FitContext, Labeled, Learner

FOLDS, FEW_FOLDS = 10, 5  # more find slightly more on all data tried (benchmarks/README.md); few where a fit is slow
_ROWS_PER_BATCH = 1024


def default_folds(learner: Learner) -> int:
    """How many parts are worth their trainings."""
    return FEW_FOLDS if hasattr(learner.spec, "training") else FOLDS


def assign_folds(labels_L: IntN, keys_L: UIntN, *, folds: int, seed: int) -> IntN:
    """The fold of each row, int64 in [0, folds): folds differ by one row at most, and so do they within each class.

    It depends on label and key of a row and on who else is labelled, not on the order of the rows.
    """
    order = np.lexsort((keyed_hash(keys_L, seed, "folds"), labels_L))
    folds_L = np.empty(len(labels_L), dtype=np.int64)
    folds_L[order] = np.arange(len(labels_L)) % folds  # dealt class by class
    return folds_L


def out_of_fold(
    learner: Learner,
    labeled: Labeled,
    *,
    keys_L: UIntN,
    seed: int,
    folds: int = FOLDS,
    dev: Labeled | float | None = None,
    on_fold: Callable[[int], None] = lambda fold: None,
) -> FloatNC:
    """Probabilities [L, C] of each row, by a model that was fitted on the other folds: so many trainings.

    Args:
        keys_L: what decides the folds, from the rows' ids.
        folds: no more than there are rows are made.
        dev: what a learner that trains in epochs chooses among them by: rows, or a share of what it is trained on.
        on_fold: told how many folds are done.
    Raises:
        LabelError: fewer than two rows, or than two classes that have any.
    """
    if len(labeled) < 2 or len(np.unique(labeled.labels_L)) < 2:
        raise LabelError(
            f"{len(labeled):,} labelled rows of {len(np.unique(labeled.labels_L)):,} classes; errors are found by "
            "comparing: expected rows of at least two classes, so label more"
        )
    folds = min(folds, len(labeled))
    folds_L = assign_folds(labeled.labels_L, keys_L, folds=folds, seed=seed)
    probs_LC = np.empty((len(labeled), len(labeled.class_names)), dtype=np.float32)
    with tempfile.TemporaryDirectory() as encoder_dir:
        features_LD = _encode(learner, labeled, Path(encoder_dir)) if _is_encoded_once(learner) else None
        for fold in range(folds):
            held, kept = np.flatnonzero(folds_L == fold), np.flatnonzero(folds_L != fold)
            kept, dev_rows = _split_dev(learner, labeled, kept, keys_L=keys_L, seed=seed, dev=dev)
            context = FitContext()
            if features_LD is not None:
                context = FitContext(features_LD=features_LD[kept], encoder_dir=Path(encoder_dir))
            predictor: Any = learner.fit(rows_of(labeled, kept), dev=dev_rows, seed=seed, context=context)
            for rows in np.array_split(held, -(-len(held) // _ROWS_PER_BATCH)):
                if features_LD is not None:
                    probs_LC[rows] = predictor.predict_features(features_LD[rows]).probs_BC
                else:
                    probs_LC[rows] = predictor.predict(labeled.rows.take(pa.array(rows))).probs_BC
            on_fold(fold + 1)
    return probs_LC


def _is_encoded_once(learner: Learner) -> bool:
    """Whether there is a frozen encoder that is the same for all folds: not one whose tokenizer is learned with it."""
    return hasattr(learner, "encoder") and getattr(learner.spec, "config", None) is None


def _encode(learner: Any, labeled: Labeled, directory: Path) -> FloatND:
    """What a frozen encoder makes of all rows: it reads them once, not once a fold; it is saved for the fits."""
    encoder = learner.encoder()
    encoder.save(directory)
    batches = (labeled.rows.slice(start, _ROWS_PER_BATCH) for start in range(0, len(labeled), _ROWS_PER_BATCH))
    return np.concatenate([encoder.predict(batch, embeddings=True).embeddings_BD for batch in batches])


def _split_dev(
    learner: Learner, labeled: Labeled, kept: IntN, *, keys_L: UIntN, seed: int, dev: Labeled | float | None
) -> tuple[IntN, Labeled | None]:
    """Rows to train on, and rows to choose epochs by, which learners without epochs do not need."""
    if dev is None or not hasattr(learner.spec, "training"):
        return kept, None
    if not isinstance(dev, float):
        return kept, replace(dev, class_names=labeled.class_names)
    is_dev = (keyed_hash(keys_L[kept], seed, "dev") >> np.uint64(11)) * 2.0**-53 < dev
    if not is_dev.any() or is_dev.all():
        return kept, None
    return kept[~is_dev], rows_of(labeled, kept[is_dev])


def rows_of(labeled: Labeled, rows: IntN) -> Labeled:
    """Some rows, by where they are in `labeled`."""
    return replace(
        labeled,
        rows=labeled.rows.take(pa.array(rows)),
        labels_L=labeled.labels_L[rows],
        positions_L=labeled.positions_L[rows],
    )
