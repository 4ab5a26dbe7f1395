"""Labels from files into the journal: every problem of a file is told at once, and importing twice is importing once.

Nothing is written while anything in the file is wrong. What is there already is told in `news.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from svp_nlp.columns import closest
from svp_nlp.content import normalise
from svp_nlp.errors import LabelError
from svp_nlp.files import write_bytes
from svp_nlp.labeling.answers import KINDS
from svp_nlp.labeling.formats import read_rows, write_rows
from svp_nlp.labeling.formats.jsonl import JSONL
from svp_nlp.labeling.formats.label_studio import NUMBERED
from svp_nlp.labeling.news import find_news
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.table import MARKS, SKIP, About, LabelRow, clean_label
from svp_nlp.run import disk_errors

Problems: TypeAlias = dict[str, list[str]]  # what is wrong -> with which rows; none: with the file
_WITH_LABEL = ("label", "decision")
_SHOWN = 10
_OTHER_TEXT = "have another text than was asked for"
_WITHOUT_TEXT = (
    "; if a program has changed the texts (dates, leading zeros, characters that it cannot save), delete the column "
    "text: svp_id is enough"
)


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows of a file; numbers are rows of it.

    Attributes:
        new: answers that were written, `skipped`, `flagged` and `changed` ones among them.
        known: were there before.
        skipped, flagged: new answers of these kinds.
        changed: new answers that replace another one by the same annotator.
        unanswered: say nothing yet.
        unknown: of rows that this run did not ask for; they are in the file `quarantine`.
        annotators: new answers of each; "" for those without a name.
        classes: those that nobody has given before, and the recipe does not name.
        is_dry: nothing was written.
    """

    source: str
    rows: int
    new: int
    known: int
    skipped: int
    flagged: int
    changed: int
    unanswered: int
    unknown: int
    quarantine: Path | None
    annotators: dict[str, int]
    classes: tuple[str, ...] = ()
    is_dry: bool = False


def import_file(
    queue: LabelQueue,
    path: str | Path,
    *,
    format: str | None = None,
    annotator: str | None = None,
    allow_unknown: bool = False,
    is_dry: bool = False,
) -> ImportReport:
    """Take in the answers of a file.

    Args:
        format: None: as the file looks.
        annotator: who labelled, where the file does not say.
        allow_unknown: import the rest where rows were not asked for.
        is_dry: check only.
    Raises:
        LabelError: it cannot be read; or rows of it are wrong: lists them, and nothing was imported.
        RecipeError: no such format.
        RunError: the disk is full or fails.
    """
    found, rows = read_rows(path, format=format)
    return import_rows(
        queue,
        rows,
        source=found.name,
        where=str(path),
        annotator=annotator or "",
        allow_unknown=allow_unknown,
        is_dry=is_dry,
    )


def import_rows(
    queue: LabelQueue,
    rows: Sequence[LabelRow],
    *,
    source: str,
    where: str,
    annotator: str = "",
    allow_unknown: bool = False,
    is_dry: bool = False,
) -> ImportReport:
    """As `import_file`, of rows that came in any way.

    Args:
        source: of the answers that do not say; see `Answer.source`.
        where: names the rows in messages.
    """
    queue.refresh()
    problems: Problems = defaultdict(list)
    known, unknown = _join(queue, rows, problems)
    classes = frozenset(queue.classes)
    said = [row for row in known if row.is_answered or row.problem or row.origin]
    names = _names(said, annotator, problems)
    if queue.project.answers_per_row > 1 and "" in names.values():
        problems["say nothing of who labelled, and each row needs several people: give --annotator NAME"] = [
            row.at for row in said if not names[row.annotator]
        ]
    answered = [_ready(row, names[row.annotator], classes) for row in said]
    _find_wrong(queue, answered, problems)
    told = [
        what if not places else f"{len(places):,} rows {what} ({_shown(places)})" for what, places in problems.items()
    ]
    quarantine = None
    if unknown:
        told.append(f"{len(unknown):,} rows were not asked for by this run ({_shown([row.at for row in unknown])})")
        if not is_dry:
            quarantine = _write_quarantine(queue, unknown, where)
            told[-1] += f", they are in {quarantine}"
    if problems or (unknown and not allow_unknown):
        hint = (
            "correct that and import it again" + (_WITHOUT_TEXT if _OTHER_TEXT in problems else "")
            if problems
            else "is it another run's file? --allow-unknown imports the rest"
        )
        raise LabelError(f"{where}: {'; '.join(told)}. Nothing was imported: {hint}")
    with queue.locked():
        known_classes = frozenset(queue.classes)
        found = find_news(queue, answered, source)
        if not is_dry:
            queue.append(found.answers)
    kinds = Counter(answer.kind for answer in found.answers)
    return ImportReport(
        source=source,
        rows=len(rows),
        new=len(found.answers),
        known=found.known,
        skipped=kinds["skip"],
        flagged=kinds["flag"],
        changed=found.changed,
        unanswered=len(known) - len(found.answers) - found.known,
        unknown=len(unknown),
        quarantine=quarantine,
        annotators=dict(Counter(answer.annotator for answer in found.answers)),
        classes=tuple(dict.fromkeys(a.label for a in found.answers if a.label and a.label not in known_classes)),
        is_dry=is_dry,
    )


def _join(queue: LabelQueue, rows: Iterable[LabelRow], problems: Problems) -> tuple[list[LabelRow], list[LabelRow]]:
    """Rows with the id that they have in the run, and rows that it did not ask for."""
    by_text: dict[str, str] | None = None
    known, unknown = [], []
    for row in rows:
        id = row.svp_id
        if not id:
            if not row.text.strip():
                problems["have neither svp_id nor text"].append(row.at)
                continue
            if by_text is None:
                by_text = {normalise(asked.text): asked.id for asked in queue.rows.values()}
            id = by_text.get(normalise(row.text), "")
            row = dataclasses.replace(row, svp_id=id)
        asked = queue.rows.get(id)
        if asked is None:
            unknown.append(row)
            continue
        if row.text and row.text != asked.text and normalise(row.text) != normalise(asked.text):
            problems[_OTHER_TEXT].append(f"{row.at}: {id}")
        if row.image and asked.image and Path(row.image).name != asked.image:
            problems["have another image than was asked for"].append(f"{row.at}: {id}")
        known.append(row)
    return known, unknown


def _ready(row: LabelRow, name: str, classes: frozenset[str]) -> LabelRow:
    """What a row says, without what it is about: what its label cell means, by whom, and a time that is one."""
    label, kind = clean_label(row.label, classes), row.kind.strip().lower()
    if not kind and label not in classes:
        kind = MARKS.get(label.lower(), "")
    if kind == "decision" and label not in classes and label.lower() == SKIP:
        label = ""
    kind = kind or "label"
    # Not by `replace`: that would be a fifth of all the time for a hundred thousand rows.
    return LabelRow(
        svp_id=row.svp_id,
        label=label if kind in _WITH_LABEL else "",
        annotator=name,
        timestamp=row.timestamp if row.timestamp and _is_time(row.timestamp) else "",
        source=row.source,
        kind=kind,
        note=row.note,
        origin=row.origin,
        at=row.at,
        problem=row.problem,
    )


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z
    except ValueError:
        return False
    return True


def _names(rows: Sequence[LabelRow], annotator: str, problems: Problems) -> dict[str, str]:
    """What the annotators of a file are called; a number that Label Studio gives its users is no name."""
    names = {found: found.strip() for found in {row.annotator for row in rows}}
    if annotator:
        numbers = sorted(name for name in names if name.startswith(NUMBERED))
        if len(numbers) > 1:
            shown = ", ".join(numbers)
            problems[f"the answers are of {len(numbers):,} annotators ({shown}): leave --annotator out"] = []
        names |= {found: annotator for found, name in names.items() if not name or found in numbers}
    return names


def _find_wrong(queue: LabelQueue, rows: Sequence[LabelRow], problems: Problems) -> None:
    """What cannot be an answer, whoever gave it and whatever was said before."""
    labels = Counter(row.label for row in rows if row.label and not row.problem)
    refused = sorted(queue.unknown_labels(labels))
    said: dict[tuple[str, str, str, bool], LabelRow] = {}
    for row in rows:
        if row.problem:
            problems[row.problem].append(row.at)
        elif row.kind not in KINDS:
            problems[f"are of kind {row.kind!r}; expected one of {', '.join(KINDS)}"].append(row.at)
        elif not row.label and row.kind == "label" and not row.origin:
            problems["are of kind label without a label"].append(row.at)
        elif not row.origin:
            first = said.setdefault((row.svp_id, row.annotator, row.timestamp, row.kind == "decision"), row)
            if (first.kind, first.label) != (row.kind, row.label):
                problems["stand twice with different labels; say by whom they are, in a column annotator"].append(
                    f"{first.at} and {row.at}"
                )
    if refused:
        places = {row.label: row.at for row in reversed(rows)}  # of each, the first
        shown = [
            f"{name!r} x {labels[name]:,}, {'first ' * (labels[name] > 1)}{places[name]}{closest(name, queue.classes)}"
            for name in refused[:_SHOWN]
        ]
        more = f" and {len(refused) - _SHOWN:,} more" if len(refused) > _SHOWN else ""
        classes = ", ".join(map(repr, queue.classes[:_SHOWN])) + (", ..." if len(queue.classes) > _SHOWN else "")
        problems[f"labels that are not among the classes: {'; '.join(shown)}{more} (the classes are {classes})"] = []


def _shown(places: Sequence[str]) -> str:
    return ", ".join(places[:_SHOWN]) + (", ..." if len(places) > _SHOWN else "")


def _write_quarantine(queue: LabelQueue, rows: Sequence[LabelRow], where: str) -> Path:
    """Keep rows that were not asked for where somebody can look at them; the same rows are the same file."""
    data = write_rows(rows, JSONL, about=About(queue.run_dir.name, queue.classes))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(where).stem)[:60]
    path = queue.directory / "quarantine" / f"{hashlib.sha256(data).hexdigest()[:8]}-{stem}.jsonl"
    with disk_errors(queue.run_dir):
        write_bytes(path, data)
    return path
