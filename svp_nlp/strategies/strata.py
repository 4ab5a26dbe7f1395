"""Picking from the whole range of a score, not from its top: coverage-centric core-set selection (CCS)."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from svp_nlp.arrays import BoolN, FloatN, IntK, IntN, UIntN, keyed_hash
from svp_nlp.errors import BudgetError
from svp_nlp.strategies.topk import top_k


def count_dropped(num_available: int, drop_hardest: float) -> int:
    """How many rows are the hardest: exactly the share that is written, for in floats 0.29 * 100 is below 29."""
    return math.floor(Fraction(str(drop_hardest)) * num_available)


def stratified(
    scores_N: FloatN,
    keys_N: UIntN,
    *,
    budget: int,
    seed: int,
    available_N: BoolN | None = None,
    strata: int = 50,
    drop_hardest: float = 0.1,
) -> IntK:
    """Leave out the hardest rows, cut the range of the other scores into strata, pick about equally from each.

    At high pruning rates the top of a score is hard and mislabelled rows alone. Strata are filled from the smallest
    up: each gives all of its rows or an equal share of what is still to be picked, rows at random. O(N log N) time.

    Infinite scores (rows that were never right, by forgetting events) are in no range: those that are not dropped are
    a stratum of their own, beside the `strata` of the finite ones.

    Args:
        scores_N: float, higher = harder; NaN is an error.
        keys_N: uint64 per row, from the row's id.
        budget: how many rows to pick.
        seed: chooses rows inside the strata and which of equal scores are dropped.
        available_N: rows that may be picked; all when None. Scores of others have no influence.
        strata: k >= 1, how many ranges of equal width.
        drop_hardest: beta in [0, 1), the share of the available rows that is dropped, rounded down.
    Returns:
        int64 [budget], highest score first, equal scores in the order of the keyed hash.
    Raises:
        BudgetError: the budget is negative or larger than what is left of the available rows.
        SignalError: a score is NaN; names the first position.
    Source: Zheng et al. 2023 (CCS), algorithm 1. Of strata with equally many rows that of the lowest scores is first.
    """
    assert strata >= 1
    assert 0 <= drop_hardest < 1
    allowed_N = np.ones(len(scores_N), dtype=np.bool_) if available_N is None else available_N
    num_available = int(np.count_nonzero(allowed_N))
    num_dropped = count_dropped(num_available, drop_hardest)
    num_left = num_available - num_dropped
    if not 0 <= budget <= num_left:
        raise BudgetError(
            f"a budget of {budget:,} was asked for, {num_left:,} of {num_available:,} available rows are left after "
            f"the hardest {num_dropped:,} are dropped; lower the budget or drop_hardest ({drop_hardest:g})"
        )
    dropped_K = top_k(scores_N, keys_N, budget=num_dropped, seed=seed, available_N=available_N)
    left_N = allowed_N.copy()
    left_N[dropped_K] = False
    left_K = np.flatnonzero(left_N)
    stratum_K = _strata_of(scores_N[left_K], strata)
    # Rows of a stratum lie together, in random order.
    left_K = left_K[np.lexsort((keyed_hash(keys_N[left_K], seed, "strata"), stratum_K))]
    sizes = np.bincount(stratum_K, minlength=strata + 2)
    starts = np.cumsum(sizes) - sizes
    picked: list[IntK] = []
    remaining = budget
    for done, stratum in enumerate(np.argsort(sizes, kind="stable").tolist()):
        take = min(int(sizes[stratum]), remaining // (len(sizes) - done))
        picked.append(left_K[starts[stratum] : starts[stratum] + take])
        remaining -= take
    picked_K = np.concatenate(picked)
    assert len(picked_K) == budget
    order_K = np.lexsort((keyed_hash(keys_N[picked_K], seed, "tie"), -scores_N[picked_K]))
    return picked_K[order_K].astype(np.int64, copy=False)


def _strata_of(scores_K: FloatN, strata: int) -> IntN:
    """The stratum of each score: 0 and strata + 1 for infinities, 1 .. strata by equal ranges of the others."""
    stratum_K = np.where(scores_K > 0, strata + 1, 0)
    finite_K = np.isfinite(scores_K)
    if finite_K.any():
        finite = scores_K[finite_K].astype(np.float64)
        low, width = finite.min(), finite.max() - finite.min()
        share = (finite - low) / (width or 1.0)
        stratum_K[finite_K] = 1 + np.minimum((share * strata).astype(np.int64), strata - 1)
    return stratum_K
