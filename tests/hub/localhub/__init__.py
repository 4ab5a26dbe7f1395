"""localhub: a small Hugging Face Hub for tests, on loopback, for the real `huggingface_hub` and `datasets` clients.

Every repository is a real bare git repository (dulwich); large files are git-lfs objects next to it, so commit shas,
blob ids and pointer files are what the Hub would give, and `git fsck`, `git clone` and `git lfs pull` work on them.

    with LocalHub(tmp_path) as hub:              # a thread in this process; or: python -m localhub --root DIR
        os.environ["HF_ENDPOINT"] = hub.endpoint # before huggingface_hub / datasets are imported

Xet is not spoken here: set HF_HUB_DISABLE_XET=1 (the client then uploads by plain git-lfs), or see xetcas.py.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import inspect
import json
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

import uvicorn
import yaml
from dulwich.ignore import IgnoreFilter
from dulwich.index import commit_tree
from dulwich.object_store import iter_tree_contents
from dulwich.objects import Blob, Commit, Tag, Tree
from dulwich.refs import check_ref_format
from dulwich.repo import Repo as Git
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

LFS_SUFFIXES = (
    "7z arrow avro bin bz2 ckpt ftz gz h5 joblib lz4 mds mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt "
    "pth rar safetensors tar tflite tgz wasm xz zip zst pcm sam raw aac flac mp3 ogg wav bmp gif png tiff jpg jpeg webp "
    "mp4 webm"
).split()
GITATTRIBUTES = "".join(f"*.{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES) + (
    "saved_model/**/* filter=lfs diff=lfs merge=lfs -text\n*tfevents* filter=lfs diff=lfs merge=lfs -text\n"
)
MAX_REGULAR = 10 * 1000 * 1000  # a larger file goes to LFS whatever .gitattributes says
POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")


ALICE = "hf_aliceAliceAliceAliceAlice"
BOB = "hf_bobBobBobBobBobBobBobBob"
ALICE_READ = "hf_aliceReadAliceReadAliceRead"


class HubError(Exception):
    """An answer other than 2xx, with the headers `hf_raise_for_status` picks its exception from."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None, **headers: str):
        super().__init__(message)
        self.status, self.body = status, body or {"error": message}
        self.headers = {"X-Error-Message": message.replace("\n", " "), **headers} | (
            {"X-Error-Code": code} if code else {}
        )


@dataclass
class User:
    name: str
    role: str = "write"  # "read": a token that can only read
    orgs: list[str] = field(default_factory=list)

    def owns(self, namespace: str) -> bool:
        return namespace.lower() in [n.lower() for n in (self.name, *self.orgs)]


@dataclass
class Fault:
    """Answer matching requests wrongly, `times` times (-1: always): an error status, a delay, or a lost answer."""

    path: str  # regular expression, searched in "METHOD /raw/path"
    status: int = 500
    times: int = 1
    message: str = "injected fault"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    after: bool = False  # do the work first: the client loses an answer, the server keeps the effect
    drop: bool = False  # break the connection in place of an answer
    proceed: bool = False  # only the delay: answer as usual afterwards


def stamp(t: float | None = None) -> str:
    return datetime.fromtimestamp(time.time() if t is None else t, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


LICENSES = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 "
    "bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 "
    "cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 "
    "agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 "
    "odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license "
    "fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other".split()
)


def validate_card(text: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) for a README.md. The Hub's own rules are wider and not public; these are known ones."""
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", text, re.S)
    try:
        data = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as e:
        return [f"Invalid YAML: {e}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["repo card metadata must be a mapping"], []
    errors = []
    for key, kind in {
        "tags": list,
        "configs": list,
        "model-index": list,
        "dataset_info": (dict, list),
        "pretty_name": str,
    }.items():
        if data.get(key) is not None and not isinstance(data[key], kind):
            errors.append(f'"{key}" has the wrong type')
    for key, check, rule in (("license", LICENSES.__contains__, f"must be one of [{', '.join(sorted(LICENSES))}]"),
                             ("language", re.compile("[a-z]{2,3}|code|multilingual").fullmatch, "must be an ISO 639-1, 639-2 or 639-3 code")):  # fmt: skip
        value = data.get(key)
        for v in [value] if isinstance(value, str) else value or []:
            if not isinstance(v, str) or not check(v):
                errors.append(f'"{key}" {rule}')
    return errors, []


class Repo:
    """One repository: a bare git repository plus the Hub's own record of it (hub.json)."""

    def __init__(self, path: Path, meta: dict | None = None):
        self.path, self.lock, self._info = path, threading.Lock(), {}
        if meta is not None:
            path.mkdir(parents=True)
            self.git = Git.init_bare(str(path), default_branch=b"main")
            self.meta = meta | {"created": time.time(), "discussions": [], "granted": []}
            self.save()
            self.commit(b"refs/heads/main", None, {".gitattributes": (0o100644, self.add_blob(GITATTRIBUTES.encode()))},
                        "initial commit", meta["creator"])  # fmt: skip
        else:
            self.git, self.meta = Git(str(path)), json.loads((path / "hub.json").read_text())

    def save(self) -> None:
        (self.path / "hub.tmp").write_text(json.dumps(self.meta))
        (self.path / "hub.tmp").replace(self.path / "hub.json")

    def resolve(self, rev: str) -> tuple[bytes | None, bytes]:
        """(ref, commit sha) of a branch, tag, refs/..., or (abbreviated) sha; the ref is None for a sha."""
        for ref in [rev] if rev.startswith("refs/") else [f"refs/heads/{rev}", f"refs/tags/{rev}"]:
            try:
                return ref.encode(), self.peel(self.git.refs[ref.encode()])
            except (KeyError, ValueError):
                continue
        if re.fullmatch("[0-9a-f]{7,40}", rev):
            hits = {s for s in self.git.object_store.iter_prefix(rev.encode()) if isinstance(self.git[s], Commit)}
            if len(hits) == 1:
                return None, hits.pop()
        raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    def peel(self, sha: bytes) -> bytes:
        while isinstance(obj := self.git[sha], Tag):
            sha = obj.object[1]
        return sha

    def add_blob(self, data: bytes) -> bytes:
        blob = Blob.from_string(data)
        self.git.object_store.add_object(blob)
        return blob.id

    def files(self, commit: bytes) -> dict[str, tuple[int, bytes]]:
        return {
            e.path.decode(): (e.mode, e.sha) for e in iter_tree_contents(self.git.object_store, self.git[commit].tree)
        }

    def entries(self, commit: bytes) -> dict[str, dict]:
        """Files and folders in the form of the /tree endpoint, by path."""
        out = {}
        for e in iter_tree_contents(self.git.object_store, self.git[commit].tree, include_trees=True):
            if path := e.path.decode():
                out[path] = self.entry(e.sha) | {"path": path}
        return out

    def entry(self, sha: bytes) -> dict:
        if sha not in self._info:
            obj = self.git[sha]
            if isinstance(obj, Tree):
                info: dict[str, Any] = {"type": "directory", "oid": sha.decode(), "size": 0}
            else:
                data = obj.as_raw_string()
                info = {"type": "file", "oid": sha.decode(), "size": len(data)}
                if len(data) < 200 and (m := POINTER.match(data)):
                    info["size"] = int(m[2])
                    info["lfs"] = {"oid": m[1].decode(), "size": int(m[2]), "pointerSize": len(data)}
            self._info[sha] = info
        return dict(self._info[sha])

    def log(self, commit: bytes) -> list[Commit]:
        return [w.commit for w in self.git.get_walker(include=[commit], order="topo")]

    def last_commits(self, commit: bytes, paths: list[str]) -> dict[str, dict]:
        """The newest commit that gave each path the content it has at `commit`."""
        todo, found, chain = set(paths), {}, self.log(commit)
        oids = [{p: e["oid"] for p, e in self.entries(c.id).items()} for c in chain]
        for c, here, before in zip(chain, oids, [*oids[1:], {}]):
            for p in [p for p in todo if here.get(p) != before.get(p)]:
                todo.discard(p)
                found[p] = {
                    "id": c.id.decode(),
                    "title": c.message.decode().split("\n")[0],
                    "date": stamp(c.commit_time),
                }
        return found

    def commit(self, ref: bytes, old: bytes | None, files: dict[str, tuple[int, bytes]], message: str, author: str,
               parents: list[bytes] | None = None) -> bytes:  # fmt: skip
        """Write a commit and move `ref` from `old` to it: compare-and-swap under git's own lock file."""
        c = Commit()
        c.tree = commit_tree(self.git.object_store, [(p.encode(), sha, mode) for p, (mode, sha) in files.items()])
        c.parents = parents if parents is not None else [old] if old else []
        c.author = c.committer = f"{author} <{author}@users.noreply.huggingface.co>".encode()
        c.author_time = c.commit_time = int(time.time())
        c.author_timezone = c.commit_timezone = 0
        c.encoding, c.message = b"UTF-8", message.encode()
        self.git.object_store.add_object(c)
        moved = self.git.refs.set_if_equals(ref, old, c.id) if old else self.git.refs.add_if_new(ref, c.id)
        if not moved:
            raise HubError(412, "The branch was updated since you opened this page. Please refresh and try again.")
        return c.id

    def is_lfs(self, commit: bytes, path: str) -> bool:
        blob = self.files(commit).get(".gitattributes")
        lfs = False
        for line in self.git[blob[1]].as_raw_string().decode().splitlines() if blob else []:
            pattern, *attributes = line.split() or [""]
            if "filter=lfs" in attributes and IgnoreFilter([pattern.encode()]).is_ignored(path):
                lfs = True
            elif "-filter" in attributes and IgnoreFilter([pattern.encode()]).is_ignored(path):
                lfs = False
        return lfs


@dataclass
class Call:
    """One request on its way through a handler."""

    hub: LocalHub
    request: Request
    groups: dict[str, str]
    user: User | None
    body: bytes = b""

    def __getattr__(self, name: str) -> str:  # a part of the path, decoded
        try:
            return unquote(self.groups[name])
        except (KeyError, TypeError):
            raise AttributeError(name) from None

    @property
    def json(self) -> dict:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as e:
            raise HubError(400, f"Invalid JSON: {e}") from None

    def flag(self, name: str) -> bool:
        return self.request.query_params.get(name, "").lower() in ("1", "true")

    def must_sign_in(self) -> User:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    @property
    def kind_name(self) -> str:
        return (self.groups.get("kind") or "models")[:-1]

    def repo(self, need: str = "read") -> Repo:
        """The repository of this path: need is "read" (what it is), "content" (its files; gated), or "write"."""
        repo = self.hub.find(self.groups.get("kind") or "models", self.id)
        owner = repo is not None and self.user is not None and self.user.owns(repo.meta["id"].split("/")[0])
        if repo is None or (repo.meta["private"] and not owner):
            raise HubError(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        if (
            need == "content"
            and repo.meta["gated"]
            and not owner
            and (self.user is None or self.user.name not in repo.meta["granted"])
        ):
            what, url = f"{self.kind_name} {repo.meta['id']}", self.hub.page_url(self.kind_name + "s", repo.meta["id"])
            if self.user is None:
                raise HubError(
                    401, f"Access to {what} is restricted. You must be authenticated to access it.", "GatedRepo"
                )
            message = (
                f"Access to {what} is restricted and you are not in the authorized list. Visit {url} to ask for access."
            )
            raise HubError(403, message, "GatedRepo")
        if need == "write" and not (self.must_sign_in() and owner and self.user.role == "write"):
            raise HubError(403, "Forbidden: you don't have the rights to write to this repository")
        return repo


ROUTES: list[tuple[str, re.Pattern, Callable]] = []
REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+|[^/]+)"
PAGE = r"/(?:(?P<kind>models|datasets|spaces)/)?(?P<id>[^/]+/[^/]+?|[^/]+?)"
REV = r"(?P<rev>refs/(?:pr|convert)/[^/]+|[^/]+)"


def route(methods: str, pattern: str) -> Callable:
    def add(handler: Callable) -> Callable:
        ROUTES.append((methods, re.compile(pattern + "/?"), handler))
        return handler

    return add


def paged(c: Call, items: list, size: int) -> Response:
    """One page of a list, with the `Link: <...>; rel="next"` header the client follows."""
    size = min(size, c.hub.page_size or size)
    start = int(c.request.query_params.get("cursor", 0))
    headers = {}
    if start + size < len(items):
        query = urlencode(
            [(k, v) for k, v in c.request.query_params.multi_items() if k != "cursor"] + [("cursor", start + size)]
        )
        headers["Link"] = f'<{c.hub.endpoint}{c.request.scope["raw_path"].decode()}?{query}>; rel="next"'
    return JSONResponse(items[start : start + size], headers=headers)


# ---- repositories ----------------------------------------------------------------------------------------------------


@route("POST", "/api/repos/create")
def create_repo(c: Call):
    user, p = c.must_sign_in(), c.json
    namespace, kind = p.get("organization") or user.name, (p.get("type") or "model") + "s"
    repo_id = f"{namespace}/{p['name']}"
    url = c.hub.page_url(kind, repo_id)
    if user.role != "write" or not user.owns(namespace):
        raise HubError(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{namespace}"')
    private = p.get("visibility", "private" if p.get("private") else "public") == "private"
    with c.hub.lock:
        if c.hub.find(kind, repo_id):
            message = f"You already created this {kind[:-1]} repo: {repo_id}"
            raise HubError(409, message, body={"error": message, "url": url})
        c.hub.add(kind, repo_id, {"private": private, "gated": False, "creator": user.name})
    return {"url": url, "name": repo_id, "id": uuid.uuid4().hex[:24]}


@route("DELETE", "/api/repos/delete")
def delete_repo(c: Call):
    p = c.json
    c.groups = {
        "kind": (p.get("type") or "model") + "s",
        "id": f"{p.get('organization') or c.must_sign_in().name}/{p['name']}",
    }
    repo = c.repo("write")
    c.hub.repos.pop((c.kind, repo.meta["id"].lower()))
    shutil.rmtree(repo.path)
    return {}


@route("POST", "/api/repos/move")
def move_repo(c: Call):
    p, kind = c.json, (c.json.get("type") or "model") + "s"
    c.groups = {"kind": kind, "id": p["fromRepo"]}
    repo, to = c.repo("write"), p["toRepo"]
    if c.hub.find(kind, to):
        raise HubError(409, f"A {kind[:-1]} repository called {to} already exists")
    c.hub.repos.pop((kind, repo.meta["id"].lower()))
    c.hub.moved[kind, repo.meta["id"].lower()] = to
    repo.meta["id"] = to
    repo.save()
    c.hub.repos[kind, to.lower()] = repo
    return {}


@route("PUT", REPO + "/settings")
def settings(c: Call):
    repo, p = c.repo("write"), c.json
    if "gated" in p:
        repo.meta["gated"] = p["gated"]
    if "private" in p or "visibility" in p:
        repo.meta["private"] = p.get("visibility", "private" if p.get("private") else "public") == "private"
    repo.save()
    return {"private": repo.meta["private"], "gated": repo.meta["gated"]}


@route("GET", REPO + "/auth-check(?P<write>/write)?")
def auth_check(c: Call):
    c.repo("write" if c.groups["write"] else "content")
    return {}


@route("POST", REPO + "/user-access-request/grant")
def grant_access(c: Call):
    repo = c.repo("write")
    repo.meta["granted"].append(c.json["user"])
    repo.save()
    return {}


def card_data(repo: Repo, commit: bytes) -> dict:
    blob = repo.files(commit).get("README.md")
    m = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", repo.git[blob[1]].as_raw_string().decode(), re.S) if blob else None
    try:
        data = yaml.safe_load(m[1]) if m else None
    except yaml.YAMLError:
        data = None
    return data if isinstance(data, dict) else {}


def describe(c: Call, kind: str, repo: Repo, commit: bytes, blobs: bool = False) -> dict:
    card, meta, siblings = card_data(repo, commit), repo.meta, []
    for path, e in repo.entries(commit).items():
        if e["type"] == "file":
            siblings.append({"rfilename": path})
            if blobs:
                siblings[-1] |= {"size": e["size"], "blobId": e["oid"]}
                if "lfs" in e:
                    siblings[-1]["lfs"] = {
                        "sha256": e["lfs"]["oid"],
                        "size": e["size"],
                        "pointerSize": e["lfs"]["pointerSize"],
                    }
    tags = [str(t) for t in card.get("tags") or []]
    for key in ("task_categories", "task_ids", "annotations_creators", "language_creators", "multilinguality", "source_datasets",
                "size_categories", "language", "license"):  # fmt: skip
        value = card.get(key) or []
        tags += [f"{key}:{v}" for v in ([value] if isinstance(value, str) else value)]
    info = {
        "_id": hashlib.md5(meta["id"].encode()).hexdigest()[:24], "id": meta["id"], "author": meta["id"].split("/")[0],
        "sha": commit.decode(), "lastModified": stamp(repo.git[commit].commit_time), "createdAt": stamp(meta["created"]),
        "private": meta["private"], "gated": meta["gated"], "disabled": False, "likes": 0, "downloads": 0,
        "tags": tags + ["region:us"], "siblings": siblings, "usedStorage": sum(s.get("size", 0) for s in siblings),
    }  # fmt: skip
    if card:
        info["cardData"] = card
    if kind == "models":
        info["modelId"] = meta["id"]
    return info


@route("GET", "/api/(?P<kind>models|datasets|spaces)")
def list_repos(c: Call):
    q, out = c.request.query_params, []
    for (kind, _), repo in sorted(c.hub.repos.items()):
        ns = repo.meta["id"].split("/")[0]
        if kind != c.kind or (repo.meta["private"] and not (c.user and c.user.owns(ns))):
            continue
        info = describe(c, kind, repo, repo.resolve("main")[1])
        wanted = q.getlist("filter")
        if (
            q.get("author", ns) == ns
            and q.get("search", "") in repo.meta["id"]
            and all(w in info["tags"] for w in wanted)
        ):
            out.append(info)
    return paged(c, out, int(q.get("limit", 1000)))


@route("GET", REPO + "/revision/" + REV)
@route("GET", REPO)
def repo_info(c: Call):
    repo = c.repo()
    info = describe(c, c.kind, repo, repo.resolve(c.rev if "rev" in c.groups else "main")[1], c.flag("blobs"))
    if expand := c.request.query_params.getlist("expand"):
        info = {k: v for k, v in info.items() if k in ("_id", "id", *expand)}
    return info


# ---- reading files ---------------------------------------------------------------------------------------------------


def with_xet(c: Call, e: dict) -> dict:
    return e | {"xetHash": h} if "lfs" in e and (h := c.hub.xet_hash(e["lfs"]["oid"])) else e


@route("GET", REPO + "/tree/" + REV + "(?:/(?P<path>.*?))?")
def tree(c: Call):
    repo, path = c.repo(), (unquote(c.groups["path"] or "")).strip("/")
    commit = repo.resolve(c.rev)[1]
    entries = repo.entries(commit)
    if path and entries.get(path, {}).get("type") != "directory":
        raise HubError(404, f'{path} does not exist on "{c.rev}"', "EntryNotFound")
    prefix = path + "/" if path else ""
    inside = [
        e for p, e in entries.items() if p.startswith(prefix) and (c.flag("recursive") or "/" not in p[len(prefix) :])
    ]
    inside = [with_xet(c, e) for e in inside]
    if c.flag("expand"):
        last = repo.last_commits(commit, [e["path"] for e in inside])
        inside = [e | {"lastCommit": last.get(e["path"])} for e in inside]
    return paged(c, inside, 50 if c.flag("expand") else 1000)


@route("POST", REPO + "/paths-info/" + REV)
def paths_info(c: Call):
    if "json" in c.request.headers.get("content-type", ""):
        paths, expand = c.json["paths"], c.json.get("expand")
    else:
        form = parse_qs(c.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    repo = c.repo()
    commit = repo.resolve(c.rev)[1]
    entries = repo.entries(commit)
    found = [with_xet(c, entries[p.strip("/")]) for p in paths if p.strip("/") in entries]
    if expand:
        last = repo.last_commits(commit, [e["path"] for e in found])
        found = [e | {"lastCommit": last.get(e["path"])} for e in found]
    return found


@route("GET|HEAD", PAGE + "/(?:resolve|raw)/" + REV + "/(?P<path>.+)")
def resolve_file(c: Call):
    repo = c.repo("content")
    commit = repo.resolve(c.rev)[1]
    headers = {"X-Repo-Commit": commit.decode(), "Accept-Ranges": "bytes"}
    blob = repo.files(commit).get(c.path)
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound", **headers)
    e, name = repo.entry(blob[1]), c.path.split("/")[-1]
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";"
    if "lfs" in e and "/raw/" not in c.request.scope["raw_path"].decode():
        # As on the Hub, the bytes come from another origin, by a signed URL that needs no token.
        headers |= {"X-Linked-Size": str(e["size"]), "X-Linked-ETag": f'"{e["lfs"]["oid"]}"'}
        headers |= c.hub.xet_headers(c, commit, e["lfs"]["oid"])
        return Response(status_code=302, headers=headers | {"Location": c.hub.storage_url("GET", e["lfs"]["oid"])})
    data = repo.git[blob[1]].as_raw_string()
    headers["ETag"] = f'"{e["oid"]}"'
    if m := re.fullmatch(r"bytes=(\d*)-(\d*)", c.request.headers.get("range", "")):
        start = int(m[1]) if m[1] else max(len(data) - int(m[2]), 0)
        end = min(int(m[2]), len(data) - 1) if m[1] and m[2] else len(data) - 1
        if start >= len(data):
            raise HubError(416, "Range not satisfiable", **{"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return Response(data[start : end + 1], 206, headers, "text/plain; charset=utf-8")
    return Response(data, 200, headers, "text/plain; charset=utf-8")


@route("GET", REPO + "/refs")
def refs(c: Call):
    repo, out = c.repo(), {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for prefix, group in {
        "refs/heads/": "branches",
        "refs/convert/": "converts",
        "refs/tags/": "tags",
        "refs/pr/": "pullRequests",
    }.items():
        for ref, sha in sorted(repo.git.get_refs().items()):
            if ref.startswith(prefix.encode()):
                out[group].append(
                    {"name": ref.decode()[len(prefix) :], "ref": ref.decode(), "targetCommit": repo.peel(sha).decode()}
                )
    if not c.flag("include_prs"):
        del out["pullRequests"]
    return out


@route("GET", REPO + "/commits/" + REV)
def commits(c: Call):
    repo, out = c.repo(), []
    for k in repo.log(repo.resolve(c.rev)[1]):
        title, _, message = k.message.decode().partition("\n")
        author = k.author.decode().split(" <")[0]
        out.append({"id": k.id.decode(), "title": title, "message": message.strip(), "date": stamp(k.commit_time),
                    "authors": [{"user": author, "avatar": ""}]})  # fmt: skip
        if c.request.query_params.get("expand[]") == "formatted":
            out[-1]["formatted"] = {"title": title, "message": message.strip()}
    return paged(c, out, 50)


# ---- writing files ---------------------------------------------------------------------------------------------------


def check_path(path: str) -> str:
    if path.startswith("..") or "\0" in path or any(s in ("", ".", "..", ".git") for s in path.split("/")):
        raise HubError(422, f"Invalid path: {path!r}")
    return path


def owns_pr(c: Call) -> bool:
    """Whether this revision is a pull request that the user opened: they may push to it."""
    m = re.fullmatch(r"refs/pr/(\d+)", c.rev)
    return bool(
        m
        and c.user
        and any(str(d["num"]) == m[1] and d["author"]["name"] == c.user.name for d in c.repo().meta["discussions"])
    )


@route("POST", REPO + "/preupload/" + REV)
def preupload(c: Call):
    repo = c.repo("read" if (c.flag("create_pr") or owns_pr(c)) and c.must_sign_in() else "write")
    commit = repo.resolve(c.rev)[1]
    files, p = repo.files(commit), c.json
    ignore = p.get("gitIgnore")
    if ignore is None and ".gitignore" in files:
        ignore = repo.git[files[".gitignore"][1]].as_raw_string().decode()
    rules, out = IgnoreFilter([line.encode() for line in (ignore or "").splitlines() if line.strip()]), []
    for f in p["files"]:
        path, known = check_path(f["path"]), files.get(f["path"])
        lfs = repo.is_lfs(commit, path) or f["size"] > MAX_REGULAR
        answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": bool(rules.is_ignored(path))}
        if known:
            e = repo.entry(known[1])
            answer["oid"] = e["lfs"]["oid"] if "lfs" in e else e["oid"]
        out.append(answer)
    return {"files": out, "commitOid": commit.decode()}


@route("POST", PAGE + r"\.git/info/lfs/objects/batch")
def lfs_batch(c: Call):
    p = c.json
    upload = p["operation"] == "upload"
    # Uploading needs no write right of its own: whoever may open a pull request may upload (the commit is checked).
    c.repo("read" if upload and c.must_sign_in() else "content")
    multipart, objects = "multipart" in p.get("transfers", []), []
    for o in p["objects"]:
        oid, size, answer = o["oid"], o["size"], {"oid": o["oid"], "size": o["size"], "authenticated": True}
        if not re.fullmatch("[0-9a-f]{64}", oid):
            answer["error"] = {"code": 422, "message": "Invalid oid"}
        elif upload and not c.hub.has_lfs(oid):
            href, header = c.hub.storage_url("PUT", oid), {}
            if multipart and size > c.hub.multipart_size:
                parts = range(1, -(-size // c.hub.multipart_size) + 1)
                header = {str(n): c.hub.storage_url("PUT", oid, part=n) for n in parts} | {
                    "chunk_size": str(c.hub.multipart_size)
                }
                href = f"{c.hub.endpoint}/api/complete_multipart?{c.hub.storage_url('POST', oid).partition('?')[2]}&oid={oid}"
            verify = {"href": f"{c.hub.page_url(c.groups['kind'] or 'models', c.id)}.git/info/lfs/verify"}
            answer["actions"] = {"upload": {"href": href, "header": header}, "verify": verify}
        elif not upload and c.hub.has_lfs(oid):
            answer["actions"] = {"download": {"href": c.hub.storage_url("GET", oid)}}
        elif not upload:
            answer["error"] = {"code": 404, "message": "Object does not exist"}
        objects.append(answer)
    return JSONResponse({"transfer": "multipart" if multipart else "basic", "objects": objects, "hash_algo": "sha256"},
                        media_type="application/vnd.git-lfs+json")  # fmt: skip


@route("POST", PAGE + r"\.git/info/lfs/verify")
def lfs_verify(c: Call):
    if not c.hub.has_lfs(c.json["oid"]) or c.hub.lfs_path(c.json["oid"]).stat().st_size != c.json["size"]:
        raise HubError(404, "Object does not exist")
    return {}


@route("PUT", "/_storage/(?P<oid>[0-9a-f]{64})")
async def storage_put(c: Call):
    part = c.hub.check_signature("PUT", c.oid, c.request)
    temporary, sha = c.hub.lfs_path(c.oid).with_suffix(f".{part or 'whole'}.{uuid.uuid4().hex}"), hashlib.sha256()
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as f:
        async for chunk in c.request.stream():
            sha.update(chunk)
            f.write(chunk)
    if not part and sha.hexdigest() != c.oid:
        temporary.unlink()
        raise HubError(400, "BadDigest: the sha256 does not match")
    temporary.replace(c.hub.lfs_path(c.oid).with_suffix(f".part{part}") if part else c.hub.lfs_path(c.oid))
    return Response(headers={"ETag": f'"{sha.hexdigest()}"'})


@route("POST", "/api/complete_multipart")
def complete_multipart(c: Call):
    oid = c.request.query_params["oid"]
    c.hub.check_signature("POST", oid, c.request)
    whole, sha = c.hub.lfs_path(oid).with_suffix(".whole"), hashlib.sha256()
    with whole.open("wb") as f:
        for part in sorted(c.json["parts"], key=lambda p: p["partNumber"]):
            data = c.hub.lfs_path(oid).with_suffix(f".part{part['partNumber']}").read_bytes()
            if part["etag"].strip('"') != hashlib.sha256(data).hexdigest():
                raise HubError(400, "InvalidPart")
            sha.update(data)
            f.write(data)
    if sha.hexdigest() != oid:
        raise HubError(400, "BadDigest: the sha256 does not match")
    whole.replace(c.hub.lfs_path(oid))
    return {"success": True}


@route("GET|HEAD", "/_storage/(?P<oid>[0-9a-f]{64})")
def storage_get(c: Call):
    c.hub.check_signature("GET", c.oid, c.request)
    return FileResponse(c.hub.lfs_path(c.oid), headers={"ETag": f'"{c.oid}"'}, media_type="application/octet-stream")


@route("POST", REPO + "/lfs-files/duplicate")
def duplicate_lfs(c: Call):
    c.repo("content")
    return {"succeeded": c.json["files"], "failed": []}  # one LFS store for all repositories: nothing to copy


def apply_operations(c: Call, repo: Repo, files: dict[str, tuple[int, bytes]], operations: list[dict]) -> None:
    for op in operations:
        key, v = op["key"], op["value"]
        path = check_path(v["path"].rstrip("/"))
        if key == "file":
            data = base64.b64decode(v["content"]) if v.get("encoding") == "base64" else v["content"].encode()
            if path == "README.md" and (errors := validate_card(data.decode())[0]):
                raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))
            files[path] = (0o100644, repo.add_blob(data))
        elif key == "lfsFile":
            if not c.hub.has_lfs(v["oid"]):
                raise HubError(
                    400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}"
                )
            size = c.hub.lfs_path(v["oid"]).stat().st_size
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{v['oid']}\nsize {size}\n"
            files[path] = (0o100644, repo.add_blob(pointer.encode()))
        elif key in ("deletedFile", "deletedFolder", "deletedEntry"):
            gone = [p for p in files if p == path or p.startswith(path + "/")]
            if not gone:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            for p in gone:
                del files[p]
        else:
            raise HubError(400, f"Unknown operation: {key}")


@route("POST", REPO + "/commit/" + REV)
def commit(c: Call):
    create_pr = c.flag("create_pr")
    repo = c.repo("read" if (create_pr or owns_pr(c)) and c.must_sign_in() else "write")
    try:
        lines = [json.loads(line) for line in c.body.splitlines() if line.strip()]
        header, operations = lines[0]["value"], lines[1:]
        assert lines[0]["key"] == "header" and header["summary"] and operations
    except (ValueError, KeyError, IndexError, AssertionError):
        raise HubError(400, "Add a line with the key `lfsFile`, `file` or `deletedFile`") from None
    message = "\n\n".join(s for s in (header["summary"], header.get("description")) if s)
    if not repo.lock.acquire(timeout=c.hub.commit_wait):
        raise HubError(409, "Another commit is in progress on this repository. Please try again.")
    try:
        ref, head = repo.resolve(c.rev)
        if ref is None or not ref.startswith((b"refs/heads/", b"refs/pr/")):
            raise HubError(404, f"Invalid rev id: {c.rev}", "RevisionNotFound")
        parent, files = header.get("parentCommit"), None
        if parent and not head.startswith(parent.encode()):
            if not create_pr:
                raise HubError(412, "The branch was updated since you opened this page. Please refresh and try again.")
            head = repo.resolve(parent)[1]
        files = repo.files(head)
        apply_operations(c, repo, files, operations)
        if create_pr:
            d = new_discussion(c, repo, header["summary"], header.get("description", ""), ref.decode(), head)
            ref = f"refs/pr/{d['num']}".encode()
        sha = repo.commit(ref, head, files, message, c.user.name)
        if ref.startswith(b"refs/pr/"):
            d = next(d for d in repo.meta["discussions"] if d["num"] == int(ref.split(b"/")[2]))
            add_event(d, "commit", c.user.name, {"subject": header["summary"], "oid": sha.decode()})
            repo.save()
    finally:
        repo.lock.release()
    url = c.hub.page_url(c.kind, repo.meta["id"])
    out = {"success": True, "commitOid": sha.decode(), "commitUrl": f"{url}/commit/{sha.decode()}", "hookOutput": ""}
    return out | ({"pullRequestUrl": f"{url}/discussions/{ref.decode().split('/')[2]}"} if create_pr else {})


@route("POST", "/api/validate-yaml")
def validate_yaml(c: Call):
    errors, warnings = validate_card(c.json["content"])
    if errors and "text/plain" in c.request.headers.get("accept", ""):
        return Response("".join(f"- Error: {m}\n" for m in errors), 400, media_type="text/plain")
    body = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
    return JSONResponse(body, 400 if errors else 200)


# ---- tags and branches -----------------------------------------------------------------------------------------------


@route("POST", REPO + "/tag/" + REV)
def create_tag(c: Call):
    repo, p = c.repo("write"), c.json
    commit, ref = repo.resolve(c.rev)[1], f"refs/tags/{p['tag']}".encode()
    if not check_ref_format(ref):
        raise HubError(400, f"Invalid tag name: {p['tag']}")
    target = commit
    if p.get("message"):  # an annotated tag
        tag = Tag()
        tag.name, tag.object, tag.message = p["tag"].encode(), (Commit, commit), p["message"].encode() + b"\n"
        tag.tagger = f"{c.user.name} <{c.user.name}@users.noreply.huggingface.co>".encode()
        tag.tag_time, tag.tag_timezone = int(time.time()), 0
        repo.git.object_store.add_object(tag)
        target = tag.id
    if not repo.git.refs.add_if_new(ref, target):
        raise HubError(409, f"Reference {ref.decode()} already exists")
    return {}


@route("DELETE", REPO + "/tag/" + REV)
def delete_tag(c: Call):
    repo, ref = c.repo("write"), f"refs/tags/{c.rev}".encode()
    if ref not in repo.git.refs:
        raise HubError(404, f"Invalid rev id: {c.rev}", "RevisionNotFound")
    repo.git.refs.remove_if_equals(ref, None)
    return {}


@route("POST", REPO + "/branch/" + REV)
def create_branch(c: Call):
    repo = c.repo("write")
    ref, start = f"refs/heads/{c.rev}".encode(), repo.resolve(c.json.get("startingPoint", "main"))[1]
    if c.rev.startswith("refs/") or not check_ref_format(ref):
        raise HubError(400, f"Invalid reference for a branch: {c.rev}")
    if not repo.git.refs.add_if_new(ref, start):
        raise HubError(409, f"Reference {ref.decode()} already exists")
    return {}


@route("DELETE", REPO + "/branch/" + REV)
def delete_branch(c: Call):
    repo, ref = c.repo("write"), f"refs/heads/{c.rev}".encode()
    if c.rev == "main":
        raise HubError(403, "Cannot delete refs/heads/main")
    if ref not in repo.git.refs:
        raise HubError(404, f"Invalid rev id: {c.rev}", "RevisionNotFound")
    repo.git.refs.remove_if_equals(ref, None)
    return {}


@route("POST", REPO + "/super-squash/" + REV)
def super_squash(c: Call):
    repo = c.repo("write")
    with repo.lock:
        ref, head = repo.resolve(c.rev)
        repo.commit(
            ref,
            head,
            repo.files(head),
            c.json.get("message") or f"Super-squash branch '{c.rev}'",
            c.user.name,
            parents=[],
        )
    return {}


# ---- discussions and pull requests -----------------------------------------------------------------------------------


def add_event(d: dict, kind: str, author: str, data: dict) -> dict:
    d["events"].append(
        {"id": uuid.uuid4().hex[:24], "type": kind, "createdAt": stamp(), "author": {"name": author}, "data": data}
    )
    return d["events"][-1]


def comment(d: dict, author: str, text: str) -> dict:
    return add_event(d, "comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})


def new_discussion(
    c: Call, repo: Repo, title: str, text: str, base: str | None = None, head: bytes | None = None
) -> dict:
    d = {"num": len(repo.meta["discussions"]) + 1, "title": title, "status": "open", "isPullRequest": base is not None,
         "author": {"name": c.user.name}, "createdAt": stamp(), "repo": {"name": repo.meta["id"], "type": c.kind[:-1]},
         "events": [], "filesWithConflicts": [], "diff": "", "changes": {"base": base}}  # fmt: skip
    if base is not None:
        repo.git.refs.add_if_new(f"refs/pr/{d['num']}".encode(), head)
        d["status"], d["forkedFrom"] = "open", head.decode()
    comment(d, c.user.name, text)
    repo.meta["discussions"].append(d)
    repo.save()
    return d


@route("POST", REPO + "/discussions")
def create_discussion(c: Call):
    c.must_sign_in()
    repo, p = c.repo(), c.json
    with repo.lock:
        base = ("refs/heads/main", repo.resolve("main")[1]) if p.get("pullRequest") else (None, None)
        d = new_discussion(c, repo, p["title"], p.get("description", ""), *base)
    return {"num": d["num"], "pullRequest": d["isPullRequest"]}


@route("GET", REPO + "/discussions")
def list_discussions(c: Call):
    q, found = c.request.query_params, c.repo().meta["discussions"][::-1]
    if q.get("type", "all") != "all":
        found = [d for d in found if d["isPullRequest"] == (q["type"] == "pull_request")]
    if q.get("status", "all") != "all":
        found = [d for d in found if (d["status"] in ("open", "draft")) == (q["status"] == "open")]
    found = [d for d in found if d["author"]["name"] == q.get("author", d["author"]["name"])]
    start = int(q.get("p", 0)) * 50
    return {"discussions": found[start : start + 50], "count": len(found), "start": start}


@route("GET", REPO + r"/discussions/(?P<num>\d+)")
def discussion(c: Call):
    return find_discussion(c, c.repo())


def find_discussion(c: Call, repo: Repo) -> dict:
    for d in repo.meta["discussions"]:
        if d["num"] == int(c.num):
            return d
    raise HubError(404, "Discussion not found")


@route("POST", REPO + r"/discussions/(?P<num>\d+)/(?P<what>comment|title|status)")
def change_discussion(c: Call):
    c.must_sign_in()
    repo, p = c.repo(), c.json
    d = find_discussion(c, repo)
    if c.what == "comment":
        out = {"newMessage": comment(d, c.user.name, p["comment"])}
    elif c.what == "title":
        out = {"newTitle": add_event(d, "title-change", c.user.name, {"from": d["title"], "to": p["title"]})}
        d["title"] = p["title"]
    else:
        out = {"newStatus": add_event(d, "status-change", c.user.name, {"status": p["status"]})}
        d["status"] = p["status"]
    repo.save()
    return out


@route("POST", REPO + r"/discussions/(?P<num>\d+)/comment/(?P<comment_id>[^/]+)/edit")
def edit_comment(c: Call):
    repo = c.repo()
    event = next(e for e in find_discussion(c, repo)["events"] if e["id"] == c.comment_id)
    event["data"] |= {"edited": True, "latest": {"raw": c.json["content"]}}
    repo.save()
    return {"updatedComment": event}


@route("POST", REPO + r"/discussions/(?P<num>\d+)/merge")
def merge(c: Call):
    repo = c.repo("write")
    d = find_discussion(c, repo)
    with repo.lock:
        target = d["changes"]["base"].encode()
        mine, theirs = repo.git.refs[target], repo.git.refs[f"refs/pr/{d['num']}".encode()]
        base, files, pr = repo.files(d["forkedFrom"].encode()), repo.files(mine), repo.files(theirs)
        for path in {p for p in base.keys() | pr.keys() if base.get(p) != pr.get(p)}:  # what the pull request changed
            if files.get(path) not in (base.get(path), pr.get(path)):
                d["filesWithConflicts"].append(path)
            files.pop(path, None)
            if path in pr:
                files[path] = pr[path]
        if d["filesWithConflicts"]:
            repo.save()
            raise HubError(409, f"Merge conflict: {', '.join(d['filesWithConflicts'])}")
        sha = repo.commit(target, mine, files, f"{d['title']} (#{d['num']})", c.user.name, parents=[mine, theirs])
        d["status"], d["changes"]["mergeCommitId"] = "merged", sha.decode()
        add_event(d, "status-change", c.user.name, {"status": "merged"})
        repo.save()
    return {}


# ---- the rest --------------------------------------------------------------------------------------------------------


@route("GET", "/api/whoami-v2")
def whoami(c: Call):
    user = c.must_sign_in()
    orgs = [{"type": "org", "id": o, "name": o, "fullname": o, "roleInOrg": "admin"} for o in user.orgs]
    return {"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "email": f"{user.name}@example.org",
            "emailVerified": True, "canPay": False, "isPro": False, "periodEnd": None, "avatarUrl": "", "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}}  # fmt: skip


@route("GET", "/api/agent-harnesses")
def agent_harnesses(c: Call):
    return {"standardEnvVars": [], "harnesses": {}}


@route("GET", PAGE + r"(?:\.git)?/info/refs")
def git_refs(c: Call):
    """Enough of git's own protocol for `git clone` (reading only)."""
    if c.request.query_params.get("service") != "git-upload-pack":
        raise HubError(403, "Pushing by git is not supported here")
    cmd = ["git", "upload-pack", "--stateless-rpc", "--advertise-refs", str(c.repo("content").path)]
    head = b"001e# service=git-upload-pack\n0000"
    return Response(
        head + subprocess.run(cmd, capture_output=True, check=True).stdout,
        media_type="application/x-git-upload-pack-advertisement",
    )


@route("POST", PAGE + r"(?:\.git)?/git-upload-pack")
def git_upload_pack(c: Call):
    import gzip

    body = gzip.decompress(c.body) if c.request.headers.get("content-encoding") == "gzip" else c.body
    cmd = ["git", "upload-pack", "--stateless-rpc", str(c.repo("content").path)]
    return Response(
        subprocess.run(cmd, input=body, capture_output=True, check=True).stdout,
        media_type="application/x-git-upload-pack-result",
    )


@route("POST", "/__hub__/faults")
def set_faults(c: Call):
    c.hub.faults = [Fault(**f) for f in json.loads(c.body)]
    return {}


@route("GET", "/__hub__/requests")
def get_requests(c: Call):
    return c.hub.requests


class LocalHub:
    """The server. As a context manager it runs in a thread of this process, on a free port of 127.0.0.1."""

    TOKENS = {ALICE: User("alice", orgs=["acme"]), BOB: User("bob"), ALICE_READ: User("alice", "read", ["acme"])}

    def __init__(self, root: Path | str, tokens: dict[str, User] | None = None, *, page_size: int | None = None,
                 multipart_size: int = 64_000_000, commit_wait: float = 60.0, port: int = 0, listening: socket.socket | None = None):  # fmt: skip
        self.root, self.tokens = Path(root), dict(self.TOKENS if tokens is None else tokens)
        self.page_size, self.multipart_size, self.commit_wait = page_size, multipart_size, commit_wait
        self.lock, self.secret = threading.RLock(), secrets.token_bytes(32)
        self.faults: list[Fault] = []
        self.requests: list[dict] = []
        self.moved: dict[tuple[str, str], str] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        for file in sorted((self.root / "repos").glob("*/*/hub.json")):
            repo = Repo(file.parent)
            self.repos[file.parts[-3], repo.meta["id"].lower()] = repo
        self.socket = listening or socket.socket()
        if listening is None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"  # the same server under another origin, as the Hub's CDN is

    # -- repositories and large files

    def find(self, kind: str, repo_id: str) -> Repo | None:
        return self.repos.get((kind, repo_id.lower()))

    def add(self, kind: str, repo_id: str, meta: dict) -> Repo:
        repo = Repo(self.root / "repos" / kind / f"{uuid.uuid4().hex}.git", meta | {"id": repo_id})
        self.repos[kind, repo_id.lower()] = repo
        return repo

    def page_url(self, kind: str, repo_id: str) -> str:
        return f"{self.endpoint}/{'' if kind == 'models' else kind + '/'}{repo_id}"

    def lfs_path(self, oid: str) -> Path:
        return self.root / "lfs" / oid[:2] / oid[2:4] / oid

    def has_lfs(self, oid: str) -> bool:
        return self.lfs_path(oid).exists()

    def xet_hash(self, oid: str) -> str | None:
        return None  # the Xet hash of a large file, for a hub that speaks Xet (xetcas.py)

    def xet_headers(self, c: Call, commit: bytes, oid: str) -> dict[str, str]:
        return {}

    def signature(self, *parts: object) -> str:
        return hmac.new(self.secret, "\n".join(map(str, parts)).encode(), "sha256").hexdigest()

    def storage_url(self, method: str, oid: str, part: int = 0) -> str:
        expires = int(time.time()) + 3600
        query = {"expires": expires, "part": part, "signature": self.signature(method, oid, part, expires)}
        return f"{self.storage}/_storage/{oid}?{urlencode(query)}"

    def check_signature(self, method: str, oid: str, request: Request) -> int:
        q = request.query_params
        part, expires = int(q.get("part", 0)), int(q.get("expires", 0))
        if (
            not hmac.compare_digest(q.get("signature", ""), self.signature(method, oid, part, expires))
            or expires < time.time()
        ):
            raise HubError(403, "SignatureDoesNotMatch")
        return part

    # -- ASGI

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        request, started = Request(scope, receive), time.monotonic()
        raw, method = scope["raw_path"].decode(), scope["method"]
        fault = None
        if not raw.startswith("/__hub__/"):
            with self.lock:
                fault = next((f for f in self.faults if f.times and re.search(f.path, f"{method} {raw}")), None)
                if fault:
                    fault.times -= 1
        if fault and fault.delay:
            await run_in_threadpool(time.sleep, fault.delay)
        if fault is None or fault.after or fault.proceed:
            response = await self.answer(request, method, raw)
        if fault and not fault.proceed:
            if fault.after:
                await request.body()
            error = HubError(fault.status, fault.message, fault.code, **fault.headers)
            response = JSONResponse(error.body, error.status, error.headers)
        response.headers["X-Request-Id"] = request.headers.get("x-amzn-trace-id") or str(uuid.uuid4())
        dropped = bool(fault and fault.drop)
        if not raw.startswith("/__hub__/"):
            user = self.tokens.get(request.headers.get("authorization", "")[7:])
            self.requests.append({"method": method, "path": raw, "query": scope["query_string"].decode(), "status": 0 if dropped else response.status_code,
                                  "user": user.name if user else None, "ms": round((time.monotonic() - started) * 1000, 1)})  # fmt: skip
        if dropped:  # announce a body and never send it
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            raise ConnectionResetError("injected: connection dropped")
        await response(scope, receive, send)

    async def answer(self, request: Request, method: str, raw: str) -> Response:
        try:
            for methods, pattern, handler in ROUTES:
                if method in methods.split("|") and (m := pattern.fullmatch(raw)):
                    break
            else:
                raise HubError(404, "Sorry, we can't find the page you are looking for.")
            c = Call(self, request, m.groupdict(), None)
            token = re.fullmatch(r"(?:Bearer (\S+)|Basic (\S+))", request.headers.get("authorization", ""))
            if token and "/_storage/" not in raw:
                word = token[1] or base64.b64decode(token[2]).decode().partition(":")[2]  # git sends Basic user:token
                c.user = self.tokens.get(word)
                if c.user is None:
                    raise HubError(401, "Invalid credentials in Authorization header")
            if "id" in c.groups and (to := self.moved.get((c.groups.get("kind") or "models", c.id.lower()))):
                query = f"?{request.url.query}" if request.url.query else ""
                return Response(
                    status_code=307, headers={"Location": self.endpoint + raw.replace(c.groups["id"], to, 1) + query}
                )
            if inspect.iscoroutinefunction(handler):
                out = await handler(c)
            else:
                c.body = await request.body()
                out = await run_in_threadpool(handler, c)
            return out if isinstance(out, Response) else JSONResponse(out)
        except HubError as e:
            if e.status == 401 and re.search("/info/(refs|lfs)|/git-upload-pack", raw):
                e.headers["WWW-Authenticate"] = 'Basic realm="localhub"'  # git and git-lfs wait to be asked
            return JSONResponse(e.body, e.status, e.headers)

    # -- running

    def reset(self) -> None:
        self.faults, self.requests = [], []

    def serve(self) -> None:
        self.server = uvicorn.Server(
            uvicorn.Config(self, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        )
        self.server.run(sockets=[self.socket])

    def __enter__(self) -> LocalHub:
        self.thread = threading.Thread(target=self.serve, daemon=True, name="localhub")
        self.thread.start()
        while not (getattr(self, "server", None) and self.server.started):
            time.sleep(0.005)
        return self

    def __exit__(self, *exc) -> None:
        self.server.should_exit = True
        self.thread.join(10)


def calls(requests: list[dict]) -> Iterator[str]:
    """Requests with repository names, shas and signatures taken out: for reading and for comparing."""
    for r in requests:
        path = re.sub(r"/_storage/[0-9a-f]{64}", "/_storage/{oid}", r["path"])
        path = re.sub(r"\b[0-9a-f]{40}\b", "{sha}", path)
        query = "" if path.startswith("/_storage") else re.sub(r"cursor=\d+", "cursor=N", r["query"])
        yield f"{r['method']} {path}{'?' + query if query else ''} -> {r['status']}"


def main(hub_class: type[LocalHub] = LocalHub) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", action="append", default=[], help="TOKEN=USER[:read]; more than one is fine")
    args = parser.parse_args()
    tokens = {}
    for text in args.token:
        token, _, user = text.partition("=")
        tokens[token] = User(user.split(":")[0], "read" if user.endswith(":read") else "write")
    hub = hub_class(args.root, tokens or None, port=args.port)
    print(json.dumps({"endpoint": hub.endpoint, "tokens": {t: asdict(u) for t, u in hub.tokens.items()}}), flush=True)
    hub.serve()


if __name__ == "__main__":
    main()
