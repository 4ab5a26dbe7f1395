"""k-means with the same result on any machine, for any number of threads and any order of the rows."""

from __future__ import annotations

import numpy as np

from svp_nlp.arrays import FloatND
from svp_nlp.strategies.tiles import IntM, Tiles, draw, nearest, squared_distances, uniforms

_MOST_STEPS = 25  # few rows change their cluster after that


def kmeans(tiles: Tiles, *, num_clusters: int, seed: int) -> IntM:
    """Cluster rows by k-means++ and Lloyd's steps until no row moves, 25 at most.

    O(M D K) for each step. scikit-learn's adds up centres in the order in which its threads end, and its distances come
    from a matrix product: near ties would fall differently from machine to machine.

    Args:
        num_clusters: at least 1; fewer come back where there are fewer different rows, or a cluster lost all its rows.
        seed: of the draws; their rows are in the order of the keyed hash.
    Returns:
        int32 [M], cluster of each row.
    Source: Arthur & Vassilvitskii 2007 (one draw a centre); Lloyd 1982. A cluster without rows keeps its centre.
    """
    centers_KD = _first_centers(tiles, num_clusters, seed)
    labels_M = nearest(tiles, centers_KD)[1]
    for _ in range(_MOST_STEPS):
        sizes_K = np.bincount(labels_M, minlength=len(centers_KD))
        filled_K = sizes_K > 0
        for d in range(centers_KD.shape[1]):
            sums_K = np.bincount(labels_M, weights=tiles.column(d), minlength=len(centers_KD))
            centers_KD[filled_K, d] = sums_K[filled_K] / sizes_K[filled_K]
        moved_M = nearest(tiles, centers_KD)[1]
        if (moved_M == labels_M).all():
            break
        labels_M = moved_M
    return labels_M


def _first_centers(tiles: Tiles, num_clusters: int, seed: int) -> FloatND:
    chosen = [0]  # the first in the order of a hash is a row at random
    best_M = squared_distances(tiles, tiles.take(np.array(chosen)))[0]
    for uniform in uniforms(num_clusters - 1, seed=seed, salt="kmeans"):
        row = draw(best_M, float(uniform))
        if row < 0:
            break
        chosen.append(row)
        np.minimum(best_M, squared_distances(tiles, tiles.take(np.array([row])))[0], out=best_M)
    return tiles.take(np.array(chosen))
