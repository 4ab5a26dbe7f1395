"""`svp reproduce`: run all rows of a table of the paper at one scale, and keep what came of it.

One directory holds one table at one scale, one run in it for each recipe:

    runs/reproduce/cifar10-cpu/reproduce.json           which table, which scale
    runs/reproduce/cifar10-cpu/cifar10_resnet20_181/    a run directory as `svp run` makes it

What is finished there is read, not run again. The results file holds the raw rows of all seeds, so a table can be
computed from it anew; what would name this machine's folders, or rows of the data, is left out.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from svp_nlp.errors import RecipeError, RunError, RunRefused
from svp_nlp.experiment import run_recipe
from svp_nlp.files import read_json, write_json, write_text
from svp_nlp.launch import together
from svp_nlp.ranks import current_launch
from svp_nlp.recipe_yaml import differences, recipes_directory
from svp_nlp.reproduce_format import console_parts, markdown_of
from svp_nlp.reproduce_statistics import Table, build_table
from svp_nlp.reproduce_tables import Plan, find_table, plan_table, tables_directory
from svp_nlp.results import collect, is_finished
from svp_nlp.run import check_directory, disk_errors

log = logging.getLogger(__name__)

MARK_FILE = "reproduce.json"
_OF_A_RUN = (
    "format",
    "name",
    "mode",
    "created",
    "svp_nlp",
    "machine",
    "versions",
    "recipe",
    "pool",
    "test",
    "rows",
    "agreement",
    "warnings",
)
_OF_A_ROUND = ("seed", "selector", "strategy", "round", "labeled_size", "picked", "fingerprint",
               "proxy_seconds", "scoring_seconds", "ranking_seconds")  # fmt: skip


def default_directory(table: str, scale: str) -> Path:
    """Where the runs of a table go."""
    return Path("runs") / "reproduce" / f"{table}-{scale}"


def default_results(table: str) -> Path:
    """`recipes/paper/results` of a checkout that can be written to, for a table of the paper; ./results otherwise."""
    if find_table(table).resolve().parent != tables_directory().resolve():
        return Path("results")
    directory = recipes_directory()
    inside_package = directory.parent == Path(__file__).resolve().parent
    kept = directory / "paper" / "results"
    return kept if not inside_package and os.access(directory / "paper", os.W_OK) else Path("results")


def reproduce(
    table: str,
    scale: str,
    *,
    run_dir: Path | None = None,
    results_dir: Path | None = None,
    data: str | None = None,
    note: str | None = None,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    stop_requested: Callable[[], bool],
) -> tuple[Table, dict[str, Path]]:
    """Run a table, or what is left of it, and write its results. Under a launch all processes call this.

    Args:
        table, scale, data, seeds, settings: see `plan_table`.
        run_dir: of all runs; None: `default_directory`.
        results_dir: where the results file goes, made before any work; None: `default_results`.
        note: what is to be known about the data; kept for later calls on the same directory.
        stop_requested: see `run_recipe`.
    Returns:
        the table, and the paths of its `json` and `md`, which the main process writes.
    Raises:
        RunRefused: the directory belongs to another table or scale, or one of its runs to another recipe; or no file
            can be written where the results go.
        SVPError: as `run_recipe`.
    """
    plan = plan_table(table, scale, data=data, seeds=seeds, settings=settings)
    directory = run_dir or default_directory(plan.table, scale)
    mark = together(lambda: check_place(plan, directory))
    if data is not None:
        mark["data"] = {"given": _named(data), "note": note or mark["data"]["note"]}
    elif note is not None:
        mark["data"]["note"] = note
    results = results_dir or default_results(table)
    together(lambda: _check_results_place(results))
    is_main = current_launch().rank == 0
    if is_main:
        with disk_errors(directory):
            write_json(directory / MARK_FILE, mark)
    for row in plan.rows:
        log.info("%s", row.name)
        if not is_finished(directory / row.name):
            run_recipe(row.recipe, directory / row.name, stop_requested=stop_requested)
    found = build_table(collect_results(plan, directory, mark["data"]))
    return found, _save(found, results) if is_main else {}


def check_place(plan: Plan, directory: Path) -> dict[str, Any]:
    """What `reproduce.json` of a directory is to hold; writes nothing.

    Raises:
        RunRefused: the directory belongs to another table or scale, or one of its runs to another recipe.
    """
    mark: dict[str, Any] = {
        "format": 1, "table": plan.table, "scale": plan.scale, "data": {"given": None, "note": None}
    }  # fmt: skip
    if (directory / MARK_FILE).exists():
        before = read_json(directory / MARK_FILE)
        for key in ("table", "scale"):
            if before[key] != mark[key]:
                raise RunRefused(
                    f"{directory} holds {key} {before[key]}, not {mark[key]}: they are never mixed; use "
                    "another --run-dir"
                )
        mark["data"] = before["data"]
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunRefused(f"{directory} is not empty and not of svp reproduce; name another with --run-dir")
    for row in plan.rows:
        check_directory(directory / row.name, recipe=row.recipe.meaning, differences=differences)
    return mark


def collect_results(plan: Plan, directory: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a results file holds, of runs that are finished; `data` as in `reproduce.json`."""
    rows = []
    for row in plan.rows:
        run = collect(directory / row.name)
        kept = {key: run[key] for key in _OF_A_RUN}
        kept["rounds"] = [{key: entry[key] for key in _OF_A_ROUND} for entry in run["rounds"]]
        rows.append({"name": row.name, "role": row.role, "run": _without_folders(kept, row.recipe.meaning)})
    return {
        "format": 1,
        "table": plan.table,
        "title": plan.title,
        "scale": plan.scale,
        "says": plan.says,
        "data": dict(data),
        "rows": rows,
    }


def read_results(path: Path) -> Table:
    """The table of a results file.

    Raises:
        RecipeError: no such file, or not JSON.
        RunRefused: not a results file of ours, of another format, or damaged.
    """
    what = "expected a JSON file that svp reproduce wrote"
    try:
        results = json.loads(path.read_bytes())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; {what}") from None
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON ({error}); {what}") from None
    if not isinstance(results, dict) or not {"table", "scale", "rows"} <= results.keys():
        of_a_run = isinstance(results, dict) and "mode" in results
        hint = f" (of one run they are shown by svp report {path.parent})" if of_a_run else ""
        raise RunRefused(f"{path} is no results file of svp reproduce{hint}; {what}")
    if results.get("format") != 1:
        raise RunRefused(f"{path} has format {results.get('format')!r}, this svp_nlp reads format 1; {what}")
    try:
        found = build_table(results)
        for shows_all in (markdown_of, console_parts):  # so that what is missing is missed here
            shows_all(found)
    except RunError as error:
        raise RunRefused(f"{path}: {error}") from None
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        AssertionError,
        StopIteration,
    ) as error:
        missing = f"the key {error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise RunRefused(f"{path} is damaged ({missing}); {what}") from None
    return found


def _check_results_place(directory: Path) -> None:
    """Raises: RunRefused: no file can be written there, which is better known before hours of work than after."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise RunRefused(f"{directory}: {error.strerror}; name with --results where the table can be written") from None


def _named(data: str) -> str:
    """How the data are called in results: the last part of a path, a Hub id as it is."""
    return f"folder or file {Path(data).expanduser().resolve().name}" if Path(data).expanduser().exists() else data


def _without_folders(value: Any, meaning: Mapping[str, Any]) -> Any:
    """The same with the paths of data on this disk cut to their last part."""
    paths = {part["path"] for part in (meaning["pool"], meaning["test"]) if Path(part["path"]).expanduser().exists()}

    def cut(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {key: cut(entry) for key, entry in inner.items()}
        if isinstance(inner, list):
            return [cut(entry) for entry in inner]
        if isinstance(inner, str):
            for path in sorted(paths, key=len, reverse=True):
                if inner == path or len(Path(path).parts) > 1:  # `.` stands in many texts
                    inner = inner.replace(path, Path(path).expanduser().resolve().name)
        return inner

    return cut(value)


def _save(found: Table, directory: Path) -> dict[str, Path]:
    results = found.results
    run = results["rows"][0]["run"]
    stem = f"{results['table']}-{results['scale']}-{_machine_name(run['machine'])}-{run['created'][:10]}"
    for number in itertools.count(1):
        name = stem if number == 1 else f"{stem}-{number}"
        paths = {"json": directory / f"{name}.json", "md": directory / f"{name}.md"}
        if not paths["json"].exists() or _begun(read_json(paths["json"])) == _begun(results):
            break  # results of other runs are kept
    with disk_errors(directory):
        write_json(paths["json"], results)
        write_text(paths["md"], markdown_of(found))
    return paths


def _begun(results: Mapping[str, Any]) -> list[str]:
    return [entry["run"]["created"] for entry in results["rows"]]


def _machine_name(machine: Mapping[str, Any]) -> str:
    """`nvidia-h100-80gb-hbm3`, or `amd-epyc-7763-2-cores`: for a file name."""
    text = machine.get("gpu") or f"{machine.get('cpu') or 'cpu'} {machine.get('cores') or ''} cores"
    text = re.sub(r"\((?:r|tm)\)|\b(?:processor|cpu|\d+-core)\b|@.*?ghz", " ", text.lower())
    return "-".join(re.findall(r"[a-z0-9]+", text))[:48]
