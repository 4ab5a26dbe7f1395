"""The labelling page over HTTP: rules of who may ask what, JSON in and out. What it means is in session.py."""

from __future__ import annotations

import contextlib
import json
import threading
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svp_nlp.errors import LabelError, SVPError
from svp_nlp.labeling import second_look
from svp_nlp.labeling.access import CSRF_HEADER, Access
from svp_nlp.labeling.answers import JournalCut
from svp_nlp.labeling.next_round import NextRound
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.requests import Row
from svp_nlp.labeling.session import AnsweredAlready, Session
from svp_nlp.labeling.table import SKIP
from svp_nlp.run import now

_PAGE = Path(__file__).parent / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_ASSETS = tuple(sorted(path.name for path in _PAGE.iterdir() if path.suffix in _TYPES))
_LONGEST_BODY_BYTES = 65_536
_LONGEST_NAME = 60
_LONGEST_LABEL = 200
_LONGEST_NOTE = 4_000

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with "no-referrer" a browser would not say where the login form comes from
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
# The report has its style inside and no script.
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups; base-uri 'none'"

Body = Mapping[str, Any]
Handler = Callable[[HttpRequest], Awaitable[Response]]


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LabelServer:
    """One run's page. Requests are answered one at a time: a session has no other writer in this process."""

    def __init__(
        self,
        session: Session,
        access: Access,
        *,
        suggestions: bool = False,
        train_when_full: bool = False,
        next_round: NextRound | None = None,
    ) -> None:
        self.session = session
        self.access = access
        self.suggestions = suggestions
        self.train_when_full = train_when_full
        self.next_round = next_round or NextRound(session.queue.run_dir)
        self._one = threading.Lock()
        self._is_due = False
        self._guidelines = _html(session.queue.project.guidelines)

    def app(self) -> ASGIApp:
        """The ASGI application."""
        posts: dict[str, Callable[[Body], Any]] = {
            "state": self._state,
            "next": self._next,
            "answer": self._answer,
            "undo": self._undo,
            "train": self._train,
            "finish": self._finish,
            "review": self._review,
            "decide": self._decide,
        }
        routes = [
            Route("/", self._open_page),
            Route("/review", self._open_page),
            Route("/login", self._log_in, methods=["POST"]),
            Route("/static/{name}", self._asset),
            Route("/image/{id:path}", self._inside(self._image)),
            Route("/report", self._inside(self._report)),
            Route("/api/project", self._inside(self._project)),
            *(Route(f"/api/{name}", self._changing(do), methods=["POST"]) for name, do in posts.items()),
        ]
        return _SafeHeaders(Starlette(routes=routes, lifespan=self._lifespan))

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        if self.train_when_full and self.session.is_full:
            self.next_round.start()
        yield
        await run_in_threadpool(self.next_round.stop)

    async def _open_page(self, request: HttpRequest) -> Response:
        if not self.access.host_is_ours(request):
            return _foreign_host()
        token = request.query_params.get("token")
        if token is not None and self.access.token_is_right(token):
            # The token leaves the address bar, and with it what people copy from there.
            rest = urlencode([(k, v) for k, v in request.query_params.multi_items() if k != "token"])
            return self.access.let_in(RedirectResponse(request.url.path + (f"?{rest}" if rest else ""), 303))
        if self.access.is_in(request):
            return FileResponse(_PAGE / "index.html")
        if self.access.password is not None:
            return FileResponse(_PAGE / "login.html", 401)
        return PlainTextResponse("Open the address that `svp label serve` printed; it ends with ?token=...\n", 403)

    async def _log_in(self, request: HttpRequest) -> Response:
        if not self.access.host_is_ours(request) or not self.access.is_of_our_page(request):
            return _foreign_host()
        try:
            values = parse_qs((await _body(request)).decode("utf-8", "replace"))
        except _Refused as error:
            return _error(error.status, str(error))
        if await self.access.password_is_right(values.get("password", [""])[0]):
            return self.access.let_in(RedirectResponse("/", 303))
        return RedirectResponse("/#wrong", 303)

    async def _asset(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            return PlainTextResponse("no such file\n", 404)
        return FileResponse(_PAGE / name, media_type=_TYPES[Path(name).suffix])

    def _inside(self, answer: Handler) -> Handler:
        """For those who are in only."""

        async def checked(request: HttpRequest) -> Response:
            if not self.access.host_is_ours(request):
                return _foreign_host()
            if not self.access.is_in(request):
                return _error(401, "open the address that `svp label serve` printed again, or log in again")
            return await answer(request)

        return checked

    def _changing(self, do: Callable[[Body], Any]) -> Handler:
        """For what our page asks for: JSON with a header that other sites cannot send."""

        async def answer(request: HttpRequest) -> Response:
            if not self.access.is_of_our_page(request) or CSRF_HEADER not in request.headers:
                return _error(403, "this was not asked by the labelling page")
            if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
                return _error(415, "expected JSON")
            try:
                body = json.loads(await _body(request))
                if not isinstance(body, dict):
                    raise _Refused(400, "expected a JSON object")
                return JSONResponse(await run_in_threadpool(self._alone, do, body))
            except _Refused as error:
                return _error(error.status, str(error))
            except ValueError:
                return _error(400, "this is no JSON")
            except (AnsweredAlready, second_look.DecidedMeanwhile) as error:
                return _error(409, str(error))
            except LabelError as error:
                return _error(422, str(error))
            except SVPError as error:
                return _error(507, str(error))
            except OSError as error:
                return _error(507, f"{error.filename}: {error.strerror or error}; nothing was saved")

        return self._inside(answer)

    def _alone(self, do: Callable[[Body], Any], body: Body) -> Any:
        with self._one:
            try:
                return do(body)
            except JournalCut:  # what was known here is not what the journal holds: read it anew, and try once more
                self.session = Session(LabelQueue.open(self.session.queue.run_dir))
                return do(body)

    async def _project(self, request: HttpRequest) -> Response:
        project = self.session.queue.project
        return JSONResponse(
            {
                "name": project.name,
                "modality": project.modality,
                "new_classes": project.new_classes == "extend",
                "guidelines": self._guidelines,
                "suggestions": self.suggestions,
            }
        )

    def _shown(self, body: Body, row: Row | None) -> dict[str, Any]:
        """What a page needs to go on."""
        queue, training = self.session.queue, self.next_round.status()
        return {
            "row": None if row is None else _row(row),
            "why_empty": "" if row is not None else self.session.why_empty,
            "classes": queue.classes,
            "progress": self.session.progress(_annotator(body), row),
            "training": training | {"report": (queue.run_dir / "report.html").exists()},
            "finishing": queue.finish_requested,
            "stopped": queue.stopped or "",
        }

    def _next(self, body: Body) -> Any:
        return self._shown(body, self.session.next(_annotator(body), _tab(body)))

    def _state(self, body: Body) -> Any:
        """A sign of life: the row on the screen stays with this tab."""
        if self._is_due:
            self._is_due = not self.next_round.start()
        self.session.refresh()
        self.session.hear(_annotator(body), _tab(body))
        id = _text(body, "id", 1_000, empty=True)
        shown = self._shown(body, self.session.queue.rows.get(id))
        return shown | {"is_answered": bool(id) and self.session.is_answered(id, _annotator(body))}

    def _answer(self, body: Body) -> Any:
        self.session.answer(
            _annotator(body),
            _tab(body),
            id=_text(body, "id", 1_000),
            kind=_text(body, "kind", 10),
            label=self._label(body) if body.get("kind") == "label" else None,
            note=_text(body, "note", _LONGEST_NOTE, empty=True),
            origin=_origin(body),
        )
        self.next_round.forget()
        if self.train_when_full and self.session.is_full:
            # The run that asked for these rows may still be writing its report; then it is this one's turn later.
            self._is_due = not self.next_round.start()
        return self._next(body)

    def _label(self, body: Body) -> str:
        label = _text(body, "label", 10_000)
        if label in self.session.queue.classes:
            return label  # as the recipe has it, whatever it looks like
        label = " ".join(label.split())
        if len(label) > _LONGEST_LABEL or not _is_printable(label):
            raise _Refused(422, f"a new class has 1 to {_LONGEST_LABEL} characters that can be seen")
        return label

    def _decision(self, body: Body) -> str | None:
        label = self._label(body)
        return None if label == SKIP and label not in self.session.queue.classes else label

    def _undo(self, body: Body) -> Any:
        row = self.session.undo(_annotator(body), _tab(body), _origin(body))
        if row is None:
            raise _Refused(409, "there is nothing to undo")
        return self._shown(body, row)

    def _train(self, body: Body) -> Any:
        self.next_round.start()
        return self._state(body)

    def _finish(self, body: Body) -> Any:
        self.session.queue.request_finish({"by": _annotator(body), "time": now()})
        self.next_round.start()
        return self._state(body)

    def _review(self, body: Body) -> Any:
        queue = self.session.queue
        self.session.refresh()
        self.session.hear(_annotator(body))
        return {"items": [_item(item) | _row(queue.rows[item.id]) for item in second_look.items(queue)]} | {
            "classes": queue.classes
        }

    def _decide(self, body: Body) -> Any:
        second_look.decide(
            self.session.queue,
            _annotator(body),
            id=_text(body, "id", 1_000),
            label=self._decision(body),
            seen=_text(body, "seen", 10_000, empty=True) or None,
            source=_text(body, "source", 20),
            origin=_origin(body),
        )
        return {"classes": self.session.queue.classes}

    async def _image(self, request: HttpRequest) -> Response:
        row = self.session.queue.rows.get(request.path_params["id"])
        if row is None or not row.image or Path(row.image).name != row.image:
            return PlainTextResponse("no such image\n", 404)
        path = self.session.queue.directory / "images" / row.image
        return FileResponse(path) if path.is_file() else PlainTextResponse(f"{row.image} is missing\n", 404)

    async def _report(self, request: HttpRequest) -> Response:
        path = self.session.queue.run_dir / "report.html"
        if not path.is_file():
            return PlainTextResponse("there is no report yet\n", 404)
        return FileResponse(path, headers={"content-security-policy": _REPORT_POLICY})


class _SafeHeaders:
    """Every answer, errors included, carries the headers that keep other sites and injected scripts out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_safely)


async def _body(request: HttpRequest) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_BODY_BYTES:
            raise _Refused(413, f"more than {_LONGEST_BODY_BYTES:,} bytes")
    return bytes(body)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _foreign_host() -> Response:
    return PlainTextResponse("this page is served for the machine it runs on, under localhost\n", 421)


def _row(row: Row) -> dict[str, Any]:
    return {"id": row.id, "text": row.text, "has_image": bool(row.image), "suggestions": row.suggestions}


def _item(item: second_look.Item) -> dict[str, Any]:
    votes = [dict(zip(("annotator", "kind", "label", "note"), vote, strict=True)) for vote in item.votes]
    return {"given": item.given, "suggested": item.suggested, "reason": item.reason, "source": item.source} | {
        "votes": votes
    }


def _text(body: Body, name: str, longest: int, *, empty: bool = False) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > longest or not (value or empty):
        raise _Refused(422, f"{name}: expected text of {0 if empty else 1} to {longest:,} characters")
    return value


def _annotator(body: Body) -> str:
    name = " ".join(_text(body, "annotator", 1_000).split())
    if not name or len(name) > _LONGEST_NAME or not _is_printable(name):
        raise _Refused(422, f"a name has 1 to {_LONGEST_NAME} characters that can be seen")
    return name


def _tab(body: Body) -> str:
    return _text(body, "tab", 40)


def _origin(body: Body) -> str:
    # Begins with the tab, so that undo finds what was answered there.
    origin = _text(body, "origin", 100)
    if not origin.startswith(f"{_tab(body)}."):
        raise _Refused(422, "origin: expected the name of the tab, a dot and a random name")
    return origin


def _is_printable(text: str) -> bool:
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def _html(markdown: str) -> str:
    """Guidelines as HTML in which nothing runs and nothing is fetched: no HTML of its own, no images, no odd links."""
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return str(renderer.render(markdown))
