"""What a model is measured with: our own `evaluate.Metric` modules, and `evaluate.load` for any other name.

The formulas live here; `metric_modules` wraps them for `evaluate`. `compute_metrics` calls a formula of ours directly,
because importing evaluate imports transformers and torch, which takes seconds.

N rows, C classes. References and predictions are class positions in [0, C). The mean recall over classes, also called
macro recall, is `balanced_accuracy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from svp_nlp.errors import RecipeError, SVPError

Formula = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], int], float]


def accuracy(predictions_N: npt.NDArray[np.int64], references_N: npt.NDArray[np.int64], num_classes: int) -> float:
    """Part of the rows that are predicted right, in [0, 1]."""
    return float(np.mean(predictions_N == references_N))


def error(predictions_N: npt.NDArray[np.int64], references_N: npt.NDArray[np.int64], num_classes: int) -> float:
    """Part of the rows that are predicted wrong, in [0, 1]."""
    return float(np.mean(predictions_N != references_N))


def macro_f1(predictions_N: npt.NDArray[np.int64], references_N: npt.NDArray[np.int64], num_classes: int) -> float:
    """Mean F1, in [0, 1], over the classes that the references hold, as many for each model that they test.

    The classes are named, because scikit-learn averages also over those that a model happens to predict. One that a
    small test set lacks tells nothing; who predicts it pays with the recall of the right one.
    """
    from sklearn.metrics import f1_score

    present = np.unique(references_N)
    return float(f1_score(references_N, predictions_N, labels=present, average="macro", zero_division=0))


def balanced_accuracy(
    predictions_N: npt.NDArray[np.int64], references_N: npt.NDArray[np.int64], num_classes: int
) -> float:
    """Mean recall over the classes that the references hold, in [0, 1]; a class without a row has no recall."""
    from sklearn.metrics import recall_score

    present = np.unique(references_N)
    return float(recall_score(references_N, predictions_N, labels=present, average="macro", zero_division=0))


def recall_by_class(
    predictions_N: npt.NDArray[np.int64], references_N: npt.NDArray[np.int64], num_classes: int
) -> npt.NDArray[np.float64]:
    """Part of the rows of each class that are found, float64 [C] in [0, 1]; NaN for a class without a row."""
    rows_C = np.bincount(references_N, minlength=num_classes)
    found_C = np.bincount(references_N[predictions_N == references_N], minlength=num_classes)
    return np.divide(found_C, rows_C, out=np.full(num_classes, np.nan), where=rows_C > 0)


def rarest(counts_C: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which classes are the rare ones, bool [C]: those with the fewest rows, as far as they are a quarter of all.

    Classes with equally many rows are rare together or not at all; where those with the fewest are more than a quarter,
    they alone are the rare ones. A class without a row is none of them, nor counted.
    """
    counts = np.sort(counts_C[counts_C > 0])
    if not len(counts):
        return np.zeros(len(counts_C), dtype=np.bool_)
    rare_C = (counts_C > 0) & (counts_C < counts[len(counts) // 4])
    return rare_C if rare_C.any() else counts_C == counts[0]


def rare_recall(
    predictions_N: npt.NDArray[np.int64],
    references_N: npt.NDArray[np.int64],
    num_classes: int,
    *,
    counts_C: npt.NDArray[np.int64] | None = None,
) -> float:
    """Mean recall of the rare classes (see `rarest`) that the references hold, in [0, 1]; NaN if they hold none.

    What is rare is told by the rows that can be learned from, not by the test set, which often has as many of each.

    Args:
        counts_C: rows of each class in the pool; None: in the references.
    """
    counts_C = np.bincount(references_N, minlength=num_classes) if counts_C is None else counts_C
    recall_C = recall_by_class(predictions_N, references_N, num_classes)
    found = recall_C[rarest(counts_C) & ~np.isnan(recall_C)]
    return float(found.mean()) if len(found) else math.nan


FORMULAS: dict[str, Formula] = {
    "accuracy": accuracy,
    "error": error,
    "macro_f1": macro_f1,
    "balanced_accuracy": balanced_accuracy,
    "rare_recall": rare_recall,
}


def formula(name: str, counts_C: npt.NDArray[np.int64] | None = None) -> Formula:
    """One of FORMULAS, with the rows of each class in the pool where it asks for them."""
    return partial(rare_recall, counts_C=counts_C) if name == "rare_recall" else FORMULAS[name]


def load_metric(name: str) -> Any:
    """An `evaluate.Metric`: ours if the name is ours (no network, no foreign code), else `evaluate.load(name)`.

    Raises:
        RecipeError: evaluate knows no such metric, or it is not on this machine and cannot be fetched.
    """
    if name in FORMULAS:
        from svp_nlp.metric_modules import FormulaMetric

        return FormulaMetric(name)
    import evaluate

    try:
        return evaluate.load(name)
    except Exception as cause:
        # evaluate.load runs code from the Hub: besides its own errors anything that this code raises comes out.
        raise RecipeError(
            f"metric {name!r} cannot be loaded ({type(cause).__name__}: {_first_line(cause)}); use one of "
            f"{', '.join(FORMULAS)}, which need no network, or go online once so that evaluate can fetch it"
        ) from cause


def compute_metrics(
    names: Sequence[str],
    predictions_N: npt.ArrayLike,
    *,
    references_N: npt.ArrayLike,
    num_classes: int,
    counts_C: npt.NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Each named metric of one set of predictions.

    Args:
        names: keys of FORMULAS, or names for `evaluate.load`.
        predictions_N: integers in [0, num_classes), N >= 1.
        references_N: as the predictions.
        num_classes: C, also when the references do not hold all classes.
        counts_C: rows of each class in the pool, for rare_recall; None: in the references.
    Returns:
        name -> value, without those that these references do not tell (rare_recall without a row of a rare class);
        the keys that a metric of evaluate chooses itself are kept when it returns several.
    Raises:
        SVPError: nothing to measure, lengths differ, a class is out of range, or a foreign metric fails.
    """
    predicted_N = _as_classes(predictions_N, "predictions", num_classes)
    expected_N = _as_classes(references_N, "references", num_classes)
    if len(predicted_N) != len(expected_N):
        raise SVPError(f"{len(predicted_N):,} predictions for {len(expected_N):,} references; expected one for each")
    results: dict[str, float] = {}
    for name in names:
        if name in FORMULAS:
            value = formula(name, counts_C)(predicted_N, expected_N, num_classes)
            results |= {} if math.isnan(value) else {name: value}
        else:
            results.update(_foreign(name, predicted_N, expected_N))
    return results


def check_metrics(names: Sequence[str], *, num_classes: int) -> None:
    """Try every metric on one row of each class, so that a wrong name fails before hours of training.

    Raises:
        RecipeError: a metric cannot be loaded.
        SVPError: a metric does not fit the task (evaluate's `f1` is for two classes unless it is told otherwise).
    """
    classes = np.arange(max(num_classes, 2))
    compute_metrics(names, classes, references_N=classes, num_classes=len(classes))


def _foreign(name: str, predicted_N: npt.NDArray[np.int64], expected_N: npt.NDArray[np.int64]) -> dict[str, float]:
    metric = load_metric(name)
    try:
        found = metric.compute(predictions=predicted_N.tolist(), references=expected_N.tolist())
    except Exception as cause:
        raise SVPError(
            f"metric {name!r} failed ({type(cause).__name__}: {_first_line(cause)}); it is called with predictions and "
            f"references only: use one of {', '.join(FORMULAS)}, or another metric of evaluate"
        ) from cause
    numbers = {key: float(value) for key, value in found.items() if np.ndim(value) == 0 and _is_number(value)}
    if not numbers:
        raise SVPError(f"metric {name!r} returned {sorted(found)} without a single number; it cannot be put in a table")
    return {name: next(iter(numbers.values()))} if len(numbers) == 1 else numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not math.isnan(float(value))


def _first_line(cause: Exception) -> str:
    return (str(cause).splitlines() or ["no message"])[0][:200]


def _as_classes(values: npt.ArrayLike, what: str, num_classes: int) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise SVPError(f"{what}: expected at least one integer in one dimension, found {array.dtype} {array.shape}")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest >= num_classes:
        raise SVPError(f"{what}: found class {lowest if lowest < 0 else highest}, expected 0 to {num_classes - 1}")
    return array.astype(np.int64)
