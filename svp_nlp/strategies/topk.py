"""Exact top-k with a keyed tie-break: the same picks on any machine, in any order of rows, for any worker count."""

from __future__ import annotations

import numpy as np

from svp_nlp.arrays import BoolN, FloatN, IntK, UIntN, check_scores, keyed_hash
from svp_nlp.errors import BudgetError


def top_k(
    scores_N: FloatN, keys_N: UIntN, *, budget: int, seed: int, available_N: BoolN | None = None, name: str = "scores"
) -> IntK:
    """Positions of the `budget` highest scores among the available rows, highest first.

    Rows with equal scores are ordered by the hash of their key and the seed, not by their position: position order
    would favour whatever the file was sorted by (svp.md, bug 20), and a generator would make the picks depend on
    the number of rows. O(N) time; one float copy of the available scores.

    Args:
        scores_N: float; higher is picked first; infinities sort, NaN is an error.
        keys_N: uint64 per row, from the row's id.
        budget: 0 <= budget <= number of available rows.
        available_N: rows that may be picked; all when None.
    Returns:
        int64 [budget].
    Raises:
        BudgetError: the budget is negative or larger than the number of available rows.
        SignalError: a score is NaN; names the first position.
    """
    check_scores(scores_N, name)
    num_available = len(scores_N) if available_N is None else int(np.count_nonzero(available_N))
    if not 0 <= budget <= num_available:
        raise BudgetError(
            f"a budget of {budget:,} was asked for, {num_available:,} of {len(scores_N):,} rows are available; "
            "ask for fewer or use a larger pool"
        )
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    if budget == num_available:
        picked_K = np.arange(len(scores_N)) if available_N is None else np.flatnonzero(available_N)
    else:
        # The budget-th highest score splits the rows into surely picked, tied at the cut, and left.
        work = scores_N.copy() if available_N is None else scores_N[available_N]
        work.partition(num_available - budget)
        cut = work[num_available - budget]
        del work
        above_N, tied_N = scores_N > cut, scores_N == cut
        if available_N is not None:
            above_N &= available_N
            tied_N &= available_N
        above_K, tied_T = np.flatnonzero(above_N), np.flatnonzero(tied_N)
        missing = budget - len(above_K)
        if missing < len(tied_T):
            hash_T = keyed_hash(keys_N[tied_T], seed, "tie")
            tied_T = tied_T[np.argpartition(hash_T, missing - 1)[:missing]]
        picked_K = np.concatenate([above_K, tied_T])
    order_K = np.lexsort((keyed_hash(keys_N[picked_K], seed, "tie"), -scores_N[picked_K]))
    return picked_K[order_K].astype(np.int64, copy=False)
