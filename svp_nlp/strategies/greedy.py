"""Lazy greedy: the picks of plain greedy for a function with falling gains, with few gains worked out.

Shape legend: M rows, T tiles of B rows; I and J rows of two neighbouring runs of tiles.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import FloatN, IntK
from svp_nlp.strategies import tiles_kernels
from svp_nlp.strategies.tiles import TILE, FloatKD, Tiles, squared_norms

Bounds: TypeAlias = npt.NDArray[np.float64]

_AT_ONCE = 16  # a pass over the rows is bound by memory: 16 gains cost little more than one
_RUN = 8  # tiles: products of 1,024 x 1,024 rows stay in the second cache or near it


def lazy_greedy(
    bounds_K: Bounds,
    rows_K: IntK,
    *,
    budget: int,
    gains: Callable[[list[int]], list[float]],
    take: Callable[[int], bool],
) -> list[int]:
    """Pick the row with the largest gain, again and again; of equal gains the first row.

    Args:
        bounds_K: for each row at least its first gain.
        rows_K: the rows that may be picked, ascending.
        budget: at most K.
        gains: of some rows, given all picks so far; none ever grows.
        take: tells that a row was picked; False when no row has anything to gain any more.
    Returns:
        Rows in the order of picking; when gains end before the budget, the first rows that are left follow.
    Source: Minoux 1978, "Accelerated greedy algorithms for maximizing submodular set functions".
    """
    heap = [(-bound, row, -1) for bound, row in zip(bounds_K.tolist(), rows_K.tolist(), strict=True)]
    heapq.heapify(heap)
    picked: list[int] = []
    while len(picked) < budget:
        _, row, known = heapq.heappop(heap)
        if known == len(picked):
            picked.append(row)
            if not take(row):
                rest = sorted(other for _, other, _ in heap)
                return picked + rest[: budget - len(picked)]
            continue
        stale = [row]
        while heap and len(stale) < _AT_ONCE and heap[0][2] < len(picked):
            stale.append(heapq.heappop(heap)[1])
        for gain, other in zip(gains(stale), stale, strict=True):
            heapq.heappush(heap, (-gain, other, len(picked)))
    return picked


def gain_bounds(tiles: Tiles, best_TB: npt.NDArray[np.float32]) -> Bounds:
    """At least the gain (see `tiles.gains`) of every row; float64 [M]. O(M^2 D), as matrix products."""
    sums_M = np.zeros(best_TB.size)
    best_M = best_TB.reshape(-1)
    for rows_I, rows_J, products_IJ, norms_M in _pairs(tiles):
        sums_I, sums_J = np.zeros(len(products_IJ), np.float32), np.zeros(products_IJ.shape[1], np.float32)
        tiles_kernels.pair_gains(
            products_IJ, norms_M[rows_I], norms_M[rows_J], best_M[rows_I], best_M[rows_J], sums_I, sums_J
        )
        _add(sums_M, rows_I, sums_I, rows_J, sums_J)
    return sums_M[: tiles.count]


def count_bounds(tiles: Tiles, counted_TB: npt.NDArray[np.bool_], *, squared_radius: np.float32) -> Bounds:
    """At least the count (see `tiles.ball_counts`) of every row; float64 [M]. O(M^2 D), as matrix products."""
    sums_M = np.zeros(counted_TB.size)
    counted_M = counted_TB.reshape(-1).astype(np.float32)
    for rows_I, rows_J, products_IJ, norms_M in _pairs(tiles):
        sums_I, sums_J = np.zeros(len(products_IJ), np.float32), np.zeros(products_IJ.shape[1], np.float32)
        tiles_kernels.pair_counts(
            products_IJ, norms_M[rows_I], norms_M[rows_J], counted_M[rows_I], counted_M[rows_J], sums_I, sums_J,
            squared_radius,
        )  # fmt: skip
        _add(sums_M, rows_I, sums_I, rows_J, sums_J)
    return sums_M[: tiles.count]


def _add(sums_M: Bounds, rows_I: slice, sums_I: FloatN, rows_J: slice, sums_J: FloatN) -> None:
    margin = np.float64(1.001)  # a float32 sum of 1,024 terms may be too small by 6e-5 of itself
    sums_M[rows_J] += sums_J * margin
    if rows_I != rows_J:  # a run with itself has every pair both ways already
        sums_M[rows_I] += sums_I * margin


def _pairs(tiles: Tiles) -> Iterator[tuple[slice, slice, FloatKD, FloatN]]:
    """Inner products of all pairs of runs, and norms so small that norm + norm - 2 product is at most the distance.

    The distance as `_squared` rounds it, that is. A product of D terms, in whatever order, is off by D 2^-24 |x| |y| at
    most, a norm and a rounded distance by as much of theirs; |x| |y| and the distance are at most |x|^2 + |y|^2 times a
    half and two. Norms are lowered by twice the sum of these.
    """
    width = tiles.blocks_TDB.shape[1]
    norms_M = np.zeros(len(tiles.blocks_TDB) * TILE, dtype=np.float32)
    norms_M[: tiles.count] = squared_norms(tiles) * np.float32(1 - (8 * width + 32) * 2.0**-24)
    columns_DM = [
        np.ascontiguousarray(tiles.blocks_TDB[t : t + _RUN].transpose(1, 0, 2)).reshape(width, -1)
        for t in range(0, len(tiles.blocks_TDB), _RUN)
    ]
    for i, columns_DI in enumerate(columns_DM):
        rows_I = slice(i * _RUN * TILE, i * _RUN * TILE + columns_DI.shape[1])
        for j in range(i, len(columns_DM)):
            columns_DJ = columns_DM[j]
            rows_J = slice(j * _RUN * TILE, j * _RUN * TILE + columns_DJ.shape[1])
            yield rows_I, rows_J, columns_DI.T @ columns_DJ, norms_M
