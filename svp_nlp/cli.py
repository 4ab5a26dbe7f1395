"""The `svp` command. Heavy imports stay inside the commands, so that `svp --help` answers at once.

JSON is one object on stdout; messages, logs and bars go to stderr. Exit codes: 0 done, 1 failed, 2 bad recipe, data or
usage (found before any work), 3 waiting for labels, 4 interrupted and resumable, 5 remote conflict.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from svp_nlp.cli_hub import pull, push
from svp_nlp.cli_label import label_app
from svp_nlp.cli_predict import predict
from svp_nlp.cli_reproduce import reproduce
from svp_nlp.console import Format, FormatOption, VerboseOption, command, print_json, show, without_gc
from svp_nlp.errors import RecipeError
from svp_nlp.files import safe_name
from svp_nlp.recipe_yaml import find_recipe, recipes_directory, shipped_recipes

app = typer.Typer(
    name="svp",
    help="Selection via Proxy: a small model chooses what a large one learns from.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List the shipped recipes, or show one.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(label_app, name="label")
app.command()(push)
app.command()(pull)
app.command()(reproduce)
app.command()(predict)


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: proxy.epochs=5. May be repeated."),
]


def default_run_directory(recipe_file: Path) -> Path:
    """`runs/<name of the file>`; shipped recipes, whose file names repeat, are told apart by their folder."""
    stem = recipe_file.name.removesuffix(".yaml").removesuffix(".yml")
    with contextlib.suppress(RecipeError):
        if recipe_file.resolve().parent.parent == recipes_directory():
            stem = f"{recipe_file.resolve().parent.name}-{stem}"
    return Path("runs") / safe_name(stem, "the recipe's file name, from which the run directory gets its name,")


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where all results go. [default: runs/<recipe>]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan and its cost, write nothing.")
    ] = False,
    accelerate: Annotated[
        str | None,
        typer.Option(
            "--accelerate",
            metavar="NAME",
            help="Start several processes: cpu_2proc, ddp, ddp_multinode, fsdp2, or a file of `accelerate config`.",
        ),
    ] = None,
    num_processes: Annotated[
        int | None,
        typer.Option("--num-processes", min=1, help="With --accelerate: how many. [default: as its file says]"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="KIND", help="Who scores the pool: local, processes or ray.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Workers of that engine.")] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="A Ray cluster to score on: auto, or host:port.")
    ] = None,
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Do what a recipe says; on the same run directory, go on where it stopped."""
    with command(output, verbose):
        from svp_nlp.ranks import current_launch
        from svp_nlp.recipe import load_recipe

        launch = current_launch()
        settings = list(overrides or ())
        if workers is not None and engine is None and ray_address is None:
            engine = load_recipe(recipe, settings).engine.kind  # not every one has workers
        settings += _engine_overrides(engine, workers, ray_address)
        loaded = load_recipe(recipe, settings)
        directory = run_dir or default_run_directory(find_recipe(recipe))
        if dry_run:
            from svp_nlp.plan import plan
            from svp_nlp.recipe_checks import forbidden_changes
            from svp_nlp.run import check_directory

            if launch.world_size > 1:
                raise RecipeError("--dry-run probes one process; start it without a launcher")
            check_directory(directory, recipe=loaded.meaning, differences=forbidden_changes)
            show(plan(loaded), output)
            return
        if accelerate is not None or num_processes is not None:
            from svp_nlp.start import start

            if launch.world_size > 1:
                raise RecipeError("--accelerate starts processes, but these were started by a launcher; leave it out")
            arguments = ["run", recipe, "--run-dir", str(directory), "--format", output.value]
            arguments += [part for value in settings for part in ("--set", value)]
            raise typer.Exit(
                start(
                    accelerate,
                    num_processes=num_processes,
                    run_dir=directory,
                    arguments=[*arguments, *(["-v"] if verbose else [])],
                )
            )
        from svp_nlp.experiment import run_recipe
        from svp_nlp.run import stop_on_signals

        with stop_on_signals() as stop_requested:
            result = run_recipe(loaded, directory, stop_requested=stop_requested)
        if launch.rank > 0:
            return
        summary = result.pop("report")
        if output is Format.human:
            _print_table(summary)
        shown = {"report": result["report_html"], "selected": result["selected"]}
        if published := result["published"]:
            shown["published"] = f"{', '.join(published['versions']) or 'nothing'} of {published['url']}"
        human = [f"{name:<10}{path}" for name, path in shown.items() if path]
        show(result, output, quiet=result["selected"] or result["run_dir"], human=["", *human])


def _engine_overrides(engine: str | None, workers: int | None, ray_address: str | None) -> list[str]:
    if ray_address is not None and engine not in (None, "ray"):
        raise RecipeError(f"--ray-address goes with --engine ray, not with {engine}; leave one of them out")
    if workers is not None and engine == "local":
        raise RecipeError("--workers goes with --engine processes or ray, not with local; name one, or leave it out")
    if ray_address is not None:
        engine = "ray"
    values = {"kind": engine, "workers": workers, "address": ray_address}
    return [f"engine.{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def _print_table(summary: Any) -> None:
    from rich.console import Console

    from svp_nlp.report import console_table

    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    Console(file=sys.stdout, highlight=False).print(console_table(summary, ascii_only=not is_unicode))


@app.command()
def status(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """How far a run is, with the fingerprint of each selection."""
    with command(output, verbose), without_gc():
        from svp_nlp.results import run_status

        found = run_status(run_dir)
        show(found, output, quiet=str(found["state"]), human=_status_lines(run_dir, found))


def _status_lines(run_dir: Path, found: Mapping[str, Any]) -> list[str]:
    lines = [f"{run_dir}: {found['state']}"]
    for title, key in (("rounds", "rounds"), ("targets", "targets")):
        rows: Sequence[Mapping[str, Any]] = found.get(key) or ()
        if rows:
            lines += ["", title, *_table(rows)]
    people = found.get("people")
    return lines if not people or not people["requests"] else lines + _people_lines(run_dir, people, found["state"])


def _people_lines(run_dir: Path, people: Mapping[str, Any], state: str) -> list[str]:
    from svp_nlp.results import waiting_rows

    lines = ["", "labelled by people", *_table(people["requests"])]
    if people["annotators"]:
        named = [{**annotator, "name": annotator["name"] or "(no name)"} for annotator in people["annotators"]]
        lines += ["", "annotators", *_table(named)]
    lines += ["", f"{people['labelled']:,} of {people['planned']:,} rows are labelled"]
    if people["seconds_left"]:
        from svp_nlp.report_format import duration

        lines[-1] += f"; at this pace the others take one person {duration(people['seconds_left'])}"
    if people["stopped"]:
        lines.append(people["stopped"])
    elif people["finish_requested"]:
        lines.append("no more rows will be asked for: svp label finish was called")
    if state == "ready":
        answered = "" if people["open"] else "all rows that were asked for have an answer: "
        lines.append(f"{answered}call `svp run RECIPE` again")
    elif state != "done" and (waiting := waiting_rows(people)):
        lines.append(f"{waiting:,} rows wait for an answer: svp label serve {run_dir}")
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [name for name in rows[0] if not isinstance(rows[0][name], dict | list)]
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are compared.")],
    directory: Annotated[
        Path | None, typer.Option("--output", help="Where to write. [default: the run itself, or ./report for several]")
    ] = None,
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Write report.html, report.md and report.json for one run, or for several together."""
    with command(output, verbose):
        from svp_nlp.report import summarize, write_report
        from svp_nlp.results import collect

        collected = [collect(run_dir) for run_dir in runs]
        files = write_report(collected, directory or (runs[0] if len(runs) == 1 else Path("report")))
        if output is Format.human:
            _print_table(summarize(collected))
        paths = [str(path) for path in files.values()]
        show(dict(files), output, quiet="\n".join(paths), human=["", *paths])


@recipes_app.callback()
def recipes(context: typer.Context, output: FormatOption = Format.human, verbose: VerboseOption = False) -> None:
    """List the shipped recipes."""
    if context.invoked_subcommand is not None:
        return
    with command(output, verbose):
        found = {name: _first_comment(find_recipe(name)) for name in shipped_recipes()}
        width = max(map(len, found), default=0)
        human = [f"{name:<{width}}  {title}" for name, title in found.items()]
        show({"recipes": found}, output, quiet="\n".join(found), human=human)


@recipes_app.command("show")
def show_recipe(name: RecipeArgument, output: FormatOption = Format.human, verbose: VerboseOption = False) -> None:
    """Print a shipped recipe, to read it or to start from it."""
    with command(output, verbose):
        text = find_recipe(name).read_text(encoding="utf-8")
        show({"name": name, "text": text}, output, quiet=text.rstrip("\n"), human=text.splitlines())


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    with command(Format.human, verbose=False):
        from svp_nlp.recipe import recipe_schema

        print_json(recipe_schema())


@app.command()
def doctor(output: FormatOption = Format.human, verbose: VerboseOption = False) -> None:
    """Show versions, devices, Hub access and disk space."""
    with command(output, verbose):
        from svp_nlp.doctor import examine

        found = examine()
        lines = [f"{name:<{max(map(len, found))}}  {value}" for name, value in found.items()]
        show(found, output, human=lines)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("svp_nlp"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Selection via Proxy: a small model chooses what a large one learns from."""


def main() -> None:
    """Entry point of `svp`."""
    code: Any = 0
    try:
        app()
    except SystemExit as end:
        code = end.code
    if "SVP_EXIT_FILE" in os.environ:
        from svp_nlp.start import leave

        code = leave(int(code or 0))
    if "RANK" in os.environ and "torch" in sys.modules:
        from svp_nlp.launch import part

        part(failed=code == 1)
    sys.exit(code)
