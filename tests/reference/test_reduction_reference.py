"""Pool reduction against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.errors import SignalError
from svp_nlp.strategies import reduction
from svp_nlp.strategies.reduction import nearest_neighbours, unlabeled_pool_subsampling


def neighbours_one_by_one(features, of, is_open, count, keys):
    found = np.zeros(len(is_open), bool)
    rows = np.flatnonzero(is_open)
    for position in of:
        apart = ((features[rows].astype(np.float64) - features[position].astype(np.float64)) ** 2).sum(1)
        found[rows[np.lexsort((keys[rows], apart))[:count]]] = True
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 60),
    count=st.integers(1, 8),
    kind=st.sampled_from(["lattice", "few", "offset", "huge", "tiny"]),
)
def test_neighbours_are_those_of_brute_force_in_any_order_and_any_blocks(seed, rows, count, kind):
    rng = np.random.default_rng(seed)
    features = rng.integers(-3, 4, (rows, 6)).astype(np.float32)  # squared distances are whole numbers: many ties
    if kind == "few":
        features = features[rng.integers(0, min(2, rows), rows)]  # nearly all rows coincide
    features = features * np.float32({"huge": 2.0**100, "tiny": 2.0**-100}.get(kind, 2.0**-6))
    features += np.float32(100 if kind == "offset" else 0)
    keys, is_open = rng.integers(0, 2**63, rows).astype(np.uint64), rng.random(rows) < 0.7
    expected = neighbours_one_by_one(features, np.flatnonzero(~is_open), is_open, count, keys)
    order = rng.permutation(rows)
    for by, size in ((np.arange(rows), 32_768), (order, 7)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reduction, "_ROWS_PER_BLOCK", size)
            patch.setattr(reduction, "_LABELED_PER_BLOCK", size)
            found = nearest_neighbours(
                features[by], np.flatnonzero(~is_open[by]), open_N=is_open[by], count=count, keys_N=keys[by]
            )
        np.testing.assert_array_equal(found, expected[by])


def test_neighbours_of_many_columns_around_a_far_centre_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(600, 64)) * 0.05 + 100).astype(np.float32)
    keys, is_open = rng.integers(0, 2**63, 600).astype(np.uint64), np.arange(600) >= 10
    found = nearest_neighbours(features, np.arange(10), open_N=is_open, count=30, keys_N=keys)
    np.testing.assert_array_equal(found, neighbours_one_by_one(features, np.arange(10), is_open, 30, keys))


def test_rows_that_are_neither_open_nor_labelled_may_hold_anything():
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    features[5] = np.nan
    arguments = {"count": 1, "keys_N": np.arange(6, dtype=np.uint64)}
    is_open = np.array([0, 1, 1, 1, 0, 0], bool)
    assert np.flatnonzero(nearest_neighbours(features, np.array([0]), open_N=is_open, **arguments)).tolist() == [1]
    with pytest.raises(SignalError, match="position 5 holds NaN"):
        nearest_neighbours(features, np.array([0]), open_N=is_open | (np.arange(6) == 5), **arguments)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 200), part=st.floats(0, 1))
def test_subsampling_keeps_the_highest_and_only_open_rows_and_follows_the_rows(seed, rows, part):
    rng = np.random.default_rng(seed)
    known = rng.integers(0, 9, rows).astype(np.float32)
    keys, is_open = rng.permutation(rows).astype(np.uint64), rng.random(rows) < 0.8
    budget = int(part * is_open.sum())
    options = {"budget": budget, "seed": 1, "round": 3, "gamma": 0.3, "temperature": 0.1}
    kept = unlabeled_pool_subsampling(known, keys, open_N=is_open, **options)
    assert is_open[kept].all() and (np.diff(kept) > 0).all()
    surely = max(budget, int(np.floor(0.3 * is_open.sum())))
    cut = np.sort(known[is_open])[::-1][surely - 1] if surely else np.inf
    assert set(np.flatnonzero(is_open & (known > cut))) <= set(kept)
    assert len(kept) >= surely
    order = rng.permutation(rows)
    moved = unlabeled_pool_subsampling(known[order], keys[order], open_N=is_open[order], **options)
    assert set(order[moved]) == set(kept)


@pytest.mark.parametrize("rank", [0.2, 0.35, 0.5])
def test_subsampling_keeps_a_rank_as_often_as_the_paper_says(rank):
    rows = 1000
    known, keys = np.arange(rows, 0, -1).astype(np.float32), np.arange(rows, dtype=np.uint64)
    hits = [
        int(rank * rows)
        in unlabeled_pool_subsampling(
            known, keys, open_N=np.ones(rows, bool), budget=0, seed=0, round=round_, gamma=0.1, temperature=0.3
        )
        for round_ in range(600)
    ]
    assert np.mean(hits) == pytest.approx(np.exp(-(rank - 0.1) / 0.3), abs=0.07)
