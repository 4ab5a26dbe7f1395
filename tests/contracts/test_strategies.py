"""One suite over every strategy. A new strategy adds one row to `SIGNALS`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.errors import BudgetError, RecipeError, SignalError
from svp_nlp.strategies import STRATEGIES, get_strategy, select


def random_probs(rng: np.random.Generator, rows: int) -> np.ndarray:
    # Rounded, so that many rows tie.
    raw = rng.integers(0, 4, size=(rows, 3)) + 1e-3
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def random_embeddings(rng: np.random.Generator, rows: int) -> np.ndarray:
    # Whole numbers, so that many rows are equal and many distances tie.
    return rng.integers(-2, 3, size=(rows, 3)).astype(np.float32)


# strategy -> signals that it needs, made for `rows` rows
SIGNALS = {
    "random": lambda rng, rows: {"unused": np.zeros(rows, np.float32)},
    "least_confidence": lambda rng, rows: {"probs": random_probs(rng, rows)},
    "margin": lambda rng, rows: {"probs": random_probs(rng, rows)},
    "entropy": lambda rng, rows: {"probs": random_probs(rng, rows)},
    "forgetting_events": lambda rng, rows: {"correct": rng.random((rows, 5)) < 0.5},
    "aum": lambda rng, rows: {"logit_margin": rng.integers(-2, 3, size=(rows, 3)).astype(np.float32)},
    "el2n": lambda rng, rows: {"error_norm": (rng.integers(0, 4, size=(rows, 2)) / 3).astype(np.float32)},
    "hard_to_learn": lambda rng, rows: {"gold_probability": random_probs(rng, rows)},
    "ambiguous": lambda rng, rows: {"gold_probability": random_probs(rng, rows)},
    "greedy_k_centers": lambda rng, rows: {"embeddings": random_embeddings(rng, rows)},
    "facility_location": lambda rng, rows: {"embeddings": random_embeddings(rng, rows)},
    "badge": lambda rng, rows: {"probs": random_probs(rng, rows), "embeddings": random_embeddings(rng, rows)},
    "cluster_margin": lambda rng, rows: {"probs": random_probs(rng, rows), "embeddings": random_embeddings(rng, rows)},
    "typiclust": lambda rng, rows: {"embeddings": random_embeddings(rng, rows)},
    "class_balanced": lambda rng, rows: {"probs": random_probs(rng, rows)},
    "rare_classes": lambda rng, rows: {"probs": random_probs(rng, rows)},
    "prob_cover": lambda rng, rows: {"embeddings": random_embeddings(rng, rows)},
}
NAMES = sorted(STRATEGIES)


def test_every_strategy_has_a_row_here():
    assert sorted(SIGNALS) == NAMES


def draw(name: str, seed: int, rows: int):
    rng = np.random.default_rng(seed)
    signals = SIGNALS[name](rng, rows)
    keys = rng.permutation(rows).astype(np.uint64) * np.uint64(7919)
    available = rng.random(rows) < 0.8
    return signals, keys, available


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 200), part=st.floats(0, 1))
def test_exact_budget_unique_and_only_available_rows(name, seed, rows, part):
    signals, keys, available = draw(name, seed, rows)
    budget = int(part * available.sum())
    picks = select(name, signals, budget=budget, seed=seed, available=available, keys=keys)
    assert len(set(picks.positions_K.tolist())) == len(picks) == budget
    assert available[picks.positions_K].all()
    assert picks.positions_K.dtype == np.int64


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 150))
def test_permuting_rows_permutes_picks(name, seed, rows):
    signals, keys, available = draw(name, seed, rows)
    budget = int(available.sum()) // 2
    permutation = np.random.default_rng(seed + 1).permutation(rows)
    picks = select(name, signals, budget=budget, seed=3, available=available, keys=keys)
    moved = select(
        name,
        {k: v[permutation] for k, v in signals.items()},
        budget=budget,
        seed=3,
        available=available[permutation],
        keys=keys[permutation],
    )
    assert permutation[moved.positions_K].tolist() == picks.positions_K.tolist()


@pytest.mark.parametrize("name", [n for n in NAMES if STRATEGIES[n].kind == "pointwise"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 150))
def test_pointwise_budgets_nest_and_scores_descend(name, seed, rows):
    signals, keys, _ = draw(name, seed, rows)
    large = select(name, signals, budget=rows, seed=seed, keys=keys)
    for budget in (0, rows // 3, rows - 1):
        small = select(name, signals, budget=budget, seed=seed, keys=keys)
        assert small.positions_K.tolist() == large.positions_K[:budget].tolist()
    assert (large.scores_K[:-1] >= large.scores_K[1:]).all()  # infinities have no difference


@pytest.mark.parametrize("name", [n for n in NAMES if STRATEGIES[n].kind == "pointwise"])
def test_scores_of_a_row_do_not_depend_on_its_neighbours(name):
    signals, keys, _ = draw(name, 5, 40_000)
    strategy = STRATEGIES[name]
    arrays = {**signals, "keys": keys}
    whole = strategy.scores(arrays, seed=1)
    cuts = [0, 1, 16_383, 16_385, 40_000]
    parts = [strategy.scores({k: v[a:b] for k, v in arrays.items()}, seed=1) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_picks_and_inputs_unchanged(name):
    signals, keys, available = draw(name, 11, 120)
    before = {k: v.copy() for k, v in signals.items()}
    first = select(name, signals, budget=20, seed=4, available=available, keys=keys)
    again = select(name, signals, budget=20, seed=4, available=available, keys=keys)
    assert first.positions_K.tolist() == again.positions_K.tolist()
    for key, value in signals.items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("name", NAMES)
def test_all_rows_tied_gives_a_random_looking_pick_that_depends_on_the_seed(name):
    rows = 1000
    one_row = SIGNALS[name](np.random.default_rng(0), 1)
    signals = {key: np.repeat(value, rows, axis=0) for key, value in one_row.items()}
    one = select(name, signals, budget=100, seed=1).positions_K
    two = select(name, signals, budget=100, seed=2).positions_K
    assert len(np.intersect1d(one, two)) < 40  # 10 expected; file order would give 100
    assert 250 < one.mean() < 750


@pytest.mark.parametrize("name", NAMES)
def test_budget_above_what_is_available_names_both_numbers(name):
    signals, keys, available = draw(name, 3, 50)
    with pytest.raises(BudgetError, match=rf"51 .*{int(available.sum())} of 50"):
        select(name, signals, budget=51, available=available, keys=keys)


@pytest.mark.parametrize("name", [n for n in NAMES if "probs" in STRATEGIES[n].signals])
@pytest.mark.parametrize("bad", [[np.nan, 0.5, 0.5], [0.2, 0.2, 0.2], [np.inf, 0, 0], [1.5, -0.5, 0.0]])
def test_bad_probabilities_are_refused_with_their_position(name, bad):
    signals, _, _ = draw(name, 3, 70_000)
    signals["probs"][65_999] = bad
    with pytest.raises(SignalError, match="position 65999"):
        select(name, signals, budget=5)


@pytest.mark.parametrize("name", [n for n in NAMES if STRATEGIES[n].signals == ("probs",) and n != "class_balanced"])
def test_the_undecided_rows_are_picked_before_the_certain_ones_also_at_exact_zero(name):
    probs = np.array([[1, 0], [0.5, 0.5], [0.9, 0.1], [0.6, 0.4], [0, 1]], np.float32)
    assert select(name, {"probs": probs}, budget=3).positions_K.tolist() == [1, 3, 2]


def test_scores_are_what_their_docstrings_say():
    probs = np.array([[0.7, 0.2, 0.1], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    np.testing.assert_allclose(STRATEGIES["least_confidence"](probs), [0.3, 0, 2 / 3], atol=1e-6)
    np.testing.assert_allclose(STRATEGIES["margin"](probs), [0.5, 0, 1], atol=1e-6)
    expected = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(STRATEGIES["entropy"](probs), [expected, 0, np.log(3)], atol=1e-6)


def test_a_misspelt_strategy_is_told_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'margin'"):
        get_strategy("margni")


def test_signals_of_different_lengths_are_refused():
    with pytest.raises(SignalError, match="same rows"):
        select("margin", {"probs": np.full((3, 2), 0.5)}, budget=1, available=np.ones(4, bool))
    with pytest.raises(SignalError, match="needs the signal probs"):
        select("margin", {"other": np.zeros(3)}, budget=1)
