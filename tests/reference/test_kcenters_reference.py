"""Greedy k-centers against brute force: every variant, block size, device and number of ranks gives the same list."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svp_nlp.arrays import keyed_hash
from svp_nlp.errors import BudgetError, SignalError
from svp_nlp.strategies import select
from svp_nlp.strategies.kcenters import (
    VARIANTS,
    Problem,
    choose_variant,
    greedy_k_centers,
    pick_by_blocks,
    pick_by_pruning,
    predict_seconds,
)
from svp_nlp.strategies.kcenters_bounds import NumpyProducts, make_part, renew
from svp_nlp.strategies.kcenters_ranks import greedy_k_centers_ranks
from svp_nlp.strategies.kcenters_rows import largest_value, take
from svp_nlp.strategies.kcenters_torch import torch_products


def squared_distances(embeddings: np.ndarray, row: int) -> np.ndarray:
    """The canonical distances: eight lanes of float64 over the dimensions, then halved."""
    exact = embeddings.astype(np.float32).astype(np.float64)
    gaps = exact - exact[row]
    lanes = np.zeros((len(gaps), 8))
    for dimension in range(gaps.shape[1]):
        lanes[:, dimension % 8] += gaps[:, dimension] * gaps[:, dimension]
    lanes = lanes[:, :4] + lanes[:, 4:]
    lanes = lanes[:, :2] + lanes[:, 2:]
    return lanes[:, 0] + lanes[:, 1]


def brute_force(embeddings, available, labeled, budget, keys, seed) -> list[int]:
    ties = keyed_hash(keys, seed, "tie")
    nearest = np.full(len(embeddings), np.inf)
    for row in np.flatnonzero(labeled):
        nearest = np.minimum(nearest, squared_distances(embeddings, row))
    left, picks = available.copy(), []
    for _ in range(budget):
        rows = np.flatnonzero(left)
        picks.append(int(rows[np.lexsort((ties[rows], -nearest[rows]))[0]]))
        left[picks[-1]] = False
        nearest = np.minimum(nearest, squared_distances(embeddings, picks[-1]))
    return picks


KINDS = {
    "normal": lambda rng, rows, width: rng.standard_normal((rows, width)),
    "lattice": lambda rng, rows, width: rng.integers(0, 3, (rows, width)),
    "wide lattice": lambda rng, rows, width: rng.integers(-3, 4, (rows, width)),
    "duplicates": lambda rng, rows, width: rng.standard_normal((rows, width))[rng.integers(0, rows // 3 + 1, rows)],
    "zeros": lambda rng, rows, width: np.zeros((rows, width)),
    "one-hot": lambda rng, rows, width: np.eye(rows, width),
    "offset": lambda rng, rows, width: 1e6 + rng.standard_normal((rows, width)),
    "scaled": lambda rng, rows, width: rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-44, 37),
    "all scales": lambda rng, rows, width: (
        rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-20, 18, (rows, 1)).astype(float)
    ),
    "unit clusters": lambda rng, rows, width: (
        np.eye(width)[rng.integers(0, width, rows)] + 1e-4 * rng.standard_normal((rows, width))
    ),
}


def draw(kind: str, seed: int, *, rows: int, width: int, some_labeled: bool):
    rng = np.random.default_rng(seed)
    embeddings = KINDS[kind](rng, rows, width).astype(np.float32)
    role = rng.random(rows)
    labeled = (role < 0.2) & some_labeled
    available = (role > 0.3) | (~labeled & (role < 0.15))
    embeddings[~available & ~labeled] = np.nan  # nothing may look at these
    keys = rng.permutation(rows).astype(np.uint64) * np.uint64(7919)
    return embeddings, available, labeled, keys


def problem_of(embeddings, available, labeled, keys, seed) -> Problem:
    ties = keyed_hash(keys[available], seed, "tie")
    largest = largest_value(embeddings, np.flatnonzero(available | labeled))
    return Problem(embeddings, np.flatnonzero(available), np.flatnonzero(labeled), ties, largest)


def on_torch(embeddings_ND, positions_R, frame, radii_R):
    return torch_products(embeddings_ND, positions_R, frame, radii_R, "cpu")


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**31), rows=st.integers(1, 90), width=st.integers(1, 20),
    part=st.sampled_from([0.0, 0.1, 0.5, 1.0]), some_labeled=st.booleans(), members=st.integers(1, 40),
)  # fmt: skip
# The best member of a block is as far as the best of the others, whose hash is smaller.
@example(kind="wide lattice", seed=137, rows=60, width=3, part=1.0, some_labeled=True, members=2)
@example(kind="wide lattice", seed=212, rows=60, width=3, part=1.0, some_labeled=False, members=4)
def test_every_variant_and_block_size_picks_what_brute_force_picks(
    kind, seed, rows, width, part, some_labeled, members
):
    embeddings, available, labeled, keys = draw(kind, seed, rows=rows, width=width, some_labeled=some_labeled)
    budget = int(np.ceil(part * available.sum()))
    expected = brute_force(embeddings, available, labeled, budget, keys, seed)
    problem = problem_of(embeddings, available, labeled, keys, seed)
    assert pick_by_pruning(problem, budget).tolist() == expected
    assert pick_by_blocks(problem, budget).tolist() == expected
    assert pick_by_blocks(problem, budget, block_members=(1, members)).tolist() == expected
    assert pick_by_blocks(problem, budget, block_members=(members, 40), make_products=on_torch).tolist() == expected
    picks = greedy_k_centers(
        embeddings, available_N=available, labeled_N=labeled, budget=budget, keys_N=keys, seed=seed
    )
    assert picks.tolist() == expected


@pytest.mark.parametrize("kind", ["normal", "unit clusters", "lattice", "offset"])
def test_variants_agree_on_many_rows_wide_vectors_and_many_blocks(kind):
    embeddings, available, labeled, keys = draw(kind, 1, rows=5000, width=37, some_labeled=True)
    problem = problem_of(embeddings, available, labeled, keys, 1)
    expected = pick_by_pruning(problem, 1200).tolist()
    assert len(set(expected)) == 1200
    for members in [(16, 64), (64, 2048)]:
        assert pick_by_blocks(problem, 1200, block_members=members).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**31), width=st.integers(1, 70))
def test_the_bounds_of_products_hold_for_every_row(kind, seed, width):
    embeddings, available, labeled, keys = draw(kind, seed, rows=80, width=width, some_labeled=True)
    problem = problem_of(embeddings, available, labeled, keys, seed)
    frame = problem.frame()
    for make_products in (NumpyProducts, on_torch):
        part = make_part(
            embeddings, problem.available_R, hash_R=problem.hash_R, frame=frame, make_products=make_products
        )
        nearest = np.full(len(embeddings), np.inf)
        for number, row in enumerate(problem.labeled_L):
            renew(part, take(embeddings, np.array([row])), number)
            nearest = np.minimum(nearest, squared_distances(embeddings, row))
        assert (part.upper_R >= nearest[problem.available_R] * frame.unit).all()


class InOrder(NumpyProducts):
    """Products whose sums run from first to last in float32: as far off as they may be."""

    def smallest(self, centres_KD, squares_K, crosses_K):
        rows_RD = self.frame.apply(take(self.embeddings_ND, self.positions_R))
        products_KR = np.cumsum(centres_KD[:, None] * rows_RD, axis=2)[..., -1]
        return (products_KR + (squares_K[:, None] + crosses_K[:, None] * self.radii_R)).min(axis=0)


def test_bounds_hold_where_all_roundings_of_a_product_are_to_one_side():
    # Sums of equal terms: depending on the term nearly all partial sums are rounded up, or nearly all down.
    levels = np.concatenate([np.linspace(1, 2, 400), -np.linspace(1, 2, 400)])  # no mean to be shifted by
    embeddings = np.repeat(levels[:, None], 1500, axis=1).astype(np.float32)
    centre = np.full((1, 1500), 3, np.float32)
    everywhere = np.arange(800)
    frame = problem_of(embeddings, everywhere >= 0, everywhere < 0, everywhere.astype(np.uint64), 0).frame()
    assert frame.shift_D is None
    part = make_part(embeddings, everywhere, hash_R=everywhere, frame=frame, make_products=InOrder)
    true = ((embeddings.astype(np.float64) - 3) ** 2).sum(axis=1) * frame.unit
    part.exact_R[:] = np.nextafter(true, np.inf)  # to earlier centres: just farther than the new one
    renew(part, centre, 0)
    assert (part.upper_R >= true).all()
    assert (part.covered_R == 0).all()


@pytest.mark.parametrize("labeled", [[0], [0, 4]])  # of the same list as the new centre, and of another
def test_a_row_just_beyond_half_way_to_a_new_centre_moves_to_it(labeled):
    points = np.float32([[0], [1.98], [1], [-0.99], [3.9]])  # 1 is nearer to 1.98 than to 0, by a little
    rows, centres = np.array([1, 2, 3]), np.array(labeled)
    picks = pick_by_pruning(Problem(points, rows, centres, rows.astype(np.uint64), 4.0), 3)
    assert picks.tolist() == [1, 3, 2]


def in_threads(parts, budget, seed, **options):
    """Every rank in a thread; what they exchange goes through a list and a barrier."""
    barrier, posted, found = threading.Barrier(len(parts)), [None] * len(parts), [None] * len(parts)

    def exchange_of(rank):
        def exchange(array):
            posted[rank] = array.copy()
            barrier.wait()
            received = list(posted)
            barrier.wait()
            assert len({(part.shape, part.dtype) for part in received}) == 1
            return received

        return exchange

    def work(rank):
        embeddings, available, labeled, keys = parts[rank]
        try:
            found[rank] = greedy_k_centers_ranks(
                embeddings, available_N=available, labeled_N=labeled, budget=budget, keys_N=keys, seed=seed,
                rank=rank, exchange=exchange_of(rank), **options,
            )  # fmt: skip
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**31), rows=st.integers(1, 90), width=st.integers(1, 20),
    world=st.sampled_from([1, 2, 3, 5]), some_labeled=st.booleans(), members=st.integers(1, 20),
)  # fmt: skip
def test_any_number_of_ranks_picks_what_one_picks(kind, seed, rows, width, world, some_labeled, members):
    arrays = draw(kind, seed, rows=rows, width=width, some_labeled=some_labeled)
    budget = int(arrays[1].sum()) // 2
    expected = brute_force(*arrays[:3], budget, arrays[3], seed)
    owner = np.random.default_rng(seed).integers(0, world, rows)  # a rank may have no row
    held = [np.flatnonzero(owner == rank) for rank in range(world)]
    parts = [tuple(array[rows_of] for array in arrays) for rows_of in held]
    for ranks, positions in in_threads(parts, budget, seed, block_members=(members, 20)):
        assert [int(held[rank][at]) for rank, at in zip(ranks, positions, strict=True)] == expected


def test_what_is_wrong_on_one_rank_is_an_error_on_all():
    arrays = draw("normal", 0, rows=30, width=4, some_labeled=False)
    parts = [tuple(array[low : low + 10].copy() for array in arrays) for low in (0, 10, 20)]
    bad = int(np.flatnonzero(parts[1][1])[0])
    for error in in_threads(parts, 31, 0):
        assert isinstance(error, BudgetError) and "31" in str(error)
    parts[1][0][bad] = np.inf
    errors = in_threads(parts, 5, 0)
    assert all(isinstance(error, SignalError) for error in errors)
    assert f"position {bad}" in str(errors[1])
    assert "rank 1 " in str(errors[0]) and "rank 1 " in str(errors[2])
    parts[1] = (np.zeros((10, 3), np.float32), *parts[1][1:])
    assert all("rank" in str(error) for error in in_threads(parts, 5, 0))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.float32])
def test_maps_of_files_other_floats_and_other_layouts_give_the_same_picks(tmp_path, dtype):
    embeddings = np.random.default_rng(0).standard_normal((300, 9)).astype(dtype)
    expected = select("greedy_k_centers", {"embeddings": embeddings.astype(np.float32)}, budget=40).positions_K.tolist()
    np.save(tmp_path / "embeddings.npy", embeddings)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    for same in (mapped, np.asfortranarray(embeddings), np.repeat(embeddings, 2, axis=1)[:, ::2]):
        for _ in range(2):
            assert select("greedy_k_centers", {"embeddings": same}, budget=40).positions_K.tolist() == expected
    assert embeddings.flags.writeable


@pytest.mark.parametrize("seed", range(6))
def test_the_covering_radius_is_at_most_twice_the_smallest_possible(seed):
    rng = np.random.default_rng(seed)
    points = (rng.integers(0, 3, (14, 2)) * 5 + rng.standard_normal((14, 2))).astype(np.float32)
    apart = np.stack([squared_distances(points, row) for row in range(14)]) ** 0.5
    for budget in (2, 3, 4):
        best = min(apart[list(rows)].min(axis=0).max() for rows in itertools.combinations(range(14), budget))
        picks = select("greedy_k_centers", {"embeddings": points}, budget=budget, seed=seed).positions_K
        assert apart[picks].min(axis=0).max() <= 2 * best * (1 + 1e-12)


def test_one_row_of_each_far_cluster_is_picked_also_beside_labelled_rows():
    rng = np.random.default_rng(3)
    cluster = rng.integers(0, 20, 4000)
    points = (100 * rng.standard_normal((20, 6))[cluster] + 0.1 * rng.standard_normal((4000, 6))).astype(np.float32)
    labeled = np.zeros(4000, bool)
    labeled[np.flatnonzero(cluster < 8)[:500]] = True
    seen = set(cluster[labeled])
    picks = select("greedy_k_centers", {"embeddings": points}, budget=20 - len(seen), labeled=labeled).positions_K
    assert sorted([*seen, *cluster[picks]]) == list(range(20))


def test_positions_are_those_of_all_rows_when_the_first_ones_are_labelled():
    # small-text's greedy_coreset takes positions among the unlabelled rows for positions of rows.
    points = np.arange(10, dtype=np.float32)[:, None] ** 2
    labeled = np.arange(10) < 4
    picks = select("greedy_k_centers", {"embeddings": points}, budget=3, labeled=labeled).positions_K
    assert picks.tolist() == brute_force(points, ~labeled, labeled, 3, np.arange(10, dtype=np.uint64), 0)
    assert picks[0] == 9


def test_without_labelled_rows_the_budget_is_all_that_is_picked_and_the_first_goes_by_the_seed():
    # The authors' code added a start of 1,000 random rows to what was asked for.
    points = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    firsts = set()
    for seed in range(5):
        picks = select("greedy_k_centers", {"embeddings": points}, budget=7, seed=seed).positions_K
        assert len(picks) == 7
        assert picks[0] == keyed_hash(np.arange(2000), seed, "tie").argmin()
        firsts.add(int(picks[0]))
    assert len(firsts) > 1


@pytest.mark.parametrize("variant", ["pruned", "blocks"])
def test_where_all_are_at_distance_zero_the_rest_is_picked_by_hash(variant):
    points = np.repeat(np.float32([[0, 0], [3, 4], [0.5, 0]]), 50, axis=0)
    everywhere, ties = np.arange(150), keyed_hash(np.arange(150), 0, "tie")
    picks = VARIANTS[variant](Problem(points, everywhere, everywhere[:0], ties, 4.0), 100)
    assert len({tuple(points[row]) for row in picks[:3]}) == 3
    assert (np.diff(ties[picks[3:]].astype(float)) > 0).all()
    assert ties[picks[3:]].max() < np.delete(ties, picks).min()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused_with_its_position_unless_it_is_not_used(bad):
    embeddings = np.zeros((9000, 3))
    embeddings[8123, 1] = embeddings[8200, 0] = bad
    with pytest.raises(SignalError, match="position 8123"):
        select("greedy_k_centers", {"embeddings": embeddings}, budget=2)
    labeled = np.arange(9000) == 8123
    with pytest.raises(SignalError, match="position 8123"):
        select("greedy_k_centers", {"embeddings": embeddings}, budget=2, labeled=labeled)
    available = np.arange(9000) < 8000
    assert len(select("greedy_k_centers", {"embeddings": embeddings}, budget=2, available=available)) == 2
    with pytest.raises(SignalError, match="position 1"):
        select("greedy_k_centers", {"embeddings": np.array([[0.0], [1e39]])}, budget=1)


@pytest.mark.parametrize("wrong", [np.zeros(5), np.zeros((5, 0)), np.zeros((5, 2), int), np.zeros((5, 2, 2))])
def test_what_is_no_matrix_of_floats_is_refused(wrong):
    with pytest.raises(SignalError, match="rows, width >= 1"):
        select("greedy_k_centers", {"embeddings": wrong}, budget=1)


def test_the_probe_foresees_both_ways_and_small_work_is_not_probed(monkeypatch):
    arrays = draw("normal", 0, rows=3000, width=8, some_labeled=False)
    problem = problem_of(*arrays, 0)
    assert choose_variant(problem, 10) == "pruned"
    pruned_s, blocks_s = predict_seconds(problem, 1_000_000, 10_000)
    assert 0 < pruned_s < np.inf and 0 < blocks_s < np.inf
    monkeypatch.setattr("svp_nlp.strategies.kcenters._SMALL_WORK", 0)
    for found, expected in [((1.0, 2.0), "pruned"), ((2.0, 1.0), "blocks")]:
        monkeypatch.setattr("svp_nlp.strategies.kcenters.predict_seconds", lambda *_, found=found: found)
        assert choose_variant(problem, 300) == expected
