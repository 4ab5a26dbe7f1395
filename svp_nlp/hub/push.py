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

from svp_nlp.errors import HubRefused, RemoteConflict, SVPError
from svp_nlp.files import sha256_file
from svp_nlp.hub import document as lineage
from svp_nlp.hub.history import CARD, State, commit_of, proposal_of, state_of
from svp_nlp.hub.remote import Remote, RepoType, check_version, library_version
from svp_nlp.hub.retry import Attempts, is_transient, status_of
from svp_nlp.hub_errors import first_line

log = logging.getLogger(__name__)
_KNOWN_LATER = ("results", "recipe", "source_card")  # of an entry; often only after its rows were pushed


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
    newest: str | None = None  # the version at `main`, where this one is older
    card_updated: bool = False  # the content was there, but its card told less than is known now
    card_failure: str | None = None  # why its card still does


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
        private: for a repository that is made now; None: as the account's default says. One that exists must be so.
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
    elif private is not None:
        remote.check_visibility(private=private)
    attempts, tried = Attempts(remote.patience, f"{remote.where}: pushing"), False
    while True:
        state = state_of(bundle, remote, version=version)
        if state.head is None:
            raise HubRefused(f"{remote.where}: it is there, but this token may not see it; log in with one that may")
        if state.known is not None:
            done = _finished(remote, bundle, state, new=tried)
            return done if tried or create_pr else _with_new_card(done, remote, bundle, state)
        if create_pr and (found := proposal_of(bundle, remote, state.head, version=version)) is not None:
            number, sha, name = found
            url = f"{remote.url}/discussions/{number}"
            return Pushed(remote.repo_id, name, sha, url, new=False, pull_request=True)
        if not tried:
            _warn_of_texts(bundle, remote, state)
        draft = draft_commit(bundle, remote, state, version=version)
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


def _warn_of_texts(bundle: Bundle, remote: Remote, state: State) -> None:
    holds_texts = any(entry.get("index_only") is False for entry in state.document["configs"].values())
    if bundle.entry.get("index_only") and holds_texts:
        log.warning(
            "%s: versions before this one hold the texts, and versions are never changed: for a pool that must not be "
            "passed on, push to a new repository and delete this one",
            remote.where,
        )


def draft_commit(bundle: Bundle, remote: Remote, state: State, *, version: str | None) -> Draft:
    """What would be committed on top of the head."""
    version = version or lineage.next_version(state.document, state.tags)
    after = lineage.with_version(
        state.document,
        config=bundle.config,
        entry=_entry(bundle),
        version=version,
        title=bundle.title,
        tags=state.tags,
        writer=library_version(),
    )
    existing = [] if state.head is None else remote.files(state.head)
    readme = remote.read(CARD, state.head) if state.head is not None and CARD in existing else None
    uploads: dict[str, Path | bytes] = {**bundle.files, **bundle.extra, lineage.FILE: lineage.dump(after)}
    uploads[CARD] = _card(bundle, remote, after, version, readme)
    ours = _belonging(bundle, state.document)
    return Draft(version, state.head, after, uploads, tuple(f for f in existing if ours(f) and f not in uploads))


def draft_card(bundle: Bundle, remote: Remote, state: State) -> Draft | None:
    """A commit that only brings the card of a known version up to date; None where it is, or where a newer one has it.

    Errors are often known only after the rows were pushed, and then of all configurations that the same recipe made.
    """
    document, known = state.document, state.known
    before = document["configs"].get(bundle.config, {})
    if known is None or state.head is None or document["versions"][-1] != known or before.get("key") != bundle.key:
        return None
    facts = {name: bundle.entry[name] for name in _KNOWN_LATER if bundle.entry.get(name) is not None}
    configs = {**document["configs"], bundle.config: {**before, **facts}}
    if "results" in facts and (recipe := _recipe_of(bundle.entry)) is not None:
        of_it = {name: entry for name, entry in configs.items() if _recipe_of(entry) == recipe}
        configs |= {name: {**entry, "results": facts["results"]} for name, entry in of_it.items()}
    after = {**document, "configs": configs}
    readme = remote.read(CARD, state.head)
    card = _card(bundle, remote, after, known["version"], readme)
    if card == readme:
        return None
    uploads: dict[str, Path | bytes] = {**bundle.extra, lineage.FILE: lineage.dump(after), CARD: card}
    return Draft(known["version"], state.head, after, uploads, ())


def _recipe_of(entry: Mapping[str, Any]) -> str | None:
    found: str | None = (entry.get("lineage") or {}).get("recipe_sha256")
    return found


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
    with lineage.reading(remote.where):  # of the other configurations, too, which others may have pushed
        return bundle.card(context).encode()


def _decoded(readme: bytes, remote: Remote) -> str:
    try:
        return readme.decode()
    except UnicodeDecodeError as error:
        raise HubRefused(f"{remote.where}: its {CARD} is not UTF-8 ({error}); save it as UTF-8 first") from None


def _with_new_card(done: Pushed, remote: Remote, bundle: Bundle, state: State) -> Pushed:
    """The version itself stays as it is; `main` moves on by one commit. What goes wrong is told and can wait."""
    try:
        draft = draft_card(bundle, remote, state)
        if draft is None:
            return done
        _commit(remote, bundle, draft, create_pr=False, message=f"Card of {done.version}")
    except Exception as error:
        failure = str(error) if isinstance(error, SVPError) else first_line(error)
        log.warning("%s: its card could not be brought up to date (%s)", remote.where, failure)
        return replace(done, card_failure=failure)
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
            commit_description=f"Version {draft.version} of {bundle.config}, by svp_nlp\n\nSvp-Key:{bundle.key}",
            repo_type=remote.repo_type,
            parent_commit=draft.parent,
            create_pr=create_pr,
        )


def _finished(remote: Remote, bundle: Bundle, state: State, *, new: bool) -> Pushed:
    """The version in which this content was committed before; it is tagged now where that is still to do."""
    assert state.known is not None and state.head is not None
    version = state.known["version"]
    newest = str(state.document["versions"][-1]["version"])
    later = None if newest == version else newest
    if version in state.tags:
        url = f"{remote.url}/tree/{version}"
        return Pushed(remote.repo_id, version, state.tags[version], url, new=new, newest=later)
    sha = commit_of(remote, state.known, state.head)
    if sha is None:
        raise RemoteConflict(
            f"{remote.where}: version {version} was committed, but its commit is not to be found below {state.head}; "
            f"tag it by hand with `hf repo tag create`, or push with another --version"
        )
    return replace(_tagged(remote, bundle, version, sha, new=new), newest=later)


def _tagged(remote: Remote, bundle: Bundle, version: str, sha: str, *, new: bool) -> Pushed:
    remote.tag(version, sha, bundle.title)
    return Pushed(remote.repo_id, version, sha, f"{remote.url}/tree/{version}", new=new)
