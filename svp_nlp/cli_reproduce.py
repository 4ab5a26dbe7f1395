"""`svp reproduce`."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from svp_nlp.console import Format, FormatOption, VerboseOption, command, show
from svp_nlp.errors import RecipeError


class Scale(str, enum.Enum):
    """How much of the paper's setting is run."""

    paper = "paper"
    gpu = "gpu"
    cpu = "cpu"


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="cifar10, amazon_polarity, ..., or a file like theirs."),
    ] = None,
    scale: Annotated[Scale, typer.Option("--scale", help="As published, on one GPU, or on a few cores.")] = Scale.paper,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="The data, where they are not to come from the Hub.")
    ] = None,
    note: Annotated[
        str | None, typer.Option("--note", help="What is to be known about these data; it stands beside the numbers.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Columns of --data: pool.image_column=image. May be repeated."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where all runs go. [default: runs/reproduce/TABLE-SCALE]")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated. [default: the recipes']")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", help="Where the table goes. [default: recipes/paper/results; of your tables: results]"
        ),
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Only show the table of this results file.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan and its cost, write nothing.")
    ] = False,
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Run a table of the paper and print it beside the published numbers; on the same directory, go on."""
    with command(output, verbose):
        if from_file is not None:
            given = [data, note, settings, run_dir, seeds, results, dry_run or None]
            if any(value is not None for value in given):
                raise RecipeError("--from only shows a table that is there; leave the other options out")
            from svp_nlp.reproduce import read_results

            found = read_results(from_file)
            if table is not None and found.results["table"] != table:
                raise RecipeError(f"{from_file} holds the table {found.results['table']}, not {table}")
            _print(found, {}, output)
            return
        if table is None:
            from svp_nlp.reproduce_tables import table_names

            raise RecipeError(f"which table? one of {', '.join(table_names())}, or a file like theirs")
        from svp_nlp.ranks import current_launch

        launch = current_launch()
        options: dict[str, Any] = {"data": data, "seeds": seeds, "settings": settings or ()}
        if dry_run:
            if launch.world_size > 1:
                raise RecipeError("--dry-run probes one process; start it without a launcher")
            _show_plan(table, scale.value, run_dir, options, output)
            return
        from svp_nlp.reproduce import reproduce as run_table
        from svp_nlp.run import stop_on_signals

        with stop_on_signals() as stop_requested:
            found, paths = run_table(
                table,
                scale.value,
                run_dir=run_dir,
                results_dir=results,
                note=note,
                stop_requested=stop_requested,
                **options,
            )
        if launch.rank == 0:
            _print(found, {kind: str(path) for kind, path in paths.items()}, output)


def _show_plan(table: str, scale: str, run_dir: Path | None, options: dict[str, Any], output: Format) -> None:
    from svp_nlp.plan import plan
    from svp_nlp.report_format import duration
    from svp_nlp.reproduce import check_place, default_directory
    from svp_nlp.reproduce_tables import plan_table

    planned = plan_table(table, scale, **options)
    check_place(planned, run_dir or default_directory(planned.table, scale))
    rows = {row.name: plan(row.recipe) for row in planned.rows}
    seconds = sum(found["estimate"]["seconds"] for found in rows.values())
    lines = [f"{planned.title}. Scale {planned.scale}: {planned.says}"]
    for name, found in rows.items():
        lines += ["", name, *(f"  {line}" for line in found["lines"][:-1])]
    lines += ["", f"in all  about {duration(seconds)} on this machine, by small probes", "nothing was written"]
    plans = {name: {key: value for key, value in found.items() if key != "lines"} for name, found in rows.items()}
    show({"lines": lines, "table": planned.table, "scale": scale, "rows": plans, "seconds": seconds}, output)


def _print(found: Any, paths: dict[str, str], output: Format) -> None:
    from rich.console import Console

    from svp_nlp.reproduce_format import CONSOLE_WIDTH, as_json, console_parts

    if output is Format.human:
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        console = Console(file=sys.stdout, highlight=False, markup=False, width=CONSOLE_WIDTH)
        for part in console_parts(found, ascii_only=not is_unicode):
            console.print(part)
    show({**as_json(found), **paths}, output, quiet="\n".join(paths.values()), human=list(paths.values()))
