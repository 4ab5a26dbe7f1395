"""Large files (git-lfs): where they lie, signed addresses on another origin, the batch API, whole and in parts."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from .routing import PAGE, Call, HubError, route

_READ_BYTES = 1 << 20
_BAD_DIGEST = "BadDigest: the sha256 does not match"


class Store:
    """One store for all repositories, by sha256.

    Args:
        root: the folder.
        origin: of the addresses of files, without a trailing slash; not the Hub's own, so that a client which sends
            its token there is seen.
        multipart_bytes: larger uploads are asked for in parts of this size.
    """

    def __init__(self, root: Path, origin: str, *, multipart_bytes: int) -> None:
        self.root, self.origin, self.multipart_bytes = root, origin, multipart_bytes
        self._secret = secrets.token_bytes(32)

    def path(self, oid: str) -> Path:
        return self.root / oid[:2] / oid[2:4] / oid

    def has(self, oid: str) -> bool:
        return self.path(oid).exists()

    def signature(self, *parts: object) -> str:
        return hmac.new(self._secret, "\n".join(map(str, parts)).encode(), "sha256").hexdigest()

    def signed(self, method: str, oid: str, *, part: int = 0) -> str:
        """The part of an address that permits one method on one file for an hour."""
        expires = int(time.time()) + 3600
        signature = self.signature(method, oid, part, expires)
        return urlencode({"expires": expires, "part": part, "signature": signature})

    def url(self, method: str, oid: str, *, part: int = 0) -> str:
        return f"{self.origin}/_storage/{oid}?{self.signed(method, oid, part=part)}"

    def check(self, method: str, oid: str, request: Request) -> int:
        """The part number of a signed address.

        Raises:
            HubError: 403, signed for something else, not by us, or too long ago.
        """
        asked = request.query_params
        part, expires = int(asked.get("part", 0)), int(asked.get("expires", 0))
        expected = self.signature(method, oid, part, expires)
        if not hmac.compare_digest(asked.get("signature", ""), expected) or expires < time.time():
            raise HubError(403, "SignatureDoesNotMatch")
        return part


def upload_actions(call: Call, oid: str, *, size_bytes: int, multipart: bool) -> dict[str, Any]:
    store, header = call.hub.store, {}
    href = store.url("PUT", oid)
    if multipart and size_bytes > store.multipart_bytes:
        parts = range(1, -(-size_bytes // store.multipart_bytes) + 1)
        header = {str(part): store.url("PUT", oid, part=part) for part in parts}
        header["chunk_size"] = str(store.multipart_bytes)
        href = f"{call.hub.endpoint}/api/complete_multipart?{store.signed('POST', oid)}&oid={oid}"
    verify = f"{call.hub.page_url(call.kind, call.parts['id'])}.git/info/lfs/verify"
    return {"upload": {"href": href, "header": header}, "verify": {"href": verify}}


@route("POST", PAGE + r"\.git/info/lfs/objects/batch")
def lfs_batch(call: Call) -> Response:
    """Where to put or get files. Whoever may open a pull request may upload: the commit is checked, not this."""
    asked, store = call.json, call.hub.store
    upload = asked["operation"] == "upload"
    if upload:
        call.must_sign_in()
    call.repo("read" if upload else "content")
    multipart, objects = "multipart" in asked.get("transfers", []), []
    for wanted in asked["objects"]:
        oid, size_bytes = wanted["oid"], wanted["size"]
        answer = {"oid": oid, "size": size_bytes, "authenticated": True}
        if not re.fullmatch("[0-9a-f]{64}", oid):
            answer["error"] = {"code": 422, "message": "Invalid oid"}
        elif upload and not store.has(oid):
            answer["actions"] = upload_actions(call, oid, size_bytes=size_bytes, multipart=multipart)
        elif not upload and store.has(oid):
            answer["actions"] = {"download": {"href": store.url("GET", oid)}}
        elif not upload:
            answer["error"] = {"code": 404, "message": "Object does not exist"}
        objects.append(answer)
    body = {"transfer": "multipart" if multipart else "basic", "objects": objects, "hash_algo": "sha256"}
    return JSONResponse(body, media_type="application/vnd.git-lfs+json")


@route("POST", PAGE + r"\.git/info/lfs/verify")
def lfs_verify(call: Call) -> dict[str, Any]:
    oid, store = call.json["oid"], call.hub.store
    if not store.has(oid) or store.path(oid).stat().st_size != call.json["size"]:
        raise HubError(404, "Object does not exist")
    return {}


@route("PUT", "/_storage/(?P<oid>[0-9a-f]{64})")
async def storage_put(call: Call) -> Response:
    oid, store = call.parts["oid"], call.hub.store
    part = store.check("PUT", oid, call.request)
    final = store.path(oid).with_suffix(f".part{part}" if part else "")
    arriving = store.path(oid).with_suffix(f".{uuid.uuid4().hex}")
    arriving.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with arriving.open("wb") as file:
        async for chunk in call.request.stream():
            digest.update(chunk)
            file.write(chunk)
    if not part and digest.hexdigest() != oid:
        arriving.unlink()
        raise HubError(400, _BAD_DIGEST)
    arriving.replace(final)
    return Response(headers={"ETag": f'"{digest.hexdigest()}"'})


@route("POST", "/api/complete_multipart")
def complete_multipart(call: Call) -> dict[str, Any]:
    oid, store = call.request.query_params["oid"], call.hub.store
    store.check("POST", oid, call.request)
    whole, digest = store.path(oid).with_suffix(".whole"), hashlib.sha256()
    parts = sorted(call.json["parts"], key=lambda part: part["partNumber"])
    paths = [store.path(oid).with_suffix(f".part{part['partNumber']}") for part in parts]
    with whole.open("wb") as file:
        for part, path in zip(parts, paths, strict=True):
            of_part = hashlib.sha256()
            with path.open("rb") as source:
                while chunk := source.read(_READ_BYTES):
                    of_part.update(chunk)
                    digest.update(chunk)
                    file.write(chunk)
            if part["etag"].strip('"') != of_part.hexdigest():
                raise HubError(400, "InvalidPart")
    if digest.hexdigest() != oid:
        raise HubError(400, _BAD_DIGEST)
    whole.replace(store.path(oid))
    for path in paths:
        path.unlink()
    return {"success": True}


@route("GET|HEAD", "/_storage/(?P<oid>[0-9a-f]{64})")
def storage_get(call: Call) -> Response:
    oid, store = call.parts["oid"], call.hub.store
    store.check("GET", oid, call.request)
    return FileResponse(store.path(oid), headers={"ETag": f'"{oid}"'}, media_type="application/octet-stream")
