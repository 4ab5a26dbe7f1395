"""Versions that cost nothing to make, and whether a repository of the local Hub holds nothing but whole ones."""

from __future__ import annotations

import hashlib
import json
import time
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from dulwich.objects import Tag

from svp_nlp.hub.push import Bundle, CardContext, Pushed, push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.retry import Patience

QUICK = Patience(deadline_s=5.0, first_wait_s=0.01, longest_wait_s=0.05)
HOPELESS = Patience(deadline_s=0.02, first_wait_s=0.01, longest_wait_s=0.01)


def toy_bundle(folder: Path, number: int, *, config: str = "default") -> Bundle:
    """Content `number`: a Parquet file that no other content and no other folder has, so that it must be uploaded."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{config}-{number}.parquet"
    if not file.exists():
        pq.write_table(pa.table({"text": [f"{folder} {config} {number} row {row}" for row in range(3)]}), file)
    return Bundle(
        kind="selection",
        repo_type="dataset",
        config=config,
        key=f"{config}-{number}",
        title=f"content {number}",
        folder=f"data/{config}",
        files={f"data/{config}/train-{number:05d}.parquet": file},
        entry={"created": "2026-11-01T00:00:00Z", "number": number},
        card=toy_card,
    )


def toy_card(context: CardContext) -> str:
    return "---\nlicense: mit\n---\n" + "".join(f"- {v['version']} {v['key']}\n" for v in context.document["versions"])


def push_toy(folder: Path, repo_id: str, number: int, *, patience: Patience = QUICK, **options) -> Pushed:
    bundle = toy_bundle(folder / repo_id, number, config=options.pop("config", "default"))
    return push_bundle(bundle, Remote(repo_id, "dataset", patience=patience), **options)


def shorten_downloads(monkeypatch) -> None:
    """What `short_waits` does not reach: huggingface_hub waits for downloads in a module of its own."""
    clock = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: time.sleep(seconds / 100)})
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)


def whole_versions(hub, repo_id: str) -> tuple[list[str], dict[str, str]]:
    """Look at a repository on the server, and at every commit of its history.

    Returns:
        keys of the versions, the oldest first, one for each commit of ours; and tag -> key of the version it is on.
    """
    repo = hub.find("datasets", repo_id)
    if repo is None:
        return [], {}
    history = repo.log(repo.resolve("main")[1])
    assert all(len(commit.parents) == 1 for commit in history[:-1])
    key_of, keys = {}, []
    for commit in reversed(history[:-1]):
        text = {path: repo.text(commit.id, path) for path in ("README.md", "lineage.json")}
        document = json.loads(text["lineage.json"])
        newest = document["versions"][-1]
        keys.append(newest["key"])
        key_of[commit.id.decode()] = newest
        assert [version["key"] for version in document["versions"]] == keys
        assert f"Svp-Key:{newest['key']}" in commit.message.decode().split()
        entries = repo.entries(commit.id)
        assert text["README.md"].endswith("".join(f"- {v['version']} {v['key']}\n" for v in document["versions"]))
        told = {path: facts for entry in document["configs"].values() for path, facts in entry["files"].items()}
        assert told.keys() == {path for path, entry in entries.items() if path.endswith(".parquet")}
        for path, facts in told.items():
            stored = hub.store.path(entries[path]["lfs"]["oid"]).read_bytes()
            assert facts == {"sha256": hashlib.sha256(stored).hexdigest(), "bytes": len(stored)}
    tags = {}
    for ref, sha in sorted(repo.git.get_refs().items()):
        if ref.startswith(b"refs/tags/"):
            assert isinstance(repo.git[sha], Tag)
            version = key_of[repo.peel(sha).decode()]
            assert ref.decode() == f"refs/tags/{version['version']}"
            tags[version["version"]] = version["key"]
    return keys, tags
