"""Formats of label files, one module each. All are read into the table of `table.py` and written from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svp_nlp.errors import LabelError, RecipeError, did_you_mean
from svp_nlp.labeling.formats.base import FileFormat, read_text
from svp_nlp.labeling.formats.csv import CSV
from svp_nlp.labeling.formats.doccano import DOCCANO
from svp_nlp.labeling.formats.jsonl import JSONL
from svp_nlp.labeling.formats.label_studio import LABEL_STUDIO
from svp_nlp.labeling.formats.prodigy import PRODIGY
from svp_nlp.labeling.table import About, LabelRow

# In the order in which a file is asked whether it is one: the special ones first.
FORMATS: dict[str, FileFormat] = {one.name: one for one in (LABEL_STUDIO, PRODIGY, DOCCANO, JSONL, CSV)}


def format_named(name: str) -> FileFormat:
    """A format by its name, also as `label-studio`.

    Raises:
        RecipeError: there is none.
    """
    found = FORMATS.get(name.lower().replace("-", "_"))
    if found is None:
        raise RecipeError(
            f"{name!r} is no format of label files{did_you_mean(name, FORMATS)}; expected {', '.join(sorted(FORMATS))}"
        )
    return found


def read_rows(path: str | Path, *, format: str | None = None) -> tuple[FileFormat, list[LabelRow]]:
    """The rows of a file, and the format that it is in.

    Args:
        format: None: as the file looks.
    Raises:
        LabelError: it cannot be read as that.
        RecipeError: no such format.
    """
    path = Path(path)
    chosen = None if format is None else format_named(format)
    text = read_text(path)
    try:
        chosen = chosen or next((one for one in FORMATS.values() if one.sniff(text)), JSONL)
        return chosen, chosen.parse(text)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, OSError, RecursionError) as error:
        # A list where the tool writes an object, a time that no calendar has: only its own files are foreseen.
        name = "a file of labels" if chosen is None else chosen.title
        raise LabelError(
            f"{path} cannot be read as {name} ({type(error).__name__}: {error}); export it again, or name another "
            "format by --from"
        ) from None


def write_rows(rows: Sequence[LabelRow], format: FileFormat, *, about: About, bom: bool | None = None) -> bytes:
    """The content of a file with these rows.

    Args:
        bom: with a byte order mark; None: as is usual for the format.
    """
    encoding = "utf-8-sig" if (format.has_bom if bom is None else bom) else "utf-8"
    return format.render(rows, about).encode(encoding, "replace")
