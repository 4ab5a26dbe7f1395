"""Pool reduction against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 60), count=st.integers(1, 8), lattice=st.booleans())
def test_neighbours_are_those_of_brute_force_also_among_ties(seed, rows, count, lattice):
    rng = np.random.default_rng(seed)
    features = (rng.integers(0, 2, (rows, 3)) if lattice else rng.normal(size=(rows, 3))).astype(np.float32)
    keys = rng.permutation(rows).astype(np.uint64)
    is_open = rng.random(rows) < 0.7
    of = np.flatnonzero(~is_open)
    expected = neighbours_one_by_one(features, of, is_open, count, keys)
    if lattice:  # more rows at one distance than are measured again would be cut by rounding: give it room
        slack, reduction._SLACK = reduction._SLACK, rows
    try:
        found = nearest_neighbours(features, of, open_N=is_open, count=count, keys_N=keys)
    finally:
        if lattice:
            reduction._SLACK = slack
    np.testing.assert_array_equal(found, expected)


def test_neighbours_do_not_depend_on_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    features, is_open = rng.normal(size=(500, 8)).astype(np.float32), rng.random(500) < 0.8
    arguments = {"open_N": is_open, "count": 7, "keys_N": np.arange(500, dtype=np.uint64)}
    of = np.flatnonzero(~is_open)
    whole = nearest_neighbours(features, of, **arguments)
    monkeypatch.setattr(reduction, "_ROWS_PER_BLOCK", 37)
    monkeypatch.setattr(reduction, "_LABELED_PER_BLOCK", 5)
    np.testing.assert_array_equal(nearest_neighbours(features, of, **arguments), whole)


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
