"""The inner loops over tiles of rows, compiled; imported when a strategy first needs them (numba takes a second).

T tiles of B rows, D columns, K rows to compare with. Every sum over columns runs in the order of the columns, and each
lane (row of a tile) is on its own: results are the same to the last bit for any width of vector registers, any place of
a row in a tile, and equal rows have equal distances. A matrix product promises none of this, hence neither the same
picks on any machine nor exact ties. The price is a third of its speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svp_nlp.compiled import bound, jit


@jit
def _squared(tile_DB: Any, row_D: Any, out_B: Any) -> None:
    width = len(row_D)
    out_B[:] = 0
    whole = width - width % 4
    for d in range(0, whole, 4):  # four columns a pass: a quarter of the loads and stores of the sums
        r0, r1, r2, r3 = row_D[d], row_D[d + 1], row_D[d + 2], row_D[d + 3]
        for b in range(len(out_B)):
            t0 = tile_DB[d, b] - r0
            t1 = tile_DB[d + 1, b] - r1
            t2 = tile_DB[d + 2, b] - r2
            t3 = tile_DB[d + 3, b] - r3
            out_B[b] = (((out_B[b] + t0 * t0) + t1 * t1) + t2 * t2) + t3 * t3
    for d in range(whole, width):
        r0 = row_D[d]
        for b in range(len(out_B)):
            t0 = tile_DB[d, b] - r0
            out_B[b] += t0 * t0


@jit
def distances(blocks_TDB: Any, rows_KD: Any, out_KTB: Any) -> None:
    """Squared distances of all rows in the tiles to K rows."""
    for t in range(len(blocks_TDB)):
        for k in range(len(rows_KD)):
            _squared(blocks_TDB[t], rows_KD[k], out_KTB[k, t])


@jit
def inner_products(blocks_TDB: Any, rows_KD: Any, out_KTB: Any) -> None:
    """Inner products of all rows in the tiles with K rows."""
    out_KTB[:] = 0
    for t in range(len(blocks_TDB)):
        for k in range(len(rows_KD)):
            for d in range(rows_KD.shape[1]):
                r = rows_KD[k, d]
                for b in range(out_KTB.shape[2]):
                    out_KTB[k, t, b] += blocks_TDB[t, d, b] * r


@jit
def nearest(blocks_TDB: Any, rows_KD: Any, best_TB: Any, which_TB: Any) -> None:
    """The nearest of K rows, the first of equally near ones, and its squared distance."""
    work_B = np.empty(blocks_TDB.shape[2], np.float32)
    for t in range(len(blocks_TDB)):
        for k in range(len(rows_KD)):
            _squared(blocks_TDB[t], rows_KD[k], work_B)
            for b in range(len(work_B)):
                if work_B[b] < best_TB[t, b]:
                    best_TB[t, b] = work_B[b]
                    which_TB[t, b] = k


@jit
def ball_counts(blocks_TDB: Any, rows_KD: Any, squared_radius: Any, counted_TB: Any, out_K: Any) -> None:
    """How many of the rows that count lie nearer than the radius to each of K rows."""
    work_B = np.empty(blocks_TDB.shape[2], np.float32)
    out_K[:] = 0
    for t in range(len(blocks_TDB)):
        for k in range(len(rows_KD)):
            _squared(blocks_TDB[t], rows_KD[k], work_B)
            inside = 0
            for b in range(len(work_B)):
                inside += counted_TB[t, b] & (work_B[b] < squared_radius)
            out_K[k] += inside


@jit
def gains(blocks_TDB: Any, rows_KD: Any, best_TB: Any, out_K: Any) -> None:
    """By how much each of K rows would lower the sum of `best_TB`, the squared distances to the nearest pick.

    Rounding is monotone and the order of the sum is fixed, so a smaller `best_TB` never gives a larger gain, not even
    by a bit: a gain of earlier is an upper bound of the gain now.
    """
    size = blocks_TDB.shape[2]
    work_B = np.empty(size, np.float32)
    sums_KB = np.zeros((len(rows_KD), size), np.float64)
    for t in range(len(blocks_TDB)):
        for k in range(len(rows_KD)):
            _squared(blocks_TDB[t], rows_KD[k], work_B)
            for b in range(size):
                sums_KB[k, b] += max(best_TB[t, b] - work_B[b], np.float32(0))
    for k in range(len(rows_KD)):
        total = 0.0
        for b in range(size):
            total += sums_KB[k, b]
        out_K[k] = total


@bound
def pair_gains(
    products_IJ: Any, norms_I: Any, norms_J: Any, best_I: Any, best_J: Any, sums_I: Any, sums_J: Any
) -> None:
    """Add what each of I rows gains from J others, and each of these from the I rows, as in `gains`."""
    for i in range(len(norms_I)):
        total = np.float32(0)
        for j in range(len(norms_J)):
            distance = norms_I[i] + norms_J[j] - np.float32(2) * products_IJ[i, j]
            sums_J[j] += max(best_I[i] - distance, np.float32(0))
            total += max(best_J[j] - distance, np.float32(0))
        sums_I[i] += total


@bound
def pair_counts(
    products_IJ: Any,
    norms_I: Any,
    norms_J: Any,
    counted_I: Any,
    counted_J: Any,
    sums_I: Any,
    sums_J: Any,
    squared_radius: Any,
) -> None:
    """Add how many of J rows that count (1 or 0) lie within the radius of each of I rows, and the reverse."""
    for i in range(len(norms_I)):
        total = np.float32(0)
        for j in range(len(norms_J)):
            distance = norms_I[i] + norms_J[j] - np.float32(2) * products_IJ[i, j]
            inside = np.float32(1) if distance < squared_radius else np.float32(0)
            sums_J[j] += inside * counted_I[i]
            total += inside * counted_J[j]
        sums_I[i] += total
