"""Which part of a pool is worth scoring: rows that were uncertain before (UPS), or that are near labelled ones (SEALS).

Shape legend: N pool rows, R rows that are kept, L labelled, D width of the features.
"""

from __future__ import annotations

import numpy as np

from svp_nlp.arrays import BoolN, FloatN, FloatND, IntK, UIntN, keyed_hash
from svp_nlp.strategies import tiles
from svp_nlp.strategies.kcenters_rows import largest_value, scale_of, take

_ROWS_PER_BLOCK, _LABELED_PER_BLOCK = 32_768, 256  # distances of a block: 34 MB
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


def unlabeled_pool_subsampling(
    known_N: FloatN,
    keys_N: UIntN,
    *,
    open_N: BoolN,
    budget: int,
    seed: int,
    round: int,
    gamma: float,
    temperature: float,
) -> IntK:
    """Rows to score again: surely those that scored high when they were last scored, others with a falling chance.

    A row of rank r in [0, 1) (0 = highest score) is kept with probability exp(-max(0, r - gamma) / temperature).

    Args:
        known_N: the last known score of each row, higher = more uncertain.
        keys_N: uint64 per row, from its id; they decide ties and draws.
        open_N: rows that may be picked.
        budget: so many are kept in any case, the highest ones.
        seed, round: of the draws; each round draws anew.
        gamma: share that is always kept, in [0, 1].
        temperature: above 0; small = few others.
    Returns:
        int64 [R], ascending.
    Source: Tsvigun et al. 2022, section 3.3 (UPS). There nothing is kept for the budget's sake.
    """
    rows = np.flatnonzero(open_N)
    tie = keyed_hash(keys_N[rows], seed, "tie")
    order = rows[np.lexsort((tie, -np.asarray(known_N[rows], dtype=np.float64)))]
    rank = np.arange(len(order)) / max(len(order), 1)
    chance = np.exp(-np.maximum(0.0, rank - gamma) / temperature)
    draw = (keyed_hash(keys_N[order], seed, f"ups {round}") >> np.uint64(11)) * 2.0**-53
    kept = draw < chance
    kept[:budget] = True
    return np.sort(order[kept]).astype(np.int64, copy=False)


def nearest_neighbours(features_ND: FloatND, of_L: IntK, *, open_N: BoolN, count: int, keys_N: UIntN) -> BoolN:
    """The rows that are among the `count` nearest open rows of some given row, by Euclidean distance.

    Squared distances are float32, summed column by column: the same for any block, place of a row or number of
    threads, and equal for equal rows, so the order of rows and a common offset of all features change nothing.

    O(L N D) time; O(L count) memory and blocks of 34 MB beside the features, which may be a memory map and are read
    twice.

    Args:
        features_ND: float, computed with as float32.
        of_L: positions of the rows whose neighbours are wanted.
        open_N: rows that count as neighbours.
        count: neighbours of each row; fewer where fewer are open.
        keys_N: uint64 per row; rows at the same distance are ordered by them.
    Returns:
        bool [N]; a given row that is open is the nearest to itself.
    Raises:
        SignalError: NaN or infinity in an open or a given row; names the first position.
    """
    found_N = np.zeros(len(open_N), dtype=np.bool_)
    rows = np.flatnonzero(open_N)
    wanted = min(count, len(rows))
    if wanted == 0 or len(of_L) == 0:
        return found_N
    scale = np.float32(scale_of(largest_value(features_ND, np.union1d(rows, of_L))))
    of_LD = take(features_ND, of_L) * scale
    by_key = np.argsort(keys_N[rows], kind="stable")
    rank_R = np.empty(len(rows), dtype=np.uint64)
    rank_R[by_key] = np.arange(len(rows), dtype=np.uint64)
    best: list[UIntN] = [np.empty(0, dtype=np.uint64)] * len(of_L)
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        part = slice(start, start + _ROWS_PER_BLOCK)
        block = tiles.cut(take(features_ND, rows[part]) * scale)
        for first in range(0, len(of_L), _LABELED_PER_BLOCK):
            apart_BR = tiles.squared_distances(block, of_LD[first : first + _LABELED_PER_BLOCK])
            for place, apart_R in enumerate(apart_BR, start=first):
                best[place] = _smallest(best[place], apart_R, rank_R[part], wanted)
    for best_K in best:
        found_N[rows[by_key[best_K & _LOW]]] = True
    return found_N


def _smallest(best_K: UIntN, apart_R: FloatN, rank_R: UIntN, wanted: int) -> UIntN:
    """The smallest of those before and those of a block, as distance (a float's bits: ordered as it is) and rank."""
    if len(best_K) == wanted:  # few rows of later blocks come so near: the others need no sorting
        near_R = np.flatnonzero(apart_R.view(np.uint32) <= best_K.max() >> _HALF)
        apart_R, rank_R = apart_R[near_R], rank_R[near_R]
    both = np.concatenate([best_K, (apart_R.view(np.uint32).astype(np.uint64) << _HALF) | rank_R])
    if len(both) > wanted:
        both.partition(wanted - 1)
    return both[:wanted].copy()
