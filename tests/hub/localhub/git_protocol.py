"""Enough of git's own protocol for `git clone` and `git fetch`: reading only."""

from __future__ import annotations

import gzip
import subprocess

from starlette.responses import Response

from .routing import PAGE, Call, HubError, route

_ADVERTISED = b"001e# service=git-upload-pack\n0000"


def upload_pack(call: Call, *options: str, stdin: bytes = b"") -> bytes:
    command = ["git", "upload-pack", "--stateless-rpc", *options, str(call.repo("content").path)]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


@route("GET", PAGE + r"(?:\.git)?/info/refs")
def git_refs(call: Call) -> Response:
    if call.request.query_params.get("service") != "git-upload-pack":
        raise HubError(403, "Pushing by git is not supported here")
    answer = _ADVERTISED + upload_pack(call, "--advertise-refs")
    return Response(answer, media_type="application/x-git-upload-pack-advertisement")


@route("POST", PAGE + r"(?:\.git)?/git-upload-pack")
def git_upload_pack(call: Call) -> Response:
    packed = call.request.headers.get("content-encoding") == "gzip"
    answer = upload_pack(call, stdin=gzip.decompress(call.body) if packed else call.body)
    return Response(answer, media_type="application/x-git-upload-pack-result")
