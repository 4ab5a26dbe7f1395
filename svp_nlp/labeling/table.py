"""The canonical table of labels: what every file format is read into and written from."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from svp_nlp.content import normalise
from svp_nlp.labeling.answers import Kind

COLUMNS = ("svp_id", "text", "label", "annotator", "timestamp", "source", "round")
SKIP = "[skip]"
MARKS: dict[str, Kind] = {SKIP: "skip", "[flag]": "flag"}  # what may stand in place of a label


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One answer to one row, or a row that nobody has answered.

    Attributes:
        svp_id: empty: the row is known by its text.
        label: empty: not answered yet, or `kind` is no label, or a decision that nobody can tell.
        timestamp: ISO 8601; empty: not known.
        source: see `Answer.source`; empty: the file itself.
        kind: see `Answer.kind`; empty: a label, if there is one.
        image: path of its file below the run directory; empty for a text.
        score, suggestions: as in `Row`; only written.
        origin: see `Answer.origin`.
        at: where it stands in its file, for messages.
        problem: why it cannot be an answer; empty: it can.
    """

    svp_id: str = ""
    text: str = ""
    label: str = ""
    annotator: str = ""
    timestamp: str = ""
    source: str = ""
    round: int | None = None
    kind: str = ""
    note: str = ""
    image: str = ""
    score: float | None = None
    suggestions: tuple[tuple[str, float], ...] = ()
    origin: str = ""
    at: str = ""
    problem: str = ""

    @property
    def is_answered(self) -> bool:
        """Somebody has said something."""
        return bool(self.label.strip() or self.kind)


@dataclass(frozen=True)
class About:
    """What a file of labels says beside its rows."""

    run: str
    classes: tuple[str, ...]


def as_text(value: Any) -> str:
    """What a JSON value is as a cell; nothing for null and NaN."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def as_round(value: Any) -> int | None:
    """A round, where it is one."""
    text = as_text(value)
    return int(text) if text.isascii() and text.isdigit() else None


def clean_label(label: str, classes: Collection[str]) -> str:
    """A label without what a spreadsheet or a hand added to it: normalised, where it is not a class as it stands."""
    return label if label in classes else normalise(label)


def one_label(value: Any) -> tuple[str, str]:
    """The label in a value or a list of at most one, and what is wrong with it otherwise."""
    if not isinstance(value, list):
        return as_text(value), ""
    if len(value) > 1:
        return "", f"hold {len(value):,} labels; expected one"
    return (as_text(value[0]) if value else ""), ""
