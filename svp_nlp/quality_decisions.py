"""Rows to look at again, on their way to people and back: a file for the page, a table for others, decisions.

A decision overrules the answers before it; they stay in the journal.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svp_nlp.errors import LabelError
from svp_nlp.files import atomic_file, write_json
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.formats.csv import escape, escape_id, read_cells, unescape, unescape_id
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.second_look import REVIEW_FILE
from svp_nlp.labeling.table import MARKS, SKIP
from svp_nlp.run import disk_errors, now

TABLE_FILE = "review.csv"
_COLUMNS = ("svp_id", "text", "given", "suggested", "score", "reason", "decision")
_SHOWN = 10


def write_review(queue: LabelQueue, found: Mapping[str, Any]) -> dict[str, Path]:
    """Write what `svp label review` found: review.json for the page, review.csv with an empty column for decisions.

    Args:
        found: JSON values; `rows` with id, text, given, suggested, score and reason.
    Raises:
        LabelError: see `check_table`.
        RunError: the disk is full or fails; each file is as it was before, or as it is now.
    """
    check_table(queue)
    paths = {"json": queue.directory / REVIEW_FILE, "csv": queue.directory / TABLE_FILE}
    with disk_errors(queue.directory):
        write_json(paths["json"], dict(found))
        with atomic_file(paths["csv"]) as tmp, tmp.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            for row in found["rows"]:
                cells = [escape("" if row[name] is None else str(row[name])) for name in _COLUMNS[1:-1]]
                writer.writerow([escape_id(row["id"]), *cells, ""])
    return paths


def check_table(queue: LabelQueue) -> None:
    """Raises: LabelError: decisions stand in review.csv that the run does not know; they would be overwritten."""
    path = queue.directory / TABLE_FILE
    if not path.exists():
        return
    new = [id for id, label in read_table(path) if id in queue.rows and not _is_known(queue, id, _label(queue, label))]
    if new:
        raise LabelError(
            f"{path} holds {len(new):,} decisions that the run does not know and would be written anew; take them in "
            f"first: svp label decide {queue.run_dir} --file {path}; or delete it"
        )


def read_table(path: Path) -> list[tuple[str, str]]:
    """(id, label) of the rows of a table whose column `decision` is filled in; `[skip]`: nobody can tell.

    Raises:
        LabelError: it cannot be read, has other columns, or says two things about one row.
    """
    return [(id, label) for id, (label, _) in _read(path).items()]


def _read(path: Path) -> dict[str, tuple[str, int]]:
    """As `read_table`: id -> label and line."""
    try:
        header, rows = read_cells(path.read_text(encoding="utf-8-sig"))
        missing = [name for name in ("svp_id", "decision") if name not in header]
        if missing:
            raise LabelError(
                f"the column {' and '.join(missing)} is missing, found {', '.join(header[:_SHOWN])}; expected what "
                "`svp label review --write` wrote, with `decision` filled in"
            )
        found: dict[str, tuple[str, int]] = {}
        for line, cells in rows:
            values = dict(zip(header, cells, strict=True))
            id, label = unescape_id(values["svp_id"].strip()), unescape(values["decision"].strip())
            if label and (first := found.setdefault(id, (label, line)))[0] != label:
                raise LabelError(f"line {line:,} decides {label!r} for row {id}, an earlier line {first[0]!r}")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8: save it as CSV UTF-8"
        raise LabelError(f"{path} cannot be read ({reason})") from None
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from None
    return found


def write_table(queue: LabelQueue, path: Path, *, annotator: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Write the decisions of a table; returns them, and what `write_decisions` does.

    Raises:
        LabelError: as `read_table` and `write_decisions`; names the lines.
        RunError: the disk is full or fails.
    """
    found = _read(path)
    decisions = [(id, label) for id, (label, _) in found.items()]
    try:
        return decisions, write_decisions(queue, decisions, annotator=annotator)
    except LabelError as error:
        wrong = {*queue.unknown_labels(filter(None, (_label(queue, label) for _, label in decisions)))}
        wrong.update(_marks(queue, decisions))
        lines = [f"{line:,}" for id, (label, line) in found.items() if label in wrong or id not in queue.rows]
        more = ", ..." if len(lines) > _SHOWN else ""
        raise LabelError(f"{path}, line {', '.join(lines[:_SHOWN])}{more}: {error}") from None


def write_decisions(queue: LabelQueue, decisions: Sequence[tuple[str, str]], *, annotator: str) -> dict[str, int]:
    """Write decisions (id, label): all of them or, where one is wrong, none. They are on disk when this returns.

    `[skip]` in place of a label closes a row that nobody can tell. What is decided so already is left as it is, so that
    a table can be taken in again.

    Returns:
        how many are `decided` now, `kept` the label that the row had, and were `known`.
    Raises:
        LabelError: rows that were not asked for, or labels that are not among the classes.
        RunError: the disk is full or fails.
    """
    if marks := _marks(queue, decisions):
        raise LabelError(
            f"{', '.join(marks)} is no label; a decision names the class, or is {SKIP} where nobody can tell; an empty "
            "cell decides nothing"
        )
    with queue.locked():
        said = [(id, _label(queue, label)) for id, label in decisions]
        new = [(id, label) for id, label in said if id not in queue.rows or not _is_known(queue, id, label)]
        before = {id: queue.resolution(id) for id, _ in new}
        time = now()
        queue.append(
            Answer(id, "decision", label, annotator, time, _source(before[id].status), note=_note(before[id].label))
            for id, label in new
        )
    kept = sum(before[id].label == label for id, label in new)
    return {"decided": len(new), "kept": kept, "known": len(decisions) - len(new)}


def _marks(queue: LabelQueue, decisions: Sequence[tuple[str, str]]) -> list[str]:
    """What stands for no decision, among what is to be one."""
    named = {label for _, label in decisions if label.lower() in MARKS}
    return sorted(label for label in named if _label(queue, label) is not None and label not in queue.classes)


def _label(queue: LabelQueue, label: str) -> str | None:
    """What is decided; None: that nobody can tell."""
    return None if label.lower() == SKIP and label not in queue.classes else label


def _is_known(queue: LabelQueue, id: str, label: str | None) -> bool:
    answers = queue.answers_of(id)
    return answers is not None and answers.decision is not None and answers.decision.label == label


def _source(status: str) -> str:
    return "adjudication" if status in ("conflict", "flagged") else "review"


def _note(label: str | None) -> str:
    return "" if label is None else f"was {label}"
