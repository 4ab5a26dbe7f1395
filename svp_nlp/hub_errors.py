"""What the Hub's clients raise, as one line that tells what to do, without tokens or signed addresses."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from svp_nlp.columns import closest
from svp_nlp.errors import HubRefused, PoolError, SVPError, scrub

_SHOWN = 10
_FULL = (errno.ENOSPC, errno.EDQUOT)


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    said = getattr(error, "server_message", None) or str(root)
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no message"]
    return scrub(f"{type(root).__name__}: {re.sub(r'[?][^ ]+', '', lines[0])[:300]}")


@contextlib.contextmanager
def dataset_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Raises: PoolError: the Hub refused, failed or cannot be reached; any other error passes."""
    try:
        yield
    except PoolError:
        raise
    except Exception as error:
        reason = why(error, repo_id, revision=revision)
        if reason is None:
            raise
        raise PoolError(f"{repo_id}: {reason}") from None


@contextlib.contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Raises: HubRefused: what was read from the Hub cannot be kept on this disk; any other error passes."""
    try:
        yield
    except SVPError:
        raise
    except Exception as error:
        found = next((e for e in _chain(error) if isinstance(e, OSError) and e.errno is not None), None)
        if found is None:
            raise
        reason = disk_full(found) or f"{found.strerror} ({found.filename}); HF_HOME and SVP_CACHE move the caches"
        raise HubRefused(f"{where}: it cannot be kept here: {reason}") from None


def disk_full(error: BaseException) -> str | None:
    """What to do about a full disk behind an error; None where there is none."""
    from huggingface_hub import constants

    full = next((e for e in _chain(error) if isinstance(e, OSError) and e.errno in _FULL), None)
    if full is None:
        return None
    return (
        f"no space left on the disk ({full.filename or 'while writing'}): free some, or move the caches "
        f"(HF_HOME is {constants.HF_HOME}; SVP_CACHE)"
    )


def why(error: BaseException, repo_id: str, *, revision: str | None = None, repo_type: str = "dataset") -> str | None:
    """The reason for a failed read in words; None when neither the Hub nor the disk is the reason.

    May ask the Hub once more, to tell what there is instead of what is missing.

    Args:
        error: what was raised; its causes are looked at as well.
        repo_id: what was read.
        revision: of which commit, branch or tag.
        repo_type: `dataset` or `model`.
    """
    import huggingface_hub
    from huggingface_hub import errors as hub

    chain = _chain(error)
    if (full := disk_full(error)) is not None:
        return full
    found = next((e for e in chain if _is_of_the_hub(e)), None)
    token = huggingface_hub.get_token()
    page = f"{huggingface_hub.constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    if isinstance(found, hub.GatedRepoError):
        log_in = "log in with `hf auth login` or set HF_TOKEN" if token is None else "your token has none yet"
        return f"access to this {repo_type} must be asked for on its page, {page}; {log_in}"
    if isinstance(found, hub.RevisionNotFoundError):
        return f"no revision {revision!r} on the Hub{_revisions(repo_id, revision, repo_type)}"
    if isinstance(found, hub.RepositoryNotFoundError):
        if other := other_type(repo_id, repo_type):
            return f"this is a {other} on the Hub, not a {repo_type}; expected the id of a {repo_type}"
        readable = "" if token is None else " that your token may read"
        log_in = "; for a private one log in with `hf auth login` or set HF_TOKEN" if token is None else ""
        return f"no such {repo_type} on the Hub{readable}, no such folder here ({Path.cwd()}){log_in}"
    if isinstance(found, hub.OfflineModeIsEnabled):
        return "offline, and not in the cache; go online once to fetch it"
    if isinstance(found, hub.HfHubHTTPError):
        return _status(found)
    if found is not None:
        return (
            f"the Hub cannot be reached ({first_line(found)}); check the network, or set HF_HUB_OFFLINE=1 to use what "
            "is in the cache"
        )
    return None


def _is_of_the_hub(error: BaseException) -> bool:
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HfHubHTTPError | hub.OfflineModeIsEnabled | ConnectionError | TimeoutError):
        return True
    # Of the HTTP library (httpx2 today) only the name is known here: another takes its place now and then.
    return "TransportError" in {base.__name__ for base in type(error).mro()}


def _status(error: BaseException) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    said = response.headers.get("X-Error-Message") if response is not None else None
    answer = f"{status}, {scrub(said)[:200]}" if said else str(status or first_line(error))
    if status == 401:
        return f"the Hub does not know your token ({answer}); log in again with `hf auth login`, or correct HF_TOKEN"
    if status == 403:
        return f"your token may not read this ({answer}); give it the right to, on your settings page of the Hub"
    if status == 429:
        return f"the Hub had too many requests from you ({answer}); wait some minutes and start again"
    if status >= 500:
        return f"the Hub failed ({answer}); start again later, or set HF_HUB_OFFLINE=1 to use what is in the cache"
    return f"the Hub refused ({answer}); look at its page"


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from. datasets raises `from None`, which hides the context but keeps it."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def _revisions(repo_id: str, revision: str | None, repo_type: str) -> str:
    import huggingface_hub

    with contextlib.suppress(Exception):
        refs = huggingface_hub.HfApi().list_repo_refs(repo_id, repo_type=repo_type)
        names = [ref.name for ref in [*refs.branches, *refs.tags]]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"{closest(str(revision), names)}; it has {', '.join(names[:_SHOWN])}{more}, and commits by their sha"
    return "; expected a branch, a tag or a commit sha"


def other_type(repo_id: str, repo_type: str) -> str | None:
    """`model`, `dataset` or `space`, where a repository of this name is of that type and not of `repo_type`."""
    import huggingface_hub

    with contextlib.suppress(Exception):
        for other in {"dataset", "model", "space"} - {repo_type}:
            if huggingface_hub.HfApi().repo_exists(repo_id, repo_type=other):
                return other
    return None
