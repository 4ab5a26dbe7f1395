"""Trackers: nothing by default, no secret leaves, a broken one does not end the run, a resumed run goes on in place."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.errors import RecipeError
from svp_nlp.tracking import TRACKERS, Tracker, check_trackers, flat_config, open_tracker

ROUND = {
    "seed": 1, "selector": "proxy", "strategy": "margin", "round": 2, "labeled_size": 60, "picked": 20,
    "proxy_seconds": 1.0, "scoring_seconds": 2.0, "ranking_seconds": 0.5, "class_counts": {}, "fingerprint": "f",
}  # fmt: skip
TARGET = {
    "seed": 1, "selector": "random", "strategy": "random", "labeled_size": 60, "metrics": {"accuracy": 0.75},
    "selection_seconds": 3.5, "target_seconds": 9.0, "total_seconds": 12.5,
}  # fmt: skip
EPOCH = {
    "event": "epoch", "step": "seed-1/random/target-0000000060-abcd", "epoch": 3, "loss": 0.5, "learning_rate": 0.1,
    "train_accuracy": 0.9, "dev_accuracy": None, "examples_per_second": 100.0, "seconds": 0.6, "what": "VDCNN-9",
}  # fmt: skip


class Backend:
    """An Accelerate tracker that writes down what it is given; it fails from the `fails_at`-th call of `log` on."""

    made: list[Backend] = []  # noqa: RUF012

    def __init__(self, project: str, *more: Any, fails_at: int = 10**9, **options: Any) -> None:
        self.project, self.options, self.fails_at = project, options, fails_at
        self.logged: list[tuple[dict[str, float], int | None]] = []
        self.config: dict[str, Any] | None = None
        self.metrics: dict[str, str] = {}
        self.started = self.finished = False
        self.calls = 0
        run_id = options.get("id") or options.get("run_id") or "made-by-the-server"
        self.tracker = SimpleNamespace(
            id=run_id, name=options.get("name"), info=SimpleNamespace(run_id=run_id), define_metric=self.define_metric
        )
        Backend.made.append(self)

    def define_metric(self, key: str, *, step_metric: str) -> None:
        self.metrics[key] = step_metric

    def start(self) -> None:
        self.started = True

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.calls += 1
        if self.calls >= self.fails_at:
            raise ConnectionError("server of hf_abcdefghijklmnopqrstuvwxyz is away")
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Backend]:
    """All four trackers are installed, and are fakes; the list holds those that were made."""
    from accelerate import tracking

    Backend.made = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for name in TRACKERS:
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Backend)
    return Backend.made


def test_without_report_to_nothing_is_written_and_no_package_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from svp_nlp.tracking import open_tracker\n"
        f"with open_tracker([], run_dir=Path({str(tmp_path)!r}), name='x', config={{}}) as t: t.log({{'a': 1.0}}, 1)\n"
        "print([m for m in ('torch', 'accelerate', 'tensorboard', 'wandb', 'mlflow', 'trackio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_what_to_install(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(RecipeError, match=f"pip install {name}") as caught:
        check_trackers([name])
    assert caught.value.exit_code == 2
    with pytest.raises(RecipeError), open_tracker([name], run_dir=tmp_path, name="x", config={}):
        pytest.fail("nothing may be done before")
    assert not any(tmp_path.iterdir())


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(RecipeError, match="'clearml' is not a tracker; expected one of tensorboard"):
        check_trackers(["clearml"])


def test_rounds_targets_and_epochs_have_their_names_and_axes(fakes: list[Backend], tmp_path: Path) -> None:
    with open_tracker(["tensorboard"], run_dir=tmp_path, name="x", config={"a": {"b": 1}}) as tracker:
        tracker.log_round(ROUND)
        tracker.log_target(TARGET)
        tracker.log_event(EPOCH)
        tracker.log_event({"event": "scoring", "step": "x", "shards": 3})
    [backend] = fakes
    assert backend.config == {"a.b": 1} and backend.started and backend.finished
    assert backend.logged == [
        (
            {
                "proxy-margin/seed-1/proxy_seconds": 1.0,
                "proxy-margin/seed-1/scoring_seconds": 2.0,
                "proxy-margin/seed-1/ranking_seconds": 0.5,
                "proxy-margin/seed-1/picked": 20.0,
            },
            60,
        ),
        (
            {
                "random/seed-1/target/accuracy": 0.75,
                "random/seed-1/target/selection_seconds": 3.5,
                "random/seed-1/target/target_seconds": 9.0,
                "random/seed-1/target/total_seconds": 12.5,
            },
            60,
        ),
        (
            {
                f"training/{EPOCH['step']}/{key}": EPOCH[key]
                for key in ("loss", "learning_rate", "train_accuracy", "examples_per_second", "seconds")
            },
            3,
        ),
    ]


def test_a_head_that_is_trained_first_has_a_curve_of_its_own() -> None:
    backend = Backend("x")
    for what in ("some/model (head)", "some/model"):
        Tracker({"mlflow": backend}).log_event({"event": "epoch", "step": "s", "what": what, "epoch": 1, "loss": 0.5})
    assert backend.logged == [({"training/s/head/loss": 0.5}, 1), ({"training/s/loss": 0.5}, 1)]


def test_wandb_gets_no_step_of_ours_because_it_drops_falling_ones(fakes: list[Backend], tmp_path: Path) -> None:
    with open_tracker(["wandb"], run_dir=tmp_path, name="x", config={}) as tracker:
        tracker.log_round(ROUND)
        tracker.log_event(EPOCH)
        tracker.log_round({**ROUND, "seed": 2, "labeled_size": 40})
    [backend] = fakes
    assert [step for _, step in backend.logged] == [None] * 3
    assert [values.get("labeled_size") for values, _ in backend.logged] == [60, None, 40]
    assert backend.metrics["proxy-margin/seed-2/picked"] == "labeled_size"
    assert backend.metrics[f"training/{EPOCH['step']}/loss"] == "epoch"


def test_a_tracker_that_fails_is_left_out_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Backend("x", fails_at=2), Backend("x")
    tracker = Tracker({"mlflow": bad, "tensorboard": good})
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            tracker.log({"a": 1.0}, step)
        tracker.finish()
    assert len(good.logged) == 4 and len(bad.logged) == 1
    [record] = caplog.records
    assert "mlflow failed" in record.getMessage() and "hf_***" in record.getMessage()


def test_what_is_not_a_finite_number_is_left_out() -> None:
    backend = Backend("x")
    values: dict[str, Any] = {"a": float("nan"), "b": np.float32(1), "c": float("inf"), "d": [1, 2], "e": None}
    Tracker({"mlflow": backend}).log(values, 1)
    Tracker({"mlflow": backend}).log({"a": float("nan")}, 2)
    assert backend.logged == [({"b": 1.0}, 1)]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_resumed_run_goes_on_in_the_same_place_and_keeps_its_configuration(
    name: str, fakes: list[Backend], tmp_path: Path
) -> None:
    for _ in range(2):
        with open_tracker([name], run_dir=tmp_path, name="mine", config={"a": 1}):
            pass
    first, second = fakes
    assert first.config == {"a": 1} and second.config is None
    key = {"wandb": "id", "mlflow": "run_id", "trackio": "name"}.get(name)
    if key is not None:
        kept = json.loads((tmp_path / "trackers" / "runs.json").read_text())[name]
        assert second.options[key] == kept != first.options.get("missing")


def test_a_tracker_that_cannot_start_ends_the_run_before_any_work(
    fakes: list[Backend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Backend, "start", lambda self: (_ for _ in ()).throw(PermissionError("no api key\nconfigured")))
    with (
        pytest.raises(RecipeError, match=r"wandb could not be started \(no api key configured\); see .*report_to=\[\]"),
        open_tracker(["wandb"], run_dir=tmp_path, name="x", config={}),
    ):
        pytest.fail("nothing may be done before")


def test_secrets_stay_here() -> None:
    flat = flat_config(
        {
            "pool": {"path": "https://me:pass@host/x", "hub_token": "abc", "revision": None},
            "note": "hf_abcdefghijklmnopqrstuvwxyz",
            "list": [{"api_key": "k", "x": "hf_abcdefghijklmnopqrstuvwxyz"}, 3],
            "proxy": {"tokenizer": "kept", "max_tokens": 5, "password": 7},
        }
    )
    assert flat == {
        "pool.path": "https://***@host/x",
        "pool.hub_token": "***",
        "note": "hf_***",
        "list": '[{"api_key": "***", "x": "hf_***"}, 3]',
        "proxy.tokenizer": "kept",
        "proxy.max_tokens": 5,
        "proxy.password": "***",
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.text("abc", max_size=3), _JSON, max_size=4), st.text("xyz0123456789", min_size=20, max_size=30)
)
def test_a_flat_configuration_has_no_token_whatever_surrounds_it(config: dict[str, Any], body: str) -> None:
    flat = flat_config({**config, "here": [{"deep": [f"see hf_{body}"]}], "there": {"x": f"hf_{body}"}})
    assert body not in json.dumps(flat)
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())


def test_tensorboard_itself_shows_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for size in (60, 80):  # the second is a resumed run
        with open_tracker(["tensorboard"], run_dir=tmp_path, name="x", config={"a": 1, "b": "c"}) as tracker:
            tracker.log_round({**ROUND, "labeled_size": size})
    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("proxy-margin/seed-1/picked")] == [60, 80]
