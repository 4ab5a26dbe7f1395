"""Setwise strategies against brute force and the formulas of their papers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.arrays import keyed_hash, splitmix64
from svp_nlp.errors import SignalError
from svp_nlp.strategies import STRATEGIES, clusters, coverage, select, tiles
from svp_nlp.strategies.greedy import count_bounds, gain_bounds
from svp_nlp.strategies.kmeans import kmeans
from svp_nlp.strategies.tiles import cut, draw, uniforms

SETWISE = sorted(name for name, strategy in STRATEGIES.items() if strategy.kind == "setwise")
USES_LABELED = [name for name in SETWISE if STRATEGIES[name].uses_labeled]
EMBEDDED = [name for name in SETWISE if "embeddings" in STRATEGIES[name].signals]


def whole_numbers(rng: np.random.Generator, rows: int, width: int = 3) -> np.ndarray:
    return rng.integers(-4, 5, size=(rows, width)).astype(np.float32)  # sums are exact: every tie is a tie


def some_probs(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.dirichlet([0.5] * 3, rows).astype(np.float32)


def three_kinds(rng: np.random.Generator, rows: int):
    """Masks of available and labelled rows; a fifth is neither. Row 0 is available."""
    kind = rng.choice(3, rows, p=[0.6, 0.2, 0.2])
    kind[0] = 0
    return kind == 0, kind == 1


def hash_order(used: np.ndarray, keys: np.ndarray, seed: int) -> list[int]:
    hashes = keyed_hash(keys, seed, "tie")
    return sorted(np.flatnonzero(used).tolist(), key=lambda row: hashes[row])


def blobs(sizes: list[int], seed: int = 0, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Rows around far corners, and which corner each is at."""
    rng = np.random.default_rng(seed)
    corner = np.repeat(np.arange(len(sizes)), sizes)
    centers = 20 * np.eye(len(sizes), dtype=np.float32)
    return (centers[corner] + spread * rng.normal(size=(len(corner), len(sizes)))).astype(np.float32), corner


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 300), width=st.integers(1, 9), others=st.integers(1, 5))
def test_tiles_give_the_distances_and_products_of_numpy(seed, rows, width, others):
    rng = np.random.default_rng(seed)
    x, y = whole_numbers(rng, rows, width), whole_numbers(rng, others, width)
    expected = ((x[None] - y[:, None]) ** 2).sum(axis=2)
    tiled = cut(x)
    np.testing.assert_array_equal(tiles.squared_distances(tiled, y), expected)
    np.testing.assert_array_equal(tiles.inner_products(tiled, y), y @ x.T)
    best, which = tiles.nearest(tiled, y)
    np.testing.assert_array_equal(best, expected.min(axis=0))
    np.testing.assert_array_equal(which, expected.argmin(axis=0))  # the first of equally near ones
    counted = rng.random(rows) < 0.7
    counts = tiles.ball_counts(
        cut(y), list(range(others)), cut(y).lanes(np.ones(others, bool)), squared_radius=np.float32(9)
    )
    np.testing.assert_array_equal(counts, (((y[None] - y[:, None]) ** 2).sum(axis=2) < 9).sum(axis=1))
    some = list(range(0, rows, 7))
    counts = tiles.ball_counts(tiled, some, tiled.lanes(counted), squared_radius=np.float32(9))
    within = ((x[None, some] - x[:, None]) ** 2).sum(axis=2) < 9
    np.testing.assert_array_equal(counts, within[counted].sum(axis=0))
    np.testing.assert_array_equal(tiled.take(np.arange(rows)), x)


def test_a_distance_does_not_depend_on_where_the_row_lies():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(700, 37)).astype(np.float32)
    moved = rng.permutation(700)
    whole = tiles.squared_distances(cut(x), x[:5])
    np.testing.assert_array_equal(tiles.squared_distances(cut(x[moved]), x[:5]), whole[:, moved])
    assert (whole[range(5), range(5)] == 0).all()


def test_draws_are_in_proportion_to_the_weights_and_never_fall_on_zero():
    weights = np.array([0, 1, 0, 3, 4, 0], np.float32)
    drawn = np.bincount([draw(weights, u) for u in uniforms(4000, seed=1, salt="test")], minlength=6)
    np.testing.assert_allclose(drawn / 4000, weights / 8, atol=0.03)
    assert drawn[[0, 2, 5]].sum() == 0
    assert draw(weights, 1 - 2.0**-52) == 4
    assert draw(np.zeros(3), 0.5) == -1


def test_kmeans_finds_far_blobs_and_each_row_is_nearest_to_the_mean_of_its_cluster():
    x, corner = blobs([90, 20, 20, 20, 20, 20])
    labels = kmeans(cut(x), num_clusters=6, seed=3)
    assert len(set(zip(labels.tolist(), corner.tolist(), strict=True))) == 6
    y = np.random.default_rng(1).normal(size=(300, 2)).astype(np.float32)
    labels = kmeans(cut(y), num_clusters=4, seed=0)
    means = np.stack([y[labels == k].mean(axis=0) for k in range(4)])
    assert (((y[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == labels).mean() > 0.98  # 25 steps, not all


def test_kmeans_of_few_different_rows_makes_no_more_clusters_than_there_are():
    x = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)
    labels = kmeans(cut(x), num_clusters=10, seed=0)
    assert sorted(np.bincount(labels)) == [50, 50, 50]


def plain_facility_location(x, available, labeled, budget, keys, seed):
    used = available | labeled
    distances = ((x[:, None].astype(np.float64) - x[None]) ** 2).sum(axis=2)
    similarity = distances[np.ix_(used, used)].max() - distances
    best = np.where(used, 0.0, np.inf)
    for row in np.flatnonzero(labeled):
        best = np.maximum(best, similarity[row])
    order, picked = hash_order(available, keys, seed), []
    for _ in range(budget):
        gains = {row: np.maximum(similarity[row] - best, 0)[used].sum() for row in order if row not in picked}
        picked.append(max(gains, key=gains.get))  # max keeps the first of equal gains
        best = np.maximum(best, similarity[picked[-1]])
    return picked


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 45), part=st.floats(0, 1), some_labeled=st.booleans())
def test_lazy_facility_location_is_plain_greedy(seed, rows, part, some_labeled):
    rng = np.random.default_rng(seed)
    x, keys = whole_numbers(rng, rows), splitmix64(rng.permutation(rows))
    available, labeled = three_kinds(rng, rows)
    labeled &= some_labeled
    budget = int(part * available.sum())
    picks = select(
        "facility_location", {"embeddings": x}, budget=budget, seed=5, available=available, labeled=labeled, keys=keys
    )
    assert picks.positions_K.tolist() == plain_facility_location(x, available, labeled, budget, keys, 5)


def test_lazy_facility_location_is_plain_greedy_over_several_tiles():
    rng = np.random.default_rng(2)
    x, keys = rng.normal(size=(400, 5)).astype(np.float32), splitmix64(np.arange(400))
    available, labeled = np.ones(400, bool), np.zeros(400, bool)
    picks = select("facility_location", {"embeddings": x}, budget=25, seed=1, keys=keys)
    assert picks.positions_K.tolist() == plain_facility_location(x, available, labeled, 25, keys, 1)


@pytest.mark.parametrize("shift", [0, 5, 3000])  # at 3,000 products are off by more than the distances
def test_first_bounds_are_never_below_what_they_bound_and_close_to_it(shift):
    rng = np.random.default_rng(8)
    tiled = cut((rng.normal(size=(1_500, 20)) + shift).astype(np.float32))  # two runs of tiles and a bit
    everything = list(range(1_500))
    best = tiles.nearest(tiled, tiled.take(np.arange(3)))[0]
    best[:3] = 0
    exact = np.array(tiles.gains(tiled, everything, tiled.lanes(best)))
    bounds = gain_bounds(tiled, tiled.lanes(best))
    assert (bounds >= exact).all()
    assert (bounds - exact).mean() < 0.02 * exact.mean() or shift == 3000
    counted, radius = tiled.lanes(best > 12), np.float32(15)
    exact = np.array(tiles.ball_counts(tiled, everything, counted, squared_radius=radius))
    bounds = count_bounds(tiled, counted, squared_radius=radius)
    assert (bounds >= exact).all()
    assert (bounds - exact).mean() < 0.02 * exact.mean() or shift == 3000


@pytest.mark.parametrize("gain", 1 + np.arange(8) / 2**17)  # sums of some of them are rounded down again and again
def test_first_bounds_allow_for_what_sums_in_float32_lose(gain):
    tiled = cut(np.zeros((1024, 1), np.float32))
    assert (gain_bounds(tiled, tiled.lanes(np.full(1024, gain, np.float32))) >= 1024 * np.float32(gain)).all()


def explicit_badge(probs, x, available, budget, keys, seed):
    order = hash_order(available, keys, seed)
    errors = probs.astype(np.float64) - np.eye(probs.shape[1])[probs.argmax(axis=1)]
    gradients = (errors[:, :, None] * x[:, None, :].astype(np.float64)).reshape(len(x), -1)[order]
    picked = [int(np.argmax((gradients**2).sum(axis=1)))]
    for uniform in uniforms(budget, seed=seed, salt="badge")[1:]:
        to_picks = ((gradients[:, None] - gradients[None, picked]) ** 2).sum(axis=2).min(axis=1)
        row = draw(to_picks, float(uniform))
        picked.append(row if row >= 0 else min(set(range(len(order))) - set(picked)))
    return [order[row] for row in picked]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 60), part=st.floats(0.01, 1), classes=st.sampled_from([2, 4]))
def test_factorised_badge_is_kmeans_plus_plus_on_the_explicit_gradients(seed, rows, part, classes):
    rng = np.random.default_rng(seed)
    x, keys = whole_numbers(rng, rows, 5), splitmix64(rng.permutation(rows))
    # Quarters and halves, so that both ways of computing are exact; many gradients are equal, many are zero.
    probs = np.array([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], np.float32)[rng.integers(0, 4, rows)]
    probs = np.hstack([probs, np.zeros((rows, classes - 2), np.float32)])
    available, _ = three_kinds(rng, rows)
    budget = max(1, int(part * available.sum()))
    picks = select("badge", {"probs": probs, "embeddings": x}, budget=budget, seed=seed, available=available, keys=keys)
    assert picks.positions_K.tolist() == explicit_badge(probs, x, available, budget, keys, seed)


def test_badge_draws_in_proportion_to_the_squared_distance_and_has_no_centre_at_the_origin():
    # With a centre at the origin rows 1 and 2 (close to it) would have a small chance; a correct one draws row 2 most.
    x = np.array([[4.0, 0], [1, 0], [-1, 0], [0, 1]], np.float32)
    probs = np.full((4, 2), 0.5, np.float32)
    seconds = [select("badge", {"probs": probs, "embeddings": x}, budget=2, seed=s).positions_K for s in range(1500)]
    assert {int(pair[0]) for pair in seconds} == {0}
    share = np.bincount([pair[1] for pair in seconds], minlength=4) / len(seconds)
    np.testing.assert_allclose(share, np.array([0, 9, 25, 17]) / 51, atol=0.05)


def round_robin(cluster, margins, available, budget, keys, seed):
    order = hash_order(available, keys, seed)
    smallest = sorted(order, key=lambda row: margins[row])[: 10 * budget]
    groups = {}
    for row in (row for row in order if row in set(smallest)):
        groups.setdefault(int(cluster[row]), []).append(row)
    turns = sorted(groups.values(), key=lambda rows: (len(rows), order.index(rows[0])))
    picked = []
    while len(picked) < budget:
        for rows in turns:
            if rows and len(picked) < budget:
                picked.append(rows.pop(0))
    return picked


@pytest.mark.parametrize("most_rows_for_hac", [4096, 10])
@pytest.mark.parametrize("budget", [1, 2, 3, 8, 40])
def test_cluster_margin_goes_round_the_clusters_of_the_smallest_margins(monkeypatch, most_rows_for_hac, budget):
    monkeypatch.setattr(clusters, "_MOST_ROWS_FOR_HAC", most_rows_for_hac)
    x, corner = blobs([20, 5, 15, 10, 6, 4])  # 60 rows, six clusters: ten rows to a cluster
    rng = np.random.default_rng(7)
    probs, keys = some_probs(rng, 60), splitmix64(np.arange(60))
    top = np.sort(probs, axis=1)
    picks = select("cluster_margin", {"probs": probs, "embeddings": x}, budget=budget, seed=2, keys=keys)
    expected = round_robin(corner, top[:, 2] - top[:, 1], np.ones(60, bool), budget, keys, 2)
    assert picks.positions_K.tolist() == expected


def test_typiclust_takes_the_most_typical_of_the_largest_clusters_with_the_fewest_labels():
    sizes = [60, 50, 40, 30, 5, 4]
    x, corner = blobs(sizes, seed=4, spread=1.0)
    labeled = np.zeros(len(x), bool)
    labeled[[0, 1, 60]] = True  # two in the first blob, one in the second
    picks = select("typiclust", {"embeddings": x}, budget=3, seed=0, labeled=labeled).positions_K
    assert corner[picks].tolist() == [2, 3, 1]  # the blobs of five and four are small: they wait
    for pick in picks:
        members = np.flatnonzero(corner == corner[pick])
        distances = np.sqrt(((x[members, None] - x[None, members]) ** 2).sum(axis=2))
        typicality = np.where(labeled[members], 0, 1 / np.sort(distances, axis=1)[:, 1:21].mean(axis=1))
        assert pick == members[typicality.argmax()]


def test_typiclust_without_labels_takes_one_of_each_cluster_in_the_order_of_their_sizes():
    x, corner = blobs([30, 10, 50, 20, 40])
    assert corner[select("typiclust", {"embeddings": x}, budget=5).positions_K].tolist() == [2, 4, 0, 3, 1]


def test_typiclust_goes_round_again_when_there_are_more_picks_than_clusters(monkeypatch):
    monkeypatch.setattr(clusters, "_MOST_TYPICLUST_CLUSTERS", 2)
    x, corner = blobs([10, 30])
    picked = corner[select("typiclust", {"embeddings": x}, budget=40).positions_K]
    assert picked[:20].tolist() == [1, 0] * 10
    assert (picked[20:] == 1).all()


def test_prob_cover_hits_each_of_six_clusters_with_six_picks():
    for seed in range(5):
        x, corner = blobs([90, 20, 20, 20, 20, 20], seed)
        picked = corner[select("prob_cover", {"embeddings": x}, budget=6, seed=seed).positions_K]
        assert sorted(picked) == [0, 1, 2, 3, 4, 5]
        assert picked[0] == 0


def test_prob_cover_does_not_cover_again_what_labelled_rows_cover():
    x, corner = blobs([90, 20, 20, 20])
    labeled = np.zeros(len(x), bool)
    labeled[[5, 95]] = True
    picked = corner[select("prob_cover", {"embeddings": x}, budget=2, labeled=labeled).positions_K]
    assert sorted(picked) == [2, 3]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 50), part=st.floats(0.01, 1), radius=st.integers(1, 40))
def test_prob_cover_is_greedy_coverage_on_the_whole_graph(seed, rows, part, radius):
    rng = np.random.default_rng(seed)
    x, keys = whole_numbers(rng, rows), splitmix64(rng.permutation(rows))
    x[0] = 4  # the largest: embeddings are scaled by 2 ** -3
    available, labeled = three_kinds(rng, rows)
    budget = max(1, int(part * available.sum()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "_pure_radius", lambda *_: np.float32(radius / 64))
        picks = select(
            "prob_cover", {"embeddings": x}, budget=budget, seed=1, available=available, labeled=labeled, keys=keys
        )
    inside = ((x[:, None] - x[None]) ** 2).sum(axis=2) < radius
    uncovered = (available | labeled) & ~inside[labeled].any(axis=0)
    order, picked = hash_order(available, keys, 1), []
    while len(picked) < budget:
        picked.append(max((r for r in order if r not in picked), key=lambda r: int((inside[r] & uncovered).sum())))
        uncovered &= ~inside[picked[-1]]
    assert picks.positions_K.tolist() == picked


def test_the_radius_is_the_largest_at_which_95_percent_of_the_balls_are_pure():
    x = np.random.default_rng(3).normal(size=(300, 2)).astype(np.float32)
    tiled = cut(x)
    labels = kmeans(tiled, num_clusters=5, seed=9)
    radius = coverage._pure_radius(tiled, 5, 9)
    distances = tiles.squared_distances(tiled, x)

    def purity(squared_radius):
        return np.mean(
            [(labels[row < squared_radius] == label).all() for row, label in zip(distances, labels, strict=True)]
        )

    assert purity(np.nextafter(radius, np.float32(9))) < 0.95 <= purity(radius)


def signals_of(name: str, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    made = {"probs": some_probs(rng, rows), "embeddings": rng.normal(size=(rows, 6)).astype(np.float32)}
    return {key: made[key] for key in STRATEGIES[name].signals}


@pytest.mark.parametrize("name", SETWISE)
def test_rows_that_are_neither_available_nor_labelled_are_not_looked_at(name):
    rng = np.random.default_rng(5)
    signals = signals_of(name, rng, 300)
    available, labeled = three_kinds(rng, 300)
    masks = {"available": available, "labeled": labeled}
    picks = select(name, signals, budget=30, **masks)
    read = available | labeled if STRATEGIES[name].uses_labeled else available
    for junk in (np.nan, 0.0):
        changed = {key: value.copy() for key, value in signals.items()}
        for value in changed.values():
            value[~read] = junk
        assert select(name, changed, budget=30, **masks).positions_K.tolist() == picks.positions_K.tolist()


@pytest.mark.parametrize("name", sorted({*USES_LABELED} & {*EMBEDDED}))
def test_labelled_rows_keep_their_surroundings_from_being_picked_first(name):
    x, corner = blobs([60, 40, 40])
    labeled = np.zeros(len(x), bool)
    labeled[:3] = True
    picked = corner[select(name, {"embeddings": x}, budget=2, labeled=labeled).positions_K]
    assert sorted(picked) == [1, 2]


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused_with_the_first_position(name, bad):
    signals = signals_of(name, np.random.default_rng(1), 3_000)
    signals["embeddings"][[2_999, 1_777], [0, 5]] = bad
    with pytest.raises(SignalError, match="position 1777"):
        select(name, signals, budget=5)
    with pytest.raises(SignalError, match="embeddings"):
        select(name, {**signals, "embeddings": signals["embeddings"][:, 0]}, budget=5)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_scale_of_embeddings_does_not_matter_and_nothing_overflows(name):
    signals = signals_of(name, np.random.default_rng(2), 200)
    picks = select(name, signals, budget=20).positions_K.tolist()
    for scale in (2.0**100, 2.0**-100):
        scaled = {**signals, "embeddings": signals["embeddings"] * np.float32(scale)}
        assert select(name, scaled, budget=20).positions_K.tolist() == picks


@pytest.mark.parametrize("name", SETWISE)
def test_read_only_files_half_precision_one_row_and_no_budget(name, tmp_path):
    signals, mapped = signals_of(name, np.random.default_rng(3), 50), {}
    for key, value in signals.items():
        np.save(tmp_path / f"{key}.npy", value)
        mapped[key] = np.load(tmp_path / f"{key}.npy", mmap_mode="r")
    picks = select(name, signals, budget=10).positions_K.tolist()
    assert select(name, mapped, budget=10).positions_K.tolist() == picks
    half = {key: value.astype(np.float16) if key == "embeddings" else value for key, value in signals.items()}
    assert len(select(name, half, budget=10)) == 10
    assert len(select(name, signals, budget=0)) == 0
    one = {key: value[:1] for key, value in signals.items()}
    assert select(name, one, budget=1).positions_K.tolist() == [0]
    none = {key: value[:0] for key, value in signals.items()}
    assert len(select(name, none, budget=0)) == 0


@pytest.mark.parametrize(("name", "copies"), [("badge", 1), ("cluster_margin", 0)])
def test_probabilities_are_copied_no_more_often_than_said(name, copies, monkeypatch):
    monkeypatch.setattr(tiles, "_ROWS_PER_GATHER", 512)
    monkeypatch.setattr(clusters, "_MOST_CLUSTERS_FOR_KMEANS", 2)
    probs = np.full((5000, 200), 1 / 200, np.float32)
    embeddings = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    select(name, {"probs": probs, "embeddings": embeddings}, budget=2)  # kernels are loaded
    tracemalloc.start()
    try:
        select(name, {"probs": probs, "embeddings": embeddings}, budget=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (copies + 0.6) * probs.nbytes


@pytest.mark.parametrize("name", SETWISE)
def test_rows_that_are_all_alike_are_picked_by_the_keyed_hash(name):
    signals = signals_of(name, np.random.default_rng(4), 300)
    for key, value in signals.items():
        value[:] = 1 / 3 if key == "probs" else 0
    one, two = (select(name, signals, budget=30, seed=seed).positions_K for seed in (1, 2))
    assert len(set(one.tolist())) == 30
    assert len(np.intersect1d(one, two)) < 15  # 3 expected


@pytest.mark.parametrize("name", ["facility_location", "prob_cover", "typiclust"])
def test_too_many_pairs_of_rows_are_refused_with_what_to_set(name, monkeypatch):
    monkeypatch.setattr(tiles, "_MOST_PAIRS", 99 * 99)
    with pytest.raises(SignalError, match=rf"{name}: 10,000 pairs .* set `candidates`"):
        select(name, {"embeddings": np.zeros((100, 2), np.float32)}, budget=5)
