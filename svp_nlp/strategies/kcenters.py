"""Greedy k-centers: exact, with O(N) memory beside the embeddings, the same picks however it is computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import BoolN, FloatND, IntK, IntN, UIntN, keyed_hash
from svp_nlp.strategies.base import setwise
from svp_nlp.strategies.kcenters_ranks import greedy_k_centers_ranks
from svp_nlp.strategies.kcenters_rows import (
    Frame,
    check_embeddings,
    largest_value,
    make_frame,
    moments,
    scale_of,
    take,
)

_SMALL_WORK = 1e9  # distances times width; below, no way takes half a second
_PROBE_ROWS, _PROBE_CENTRES = 2048, 256
_BLOCK_OVERHEAD = 1.3  # exact distances of members, products among them
_GPU_WORK = 1e11


@setwise(
    "embeddings",
    source="Sener & Savarese 2018, algorithm 1 (k-Center-Greedy). The authors of SVP start a core-set from 1,000 "
    "random rows, at first beside the budget; here it starts from the labelled rows or from one row",
    uses_labeled=True,
    over_ranks=greedy_k_centers_ranks,
)
def greedy_k_centers(
    embeddings_ND: FloatND, *, available_N: BoolN, labeled_N: BoolN, budget: int, keys_N: UIntN, seed: int
) -> IntK:
    """Pick, again and again, the available row that is farthest (Euclidean) from all centres: labelled or picked.

    Where no row is labelled the first pick is the one whose keyed hash is smallest, as all rows are equally far. The
    covering radius is at most twice the smallest that `budget` centres can have (with none labelled). Distances are
    compared in float64, exactly so in every variant, on every device and for every number of threads; equal ones are
    ordered by the keyed hash. Where all others coincide with centres the rest is picked by the hash.

    O(N budget D) time at most, less where the triangle inequality helps; a probe on a part of the rows decides between
    a pruned loop and blocks of matrix products. O(N) memory: the embeddings, a memory map perhaps, are read in chunks.

    Args:
        embeddings_ND: float [N, D], D >= 1; computed with as float32. Rows that are neither available nor labelled are
            not looked at.
    Returns:
        int64 [budget] positions in the order of picking.
    Raises:
        SignalError: not a matrix of floats, or NaN or infinity in a row; names the first position.
    Source: Sener & Savarese 2018, algorithm 1. The authors of SVP start core-sets from 1,000 random rows, and keep a
        matrix of all distances.
    """
    check_embeddings(embeddings_ND)
    largest = largest_value(embeddings_ND, np.flatnonzero(available_N | labeled_N))
    available_R = np.flatnonzero(available_N)
    hash_R = keyed_hash(keys_N[available_R], seed, "tie")
    problem = Problem(embeddings_ND, available_R, np.flatnonzero(labeled_N), hash_R, largest)
    return VARIANTS[choose_variant(problem, budget)](problem, budget)


@dataclass(frozen=True)
class Problem:
    """What the variants are given: finite embeddings, positions of rows, the tie-breaking hash of the available ones.

    `largest` is the largest absolute value of the rows.
    """

    embeddings_ND: npt.NDArray[Any]
    available_R: IntN
    labeled_L: IntN
    hash_R: UIntN
    largest: float

    def frame(self) -> Frame:
        """The frame of the blocks."""
        scale = scale_of(self.largest)
        rows = self.labeled_L if len(self.available_R) == 0 else self.available_R
        return make_frame(moments(self.embeddings_ND, rows, scale=scale), largest=self.largest, scale=scale)


def pick_by_blocks(problem: Problem, budget: int, **options: Any) -> IntK:
    """Blocks of matrix products on the CPU; `options` go to `pick_blocks`."""
    from svp_nlp.strategies.kcenters_blocks import pick_blocks

    _, positions_K = pick_blocks(
        problem.embeddings_ND, problem.available_R, labeled_L=problem.labeled_L, hash_R=problem.hash_R,
        frame=problem.frame(), budget=budget, **options,
    )  # fmt: skip
    return positions_K


def pick_on_gpu(problem: Problem, budget: int) -> IntK:
    """Blocks of matrix products on the GPU of this process."""
    from svp_nlp.strategies.kcenters_torch import gpu_products

    return pick_by_blocks(problem, budget, make_products=gpu_products)


def pick_by_pruning(problem: Problem, budget: int) -> IntK:
    """The pruned loop on one thread; for contiguous float32 embeddings."""
    return _pruned(problem, budget)[0]


VARIANTS: dict[str, Callable[[Problem, int], IntK]] = {
    "pruned": pick_by_pruning, "blocks": pick_by_blocks, "gpu": pick_on_gpu,
}  # fmt: skip


def _pruned(problem: Problem, budget: int) -> tuple[IntK, IntN]:
    """The picks, and how many distances were computed up to each, those between centres left out."""
    from svp_nlp.strategies.kcenters_kernels import pick_pruned

    rows_R, hash_R = problem.available_R, problem.hash_R
    picks_K, pairs_K = np.empty(budget, dtype=np.int64), np.zeros(budget, dtype=np.int64)
    if budget == 0:
        return picks_K, pairs_K
    start_L, picked = problem.labeled_L, 0
    if len(start_L) == 0:
        picks_K[0] = np.argmin(hash_R)
        start_L, picked = rows_R[picks_K[:1]], 1
    # Read-only for all, so that one kernel is compiled for memory maps and arrays.
    source_ND = problem.embeddings_ND.view(np.ndarray)
    source_ND.flags.writeable = False
    # Squared canonical distances are off by a relative (D + 3) 2**-53; the margin is for a few of them.
    margin = 1 + 16 * (source_ND.shape[1] + 8) * 2.0**-52
    picked += pick_pruned(
        source_ND, rows_R, hash_R, start_L, budget - picked, margin, picks_K[picked:], pairs_K[picked:]
    )
    if picked < budget:
        left_R = np.ones(len(rows_R), dtype=np.bool_)
        left_R[picks_K[:picked]] = False
        rest = np.flatnonzero(left_R)
        picks_K[picked:] = rest[np.argsort(hash_R[rest])[: budget - picked]]
        pairs_K[picked:] = pairs_K[picked - 1]
    return rows_R[picks_K], pairs_K


def choose_variant(problem: Problem, budget: int) -> str:
    """Guess which variant is fastest; a wrong guess costs time, never picks.

    Large work goes to a GPU if there is one. Else both ways are tried on a few thousand rows and 256 centres, with the
    clock. How many distances the pruned loop computes falls with the number of centres like a power, fitted here to
    the last two octaves; blocks compute them all.
    """
    source_ND, num_rows = problem.embeddings_ND, len(problem.available_R)
    num_centres = len(problem.labeled_L) + budget
    work = float(num_rows) * num_centres * source_ND.shape[1]
    if work > _GPU_WORK:
        from svp_nlp.strategies.kcenters_torch import has_gpu

        if has_gpu():
            return "gpu"
    if source_ND.dtype != np.float32 or not source_ND.flags.c_contiguous:
        return "blocks"
    if work < _SMALL_WORK or num_rows <= 2 * _PROBE_CENTRES:
        return "pruned"
    some = np.arange(0, num_rows, max(1, num_rows // _PROBE_ROWS))
    probe = replace(
        problem, available_R=problem.available_R[some], hash_R=problem.hash_R[some], labeled_L=problem.labeled_L[:0]
    )
    pruned_s, blocks_s = predict_seconds(probe, num_rows, num_centres)
    return "pruned" if pruned_s < blocks_s else "blocks"


def predict_seconds(probe: Problem, num_rows: int, num_centres: int) -> tuple[float, float]:
    """Seconds of the pruned loop and of blocks, foreseen from a few rows."""
    from svp_nlp.strategies.kcenters_bounds import NumpyProducts, make_part, renew

    size, last = len(probe.available_R), min(_PROBE_CENTRES, len(probe.available_R) // 2)
    _pruned(probe, 2)  # the kernel is loaded, the rows are in memory
    start = time.perf_counter()
    positions_K, pairs_K = _pruned(probe, last)
    spent_s = time.perf_counter() - start
    per_pair_s = spent_s / (float(pairs_K[-1]) + last * last / 2)
    early, late = (float(pairs_K[stop - 1] - pairs_K[stop // 2 - 1]) / (size * stop / 2) for stop in (last // 2, last))
    power = np.log2(max(early, 1e-9) / max(late, 1e-9)).clip(0.0, 1.0)
    centres_C = np.arange(1, num_centres + 1, dtype=np.float64)
    shares_C = np.minimum(1.0, late * (centres_C / (0.72 * last)) ** -power)
    pruned_s = per_pair_s * float((num_rows * shares_C + np.minimum(centres_C, num_rows)).sum())
    part = make_part(
        probe.embeddings_ND, probe.available_R, hash_R=probe.hash_R, frame=probe.frame(), make_products=NumpyProducts
    )
    raw_KD = take(probe.embeddings_ND, positions_K)
    renew(part, raw_KD[:8], 0)
    start = time.perf_counter()
    renew(part, raw_KD, 8)
    blocks_s = (time.perf_counter() - start) / (size * last) * num_rows * num_centres
    return pruned_s, _BLOCK_OVERHEAD * blocks_s
