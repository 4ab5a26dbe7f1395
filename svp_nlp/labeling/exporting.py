"""What a run asks for, and what was answered, as rows of the canonical table and as a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from svp_nlp.errors import RecipeError
from svp_nlp.files import write_bytes
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.formats import write_rows
from svp_nlp.labeling.formats.base import FileFormat
from svp_nlp.labeling.queue import DIRECTORY, LabelQueue
from svp_nlp.labeling.requests import Part, Request, Row
from svp_nlp.labeling.resolve import RowAnswers
from svp_nlp.labeling.table import About, LabelRow


def export_rows(
    queue: LabelQueue,
    *,
    what: Literal["open", "all"] = "open",
    round: int | None = None,
    part: Part | None = None,
    annotator: str = "",
    suggestions: bool = True,
) -> list[LabelRow]:
    """Rows in the order in which they should be labelled.

    Args:
        what: `open`: rows that miss an answer; `all`: those that are answered too, each annotator's last answer and
            each decision a row of its own.
        round, part: of the requests that are meant; None: any.
        annotator: for whom. Rows that this annotator has answered are not open, those where others differ are, and
            open rows carry the name; of the answers, only this annotator's.
        suggestions: what the proxy thinks goes with the rows.
    """
    found: list[LabelRow] = []
    for request in queue.requests:
        if round not in (None, request.round) or part not in (None, request.part):
            continue
        for row in request.rows:
            answers = [] if what == "open" else list(_answers(queue.answers_of(row.id), annotator))
            found += [_row(request, row, answer, annotator, suggestions=False) for answer in answers]
            if not answers and _is_open(queue, row, annotator):
                found.append(_row(request, row, None, annotator, suggestions=suggestions))
    return found


def _is_open(queue: LabelQueue, row: Row, annotator: str) -> bool:
    status = queue.resolution(row.id).status
    if not annotator:
        return status == "open"
    answers = queue.answers_of(row.id)
    return status in ("open", "conflict") and (answers is None or annotator not in answers.by_annotator)


def _answers(answers: RowAnswers | None, annotator: str) -> Iterator[Answer]:
    if answers is not None:
        given = [*answers.by_annotator.values(), *([] if answers.decision is None else [answers.decision])]
        yield from (answer for answer in given if annotator in ("", answer.annotator))


def _row(request: Request, row: Row, answer: Answer | None, annotator: str, *, suggestions: bool) -> LabelRow:
    return LabelRow(
        svp_id=row.id,
        text=row.text,
        label="" if answer is None else answer.label or "",
        annotator=annotator if answer is None else answer.annotator,
        timestamp="" if answer is None else answer.time,
        source="" if answer is None else answer.source,
        round=request.round,
        kind="" if answer is None or answer.kind == "label" else answer.kind,
        note="" if answer is None else answer.note,
        image=f"{DIRECTORY}/images/{row.image}" if row.image else "",
        score=row.score,
        suggestions=row.suggestions if suggestions else (),
    )


def export_file(
    queue: LabelQueue,
    rows: list[LabelRow],
    format: FileFormat,
    *,
    path: Path | None = None,
    stem: str = "",
    overwrite: bool = False,
    bom: bool | None = None,
) -> Path:
    """Write rows to a file.

    Args:
        path: None: here, under the name of the run, what `stem` says, and the format.
        bom: see `write_rows`.
    Returns:
        Where it was written.
    Raises:
        RecipeError: the file is there already, or cannot be written.
    """
    name = f"{queue.run_dir.resolve().name}-{stem}"
    path = path or Path(name + ("" if format.suffix == f".{format.name}" else f"-{format.name}") + format.suffix)
    if path.is_dir():
        raise RecipeError(f"{path} is a directory; expected the name of a file")
    if path.exists() and not overwrite:
        raise RecipeError(
            f"{path} is there already, and may hold labels that were not imported; import it (svp label import "
            f"{queue.run_dir} {path}), then name another file by --output, or give --overwrite"
        )
    try:
        write_bytes(path, content(queue, rows, format, bom=bom))
    except OSError as error:
        raise RecipeError(f"{path} cannot be written ({error.strerror}); name another file by --output") from None
    return path


def content(queue: LabelQueue, rows: list[LabelRow], format: FileFormat, *, bom: bool | None = None) -> bytes:
    """The content of a file with rows of this run."""
    return write_rows(rows, format, about=About(queue.run_dir.resolve().name, queue.classes), bom=bom)
