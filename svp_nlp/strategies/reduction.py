"""Which part of a pool is worth scoring: rows that were uncertain before (UPS), or that are near labelled ones (SEALS).

Shape legend: N pool rows, R rows that are kept, L labelled, D width of the features.
"""

from __future__ import annotations

import numpy as np

from svp_nlp.arrays import BoolN, FloatN, FloatND, IntK, UIntN, keyed_hash

_ROWS_PER_BLOCK, _LABELED_PER_BLOCK = 32_768, 256  # distances of a block: 34 MB
_SLACK = 8  # neighbours beyond those asked for that are measured again, in float64


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

    O(L N D) time; blocks of 34 MB beside the features, which may be a memory map.

    Args:
        features_ND: float32.
        of_L: positions of the rows whose neighbours are wanted.
        open_N: rows that count as neighbours.
        count: neighbours of each row; fewer where fewer are open.
        keys_N: uint64 per row; rows at the same distance are ordered by them.
    Returns:
        bool [N]; the given rows are not among them, unless they are open and near another one.
    """
    found_N = np.zeros(len(open_N), dtype=np.bool_)
    rows = np.flatnonzero(open_N)
    wanted = min(count, len(rows))
    if wanted == 0:
        return found_N
    held = min(wanted + _SLACK, len(rows))
    for first in range(0, len(of_L), _LABELED_PER_BLOCK):
        of_B = of_L[first : first + _LABELED_PER_BLOCK]
        centers_BD = np.asarray(features_ND[of_B], dtype=np.float32)
        best_BH = np.empty((len(of_B), 0), dtype=np.float32)
        at_BH = np.empty((len(of_B), 0), dtype=np.int64)
        for start in range(0, len(rows), _ROWS_PER_BLOCK):
            part = rows[start : start + _ROWS_PER_BLOCK]
            block_RD = np.asarray(features_ND[part], dtype=np.float32)
            squares_R = np.einsum("rd,rd->r", block_RD, block_RD)
            near_BR = squares_R[None, :] - 2 * (centers_BD @ block_RD.T)  # of one centre, so its own square is left out
            best_BH = np.concatenate([best_BH, near_BR], axis=1)
            at_BH = np.concatenate([at_BH, np.broadcast_to(part, (len(of_B), len(part)))], axis=1)
            if best_BH.shape[1] > held:
                keep = np.argpartition(best_BH, held - 1, axis=1)[:, :held]
                best_BH, at_BH = np.take_along_axis(best_BH, keep, 1), np.take_along_axis(at_BH, keep, 1)
        for center_D, at_H in zip(centers_BD, at_BH, strict=True):
            # Rounding of the blocks decides nothing but who is measured again.
            apart_HD = np.asarray(features_ND[at_H], dtype=np.float64) - center_D
            distance_H = np.einsum("hd,hd->h", apart_HD, apart_HD)
            found_N[at_H[np.lexsort((keys_N[at_H], distance_H))[:wanted]]] = True
    return found_N
