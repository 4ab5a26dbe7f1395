"""`svp label serve`: the labelling page of a run, for as long as it is not stopped."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from svp_nlp.console import Format, FormatOption, VerboseOption, command, show
from svp_nlp.errors import RecipeError, RunError

_GRACE_S = 5


def serve(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory whose recipe asks people.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, show_default="a free one")] = 0,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; anything but this machine needs a password.")
    ] = "127.0.0.1",
    password: Annotated[
        str | None,
        typer.Option(
            "--password",
            envvar="SVP_LABEL_PASSWORD",
            help="Asked for in the browser; better in the environment, where other users do not see it.",
        ),
    ] = None,
    suggestions: Annotated[
        bool,
        typer.Option(
            "--suggestions/--no-suggestions",
            help="Whether the page begins with the proxy's suggestions shown; each annotator can switch them.",
        ),
    ] = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Train and ask for the next rows by itself whenever a round is full.")
    ] = False,
    open_browser: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Open the page here.", show_default="where there is a screen"),
    ] = None,
    output: FormatOption = Format.human,
    verbose: VerboseOption = False,
) -> None:
    """Label in the browser: a page on this machine, for one person or several, keyboard first.

    Start it in the folder where `svp run` was started: the page can run it for the next rows. Others reach it through
    `ssh -L`, or with --host and a password; nothing is encrypted then, so put a proxy with HTTPS before it.
    """
    with command(output, verbose):
        try:
            import markdown_it  # noqa: F401
            import uvicorn

            from svp_nlp.labeling.access import Access, check_binding, secret_of
            from svp_nlp.labeling.server import LabelServer
        except ModuleNotFoundError as error:
            raise RecipeError(f"{error.name} is missing; install what the page needs: svp_nlp[label]") from None
        from svp_nlp.labeling.queue import LabelQueue
        from svp_nlp.labeling.session import Session

        check_binding(host, password)
        session = Session(LabelQueue.open(run_dir))
        with _listen(host, port) as listener:
            access = Access(secret_of(run_dir), listener.getsockname()[1], password=password)
            server = LabelServer(session, access, suggestions=suggestions, train_when_full=auto)
            address = f"http://{_in_url(host)}:{access.port}/"
            url = address if password is not None else f"{address}?token={access.secret}"
            human = [f"Label at {url}", "Several people: each gives a name there. Ctrl-C stops it; no answer is lost."]
            show({"url": url, "run": str(run_dir)}, output, quiet=url, human=human)
            if open_browser if open_browser is not None else _has_screen():
                webbrowser.open(url)
            config = uvicorn.Config(
                server.app(),
                log_config=None,  # as all of svp
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
            with contextlib.suppress(KeyboardInterrupt):  # that is how it ends
                uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # The protocol by name, or asyncio does not switch Nagle's algorithm off and an answer takes 40 ms.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    except OSError as error:
        raise RecipeError(f"--host {host} is no address of this machine ({error.strerror or error})") from None
    try:
        if os.name != "nt":  # there it would let two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise RunError(f"cannot listen on {host}, port {port} ({error.strerror}); name another --port") from None
    return listener


def _in_url(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:  # every address of this machine; people need its name
        return socket.gethostname()
    return f"[{host}]" if address.version == 6 else host


def _has_screen() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
