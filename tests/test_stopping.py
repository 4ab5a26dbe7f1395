"""When to stop: the signals against brute force, the curve against known truth, and whole runs that a rule ends."""

from __future__ import annotations

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_demo import demo_run
from sklearn.metrics import cohen_kappa_score
from small_run import FASTTEXT, outcome, small_recipe
from test_people import label_all, people_recipe, play
from toy import write_toy

from svp_nlp.errors import BudgetError, Interrupted, RecipeError, SignalError, WaitingForLabels
from svp_nlp.experiment import run_recipe
from svp_nlp.files import read_json
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.report import markdown, summarize
from svp_nlp.report_html import render_page
from svp_nlp.stop_spec import RULES, StopSpec
from svp_nlp.stopping import classification_change, kappa, overall_uncertainty, stop_set
from svp_nlp.stopping_curve import expected_gain


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


predictions = st.integers(1, 60).flatmap(
    lambda rows: st.tuples(*(st.lists(st.integers(0, 4), min_size=rows, max_size=rows) for _ in range(2)))
)


@settings(max_examples=40, deadline=None)
@given(predictions)
def test_kappa_is_cohens_in_its_range_the_same_both_ways_and_1_for_equal(pair):
    before, after = pair
    found = kappa(before, after)
    assert -1 - 1e-12 <= found <= 1
    assert found == pytest.approx(kappa(after, before))
    assert kappa(before, before) == 1
    if len({*before, *after}) > 1:  # else scikit-learn divides by zero
        assert found == pytest.approx(cohen_kappa_score(before, after))


@settings(max_examples=40, deadline=None)
@given(predictions)
def test_classification_change_counts_the_rows_that_changed(pair):
    before, after = pair
    assert classification_change(before, after) == sum(a != b for a, b in zip(*pair, strict=True)) / len(before)


def test_overall_uncertainty_is_0_for_the_sure_1_for_the_clueless_and_the_mean_entropy_between():
    assert overall_uncertainty(np.eye(3, dtype=np.float32)) == pytest.approx(0, abs=1e-9)
    assert overall_uncertainty(np.full((5, 7), 1 / 7, dtype=np.float32)) == pytest.approx(1)
    probs = np.random.default_rng(0).dirichlet(np.ones(4), size=20).astype(np.float32)
    rows = [-sum(p * math.log(p) for p in row) / math.log(4) for row in probs.tolist()]
    assert overall_uncertainty(probs) == pytest.approx(sum(rows) / len(rows), rel=1e-5)
    with pytest.raises(SignalError):
        overall_uncertainty(np.array([[np.nan, 1.0]], dtype=np.float32))


def test_the_stop_set_is_fixed_by_ids_and_seed_and_holds_available_rows_only():
    keys = np.random.default_rng(0).integers(0, 2**63, size=500).astype(np.uint64)
    available = np.random.default_rng(1).random(500) < 0.5
    found = stop_set(keys, available, seed=0, rows=50)
    assert len(found) == 50 and available[found].all() and (np.diff(found) > 0).all()
    order = np.random.default_rng(2).permutation(500)
    moved = stop_set(keys[order], available[order], seed=0, rows=50)
    assert set(keys[order][moved]) == set(keys[found])
    assert set(stop_set(keys, available, seed=1, rows=50)) != set(found)
    assert len(stop_set(keys, available, seed=0)) == available.sum()


@pytest.mark.parametrize(("a", "b", "c"), [(0.05, 2.0, 0.5), (0.0, 3.0, 0.6), (0.1, 0.9, 0.2), (0.2, 0.0, 1.0)])
def test_a_curve_without_noise_gives_its_own_gain_back(a, b, c):
    sizes = np.array([100, 200, 400, 700, 1_000])
    found = expected_gain(sizes, a + b * sizes**-c, more=500, tested_P=1_000)
    truth = b * (1_000**-c - 1_500**-c)
    assert found.gain == pytest.approx(truth, abs=2e-4)
    assert found.low - 1e-4 <= truth <= found.high + 1e-4
    assert found.error == pytest.approx(a + b * 1_000**-c, abs=1e-3)


@pytest.mark.parametrize("points", [4, 6, 10])
def test_the_interval_contains_the_truth_at_least_as_often_as_it_says(points):
    rng, sizes, hits, times = np.random.default_rng(0), 250 * np.arange(1, points + 1), 0, 60
    curve = 0.08 + 2 * sizes**-0.5
    truth = 2 * (sizes[-1] ** -0.5 - (sizes[-1] + 500) ** -0.5)
    for _ in range(times):
        found = expected_gain(sizes, rng.binomial(1_000, curve) / 1_000, more=500, tested_P=1_000)
        hits += found.low <= truth <= found.high
    assert hits >= 0.8 * times  # it is cautious: errors that are tested on rows of their own scatter more than others


def test_the_interval_shrinks_with_the_rows_tested_and_never_to_nothing():
    sizes = np.array([600, 800, 1_000, 1_200, 1_400])
    widths = []
    for tested in (100, 1_000, 10_000):
        found = expected_gain(sizes, 0.1 + 2 * sizes**-0.5, more=500, tested_P=tested)  # the curve itself, no scatter
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1] > 1.5**2 * widths[2] > 0


def test_points_below_half_of_the_largest_size_count_only_where_four_are_needed():
    late, errors = [1_000, 1_200, 1_400, 1_600, 1_800], [0.25, 0.24, 0.22, 0.215, 0.21]
    expected = expected_gain(late, errors, more=100, tested_P=500)
    assert expected_gain([100, 500, *late], [0.9, 0.3, *errors], more=100, tested_P=500) == expected
    few = expected_gain([100, 500, 1_600, 1_800], [0.9, 0.3, 0.22, 0.2], more=100, tested_P=500)
    assert few != expected_gain([200, 500, 1_600, 1_800], [0.9, 0.3, 0.22, 0.2], more=100, tested_P=500)


def brute_force_gain(sizes, errors, weights, more):
    """The same least squares by a search over (c, a), b from each in closed form."""
    best, a = (math.inf, 0.0), np.linspace(0, errors.min(), 400)[:, None]
    for c in np.geomspace(0.02, 3, 400):
        x = (sizes / sizes.max()) ** -c
        b = np.maximum((weights * x * (errors - a)).sum(axis=1, keepdims=True) / (weights * x * x).sum(), 0)
        misfit = (weights * (errors - a - b * x) ** 2).sum(axis=1)
        at = int(misfit.argmin())
        best = min(best, (float(misfit[at]), float(b[at, 0]) * (1 - ((sizes.max() + more) / sizes.max()) ** -c)))
    return best[1]


def test_the_fit_is_as_good_as_a_brute_force_search():
    rng = np.random.default_rng(3)
    for _ in range(3):
        sizes = np.sort(rng.choice(np.arange(100, 2_000), size=6, replace=False)).astype(float) + 2_000
        errors = np.clip(0.1 + 3 * sizes**-0.6 + rng.normal(0, 0.01, 6), 0, 1)
        smoothed = (errors * 500 + 2) / 504
        gain = brute_force_gain(sizes, errors, 1 / (smoothed * (1 - smoothed)), 300)
        assert expected_gain(sizes, errors, more=300, tested_P=500).gain == pytest.approx(gain, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=8),
    st.integers(1, 2_000),
    st.integers(1, 2_000),
)
def test_a_gain_is_never_negative_nor_more_than_all_errors_and_more_labels_bring_no_less(errors, more, further):
    sizes = [100 * (number + 1) for number in range(len(errors))]
    near, far = (expected_gain(sizes, errors, more=rows, tested_P=300) for rows in (more, more + further))
    assert 0 <= near.low <= near.gain <= near.high <= max(*errors, 1e-9) * 2
    assert far.gain >= near.gain - 1e-12


def test_three_points_are_refused_with_what_is_missing():
    with pytest.raises(BudgetError, match=r"3 labelled sizes.*at least 4"):
        expected_gain([100, 200, 300, 300], [0.4, 0.3, 0.2, 0.2], more=100, tested_P=100)


def signals(size, **values):
    row = {"seed": 0, "selector": "proxy", "strategy": "margin", "labeled_size": size, "ends": False}
    return {**row, "kappa": 0.9, "changed": 0.05, "uncertainty": 0.4, "error": None, "tested": 0, **values}


def test_the_report_tells_what_more_labels_bring_or_what_is_missing_to_tell_it():
    run = demo_run(seeds=(0,), strategies=("margin",), selectors=("proxy",))
    pages = [render_page([run], summarize([run])), markdown([run], summarize([run]))]
    assert all("3,600 more labels are expected to bring" in page for page in pages)
    short = demo_run(seeds=(0,), strategies=("margin",), selectors=("proxy",), sizes=(100, 200, 300))
    assert "When to stop" not in render_page([short], summarize([short]))
    short |= {"stopping": [signals(100, kappa=None), signals(200, ends=True)], "stop": {"rule": "<b>"}}
    page, text = render_page([short], summarize([short])), markdown([short], summarize([short]))
    for shown in (page, text):
        assert "there are 3" in shown and "train" in shown
        assert "the rule &lt;b&gt; ended the rounds at 200 labels" in shown.replace("\N{NO-BREAK SPACE}", " ")


def test_without_a_target_the_gain_comes_from_the_proxys_errors_on_the_dev_set():
    run = demo_run(seeds=(0,), strategies=("margin",), selectors=("proxy",))
    errors = [0.4, 0.3, 0.26, 0.24, 0.23]
    rows = [signals(100 * i, error=e, tested=500) for i, e in enumerate(errors, start=1)]
    run |= {"rows": [], "agreement": [], "stopping": rows}
    assert "The error of the proxy on the dev set is 23.0 % at 500 labels" in markdown([run], summarize([run]))


# Whole runs. fastText is the target as well: what is tested is when it is trained, and on what.
SIZES = [40, 60, 80]
AT_ONCE = {"rule": "change", "threshold": 1.0, "patience": 1}  # holds as soon as there are two proxies


def recipe(pool, **changes):
    return small_recipe(pool, **{"target": FASTTEXT, "labeled_sizes": SIZES, **changes})


def go(recipe, run_dir):
    run_recipe(recipe, run_dir, stop_requested=lambda: False)
    return read_json(run_dir / "results.json")


def sizes(rows, selector="proxy"):
    return [row["labeled_size"] for row in rows if row["selector"] == selector]


def test_a_rule_ends_the_rounds_of_the_proxy_and_the_run_goes_on_when_it_is_overruled(toy, tmp_path):
    whole = go(recipe(toy, baselines=["random"]), tmp_path / "whole")
    assert whole["stopping"] == []

    run_dir = tmp_path / "run"
    for _ in range(2):  # called again, nothing changes
        found = go(recipe(toy, stop=AT_ONCE, baselines=["random"]), run_dir)
        assert sizes(found["rounds"]) == [20, 40] and sizes(found["rows"]) == [40]
        assert sizes(found["rounds"], "random") == [20, *SIZES] and sizes(found["rows"], "random") == SIZES
        assert [(row["labeled_size"], row["holds"], row["ends"]) for row in found["stopping"]] == [
            (20, False, False), (40, True, True)
        ]  # fmt: skip
        assert found["finished"] and found["stop"]["rule"] == "change"

    found = go(recipe(toy, baselines=["random"]), run_dir)
    assert found["rows"] != [] and sizes(found["rows"]) == SIZES
    assert outcome(run_dir) == outcome(tmp_path / "whole")
    rows = list((run_dir / "seed-0/proxy-margin/selected/dataset").rglob("*.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in rows) == 80

    found = go(recipe(toy, stop=AT_ONCE, baselines=["random"]), run_dir)  # what was labelled stays labelled
    assert sizes(found["rounds"]) == [20, *SIZES] and not any(row["ends"] for row in found["stopping"])


def test_a_run_that_is_interrupted_at_every_turn_stops_where_one_that_is_not_does(toy, tmp_path):
    stop = {**AT_ONCE, "patience": 2}
    expected = go(recipe(toy, stop=stop), tmp_path / "whole")
    calls = 0

    def now_and_then():
        nonlocal calls
        calls += 1
        return calls % 5 == 0

    for attempts in range(1, 40):  # noqa: B007
        try:
            run_recipe(recipe(toy, stop=stop), tmp_path / "run", stop_requested=now_and_then)
            break
        except Interrupted:
            continue
    found = read_json(tmp_path / "run/results.json")
    assert attempts > 3 and found["finished"]
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert strip(found["stopping"]) == strip(expected["stopping"])
    assert sizes(found["rows"]) == sizes(expected["rows"]) == [40, 60]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_people_are_told_that_a_rule_asks_for_no_more_and_how_to_go_on(toy, tmp_path):
    changes = {"target": FASTTEXT, "labeled_sizes": SIZES, "train_target_at": None}
    play(people_recipe(toy, stop=AT_ONCE, **changes), tmp_path / "run", label=label_all)
    queue = LabelQueue.open(tmp_path / "run")
    assert "stopped after 40 labels" in queue.stopped and "--set stop=null" in queue.stopped
    assert [request.round for request in queue.requests] == [0, 1]
    assert sizes(read_json(tmp_path / "run/results.json")["rows"]) == [40]

    with pytest.raises(WaitingForLabels):
        run_recipe(people_recipe(toy, **changes), tmp_path / "run", stop_requested=lambda: False)
    queue.refresh()
    assert queue.stopped is None and [request.round for request in queue.requests] == [0, 1, 2]
    found = read_json(tmp_path / "run/results.json")
    assert not found["finished"]
    assert [row["kappa"] is None for row in found["stopping"]] == [True, False]  # told without a rule, too


def test_the_rule_gain_reads_the_proxys_errors_on_a_dev_set(toy, tmp_path):
    stop = {"rule": "gain", "threshold": 1.0, "patience": 1, "min_labels": "50%"}
    found = go(recipe(toy, stop=stop, dev={"split": "test"}, test=None, target=None,
                      labeled_sizes=[*SIZES, 100, 120]), tmp_path / "run")  # fmt: skip
    rows = found["stopping"]
    assert [row["gain"] is None for row in rows] == [True, True, True, False, False]
    assert [row["ends"] for row in rows] == [False, False, False, False, True]
    assert rows[-1]["labeled_size"] == 100 and rows[-1]["tested"] == 100
    curve = expected_gain([row["labeled_size"] for row in rows], [row["error"] for row in rows], more=500, tested_P=100)
    assert (rows[-1]["gain"], rows[-1]["gain_high"]) == (curve.gain, curve.high)


def test_a_proxy_that_gives_one_class_for_all_stops_nothing_however_much_it_agrees_with_itself():
    row = {"labeled_size": 50, "kappa": 1.0, "changed": 0.0, "uncertainty": 0.0, "classes_predicted": 1}
    for rule in ("kappa", "change", "uncertainty"):
        stop = StopSpec(rule=rule, patience=2)
        assert not stop.holds([row, row])
        assert stop.holds([{**row, "classes_predicted": 2}] * 2)


def test_a_rule_holds_when_it_does_in_so_many_rounds_in_a_row_and_enough_is_labelled():
    def rows(*kappas):
        return [{"labeled_size": 10 * i, "kappa": k, "classes_predicted": 3} for i, k in enumerate(kappas, start=1)]

    stop = StopSpec(rule="kappa", threshold=0.9, patience=2)
    assert stop.holds(rows(None, 0.95, 0.9))
    assert not stop.holds(rows(None, 0.95))
    assert not stop.holds(rows(0.95, 0.89, 0.95))
    assert not stop.holds(rows(0.95, 0.95), min_labels=21)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "core_set", "initial": None}, "a core-set is picked once"),
        ({"strategies": ["random"]}, "no strategy here trains one"),
        ({"labeled_sizes": [40, 60]}, "needs 4 proxies, labeled_sizes has 2"),
        ({"stop": {"rule": "gain"}}, "set dev to a dataset"),
        ({"stop": {"rule": "gain"}, "dev": 0.2}, "set dev to a dataset"),
        ({"stop": {"rule": "kappa", "more": 100}}, "more is for rule gain"),
        ({"stop": {"rule": "kapa"}}, "kapa"),
        ({"stop": {"rule": "kappa", "threshold": 1.5}}, "less than or equal to 1"),
    ],
)
def test_a_rule_that_could_never_work_is_refused_before_any_work(toy, changes, message):
    with pytest.raises(RecipeError, match=message):
        recipe(toy, **{"stop": {"rule": "kappa"}, **changes})


def test_a_dev_set_is_taken_where_the_signals_read_it_and_refused_where_nobody_does(toy):
    only_select = {"dev": {"split": "test"}, "test": None, "target": None}
    people_recipe(toy, **only_select)
    recipe(toy, stop=AT_ONCE, **only_select)
    with pytest.raises(RecipeError, match="that a dev set could choose among"):
        recipe(toy, **only_select)


def test_a_rule_has_its_own_defaults_and_says_nothing_about_what_rounds_find(toy):
    with_rule = recipe(toy, stop={"rule": "kappa"}, labeled_sizes=[*SIZES, 100])
    assert with_rule.stop.threshold == RULES["kappa"].threshold and with_rule.stop.patience == RULES["kappa"].patience
    assert with_rule.fingerprint == recipe(toy, labeled_sizes=[*SIZES, 100]).fingerprint
