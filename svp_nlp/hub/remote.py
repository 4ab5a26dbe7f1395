"""One repository of the Hub: reads by commit, writes that nobody else's writes can get lost under, errors in one line.

What the client retries and what it does not, and what it makes of each answer, was measured (huggingface_hub 2.4):
uploads and listings are retried by it; commits, tags, look-ups and the creation of a repository are not. Those are
repeated here, for a bounded time.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from svp_nlp.errors import HubError, HubRefused, RemoteConflict, SVPError
from svp_nlp.hub.retry import Attempts, Patience, endpoint, is_transient, status_of
from svp_nlp.hub_errors import disk_full, first_line, other_type

log = logging.getLogger(__name__)
T = TypeVar("T")
RepoType = Literal["dataset", "model"]
_STALE = (409, 412)  # somebody else was faster, or is at it
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def check_version(version: str) -> str:
    """Return a name that can be the tag of a version.

    Raises:
        HubRefused: it breaks the rules of git or of the Hub, or would be mistaken for a branch or a commit.
    """
    wrong = not _VERSION.fullmatch(version) or ".." in version or version.endswith(".lock")
    if wrong or version in ("main", "HEAD") or re.fullmatch(r"[0-9a-f]{7,40}", version):
        raise HubRefused(
            f"version {version!r} cannot be the name of a version: use 1 to 64 letters, digits, '.', '_' or '-', as in "
            "v3; it must begin with a letter or a digit and must not look like a commit or a branch"
        )
    return version


def check_repo_id(repo_id: str) -> str:
    """Return `namespace/name`, or a bare name (the namespace is then that of the token).

    Raises:
        HubRefused: it is not the id of a repository.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        hint = "; leave out the address and `datasets/`" if "/" in repo_id.strip("/") else ""
        raise HubRefused(
            f"{repo_id!r} is not the id of a repository; expected for example acme/selected{hint}"
        ) from None
    return repo_id


class Remote:
    """A repository of datasets or models, existing or not."""

    def __init__(
        self, repo_id: str, repo_type: RepoType, *, token: str | None = None, patience: Patience | None = None
    ) -> None:
        """Checks the id; asks nothing yet.

        Raises:
            HubRefused: not the id of a repository.
        """
        from huggingface_hub import HfApi

        self.repo_id, self.repo_type, self.patience = check_repo_id(repo_id), repo_type, patience or Patience()
        if not re.match(r"https?://", endpoint()):
            raise HubRefused(f"HF_ENDPOINT is {endpoint()!r}; expected an address such as https://huggingface.co")
        self.api = HfApi(token=token, library_name="svp_nlp", library_version=library_version())
        self.user: str | None = None  # known when signed in

    @property
    def where(self) -> str:
        return f"{self.repo_type} {self.repo_id}"

    @property
    def url(self) -> str:
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def sign_in(self) -> None:
        """Complete a bare name by the user's namespace, and see that there is a token that may write.

        Raises:
            HubRefused: no token, a wrong one, or one that can only read.
        """
        from huggingface_hub import get_token

        if self.user is not None:  # the Hub limits how often it may be asked
            return
        if self.api.token is None and get_token() is None:
            raise HubRefused(f"{self.where}: no token; {_LOGIN}, with a token that may write")
        user = self.call(lambda: self.api.whoami(), "asking who the token belongs to")
        if "/" not in self.repo_id:
            self.repo_id = f"{user['name']}/{self.repo_id}"
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise HubRefused(
                f"{self.where}: the token of {user['name']} can only read; make one that may write (Settings, Access "
                "Tokens) and log in with it: `hf auth login`"
            )
        self.user = str(user["name"])

    def may_write(self) -> None:
        """Raises: HubRefused: this token may not write to the repository, which exists."""
        self.call(
            lambda: self.api.auth_check(self.repo_id, repo_type=self.repo_type, write=True),
            "asking for the right to write",
        )

    def check_visibility(self, *, private: bool) -> None:
        """Raises: HubRefused: the repository, which exists, is public and should be private, or the other way."""
        is_private = bool(self.call(lambda: self._info(None).private, "looking it up"))
        if is_private != private:
            is_so, option = ("private", "--public") if is_private else ("public", "--private")
            raise HubRefused(
                f"{self.where} exists and is {is_so}; change that in its settings ({self.url}/settings), or leave "
                f"{option} out"
            )

    def create(self, *, private: bool | None) -> None:
        """Make the repository where it is missing; an existing one stays as it is."""
        self.call(
            lambda: self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private, exist_ok=True),
            "creating it",
        )

    def head(self) -> str | None:
        """The commit of `main`; None where there is no such repository (or none that this token may see)."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            return str(self.call(lambda: self._info(None).sha, "looking it up", raw=(RepositoryNotFoundError,)))
        except GatedRepoError as error:
            raise self.explained(error) from None
        except RepositoryNotFoundError:
            return None

    def resolve(self, revision: str | None) -> str:
        """The commit that a branch or tag names now.

        Raises:
            HubRefused: no such repository or revision, or no access.
            HubError: the Hub could not be asked.
        """
        return str(self.call(lambda: self._info(revision).sha, f"looking up {revision or 'main'}"))

    def _info(self, revision: str | None) -> Any:
        return self.api.repo_info(
            self.repo_id, repo_type=self.repo_type, revision=revision, timeout=self.patience.answer_s
        )

    def tags(self) -> dict[str, str]:
        """Tag -> commit."""
        refs = self.call(lambda: self.api.list_repo_refs(self.repo_id, repo_type=self.repo_type), "listing its tags")
        return {tag.name: tag.target_commit for tag in refs.tags}

    def own_pull_requests(self) -> list[int]:
        """Numbers of the open pull requests of the user who has signed in, the newest first."""
        which: dict[str, Any] = {"repo_type": self.repo_type, "author": self.user, "discussion_status": "open"}
        return self.call(
            lambda: [one.num for one in self.api.get_repo_discussions(self.repo_id, **which) if one.is_pull_request],
            "listing pull requests",
        )

    def files(self, sha: str) -> list[str]:
        """All files at a commit."""
        return sorted(
            self.call(
                lambda: self.api.list_repo_files(self.repo_id, repo_type=self.repo_type, revision=sha),
                "listing its files",
            )
        )

    def read(self, path: str, sha: str) -> bytes | None:
        """A file at a commit; None where it is missing."""
        from huggingface_hub.errors import RemoteEntryNotFoundError

        def download() -> str:
            return str(self.api.hf_hub_download(self.repo_id, path, repo_type=self.repo_type, revision=sha))

        try:
            return Path(self.call(download, f"reading {path}", raw=(RemoteEntryNotFoundError,))).read_bytes()
        except RemoteEntryNotFoundError:
            return None

    def download(self, sha: str, patterns: Sequence[str]) -> Path:
        """A folder with the files at a commit whose paths match; from the cache where they are there."""

        def download() -> str:
            return str(
                self.api.snapshot_download(
                    self.repo_id, repo_type=self.repo_type, revision=sha, allow_patterns=list(patterns)
                )
            )

        return Path(self.call(download, f"downloading commit {sha[:10]}"))

    def history(self, sha: str) -> list[str]:
        """A commit and all before it, the newest first."""
        commits = self.call(
            lambda: self.api.list_repo_commits(self.repo_id, repo_type=self.repo_type, revision=sha), "listing commits"
        )
        return [commit.commit_id for commit in commits]

    def tag(self, version: str, sha: str, message: str) -> None:
        """Put an annotated tag on a commit; a tag that is there already is never moved.

        Raises:
            RemoteConflict: it is there, on another commit.
        """
        attempts = Attempts(self.patience, f"{self.where}: tagging {version}")
        while True:
            try:
                self.api.create_tag(
                    self.repo_id, tag=version, revision=sha, tag_message=message, repo_type=self.repo_type
                )
                return
            except Exception as error:
                if status_of(error) in _STALE:
                    found = self.tags().get(version)
                    if found == sha:  # an answer that got lost, or the other half of an interrupted push
                        return
                    if found is not None:
                        raise RemoteConflict(
                            f"{self.where}: version {version} was taken by somebody else meanwhile (commit {found}); "
                            f"yours is commit {sha}, without a tag: push again to give it the next version"
                        ) from None
                elif not is_transient(error):
                    raise self.explained(error) from error
                attempts.wait(error)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """While inside, the client is quiet and gives up on a Hub that accepts a connection and says nothing."""
        from huggingface_hub import get_session

        session = get_session()
        before, session.timeout = session.timeout, self.patience.answer_s
        try:
            with quiet():
                yield
        finally:
            session.timeout = before

    def call(self, do: Callable[[], T], doing: str, *, raw: tuple[type[Exception], ...] = ()) -> T:
        """Do something that may be repeated without harm, until it succeeds or the time is over.

        Args:
            raw: errors that are raised as they are.
        """
        attempts = Attempts(self.patience, f"{self.where}: {doing}")
        while True:
            try:
                with self.asking():
                    return do()
            except raw:
                raise
            except Exception as error:
                if not is_transient(error) and status_of(error) != 409:
                    raise self.explained(error) from error
                attempts.wait(error)

    def explained(self, error: Exception) -> SVPError:
        """An error of the client as one of ours, in one line that says what to do."""
        from huggingface_hub.errors import (
            GatedRepoError,
            LocalTokenNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if isinstance(error, SVPError):
            return error
        if (full := disk_full(error)) is not None:
            return HubRefused(f"{self.where}: {full}")
        status = status_of(error)
        if isinstance(error, OfflineModeIsEnabled):
            return HubRefused(f"{self.where}: HF_HUB_OFFLINE=1 is set, so nothing can be asked or pushed; unset it")
        if isinstance(error, LocalTokenNotFoundError):
            return HubRefused(f"{self.where}: no token; {_LOGIN}")
        if isinstance(error, GatedRepoError):
            return HubRefused(f"{self.where}: access must be asked for on its page, {self.url}; then {_LOGIN}")
        if isinstance(error, RevisionNotFoundError):
            return HubRefused(
                f"{self.where}: no such revision ({first_line(error)}); its versions are listed on {self.url}"
            )
        if isinstance(error, RepositoryNotFoundError):
            return HubRefused(f"{self.where}: {self._missing()}")
        if status == 401:
            return HubRefused(f"{self.where}: the Hub does not know this token; {_LOGIN}")
        if status == 403:
            return HubRefused(
                f"{self.where}: this token may not do that ({first_line(error)}); use one that may write here, or "
                "another namespace"
            )
        if status == 400 or isinstance(error, ValueError):
            return HubRefused(f"{self.where}: the Hub refused ({first_line(error)})")
        return HubError(f"{self.where}: {first_line(error)}")

    def _missing(self) -> str:
        other = other_type(self.repo_id, self.repo_type)
        if other is not None:
            return f"this is a {other} on the Hub, not a {self.repo_type}; name another repository"
        return f"there is none on {self.api.endpoint}, or it is private; check the name, or {_LOGIN}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the client's own retry messages and bars to those who asked for them."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "httpx2")]
    levels = [logger.level for logger in loggers]
    if not log.isEnabledFor(logging.DEBUG):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@functools.cache
def library_version() -> str:
    """The version of svp_nlp that writes."""
    from importlib.metadata import version

    return version("svp_nlp")
