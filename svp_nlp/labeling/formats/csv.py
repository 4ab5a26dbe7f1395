"""CSV for spreadsheets: opened there, no cell is a formula, and what is read back is what was written."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import re
from collections.abc import Iterator, Sequence
from operator import itemgetter

from svp_nlp.errors import LabelError
from svp_nlp.labeling.formats.base import FileFormat
from svp_nlp.labeling.table import COLUMNS, About, LabelRow, as_round

HEADER = (*COLUMNS, "kind", "note", "suggestion")
_READ = ("svp_id", "label", "text", "annotator", "timestamp", "source", "round", "kind", "note", "image")
_DELIMITERS = (",", ";", "\t")
_ESCAPE = "'"
_BETWEEN = "\0"
_STARTS_WITH_ESCAPE = f"{_BETWEEN}{_ESCAPE}"
_LONGEST_HEADER = 1_000_000  # characters: of all of a large file, a copy would be made
# What begins a formula; the wide ones do so where Excel speaks Japanese or Chinese (OWASP, CSV injection).
_ESCAPED = frozenset("=+-@\t\r\n" + "\uff1d\uff0b\uff0d\uff20" + _ESCAPE)
# Ids and classes of which a spreadsheet makes other ones: 007, 1.10, 12345678901234567, 1e5, 3-4, TRUE.
_NUMBER_LIKE = re.compile(r"[\d.,:/+\-%\s]*(?:[eE][\d+\-]*)?|true|false", re.IGNORECASE)
_LONGEST_CELL = 2**31 - 1


def escape(cell: str) -> str:
    """The cell with an apostrophe before it where a spreadsheet would take it for a formula; see `unescape`."""
    return _ESCAPE + cell if cell and cell[0] in _ESCAPED else cell


def unescape(cell: str) -> str:
    """The inverse of `escape`; the apostrophe of a word such as 'tis stays."""
    return cell[1:] if len(cell) > 1 and cell[0] == _ESCAPE and cell[1] in _ESCAPED else cell


def escape_id(cell: str) -> str:
    """As `escape`, also where a spreadsheet would take the cell for a number or a date."""
    return _ESCAPE + cell if cell and _NUMBER_LIKE.fullmatch(cell) else escape(cell)


def unescape_id(cell: str) -> str:
    """The inverse of `escape_id`."""
    if len(cell) > 1 and cell[0] == _ESCAPE and _NUMBER_LIKE.fullmatch(cell[1:]):
        return cell[1:]
    return unescape(cell)


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_cells(text: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The column names of a CSV text in lower case, and its rows, as long as these, with the line on which each ends.

    The delimiter is the one that gives most column names that we know. What a short row lacks is empty.

    Raises:
        LabelError: a column stands twice; while iterating: a row has too many cells, or quotes do not close.
    """
    header = max((_header(text, mark) for mark in _DELIMITERS), key=lambda names: len({*names} & {*HEADER}))
    delimiter = max(_DELIMITERS, key=lambda mark: len({*_header(text, mark)} & {*HEADER}))
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise LabelError(f"the columns {', '.join(twice)} stand twice; rename or remove one of each")

    def rows() -> Iterator[tuple[int, list[str]]]:
        with _long_cells():
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            try:
                next(reader)
                for cells in reader:
                    if len(cells) != len(header):
                        if any(cell.strip() for cell in cells[len(header) :]):
                            raise LabelError(
                                f"line {reader.line_num:,} has {len(cells):,} cells, the header {len(header):,}; put "
                                "texts with commas into quotes"
                            )
                        cells = (cells + [""] * len(header))[: len(header)]
                    if any(cells):
                        yield reader.line_num, cells
            except csv.Error as error:
                raise LabelError(f"line {reader.line_num:,} is no CSV ({error}); expected closed quotes") from None

    return header, rows()


def _header(text: str, delimiter: str) -> list[str]:
    with _long_cells():
        names = next(csv.reader(io.StringIO(text[:_LONGEST_HEADER], newline=""), delimiter=delimiter), [])
    return [name.strip().lower() for name in names]


def sniff(text: str) -> bool:
    return not text.lstrip().startswith(("{", "["))


def parse(text: str) -> list[LabelRow]:
    """Rows of a text.

    Raises:
        LabelError: it has other columns, or is no CSV.
    """
    header, cells = read_cells(text)
    shown = ", ".join(header[:12])[:200]
    missing = LabelError(f"the columns are {shown}; expected svp_id or text, and label")
    if not {"svp_id", "text"} & {*header} or not {"label", "kind"} & {*header}:
        raise missing
    wanted = itemgetter(*(header.index(name) if name in header else len(header) for name in _READ))
    rows, round_of = [], functools.cache(as_round)  # few rounds, many rows
    for line, values in cells:
        found = wanted([*values, ""])
        if _STARTS_WITH_ESCAPE in _BETWEEN + _BETWEEN.join(found):  # once a row, for most have none
            found = (*map(unescape_id, found[:2]), *map(unescape, found[2:]))
        id, label, text, annotator, timestamp, source, round, kind, note, image = found
        rows.append(
            LabelRow(
                id, text, label, annotator, timestamp, source, round_of(round), kind, note, image, at=f"line {line}"
            )
        )
    if "label" not in header and not any(row.kind.strip() for row in rows):
        raise missing
    return rows


def render(rows: Sequence[LabelRow], about: About) -> str:
    """The text of rows; images by the path of their file, in a column of that name."""
    has_images = any(row.image for row in rows)
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(["image" if has_images and name == "text" else name for name in HEADER])
    writer.writerows(
        [
            escape_id(row.svp_id),
            escape(row.image if has_images else row.text),
            escape_id(row.label),
            escape(row.annotator),
            escape(row.timestamp),
            escape(row.source),
            "" if row.round is None else row.round,
            row.kind,
            escape(row.note),
            escape_id(row.suggestions[0][0]) if row.suggestions else "",
        ]
        for row in rows
    )
    return file.getvalue()


CSV = FileFormat("csv", "CSV for spreadsheets", ".csv", sniff, parse, render, has_bom=True)
