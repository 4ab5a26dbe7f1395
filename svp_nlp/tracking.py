"""Numbers of a run as curves in TensorBoard, Weights & Biases, MLflow or Trackio, through Accelerate's tracker classes.

Nothing is logged and nothing is imported unless the recipe asks for it (`report_to`). What is logged:

    <arm>/seed-<seed>/proxy_seconds, scoring_seconds, ranking_seconds, picked    against the labelled size
    <arm>/seed-<seed>/target/accuracy, macro_f1, ..., target/seconds             against the labelled size
    training/<step>/loss, learning_rate, train_accuracy, dev_accuracy, ...       against the epoch
    training/<step>/head/loss, ...                               those of a head that is trained before everything

Everything else stays in the run directory. A tracker that fails once the run has begun is left out with a warning: a
training of hours must not end because a server of somebody else does.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import math
import operator
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, get_args

from svp_nlp.errors import RecipeError
from svp_nlp.files import read_json, write_json
from svp_nlp.recipe import TrackerName
from svp_nlp.recipe_yaml import scrub

log = logging.getLogger(__name__)

TRACKERS: tuple[str, ...] = get_args(TrackerName)
DIRECTORY = "trackers"  # in the run directory: TensorBoard's files, and what the runs are called elsewhere
RUNS_FILE = "runs.json"
_PROJECT = "svp_nlp"

_SECRET_NAME = re.compile(r"(?:^|[_.-])(?:token|secret|password|passwd|credentials?|api_?key|access_?key)$", re.I)
_USER_IN_URL = re.compile(r"(://)[^/@\s]+@")
_HIDDEN = "***"
_ROUND_VALUES = ("proxy_seconds", "scoring_seconds", "ranking_seconds", "picked")
_TARGET_VALUES = ("selection_seconds", "target_seconds", "total_seconds")
_EPOCH_VALUES = ("loss", "learning_rate", "train_accuracy", "dev_accuracy", "examples_per_second", "seconds")


class Tracker:
    """Where the numbers of a run go; without a backend it does nothing."""

    def __init__(self, backends: Mapping[str, Any]) -> None:
        """`backends`: name -> an Accelerate tracker that has been started."""
        self._backends = dict(backends)
        self._seen: set[str] = set()

    def log(self, values: Mapping[str, Any], step: int, *, axis: str = "labeled_size") -> None:
        """Send numbers to all backends; never raises.

        Args:
            values: name -> number; what is none, or not finite, is left out, since not every server takes it.
            step: where they stand on their axis; steps of one name must not fall.
            axis: what `step` counts. wandb drops what comes with a lower step than anything before it, so there the
                step is wandb's own counter and the axis is one more value, which the charts are drawn against.
        """
        numbers = {name: float(v) for name, v in values.items() if isinstance(v, Real) and math.isfinite(v)}
        if not numbers:
            return
        for name, backend in list(self._backends.items()):
            try:
                if name == "wandb":
                    for key in numbers.keys() - self._seen:
                        backend.tracker.define_metric(key, step_metric=axis)
                    backend.log({**numbers, axis: step})
                else:
                    backend.log(numbers, step=step)
            except Exception as error:
                self._give_up(name, error)
        self._seen |= numbers.keys()

    def log_round(self, row: Mapping[str, Any]) -> None:
        """A finished round: a row of `rounds` in results.json."""
        self.log({f"{_place(row)}/{key}": row[key] for key in _ROUND_VALUES}, row["labeled_size"])

    def log_target(self, row: Mapping[str, Any]) -> None:
        """A trained target: a row of `rows` in results.json."""
        values = {**row["metrics"], **{key: row[key] for key in _TARGET_VALUES}}
        self.log({f"{_place(row)}/target/{key}": value for key, value in values.items()}, row["labeled_size"])

    def log_event(self, event: Mapping[str, Any]) -> None:
        """An event of a training as it goes to metrics.jsonl; only ends of epochs are numbers over time."""
        if event.get("event") != "epoch":
            return
        # Epochs of the head alone count from 1 as well: two curves.
        place = f"training/{event['step']}" + ("/head" if str(event.get("what")).endswith(" (head)") else "")
        values = {f"{place}/{key}": event[key] for key in _EPOCH_VALUES if event.get(key) is not None}
        self.log(values, event["epoch"], axis="epoch")

    def add(self, name: str, backend: Any) -> None:
        """One more backend, an Accelerate tracker that has been started."""
        self._backends[name] = backend

    def finish(self) -> None:
        """Close all backends; never raises."""
        for name, backend in list(self._backends.items()):
            try:
                backend.finish()
            except Exception as error:
                self._give_up(name, error)
        self._backends.clear()

    def _give_up(self, name: str, error: Exception) -> None:
        # Once: the backend is gone afterwards.
        log.warning("%s failed and gets nothing more of this run, which goes on: %s", name, scrub(_one_line(error)))
        del self._backends[name]


def check_trackers(report_to: Sequence[str]) -> None:
    """Look for the packages without importing them.

    Raises:
        RecipeError: an unknown tracker, or its package is missing; names what to install.
    """
    for name in report_to:
        if name not in TRACKERS:
            raise RecipeError(f"report_to: {name!r} is not a tracker; expected one of {', '.join(TRACKERS)}")
        packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if not any(importlib.util.find_spec(package) for package in packages):
            raise RecipeError(
                f"report_to: {name} is not installed; pip install {name}, or leave it out (--set 'report_to=[]')"
            )


@contextlib.contextmanager
def open_tracker(report_to: Sequence[str], *, run_dir: Path, name: str, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """Start the trackers of a run, or find them again after an interruption, and close them at the end.

    To be called by one process of a launch.

    Args:
        report_to: names from TRACKERS, checked by `check_trackers`; empty: the Tracker does nothing.
        run_dir: TensorBoard writes to `trackers/tensorboard` in it; for the others the name of their run is kept in
            `trackers/runs.json`, so that a resumed run goes on in the same place.
        name: of the run, where people read it.
        config: the resolved recipe. It leaves the machine as `flat_config` shows it: without tokens and passwords.
    Raises:
        RecipeError: a tracker cannot be started (not logged in, no server); nothing has been done yet.
    """
    check_trackers(report_to)
    if not report_to:
        yield Tracker({})
        return
    tracker = Tracker({})
    try:
        for backend_name in report_to:
            try:
                backend = _start(backend_name, Path(run_dir) / DIRECTORY, name=name, config=flat_config(config))
            except Exception as error:
                raise RecipeError(
                    f"report_to: {backend_name} could not be started ({scrub(_one_line(error))}); see that it is "
                    "reachable and you are logged in, or leave it out (--set 'report_to=[]')"
                ) from error
            tracker.add(backend_name, backend)
        yield tracker
    finally:
        tracker.finish()


def flat_config(config: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Nested values as dotted names, for people and third parties: no null, no token, no password.

    Lists are written as JSON. What is called a token, secret, password or key, and users in URLs, become `***`.
    """
    flat: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in flat_config(value).items()}
        elif value is None:
            continue
        elif _SECRET_NAME.search(str(key)):
            flat[str(key)] = _HIDDEN
        elif isinstance(value, bool | int | float):
            flat[str(key)] = value
        else:
            text = value if isinstance(value, str) else json.dumps(_without_secrets(value), default=str)
            flat[str(key)] = scrub(_USER_IN_URL.sub(rf"\g<1>{_HIDDEN}@", text))
    return flat


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _HIDDEN if _SECRET_NAME.search(str(key)) else _without_secrets(v) for key, v in value.items()}
    return [_without_secrets(entry) for entry in value] if isinstance(value, list | tuple) else value


def _start(backend_name: str, directory: Path, *, name: str, config: Mapping[str, Any]) -> Any:
    """A started Accelerate tracker: a new one with its configuration, or one that goes on in the run it was in."""
    from accelerate import tracking

    # Its logger and its decorator ask for PartialState, which under a launcher opens the process group: this process
    # would wait for the others, which do not log.
    tracking.logger = _PlainLogger(logging.getLogger(tracking.__name__), {})
    known = read_json(directory / RUNS_FILE) if (directory / RUNS_FILE).exists() else {}
    run_id = known.get(backend_name)
    new_id = uuid.uuid4().hex[:12]
    make = tracking.LOGGER_TYPE_TO_CLASS[backend_name]
    directory.mkdir(parents=True, exist_ok=True)
    if backend_name == "tensorboard":
        backend = make(backend_name, directory)
    elif backend_name == "wandb":
        backend = make(_PROJECT, name=name, id=run_id or new_id, resume="allow", dir=directory)
    elif backend_name == "mlflow":
        backend = make(_PROJECT, run_id=run_id, run_name=name)
    else:
        backend = make(_PROJECT, name=run_id or f"{name}-{new_id}", resume="allow")
    backend.main_process_only = False  # only one process comes here
    backend.start()
    if run_id is None:  # once: MLflow refuses a parameter that has changed, TensorBoard writes another run each time
        backend.store_init_configuration(dict(config))
        write_json(directory / RUNS_FILE, {**known, backend_name: _run_id(backend_name, backend.tracker)})
    return backend


def _run_id(backend_name: str, run: Any) -> str:
    """What the backend finds a run by."""
    if backend_name == "tensorboard":
        return backend_name  # a folder
    found = {"wandb": "id", "mlflow": "info.run_id", "trackio": "name"}[backend_name]
    return str(operator.attrgetter(found)(run))


class _PlainLogger(logging.LoggerAdapter[logging.Logger]):
    """Accelerate's logger without its question for the process group."""

    @functools.cache  # noqa: B019 (one adapter lives as long as the process)
    def warning_once(self, message: str) -> None:
        """As `warning`, the first time only."""
        self.warning(message)


def _place(row: Mapping[str, Any]) -> str:
    """`proxy-margin/seed-0`; random is called so without its strategy, as its directory is."""
    selector, strategy = row["selector"], row["strategy"]
    return f"{selector if selector == 'random' else f'{selector}-{strategy}'}/seed-{row['seed']}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
