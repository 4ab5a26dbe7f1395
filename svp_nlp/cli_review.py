"""`svp label review` and `svp label decide`: labels that somebody should look at again."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svp_nlp.console import Format, FormatOption, VerboseOption, command, show
from svp_nlp.errors import RecipeError

if TYPE_CHECKING:
    from svp_nlp.quality_review import Doubt, Review

_SHOWN = 10  # rows of each kind on the screen, unless --top says otherwise
_WIDTH = 100


class ScoreName(str, enum.Enum):
    """What labels are ranked by."""

    self_confidence = "self_confidence"
    normalized_margin = "normalized_margin"
    activelab = "activelab"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def review(
    run_dir: RunArgument,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="So many labels, likely wrong or not. [default: all that are likely wrong]"),
    ] = None,
    write: Annotated[
        bool,
        typer.Option("--write", help="Give them to the page (svp label serve), and to labeling/review.csv in RUN."),
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option("--proxy", metavar="KIND", help="Models to ask, such as fasttext. [default: the recipe's proxy]"),
    ] = None,
    score: Annotated[
        ScoreName,
        typer.Option("--score", help="What labels are ranked by; activelab: where another annotator would help most."),
    ] = ScoreName.self_confidence,
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=2, help="Trainings, each without a part. [default: 10; 5 for one that has epochs]"),
    ] = None,
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """List rows where annotators differ, then labels that are likely wrong by models that did not learn from them."""
    with command(output, verbose):
        from svp_nlp.labeling.queue import LabelQueue
        from svp_nlp.quality_decisions import check_table, write_review
        from svp_nlp.quality_review import review_run

        if write:
            check_table(LabelQueue.open(run_dir))  # before models are trained
        found = review_run(run_dir, top=top, proxy=proxy, score=score.value, folds=folds)
        result = found.as_json()
        paths = {}
        if write:
            written = write_review(LabelQueue.open(run_dir), result)
            paths = {f"review_{kind}": str(path) for kind, path in written.items()}
        human = _lines(run_dir, found, shown=top or _SHOWN, paths=paths)
        show({**result, **paths}, output, quiet="\n".join(doubt.id for doubt in found.doubts), human=human)


def _lines(run_dir: Path, found: Review, *, shown: int, paths: dict[str, str]) -> list[str]:
    differ = [doubt for doubt in found.doubts if doubt.score is None]
    lines = _listed("rows where annotators differ", differ, _SHOWN) if differ else []
    lines += _listed("labels, the most suspicious first", found.doubts[len(differ) :], shown)
    alone = f"; {found.alone:,} are the only ones of their class and cannot be judged" if found.alone else ""
    decided = f"; {found.reviewed:,} were decided on before" if found.reviewed else ""
    lines.append(
        f"{found.labelled:,} labels, {found.likely:,} likely wrong by {found.proxy} in {found.folds} folds; "
        f"{found.conflicts:,} rows where annotators differ{decided}{alone}"
    )
    if found.seeds:
        ids = ", ".join(f"{seed.id} ({seed.given} -> {seed.suggested})" for seed in found.seeds[:_SHOWN])
        more = f" and {len(found.seeds) - _SHOWN:,} more" if len(found.seeds) > _SHOWN else ""
        lines.append(
            f"{len(found.seeds):,} of the seed labels are likely wrong as well: {ids}{more}; they count as they are in "
            "this run: correct their file before the next one"
        )
    if paths:
        lines += [
            f"written: {', '.join(paths.values())}",
            f"look at them: svp label serve {run_dir}, page /review; or fill in the column `decision` of the table and "
            f"take it in: svp label decide {run_dir} --file {paths['review_csv']}",
        ]
    elif found.doubts:
        lines.append(f"decide on one: svp label decide {run_dir} ID LABEL; on many: --write")
    return lines


def _listed(title: str, doubts: Sequence[Doubt], shown: int) -> list[str]:
    lines = [f"{title}:", "", *(line for doubt in doubts[:shown] for line in _doubt_lines(doubt))]
    more = len(doubts) - shown
    return [*lines, f"and {more:,} more, in --format json and --write", ""] if more > 0 else lines


def _doubt_lines(doubt: Doubt) -> list[str]:
    head = doubt.id if doubt.given is None else f"{doubt.id}  {doubt.given}"
    if doubt.suggested is not None:
        head += f" -> {doubt.suggested}"
    if doubt.score is not None:
        head += f"  ({doubt.score:.3f})"
    reason = "" if doubt.score is not None else f"  {doubt.reason}"
    return [head + reason, f"    {textwrap.shorten(doubt.text, _WIDTH, placeholder=' ...') or doubt.text[:_WIDTH]}", ""]


def decide(
    run_dir: RunArgument,
    id: Annotated[str | None, typer.Argument(metavar="ID", help="Of a row, as `svp label review` shows it.")] = None,
    label: Annotated[str | None, typer.Argument(metavar="LABEL", help="What it is; [skip]: nobody can tell.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Many: a table as `svp label review --write` wrote it, filled in.")
    ] = None,
    annotator: Annotated[str, typer.Option("--annotator", help="Who decides.")] = "reviewer",
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Decide on the label of a row, whatever was said before; that stays in the journal."""
    with command(output, verbose):
        from svp_nlp.labeling.queue import AFTER_THE_END, LabelQueue
        from svp_nlp.quality_decisions import write_decisions, write_table
        from svp_nlp.results import is_finished
        from svp_nlp.run import STEP_FILE

        if (file is None) != (id is not None and label is not None) or (file is not None and id is not None):
            raise RecipeError("expected ID and LABEL of one row, or --file with a table of many")
        queue = LabelQueue.open(run_dir)
        if id is not None and label is not None:
            decisions = [(id, label)]
            found = write_decisions(queue, decisions, annotator=annotator)
        else:
            assert file is not None
            decisions, found = write_table(queue, file, annotator=annotator)
        known = f"; {found['known']:,} were known" if found["known"] else ""
        changed = found["decided"] - found["kept"]
        after = AFTER_THE_END if is_finished(run_dir) else "its next round learns them"
        is_tested = any(queue.run_dir.glob(f"seed-*/test/labels/{STEP_FILE}"))
        if is_tested and any(queue.request_of[id].part == "test" for id, _ in decisions):
            after += "; rows of the test set count as they were when it was first used"
        lines = [f"{found['decided']:,} decisions written, {changed:,} of them another label than before{known}", after]
        show({"lines": lines, "run_dir": str(run_dir), **found}, output, quiet=str(found["decided"]))
