"""`svp label export` and `svp label import`: labels through files."""

from __future__ import annotations

import enum
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from svp_nlp.console import Format as OutputFormat
from svp_nlp.console import FormatOption, VerboseOption, command, show, without_gc
from svp_nlp.errors import RecipeError


class FileFormatName(str, enum.Enum):
    """Formats of label files."""

    csv = "csv"
    jsonl = "jsonl"
    label_studio = "label-studio"
    doccano = "doccano"
    prodigy = "prodigy"


class PartName(str, enum.Enum):
    """What the rows are for."""

    train = "train"
    test = "test"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def export(
    run_dir: RunArgument,
    to: Annotated[FileFormatName, typer.Option("--to", help="The format of the file.")],
    path: Annotated[
        Path | None, typer.Option("--output", help="The file; - for stdout. [default: RUN-ROUND-FORMAT.SUFFIX here]")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is labelled, each annotator's answer a row. [default: open rows]")
    ] = False,
    round_: Annotated[int | None, typer.Option("--round", help="Rows of this round only.")] = None,
    part: Annotated[PartName | None, typer.Option("--part", help="Rows for training, or of the test set.")] = None,
    annotator: Annotated[
        str, typer.Option("--annotator", help="For whom: rows that NAME has not answered, with the name.")
    ] = "",
    suggestions: Annotated[
        bool,
        typer.Option("--suggestions", help="Show what the proxy would say; people then agree with it more often."),
    ] = False,
    bom: Annotated[
        bool | None, typer.Option("--bom/--no-bom", help="A byte order mark, which Excel needs. [default: in CSV]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    output: FormatOption = OutputFormat.human,
    verbose: VerboseOption = False,
) -> None:
    """Write the rows that wait for a label into a file, for a spreadsheet or a labelling tool.

    Put the class into the column `label`; an empty cell means not yet, [skip] that nobody can tell, [flag] that
    somebody should look at it (say why under `note`). Then: svp label import RUN FILE.
    """
    with command(output, verbose), without_gc():
        from svp_nlp.labeling.exporting import content, export_file, export_rows
        from svp_nlp.labeling.formats import format_named
        from svp_nlp.labeling.queue import LabelQueue

        queue = LabelQueue.open(run_dir)
        rows = export_rows(
            queue,
            what="all" if everything else "open",
            round=round_,
            part=None if part is None else part.value,
            annotator=annotator,
            suggestions=suggestions,
        )
        if not rows:
            rounds = sorted({request.round for request in queue.requests})
            if round_ is not None and round_ not in rounds:
                shown = ", ".join(map(str, rounds)) or "none"
                raise RecipeError(f"{run_dir}: nothing was asked for in round {round_}; its rounds are {shown}")
            what = f"nothing is open{' for ' + annotator if annotator else ''}: "
            raise RecipeError(f"{run_dir}: {what}call the same `svp run` again, or export what is labelled with --all")
        format = format_named(to.value)
        if str(path) == "-":
            if output is not OutputFormat.human:
                raise RecipeError("--output - writes the rows to stdout, so --format has no place there; leave one out")
            sys.stdout.buffer.write(content(queue, rows, format, bom=False if bom is None else bom))
            return
        found = [row.round for row in rows if row.round is not None]
        stem = "round-" + "-".join(f"{number:03d}" for number in sorted({min(found), max(found)}))
        stem += "".join(
            f"-{word}" for word in ("all" * everything, part.value if part else "", _plain(annotator)) if word
        )
        written = export_file(queue, rows, format, path=path, stem=stem, overwrite=overwrite, bom=bom)
        human = [f"{len(rows):,} rows in {written}"]
        if not everything:
            human += [f"label them there, then: svp label import {run_dir} {written}"]
        show({"file": str(written), "rows": len(rows), "format": format.name}, output, quiet=str(written), human=human)


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name).strip("._")[:40]


def import_(
    run_dir: RunArgument,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, CSV, or what a labelling tool exported.")],
    format_: Annotated[
        FileFormatName | None, typer.Option("--from", help="The format of the file. [default: as it looks]")
    ] = None,
    annotator: Annotated[
        str, typer.Option("--annotator", help="Who labelled, for rows where the file names nobody.")
    ] = "",
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Import the rest where the file has rows that were not asked for.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file and say what is new; write nothing.")
    ] = False,
    output: FormatOption = OutputFormat.human,
    verbose: VerboseOption = False,
) -> None:
    """Take in the labels of a file; importing it twice is importing it once.

    Rows are known by svp_id, or by their text where the file has no ids. An empty label means not yet; [skip] and
    [flag] in its place, or skip and flag in a column `kind`, are answers. Nothing is imported while a row of the file
    is wrong; rows that were not asked for go to RUN/labeling/quarantine (exit code 2 unless --allow-unknown).
    """
    with command(output, verbose), without_gc():
        from svp_nlp.labeling.importing import import_file
        from svp_nlp.labeling.queue import LabelQueue

        queue = LabelQueue.open(run_dir)
        classes = queue.classes
        report = import_file(
            queue,
            path,
            format=None if format_ is None else format_.value,
            annotator=annotator,
            allow_unknown=allow_unknown,
            is_dry=dry_run,
        )
        statuses = Counter(queue.resolution(id).status for id in queue.rows)
        open_, conflicts = statuses["open"], statuses["conflict"]
        lines = _lines(vars(report), path, classes)
        if not dry_run:
            lines.append(_next(run_dir, open_, conflicts))
        facts = {**vars(report), "quarantine": None if report.quarantine is None else str(report.quarantine)}
        show({"lines": lines, **facts, "open": open_, "conflicts": conflicts}, output, quiet=str(report.new))


def _lines(report: dict[str, Any], path: Path, classes: Sequence[str]) -> list[str]:
    from svp_nlp.columns import closest

    counts = [(key, report[key]) for key in ("known", "unanswered", "unknown") if report[key]]
    words = {"known": "known before", "unanswered": "without a label", "unknown": "not asked for by this run"}
    of_new = [f"{report[key]:,} {key}" for key in ("skipped", "flagged") if report[key]]
    lines = [
        f"{path} ({report['source']}): {report['new']:,} new answers"
        + (f" ({', '.join(of_new)})" if of_new else "")
        + "".join(f", {count:,} {words[key]}" for key, count in counts)
        + ("; nothing was written" if report["is_dry"] else "")
    ]
    if report["classes"]:
        told = [f"{name!r}{closest(name, classes)}" for name in report["classes"]]
        lines.append(f"new classes, {len(told):,}: {', '.join(told)}")
    if report["changed"]:
        unnamed = "" in report["annotators"]
        hint = "; if two people labelled, import each one's file with --annotator NAME" if unnamed else ""
        lines.append(f"{report['changed']:,} of them replace another answer of the same annotator{hint}")
    if report["quarantine"] is not None:
        lines.append(f"what was not asked for is in {report['quarantine']}")
    return lines


def _next(run_dir: Path, open_: int, conflicts: int) -> str:
    from svp_nlp.labeling.queue import AFTER_THE_END
    from svp_nlp.results import is_finished

    if is_finished(run_dir):
        return AFTER_THE_END
    conflicting = f"annotators differ on {conflicts:,}: svp label review {run_dir}"
    if open_:
        return f"still open: {open_:,}" + (f"; {conflicting}" if conflicts else "")
    return conflicting if conflicts else "all rows are answered: call the same `svp run` again"
