"""A table of `svp reproduce` as Markdown for the repository and as text of 120 columns for a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

import svp_nlp.report_format as fmt
from svp_nlp.markdown import Markdown, escape, table
from svp_nlp.paper import SOURCE
from svp_nlp.report_statistics import Stat
from svp_nlp.reproduce_statistics import INTERVALS, RULE, Cell, Difference, Table

CONSOLE_WIDTH = 120
_ASCII = {"±": "+-", "×": "x", "\N{MINUS SIGN}": "-", fmt.DASH: "-", "\N{NO-BREAK SPACE}": " "}
_SPEED_HEAD = ("Row", "Labels", "Choosing", "Selection, ×", "paper", "In all, ×", "paper")
_ERROR_HEAD = ("Row", "Labels", "Proxy", "paper", "Target", "paper", "Random")
_DIFFERENCE_HEAD = ("Row", "Labels", "Difference", "Mean [interval]", "Seed by seed", "Verdict")


def setting_of(results: Mapping[str, Any]) -> str:
    """How far a table is from the paper's setting: rows and epochs as they were run."""
    run = results["rows"][0]["run"]
    noun = "images" if run["recipe"]["pool"].get("image_column") else "texts"
    epochs = _epochs(run["recipe"]["target"])
    facts = f"{fmt.count(run['pool']['usable'])} {noun}"
    if epochs is not None:
        facts += f", {epochs} epoch{'s' * (epochs != 1)} of the target"
    return f"Scale {results['scale']}: {facts}; {results['says']}"


def _epochs(spec: Mapping[str, Any]) -> int | None:
    """None for a learner that is not trained in epochs."""
    training = spec.get("training") or {}
    stages = training.get("schedule")
    epochs = sum(stage["epochs"] for stage in stages) if stages else training.get("num_train_epochs")
    return epochs or spec.get("epochs") or None


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def difference_text(value: Difference | None) -> str:
    """Mean and interval in points: +0.4 [−0.2, +1.1]; the mean alone for one seed."""
    if value is None:
        return fmt.DASH
    interval = f" [{_points(value.low)}, {_points(value.high)}]" if len(value.by_seed) > 1 else ""
    return f"{_points(value.mean)}{interval}"


def _by_seed(value: Difference) -> str:
    return ", ".join(map(_points, value.by_seed.values()))


def _times(value: float | None) -> str:
    return fmt.DASH if value is None else f"{value:g}"


def _ratio(value: Stat | None) -> str:
    return fmt.stat_ratio(value).replace("×", "")


def _published_error(value: tuple[float, float] | None) -> str:
    return fmt.DASH if value is None else f"{value[0]:g} ± {value[1]:g}"


def _labels(cell: Cell) -> str:
    return f"{cell.labeled_size:,} ({fmt.percent_of(cell.percent)})"


def speed_cells(cell: Cell) -> list[str]:
    """A line of the table of speed-ups."""
    paper = cell.published
    return [
        cell.row,
        _labels(cell),
        fmt.stat_duration(cell.selection_seconds),
        _ratio(cell.selection_speedup),
        _times(paper.selection_speedups.get(cell.budget or 0)),
        _ratio(cell.total_speedup),
        _times(paper.total_speedups.get(cell.budget or 0)),
    ]


def error_cells(cell: Cell) -> list[str]:
    """A line of the table of errors."""
    paper, budget = cell.published, cell.budget or 0
    return [
        cell.row,
        _labels(cell),
        fmt.stat_share(cell.proxy_error),
        _published_error(paper.proxy_errors.get(budget)),
        fmt.stat_share(cell.target_error),
        _published_error(paper.target_errors.get(budget)),
        fmt.stat_share(cell.random_error),
    ]


def difference_lines(cells: Sequence[Cell]) -> list[list[str]]:
    """The lines of the table of differences: two for each cell with errors."""
    return [
        [
            cell.row,
            _labels(cell),
            what,
            difference_text(found),
            _by_seed(found),
            verdict,
        ]
        for cell in cells
        for what, found, verdict in (
            ("proxy − target", cell.to_target, cell.verdict or fmt.DASH),
            ("proxy − random", cell.to_random, ""),
        )
        if found is not None
    ]


def _everything(found: Table) -> str:
    if found.everything_error is None:
        return ""
    seconds = fmt.stat_duration(found.everything_seconds)
    return f"The target trained on all data is wrong on {fmt.stat_share(found.everything_error)} %, in {seconds}."


def verdict_line(found: Table) -> str:
    """How many cells are what, in words."""
    verdicts = [cell.verdict for cell in found.cells if cell.verdict is not None]
    if not verdicts:
        return "No cell can be judged: target-selects was not run."
    parts = ", ".join(f"{verdicts.count(word)} {word}" for word in ("no loss", "loss", "open", "at chance"))
    return f"Of {len(verdicts)} cells: {parts}."


def _explanations(found: Table) -> list[str]:
    against = "the target selecting for itself"
    if found.everything_seconds is not None:
        against = "training the target on all data"
    lines = [
        "Errors are of the target on the test set, read once, after the last epoch, in percent: mean ± sample "
        "standard deviation over seeds; Proxy, Target, Random: who selected what it was trained on.",
        "Speed-ups are ratios of seconds, seed by seed: of selection over the target selecting for itself, in all "
        f"(with the training of the final target) over {against}.",
        RULE,
        INTERVALS,
    ]
    names = [entry["name"] for entry in found.results["rows"] if entry["role"] == "row"]
    lent = [entry["name"] for entry in found.results["rows"] if entry["role"] == "row" and not _baselines(entry)]
    if lent:
        lines.append(
            f"Random and target-selects were run once, with {names[0]}, and are compared with {', '.join(lent)} too: "
            "same data, seeds, start sets and target."
        )
    return lines


def _baselines(entry: Mapping[str, Any]) -> Any:
    return entry["run"]["recipe"]["baselines"]


def facts_of(found: Table) -> list[tuple[str, str]]:
    """What the numbers were measured with and on."""
    results = found.results
    first = results["rows"][0]["run"]
    pool, test = first["pool"], first["test"]
    given, note = results["data"]["given"], results["data"]["note"]
    published = "as the recipe names them" if given is None else f"not the recipe's own, but {given}"
    machine = {name: value for name, value in first["machine"].items() if value not in (None, "")}
    facts = [
        ("date", first["created"][:10]),
        ("data", f"{published}{f' ({note})' if note else ''}"),
        ("pool", f"{pool['path']}, {pool['split']}: {fmt.count(pool['usable'])} usable rows, {_commit(pool)}"),
        ("test", f"{test['path']}, {test['split']}: {fmt.count(test['rows'])} rows, fingerprint {test['fingerprint']}"),
        ("machine", ", ".join(f"{name} {value}" for name, value in machine.items())),
        (
            "precision",
            "; ".join(f"{entry['name']}: {_precisions(entry['run']['recipe'])}" for entry in results["rows"]),
        ),
        ("seeds", ", ".join(map(str, found.seeds))),
        ("svp_nlp", first["svp_nlp"]),
        ("versions", ", ".join(f"{name} {value}" for name, value in first["versions"].items())),
        ("paper", SOURCE),
    ]
    return [(name, str(value)) for name, value in facts]


def _commit(pool: Mapping[str, Any]) -> str:
    commit = pool.get("revision")
    return f"fingerprint {pool['fingerprint']}" + (f", commit {commit}" if commit else "")


def _precisions(recipe: Mapping[str, Any]) -> str:
    def one(spec: Mapping[str, Any]) -> str:
        mixed = (spec.get("training") or {}).get("mixed_precision", "no")
        scoring = spec.get("scoring_dtype", "float32")
        return ("float32" if mixed == "no" else str(mixed)) + (f", scoring {scoring}" if scoring != "float32" else "")

    return f"proxy {one(recipe['proxy'])}, target {one(recipe['target'])}"


def as_json(found: Table) -> dict[str, Any]:
    """What is computed, for programs; the raw rows are in the results file."""
    return {
        "table": found.results["table"],
        "scale": found.results["scale"],
        "title": found.results["title"],
        "setting": setting_of(found.results),
        "cells": [dict(dataclasses.asdict(cell)) for cell in found.cells],
        "everything_error": found.everything_error and dataclasses.asdict(found.everything_error),
        "rule": RULE,
        "warnings": list(found.warnings),
        "facts": dict(facts_of(found)),
    }


def markdown_of(found: Table) -> str:
    """The whole table for the repository."""
    facts = [[name, Markdown(" ".join(escape(part) for part in value.split()))] for name, value in facts_of(found)]
    parts = [
        f"# {escape(found.results['title'])}",
        f"**{_sentence(setting_of(found.results))}**",
        " ".join(filter(None, [verdict_line(found), _everything(found)])),
        *(f"> **Warning:** {_sentence(text)}" for text in found.warnings),
        "## Speed-ups",
        table(_SPEED_HEAD, [speed_cells(cell) for cell in found.cells], "llrrrrr"),
        "## Errors",
        table(_ERROR_HEAD, [error_cells(cell) for cell in found.cells], "llrrrrr"),
        "## Differences of error, in points",
        table(_DIFFERENCE_HEAD, difference_lines(found.cells), "lllrrl"),
        "## How to read this",
        "\n".join(f"- {_sentence(text)}" for text in _explanations(found)),
        "## What it was measured with",
        table(["what", "found"], facts, "ll"),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return " ".join(escape(word) for word in text.split())  # word by word: `escape` cuts what is long


def console_parts(found: Table, *, ascii_only: bool = False) -> list[Any]:
    """Text and tables for a terminal of 120 columns."""
    parts: list[Any] = [f"{found.results['title']}. {setting_of(found.results)}", ""]
    parts.append(
        _rich("Speed-ups of selection and in all", _SPEED_HEAD, [speed_cells(c) for c in found.cells], ascii_only)
    )
    parts += ["", _rich("Error of the target, %", _ERROR_HEAD, [error_cells(c) for c in found.cells], ascii_only)]
    differences = difference_lines(found.cells)
    parts += ["", _rich("Differences of error, points", _DIFFERENCE_HEAD, differences, ascii_only)]
    facts = dict(facts_of(found))
    parts += ["", " ".join(filter(None, [verdict_line(found), _everything(found)])), *_explanations(found)]
    parts += [f"warning: {text}" for text in found.warnings]
    parts += [f"{name}: {facts[name]}" for name in ("data", "machine", "precision", "date", "seeds")]
    return [_shown(part, ascii_only) if isinstance(part, str) else part for part in parts]


def _rich(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], ascii_only: bool) -> RichTable:
    shown = RichTable(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for number, name in enumerate(head):
        shown.add_column(_shown(name, ascii_only), justify="left" if number == 0 else "right", no_wrap=number > 0,
                         overflow="fold")  # fmt: skip
    before: Sequence[str] = ("", "")
    for cells in rows:
        same = 0 if cells[0] != before[0] else 1 if cells[1] != before[1] else 2
        before = cells
        shown.add_row(*(Text(_shown(cell, ascii_only)) for cell in (*[""] * same, *cells[same:])))
    return shown


def _shown(text: str, ascii_only: bool) -> str:
    if not ascii_only:
        return text
    for mark, plain in _ASCII.items():
        text = text.replace(mark, plain)
    return text.encode("ascii", "replace").decode()
