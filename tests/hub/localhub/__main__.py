"""Serve a Hub in a process of its own; the first line of output is JSON with its endpoint and its tokens."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from .routing import User
from .server import LocalHub


def read_token(text: str) -> tuple[str, User]:
    """TOKEN=USER or TOKEN=USER:read."""
    token, _, name = text.partition("=")
    return token, User(name.split(":")[0], "read" if name.endswith(":read") else "write")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m localhub", description=__doc__)
    parser.add_argument("--root", required=True, help="folder of the repositories")
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument("--token", action="append", default=[], help="TOKEN=USER[:read]; more than one is fine")
    parser.add_argument("--xet", action="store_true", help="also speak Xet")
    options = parser.parse_args()
    tokens = dict(map(read_token, options.token)) or None
    hub = LocalHub(options.root, tokens, xet=options.xet, port=options.port)
    hub.socket.listen()  # who reads the endpoint may connect at once
    known = {token: asdict(user) for token, user in hub.tokens.items()}
    sys.stdout.write(json.dumps({"endpoint": hub.endpoint, "tokens": known}) + "\n")
    sys.stdout.flush()
    hub.serve()


if __name__ == "__main__":
    main()
