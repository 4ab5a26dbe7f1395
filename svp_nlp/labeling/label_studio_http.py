"""Plain HTTP to a Label Studio server: who we are, what is tried again, and what its answers mean.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from svp_nlp.errors import LabelStudioError, LabelStudioRefused, scrub

log = logging.getLogger(__name__)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_UNTOUCHED = (425, 429)  # such an answer says that nothing was begun
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SHOWN = 400  # characters of what a server says


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


class Connection:
    """A server and who we are there."""

    def __init__(self, url: str, token: str, *, patience: Patience | None = None) -> None:
        """Nothing is sent yet; see `Client`."""
        self.url = check_url(url)
        self._token = _check_token(token)
        self._is_personal = self._token.startswith("eyJ")  # a JWT: it is exchanged for one that lives for minutes
        self._access = ""
        self._patience = patience or Patience()
        is_here = urlsplit(self.url).hostname in _LOOPBACK
        # A proxy of the environment cannot reach this machine.
        handlers = [urllib.request.ProxyHandler({})] if is_here else []
        self._opener = urllib.request.build_opener(_NoRedirect, *handlers)
        if self.url.startswith("http:") and not is_here:
            log.warning("%s: your token and the texts travel unencrypted; https is safer", self.url)

    def send(
        self, method: str, path: str, body: Any = None, *, what: str = "", once: bool = False, signed: bool = True
    ) -> Any:
        """The answer to one call, which is tried again as long as the patience lasts.

        Args:
            what: what a 404 says is missing.
            once: it must not be done twice, so it is not tried again where it may have been done.
        Raises:
            LabelStudioRefused: the server says no, or is something else; as BadRequest where it does not take `body`.
            LabelStudioError: it fails and goes on failing; as Uncertain where it may have done what is done once.
        """
        began, wait_s = time.monotonic(), self._patience.first_wait_s
        timeout_s, renewed = self._patience.import_s if once else self._patience.answer_s, False
        while True:
            try:
                return self._attempt(method, path, body, timeout_s=timeout_s, signed=signed)
            except urllib.error.HTTPError as error:
                if error.code == 401 and signed and self._is_personal and not renewed:
                    error.close()
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

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Wait for what the server does in its own time, as its paid editions import.

        Raises:
            Uncertain: it does not happen.
        """
        until, wait_s = time.monotonic() + self._patience.import_s, self._patience.first_wait_s
        while not is_there():
            if time.monotonic() + wait_s > until:
                raise Uncertain(f"{self.url}: what was sent is not there yet; run the same command later")
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, self._patience.longest_wait_s)

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
        access = told.get("access") if isinstance(told, dict) else None
        if not isinstance(access, str):
            raise LabelStudioRefused(f"{self.url} is no Label Studio: it gives no access token")
        return access

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
            with error:
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
