"""What a stranger may put into a repository: it looks like ours and is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from svp_nlp.files import sha256_file


def push_entry(
    repo_id: str, kind: str, entry: Mapping[str, Any], files: Mapping[str, Path], *, repo_type: str = "dataset"
) -> None:
    """Make a repository whose lineage.json has this entry, with the right hashes of the files."""
    hashes = {name: {"sha256": sha256_file(file), "bytes": file.stat().st_size} for name, file in files.items()}
    version = {"version": "v1", "config": "default", "key": "k", "created": "2026-11-01T00:00:00Z", "title": "theirs"}
    document = {
        "format": 1,
        "kind": kind,
        "configs": {"default": {"version": "v1", "files": hashes, **entry}},
        "versions": [version],
    }
    HfApi().create_repo(repo_id, repo_type=repo_type)
    operations = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
    operations.append(CommitOperationAdd("lineage.json", json.dumps(document).encode()))
    HfApi().create_commit(repo_id, operations, commit_message="theirs", repo_type=repo_type)


def rewrite_lineage(repo_id: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change lineage.json of a dataset; bytes that `change` returns take its place."""
    file = HfApi().hf_hub_download(repo_id, "lineage.json", repo_type="dataset")
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    content = change(document)
    data = content if isinstance(content, bytes) else json.dumps(document).encode()
    operation = CommitOperationAdd("lineage.json", data)
    HfApi().create_commit(repo_id, [operation], commit_message="theirs", repo_type="dataset")
