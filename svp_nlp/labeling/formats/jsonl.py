"""JSON lines: the canonical table, one object a row. Nothing is lost in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from svp_nlp.labeling.formats.base import FileFormat, first_object, json_lines
from svp_nlp.labeling.table import COLUMNS, About, LabelRow, as_round, as_text, one_label


def sniff(text: str) -> bool:
    return bool(first_object(text))


def parse(text: str) -> list[LabelRow]:
    """Rows of a text.

    Raises:
        LabelError: a line is no object.
    """
    rows = []
    for number, values in json_lines(text):
        label, problem = one_label(values.get("label"))
        if not {"svp_id", "text", "image"} & values.keys() or not {"label", "kind"} & values.keys():
            problem = f"has the keys {', '.join(list(values)[:8])}; expected svp_id or text, and label"
        rows.append(
            LabelRow(
                svp_id=as_text(values.get("svp_id")),
                text=as_text(values.get("text")),
                label=label,
                annotator=as_text(values.get("annotator")),
                timestamp=as_text(values.get("timestamp")),
                source=as_text(values.get("source")),
                round=as_round(values.get("round")),
                kind=as_text(values.get("kind")),
                note=as_text(values.get("note")),
                image=as_text(values.get("image")),
                at=f"line {number}",
                problem=problem,
            )
        )
    return rows


def render(rows: Sequence[LabelRow], about: About) -> str:
    """The text of rows: the columns of the table always, others where they say something."""
    lines = []
    for row in rows:
        values: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS}
        values["label"] = row.label or None
        values |= {name: value for name in ("kind", "note", "image") if (value := getattr(row, name))}
        if row.suggestions:
            values["suggestions"] = row.suggestions
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    return "".join(lines)


JSONL = FileFormat("jsonl", "JSON lines", ".jsonl", sniff, parse, render)
