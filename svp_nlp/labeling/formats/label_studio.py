"""Label Studio's files: tasks to import there; JSON, JSON_MIN and CSV exports to read here.

Source: measured with Label Studio 1.23.2. Its JSON_MIN and CSV exports overwrite the keys `id` and that of the
control, leave skipped tasks out and list the newest annotation first; its CSV escapes nothing. So our keys begin with
`svp_`, rows are joined by `data.svp_id`, and the annotations of a task are ordered by their time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from svp_nlp.errors import LabelError
from svp_nlp.labeling.formats.base import FileFormat
from svp_nlp.labeling.formats.csv import read_cells
from svp_nlp.labeling.table import About, LabelRow, as_round, as_text, one_label

CONTROL = "svp_label"
NUMBERED = "label_studio:"  # before the number of an annotator whose name is not known
_OWN_COLUMNS = {"annotation_id", "lead_time"}


def origin_of(annotation: Any, created: Any, updated: Any) -> str:
    """What an answer is called there: `annotation@created@updated`; the numbers of two servers may be the same."""
    if not as_text(annotation):
        return ""
    return f"{as_text(annotation)}@{as_text(created)}@{as_text(updated) or as_text(created)}"


def annotator_of(completed_by: Any) -> str:
    """Who answered: an e-mail address where there is one, else `label_studio:7`."""
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("id")
    name = as_text(completed_by)
    return f"{NUMBERED}{name}" if name.isdigit() else name


def rows_of_task(task: Mapping[str, Any], *, at: str = "") -> list[LabelRow]:
    """The annotations of a task as the JSON export and the API give them, the oldest first; one open row if none."""
    data = task.get("data")
    data = data if isinstance(data, Mapping) else {}
    base: dict[str, Any] = {
        "svp_id": as_text(data.get("svp_id")),
        "text": as_text(data.get("text")),
        "image": as_text(data.get("image")),
        "round": as_round(data.get("svp_round")),
        "at": at,
    }
    rows = []
    for annotation in task.get("annotations") or []:
        label, problem = one_label(_choices(annotation.get("result") or []))
        updated = annotation.get("updated_at") or annotation.get("created_at")
        rows.append(
            LabelRow(
                **base,
                label="" if annotation.get("was_cancelled") else label,
                kind="skip" if annotation.get("was_cancelled") else "",
                annotator=annotator_of(annotation.get("completed_by")),
                timestamp=as_text(updated),
                origin=origin_of(annotation.get("id"), annotation.get("created_at"), updated),
                problem=problem,
            )
        )
    return sorted(rows, key=_time) or [LabelRow(**base)]


def task_of(rows: Sequence[LabelRow], about: About) -> dict[str, Any]:
    """A task to import there.

    Args:
        rows: of one row of the pool; their suggestions become a prediction, their answers annotations.
    """
    first = rows[0]
    kind = "image" if first.image else "text"
    data = {kind: first.image or first.text, "svp_id": first.svp_id, "svp_run": about.run, "svp_round": first.round}
    task: dict[str, Any] = {"data": data}
    if first.suggestions:
        label, share = first.suggestions[0]
        task["predictions"] = [{"model_version": "proxy", "score": share, "result": _result(label, kind)}]
    answers = [row for row in rows if row.is_answered]
    if answers:
        task["annotations"] = [
            {"result": _result(row.label, kind) if row.label else [], "was_cancelled": not row.label} for row in answers
        ]
    return task


def _result(label: str, kind: str) -> list[dict[str, Any]]:
    return [{"from_name": CONTROL, "to_name": kind, "type": "choices", "value": {"choices": [label]}}]


def _choices(result: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What was chosen in our control; in any, where a project has another one."""
    found = [item for item in result if item.get("type") == "choices"]
    ours = [item for item in found if item.get("from_name") == CONTROL] or found
    return [choice for item in ours for choice in item.get("value", {}).get("choices") or []]


def _time(row: LabelRow) -> str:
    return row.timestamp


def sniff(text: str) -> bool:
    if text.lstrip().startswith("["):
        return True
    return not text.lstrip().startswith("{") and _OWN_COLUMNS.issubset(read_cells(text)[0])


def parse(text: str) -> list[LabelRow]:
    """Rows of an export.

    Raises:
        LabelError: it is neither JSON, JSON_MIN nor CSV.
    """
    if not text.lstrip().startswith("["):
        header, cells = read_cells(text)
        if not _OWN_COLUMNS.issubset(header):
            raise LabelError("expected a JSON, JSON_MIN or CSV export of Label Studio; it is something else")
        rows = [_row_of_min(dict(zip(header, values, strict=True)), at=f"line {line}") for line, values in cells]
    else:
        try:
            tasks = json.loads(text)
        except ValueError as error:
            raise LabelError(f"not JSON ({error}); expected an export of Label Studio") from None
        rows = []
        for number, task in enumerate(tasks, start=1):
            if not isinstance(task, dict):
                raise LabelError(f"task {number:,} is {type(task).__name__} in JSON; expected an object")
            at = f"task {number}"
            rows += rows_of_task(task, at=at) if "data" in task else [_row_of_min(task, at=at)]
    return sorted(rows, key=_time)


def _row_of_min(values: Mapping[str, Any], *, at: str) -> LabelRow:
    value = values.get(CONTROL, values.get("label"))
    if isinstance(value, str) and value.startswith('{"choices":'):  # several of them, in a cell of CSV
        value = json.loads(value)
    label, problem = one_label(value["choices"] if isinstance(value, dict) and "choices" in value else value)
    updated = values.get("updated_at") or values.get("created_at")
    return LabelRow(
        svp_id=as_text(values.get("svp_id")),
        text=as_text(values.get("text")),
        image=as_text(values.get("image")),
        label=label,
        annotator=annotator_of(values.get("annotator")),
        timestamp=as_text(updated),
        round=as_round(values.get("svp_round")),
        origin=origin_of(values.get("annotation_id"), values.get("created_at"), updated),
        at=at,
        problem=problem,
    )


def render(rows: Sequence[LabelRow], about: About) -> str:
    """Tasks; the answers to one row, which stand together, are annotations of one task."""
    tasks = [task_of(list(group), about) for _, group in groupby(rows, key=lambda row: row.svp_id)]
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


LABEL_STUDIO = FileFormat("label_studio", "Label Studio", ".json", sniff, parse, render)
