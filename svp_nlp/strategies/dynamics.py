"""Difficulty of a labelled row from how it was learned; for core-sets. Higher = harder, and harder is picked first.

The signals are those of a training (svp_nlp/models/dynamics.py): [N, E], a column per epoch. What is hardest of all is
often mislabelled; `stratified` leaves such rows out and picks from the whole range of a score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import FloatN, first_bad_row
from svp_nlp.errors import SignalError
from svp_nlp.strategies.base import pointwise

BoolNE: TypeAlias = npt.NDArray[np.bool_]
FloatNE: TypeAlias = npt.NDArray[np.float32]

_BLOCK_VALUES = 1 << 18  # a block of rows stays in the cache while its columns are read one by one
_ROUNDING = 1e-5


def _by_block(
    values_NE: npt.NDArray[Any], name: str, score: Callable[[npt.NDArray[Any]], FloatN], *, high: float = np.inf
) -> FloatN:
    """Scores of blocks of rows whose values are finite and at most `high` in size."""
    is_correct = name == "correct"
    kind = np.bool_ if is_correct else np.floating
    if values_NE.ndim != 2 or values_NE.shape[1] < 1 or not np.issubdtype(values_NE.dtype, kind):
        expected = "bool" if is_correct else "floats"
        raise SignalError(
            f"{name}: expected {expected} of shape [rows, epochs >= 1], found {values_NE.dtype} "
            f"{list(values_NE.shape)}; train for at least one epoch and give rows first"
        )
    scores_N = np.empty(len(values_NE), dtype=np.float32)
    step = max(1, _BLOCK_VALUES // values_NE.shape[1])
    for start in range(0, len(values_NE), step):
        block_BE = np.asarray(values_NE[start : start + step])
        if not is_correct:
            block_BE = np.asarray(block_BE, dtype=np.float32)
            _check(block_BE, name, start, low=-np.inf if high == np.inf else 0.0, high=high)
        scores_N[start : start + step] = score(block_BE)
    return scores_N


def _check(block_BE: FloatNE, name: str, start: int, *, low: float, high: float) -> None:
    # One pass each; NaN makes a comparison false, and the smallest and largest are NaN where any value is.
    smallest, largest = float(block_BE.min()), float(block_BE.max())
    if low - _ROUNDING <= smallest and largest <= high + _ROUNDING and np.isfinite([smallest, largest]).all():
        return
    good_BE = np.isfinite(block_BE) & (block_BE >= low - _ROUNDING) & (block_BE <= high + _ROUNDING)
    bad_B = np.asarray((~good_BE).any(axis=1))
    row = first_bad_row(bad_B)
    raise SignalError(
        f"{name}: position {start + row} holds {block_BE[row].tolist()[:8]}; expected "
        + ("finite numbers" if high == np.inf else f"numbers from {low:g} to {high:g}")
    )


def _mean(block_BE: FloatNE) -> FloatN:
    # By column: np.mean over a short axis is several times slower, and a matrix product rounds a row by its place.
    total_B = block_BE[:, 0].copy()
    for epoch in range(1, block_BE.shape[1]):
        total_B += block_BE[:, epoch]
    return total_B / np.float32(block_BE.shape[1])


@pointwise("correct", source="Toneva et al. 2019; Coleman et al. 2020, section 3.2")
def forgetting_events(correct_NE: BoolNE) -> FloatN:
    """How often a row went from right in one epoch to wrong in the next; infinite where it was never right.

    Args:
        correct_NE: bool, whether the training forward pass of an epoch was right; E >= 1. With one epoch there is no
            event, and the rows that were wrong come before those that were right.
    Returns:
        float32 [N], whole numbers in [0, E / 2] or infinity; higher is picked first.
    Raises:
        SignalError: not bool, or no epoch.
    Source: Toneva et al. 2019, section 3. The authors of SVP order the same, but rows with equal counts, which are
        most of them, by descending place in the file; here ties are broken by the keyed hash.
    """

    def score(block_BE: BoolNE) -> FloatN:
        before_B = block_BE[:, 0].copy()
        ever_B, events_B = before_B.copy(), np.zeros(len(block_BE), dtype=np.int32)
        for epoch in range(1, block_BE.shape[1]):
            now_B = block_BE[:, epoch].copy()
            events_B += before_B & ~now_B
            ever_B |= now_B
            before_B = now_B
        return np.where(ever_B, events_B, np.inf).astype(np.float32)

    return _by_block(correct_NE, "correct", score)


@pointwise("logit_margin", source="Pleiss et al. 2020 (AUM), section 3; negated")
def aum(logit_margin_NE: FloatNE) -> FloatN:
    """Minus the area under the margin: the mean over epochs of the label's logit minus the largest other, negated.

    Args:
        logit_margin_NE: float, finite; E >= 1.
    Returns:
        float32 [N], any size; higher is picked first. Above zero: another class won on average.
    Raises:
        SignalError: not floats, no epoch, or a value that is not finite; names the first such position.
    Source: Pleiss et al. 2020, equation 1, who look for mislabelled rows at small areas. Negated so that, as for the
        other scores here, the hard rows come first, which is how Zheng et al. 2023 (CCS) rank by it; the top of it is
        where mislabelled rows are: pick by strata when labels are noisy.
    """
    return _by_block(logit_margin_NE, "logit_margin", lambda block_BE: np.float32(0) - _mean(block_BE))


@pointwise("error_norm", source="Paul et al. 2021 (EL2N), definition 2.3; the epochs of one training, not several")
def el2n(error_norm_NE: FloatNE) -> FloatN:
    """Mean over epochs of the L2 norm of probabilities minus one-hot label.

    Args:
        error_norm_NE: float in [0, sqrt 2]; E >= 1.
    Returns:
        float32 [N] in [0, sqrt 2]; higher is picked first.
    Raises:
        SignalError: not floats, no epoch, or a value out of its range; names the first such position.
    Source: Paul et al. 2021, definition 2.3, who take one early epoch (10 to 20 of 200) of ten trainings; give it the
        first epochs to come near that. Theirs is of a forward pass after the epoch, here of the one within.
    """
    return _by_block(error_norm_NE, "error_norm", _mean, high=float(np.sqrt(2)))


@pointwise("gold_probability", source="Swayamdipta et al. 2020 (Dataset Cartography), section 2; one minus confidence")
def hard_to_learn(gold_probability_NE: FloatNE) -> FloatN:
    """One minus the confidence, which is the mean over epochs of the probability of the label.

    Args:
        gold_probability_NE: float in [0, 1]; E >= 1.
    Returns:
        float32 [N] in [0, 1]; higher is picked first.
    Raises:
        SignalError: not floats, no epoch, or a value out of its range; names the first such position.
    Source: Swayamdipta et al. 2020, section 2. Theirs is of a forward pass after each epoch, here of the one within.
    """
    return _by_block(gold_probability_NE, "gold_probability", lambda block_BE: np.float32(1) - _mean(block_BE), high=1)


@pointwise("gold_probability", source="Swayamdipta et al. 2020 (Dataset Cartography), section 2: variability")
def ambiguous(gold_probability_NE: FloatNE) -> FloatN:
    """Variability: the standard deviation over epochs of the probability of the label.

    Args:
        gold_probability_NE: float in [0, 1]; E >= 1, and of one epoch all are 0.
    Returns:
        float32 [N] in [0, 0.5]; higher is picked first.
    Raises:
        SignalError: not floats, no epoch, or a value out of its range; names the first such position.
    Source: Swayamdipta et al. 2020, section 2 (divided by E). Theirs is of a forward pass after each epoch, here of
        the one within.
    """

    def score(block_BE: FloatNE) -> FloatN:
        mean_B = _mean(block_BE)
        squares_B = np.zeros(len(block_BE), dtype=np.float32)
        for epoch in range(block_BE.shape[1]):
            squares_B += np.square(block_BE[:, epoch] - mean_B)
        deviations_B: FloatN = np.sqrt(squares_B / np.float32(block_BE.shape[1]))
        return deviations_B

    return _by_block(gold_probability_NE, "gold_probability", score, high=1)
