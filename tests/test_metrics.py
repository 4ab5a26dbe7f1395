"""Metrics: values against brute force, and the manners of an evaluate module (offline, batches, combine, processes)."""

from __future__ import annotations

import subprocess
import sys
import time
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp import metrics
from svp_nlp.errors import RecipeError, SVPError
from svp_nlp.metrics import FORMULAS, check_metrics, compute_metrics, load_metric

NUM_CLASSES = 4
pairs = st.lists(st.tuples(st.integers(0, NUM_CLASSES - 1), st.integers(0, NUM_CLASSES - 1)), min_size=1, max_size=40)


def brute_force(rows: list[tuple[int, int]]) -> dict[str, float]:
    right = sum(p == r for p, r in rows)
    f1, recalls, rare = [], [], []
    counts = sorted(count for count in (sum(r == c for _, r in rows) for c in range(NUM_CLASSES)) if count)
    least = counts[0]
    for c in range(NUM_CLASSES):
        hit = sum(p == r == c for p, r in rows)
        predicted = sum(p == c for p, _ in rows)
        there = sum(r == c for _, r in rows)
        if there:
            f1.append(2 * hit / (predicted + there))
            recalls.append(hit / there)
            if there <= least:
                rare.append(hit / there)
    return {
        "accuracy": right / len(rows),
        "error": 1 - right / len(rows),
        "macro_f1": sum(f1) / len(f1),
        "balanced_accuracy": sum(recalls) / len(recalls),
        "rare_recall": sum(rare) / len(rare),
    }


@given(pairs)
@settings(deadline=None, max_examples=60)
def test_formulas_agree_with_brute_force(rows: list[tuple[int, int]]) -> None:
    predictions, references = np.array(rows).T
    found = compute_metrics(list(FORMULAS), predictions, references_N=references, num_classes=NUM_CLASSES)
    assert found == pytest.approx(brute_force(rows))


def test_macro_f1_is_over_the_classes_of_the_test_set_whatever_a_model_predicts() -> None:
    assert compute_metrics(["macro_f1"], [0, 1], references_N=[0, 1], num_classes=4) == {"macro_f1": 1.0}
    found = compute_metrics(["macro_f1"], [0, 3, 1, 1], references_N=[0, 0, 1, 1], num_classes=4)
    assert found == {"macro_f1": pytest.approx(5 / 6)}


@pytest.mark.parametrize("name", FORMULAS)
def test_module_gives_the_same_in_batches_as_the_formula_at_once(name: str) -> None:
    rng = np.random.default_rng(0)
    predictions, references = rng.integers(0, NUM_CLASSES, (2, 50))
    metric = load_metric(name)
    for start in range(0, 50, 20):
        metric.add_batch(predictions=predictions[start : start + 20], references=references[start : start + 20])
    expected = compute_metrics([name], predictions, references_N=references, num_classes=NUM_CLASSES)
    assert metric.compute(num_classes=NUM_CLASSES) == pytest.approx(expected)
    assert metric.name == name


def test_modules_combine() -> None:
    import evaluate

    combined = evaluate.combine([load_metric("accuracy"), load_metric("macro_f1")])
    assert combined.compute(predictions=[0, 1, 1], references=[0, 1, 0], num_classes=2) == pytest.approx(
        {"accuracy": 2 / 3, "macro_f1": 2 / 3}
    )


def test_modules_write_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in FORMULAS:
        load_metric(name).compute(predictions=[0, 1], references=[0, 1])
    assert list(tmp_path.iterdir()) == []


def test_a_test_set_of_ag_news_takes_no_time() -> None:
    rng = np.random.default_rng(0)
    predictions, references = rng.integers(0, 4, (2, 7_600))
    compute_metrics(list(FORMULAS), predictions[:9], references_N=references[:9], num_classes=4)
    start = time.process_time()
    compute_metrics(list(FORMULAS), predictions, references_N=references, num_classes=4)
    assert time.process_time() - start < 0.3


def test_importing_metrics_imports_no_torch() -> None:
    code = (
        "import sys, svp_nlp.metrics; sys.exit(bool({'torch', 'evaluate', 'datasets', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def fake_evaluate(monkeypatch: pytest.MonkeyPatch, load) -> None:
    module = types.ModuleType("evaluate")
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evaluate", module)


class Foreign:
    def __init__(self, result) -> None:
        self.result = result

    def compute(self, *, predictions, references):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_unknown_or_offline_metric_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str):
        raise ConnectionError("Couldn't reach it\non the Hub")

    fake_evaluate(monkeypatch, load)
    with pytest.raises(
        RecipeError, match=r"metric 'bleurt' cannot be loaded.*Couldn't reach it.*accuracy.*no network"
    ) as e:
        check_metrics(["bleurt"], num_classes=3)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"matthews_correlation": np.float64(0.5)}, {"mcc": 0.5}),
        ({"precision": 0.5, "recall": 1, "matrix": [[1]], "nothing": float("nan")}, {"precision": 0.5, "recall": 1.0}),
    ],
)
def test_foreign_metrics_give_plain_numbers(monkeypatch: pytest.MonkeyPatch, result, expected) -> None:
    fake_evaluate(monkeypatch, lambda name: Foreign(result))
    assert metrics.compute_metrics(["mcc"], [0, 1], references_N=[0, 1], num_classes=2) == expected


@pytest.mark.parametrize("result", [ValueError("Target is multiclass"), {"matrix": [[1]]}])
def test_foreign_metric_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, result) -> None:
    fake_evaluate(monkeypatch, lambda name: Foreign(result))
    with pytest.raises(SVPError, match="metric 'f1'"):
        check_metrics(["f1"], num_classes=3)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "at least one integer"),
        ([0.0, 1.0], [0, 1], "float64"),
        ([0, 1], [0], "2 predictions for 1 references"),
        ([0, 3], [0, 1], "found class 3, expected 0 to 1"),
        ([0, 1], [-1, 1], "references: found class -1"),
    ],
)
def test_bad_input_says_what_was_found(predictions, references, message: str) -> None:
    with pytest.raises(SVPError, match=message):
        compute_metrics(["accuracy"], predictions, references_N=references, num_classes=2)


@pytest.mark.parametrize(
    ("counts", "rare"),
    [
        ([25] * 30 + [50] * 30 + [75] * 29 + [100] * 62, range(30)),
        ([10, 20, 30, 40], [0]),
        ([40, 10, 10, 30, 0], [1, 2]),
        ([40, 10, 10, 30, 50, 60, 70, 80], [1, 2]),
        ([5, 10, 10, 30, 50, 60, 70, 80], [0]),
        ([90, 10], [1]),
        ([7, 7, 7], [0, 1, 2]),
        ([0, 0], []),
    ],
)
def test_rare_are_those_with_the_fewest_rows_up_to_a_quarter_of_all(counts, rare) -> None:
    assert np.flatnonzero(metrics.rarest(np.array(counts))).tolist() == list(rare)


def test_what_is_rare_is_told_by_the_pool_and_not_by_the_test_set() -> None:
    predictions, references, pool = np.array([0, 0, 1, 2, 0]), np.array([0, 0, 1, 2, 2]), np.array([90, 80, 10])
    given = {"references_N": references, "num_classes": 3}
    assert compute_metrics(["rare_recall"], predictions, **given, counts_C=pool) == {"rare_recall": 0.5}
    assert compute_metrics(["rare_recall"], predictions, **given) == {"rare_recall": 1.0}
    module = load_metric("rare_recall")
    found = module.compute(predictions=predictions, references=references, class_counts=pool.tolist())
    assert found == {"rare_recall": 0.5}
    without = compute_metrics(["rare_recall", "error"], [0, 1], references_N=[0, 1], num_classes=3, counts_C=pool)
    assert without == {"error": 0.0}
    recall_C = metrics.recall_by_class(np.array([0, 1]), np.array([0, 0]), 2)
    np.testing.assert_array_equal(recall_C, [0.5, np.nan])
