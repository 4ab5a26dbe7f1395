"""Greedy k-centers where each process of a launch holds a part of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import BoolN, IntK, UIntN, keyed_hash
from svp_nlp.errors import BudgetError, SignalError
from svp_nlp.strategies.kcenters_blocks import BLOCK_MEMBERS, Exchange, Ranks, pick_blocks
from svp_nlp.strategies.kcenters_rows import Moments, check_embeddings, largest_value, make_frame, moments, scale_of


def greedy_k_centers_ranks(
    embeddings_ND: npt.NDArray[Any], *, available_N: BoolN, labeled_N: BoolN, budget: int, keys_N: UIntN, seed: int,
    rank: int, exchange: Exchange, block_members: tuple[int, int] = BLOCK_MEMBERS,
) -> tuple[IntK, IntK]:  # fmt: skip
    """The picks of `greedy_k_centers` over the rows of all ranks; to be called by all of them.

    For each block of picks a rank sends its best rows with their vectors, not one by one. The vectors of all centres
    are kept on every rank: O(N + (labelled + budget) D) memory beside its embeddings.

    Args:
        embeddings_ND: float [N, D], the rows of this rank, perhaps none; the other arrays are aligned with it.
        budget: of all ranks together, like `seed` the same on all.
        keys_N: uint64, distinct over all ranks.
        rank: the number of this process.
        exchange: all-gathers a small array of the same shape and type on all ranks; returns them by rank.
        block_members: the fewest and the most rows that a rank sends for a block; they change time, never picks.
    Returns:
        int64 [budget] ranks and int64 [budget] positions on that rank, in the order of picking; the same on all ranks.
    Raises:
        SignalError: as `greedy_k_centers` for the rows of this rank; or another rank raised it; or the ranks disagree.
        BudgetError: larger than the number of available rows of all ranks.
    Source: Sener & Savarese 2018, algorithm 1.
    """
    refused: SignalError | None = None
    largest = 0.0
    try:
        check_embeddings(embeddings_ND)
        largest = largest_value(embeddings_ND, np.flatnonzero(available_N | labeled_N))
    except SignalError as error:
        refused = error
    width = embeddings_ND.shape[-1]
    common = [float(width), float(budget), float(seed % 2**32)]
    heads = exchange(np.array([refused is not None, np.count_nonzero(available_N), largest, *common], dtype=np.float64))
    if refused is not None:
        raise refused
    for other, head in enumerate(heads):
        if head[0]:
            raise SignalError(f"embeddings: rank {other} has refused its rows; its message tells why")
        if head[3:].tolist() != common:
            raise SignalError(
                f"embeddings: rank {other} has width, budget and seed {head[3:].astype(int).tolist()}, rank {rank} "
                f"{[int(value) for value in common]}; start all ranks with the same recipe"
            )
    total = int(sum(head[1] for head in heads))
    if budget > total:
        raise BudgetError(f"a budget of {budget:,} was asked for, {total:,} rows are available on {len(heads)} ranks")
    largest = max(float(head[2]) for head in heads)
    available_R = np.flatnonzero(available_N)
    mine = moments(embeddings_ND, available_R, scale=scale_of(largest))
    # All ranks must frame alike: a vector of another rank would not fit into a frame made for one's own.
    totals = np.sum(exchange(np.concatenate([[mine.count, mine.squares], mine.sum_D])), axis=0)
    frame = make_frame(Moments(totals[0], totals[2:], totals[1]), largest=largest, scale=scale_of(largest))
    return pick_blocks(
        embeddings_ND, available_R, labeled_L=np.flatnonzero(labeled_N),
        hash_R=keyed_hash(keys_N[available_R], seed, "tie"), frame=frame, budget=budget,
        ranks=Ranks(rank, exchange), block_members=block_members,
    )  # fmt: skip
