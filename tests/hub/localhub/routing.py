"""A request on its way to its handler: the table of addresses, who asks, for which repository, and refusals.

A handler is a function of one `Call` under a `@route`; it returns JSON, a Response, or raises `HubError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from .repository import Repo
    from .server import LocalHub

REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+|[^/]+)"
PAGE = r"/(?:(?P<kind>models|datasets|spaces)/)?(?P<id>[^/]+/[^/]+?|[^/]+?)"
REV = r"(?P<rev>refs/(?:pr|convert)/[^/]+|[^/]+)"

ROUTES: list[tuple[str, re.Pattern[str], Callable[[Call], Any]]] = []


class HubError(Exception):
    """An answer other than 2xx, with the headers from which the client picks its exception.

    Args:
        status: HTTP status.
        message: for the client's user; goes into X-Error-Message.
        code: X-Error-Code, like RepoNotFound.
        body: JSON in place of {"error": message}.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.body = status, body or {"error": message}
        self.headers = {"X-Error-Message": message.replace("\n", " "), **(headers or {})}
        if code:
            self.headers["X-Error-Code"] = code

    def response(self) -> Response:
        return JSONResponse(self.body, self.status, self.headers)


@dataclass(frozen=True)
class User:
    """Whom a token stands for; a role other than "write" reads only."""

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace.lower() in [name.lower() for name in (self.name, *self.orgs)]


@dataclass
class Call:
    """One request; `parts` are the named parts of its path, decoded."""

    hub: LocalHub
    request: Request
    parts: dict[str, str] = field(default_factory=dict)
    user: User | None = None
    body: bytes = b""

    @property
    def json(self) -> dict[str, Any]:
        """The body; {} where there is none."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, f"Invalid JSON: {error}") from None

    @property
    def kind(self) -> str:
        return self.parts["kind"]

    @property
    def rev(self) -> str:
        return self.parts["rev"]

    @property
    def author(self) -> str:
        return self.must_sign_in().name

    def flag(self, name: str) -> bool:
        return self.request.query_params.get(name, "").lower() in ("1", "true")

    def must_sign_in(self) -> User:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    def repo(self, need: str = "read") -> Repo:
        """The repository of this path, if the user may.

        Args:
            need: "read" (what it is), "content" (its files, which gating keeps back), or "write".
        Raises:
            HubError: 401 or 404 where it is missing or private, 401 or 403 where it is gated, 403 to write.
        """
        repo = self.hub.find(self.kind, self.parts["id"])
        owner = repo is not None and self.user is not None and self.user.owns(repo.id.split("/")[0])
        if repo is None or (repo.meta["private"] and not owner):
            raise HubError(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        granted = owner or (self.user is not None and self.user.name in repo.meta["granted"])
        if need == "content" and repo.meta["gated"] and not granted:
            raise self.gated(repo)
        if need == "write" and not (self.must_sign_in().role == "write" and owner):
            raise HubError(403, "Forbidden: you don't have the rights to write to this repository")
        return repo

    def gated(self, repo: Repo) -> HubError:
        restricted = f"Access to {self.kind[:-1]} {repo.id} is restricted"
        if self.user is None:
            return HubError(401, f"{restricted}. You must be authenticated to access it.", "GatedRepo")
        where = self.hub.page_url(self.kind, repo.id)
        return HubError(
            403, f"{restricted} and you are not in the authorized list. Visit {where} to ask for access.", "GatedRepo"
        )


def route(methods: str, pattern: str) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register a handler for methods ("GET|HEAD") and a regular expression of the raw path."""

    def add(handler: Callable[[Call], Any]) -> Callable[[Call], Any]:
        ROUTES.append((methods, re.compile(pattern + "/?"), handler))
        return handler

    return add


def match(method: str, raw_path: str) -> tuple[Callable[[Call], Any], dict[str, str]]:
    """The handler of a path and the path's named parts; `kind` is "models" where the path leaves it out."""
    for methods, pattern, handler in ROUTES:
        if method in methods.split("|") and (found := pattern.fullmatch(raw_path)):
            parts = {name: unquote(text) for name, text in found.groupdict().items() if text is not None}
            return handler, {"kind": "models"} | parts
    raise HubError(404, "Sorry, we can't find the page you are looking for.")


def paged(call: Call, items: list[Any], page_size: int) -> Response:
    """One page of a list, with the `Link: <...>; rel="next"` header that the client follows."""
    page_size = min(page_size, call.hub.page_size or page_size)
    start = int(call.request.query_params.get("cursor", 0))
    headers = {}
    if start + page_size < len(items):
        kept = [(name, value) for name, value in call.request.query_params.multi_items() if name != "cursor"]
        path = call.request.scope["raw_path"].decode()
        headers["Link"] = f'<{call.hub.endpoint}{path}?{urlencode([*kept, ("cursor", start + page_size)])}>; rel="next"'
    return JSONResponse(items[start : start + page_size], headers=headers)
