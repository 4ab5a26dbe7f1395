"""Prodigy's JSON lines: tasks of its choice interface, and what `prodigy db-out` writes.

Source: the formats that prodi.gy and support.prodi.gy describe; Prodigy itself was not run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from svp_nlp.labeling.formats.base import FileFormat, first_object, json_lines
from svp_nlp.labeling.table import About, LabelRow, as_round, as_text, one_label

_OWN_KEYS = {"answer", "options", "_input_hash", "_task_hash"}
_SKIPPED = "ignore"
_REJECTED = "reject"
_KINDS = {"skip": _SKIPPED, "flag": _REJECTED}


def sniff(text: str) -> bool:
    return bool(_OWN_KEYS & first_object(text).keys())


def parse(text: str) -> list[LabelRow]:
    """Rows of a text: `ignore` is a skip; `reject`, which says what a text is not, flags it.

    Raises:
        LabelError: a line is no object.
    """
    return [_row(values, at=f"line {number}") for number, values in json_lines(text)]


def _row(values: Mapping[str, Any], *, at: str) -> LabelRow:
    meta = values.get("meta")
    known = {**(meta if isinstance(meta, dict) else {}), **values}
    answer = as_text(values.get("answer"))
    label, problem = one_label(values.get("accept", values.get("label")))
    kind, note = "", as_text(known.get("note"))
    if answer == _SKIPPED:
        kind, label, problem = "skip", "", ""
    elif answer == _REJECTED:
        kind, note, label, problem = "flag", note or f"rejected {label}".strip(), "", ""
    elif answer != "accept":  # a task that nobody has seen; what it accepts is a suggestion
        label, problem = "", ""
    seconds = values.get("_timestamp")
    return LabelRow(
        svp_id=as_text(known.get("svp_id")),
        text=as_text(values.get("text")),
        image=as_text(values.get("image")),
        label=label,
        kind=kind,
        note=note,
        annotator=as_text(values.get("_annotator_id") or values.get("_session_id")),
        timestamp=datetime.fromtimestamp(seconds, timezone.utc).isoformat() if isinstance(seconds, int) else "",
        round=as_round(known.get("svp_round")),
        at=at,
        problem=problem,
    )


def render(rows: Sequence[LabelRow], about: About) -> str:
    """Tasks with all classes as options; a suggestion is an option that is chosen beforehand."""
    options = [{"id": name, "text": name} for name in about.classes]
    lines = []
    for row in rows:
        values: dict[str, Any] = {"image": row.image} if row.image else {"text": row.text}
        values |= {"options": options, "meta": {"svp_id": row.svp_id, "svp_round": row.round}}
        if row.is_answered:
            values |= {
                "accept": [row.label] if row.label else [],
                "answer": _KINDS.get(row.kind, "accept" if row.label else _SKIPPED),
            }
            values |= {"_annotator_id": row.annotator} if row.annotator else {}
            values["meta"] |= {"note": row.note} if row.note else {}
        elif row.suggestions:
            values["accept"] = [row.suggestions[0][0]]
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    return "".join(lines)


PRODIGY = FileFormat("prodigy", "Prodigy", ".jsonl", sniff, parse, render)
