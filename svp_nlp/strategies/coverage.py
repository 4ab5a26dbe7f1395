"""Picks that stand for the rows around them: facility location and probability coverage.

Shape legend: M rows in use (available or labelled) in the order of their keyed hash, T tiles of B of them, K some.
"""

from __future__ import annotations

import numpy as np

from svp_nlp.arrays import BoolN, FloatN, FloatND, IntK, UIntN
from svp_nlp.strategies.base import setwise
from svp_nlp.strategies.kmeans import kmeans
from svp_nlp.strategies.tiles import (
    Tiles,
    ball_counts,
    check_pairs,
    embedding_tiles,
    gains,
    in_hash_order,
    nearest,
    squared_distances,
)

_MOST_CLUSTERS = 100
_PURITY = 0.95
_PROBES = 2_000  # rows at random from which the radius is read


@setwise("embeddings", source="Cornuejols et al. 1977; Minoux 1978 (lazy greedy)", uses_labeled=True)
def facility_location(
    embeddings_ND: FloatND, *, available_N: BoolN, labeled_N: BoolN, budget: int, keys_N: UIntN, seed: int
) -> IntK:
    """Greedily raise the sum over all rows of the similarity to their most similar pick or labelled row.

    The similarity is a constant minus the squared distance. The constant cancels in every comparison, so that there
    is no option to set, and the first pick without labels is the row nearest to the mean of all. Exactly the picks of
    plain greedy: upper bounds of gains are kept, and only the highest are worked out again.

    Cost: O(N^2 D) once, as matrix products, for the first bounds; then O(N D) for each gain worked out, about 50 a
    pick at 30,000 x 64; 1,000 picks of 100,000 x 64 take 73 CPU seconds. Memory O(N) beside two copies of the rows.

    Args:
        embeddings_ND: finite floats, of the rows in use; the others are not read.
    Returns:
        int64 [budget], positions in the order of picking; gain ties, and rows that add nothing, by the keyed hash.
    Raises:
        SignalError: a row in use holds NaN or infinity (names the first position), or more than 200,000 are in use.
    """
    positions_M = in_hash_order(available_N | labeled_N, keys_N, seed=seed)
    check_pairs(len(positions_M) ** 2, "facility_location")
    tiles = embedding_tiles(embeddings_ND, positions_M)
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    open_M = available_N[positions_M]
    picked: list[int] = []
    if open_M.all():
        picked.append(_nearest_to_mean(tiles))
        open_M[picked[0]] = False
        best_M = squared_distances(tiles, tiles.take(np.array(picked)))[0]
    else:
        best_M = nearest(tiles, tiles.take(np.flatnonzero(~open_M)))[0]
    if len(picked) < budget:
        picked += _most_gain(tiles, best_M, np.flatnonzero(open_M), budget - len(picked))
    return positions_M[picked]


def _most_gain(tiles: Tiles, best_M: FloatN, open_K: IntK, budget: int) -> list[int]:
    from svp_nlp.strategies.greedy import gain_bounds, lazy_greedy

    best_TB = tiles.lanes(best_M)  # a row that only fills a tile is 0 away from a pick: it gains nothing
    if not best_TB.any():
        return list(open_K[:budget].tolist())

    def take(row: int) -> bool:
        np.minimum(best_TB, tiles.lanes(squared_distances(tiles, tiles.take(np.array([row])))[0]), out=best_TB)
        return bool(best_TB.any())

    return lazy_greedy(
        gain_bounds(tiles, best_TB)[open_K],
        open_K,
        budget=budget,
        gains=lambda rows: gains(tiles, rows, best_TB),
        take=take,
    )


def _nearest_to_mean(tiles: Tiles) -> int:
    # sum_i |x_i - x|^2 = M |x|^2 - 2 x.sum_i x_i + a constant: the first pick needs no pairs.
    sums_M = np.zeros(tiles.count, dtype=np.float64)
    for d in range(tiles.blocks_TDB.shape[1]):
        column_M = tiles.column(d).astype(np.float64)
        sums_M += column_M * (tiles.count * column_M - 2 * column_M.sum())
    return int(np.argmin(sums_M))


@setwise("embeddings", source="Yehuda et al. 2022, algorithm 1; as many pseudo-labels as picks", uses_labeled=True)
def prob_cover(
    embeddings_ND: FloatND, *, available_N: BoolN, labeled_N: BoolN, budget: int, keys_N: UIntN, seed: int
) -> IntK:
    """Greedily cover as many rows as possible with balls of one radius around picks and labelled rows.

    The radius is the largest at which 95 % of the balls are pure, that is, hold rows of one k-means cluster only: the
    5 % quantile of the distance to the nearest row of another cluster, over at most 2,000 rows drawn by the keyed hash.
    Balls are open. When all is covered, the rest of the budget is picked by the keyed hash.

    Cost: O(N^2 D) once, as matrix products, for the first bounds; then O(N D) for each ball counted again; memory O(N)
    beside two copies of the rows in use: the edges of the paper's graph are not stored.

    Args:
        embeddings_ND: finite floats, of the rows in use; the others are not read.
    Returns:
        int64 [budget], positions in the order of picking; ties by the keyed hash.
    Raises:
        SignalError: a row in use holds NaN or infinity (names the first position), or more than 200,000 are in use.
    Source: Yehuda et al. 2022, "Active learning through a covering lens", section 3. There the number of clusters is
        the number of classes, which embeddings do not tell; here it is the budget, 2 to 100: with many more clusters
        than classes the radius would shrink to nothing.
    """
    positions_M = in_hash_order(available_N | labeled_N, keys_N, seed=seed)
    check_pairs(len(positions_M) ** 2, "prob_cover")
    tiles = embedding_tiles(embeddings_ND, positions_M)
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    open_M = available_N[positions_M]
    labeled_K = np.flatnonzero(~open_M)
    radius = _pure_radius(tiles, min(max(budget, 2), _MOST_CLUSTERS), seed)
    covered_M = nearest(tiles, tiles.take(labeled_K))[0] < radius
    covered_M[labeled_K] = True
    return positions_M[_most_cover(tiles, ~covered_M, np.flatnonzero(open_M), budget, radius)]


def _most_cover(tiles: Tiles, uncovered_M: BoolN, open_K: IntK, budget: int, radius: np.float32) -> list[int]:
    from svp_nlp.strategies.greedy import count_bounds, lazy_greedy

    # A row in the ball of a pick counts no more for any ball that it is in, not only for the ball that was picked.
    uncovered_TB = tiles.lanes(uncovered_M)
    if not uncovered_TB.any():
        return list(open_K[:budget].tolist())

    def take(row: int) -> bool:
        inside_M = squared_distances(tiles, tiles.take(np.array([row])))[0] < radius
        uncovered_TB.reshape(-1)[: tiles.count][inside_M] = False
        return bool(uncovered_TB.any())

    return lazy_greedy(
        count_bounds(tiles, uncovered_TB, squared_radius=radius)[open_K],
        open_K,
        budget=budget,
        gains=lambda rows: ball_counts(tiles, rows, uncovered_TB, squared_radius=radius),
        take=take,
    )


def _pure_radius(tiles: Tiles, num_clusters: int, seed: int) -> np.float32:
    """Squared radius of an open ball; beyond all distances where all rows are in one cluster."""
    labels_M = kmeans(tiles, num_clusters=num_clusters, seed=seed)
    probes = min(tiles.count, _PROBES)
    apart_P = np.empty(probes, dtype=np.float32)
    for start in range(0, probes, 64):
        chunk_K = np.arange(start, min(start + 64, probes))
        distances_KM = squared_distances(tiles, tiles.take(chunk_K))
        distances_KM[labels_M[chunk_K, None] == labels_M] = np.inf
        apart_P[chunk_K] = distances_KM.min(axis=1)
    apart_P.sort()
    # Not 0 (a pick covers itself), and finite.
    limits = np.finfo(np.float32)
    return np.float32(np.clip(apart_P[int((1 - _PURITY) * probes)], limits.smallest_subnormal, limits.max))
