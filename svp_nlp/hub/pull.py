"""A version from the Hub or from the cache: found by its commit, read by its commit, every file compared with its hash.

`load_dataset(repo, revision="v3")` gives the rows of another version when the Hub cannot be reached and another one is
in the cache (measured with datasets 5.2). So a name is resolved to a commit first, and the files of that commit are
read, never those that happen to be there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svp_nlp.errors import HubError, HubRefused, LineageError
from svp_nlp.hub import document as lineage
from svp_nlp.hub.remote import Remote, RepoType, check_version
from svp_nlp.hub.retry import Patience
from svp_nlp.hub_cache import SHA, offline_by, remember, remembered

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
    def name(self) -> str:
        """What this commit is called; that of its configuration may be older."""
        return _name_of(self.document)

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
    where = f"{remote.where} @ {sha[:10]}"
    data = _read(remote, lineage.FILE, sha)
    if data is None:
        raise NotOurs(f"{where}: it has no {lineage.FILE}, so svp_nlp has not pushed it")
    document = lineage.parse(data, where=where, kind=kind)
    _check_tag(document, revision, where)
    name, entry = lineage.entry_of(document, config, where=where)
    wanted = {name: file for name, file in entry["files"].items() if name not in skip}
    with lineage.reading(where):
        folder = _download(remote, sha, [*wanted, lineage.FILE])
        lineage.verify_files(folder, wanted, where=where)
    return Version(remote.repo_id, repo_type, sha, name, document, entry, folder)


def _name_of(document: Mapping[str, Any]) -> str:
    return str(document["versions"][-1]["version"])


def _check_tag(document: Mapping[str, Any], revision: str | None, where: str) -> None:
    """Raises: LineageError: the tag of a version was moved to the commit of a later one."""
    commits = {version["version"]: version.get("commit") for version in document["versions"]}
    if revision in commits and revision != _name_of(document):
        was = f"was commit {commits[revision]}: read it by that" if commits[revision] else "is lost"
        raise LineageError(
            f"{where}: this is version {_name_of(document)}, not {revision}: somebody moved its tag; {revision} {was}"
        )


def resolve(remote: Remote, revision: str | None) -> str:
    """The commit that a version, a branch or a commit stands for.

    The answer of the Hub is remembered in the cache. Offline, or when the Hub cannot be reached, a version is what it
    was when it was read: versions never move. All other names do, `main` among them: without the Hub they are used
    with a warning when offline was asked for, and not otherwise.

    Raises:
        HubRefused: no such revision, or offline and never asked for here.
        HubError: the Hub cannot be reached and this version was never read here.
    """
    if revision is not None and SHA.fullmatch(revision):
        return revision
    if revision is not None and not revision.startswith("refs/"):
        _check_revision(remote, revision)
    name = revision or "main"
    known = remembered(remote.repo_id, remote.repo_type, name)
    read = known is not None and _is_version(remote, name, known[0])
    if setting := offline_by():
        if known is None:
            raise HubRefused(
                f"{remote.where}: offline ({setting}), and version {name} is not in the cache; go online once"
            )
        if not read:
            log.warning("%s: offline; %s is taken as it was on %s: commit %s", remote.where, name, *reversed(known))
        return known[0]
    try:
        sha = remote.resolve(revision)
    except HubRefused as error:
        raise _with_versions(remote, error) from None
    except HubError as error:
        if known is None or not read:
            raise
        log.warning("%s; version %s is taken from the cache: commit %s, of %s", error, name, *known)
        return known[0]
    if known is None or not read or known[0] == sha:
        remember(remote.repo_id, remote.repo_type, name, sha)
    else:  # what was read stays remembered
        log.warning(
            "%s: version %s is commit %s now; when it was read here, on %s, it was %s: somebody moved its tag",
            remote.where, name, sha, *reversed(known),
        )  # fmt: skip
    return sha


def _is_version(remote: Remote, name: str, sha: str) -> bool:
    """Whether a commit that was read before is the version of this name, and no branch or tag that somebody set."""
    with contextlib.suppress(HubError):
        data = _cached(remote, lineage.FILE, sha)
        versions = lineage.parse(data, where=remote.where)["versions"]
        return bool(versions) and versions[-1]["version"] == name
    return False


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


def _read(remote: Remote, path: str, sha: str) -> bytes | None:
    if setting := offline_by():
        data = _cached(remote, path, sha)
        if data is None:
            raise HubRefused(
                f"{remote.where} @ {sha[:10]}: offline ({setting}), and it is not in the cache; go online once"
            )
        return data
    return remote.read(path, sha)


def _cached(remote: Remote, path: str, sha: str) -> bytes | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(remote.repo_id, path, repo_type=remote.repo_type, revision=sha)
    return Path(found).read_bytes() if isinstance(found, str) else None


def _download(remote: Remote, sha: str, files: list[str]) -> Path:
    """The folder of a commit in the cache, with these files where the commit has them."""
    if not offline_by():
        folder = remote.download(sha, files)
    else:
        from huggingface_hub import snapshot_download

        options: Any = {"revision": sha, "allow_patterns": files, "local_files_only": True}
        folder = Path(snapshot_download(remote.repo_id, repo_type=remote.repo_type, **options))
    for name in files:
        # When the Hub cannot be reached, the client gives what there is and is silent about the rest.
        if not (folder / name).is_file():
            _read(remote, name, sha)
    return folder
