"""Strata of a score against algorithm 1 of CCS, written out; and the planted case that it is made for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from svp_nlp.arrays import keyed_hash
from svp_nlp.errors import BudgetError, SignalError
from svp_nlp.strategies import top_k
from svp_nlp.strategies.strata import stratified


def algorithm_1(scores, keys, *, budget, seed, available, strata, num_dropped):
    """Zheng et al. 2023, line by line; random rows of a stratum are those whose keyed hash is smallest."""
    tie, random = keyed_hash(keys, seed, "tie"), keyed_hash(keys, seed, "strata")
    rows = sorted(np.flatnonzero(available).tolist(), key=lambda row: (-scores[row], tie[row]))[num_dropped:]
    finite = [float(scores[row]) for row in rows if np.isfinite(scores[row])]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    bins = {number: [] for number in range(-1, strata + 1)}
    for row in rows:
        score = float(scores[row])
        if np.isinf(score):
            number = strata if score > 0 else -1
        else:
            number = 0 if high == low else min(int((score - low) / (high - low) * strata), strata - 1)
        bins[number].append(row)
    picked = []
    while bins:
        number = min(bins, key=lambda one: (len(bins[one]), one))
        take = min(len(bins[number]), (budget - len(picked)) // len(bins))
        picked += sorted(bins.pop(number), key=lambda row: random[row])[:take]
    return sorted(picked, key=lambda row: (-scores[row], tie[row]))


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = draw(st.integers(1, 120))
    values = {
        "smooth": rng.normal(size=rows),
        "counts": np.where(rng.random(rows) < 0.2, np.inf, rng.integers(0, 4, rows)),
        "both": rng.choice([-np.inf, -1.5, 0, 2, np.inf], rows),
        "equal": np.zeros(rows),
    }
    scores = values[draw(st.sampled_from(sorted(values)))].astype(np.float32)
    keys = rng.permutation(rows).astype(np.uint64) * np.uint64(7919)
    available = rng.random(rows) < draw(st.sampled_from([1.0, 0.6]))
    dropped = draw(st.sampled_from([0.0, 0.1, 0.29, 0.5]))
    num_dropped = round(dropped * 100) * int(available.sum()) // 100
    budget = int(draw(st.floats(0, 1)) * (available.sum() - num_dropped))
    strata = draw(st.sampled_from([1, 2, 7, 50]))
    return scores, keys, available, dropped, num_dropped, budget, strata


@settings(max_examples=200, deadline=None)
@given(case=cases(), seed=st.integers(0, 99))
def test_strata_are_picked_from_as_in_the_paper_and_the_picks_follow_the_rows(case, seed):
    scores, keys, available, dropped, num_dropped, budget, strata = case
    options = {"budget": budget, "seed": seed, "strata": strata, "drop_hardest": dropped}
    picked = stratified(scores, keys, available_N=available, **options)
    assert picked.dtype == np.int64
    assert len(set(picked.tolist())) == budget
    assert available[picked].all()
    expected = algorithm_1(
        scores, keys, budget=budget, seed=seed, available=available, strata=strata, num_dropped=num_dropped
    )
    assert picked.tolist() == expected
    order = np.random.default_rng(seed).permutation(len(scores))
    moved = stratified(scores[order], keys[order], available_N=available[order], **options)
    assert order[moved].tolist() == picked.tolist()
    elsewhere = np.where(available, scores, np.float32(1e9))
    assert stratified(elsewhere, keys, available_N=available, **options).tolist() == picked.tolist()


def test_each_stratum_gives_an_equal_share_or_all_that_it_has():
    scores = np.repeat(np.arange(5, dtype=np.float32), [100, 3, 100, 100, 100])
    keys = np.arange(len(scores), dtype=np.uint64)
    picked = stratified(scores, keys, budget=103, seed=0, strata=5, drop_hardest=0)
    assert np.bincount(scores[picked].astype(int)).tolist() == [25, 3, 25, 25, 25]
    other = stratified(scores, keys, budget=103, seed=1, strata=5, drop_hardest=0)
    assert len(np.intersect1d(picked, other)) < 60  # random inside a stratum


def test_rows_that_were_never_right_are_dropped_first_and_else_a_stratum_of_their_own():
    scores = np.repeat(np.array([0, 1, np.inf], np.float32), [40, 40, 20])
    keys = np.arange(100, dtype=np.uint64)
    assert np.isfinite(scores[stratified(scores, keys, budget=60, seed=0, strata=2, drop_hardest=0.2)]).all()
    picked = stratified(scores, keys, budget=30, seed=0, strata=2, drop_hardest=0.05)
    assert [int((scores[picked] == value).sum()) for value in (0, 1, np.inf)] == [10, 10, 10]


def test_a_share_that_is_dropped_is_exactly_the_one_that_is_written():
    scores = np.arange(100, dtype=np.float32)
    keys = np.arange(100, dtype=np.uint64)
    picked = stratified(scores, keys, budget=71, seed=0, drop_hardest=0.29)  # in floats 0.29 * 100 is below 29
    assert sorted(picked.tolist()) == list(range(71))


def test_a_budget_above_what_is_left_says_what_to_lower():
    scores, keys = np.zeros(50, np.float32), np.arange(50, dtype=np.uint64)
    available = np.arange(50) < 40
    with pytest.raises(BudgetError, match=r"37 was asked for, 36 of 40 available .* hardest 4 .* drop_hardest \(0.1\)"):
        stratified(scores, keys, budget=37, seed=0, available_N=available)
    scores[7] = np.nan
    with pytest.raises(SignalError, match="position 7"):
        stratified(scores, keys, budget=3, seed=0)


def test_strata_beat_the_top_of_a_score_where_the_hardest_rows_are_mislabelled():
    rng = np.random.default_rng(0)
    rows, width = 4000, 8
    truth = rng.integers(2, size=rows)
    features = rng.normal(size=(rows, width)) + 1.1 * (2 * truth - 1)[:, None] / np.sqrt(width) * 2
    wrong = rng.random(rows) < 0.1
    labels = np.where(wrong, 1 - truth, truth)
    proxy = LogisticRegression().fit(features, labels)
    error_norm = np.sqrt(2) * (1 - proxy.predict_proba(features)[np.arange(rows), labels])  # EL2N of two classes
    scores, keys = error_norm.astype(np.float32), np.arange(rows, dtype=np.uint64)

    def accuracy(picked):
        if len(np.unique(labels[picked])) < 2:
            return 0.5
        model = LogisticRegression().fit(features[picked], labels[picked])
        return float((model.predict(features) == truth).mean())

    budget = rows // 10
    top, strata = top_k(scores, keys, budget=budget, seed=0), stratified(scores, keys, budget=budget, seed=0)
    assert wrong[top].mean() > 0.7
    assert wrong[strata].mean() < 0.3
    assert accuracy(top) < 0.5
    assert accuracy(strata) > 0.9
