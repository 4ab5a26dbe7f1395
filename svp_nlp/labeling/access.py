"""Who may use the labelling page: a token in the URL on this machine, a password where others can reach it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from svp_nlp.cache import cache_root
from svp_nlp.errors import RecipeError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CSRF_HEADER = "x-svp-label"
SHORTEST_PASSWORD = 8
_WRONG_PASSWORD_S = 1.0
_COOKIE_S = 30 * 24 * 3600


def secret_of(run_dir: Path) -> str:
    """A random secret of this run and this user, the same when the server starts again: open pages go on.

    It is kept in the cache and not in the run directory, which people copy and share.
    """
    name = hashlib.sha256(str(run_dir.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = cache_root() / "label" / name
    made = secrets.token_urlsafe(24)
    with contextlib.suppress(OSError):  # without a cache: a new one each time
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size < len(made):
            path.unlink()  # emptied when the power failed: everybody would know that token
        with contextlib.suppress(FileExistsError):
            # Linked into place when it is whole, so that two servers that start at once agree on one.
            tmp = path.with_name(f".tmp-{secrets.token_hex(8)}")
            with os.fdopen(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(made)
            try:
                os.link(tmp, path)
            finally:
                tmp.unlink()
        return path.read_text(encoding="ascii")
    return made


def check_binding(host: str, password: str | None) -> None:
    """Refuse to serve others without a password.

    Raises:
        RecipeError: says what to give.
    """
    if password is not None and len(password) < SHORTEST_PASSWORD:
        raise RecipeError(f"the password has {len(password)} characters; expected at least {SHORTEST_PASSWORD}")
    if password is None and host not in LOOPBACK:
        raise RecipeError(
            f"--host {host} lets others on the network reach this page; set a password for them (SVP_LABEL_PASSWORD or "
            "--password), or leave --host out and let them come through ssh -L"
        )


@dataclass
class Access:
    """The rules of one server.

    Attributes:
        secret: of the run; it is the token, where there is no password.
        port: part of the cookie's name, because browsers do not tell the ports of one host apart.
    """

    secret: str
    port: int
    host: str = "127.0.0.1"
    password: str | None = None
    _one_guess: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def cookie_name(self) -> str:
        return f"svp-label-{self.port}"

    @property
    def _cookie(self) -> str:
        # Of both: a new password logs everybody out, and what is in the cookie opens no URL.
        return hmac.new(self.secret.encode(), f"cookie {self.password}".encode(), hashlib.sha256).hexdigest()

    def token_is_right(self, token: str) -> bool:
        """Whether a URL opens the page; never where there is a password."""
        return self.password is None and _same(token, self.secret)

    async def password_is_right(self, given: str) -> bool:
        """Whether a password is right; one guess at a time, and a wrong one takes a second."""
        async with self._one_guess:
            right = self.password is not None and _same(given, self.password)
            if not right:
                await asyncio.sleep(_WRONG_PASSWORD_S)
            return right

    def let_in(self, response: Response) -> Response:
        """Give the browser what it shows from now on."""
        # With "strict" who follows a link in a chat or a mail is sent away: what that visit is redirected to has no
        # cookie yet. Nothing that changes anything goes by the cookie alone.
        response.set_cookie(self.cookie_name, self._cookie, max_age=_COOKIE_S, httponly=True, samesite="lax")
        return response

    def is_in(self, request: HttpRequest) -> bool:
        return _same(request.cookies.get(self.cookie_name, ""), self._cookie)

    def host_is_ours(self, request: HttpRequest) -> bool:
        """Whether the page was asked for by a name of this machine; else a stranger's name may point here.

        Any port will do, because an ssh tunnel has its own. Where there is a password, a stranger's page has no cookie.
        """
        if self.password is not None:
            return True
        name = request.headers.get("host", "")
        name = name[: name.rfind(":")] if not name.endswith("]") and ":" in name else name
        return name.strip("[]").lower() in LOOPBACK

    def is_of_our_page(self, request: HttpRequest) -> bool:
        """Whether a request that changes something comes from our own page and not from somebody else's."""
        site = request.headers.get("sec-fetch-site")
        if site is not None:  # holds behind a proxy too, which may rename the host
            return site in ("same-origin", "none")
        origin = request.headers.get("origin")
        return origin is None or origin.split("://", 1)[-1] == request.headers.get("host")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
