"""What a run leaves for people: results.json and the report, also while it waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from svp_nlp.agreement import agreement_of
from svp_nlp.data import Data
from svp_nlp.errors import WaitingForLabels
from svp_nlp.files import read_json
from svp_nlp.labeling.queue import LabelQueue, is_asking
from svp_nlp.recipe import Recipe
from svp_nlp.report import write_report
from svp_nlp.results import is_finished, save_results
from svp_nlp.run import ENVIRONMENT_FILE, Run, disk_errors, machine


def new_results(recipe: Recipe, data: Data, run: Run) -> dict[str, Any]:
    """What is known before the first round, to be filled in as the run goes on."""
    environment = read_json(run.directory / ENVIRONMENT_FILE)
    warnings = list(data.warnings)
    if environment["machine"] != machine():
        warnings.append("the run was resumed on another machine: its seconds are not of one kind")
    return {
        "format": 1,
        "svp_nlp": environment["versions"].get("svp_nlp", ""),
        "name": run.directory.resolve().name,
        "mode": recipe.mode,
        # As the run was started: the seconds of its steps were measured there.
        "created": environment["created"],
        "finished": is_finished(run.directory),
        "machine": environment["machine"],
        "versions": environment["versions"],
        "recipe": recipe.meaning,
        "pool": data.pool_info,
        "test": data.test_info,
        "rows": [],
        "rounds": [],
        "agreement": [],
        "picks": [],
        "training": [],
        "lineage": [],
        "stop": None if recipe.stop is None else recipe.stop.model_dump(mode="json"),
        "stopping": [],
        "warnings": warnings,
    }


@contextlib.contextmanager
def report_where_it_waits(run: Run, results: dict[str, Any]) -> Iterator[None]:
    """While people label, the report shows how far it is."""
    try:
        yield
    except WaitingForLabels:
        results["finished"] = False  # also where a rule had stopped it before
        save(run, results)
        if run.ranks.is_main:
            write_reports(run, results)
        raise


def save(run: Run, results: dict[str, Any]) -> None:
    """Write results.json, with what people did so far; on the main process."""
    if run.ranks.is_main:
        if is_asking(run.directory):
            results["annotators"] = agreement_of(LabelQueue.open(run.directory))
        with disk_errors(run.directory):
            save_results(run.directory, results)


def write_reports(run: Run, results: dict[str, Any]) -> dict[str, str]:
    """Write the report; returns its paths by kind."""
    with disk_errors(run.directory):
        return {kind: str(path) for kind, path in write_report([results], run.directory).items()}
