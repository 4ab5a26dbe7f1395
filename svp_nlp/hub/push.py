"""One version = one commit on top of the head that was read, then one tag on that commit.

Two people who push at the same time both end up as versions: the second commit is refused by the Hub because its
parent is no longer the head, and is made again from what the first one left. Each commit carries a key of its content,
so a commit whose answer got lost is found and not made twice, and the same content pushed again makes no version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from svp_nlp.errors import HubRefused, RemoteConflict
from svp_nlp.files import sha256_file
from svp_nlp.hub import document as lineage
from svp_nlp.hub.remote import (
    Attempts,
    Remote,
    RepoType,
    check_version,
    is_transient,
    library_version,
    status_of,
)
from svp_nlp.hub_errors import first_line

log = logging.getLogger(__name__)
CARD = "README.md"
_SEARCHED_PULL_REQUESTS = 10
_THEIRS = (".gitattributes", ".gitignore", CARD)  # what a repository may hold before our first push


@dataclass(frozen=True)
class Bundle:
    """What one version adds to a repository: the files and the facts of one configuration.

    Attributes:
        kind: selection, signals or model; a repository holds one kind.
        key: hash of the content; what is pushed again with the same key is not pushed.
        title: one line for the list of versions, such as "239 rows by margin, round 0".
        files: path in the repository -> file here.
        folder: all that is below it in the repository belongs to this configuration and is replaced.
        entry: facts for lineage.json (JSON values); `files` and `key` are added.
        card: makes README.md from a CardContext.
        extra: files that belong to no configuration (a picture in the card): path -> file here.
    """

    kind: str
    repo_type: RepoType
    config: str
    key: str
    title: str
    folder: str
    files: Mapping[str, Path]
    entry: Mapping[str, Any]
    card: Callable[[CardContext], str]
    extra: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class CardContext:
    """What a card is made of."""

    repo_id: str
    version: str
    document: Mapping[str, Any]  # lineage.json as the commit holds it
    config: str  # what is new in it
    readme: str | None  # README.md as the repository holds it
    pictures: tuple[str, ...] = ()  # paths in the repository


@dataclass(frozen=True)
class Pushed:
    """A version on the Hub."""

    repo_id: str
    version: str
    sha: str
    url: str  # of the version's page, or of the pull request
    new: bool  # False: the same content was there already
    pull_request: bool = False
    card_updated: bool = False  # the content was there, but its card told less than is known now


@dataclass(frozen=True)
class Draft:
    """A commit that could be made on top of a head."""

    version: str
    parent: str | None
    document: Mapping[str, Any]
    uploads: Mapping[str, Path | bytes]
    deletions: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Path -> bytes of all that is uploaded."""
        return {p: len(f) if isinstance(f, bytes) else f.stat().st_size for p, f in self.uploads.items()}


def push_bundle(
    bundle: Bundle,
    remote: Remote,
    *,
    version: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    message: str | None = None,
) -> Pushed:
    """Make this content a version of a repository, once, whoever else pushes meanwhile.

    Args:
        version: name of the tag; None: v1, v2, ...
        private: for a repository that is made now; None: as the account's default says.
        create_pr: propose the commit instead of making it; there is no tag until it is merged and pushed again.
        message: first line of the commit message; None: made from the content.
    Returns:
        the version; `new` is False where this content was a version before.
    Raises:
        HubRefused: no token, no right, not a repository for this; nothing was changed.
        HubError: the Hub failed for longer than the remote's patience; the same call finishes it later.
        RemoteConflict: the version's name stands for other content; says whose commit it is.
    """
    if version is not None:
        check_version(version)
    remote.sign_in()
    if remote.head() is None:
        remote.create(private=private)
    attempts, tried = Attempts(remote.patience, f"{remote.where}: pushing"), False
    while True:
        head = remote.head()
        if head is None:
            raise HubRefused(f"{remote.where}: it is there, but this token may not see it; log in with one that may")
        tags = remote.tags()
        document = read_document(remote, head, bundle.kind)
        known = lineage.version_of(document, bundle.key, bundle.config)
        if known is not None and not _is_ours(remote, bundle, known["version"], tags):
            known = None  # it gets the next version
        if known is not None and version in (None, known["version"]):
            done = _finished(remote, bundle, document, known, head=head, tags=tags, new=tried)
            return done if tried else _with_new_card(done, remote, bundle, document, head=head)
        if create_pr and (proposed := _proposed(remote, bundle)) is not None:
            return proposed
        taken = version in tags or any(v["version"] == version for v in document["versions"])
        if version is not None and taken:
            theirs = tags.get(version) or "not tagged yet"
            raise RemoteConflict(
                f"{remote.where}: version {version} exists with other content (commit {theirs}; head {head}); a "
                "version is never changed: leave --version out to get the next one, or choose another name"
            )
        draft = draft_commit(bundle, remote, document, head=head, tags=tags, version=version)
        tried = True
        try:
            info = _commit(remote, bundle, draft, create_pr=create_pr, message=message)
        except Exception as error:
            # Stale: somebody was faster. Transient: perhaps it was done; the next turn finds its key at the head.
            if status_of(error) not in (409, 412) and not is_transient(error):
                raise remote.explained(error) from error
            attempts.wait(error)
            continue
        if create_pr:
            return Pushed(remote.repo_id, draft.version, info.oid, str(info.pr_url), new=True, pull_request=True)
        return _tagged(remote, bundle, draft.version, info.oid, new=True)


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


def draft_commit(
    bundle: Bundle,
    remote: Remote,
    document: Mapping[str, Any],
    *,
    head: str | None,
    tags: Mapping[str, str],
    version: str | None,
) -> Draft:
    """What would be committed on top of `head` (None: of a new repository)."""
    version = version or lineage.next_version(document, tags)
    after = lineage.with_version(
        document,
        config=bundle.config,
        entry=_entry(bundle),
        version=version,
        title=bundle.title,
        tags=tags,
        writer=library_version(),
    )
    existing = [] if head is None else remote.files(head)
    readme = remote.read(CARD, head) if head is not None and CARD in existing else None
    uploads: dict[str, Path | bytes] = {**bundle.files, **bundle.extra, lineage.FILE: lineage.dump(after)}
    uploads[CARD] = _card(bundle, remote, after, version, readme)
    ours = _belonging(bundle, document)
    return Draft(version, head, after, uploads, tuple(f for f in existing if ours(f) and f not in uploads))


def _entry(bundle: Bundle) -> dict[str, Any]:
    hashes = {path: {"sha256": sha256_file(file), "bytes": file.stat().st_size} for path, file in bundle.files.items()}
    return {**bundle.entry, "key": bundle.key, "files": hashes}


def _belonging(bundle: Bundle, document: Mapping[str, Any]) -> Callable[[str], bool]:
    """Which files of the repository are this configuration's: those that its last version named."""
    named = set(document["configs"].get(bundle.config, {}).get("files", {}))
    return lambda file: file in named or (bool(bundle.folder) and file.startswith(f"{bundle.folder}/"))


def _card(bundle: Bundle, remote: Remote, document: Mapping[str, Any], version: str, readme: bytes | None) -> bytes:
    context = CardContext(
        repo_id=remote.repo_id,
        version=version,
        document=document,
        config=bundle.config,
        readme=None if readme is None else _decoded(readme, remote),
        pictures=tuple(bundle.extra),
    )
    return bundle.card(context).encode()


def _decoded(readme: bytes, remote: Remote) -> str:
    try:
        return readme.decode()
    except UnicodeDecodeError as error:
        raise HubRefused(f"{remote.where}: its {CARD} is not UTF-8 ({error}); save it as UTF-8 first") from None


def _with_new_card(done: Pushed, remote: Remote, bundle: Bundle, document: Mapping[str, Any], *, head: str) -> Pushed:
    """Bring the card of the newest version up to date: errors are often known only after the rows were pushed.

    The version itself stays as it is; `main` moves on by one commit. Where somebody else is at it, theirs is the card.
    """
    before = document["configs"].get(bundle.config, {})
    if document["versions"][-1]["version"] != done.version or before.get("key") != bundle.key:
        return done
    kept = {name: before[name] for name in ("version", "created", "files", "key")}
    after = {**document, "configs": {**document["configs"], bundle.config: {**bundle.entry, **kept}}}
    readme = remote.read(CARD, head)
    card = _card(bundle, remote, after, done.version, readme)
    if card == readme:
        return done
    uploads: dict[str, Path | bytes] = {**bundle.extra, lineage.FILE: lineage.dump(after), CARD: card}
    draft = Draft(done.version, head, after, uploads, ())
    try:
        _commit(remote, bundle, draft, create_pr=False, message=f"Card of {done.version}")
    except Exception as error:
        log.warning("%s: its card could not be brought up to date (%s)", remote.where, first_line(error))
        return done
    return replace(done, card_updated=True)


def _commit(remote: Remote, bundle: Bundle, draft: Draft, *, create_pr: bool, message: str | None) -> Any:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationDelete(path) for path in draft.deletions]
    for path, file in draft.uploads.items():
        operations.append(CommitOperationAdd(path, file if isinstance(file, bytes) else str(file)))
    with remote.asking():
        return remote.api.create_commit(
            remote.repo_id,
            operations,
            commit_message=message or f"{draft.version}: {bundle.title}",
            commit_description=f"Version {draft.version} of {bundle.config}, written by svp_nlp\n\n{_mark(bundle.key)}",
            repo_type=remote.repo_type,
            parent_commit=draft.parent,
            create_pr=create_pr,
        )


def _mark(key: str) -> str:
    return f"Svp-Key:{key}"


def _proposed(remote: Remote, bundle: Bundle) -> Pushed | None:
    """An open pull request with this content."""
    for number, sha in remote.pull_requests()[:_SEARCHED_PULL_REQUESTS]:
        data = remote.read(lineage.FILE, sha)
        document = lineage.parse(data, where=remote.where)
        known = lineage.version_of(document, bundle.key, bundle.config)
        if known is not None:
            url = f"{remote.url}/discussions/{number}"
            return Pushed(remote.repo_id, known["version"], sha, url, new=False, pull_request=True)
    return None


def _is_ours(remote: Remote, bundle: Bundle, version: str, tags: Mapping[str, str]) -> bool:
    """Whether the tag of a version is still to be set, or is on a commit that has it: people set tags by hand, too."""
    if version not in tags:
        return True
    there = lineage.parse(remote.read(lineage.FILE, tags[version]), where=remote.where)
    return any((v["version"], v["key"]) == (version, bundle.key) for v in there["versions"])


def _finished(
    remote: Remote,
    bundle: Bundle,
    document: Mapping[str, Any],
    known: Mapping[str, Any],
    *,
    head: str,
    tags: Mapping[str, str],
    new: bool,
) -> Pushed:
    """The version in which this content was committed before; it is tagged now where that is still to do."""
    version = known["version"]
    if version in tags:
        return Pushed(remote.repo_id, version, tags[version], f"{remote.url}/tree/{version}", new=new)
    sha = remote.commit_of(_mark(bundle.key))
    if sha is None:
        # A pull request may be merged under another message; the head is this version if nothing came after it.
        if document["versions"][-1]["version"] != version:
            raise RemoteConflict(
                f"{remote.where}: version {version} was committed, but its commit is not to be found below {head}; "
                f"tag it by hand with `hf repo tag create`, or push with another --version"
            )
        sha = head
    return _tagged(remote, bundle, version, sha, new=new)


def _tagged(remote: Remote, bundle: Bundle, version: str, sha: str, *, new: bool) -> Pushed:
    remote.tag(version, sha, bundle.title)
    return Pushed(remote.repo_id, version, sha, f"{remote.url}/tree/{version}", new=new)
