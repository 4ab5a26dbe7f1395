"""What a run has found so far, read from its directory: `svp status` and the input of the report. No torch here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from svp_nlp.errors import RecipeError, RunError
from svp_nlp.files import read_json, write_json
from svp_nlp.labeling.progress import progress
from svp_nlp.labeling.queue import LabelQueue, is_asking
from svp_nlp.run import LOCK_FILE, RECIPE_FILE, START, STEP_FILE

RESULTS_FILE = "results.json"
_SHOWN_RUNS = 8  # of a folder of runs


def save_results(run_dir: Path, results: Mapping[str, Any]) -> None:
    """Keep what the report is made of; written again after each arm, so a report of an unfinished run is possible."""
    write_json(run_dir / RESULTS_FILE, results)


def collect(run_dir: str | Path) -> dict[str, Any]:
    """The results of a run, as `report.write_report` takes them.

    Raises:
        RecipeError: not a run directory.
        RunError: no arm of it is finished yet.
    """
    run_dir = _run_directory(run_dir)
    if "mode" not in read_json(run_dir / RECIPE_FILE):
        raise RecipeError(f"{run_dir} was made from Python; a report needs a run that a recipe made")
    if not (run_dir / RESULTS_FILE).exists():
        raise RunError(f"{run_dir} has no finished arm yet; `svp status {run_dir}` tells how far it is")
    results: dict[str, Any] = read_json(run_dir / RESULTS_FILE)
    return results


def run_status(run_dir: str | Path) -> dict[str, Any]:
    """How far a run is.

    Returns:
        `state` (done, running, waiting for people, ready: they have answered, interrupted; workspace: made from
        Python), `rounds` (seed, arm, round, strategy, labeled_size, picked, fingerprint of the selection), `targets`
        (seed, arm, labeled_size, metrics; of an arm the last one is what it came to), and `people` where they label:
        see `labeling.progress`.
    Raises:
        RecipeError: not a run directory.
    """
    run_dir = _run_directory(run_dir)
    rounds, targets = [], []
    # By seed, arm, and directory of a model: fingerprint of its labels; and such: the last round that ended with them.
    learned: dict[tuple[int, str, str], str] = {}
    known: dict[tuple[int, str, str], str] = {}
    for path in sorted(run_dir.glob(f"seed-*/*/**/{STEP_FILE}")):
        step = read_json(path)
        parts = path.relative_to(run_dir).parts
        seed, arm = int(parts[0].removeprefix("seed-")), parts[1]
        if parts[-2] == "selection":
            place = parts[2] if len(parts) > 4 else "round-000"
            rounds.append(
                {
                    "seed": seed,
                    "arm": arm,
                    "round": place,
                    "strategy": step["inputs"]["strategy"],
                    "labeled_size": step["output"]["labeled_size"],
                    "picked": step["output"]["picked"],
                    "fingerprint": step["output"]["fingerprint"],
                }
            )
        elif parts[-2] == "labels" and "fingerprint" in step["output"]:
            known[seed, arm, step["output"]["fingerprint"]] = parts[2]
        elif parts[-2] == "model":
            learned[seed, arm, parts[2]] = step["inputs"]["labels"]
        elif parts[-2] == "metrics":
            size = int(parts[2].split("-")[1])
            row = {"seed": seed, "arm": arm, "labeled_size": size, **step["output"]["metrics"]}
            targets.append((parts[2], row))
    rounds.sort(key=lambda row: (row["seed"], row["arm"] != START))  # what all arms stand on

    def when(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
        """People correct labels: a later target may have learned from as many, or from fewer."""
        seed, arm = row["seed"], row["arm"]
        round = known.get((seed, arm, learned.get((seed, arm, name), "")), "")
        return seed, arm != START, arm, round, row["labeled_size"], name

    targets.sort(key=lambda target: when(*target))
    if "mode" not in read_json(run_dir / RECIPE_FILE):
        state = "workspace"  # made from Python: only its owner knows what is still to come
    else:
        state = "done" if is_finished(run_dir) else "running" if _is_locked(run_dir) else "interrupted"
    people = progress(LabelQueue.open(run_dir)) if is_asking(run_dir) else None
    if people is not None and people["requests"] and state == "interrupted":
        state = "waiting" if waiting_rows(people) else "ready"
    found = {"run_dir": str(run_dir), "state": state, "rounds": rounds, "targets": [row for _, row in targets]}
    return found if people is None else {**found, "people": people}


def waiting_rows(people: Mapping[str, Any]) -> int:
    """Rows without which a run cannot go on; after a finish those of the test set alone, and no decisions.

    Args:
        people: see `labeling.progress`.
    """
    if people["finish_requested"] or people["stopped"]:
        return sum(request["open"] for request in people["requests"] if request["part"] == "test")
    return int(people["open"])


def is_finished(run_dir: Path) -> bool:
    """Whether a recipe was done to its end."""
    return (run_dir / RESULTS_FILE).exists() and bool(read_json(run_dir / RESULTS_FILE).get("finished", False))


def _run_directory(run_dir: str | Path) -> Path:
    run_dir = Path(run_dir)
    if not (run_dir / RECIPE_FILE).exists():
        inside = [str(path.parent) for path in sorted(run_dir.glob(f"*/{RECIPE_FILE}"))]
        if inside:  # as `svp reproduce` leaves them
            more = f" and {len(inside) - _SHOWN_RUNS} more" if len(inside) > _SHOWN_RUNS else ""
            raise RecipeError(
                f"{run_dir} is a folder of runs; name what is in it: {', '.join(inside[:_SHOWN_RUNS])}{more}"
            )
        what = "is not a run directory" if run_dir.exists() else "does not exist"
        raise RecipeError(f"{run_dir} {what}; expected one that `svp run` has made")
    return run_dir


def _is_locked(run_dir: Path) -> bool:
    if not (run_dir / LOCK_FILE).exists():
        return False
    with contextlib.suppress(OSError):
        lock = filelock.FileLock(run_dir / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
    return False
