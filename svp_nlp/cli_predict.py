"""`svp predict`: labels for a file, by what a run has trained."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from svp_nlp.console import Format as OutputFormat
from svp_nlp.console import FormatOption, VerboseOption, command, show
from svp_nlp.errors import RecipeError

_SHOWN = 5


class ModelRole(str, enum.Enum):
    """Which model of a run."""

    target = "target"
    proxy = "proxy"


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, a model directory, or a model's Hub id.")],
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="What to label: CSV, JSONL, Parquet, a folder, a Hub dataset."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Label this one text instead of a file.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--output", help="A .csv, .jsonl or .parquet file. [default: FILE-predicted]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")] = False,
    role: Annotated[
        ModelRole | None, typer.Option("--model", help="Of a run. [default: the target; the proxy where there is none]")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--text-column", help="Of FILE; may be repeated. [default: as in the recipe of the run]"),
    ] = None,
    image_column: Annotated[str | None, typer.Option("--image-column", help="Of FILE, for models of images.")] = None,
    split: Annotated[str, typer.Option("--split", help="Of a dataset or folder.")] = "train",
    all_classes: Annotated[bool, typer.Option("--all-classes", help="A column svp_p_CLASS for each class.")] = False,
    output: FormatOption = OutputFormat.human,
    verbose: VerboseOption = False,
) -> None:
    """Label a file, or one text, with a trained model: the likeliest class and its probability."""
    with command(output, verbose):
        if (file is None) == (text is None):
            raise RecipeError("expected a FILE, or one text: svp predict RUN FILE, svp predict RUN --text 'some text'")
        from svp_nlp.predict import default_output, open_model, open_rows, predict_file, predict_texts

        target = None
        if file is not None:
            target = directory or default_output(file)
            if target.exists() and not overwrite:
                raise RecipeError(f"{target} is there already; name another file with --output, or say --overwrite")
        model = open_model(run, role=None if role is None else role.value)
        if text is not None:
            if model.modality == "image":
                raise RecipeError(f"{model.name} reads images; name a file or folder with images")
            probs = predict_texts(model, [text])[0]
            best = sorted(zip(model.predictor.class_names, probs.tolist(), strict=True), key=lambda pair: -pair[1])
            show(
                {"label": best[0][0], "probability": best[0][1], "probabilities": dict(best), "model": model.name},
                output,
                quiet=best[0][0],
                human=[f"{share:7.2%}  {name}" for name, share in best[:_SHOWN]],
            )
            return
        assert file is not None and target is not None
        named = (image_column,) if image_column else tuple(columns or ()) or model.columns
        pool = open_rows(file, columns=named, modality=model.modality, split=split)
        counts = predict_file(model, pool, target, all_classes=all_classes)
        blank = counts.pop("", 0)
        lines = [f"{count:>9,}  {name}" for name, count in counts.items()]
        if blank:
            lines.append(f"{blank:>9,}  without a {model.modality}: not labelled")
        show(
            {"output": str(target), "rows": len(pool), "labels": counts, "blank": blank, "model": model.name},
            output,
            quiet=str(target),
            human=[f"by the {model.name}", *lines, str(target)],
        )
