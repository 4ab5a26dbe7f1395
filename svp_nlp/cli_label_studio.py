"""`svp label push` and `svp label pull`: labels through a Label Studio server."""

from __future__ import annotations

import enum
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svp_nlp.console import Format, FormatOption, VerboseOption, command, show
from svp_nlp.errors import LabelStudioRefused

if TYPE_CHECKING:
    from svp_nlp.labeling.label_studio_client import Client
    from svp_nlp.labeling.queue import LabelQueue


class Tool(str, enum.Enum):
    """A labelling tool with a server."""

    label_studio = "label-studio"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="LABEL_STUDIO_URL", help="Of the server: http://localhost:8080. [default: where it was last]"
    ),
]
ProjectOption = Annotated[str | None, typer.Option("--project", metavar="TITLE|NUMBER", help="[default: the last one]")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="LABEL_STUDIO_API_KEY",
        help="From Account & Settings of Label Studio; in the environment other users of this machine cannot see it.",
    ),
]


def push(
    run_dir: RunArgument,
    to: Annotated[Tool, typer.Option("--to", help="The tool.")] = Tool.label_studio,
    url: UrlOption = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project", metavar="TITLE|NUMBER", help="A new title makes a project. [default: the last, or RUN's name]"
        ),
    ] = None,
    token: TokenOption = None,
    suggestions: Annotated[
        bool, typer.Option("--suggestions", help="Show what the proxy would say; people then agree with it more often.")
    ] = False,
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Make tasks in a labelling tool of the rows that wait for an answer; calling it again adds what is missing."""
    with command(output, verbose):
        from svp_nlp.labeling import label_studio
        from svp_nlp.labeling.queue import LabelQueue

        assert to is Tool.label_studio
        queue = LabelQueue.open(run_dir)
        client = _client(queue, url, token)
        done = label_studio.push(queue, client, project=_number_or_title(project), suggestions=suggestions)
        lines = [
            f"{done.new:,} rows sent to {'the new ' if done.created else ''}project {done.title!r}; "
            f"{done.known:,} that wait were there before",
            *(["classes were added to its labelling configuration"] if done.config_changed else []),
            *([f"{done.twice:,} rows have more than one task there; remove the others"] if done.twice else []),
            done.url,
            f"when people have answered: svp label pull {run_dir}",
        ]
        show({"lines": lines, **asdict(done)}, output, quiet=done.url)


def pull(
    run_dir: RunArgument,
    url: UrlOption = None,
    project: ProjectOption = None,
    token: TokenOption = None,
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Take in what people have answered in Label Studio; calling it again takes only what is new."""
    with command(output, verbose):
        from svp_nlp.labeling.label_studio_pull import pull as pull_answers
        from svp_nlp.labeling.queue import AFTER_THE_END, LabelQueue
        from svp_nlp.results import is_finished

        queue = LabelQueue.open(run_dir)
        done = pull_answers(queue, _client(queue, url, token), project=_number_or_title(project))
        after = AFTER_THE_END
        if not is_finished(run_dir):
            after = "no row waits any more: call `svp run` again"
        waiting = sum(c.open + c.conflicts for c in map(queue.counts, queue.requests))
        lines = [
            f"{done.new:,} new answers from project {done.title!r} ({done.skipped:,} skips, {done.changed:,} "
            f"changed); {done.known:,} were known",
            *([f"{done.empty:,} annotations are empty: no answers"] if done.empty else []),
            *([f"{done.foreign:,} tasks there are not of this run; they were left alone"] if done.foreign else []),
            f"{waiting:,} rows still wait for an answer" if waiting else after,
        ]
        show({"lines": lines, **asdict(done), "waiting": waiting}, output, quiet=str(done.new))


def _client(queue: LabelQueue, url: str | None, token: str | None) -> Client:
    from svp_nlp.labeling.label_studio import remembered
    from svp_nlp.labeling.label_studio_client import Client

    if url is None:
        before = remembered(queue)
        if before is None:
            raise LabelStudioRefused("which server? give --url, such as http://localhost:8080")
        url = before.url
    return Client(url, token or "")


def _number_or_title(project: str | None) -> int | str | None:
    return int(project) if project is not None and project.isascii() and project.isdigit() else project
