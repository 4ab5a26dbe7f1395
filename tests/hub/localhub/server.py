"""The Hub itself: an ASGI application under uvicorn, in a thread of this process or as a process of its own."""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import re
import socket
import threading
import time
import traceback
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

# Imported for their routes.
from . import cards, control, discussions, files, git_protocol, refs, repositories, writes  # noqa: F401
from .faults import Fault, Faults, When
from .record import Entry, Record
from .repository import Repo
from .routing import Call, HubError, User, match
from .storage import Store
from .xet import XetStore

ALICE = "hf_aliceAliceAliceAliceAlice"
BOB = "hf_bobBobBobBobBobBobBobBob"
ALICE_READ = "hf_aliceReadAliceReadAliceRead"
TOKENS = {
    ALICE: User("alice", orgs=("acme",)),
    BOB: User("bob"),
    ALICE_READ: User("alice", "read", orgs=("acme",)),
}
_STARTUP_S, _SHUTDOWN_S = 30.0, 10.0
_NOT_FOR_USERS = ("/_storage/", "/_xorb/", "/v1/")  # signed addresses, and tokens of Xet


class LocalHub:
    """A Hub on 127.0.0.1. As a context manager it runs in a thread of this process.

    Args:
        root: the folder of its repositories and files; another LocalHub on it finds them again.
        tokens: token -> user; by default alice (also of the organization acme), bob, and alice reading only.
        xet: also speak Xet.
        page_size: the most entries of one page of a list.
        multipart_bytes: larger uploads are asked for in parts of this size.
        commit_wait_s: how long a commit waits for another one before it is refused with 409.
        port: 0 = a free one.
        listening: a bound socket in place of a port.

    Attributes:
        endpoint: for HF_ENDPOINT.
        storage: where large files are: the same server under another origin, as the Hub's own storage is.
        faults: what goes wrong from now on; set it.
        requests: what was answered; see record.py for the fields.
        errors: tracebacks of failures of the Hub itself; a test with any is not to be trusted.
    """

    def __init__(
        self,
        root: Path | str,
        tokens: dict[str, User] | None = None,
        *,
        xet: bool = False,
        page_size: int | None = None,
        multipart_bytes: int = 64_000_000,
        commit_wait_s: float = 60.0,
        port: int = 0,
        listening: socket.socket | None = None,
    ) -> None:
        self.root, self.tokens = Path(root), dict(TOKENS if tokens is None else tokens)
        self.page_size, self.commit_wait_s = page_size, commit_wait_s
        self.lock = threading.RLock()
        self.socket = listening or bound(port)
        self.port = self.socket.getsockname()[1]
        self.endpoint, self.storage = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"
        self.store = Store(self.root / "lfs", self.storage, multipart_bytes=multipart_bytes)
        self.xet = XetStore(self.root / "xet", self.store, endpoint=self.endpoint) if xet else None
        self.errors: list[str] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        for file in sorted((self.root / "repos").glob("*/*/hub.json")):
            repo = Repo.open(file.parent)
            self.repos[file.parts[-3], repo.id.lower()] = repo
        self._faults, self._record, self._mark = Faults(), Record(self.store.path), 0
        self._server = uvicorn.Server(
            uvicorn.Config(
                self,
                log_level="critical",
                lifespan="off",
                http="h11",
                loop="asyncio",
                ws="none",
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """A repository; `kind` is "datasets" or "models"."""
        return self.repos.get((kind, repo_id.lower()))

    def add(self, kind: str, repo_id: str, *, creator: str, private: bool) -> Repo:
        path = self.root / "repos" / kind / f"{uuid.uuid4().hex}.git"
        repo = Repo.create(path, repo_id=repo_id, creator=creator, private=private)
        self.repos[kind, repo_id.lower()] = repo
        return repo

    def page_url(self, kind: str, repo_id: str) -> str:
        return f"{self.endpoint}/{'' if kind == 'models' else kind + '/'}{repo_id}"

    @property
    def faults(self) -> list[Fault]:
        return self._faults.planned

    @faults.setter
    def faults(self, planned: list[Fault]) -> None:
        self._faults.planned = planned

    @property
    def requests(self) -> list[Entry]:
        return self._record.requests

    def mark(self) -> None:
        """Count requests from here."""
        self._mark = self._faults.arrived

    @property
    def requests_since_mark(self) -> int:
        """How many requests came since `mark`, answered or not: what `die_at` counts."""
        return self._faults.arrived - self._mark

    def die_at(self, k: int, when: When = "before") -> None:
        """Break the connection of the k-th request from now (1 = the next) and of all after it, until `revive`.

        Args:
            when: "before": the k-th request has no effect; "after": its work is done, its answer is lost.
        """
        self._faults.die_at(k, when)

    @property
    def dead(self) -> bool:
        return self._faults.dead

    def revive(self) -> None:
        self._faults.revive()

    def reset(self) -> None:
        """No faults, alive, an empty log; repositories stay."""
        self._faults.planned = []
        self._faults.revive()
        self._record.clear()
        self.errors = []
        self.mark()

    def saw(self, text: str) -> list[str]:
        """The requests in which a text occurs outside of their Authorization header; see `Record.saw`."""
        return self._record.saw(text)

    def authorized_elsewhere(self) -> list[str]:
        """Requests to the storage's origin with an Authorization header that is not the storage's own (Xet has one)."""
        elsewhere = urlsplit(self.storage).netloc
        return [
            f"{entry['method']} {entry['path']}"
            for entry in self.requests
            if entry["host"] == elsewhere and entry["authorized"]
        ]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["raw_path"].decode()
        if path.startswith("/__hub__/"):
            response = await self._answer(Request(scope, receive), method, path)
            await response(scope, receive, send)
            return
        started, fault = time.monotonic(), self._faults.strike(f"{method} {path}")
        number = self._faults.arrived
        request = Request(scope, self._record.keep(number, path, receive))
        if fault and fault.delay:
            await asyncio.sleep(fault.delay)
        response = await self._meet(fault, request)
        entry = self._entry(request, number) | {"ms": round((time.monotonic() - started) * 1000, 1)}
        self._record.requests.append(entry | {"status": response.status_code if response else 0})
        if response is None:
            self._break(scope["client"])
            return
        response.headers["X-Request-Id"] = request.headers.get("x-amzn-trace-id") or str(uuid.uuid4())
        await response(scope, request.receive, send)

    async def _meet(self, fault: Fault | None, request: Request) -> Response | None:
        """The answer to a request that meets a fault, or none; None = break the connection."""
        method, path = request.scope["method"], request.scope["raw_path"].decode()
        response = None
        if fault is None or fault.after or fault.proceed:
            response = await self._answer(request, method, path)
        elif not fault.drop:
            # A client that is still sending would see a broken connection instead of the answer.
            async for _ in request.stream():
                pass
        if fault is None or fault.proceed:
            return response
        return (
            None if fault.drop else HubError(fault.status, fault.message, fault.code, headers=fault.headers).response()
        )

    def _entry(self, request: Request, number: int) -> Entry:
        token = token_of(request)
        of_xet = self.xet is not None and self.xet.scope_of(token or "") is not None
        user = self.tokens.get(token or "")
        return {
            "number": number,
            "method": request.scope["method"],
            "path": request.scope["raw_path"].decode(),
            "query": request.scope["query_string"].decode(),
            "headers": {name: value for name, value in request.headers.items() if name != "authorization"},
            "host": request.headers.get("host", ""),
            "authorized": "authorization" in request.headers and not of_xet,
            "user": user.name if user else None,
        }

    def _break(self, client: tuple[str, int]) -> None:
        for connection in list(self._server.server_state.connections):
            if connection.client == tuple(client):
                connection.cycle.disconnected = True  # or uvicorn would answer 500 for the application
                connection.transport.abort()

    async def _answer(self, request: Request, method: str, path: str) -> Response:
        try:
            return await self._handle(request, method, path)
        except HubError as error:
            if error.status == 401 and re.search("/info/(refs|lfs)|/git-upload-pack", path):
                error.headers["WWW-Authenticate"] = 'Basic realm="localhub"'  # git and git-lfs wait to be asked
            return error.response()
        except Exception:
            self.errors.append(f"{method} {path}\n{traceback.format_exc()}")
            return HubError(500, "The local Hub failed; see its `errors`").response()

    async def _handle(self, request: Request, method: str, path: str) -> Response:
        try:
            handler, parts = match(method, path)
        except HubError:
            await request.body()
            raise
        call = Call(self, request, parts)
        streams = inspect.iscoroutinefunction(handler)
        if not streams:
            # Also before a refusal: closing a connection with bytes unread can cost the client its answer.
            call.body = await request.body()
        token = token_of(request)
        if token is not None and not path.startswith(_NOT_FOR_USERS):
            call.user = self.tokens.get(token)
            if call.user is None:
                raise HubError(401, "Invalid credentials in Authorization header")
        answer = await handler(call) if streams else await run_in_threadpool(handler, call)
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    def serve(self) -> None:
        """Serve until the process is told to stop."""
        self._server.run(sockets=[self.socket])

    def __enter__(self) -> LocalHub:
        self._thread = threading.Thread(target=self.serve, daemon=True, name="localhub")
        self._thread.start()
        deadline = time.monotonic() + _STARTUP_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the local Hub did not start on {self.endpoint}")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_SHUTDOWN_S)
        self._record.clear()


def bound(port: int) -> socket.socket:
    """A loopback socket that is bound but does not listen yet."""
    # With its protocol named, asyncio sends at once; else each answer waits 40 ms for more.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


def token_of(request: Request) -> str | None:
    """The token of an Authorization header; git sends it as the password of Basic. None where there is none."""
    scheme, _, word = request.headers.get("authorization", "").partition(" ")
    if scheme == "Bearer":
        return word
    if scheme == "Basic":
        try:
            return base64.b64decode(word).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return None
