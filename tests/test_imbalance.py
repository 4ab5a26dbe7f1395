"""Strategies for classes with few labels against plain loops, and recall by class from a run to its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import FASTTEXT, small_recipe
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp.arrays import keyed_hash
from svp_nlp.experiment import run_recipe
from svp_nlp.report_classes import class_table
from svp_nlp.report_merge import Series
from svp_nlp.report_statistics import summarize
from svp_nlp.strategies import select


def drawn(seed: int, rows: int, classes: int = 4):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 4, size=(rows, classes)) + 1e-3  # many rows tie
    state = rng.integers(0, 3, size=rows)  # labelled, available, neither
    signals = {"probs": (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)}
    keys = rng.permutation(rows).astype(np.uint64) * np.uint64(7919)
    return signals, {"labeled": state == 0, "available": state == 1, "keys": keys, "seed": seed}


def margin_of(probs_C: np.ndarray) -> float:
    second, first = np.sort(probs_C)[-2:]
    return float(np.float32(1) - (first - second))


def by_turns(probs_NC: np.ndarray, *, labeled, available, keys, seed: int, budget: int) -> list[int]:
    """The class with the fewest labels takes its least sure row, again and again."""
    predicted, ties = probs_NC.argmax(axis=1), keyed_hash(keys, seed, "tie")
    counts = [int((predicted[labeled] == c).sum()) for c in range(probs_NC.shape[1])]
    left, picked = set(np.flatnonzero(available).tolist()), []
    while len(picked) < budget:
        row = min(left, key=lambda r: (counts[predicted[r]], -margin_of(probs_NC[r]), ties[r]))
        left.remove(row)
        picked.append(row)
        counts[predicted[row]] += 1
    return picked


def by_rarity(probs_NC: np.ndarray, *, labeled, available, keys, seed: int, budget: int) -> list[int]:
    """The row with the largest margin times expected rarity, whose expected class then counts as labelled."""
    ties = keyed_hash(keys, seed, "tie")
    counts_C = 1.0 + np.bincount(probs_NC[labeled].argmax(axis=1), minlength=probs_NC.shape[1])
    left, picked = set(np.flatnonzero(available).tolist()), []

    def gain(row: int) -> float:
        # einsum, because sums in another order would part rows that tie
        return margin_of(probs_NC[row]) * float(np.einsum("kc,c->k", probs_NC[[row]].astype(float), 1 / counts_C)[0])

    while len(picked) < budget:
        row = min(left, key=lambda r: (-gain(r), ties[r]))
        left.remove(row)
        picked.append(row)
        counts_C = counts_C + probs_NC[row]
    return picked


@pytest.mark.parametrize(("name", "reference"), [("class_balanced", by_turns), ("rare_classes", by_rarity)])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 60), part=st.floats(0, 1))
def test_picks_are_those_of_a_plain_loop(name, reference, seed, rows, part):
    signals, masks = drawn(seed, rows)
    budget = int(part * masks["available"].sum())
    picks = select(name, signals, budget=budget, **masks)
    assert picks.positions_K.tolist() == reference(signals["probs"], budget=budget, **masks)


def test_class_balanced_evens_out_what_random_labels_have_left_uneven():
    rng = np.random.default_rng(0)
    truth_N = np.repeat([0, 1, 2], [900, 90, 10])
    probs = rng.dirichlet([1, 1, 1], size=1000) + 3 * np.eye(3)[truth_N]
    labeled = rng.permutation(1000) < 100
    signals = {"probs": (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)}
    picked = select("class_balanced", signals, budget=60, labeled=labeled).positions_K
    before, after = (np.bincount(truth_N[rows], minlength=3) for rows in (labeled, picked))
    assert after[0] == 0 and after[1] == 60 - after[2]
    assert after[2] == 10 - before[2]  # all that there are
    rare, plain = (
        (truth_N[select(name, signals, budget=20, labeled=labeled).positions_K] > 0).mean()
        for name in ("rare_classes", "margin")
    )
    assert rare > 3 * plain


def keep_every(pool: Path, name: str, step: int) -> None:
    """Leave out all rows of a class but every so many."""
    path = pool / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    labels_N = table["label"].to_numpy()
    of_class = np.flatnonzero(labels_N == CLASS_NAMES.index(name))
    left_out = np.setdiff1d(of_class, of_class[::step])
    pq.write_table(table.take(np.setdiff1d(np.arange(len(table)), left_out)), path)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run on a pool in which `weather` is one row in twenty; the test set has as many rows of each."""
    folder = tmp_path_factory.mktemp("imbalance")
    pool = write_toy(folder / "toy", rows=400)
    keep_every(pool, "weather", 5)
    recipe = small_recipe(
        pool, target=FASTTEXT, strategies=["class_balanced"], baselines=["random"], metrics=["accuracy", "rare_recall"]
    )
    run_recipe(recipe, folder / "run", stop_requested=lambda: False)
    return folder / "run", json.loads((folder / "run/results.json").read_text())


def test_a_run_tells_the_recall_of_each_class_and_of_those_rare_in_the_pool(results):
    _, found = results
    tests_C = np.bincount(toy_rows(100, seed=1_000)[1])
    counts = found["pool"]["class_counts"]
    assert min(counts, key=counts.get) == "weather"
    for row in found["rows"]:
        assert set(row["recall_by_class"]) == set(CLASS_NAMES)
        assert row["metrics"]["rare_recall"] == row["recall_by_class"]["weather"]
        recalls = [row["recall_by_class"][name] for name in CLASS_NAMES]
        assert row["accuracy"] == pytest.approx(np.average(recalls, weights=tests_C))


def test_the_report_shows_them(results):
    run_dir, found = results
    markdown, page = (run_dir / "report.md").read_text(), (run_dir / "report.html").read_text()
    [line] = [line for line in markdown.splitlines() if line.startswith("| weather")]
    recalls = [row["recall_by_class"]["weather"] for row in found["rows"]]
    assert all(f"{100 * recall:.1f}" in line for recall in recalls)
    assert f"mean of 1 rare class, {found['pool']['class_counts']['weather']} rows each" in markdown
    assert 'id="classes"' in page and "All 4 classes" not in page


def test_of_many_classes_the_rarest_and_the_worst_are_shown():
    names = [f"class {c}" for c in range(40)]
    recall = {name: 0.1 if c in (20, 21) else 0.5 + c / 100 for c, name in enumerate(names)}
    rows = [
        {"seed": seed, "selector": "proxy", "strategy": "margin", "labeled_size": 50, "error": 0.1, "metrics": {},
         "recall_by_class": {name: value + seed / 100 for name, value in recall.items()}}
        for seed in (0, 1)
    ]  # fmt: skip
    pool = {"class_names": names, "class_counts": {name: 10 + c // 2 for c, name in enumerate(names)}}
    run = {"format": 1, "name": "a", "mode": "active_learning", "pool": pool, "rows": rows}
    table = class_table([run], summarize([run]))
    assert table.series == (Series("proxy", "margin"),)
    assert [line.name for line in table.shown(2)] == ["class 0", "class 1", "class 20", "class 21"]
    assert len(table.shown(20)) == 40
    everything, rare = table.means
    assert everything.recalls[0].mean == pytest.approx(np.mean(list(recall.values())) + 0.005)
    assert rare.name == "mean of 10 rare classes, 10 to 14 rows each"
    assert rare.recalls[0].mean == pytest.approx(np.mean([recall[name] for name in names[:10]]) + 0.005)
    unknown = {**run, "pool": {"class_names": names}}
    table = class_table([unknown], summarize([unknown]))
    assert len(table.means) == 1 and [line.name for line in table.shown(2)] == ["class 20", "class 21"]
    bare = {**run, "rows": []}
    assert class_table([bare], summarize([bare])) is None
