"""The rows that a setwise strategy works on: gathered once, in the order of their keyed hash, cut into tiles.

That order is the whole trick behind "permuting rows permutes picks": a strategy sees the same arrays however the pool
is ordered, the first of equal rows is the one that the keyed hash puts first, and the first rows are rows at random.

Shape legend: M rows in use, T tiles, B rows of a tile, D columns, K some of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import BoolN, FloatN, FloatNC, FloatND, IntK, IntN, UIntN, check_probs, keyed_hash
from svp_nlp.errors import SignalError

TILE = 128  # rows: at 64 columns a tile is 32 KiB and stays in the first cache
FloatTDB: TypeAlias = npt.NDArray[np.float32]
FloatKD: TypeAlias = npt.NDArray[np.float32]
IntM: TypeAlias = npt.NDArray[np.int32]
FloatKM: TypeAlias = npt.NDArray[np.float32]

# 200,000 rows with one another. 6 ns for a pair at 64 columns, 73 ns at 768: 4 minutes, 50 minutes.
_MOST_PAIRS = 40_000_000_000
_ROWS_PER_GATHER = 65_536


@dataclass(frozen=True)
class Tiles:
    """Rows laid out for the kernels: column by column within a tile; the last tile is filled up with zeros."""

    blocks_TDB: FloatTDB
    count: int

    def take(self, members_K: IntK) -> FloatKD:
        """The rows at these places, float32 [K, D]."""
        return np.ascontiguousarray(self.blocks_TDB[members_K // TILE, :, members_K % TILE])

    def column(self, d: int) -> FloatN:
        """Column d of all rows, float32 [M]."""
        return self.blocks_TDB[:, d, :].reshape(-1)[: self.count]

    def lanes(self, values_M: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One value per row as [T, B], zeros where the last tile has no row."""
        values_TB = np.zeros((len(self.blocks_TDB), TILE), dtype=values_M.dtype)
        values_TB.reshape(-1)[: self.count] = values_M
        return values_TB


def cut(rows_MD: FloatND) -> Tiles:
    """Lay rows out in tiles; one copy of them."""
    return cut_chunks([rows_MD], *rows_MD.shape)


def cut_chunks(chunks: Iterable[FloatND], count: int, width: int) -> Tiles:
    """As `cut`, for `count` rows that come in chunks, each but the last of whole tiles."""
    blocks_TDB = np.zeros((-(-count // TILE), width, TILE), dtype=np.float32)
    tiles = (rows_BD[low : low + TILE] for rows_BD in chunks for low in range(0, len(rows_BD), TILE))
    for t, rows_BD in enumerate(tiles):
        blocks_TDB[t, :, : len(rows_BD)] = rows_BD.T
    return Tiles(blocks_TDB, count)


def _gathered(values_ND: npt.NDArray[Any], positions_M: IntN) -> Iterator[tuple[IntN, FloatND]]:
    """Positions and their rows, float32, a chunk at a time; a memory-mapped file is read in its own order."""
    for start in range(0, len(positions_M), _ROWS_PER_GATHER):
        positions_B = positions_M[start : start + _ROWS_PER_GATHER]
        forward = np.argsort(positions_B)
        rows_BD = np.empty((len(positions_B), values_ND.shape[1]), dtype=np.float32)
        rows_BD[forward] = values_ND[positions_B[forward]]
        yield positions_B, rows_BD


def subset(tiles: Tiles, members_K: IntK) -> Tiles:
    """Some of the rows, as tiles of their own."""
    return cut(tiles.take(members_K))


def in_hash_order(used_N: BoolN, keys_N: UIntN, *, seed: int) -> IntN:
    """Positions of the rows in use, ordered by the hash of their key; int64 [M]."""
    positions_M = np.flatnonzero(used_N)
    return positions_M[np.argsort(keyed_hash(keys_N[positions_M], seed, "tie"), kind="stable")]


def embedding_tiles(embeddings_ND: npt.NDArray[Any], positions_M: IntN, *, name: str = "embeddings") -> Tiles:
    """Gather the embeddings of some rows and scale them by a power of two, to at most 1.

    The scale changes no comparison of distances (it rounds nothing away) and keeps squares of very large or very small
    values within float32. Memory: one float32 copy of the rows.

    Raises:
        SignalError: not two-dimensional numbers, or a row holds NaN or infinity; names the first such position.
    """
    numeric = np.issubdtype(embeddings_ND.dtype, np.floating) or np.issubdtype(embeddings_ND.dtype, np.integer)
    if embeddings_ND.ndim != 2 or not numeric or embeddings_ND.shape[1] == 0:
        raise SignalError(
            f"{name}: expected floats of shape [rows, width >= 1], "
            f"found {embeddings_ND.dtype} {list(embeddings_ND.shape)}"
        )
    bad, num_bad, largest = len(embeddings_ND), 0, 0.0

    def checked() -> Iterator[FloatND]:
        nonlocal bad, num_bad, largest
        for positions_B, rows_BD in _gathered(embeddings_ND, positions_M):
            finite_B = np.isfinite(rows_BD).all(axis=1)
            if not finite_B.all():
                bad, num_bad = min(bad, int(positions_B[~finite_B].min())), num_bad + int((~finite_B).sum())
            largest = max(largest, float(rows_BD.max()), -float(rows_BD.min()))
            yield rows_BD

    blocks_TDB = cut_chunks(checked(), len(positions_M), embeddings_ND.shape[1]).blocks_TDB
    if num_bad:
        raise SignalError(
            f"{name}: NaN or infinity at position {bad} ({num_bad:,} such rows in all); "
            "expected finite float32; score them again, or leave these rows out"
        )
    if largest > 0:
        blocks_TDB *= np.float32(2.0) ** -np.frexp(largest)[1]
    return Tiles(blocks_TDB, len(positions_M))


def checked_probs(probs_NC: FloatNC, positions_M: IntN) -> Iterator[FloatNC]:
    """The probabilities of some rows, clipped to [0, 1], float32, in chunks of whole tiles but for the last.

    The other rows are not looked at.

    Raises:
        SignalError: as `check_probs`; names the first bad position of the pool.
    """
    check_probs(probs_NC[:0])
    for _, rows_BC in _gathered(probs_NC, positions_M):
        try:
            check_probs(rows_BC)
        except SignalError:
            # Again, with the position in the pool: blank the rows that do not count.
            shown_NC = np.full(probs_NC.shape, 1 / probs_NC.shape[1], dtype=np.float32)
            shown_NC[positions_M] = probs_NC[positions_M]
            check_probs(shown_NC)
        yield np.clip(rows_BC, 0, 1, out=rows_BC)


def squared_distances(tiles: Tiles, rows_KD: FloatKD) -> FloatKM:
    """Squared distances of all rows to K others, float32 [K, M]."""
    from svp_nlp.strategies import tiles_kernels

    out_KTB = np.empty((len(rows_KD), len(tiles.blocks_TDB), TILE), dtype=np.float32)
    tiles_kernels.distances(tiles.blocks_TDB, rows_KD, out_KTB)
    return out_KTB.reshape(len(rows_KD), -1)[:, : tiles.count]


def inner_products(tiles: Tiles, rows_KD: FloatKD) -> FloatKM:
    """Inner products of all rows with K others, float32 [K, M]."""
    from svp_nlp.strategies import tiles_kernels

    out_KTB = np.empty((len(rows_KD), len(tiles.blocks_TDB), TILE), dtype=np.float32)
    tiles_kernels.inner_products(tiles.blocks_TDB, rows_KD, out_KTB)
    return out_KTB.reshape(len(rows_KD), -1)[:, : tiles.count]


def nearest(tiles: Tiles, rows_KD: FloatKD) -> tuple[FloatN, IntM]:
    """The nearest of K others for each row: its squared distance float32 [M] (inf for K = 0), which one int32 [M]."""
    from svp_nlp.strategies import tiles_kernels

    best_TB = np.full((len(tiles.blocks_TDB), TILE), np.inf, dtype=np.float32)
    which_TB = np.zeros((len(tiles.blocks_TDB), TILE), dtype=np.int32)
    tiles_kernels.nearest(tiles.blocks_TDB, rows_KD, best_TB, which_TB)
    return best_TB.reshape(-1)[: tiles.count], which_TB.reshape(-1)[: tiles.count]


def squared_norms(tiles: Tiles) -> FloatN:
    """Inner products of rows with themselves, rounded step by step as `inner_products` rounds; float32 [M]."""
    sums_M = np.zeros(tiles.count, dtype=np.float32)
    for d in range(tiles.blocks_TDB.shape[1]):
        sums_M += tiles.column(d) * tiles.column(d)
    return sums_M


def ball_counts(
    tiles: Tiles, rows: list[int], counted_TB: npt.NDArray[np.bool_], *, squared_radius: np.float32
) -> list[float]:
    """How many of the rows that count lie nearer than the radius to each of some rows."""
    from svp_nlp.strategies import tiles_kernels

    counts_K = np.empty(len(rows), dtype=np.float64)
    tiles_kernels.ball_counts(tiles.blocks_TDB, tiles.take(np.array(rows)), squared_radius, counted_TB, counts_K)
    return list(counts_K.tolist())


def gains(tiles: Tiles, rows: list[int], best_TB: npt.NDArray[np.float32]) -> list[float]:
    """By how much each of some rows would lower the sum of `best_TB`, the squared distances to the nearest pick."""
    from svp_nlp.strategies import tiles_kernels

    gains_K = np.empty(len(rows), dtype=np.float64)
    tiles_kernels.gains(tiles.blocks_TDB, tiles.take(np.array(rows)), best_TB, gains_K)
    return list(gains_K.tolist())


def check_pairs(pairs: int, name: str) -> None:
    """Refuse to compare more pairs of rows than end within minutes at 64 columns, within the hour at 768.

    Raises:
        SignalError: names both numbers and what to set.
    """
    if pairs > _MOST_PAIRS:
        raise SignalError(
            f"{name}: {pairs:,} pairs of rows would have to be compared, expected at most {_MOST_PAIRS:,} "
            "(200,000 rows); set `candidates` in the recipe to fewer rows"
        )


def uniforms(count: int, *, seed: int, salt: str) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend on the seed and the purpose alone, float64 [count]."""
    # 52 bits: the largest is a whole float64 step below 1, so that a product with a sum stays below the sum.
    return (keyed_hash(np.arange(count), seed, salt) >> np.uint64(12)).astype(np.float64) * 2.0**-52


def draw(weights_M: npt.NDArray[Any], uniform: float) -> int:
    """Draw a row with a chance in proportion to its weight; -1 where all weights are zero. O(M)."""
    sums_M = np.cumsum(weights_M, dtype=np.float64)
    if not len(sums_M) or sums_M[-1] <= 0:
        return -1
    return int(np.searchsorted(sums_M, uniform * sums_M[-1], side="right"))
