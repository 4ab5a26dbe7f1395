"""A version from the Hub or from the cache: found by its commit, read by its commit, every file compared with its hash.

`load_dataset(repo, revision="v3")` gives the rows of another version when the Hub cannot be reached and another one is
in the cache (measured with datasets 5.2). So a name is resolved to a commit first, and the files of that commit are
read, never those that happen to be there.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svp_nlp.errors import HubError, HubRefused, LineageError
from svp_nlp.files import write_text
from svp_nlp.hub import document as lineage
from svp_nlp.hub.remote import SHA, Patience, Remote, RepoType, check_version

log = logging.getLogger(__name__)
_READING = Patience(deadline_s=20.0)
_SHOWN_VERSIONS = 10


@dataclass(frozen=True)
class Version:
    """The files of one configuration at one commit, verified, in the cache of huggingface_hub."""

    repo_id: str
    repo_type: RepoType
    sha: str
    config: str
    document: Mapping[str, Any]
    entry: Mapping[str, Any]  # of this configuration
    folder: Path

    @property
    def where(self) -> str:
        return f"{self.repo_id} @ {self.sha[:10]}"

    @property
    def files(self) -> list[Path]:
        """The files of this configuration, in the order in which they were written."""
        return [self.folder / name for name in self.entry["files"]]


class NotOurs(HubRefused):
    """A repository that svp_nlp did not push."""


def fetch(
    repo_id: str,
    *,
    repo_type: RepoType,
    kind: str,
    revision: str | None = None,
    config: str | None = None,
    skip: Sequence[str] = (),
    token: str | None = None,
) -> Version:
    """Find, download and verify a version.

    Args:
        revision: a version such as v3, a branch, or a commit; None: the newest.
        config: which configuration; None: `default`, or the only one.
        skip: files that are not needed.
    Raises:
        NotOurs: there is such a repository, but svp_nlp did not push it.
        HubRefused: no such repository, revision or configuration, no access, or offline and not in the cache.
        HubError: the Hub cannot be reached and the cache does not hold it.
        LineageError: a file is not what was pushed.
    """
    remote = Remote(repo_id, repo_type, token=token, patience=_READING)
    sha = resolve(remote, revision)
    data = _read(remote, lineage.FILE, sha)
    if data is None:
        raise NotOurs(f"{remote.where} @ {sha[:10]}: it has no {lineage.FILE}, so svp_nlp has not pushed it")
    document = lineage.parse(data, where=f"{remote.where} @ {sha[:10]}", kind=kind)
    name, entry = lineage.entry_of(document, config, where=f"{remote.where} @ {sha[:10]}")
    wanted = {name: file for name, file in entry["files"].items() if name not in skip}
    folder = _download(remote, sha, [*wanted, lineage.FILE])
    try:
        lineage.verify_files(folder, wanted, where=f"{remote.where} @ {sha[:10]}")
    except LineageError as error:
        if is_offline():
            raise HubRefused(f"{error} (offline: HF_HUB_OFFLINE=1)") from None
        raise
    return Version(remote.repo_id, repo_type, sha, name, document, entry, folder)


def resolve(remote: Remote, revision: str | None) -> str:
    """The commit that a version, a branch or a commit stands for.

    The answer of the Hub is remembered in the cache. Offline, or when the Hub cannot be reached, a version is what it
    was when it was last asked for: tags never move. `main` does, so without the Hub it is used with a warning when
    offline was asked for, and not otherwise.

    Raises:
        HubRefused: no such revision, or offline and never asked for here.
        HubError: the Hub cannot be reached and this revision was never asked for here.
    """
    if revision is not None and SHA.fullmatch(revision):
        return revision
    if revision is not None and not revision.startswith("refs/"):
        _check_revision(remote, revision)
    name = revision or "main"
    if is_offline():
        found = remembered(remote, name)
        if found is None:
            raise HubRefused(
                f"{remote.where}: offline (HF_HUB_OFFLINE=1), and version {name} is not in the cache; go online once"
            )
        if name == "main":
            log.warning("%s: offline; main is taken as it was on %s: commit %s", remote.where, *reversed(found))
        return found[0]
    try:
        sha = remote.resolve(revision)
    except HubRefused as error:
        raise _with_versions(remote, error) from None
    except HubError as error:
        found = remembered(remote, name)
        if found is None or name == "main":
            raise
        log.warning("%s; version %s is taken from the cache: commit %s, of %s", error, name, *found)
        return found[0]
    remember(remote, name, sha)
    return sha


def _check_revision(remote: Remote, revision: str) -> None:
    with contextlib.suppress(HubRefused):
        if revision != "main":
            check_version(revision)
        return
    if len(revision) >= 7 and set(revision) <= set("0123456789abcdef"):
        raise HubRefused(
            f"{remote.where}: {revision!r} is part of a commit; give all 40 digits, or a version such as v3"
        )


def _with_versions(remote: Remote, error: HubRefused) -> HubRefused:
    if "no such revision" not in str(error):
        return error
    with contextlib.suppress(HubError):
        names = sorted(remote.tags(), key=lambda name: (len(name), name))[-_SHOWN_VERSIONS:]
        return HubRefused(f"{remote.where}: no such revision; it has the versions {', '.join(names) or '(none)'}")
    return error


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _ref_file(remote: Remote, name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=remote.repo_id, repo_type=remote.repo_type)
    return Path(constants.HF_HUB_CACHE) / folder / "refs" / name


def remembered(remote: Remote, name: str) -> tuple[str, str] | None:
    """(commit, day) of a name when the Hub was last asked for it, by us or by huggingface_hub."""
    file = _ref_file(remote, name)
    with contextlib.suppress(OSError):
        day = datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.timezone.utc).date().isoformat()
        sha = file.read_text(encoding="utf-8").strip()
        return (sha, day) if SHA.fullmatch(sha) else None
    return None


def remember(remote: Remote, name: str, sha: str) -> None:
    """Keep what a name stands for, where huggingface_hub keeps it; a cache that cannot be written is no fault."""
    with contextlib.suppress(OSError):
        write_text(_ref_file(remote, name), sha)


def _read(remote: Remote, path: str, sha: str) -> bytes | None:
    if not is_offline():
        return remote.read(path, sha)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(remote.repo_id, path, repo_type=remote.repo_type, revision=sha)
    if not isinstance(found, str):
        raise HubRefused(
            f"{remote.where} @ {sha[:10]}: offline (HF_HUB_OFFLINE=1), and it is not in the cache; go online once"
        )
    return Path(found).read_bytes()


def _download(remote: Remote, sha: str, files: list[str]) -> Path:
    if not is_offline():
        return remote.download(sha, files)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            remote.repo_id, repo_type=remote.repo_type, revision=sha, allow_patterns=files, local_files_only=True
        )
    )
