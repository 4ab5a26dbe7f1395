"""What the Hub received: a log of requests, and their bodies, to be searched for what must never be sent.

Bodies lie in memory up to 64 KB, else on disk; those of large files are not kept twice but looked up in the store.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

_MEMORY_BYTES = 1 << 16
_READ_BYTES = 1 << 20
_STORED = re.compile(r"/_storage/([0-9a-f]{64})")

Entry = dict[str, Any]
"""One request: number, method, path, query, headers (without authorization), host, authorized, user, status, ms."""


class Record:
    """Requests in the order in which they were answered, and the bodies by their number.

    Args:
        stored: where the store has the large file with this sha256.
    """

    def __init__(self, stored: Callable[[str], Path]) -> None:
        self.requests: list[Entry] = []
        self._stored = stored
        self._bodies: dict[int, IO[bytes]] = {}

    def clear(self) -> None:
        self.requests = []
        for body in self._bodies.values():
            body.close()
        self._bodies = {}

    def keep(self, number: int, path: str, receive: Callable[[], Any]) -> Callable[[], Any]:
        """An ASGI `receive` that copies what comes."""
        if _STORED.match(path):
            return receive

        async def receive_and_keep() -> dict[str, Any]:
            message = await receive()
            if message["type"] == "http.request" and message.get("body"):
                if number not in self._bodies:
                    self._bodies[number] = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115
                self._bodies[number].write(message["body"])
            return message

        return receive_and_keep

    def saw(self, text: str) -> list[str]:
        """The requests in whose path, query, headers or body a text occurs: "METHOD /path (where)".

        The Authorization header is left out: that is where a token belongs. A text is also found in base64, as commits
        carry files, in URL and JSON spelling, and in the rows of Parquet files; not in what came by Xet, compressed.
        """
        needles = spellings(text)
        return [
            f"{entry['method']} {entry['path']} ({where})"
            for entry in list(self.requests)
            for where, chunks in self._places(entry)
            if occurs(needles, chunks)
        ]

    def _places(self, entry: Entry) -> Iterator[tuple[str, Iterable[bytes]]]:
        yield "path", [entry["path"].encode()]
        yield "query", [entry["query"].encode()]
        yield "headers", [json.dumps(entry["headers"], ensure_ascii=False).encode()]
        if body := self._bodies.get(entry["number"]):
            yield "body", read_chunks(body)
        stored = _STORED.match(entry["path"])
        if stored and entry["method"] == "PUT" and self._stored(stored[1]).exists():
            with self._stored(stored[1]).open("rb") as file:
                yield "body", read_chunks(file)
            yield "rows", read_rows(self._stored(stored[1]))


def read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(_READ_BYTES):
        yield chunk
    file.seek(0, 2)


def read_rows(path: Path) -> Iterator[bytes]:
    """The rows of a Parquet file without its compression; nothing for any other file."""
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        return
    with file:
        for batch in file.iter_batches():
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            yield sink.getvalue().to_pybytes()


def occurs(needles: set[bytes], chunks: Iterable[bytes]) -> bool:
    """Whether any of some byte strings occurs in a stream, also across chunks."""
    overlap, tail = max(map(len, needles)) - 1, b""
    for chunk in chunks:
        window = tail + chunk
        if any(needle in window for needle in needles):
            return True
        tail = window[-overlap:] if overlap else b""
    return False


def spellings(text: str) -> set[bytes]:
    """A text as it is, in URLs, in JSON, and in base64 at each of the three places where it can start."""
    raw = text.encode()
    found = {raw, quote(text, safe="").encode(), json.dumps(text)[1:-1].encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw)
        # Only the characters whose six bits all belong to the text are the same wherever it stands.
        inner = encoded[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return {spelling for spelling in found if spelling}


def calls(requests: Iterable[Entry]) -> Iterator[str]:
    """Requests with shas and signatures taken out: for reading and for comparing."""
    for entry in requests:
        path = re.sub(r"/_storage/[0-9a-f]{64}", "/_storage/{oid}", entry["path"])
        path = re.sub(r"\b[0-9a-f]{40}\b", "{sha}", path)
        query = "" if path.startswith("/_storage") else re.sub(r"cursor=\d+", "cursor=N", entry["query"])
        yield f"{entry['method']} {path}{'?' + query if query else ''} -> {entry['status']}"
