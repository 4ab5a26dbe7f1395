"""What a format of label files is, and how such files are read before their format is known."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svp_nlp.errors import LabelError
from svp_nlp.labeling.table import About, LabelRow

_PACKED = {b"PK\x03\x04": "an Excel workbook or a ZIP archive", b"\x1f\x8b": "compressed", b"\xd0\xcf": "an old .xls"}


@dataclass(frozen=True)
class FileFormat:
    """A format of label files.

    Attributes:
        suffix: of files that are written.
        sniff: whether a text is of this format, by its beginning; the first format that says so is taken.
        parse: the rows of a text; raises LabelError where there is no telling rows apart.
        render: the text of rows.
        has_bom: files begin with a byte order mark, without which Excel takes UTF-8 for the code page of its computer.
    """

    name: str
    title: str
    suffix: str
    sniff: Callable[[str], bool]
    parse: Callable[[str], list[LabelRow]]
    render: Callable[[Sequence[LabelRow], About], str]
    has_bom: bool = False


def read_text(path: Path) -> str:
    """The text of a file, UTF-8 or, as spreadsheets also write it, UTF-16 with a byte order mark.

    Raises:
        LabelError: there is none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabelError(f"{path} cannot be read ({error.strerror}); expected a file of labels") from None
    for magic, what in _PACKED.items():
        if data.startswith(magic):
            raise LabelError(f"{path} is {what}; save it as CSV UTF-8, or unpack it, and import that")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, name = "utf-16", "UTF-16"
    else:
        encoding, name = "utf-8-sig", "UTF-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"{path} is not {name} (line {line:,}, byte {error.start:,}); save it as CSV UTF-8, or convert it: "
            f"iconv -f cp1252 -t utf-8 {path.name} > utf8-{path.name}"
        ) from None
    if not text or text.isspace():
        raise LabelError(f"{path} is empty; expected rows with svp_id or text, and label")
    return text


def json_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank.

    Raises:
        LabelError: a line is no JSON object; names the first.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise LabelError(f"line {number:,} is not JSON ({error}); expected one object a line") from None
        if not isinstance(value, dict):
            raise LabelError(f"line {number:,} is {type(value).__name__} in JSON; expected an object")
        yield number, value


def first_object(text: str) -> dict[str, Any]:
    """The object on the first line of JSON lines; an empty one where that is something else."""
    try:
        value = json.loads(text.lstrip().split("\n", 1)[0])
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
