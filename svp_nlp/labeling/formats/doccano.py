"""doccano's JSON lines: `{"text": ..., "label": [...]}`; other keys travel with the row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from svp_nlp.labeling.formats.base import FileFormat, first_object, json_lines
from svp_nlp.labeling.table import About, LabelRow, as_round, as_text, one_label


def sniff(text: str) -> bool:
    return isinstance(first_object(text).get("label"), list)


def parse(text: str) -> list[LabelRow]:
    """Rows of a text; skips are not told by doccano.

    Raises:
        LabelError: a line is no object.
    """
    rows = []
    for number, values in json_lines(text):
        meta = values.get("meta")  # where it lay in older versions
        known = {**(meta if isinstance(meta, dict) else {}), **values}
        label, problem = one_label(known.get("label"))
        rows.append(
            LabelRow(
                svp_id=as_text(known.get("svp_id")),
                text=as_text(known.get("text", known.get("data"))),
                label=label,
                annotator=as_text(known.get("annotator")),
                round=as_round(known.get("svp_round")),
                image=as_text(known.get("filename")),
                at=f"line {number}",
                problem=problem,
            )
        )
    return rows


def render(rows: Sequence[LabelRow], about: About) -> str:
    """The text of rows. It has no place for suggestions: a label that is there counts as given."""
    lines = []
    for row in rows:
        values: dict[str, Any] = {"filename": row.image} if row.image else {"text": row.text}
        values |= {"label": [row.label] if row.label else [], "svp_id": row.svp_id, "svp_round": row.round}
        if row.annotator:
            values["annotator"] = row.annotator
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    return "".join(lines)


DOCCANO = FileFormat("doccano", "doccano", ".jsonl", sniff, parse, render)
