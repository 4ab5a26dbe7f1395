"""What the clients of the Hub go by here: whether they may ask, with which token, and what a name stood for last."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from svp_nlp.files import write_text

SHA = re.compile(r"[0-9a-f]{40}")
_TOKEN = "HF_TOKEN"  # noqa: S105  the name of a variable


def offline_by() -> str | None:
    """The setting that forbids to ask the Hub, for messages; None: it may be asked."""
    import datasets
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE=1"
    return "HF_DATASETS_OFFLINE=1" if datasets.config.HF_HUB_OFFLINE else None


@contextlib.contextmanager
def using_token(token: str | None) -> Iterator[None]:
    """Let all that asks the Hub inside use this token; None: the one that it would use anyway.

    datasets hands a token to some of its requests and not to others; all of them look into the environment.
    """
    before = os.environ.get(_TOKEN)
    if token is not None:
        os.environ[_TOKEN] = token
    try:
        yield
    finally:
        if token is not None:
            os.environ.pop(_TOKEN)
            if before is not None:
                os.environ[_TOKEN] = before


def repository_cache(repo_id: str, repo_type: str) -> Path:
    """Where huggingface_hub keeps a repository: refs/, snapshots/<sha>/ and trees/<sha>.json are in there."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type)


def remember(repo_id: str, repo_type: str, name: str, sha: str) -> None:
    """Keep what a branch or tag stands for, where huggingface_hub keeps it when it downloads by name.

    A cache that cannot be written is no fault: offline the name is not known then.
    """
    if name != sha:
        with contextlib.suppress(OSError):
            write_text(repository_cache(repo_id, repo_type) / "refs" / name, sha)


def remembered(repo_id: str, repo_type: str, name: str) -> tuple[str, str] | None:
    """(commit, time) of a branch or tag when the Hub was last asked for it, by us or by huggingface_hub."""
    file = repository_cache(repo_id, repo_type) / "refs" / name
    with contextlib.suppress(OSError, UnicodeDecodeError):
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
        sha = file.read_text(encoding="utf-8").strip()
        return (sha, since) if SHA.fullmatch(sha) else None
    return None
