"""What a repository knows of a content that is to be pushed: as a version, as a proposal, at which commit.

Nothing here changes anything: a push acts on what it finds, `svp push --dry-run` only tells it.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svp_nlp.errors import HubRefused, LineageError, RemoteConflict
from svp_nlp.hub import document as lineage
from svp_nlp.hub.remote import Remote

if TYPE_CHECKING:
    from svp_nlp.hub.push import Bundle

log = logging.getLogger(__name__)
CARD = "README.md"
_SEARCHED_PULL_REQUESTS = 10
_THEIRS = (".gitattributes", ".gitignore", CARD)  # what a repository may hold before our first push


@dataclass(frozen=True)
class State:
    """A repository at one look.

    Attributes:
        head: None: there is no repository yet.
        tags: tag -> commit.
        document: lineage.json at the head.
        known: its version that has the content to be pushed; None: it is to become one.
    """

    head: str | None
    tags: Mapping[str, str]
    document: Mapping[str, Any]
    known: Mapping[str, Any] | None


def state_of(bundle: Bundle, remote: Remote, *, version: str | None = None) -> State:
    """Look whether this content is a version already, of this name if one is asked for.

    Raises:
        HubRefused: the repository holds other things.
        RemoteConflict: `version` stands for other content; says whose commit it is.
    """
    head = remote.head()
    if head is None:
        return State(None, {}, lineage.parse(None, where=remote.where, kind=bundle.kind), None)
    tags = remote.tags()
    document = read_document(remote, head, bundle.kind)
    _check_role(document, bundle, remote)
    known = lineage.version_of(document, bundle.key, bundle.config, version)
    if known is not None and version in (None, known["version"]) and _is_still(remote, known, tags):
        return State(head, tags, document, known)
    if version is not None and (version in tags or any(v["version"] == version for v in document["versions"])):
        raise RemoteConflict(
            f"{remote.where}: version {version} exists with other content (commit {tags.get(version, 'not tagged yet')}"
            f"; head {head}); a version is never changed: leave --version out to get the next one, or choose another "
            "name"
        )
    return State(head, tags, document, None)


def read_document(remote: Remote, sha: str, kind: str) -> dict[str, Any]:
    """lineage.json at a commit; empty for a repository that we may begin to use.

    Raises:
        HubRefused: the repository holds files that svp_nlp did not write, or another kind of thing.
    """
    data = remote.read(lineage.FILE, sha)
    if data is None:
        foreign = [file for file in remote.files(sha) if file not in _THEIRS]
        if foreign:
            raise HubRefused(
                f"{remote.where} holds files that svp_nlp did not write ({', '.join(foreign[:3])}); name a new one"
            )
    return lineage.parse(data, where=remote.where, kind=kind)


def _check_role(document: Mapping[str, Any], bundle: Bundle, remote: Remote) -> None:
    """Raises: HubRefused: a target among proxies, or the other way: who loads the newest would get either."""
    wanted = bundle.entry.get("role")
    for entry in document["configs"].values():
        if wanted and entry.get("role", wanted) != wanted:
            raise HubRefused(f"{remote.where} holds a {entry['role']}, not a {wanted}; name another repository")


def _versions_at(remote: Remote, sha: str) -> list[dict[str, Any]]:
    """The versions that a commit knows, the newest last; none where somebody else has written it."""
    data = remote.read(lineage.FILE, sha)
    try:
        versions: list[dict[str, Any]] = lineage.parse(data, where=remote.where)["versions"]
    except (HubRefused, LineageError):
        return []
    return versions


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one["version"], one["key"]) == (other["version"], other["key"])


def _is_still(remote: Remote, known: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
    """Whether the tag of a version is still to be set, or is on a commit that made it: people set tags by hand, too."""
    if known["version"] not in tags:
        return True
    return any(_is_same(v, known) for v in _versions_at(remote, tags[known["version"]])[-1:])


def commit_of(remote: Remote, known: Mapping[str, Any], head: str) -> str | None:
    """The commit that made a version: the oldest that knows it, whether it was pushed, merged or squashed."""
    commits = remote.history(head)[::-1]
    place = bisect.bisect_left(
        commits, True, key=lambda sha: any(_is_same(v, known) for v in _versions_at(remote, sha))
    )
    found = _versions_at(remote, commits[place])[-1:] if place < len(commits) else []
    return commits[place] if any(_is_same(v, known) for v in found) else None


def proposal_of(bundle: Bundle, remote: Remote, head: str, *, version: str | None) -> tuple[int, str, str] | None:
    """(number, commit, version) of an open pull request of this user that adds this content to the head."""
    for number in remote.own_pull_requests()[:_SEARCHED_PULL_REQUESTS]:
        sha = remote.resolve(f"refs/pr/{number}")
        for made in _versions_at(remote, sha)[-1:]:
            if (made["key"], made["config"]) != (bundle.key, bundle.config) or version not in (None, made["version"]):
                continue
            if remote.history(sha)[1:2] == [head]:
                return number, sha, str(made["version"])
            log.warning(
                "%s: main has moved on since pull request %d, so it cannot be merged any more; close it",
                remote.where,
                number,
            )
    return None
