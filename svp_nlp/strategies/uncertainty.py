"""Uncertainty of a row from its class probabilities. All are computed in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from svp_nlp.arrays import FloatN, FloatNC, check_probs
from svp_nlp.strategies.base import pointwise

_BLOCK = 16_384  # rows: 16k x 14 classes of float32 is under 1 MB


def _by_block(probs_NC: FloatNC, score: Callable[[FloatNC], FloatN]) -> FloatN:
    check_probs(probs_NC)
    scores_N = np.empty(len(probs_NC), dtype=np.float32)
    for start in range(0, len(probs_NC), _BLOCK):
        # Rounding may leave -1e-9 or 1 + 1e-7; a probability is neither.
        block_BC = np.clip(np.asarray(probs_NC[start : start + _BLOCK], dtype=np.float32), 0.0, 1.0)
        scores_N[start : start + _BLOCK] = score(block_BC)
    return scores_N


@pointwise("probs", source="Lewis & Gale 1994; Coleman et al. 2020, section 3.1")
def least_confidence(probs_NC: FloatNC) -> FloatN:
    """One minus the probability of the most likely class; 1 - 1/C = undecided, 0 = certain.

    Args:
        probs_NC: class probabilities, float, rows sum to 1 (tolerance 1e-4), C >= 2.
    Returns:
        float32 [N] in [0, 1 - 1/C]; higher is picked first.
    Raises:
        SignalError: a row holds NaN or does not sum to 1; names the first such position.
    Source: Lewis & Gale 1994. The authors' code ranks by the largest probability, ascending: the same order.
    """

    def score(block_BC: FloatNC) -> FloatN:
        top_B = block_BC[:, 0].copy()
        for c in range(1, block_BC.shape[1]):  # np.max over a short axis is ten times slower than this
            np.maximum(top_B, block_BC[:, c], out=top_B)
        return np.float32(1) - top_B

    return _by_block(probs_NC, score)


@pointwise("probs", source="Scheffer et al. 2001; not in the authors' code")
def margin(probs_NC: FloatNC) -> FloatN:
    """One minus the gap between the two most likely classes; 1 = undecided, 0 = certain.

    Args:
        probs_NC: class probabilities, float, rows sum to 1 (tolerance 1e-4), C >= 2.
    Returns:
        float32 [N] in [0, 1]; higher is picked first.
    Raises:
        SignalError: a row holds NaN or does not sum to 1; names the first such position.
    Source: Scheffer et al. 2001. Not in the authors' code, which has entropy and least confidence.
    """

    def score(block_BC: FloatNC) -> FloatN:
        first_B = np.maximum(block_BC[:, 0], block_BC[:, 1])
        second_B = np.minimum(block_BC[:, 0], block_BC[:, 1])
        for c in range(2, block_BC.shape[1]):
            np.maximum(second_B, np.minimum(first_B, block_BC[:, c]), out=second_B)
            np.maximum(first_B, block_BC[:, c], out=first_B)
        return np.float32(1) - (first_B - second_B)

    return _by_block(probs_NC, score)


@pointwise("probs", source="Shannon 1948; Coleman et al. 2020, section 3.1")
def entropy(probs_NC: FloatNC) -> FloatN:
    """Entropy of the class probabilities in nats; ln C = undecided, 0 = certain.

    Args:
        probs_NC: class probabilities, float, rows sum to 1 (tolerance 1e-4), C >= 2; an exact 0 counts as 0 ln 0 = 0.
    Returns:
        float32 [N] in [0, ln C]; higher is picked first.
    Raises:
        SignalError: a row holds NaN or does not sum to 1; names the first such position.
    Source: Coleman et al. 2020. In the authors' code a probability of 0 gives NaN, which is then picked first.
    """
    smallest = np.finfo(np.float32).tiny  # 0 * ln(tiny) = -0, where 0 * ln(0) is NaN

    def score(block_BC: FloatNC) -> FloatN:
        sums_B: FloatN = np.einsum("bc,bc->b", block_BC, np.log(np.maximum(block_BC, smallest)))
        return -sums_B + np.float32(0)  # + 0 turns the -0.0 of a certain row into 0.0

    return _by_block(probs_NC, score)
