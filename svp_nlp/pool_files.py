"""CSV and JSON lines to Arrow, so that every text arrives as it was written.

The readers of `datasets` are not used for these two formats: its CSV reader (pandas) turns the texts "NA", "null" and
"" into nulls and fills short rows silently, its JSON reader (pyarrow) turns texts that look like dates into dates
and names no line. Here text and id columns are strings whatever they look like, and an error names the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from svp_nlp.errors import PoolError
from svp_nlp.rows import write_arrow

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})?$"
_FLOAT = r"^(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?)?$"
_UTF8_BLOCK = 1 << 20
_JSON_ROWS = 10_000  # rows that are Python objects at one time
# A row must fit in a block; the second size is tried when one does not.
_CSV_BLOCKS = (32 << 20, 1 << 30)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def check_utf8(path: Path) -> None:
    """Raises PoolError with byte offset and line when a file is not UTF-8. O(file) time, O(1) memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, lines, held = 0, 1, 0
    with _open(path) as file:
        while True:
            block = file.read(_UTF8_BLOCK)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # `error.start` counts from the bytes that the decoder held back from the block before.
                at = offset - held + error.start
                lines += block[: max(0, error.start - held)].count(b"\n")
                utf16 = at == 0 and block[:2] in (b"\xff\xfe", b"\xfe\xff")
                raise PoolError(
                    f"{path}: not UTF-8 at byte {at:,} (line {lines:,}): {error.reason}; convert it first, for "
                    f"example: iconv -f {'utf-16' if utf16 else 'latin1'} -t utf-8 {path.name} > utf8-{path.name}"
                ) from None
            if not block:
                return
            held = len(decoder.getstate()[0])
            offset += len(block)
            lines += block.count(b"\n")


def _csv_header(path: Path, delimiter: str) -> list[str]:
    try:
        with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            header = next((row for row in csv.reader(text, delimiter=delimiter) if row), [])
    except (UnicodeDecodeError, csv.Error) as error:
        check_utf8(path)
        raise PoolError(f"{path}: no header line could be read ({error}); expected the column names") from None
    if not header:
        raise PoolError(f"{path}: the file is empty; expected a header line and at least one row")
    return header


def _csv_batches(
    path: Path, *, delimiter: str, header: Sequence[str], types: dict[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file; every column needs a type, nothing is inferred."""
    for block_size in _CSV_BLOCKS:
        rows = 0
        try:
            with _open(path) as file:
                reader = pc_csv.open_csv(
                    file,
                    read_options=pc_csv.ReadOptions(use_threads=False, block_size=block_size),
                    parse_options=pc_csv.ParseOptions(
                        delimiter=delimiter,
                        newlines_in_values=True,
                        # In a file with one column an empty line is an empty text, otherwise it is no row.
                        ignore_empty_lines=len(header) > 1,
                    ),
                    convert_options=pc_csv.ConvertOptions(
                        column_types=types, strings_can_be_null=False, null_values=[""]
                    ),
                )
                for batch in reader:
                    rows += batch.num_rows
                    yield batch
            return
        except pa.ArrowInvalid as error:
            if "straddl" in str(error) and rows == 0 and block_size != _CSV_BLOCKS[-1]:
                continue
            check_utf8(path)
            message = re.sub(r"\s+", " ", str(error))[:200]
            raise PoolError(f"{path}: {message} (the header is row 1); correct or quote that row") from None


def _csv_types(
    path: Path, delimiter: str, header: Sequence[str], text_columns: Sequence[str]
) -> dict[str, pa.DataType]:
    """Strings for text columns; for the others integers or floats where every cell is one."""
    strings = {name: pa.large_string() for name in header}
    numeric = {name: [pa.int64(), pa.float64()] for name in header if name not in text_columns}
    if not numeric:
        return strings
    for batch in _csv_batches(path, delimiter=delimiter, header=header, types=strings):
        for name, left in numeric.items():
            column = batch.column(name)
            for kind, pattern in ((pa.int64(), _INTEGER), (pa.float64(), _FLOAT)):
                if kind in left and not pc.all(pc.match_substring_regex(column, pattern=pattern)).as_py():
                    left.remove(kind)
    return strings | {name: left[0] for name, left in numeric.items() if left}


def _read_csv(files: Sequence[Path], text_columns: Sequence[str], delimiter: str | None) -> tuple[pa.Schema, Any]:
    def separator(path: Path) -> str:
        return delimiter or ("\t" if ".tsv" in path.suffixes else ",")

    headers = {path: _csv_header(path, separator(path)) for path in files}
    header = headers[files[0]]
    for path, other in headers.items():
        if repeated := sorted({name for name in other if other.count(name) > 1}):
            raise PoolError(f"{path}: column names repeat in the header: {repeated}; rename them")
        if other != header:
            raise PoolError(f"{path}: columns are {other}, those of {files[0]} are {header}; expected the same")
    each = [_csv_types(path, separator(path), header, text_columns) for path in files]
    types = {
        name: found.pop() if len(found := {kinds[name] for kinds in each}) == 1 else pa.large_string()
        for name in header
    }
    batches = (
        batch for path in files for batch in _csv_batches(path, delimiter=separator(path), header=header, types=types)
    )
    return pa.schema([(name, types[name]) for name in header]), batches


def _json_rows(path: Path, text_columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line that is not empty. Lines end at \\n only: U+2028 may stand in a text."""
    start = 0
    with _open(path) as file:
        for line, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError:
                check_utf8(path)
                raise
            start += len(raw)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise PoolError(f"{path}, line {line:,}: not JSON ({error}); expected one object per line") from None
            if not isinstance(row, dict):
                raise PoolError(
                    f"{path}, line {line:,}: holds a {type(row).__name__}; expected one object per line (JSON lines)"
                )
            for name in text_columns:
                value = row.get(name)
                if value is not None and not isinstance(value, str):
                    raise PoolError(
                        f"{path}, line {line:,}: {name!r} holds {json.dumps(value)[:60]} ({type(value).__name__}); "
                        "expected a string or null"
                    )
            if "\\u" in text:  # only an escape can bring a surrogate into UTF-8
                _refuse_surrogates(row, path, line)
            yield line, row


def _refuse_surrogates(row: dict[str, Any], path: Path, line: int) -> None:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PoolError(
            f"{path}, line {line:,}: lone surrogate \\u{ord(text[error.start]):04x}: no file format can store it; "
            "replace it with U+FFFD or remove it"
        ) from None


def _json_batches(path: Path, text_columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(line of the first row, rows) with text columns as large_string and the types of the others inferred."""

    def convert(lines: list[int], rows: list[dict[str, Any]]) -> tuple[int, pa.RecordBatch]:
        names = list(dict.fromkeys(name for row in rows for name in row))
        arrays = []
        for name in names:
            values = [row.get(name) for row in rows]
            try:
                arrays.append(pa.array(values, pa.large_string() if name in text_columns else None))
            except (pa.ArrowException, OverflowError) as error:
                message = str(error).splitlines()[0]
                raise PoolError(
                    f"{path}, lines {lines[0]:,} to {lines[-1]:,}: column {name!r} mixes types ({message}); "
                    "expected one type"
                ) from None
        return lines[0], pa.record_batch(arrays, names=names)

    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    for line, row in _json_rows(path, text_columns):
        lines.append(line)
        rows.append(row)
        if len(rows) == _JSON_ROWS:
            yield convert(lines, rows)
            lines, rows = [], []
    if rows:
        yield convert(lines, rows)


def _no_nulls(kind: pa.DataType) -> pa.DataType:
    return pa.large_string() if pa.types.is_null(kind) or pa.types.is_string(kind) else kind


def _read_jsonl(files: Sequence[Path], text_columns: Sequence[str], spill: Path) -> tuple[pa.Schema, Any]:
    """Parse once into an Arrow file per schema that turns up, then bring them to one schema."""
    parts: list[Path] = []
    schema: pa.Schema | None = None
    writer_schema: pa.Schema | None = None
    writer: Any = None
    try:
        for path in files:
            for line, batch in _json_batches(path, text_columns):
                if writer is None or batch.schema != writer_schema:
                    if writer is not None:
                        writer.close()
                    writer_schema = batch.schema
                    try:
                        schema = pa.unify_schemas(
                            [writer_schema] if schema is None else [schema, writer_schema], promote_options="permissive"
                        )
                    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
                        raise PoolError(
                            f"{path}, from line {line:,} on: {str(error).splitlines()[0]}; expected one type per column"
                        ) from None
                    parts.append(spill / f"part-{len(parts)}.arrow")
                    writer = pa.ipc.new_stream(str(parts[-1]), writer_schema)
                writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()
    if schema is None:
        raise PoolError(f"{files[0]}: no row; expected one JSON object per line")
    schema = pa.schema([(field.name, _no_nulls(field.type)) for field in schema])

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            with pa.memory_map(str(part)) as source:
                for batch in pa.ipc.open_stream(source):
                    columns = [
                        batch.column(field.name).cast(field.type)
                        if field.name in batch.schema.names
                        else pa.nulls(batch.num_rows, field.type)
                        for field in schema
                    ]
                    yield pa.record_batch(columns, schema=schema)
            part.unlink()

    return schema, batches()


def files_to_arrow(
    files: Sequence[Path], text_columns: Sequence[str], *, delimiter: str | None = None
) -> Callable[[Path], None]:
    """A function that reads CSV or JSON lines into `data.arrow` in a directory. O(1) memory: blocks of rows.

    Args:
        files: all of one format, `.gz` or not; rows keep their order.
        text_columns: read as strings whatever they look like ("007", "1.50", "NA"); the id column too.
        delimiter: of CSV files; None: a tabulator in .tsv files, else a comma.
    Raises:
        PoolError: (when called) a broken row, not UTF-8, a lone surrogate, a text that is no
            string; names file and line.
    """

    def build(directory: Path) -> None:
        try:
            if any(suffix in JSON_SUFFIXES for suffix in files[0].suffixes):
                schema, batches = _read_jsonl(files, text_columns, directory)
            else:
                schema, batches = _read_csv(files, text_columns, delimiter)
            write_arrow(directory / "data.arrow", schema, batches)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            names = ", ".join(map(str, files))
            raise PoolError(f"{names}: damaged gzip data ({error}); copy or compress the file again") from None

    return build
