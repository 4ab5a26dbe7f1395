"""Xet's storage protocol (its "CAS"), for clients that have hf_xet and did not set HF_HUB_DISABLE_XET.

Uploaded xorbs and shards are decoded, every file is rebuilt, checked against its sha256, and stored as an LFS object:
what came in by Xet can be read by plain HTTP, by git-lfs, and by Xet again. The hashes of chunks are not checked.
Formats as in github.com/huggingface/xet-core, revision af1a3ff.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
import uuid
from pathlib import Path
from typing import Any

import lz4.frame
from starlette.responses import FileResponse, JSONResponse, Response

from .routing import REPO, REV, Call, HubError, route
from .storage import Store

_SHARD_TAG = b"HFRepoMetaData\0UigEj{\x81W\x83\xa5\xbd\xd9\\\xcd\xd1J\xa9"
_HAS_VERIFICATION, _HAS_SHA256 = 1 << 31, 1 << 30
_ENTRY_BYTES = 48

Term = tuple[str, int, int, int]
"""A stretch of a file: (xorb hash, unpacked bytes, first chunk, end chunk)."""


def hexed(raw: bytes) -> str:
    """A Xet hash in hexadecimal: four little-endian 64-bit numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def chunk_offsets(xorb: bytes) -> list[tuple[int, int, int]]:
    """(start, end, scheme) of each chunk of a xorb; its footer is left out."""
    found, at = [], 0
    while at + 8 <= len(xorb) and xorb[at : at + 7] != b"XETBLOB":
        packed_bytes = int.from_bytes(xorb[at + 1 : at + 4], "little")
        found.append((at, at + 8 + packed_bytes, xorb[at + 4]))
        at += 8 + packed_bytes
    return found


def unpack(xorb: bytes, start: int, end: int, scheme: int) -> bytes:
    """One chunk. Scheme 0: as it is, 1: lz4, 2: lz4 with bytes grouped by their position modulo 4."""
    data = xorb[start + 8 : end]
    if scheme == 0:
        return data
    data = lz4.frame.decompress(data)
    if scheme == 1:
        return data
    ungrouped, at = bytearray(len(data)), 0
    for offset in range(4):
        count = len(ungrouped[offset::4])
        ungrouped[offset::4] = data[at : at + count]
        at += count
    return bytes(ungrouped)


def read_shard(shard: bytes) -> list[tuple[str, str | None, list[Term]]]:
    """The files of a shard: (xet hash, sha256 if it is there, terms)."""
    if shard[:32] != _SHARD_TAG:
        raise HubError(400, "Not a shard")
    files, at = [], 48
    while shard[at : at + 32] != b"\xff" * 32:
        xet_hash, (flags, count) = hexed(shard[at : at + 32]), struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY_BYTES
        terms = []
        for _ in range(count):
            _, size_bytes, first, end = struct.unpack_from("<4I", shard, at + 32)
            terms.append((hexed(shard[at : at + 32]), size_bytes, first, end))
            at += _ENTRY_BYTES
        if flags & _HAS_VERIFICATION:
            at += _ENTRY_BYTES * count
        sha256 = None
        if flags & _HAS_SHA256:
            sha256 = hexed(shard[at : at + 32])
            at += _ENTRY_BYTES
        files.append((xet_hash, sha256, terms))
    return files


class XetStore:
    """Xorbs on disk, and which file is made of which stretches of them."""

    def __init__(self, root: Path, store: Store, *, endpoint: str) -> None:
        self.root, self.store, self.endpoint = root, store, endpoint
        root.mkdir(parents=True, exist_ok=True)
        known = json.loads(self._list.read_text()) if self._list.exists() else {"by_sha": {}, "files": {}}
        self.by_sha: dict[str, str] = known["by_sha"]
        self.files: dict[str, list[Term]] = known["files"]

    @property
    def _list(self) -> Path:
        return self.root / "files.json"

    def xorb(self, xorb_hash: str) -> Path:
        return self.root / f"{xorb_hash}.xorb"

    def hash_of(self, oid: str) -> str | None:
        """The Xet hash of a large file; None if it came in by LFS."""
        return self.by_sha.get(oid)

    def headers(self, call: Call, commit: bytes, oid: str) -> dict[str, str]:
        """What tells a client at a file that it can be read by Xet."""
        xet_hash = self.hash_of(oid)
        if xet_hash is None:
            return {}
        token_url = f"{self.endpoint}/api/{call.kind}/{call.parts['id']}/xet-read-token/{commit.decode()}"
        where = f"{self.store.origin}/v1/reconstructions/{xet_hash}"
        links = f'<{token_url}>; rel="xet-auth", <{where}>; rel="xet-reconstruction-info"'
        return {"X-Xet-Hash": xet_hash, "Link": links}

    def token(self, scope: str, expires: int) -> str:
        return f"{scope}.{expires}.{self.store.signature(scope, expires)}"

    def scope_of(self, token: str) -> str | None:
        """What a token of ours permits, "read" or "write"; None for any other."""
        scope, _, rest = token.partition(".")
        expires = rest.partition(".")[0]
        if not expires.isdigit() or token != self.token(scope, int(expires)) or int(expires) < time.time():
            return None
        return scope

    def take_shard(self, shard: bytes) -> None:
        """Rebuild the files of a shard into the LFS store."""
        for xet_hash, expected, terms in read_shard(shard):
            arriving, digest = self.root / uuid.uuid4().hex, hashlib.sha256()
            with arriving.open("wb") as file:
                for term in terms:
                    data = self.stretch(term)
                    digest.update(data)
                    file.write(data)
            found = digest.hexdigest()
            if expected not in (None, found):
                arriving.unlink()
                raise HubError(400, "BadDigest: the sha256 does not match")
            self.store.path(found).parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(self.store.path(found))
            self.by_sha[found], self.files[xet_hash] = xet_hash, terms
        self._list.write_text(json.dumps({"by_sha": self.by_sha, "files": self.files}))

    def stretch(self, term: Term) -> bytes:
        xorb_hash, size_bytes, first, end = term
        if not self.xorb(xorb_hash).exists():
            raise HubError(400, f"Unknown xorb {xorb_hash}")
        xorb = self.xorb(xorb_hash).read_bytes()
        data = b"".join(unpack(xorb, *chunk) for chunk in chunk_offsets(xorb)[first:end])
        if len(data) != size_bytes:
            raise HubError(400, "Shard and xorb disagree")
        return data


def xet_of(call: Call, scope: str | None = None) -> XetStore:
    """The Xet store, if this Hub speaks Xet and the request holds a token of it for `scope`."""
    xet = call.hub.xet
    if xet is None:
        raise HubError(404, "This Hub does not speak Xet")
    if scope:
        token = call.request.headers.get("authorization", "").removeprefix("Bearer ")
        if xet.scope_of(token) not in {"read": ("read", "write"), "write": ("write",)}[scope]:
            raise HubError(401, "Unauthorized")
    return xet


@route("GET", REPO + "/xet-(?P<scope>read|write)-token/" + REV)
def xet_token(call: Call) -> Response:
    xet, scope = xet_of(call), call.parts["scope"]
    if scope == "read":
        call.repo("content")
    elif call.flag("create_pr") or call.rev == "None":  # whoever may open a pull request may upload
        call.must_sign_in()
        call.repo()
    else:
        call.repo("write")
    expires = int(time.time()) + 3600
    token, origin = xet.token(scope, expires), xet.store.origin
    headers = {"X-Xet-Cas-Url": origin, "X-Xet-Token-Expiration": str(expires), "X-Xet-Access-Token": token}
    return JSONResponse({"casUrl": origin, "exp": expires, "accessToken": token}, headers=headers)


@route("POST", "/v1/xorbs/default/(?P<hash>[0-9a-f]{64})")
def post_xorb(call: Call) -> dict[str, Any]:
    path = xet_of(call, "write").xorb(call.parts["hash"])
    new = not path.exists()
    path.write_bytes(call.body)
    return {"was_inserted": new}


@route("POST", "/v1/shards")
def post_shard(call: Call) -> dict[str, Any]:
    xet = xet_of(call, "write")
    with call.hub.lock:
        xet.take_shard(call.body)
    return {"result": 1}


@route("GET", "/v1/reconstructions/(?P<hash>[0-9a-f]{64})")
def reconstruction(call: Call) -> dict[str, Any]:
    """Which stretches of which xorbs make up a file, or the range of it that is asked for."""
    xet = xet_of(call, "read")
    if call.parts["hash"] not in xet.files:
        raise HubError(404, "File does not exist")
    terms, skip = within(xet.files[call.parts["hash"]], call.request.headers.get("range", ""))
    listed, fetch = [], {}
    for xorb_hash, size_bytes, first, end in terms:
        chunks = chunk_offsets(xet.xorb(xorb_hash).read_bytes())
        url = f"{xet.store.origin}/_xorb/{xorb_hash}?signature={xet.store.signature('xorb', xorb_hash)}"
        span, where = {"start": first, "end": end}, {"start": chunks[first][0], "end": chunks[end - 1][1] - 1}
        wanted = {"range": span, "url": url, "url_range": where}
        if wanted not in fetch.setdefault(xorb_hash, []):
            fetch[xorb_hash].append(wanted)
        listed.append({"hash": xorb_hash, "unpacked_length": size_bytes, "range": span})
    return {"offset_into_first_range": skip, "terms": listed, "fetch_info": fetch}


def within(terms: list[Term], asked: str) -> tuple[list[Term], int]:
    """The terms that overlap a Range header, and how many bytes of the first one come before it."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
    if not wanted:
        return terms, 0
    start, end = int(wanted[1]), int(wanted[2]) + 1
    kept, skip, at = [], 0, 0
    for term in terms:
        if at < end and at + term[1] > start:
            skip = skip if kept else start - at
            kept.append(term)
        at += term[1]
    if start >= at:
        raise HubError(416, "Range not satisfiable")
    return kept, skip


@route("GET", "/_xorb/(?P<hash>[0-9a-f]{64})")
def get_xorb(call: Call) -> Response:
    xet, xorb_hash = xet_of(call), call.parts["hash"]
    if call.request.query_params.get("signature") != xet.store.signature("xorb", xorb_hash):
        raise HubError(403, "SignatureDoesNotMatch")
    return FileResponse(xet.xorb(xorb_hash), media_type="application/octet-stream")
