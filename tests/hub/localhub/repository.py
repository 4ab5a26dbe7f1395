"""One repository: a bare git repository (dulwich) and the Hub's own record of it, hub.json.

Commit shas, blob ids and LFS pointer files are what the Hub would give, so `git fsck` and `git clone` work on it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dulwich.ignore import IgnoreFilter
from dulwich.index import commit_tree
from dulwich.object_store import iter_tree_contents
from dulwich.objects import Blob, Commit, Tag, Tree
from dulwich.repo import Repo as Git

from .routing import HubError

_LFS_SUFFIXES = (
    "7z arrow avro bin bz2 ckpt ftz gz h5 joblib lz4 mds mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl "
    "pt pth rar safetensors tar tflite tgz wasm xz zip zst pcm sam raw aac flac mp3 ogg wav bmp gif png tiff jpg jpeg "
    "webp mp4 webm"
)
_LFS_PATTERNS = [*(f"*.{suffix}" for suffix in _LFS_SUFFIXES.split()), "saved_model/**/*", "*tfevents*"]
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LFS_PATTERNS)
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
STALE = "The branch was updated since you opened this page. Please refresh and try again."

Files = dict[str, tuple[int, bytes]]
"""Path -> (git mode, blob id)."""


def stamp(seconds: float) -> str:
    """A time as the Hub writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def signature(name: str) -> bytes:
    """Who wrote a commit or a tag, as git has it."""
    return f"{name} <{name}@users.noreply.huggingface.co>".encode()


def pointer(oid: str, size_bytes: int) -> bytes:
    """The small file that git keeps in place of a large one."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size_bytes}\n".encode()


class Repo:
    """A repository on disk.

    Attributes:
        git: the bare repository.
        meta: hub.json: id, private, gated, granted, creator, created, discussions.
        lock: held while a commit is made.
    """

    def __init__(self, path: Path, git: Git, meta: dict[str, Any]) -> None:
        self.path, self.git, self.meta = path, git, meta
        self.lock = threading.Lock()
        self._entries: dict[bytes, dict[str, Any]] = {}

    @classmethod
    def create(cls, path: Path, *, repo_id: str, creator: str, private: bool) -> Repo:
        """A new repository with its first commit, which says what goes to LFS."""
        path.mkdir(parents=True)
        meta = {"id": repo_id, "creator": creator, "private": private, "gated": False, "created": time.time()}
        repo = cls(path, Git.init_bare(str(path), default_branch=b"main"), meta | {"discussions": [], "granted": []})
        repo.save()
        attributes = {".gitattributes": (0o100644, repo.add_blob(GITATTRIBUTES.encode()))}
        repo.commit(b"refs/heads/main", None, files=attributes, message="initial commit", author=creator)
        return repo

    @classmethod
    def open(cls, path: Path) -> Repo:
        return cls(path, Git(str(path)), json.loads((path / "hub.json").read_text()))

    @property
    def id(self) -> str:
        return self.meta["id"]

    def save(self) -> None:
        """Write hub.json: whole or not at all."""
        (self.path / "hub.tmp").write_text(json.dumps(self.meta))
        (self.path / "hub.tmp").replace(self.path / "hub.json")

    def resolve(self, rev: str) -> tuple[bytes | None, bytes]:
        """(ref, commit sha) of a branch, tag, refs/..., or abbreviated sha; the ref is None for a sha."""
        for ref in [rev] if rev.startswith("refs/") else [f"refs/heads/{rev}", f"refs/tags/{rev}"]:
            try:
                return ref.encode(), self.peel(self.git.refs[ref.encode()])
            except (KeyError, ValueError):
                continue
        if re.fullmatch("[0-9a-f]{7,40}", rev):
            found = {
                sha for sha in self.git.object_store.iter_prefix(rev.encode()) if isinstance(self.git[sha], Commit)
            }
            if len(found) == 1:
                return None, found.pop()
        raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    def peel(self, sha: bytes) -> bytes:
        """The commit behind an annotated tag; a commit itself."""
        while isinstance(found := self.git[sha], Tag):
            sha = found.object[1]
        return sha

    def add_blob(self, data: bytes) -> bytes:
        blob = Blob.from_string(data)
        self.git.object_store.add_object(blob)
        return blob.id

    def read(self, sha: bytes) -> bytes:
        return self.git[sha].as_raw_string()

    def files(self, commit: bytes) -> Files:
        tree = self.git[commit].tree
        return {
            entry.path.decode(): (entry.mode, entry.sha) for entry in iter_tree_contents(self.git.object_store, tree)
        }

    def text(self, commit: bytes, path: str) -> str | None:
        """A small file as text; None where there is none."""
        found = self.files(commit).get(path)
        return self.read(found[1]).decode() if found else None

    def entries(self, commit: bytes) -> dict[str, dict[str, Any]]:
        """Files and folders in the form of the /tree endpoint, by path."""
        tree = self.git[commit].tree
        found = iter_tree_contents(self.git.object_store, tree, include_trees=True)
        return {
            entry.path.decode(): self.entry(entry.sha) | {"path": entry.path.decode()} for entry in found if entry.path
        }

    def entry(self, sha: bytes) -> dict[str, Any]:
        """What /tree says of one blob or tree: type, oid, size, and `lfs` if it is a pointer."""
        if sha not in self._entries:
            found = self.git[sha]
            is_tree = isinstance(found, Tree)
            data = b"" if is_tree else found.as_raw_string()
            entry: dict[str, Any] = {"type": "directory" if is_tree else "file", "oid": sha.decode(), "size": len(data)}
            if len(data) < 200 and (pointed := _POINTER.match(data)):
                entry["size"] = int(pointed[2])
                entry["lfs"] = {"oid": pointed[1].decode(), "size": int(pointed[2]), "pointerSize": len(data)}
            self._entries[sha] = entry
        return dict(self._entries[sha])

    def log(self, commit: bytes) -> list[Commit]:
        return [step.commit for step in self.git.get_walker(include=[commit], order="topo")]

    def last_commits(self, commit: bytes, paths: list[str]) -> dict[str, dict[str, str]]:
        """The newest commit that gave each path the content that it has at `commit`."""
        history = self.log(commit)
        oids = [{path: entry["oid"] for path, entry in self.entries(step.id).items()} for step in history]
        missing, found = set(paths), {}
        for step, here, before in zip(history, oids, [*oids[1:], {}], strict=True):
            for path in [path for path in missing if here.get(path) != before.get(path)]:
                missing.discard(path)
                title = step.message.decode().split("\n")[0]
                found[path] = {"id": step.id.decode(), "title": title, "date": stamp(step.commit_time)}
        return found

    def commit(
        self,
        ref: bytes,
        old: bytes | None,
        *,
        files: Files,
        message: str,
        author: str,
        parents: list[bytes] | None = None,
    ) -> bytes:
        """Write a commit and move `ref` from `old` to it: compare-and-swap under git's own lock file.

        Raises:
            HubError: 412, `ref` is not at `old` any more.
        """
        made = Commit()
        made.tree = commit_tree(
            self.git.object_store, [(path.encode(), sha, mode) for path, (mode, sha) in files.items()]
        )
        made.parents = parents if parents is not None else [old] if old else []
        made.author = made.committer = signature(author)
        made.author_time = made.commit_time = int(time.time())
        made.author_timezone = made.commit_timezone = 0
        made.encoding, made.message = b"UTF-8", message.encode()
        self.git.object_store.add_object(made)
        refs = self.git.refs
        if not (refs.set_if_equals(ref, old, made.id) if old else refs.add_if_new(ref, made.id)):
            raise HubError(412, STALE)
        return made.id

    def is_lfs(self, commit: bytes, path: str) -> bool:
        """Whether .gitattributes sends a path to LFS; the last rule that fits decides."""
        lfs = False
        for line in (self.text(commit, ".gitattributes") or "").splitlines():
            pattern, *attributes = line.split() or [""]
            decides = "filter=lfs" in attributes or "-filter" in attributes
            if decides and IgnoreFilter([pattern.encode()]).is_ignored(path):
                lfs = "filter=lfs" in attributes
        return lfs
