"""Greedy k-centers by blocks of matrix products, on one process or on many that hold a part of the rows each.

The rows that can be farthest (the *members* of a block, `kcenters_bounds.members`) have exact distances. Greedy picking
among them is right for as long as the best of them is ahead of the best bound of all other rows; then one product of
all rows with the new centres renews the bounds. So the picks do not depend on the size of blocks, on threads, on the
device, or on which process holds which row.

Shapes: R rows of this process that may be picked, L labelled rows, K picks or centres, M members of all ranks,
X records of all ranks, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import FloatND, IntK, IntN, UIntN
from svp_nlp.strategies.kcenters_bounds import (
    CENTRES_PER_PRODUCT,
    Centres,
    Doubles,
    MakeProducts,
    NumpyProducts,
    Part,
    make_part,
    members,
    renew,
)
from svp_nlp.strategies.kcenters_kernels import BEHIND, FREE, pick_members
from svp_nlp.strategies.kcenters_rows import Frame, take

Exchange: TypeAlias = Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]]  # every rank's array, by rank

BLOCK_MEMBERS = (256, 2048)  # the fewest and the most


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this is, and how an array of one shape is gathered from all of them."""

    rank: int
    exchange: Exchange


def pick_blocks(
    embeddings_ND: npt.NDArray[Any], available_R: IntN, *, labeled_L: IntN, hash_R: UIntN, frame: Frame, budget: int,
    ranks: Ranks | None = None, make_products: MakeProducts = NumpyProducts,
    block_members: tuple[int, int] = BLOCK_MEMBERS,
) -> tuple[IntK, IntK]:  # fmt: skip
    """Pick `budget` rows over all ranks.

    Args:
        embeddings_ND: floats, finite in the rows that are named; those of this rank.
        available_R: positions of the rows that may be picked.
        labeled_L: positions of the rows that are centres from the start.
        hash_R: the tie-breaking hash of each available row, distinct over all ranks; the smaller is picked first.
        frame: the same on all ranks.
        budget: at most the number of available rows of all ranks.
        ranks: None = one process has all rows.
        block_members: the fewest and the most members of a block on each rank.
    Returns:
        int64 [budget] ranks and int64 [budget] positions there, in the order of picking; the same on all ranks.
    """
    part = make_part(embeddings_ND, available_R, hash_R=hash_R, frame=frame, make_products=make_products)
    centres = Centres(embeddings_ND, keep_vectors=ranks is not None)
    _start(part, centres, labeled_L, ranks)
    owners: list[IntN] = []
    positions: list[IntN] = []
    size, left = block_members[0], budget
    while left:
        block = _gather_members(part, centres, size, ranks)
        if block.value_M.max() == 0.0 and block.rest_value <= 0.0:
            owner_K, position_K = _by_hash(part, left, ranks)
        else:
            order_K = _pick_members(part, centres, block, left)
            owner_K, position_K = block.rank_M[order_K], block.position_M[order_K]
        owners.append(owner_K)
        positions.append(position_K)
        left -= len(owner_K)
        share = len(owner_K) / size
        size = max(
            block_members[0], min(block_members[1], 2 * size if share > 0.6 else size if share > 0.2 else size // 2)
        )
    empty = [np.empty(0, dtype=np.int64)]
    return np.concatenate(owners or empty), np.concatenate(positions or empty)


def _start(part: Part, centres: Centres, labeled_L: IntN, ranks: Ranks | None) -> None:
    """Make the labelled rows of all ranks centres."""
    width = part.embeddings_ND.shape[1]
    longest = len(labeled_L) if ranks is None else max(int(n[0]) for n in ranks.exchange(np.array([len(labeled_L)])))
    for low in range(0, longest, CENTRES_PER_PRODUCT):
        position_K = labeled_L[low : low + CENTRES_PER_PRODUCT]
        raw_KD = take(part.embeddings_ND, position_K)
        if ranks is not None:
            message = np.zeros(min(CENTRES_PER_PRODUCT, longest - low), [("used", "?"), ("vector", "f4", (width,))])
            message["used"][: len(raw_KD)] = True
            message["vector"][: len(raw_KD)] = raw_KD
            found, _ = _gathered(message, ranks)
            raw_KD = np.ascontiguousarray(found["vector"][found["used"]])
        before = centres.count
        centres.add(raw_KD, position_K)
        renew(part, raw_KD, before)


@dataclass(frozen=True)
class _Block:
    """The members of all ranks, and what the best of all other rows can be.

    `row_M` is the row on this rank, -1 where another has it.
    """

    vectors_MD: FloatND
    value_M: Doubles
    hash_M: UIntN
    rank_M: IntN
    position_M: IntN
    row_M: IntN
    rest_value: float
    rest_hash: np.uint64


def _gather_members(part: Part, centres: Centres, size: int, ranks: Ranks | None) -> _Block:
    rows, value, tie = members(part, centres, size)
    width = part.embeddings_ND.shape[1]
    kinds = [("value", "f8"), ("hash", "u8"), ("position", "i8"), ("row", "i8"), ("vector", "f4", (width,))]
    # All ranks send as many records; the last tells of the rest, those in between say -1.
    message = np.zeros((len(rows) if ranks is None else size) + 1, dtype=kinds)
    used = slice(len(rows))
    message["value"] = -1.0
    message["value"][used], message["hash"][used] = part.exact_R[rows], part.hash_R[rows]
    message["position"][used], message["row"][used] = part.positions_R[rows], rows
    message["vector"][used] = take(part.embeddings_ND, part.positions_R[rows])
    message["value"][-1], message["hash"][-1] = value, tie
    found, rank_X = _gathered(message, ranks)
    ends = np.arange(len(message) - 1, len(found), len(message))
    best = ends[np.lexsort((found["hash"][ends], -found["value"][ends]))[0]]
    is_member = found["value"] >= 0.0
    is_member[ends] = False
    kept = np.flatnonzero(is_member)
    mine = rank_X[kept] == (0 if ranks is None else ranks.rank)
    return _Block(
        np.ascontiguousarray(found["vector"][kept]), found["value"][kept], found["hash"][kept], rank_X[kept],
        found["position"][kept], np.where(mine, found["row"][kept], -1), float(found["value"][best]),
        found["hash"][best],
    )  # fmt: skip


def _pick_members(part: Part, centres: Centres, block: _Block, limit: int) -> IntN:
    """Pick from a block, renew the bounds of all rows of this rank; returns the members in the order of picking."""
    framed_MD = part.frame.apply(block.vectors_MD)
    squares_M = np.einsum("ij,ij->i", framed_MD, framed_MD, dtype=np.float64)
    count = len(squares_M)
    value_M, state_M, covered_M = block.value_M.copy(), np.full(count, FREE), np.zeros(count, dtype=np.int64)
    order_K = np.empty(min(limit, count), dtype=np.int64)
    picked = pick_members(
        (framed_MD * np.float32(-2)) @ framed_MD.T, block.vectors_MD, squares_M, block.hash_M, part.frame.bound_3,
        part.frame.unit, block.rest_value, block.rest_hash, value_M, state_M, covered_M, order_K,
    )  # fmt: skip
    order_K = order_K[:picked]
    rows_K = block.row_M[order_K]
    part.upper_R[rows_K[rows_K >= 0]] = -1.0
    part.covered_R[rows_K[rows_K >= 0]] = -1
    if picked == limit:
        return order_K  # nobody asks for the bounds again
    before = centres.count
    raw_KD = np.ascontiguousarray(block.vectors_MD[order_K])
    centres.add(raw_KD, block.position_M[order_K])
    renew(part, raw_KD, before)
    # What picking has found out about the members of this rank is kept: no distance is computed twice.
    free_M, behind_M = ((block.row_M >= 0) & (state_M == state) for state in (FREE, BEHIND))
    rows = block.row_M[free_M]
    part.exact_R[rows] = part.upper_R[rows] = value_M[free_M]
    part.covered_R[rows] = centres.count
    rows, known = block.row_M[behind_M], covered_M[behind_M] + before
    stale = part.covered_R[rows] < known
    part.exact_R[rows[stale]], part.covered_R[rows[stale]] = value_M[behind_M][stale], known[stale]
    return order_K


def _by_hash(part: Part, left: int, ranks: Ranks | None) -> tuple[IntN, IntN]:
    """Ranks and positions of the `left` rows with the smallest hash, where no row is at any distance."""
    rows = np.flatnonzero(part.upper_R >= 0.0)
    rows = rows[np.argsort(part.hash_R[rows])[:left]]
    message = np.zeros(len(rows) if ranks is None else left, [("used", "?"), ("hash", "u8"), ("position", "i8")])
    message["used"][: len(rows)] = True
    message["hash"][: len(rows)], message["position"][: len(rows)] = part.hash_R[rows], part.positions_R[rows]
    found, rank_X = _gathered(message, ranks)
    kept = np.flatnonzero(found["used"])
    kept = kept[np.argsort(found["hash"][kept])[:left]]
    return rank_X[kept], found["position"][kept]


def _gathered(message: npt.NDArray[Any], ranks: Ranks | None) -> tuple[npt.NDArray[Any], IntN]:
    """The records of all ranks and the rank of each. They travel as bytes: what exchanges them knows no records."""
    if ranks is None:
        return message, np.zeros(len(message), dtype=np.int64)
    parts = ranks.exchange(message.view(np.uint8))
    found = np.concatenate([np.ascontiguousarray(part).view(message.dtype) for part in parts])
    return found, np.repeat(np.arange(len(parts)), len(message))
