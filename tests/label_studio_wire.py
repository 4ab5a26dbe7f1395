"""A Label Studio server as the tests see it: a real one whose answers are written down, or what was written down.

What is played back answers only what was asked then: another method, path or body is a failure of the test.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "label_studio" / "recorded"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")

# Method, path, body as it came, headers -> status, content, headers; None: the connection is cut.
Answer = tuple[int, bytes, dict[str, str]] | None
Answering = Callable[[str, str, bytes, dict[str, str]], Answer]


@contextlib.contextmanager
def serving(answer: Answering) -> Iterator[str]:
    """The address of a server that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = answer(self.command, self.path, body, dict(self.headers))
            if given is None:
                self.close_connection = True
                return
            status, content, headers = given
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = _do

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def forward(url: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """What a real server says."""
    kept = {name: headers[name] for name in ("Authorization", "Content-Type") if name in headers}
    request = urllib.request.Request(url + path, body or None, kept, method=method)
    try:
        with urllib.request.urlopen(request, timeout=300) as given:
            return given.status, given.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@contextlib.contextmanager
def recording(url: str, file: Path | None) -> Iterator[str]:
    """A door to a real server; what goes through it is written down at the end, without tokens."""
    calls: list[dict[str, Any]] = []

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        status, content = forward(url, method, path, body, headers)
        told = json.loads(content)
        if path == "/api/version":
            told = {"release": told["release"]}  # the rest tells what else is on that machine
        sent = json.loads(body) if body else None
        calls.append({"method": method, "path": path, "body": sent, "status": status, "answer": told})
        return status, content, {}

    with serving(answer) as door:
        yield door
    if file is not None:
        lines = ",\n".join(json.dumps(call, ensure_ascii=False) for call in calls)
        tokens = dict.fromkeys(_JWT.findall(lines))
        for number, token in enumerate(tokens):
            lines = lines.replace(token, f"eyJ.invented.{number}")
        file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


@contextlib.contextmanager
def playing(file: Path) -> Iterator[str]:
    """A server that says what the real one said, to who asks the same."""
    calls = json.loads(file.read_text(encoding="utf-8"))
    wrong: list[str] = []

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        sent = json.loads(body) if body else None
        expected = calls.pop(0) if calls else {}
        if [method, path, sent] != [expected.get(key) for key in ("method", "path", "body")]:
            wrong.append(f"{method} {path} {sent}, expected {expected}")
            return 418, b"{}", {}
        return expected["status"], json.dumps(expected["answer"]).encode(), {}

    with serving(answer) as door:
        yield door
    assert not wrong, wrong[0]
    assert not calls, f"never asked: {calls[0]}"
