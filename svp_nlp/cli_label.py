"""`svp label ...`: what people who label do with a run; each command lies in a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svp_nlp.cli_label_files import export, import_
from svp_nlp.cli_label_studio import pull, push
from svp_nlp.cli_review import decide, review
from svp_nlp.cli_serve import serve
from svp_nlp.console import Format, FormatOption, VerboseOption, command, show

label_app = typer.Typer(
    help="Label what a run asks for: in the browser, in files, in Label Studio.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
label_app.command()(export)
label_app.command("import")(import_)
label_app.command()(push)
label_app.command()(pull)
label_app.command()(review)
label_app.command()(decide)
label_app.command()(serve)


@label_app.command()
def finish(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Ask for no more rows: the next `svp run` takes the labels that there are, and trains the target."""
    with command(output, verbose):
        from svp_nlp.labeling.queue import LabelQueue

        queue = LabelQueue.open(run_dir)
        labelled = sum(queue.counts(request).labelled for request in queue.requests if request.part == "train")
        queue.request_finish({"labelled": labelled})
        lines = [f"{labelled:,} rows are labelled; call the same `svp run` again: it trains on them and asks no more"]
        tests = [queue.counts(request) for request in queue.requests if request.part == "test"]
        if missing := sum(counts.open for counts in tests):
            lines.append(f"{missing:,} rows of the test set are still to be labelled before it is tested")
        if differ := sum(counts.conflicts for counts in tests):
            lines.append(
                f"annotators differ on {differ:,} rows of the test set, left out unless somebody decides: svp label "
                f"review {run_dir}"
            )
        show({"lines": lines, "run_dir": str(run_dir), "labelled": labelled}, output, quiet=str(labelled))
