"""What all commands of `svp` share: formats, messages, and every way in which one can end.

JSON is one object on stdout; messages, logs and bars go to stderr.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from svp_nlp.errors import Interrupted, SVPError, WaitingForLabels, is_told
from svp_nlp.recipe_yaml import scrub


class Format(str, enum.Enum):
    """What goes to stdout."""

    human = "human"
    json = "json"
    quiet = "quiet"


FormatOption = Annotated[Format, typer.Option("--format", help="What goes to stdout; json is one object.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="More messages, and tracebacks.")]


def _rank_prefix() -> str:
    """`[rank 1] ` where this is not the main process of a launch."""
    rank = os.environ.get("RANK", "")
    return "" if rank in ("", "0") else f"[rank {rank}] "


class _ScrubbingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))  # the finished text: tokens may hide in arguments and tracebacks


def _start_logging(output: Format, verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    prefix = _rank_prefix().replace("%", "%%")
    shown = "%(message)s" if not verbose else "%(asctime)s %(name)s: %(message)s"
    handler.setFormatter(_ScrubbingFormatter(prefix + shown))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, _ScrubbingFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    ours = logging.INFO if output is Format.human else logging.WARNING
    if prefix:  # what it finds, rank 0 finds as well
        ours = logging.ERROR
    logging.getLogger("svp_nlp").setLevel(logging.DEBUG if verbose else ours)
    if output is not Format.human or not sys.stderr.isatty():
        # Read by datasets and huggingface_hub when they are imported, which is later.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """For a short command that makes a million objects, none of them garbage before the end: looking for it took a
    third of its time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextlib.contextmanager
def command(output: Format, verbose: bool) -> Iterator[None]:
    """Turn every way in which a command can end into a message and an exit code."""
    _start_logging(output, verbose)
    try:
        yield
    except SVPError as error:
        if is_told(error) or (_rank_prefix() and isinstance(error, Interrupted)):
            raise typer.Exit(error.exit_code) from None  # rank 0 says it
        _fail(error, str(error), error.exit_code, output, verbose)
    except KeyboardInterrupt as error:
        _fail(error, "interrupted; the same command goes on from here", Interrupted.exit_code, output, verbose)
    except BrokenPipeError:  # `svp ... | head`: nobody reads any more, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        hint = "" if verbose else " (run again with -v for the traceback)"
        _fail(error, f"{type(error).__name__}: {_one_line(error)}{hint}", 1, output, verbose)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"


def _fail(error: BaseException, message: str, exit_code: int, output: Format, verbose: bool) -> None:
    message = scrub(message)
    if verbose:
        typer.echo(scrub("".join(traceback.format_exception(error))), err=True)
    word = {Interrupted.exit_code: "stopped", WaitingForLabels.exit_code: "waiting"}.get(exit_code, "error")
    typer.echo(f"{_rank_prefix()}{word}: {message}", err=True)
    if output is Format.json and not _rank_prefix():
        print_json({"error": message, "kind": type(error).__name__, "exit_code": exit_code})
    raise typer.Exit(exit_code)


def print_json(value: Mapping[str, Any]) -> None:
    # allow_nan=False: NaN is not JSON, and a reader in another language would refuse all of it.
    typer.echo(scrub(json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False)))


def show(result: Mapping[str, Any], output: Format, *, quiet: str = "", human: Sequence[str] = ()) -> None:
    """Print what was asked for; `lines` in a result are for people, as `human` is."""
    if output is Format.json:
        print_json({key: value for key, value in result.items() if key != "lines"})
    elif output is Format.quiet:
        if quiet:
            typer.echo(quiet)
    else:
        typer.echo(scrub("\n".join([*result.get("lines", ()), *human])))
