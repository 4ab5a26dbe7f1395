"""The few calls of Label Studio's REST API that are needed here, by plain HTTP.

    GET   /api/version                      POST  /api/projects           PATCH /api/projects/ID
    GET   /api/projects?title=              GET   /api/projects/ID        POST  /api/projects/ID/import
    GET   /api/tasks?project=ID&page=       GET   /api/users              POST  /api/token/refresh

The token is held in memory only, and taken out of every message.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlencode, urlsplit

from svp_nlp.errors import LabelStudioError, LabelStudioRefused, scrub

log = logging.getLogger(__name__)
Json: TypeAlias = dict[str, Any]

OLDEST = (1, 10)  # the task list with `fields`, and imports that answer when all is there
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_UNTOUCHED = (425, 429, 503)  # such an answer says that nothing was begun
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SHOWN = 400  # characters of what a server says
_PAGE = 500  # tasks; one page of 500 texts of 10 kB is 5 MB


@dataclass(frozen=True)
class Patience:
    """How long a server that fails or is busy is asked again."""

    deadline_s: float = 120.0
    unreachable_s: float = 5.0  # where nothing listens: a wrong address more often than a server that starts
    first_wait_s: float = 0.5
    longest_wait_s: float = 15.0
    answer_s: float = 60.0  # for one answer
    import_s: float = 600.0  # for one import: a server on sqlite takes seconds for some hundred tasks


class Uncertain(LabelStudioError):
    """An import was sent and no answer came: it may have been done or not. Look before sending it again."""


class BadRequest(LabelStudioRefused):
    """The server does not take what it was sent, or not so much at once; nothing was done."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is told, not followed: it would carry the token to another address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Client:
    """A Label Studio server and who we are there."""

    def __init__(self, url: str, token: str, *, patience: Patience | None = None) -> None:
        """Nothing is sent yet.

        Args:
            url: of the server: http://localhost:8080, or with a path where it lives below one.
            token: a personal access token, or a legacy token.
        Raises:
            LabelStudioRefused: no such address or token can be.
        """
        self.url = check_url(url)
        self._token = _check_token(token)
        self._is_personal = self._token.startswith("eyJ")  # a JWT: it is exchanged for one that lives for minutes
        self._access = ""
        self._patience = patience or Patience()
        self._opener = urllib.request.build_opener(_NoRedirect)
        host = urlsplit(self.url)
        if host.scheme == "http" and host.hostname not in _LOOPBACK:
            log.warning("%s: your token and the texts travel unencrypted; https is safer", self.url)

    def version(self) -> str:
        """The server's version.

        Raises:
            LabelStudioRefused: it is older than what is known to work, or no Label Studio.
        """
        told = self._send("GET", "/api/version", signed=False)
        release = str(told.get("release", "")) if isinstance(told, dict) else ""
        numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
        if not numbers:
            raise LabelStudioRefused(f"{self.url} is no Label Studio: /api/version names no release")
        if numbers < OLDEST:
            raise LabelStudioRefused(
                f"{self.url} is Label Studio {release}; expected {'.'.join(map(str, OLDEST))} or newer: update the "
                "server, or go by files: svp label export RUN --to label_studio"
            )
        return release

    def project(self, id: int) -> Json:
        """A project.

        Raises:
            LabelStudioRefused: there is none with this number that the token may see.
        """
        found: Json = self._send("GET", f"/api/projects/{id}", what=f"project {id}")
        return found

    def projects(self, title: str) -> list[Json]:
        """The projects with exactly this title, the oldest first."""
        found: list[Json] = []
        page = 1
        while True:
            told = self._send("GET", "/api/projects?" + urlencode({"title": title, "page": page, "page_size": 100}))
            found += told["results"]
            if not told.get("next"):
                break
            page += 1
        return sorted((one for one in found if one["title"] == title), key=lambda one: int(one["id"]))

    def create_project(self, fields: Mapping[str, Any]) -> Json:
        """A new project."""
        made: Json = self._send("POST", "/api/projects", fields, once=True)
        return made

    def change_project(self, id: int, fields: Mapping[str, Any]) -> Json:
        """Change these fields of a project."""
        changed: Json = self._send("PATCH", f"/api/projects/{id}", fields, what=f"project {id}")
        return changed

    def tasks(self, project: int, *, annotations: bool = False) -> Iterator[Json]:
        """All tasks of a project by their number, which is the order in which they were imported.

        Args:
            annotations: whether each comes with its annotations.
        """
        page, seen = 1, 0
        options = {"project": project, "page_size": _PAGE, "fields": "all" if annotations else "task_only"}
        while True:
            path = "/api/tasks?" + urlencode({**options, "page": page, "ordering": "id"})
            told = self._send("GET", path, what=f"project {project}")
            yield from told["tasks"]
            seen += len(told["tasks"])
            if seen >= int(told["total"]) or not told["tasks"]:
                return
            page += 1

    def import_tasks(self, project: int, tasks: Sequence[Json]) -> int:
        """Add tasks to a project, all or none of them; how many the server says that it took.

        Raises:
            Uncertain: no answer came.
            BadRequest: the server takes none of them; says why.
        """
        told = self._send("POST", f"/api/projects/{project}/import", tasks, what=f"project {project}", once=True)
        return int(told.get("task_count", 0)) if isinstance(told, dict) else 0

    def users(self) -> dict[int, str]:
        """Number -> e-mail address, or the name of a user without one. Empty where the token may not see them."""
        try:
            found = self._send("GET", "/api/users")
        except LabelStudioRefused:
            return {}
        return {int(user["id"]): str(user.get("email") or user.get("username") or "") for user in found}

    def _send(
        self, method: str, path: str, body: Any = None, *, what: str = "", once: bool = False, signed: bool = True
    ) -> Any:
        """One call, tried again as long as the patience lasts.

        Args:
            what: what a 404 says is missing.
            once: it must not be done twice, so it is not tried again where it may have been done.
        """
        began, wait_s = time.monotonic(), self._patience.first_wait_s
        renewed = False
        while True:
            try:
                return self._attempt(method, path, body, timeout_s=self._timeout(once), signed=signed)
            except urllib.error.HTTPError as error:
                if error.code == 401 and signed and self._is_personal and not renewed:
                    self._access, renewed = "", True
                    continue
                reason = f"HTTP {error.code}{self._said(error)}"
                if error.code not in _TRANSIENT:
                    raise self._refusal(error.code, reason, what, error.headers.get("Location")) from None
                if once and error.code not in _UNTOUCHED:
                    raise Uncertain(f"{self.url}: {reason}; run the same command again") from None
                pause_s, patience_s = max(wait_s, _asked_to_wait(error)), self._patience.deadline_s
            except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                cause = getattr(error, "reason", error)
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise LabelStudioRefused(
                        f"{self.url}: its certificate is not trusted here ({cause.verify_message}); set SSL_CERT_FILE "
                        "to the certificate of your authority"
                    ) from None
                reason = self._clean(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)
                is_unreachable = isinstance(cause, ConnectionRefusedError | socket.gaierror)
                if once and not is_unreachable:
                    raise Uncertain(f"{self.url}: no answer ({reason}); run the same command again") from None
                patience = self._patience
                pause_s, patience_s = wait_s, patience.unreachable_s if is_unreachable else patience.deadline_s
            if time.monotonic() + pause_s > began + patience_s:
                raise LabelStudioError(
                    f"{self.url} did not answer as it should within {patience_s:g} s (last: {reason}); check that "
                    "Label Studio runs there; nothing is lost: run the same command again"
                )
            log.debug("%s %s: %s; trying again in %.1f s", method, path.partition("?")[0], reason, pause_s)
            time.sleep(pause_s)
            wait_s = min(2 * wait_s, self._patience.longest_wait_s)

    def _timeout(self, once: bool) -> float:
        return self._patience.import_s if once else self._patience.answer_s

    def _attempt(self, method: str, path: str, body: Any, *, timeout_s: float, signed: bool) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if signed and self._is_personal:
            self._access = self._access or self._renew()
            headers["Authorization"] = f"Bearer {self._access}"
        elif signed:
            headers["Authorization"] = f"Token {self._token}"
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310  checked: http(s)
        with self._opener.open(request, timeout=timeout_s) as answer:
            content = answer.read()
        try:
            return json.loads(content)
        except ValueError:
            raise LabelStudioRefused(
                f"{self.url} is no Label Studio: {path.partition('?')[0]} answers with something else than JSON; give "
                "the address that you open in the browser, up to before /projects"
            ) from None

    def _renew(self) -> str:
        told = self._attempt(
            "POST", "/api/token/refresh", {"refresh": self._token}, timeout_s=self._patience.answer_s, signed=False
        )
        return str(told["access"])

    def _refusal(self, status: int, reason: str, what: str, location: str | None) -> LabelStudioRefused:
        if 300 <= status < 400:
            to = self._clean(str(location).partition("?")[0])
            return LabelStudioRefused(f"{self.url} redirects to {to}; give that address with --url, up to before /api")
        if status == 401:
            return LabelStudioRefused(
                f"{self.url} does not know your token ({reason}); take one from Account & Settings there (a legacy "
                "token works only where the organisation allows it) and set LABEL_STUDIO_API_KEY"
            )
        if status == 403:
            return LabelStudioRefused(f"{self.url}: your token may not do this ({reason}); ask who runs the server")
        if status == 404:
            return LabelStudioRefused(
                f"{self.url}: {f'no {what}' if what else 'no such page'} ({reason}); look at the number in the address "
                "of the project in the browser, or give its title"
            )
        refused = BadRequest if status in (400, 413, 422) else LabelStudioRefused
        return refused(f"{self.url} refused ({reason})")

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What the server says about its refusal, in one line."""
        try:
            told: Any = json.loads(error.read())
        except (ValueError, OSError, http.client.HTTPException):
            return ""
        if isinstance(told, dict):
            told = told.get("validation_errors") or told.get("detail") or told
        text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
        return ": " + self._clean(text)[:_SHOWN]

    def _clean(self, text: str) -> str:
        for secret in (self._token, self._access):
            text = text.replace(secret, "***") if secret else text
        return scrub(" ".join(text.split()))


def check_url(url: str) -> str:
    """The address of a server, without a slash at its end.

    Raises:
        LabelStudioRefused: it is none, or holds a password, which would be kept in a file.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LabelStudioRefused(f"{url!r} is no address of a server; expected such as http://localhost:8080")
    if "@" in parts.netloc:
        raise LabelStudioRefused("the address holds a user name; leave it out: the token says who you are")
    path = re.split(r"/(?:projects|api|user)(?:/|$)", parts.path)[0]  # as it is copied from a browser
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


def _check_token(token: str) -> str:
    token = token.strip()
    if not token:
        raise LabelStudioRefused(
            "no token for Label Studio: take one from Account & Settings there and set LABEL_STUDIO_API_KEY"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise LabelStudioRefused(
            "the token for Label Studio holds white space or letters that no token has; copy it again"
        )
    return token


def _asked_to_wait(error: urllib.error.HTTPError) -> float:
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0
