"""How often and for how long the Hub is asked again, and which of its answers are worth it."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import time
from dataclasses import dataclass

from svp_nlp.errors import HubError
from svp_nlp.hub_errors import first_line

log = logging.getLogger(__name__)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_SILENT_S = 2.0  # how long nothing is said of a Hub that does not answer


@dataclass(frozen=True)
class Patience:
    """How long a push or a look-up goes on against a Hub that fails or is busy."""

    deadline_s: float = 120.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 15.0
    answer_s: float = 120.0  # for one answer; the client itself would wait without end


class Attempts:
    """Waits between attempts: doubling, with jitter, as long as the Hub asks for, and not for ever."""

    def __init__(self, patience: Patience, where: str) -> None:
        """The clock starts now."""
        self._patience, self._where = patience, where
        self._until, self._wait_s = time.monotonic() + patience.deadline_s, patience.first_wait_s
        self._say_after, self._said = time.monotonic() + _SILENT_S, False

    def wait(self, error: Exception) -> None:
        """Wait before the next attempt.

        Raises:
            HubError: there is no time for another.
        """
        wait_s = max(self._wait_s * random.uniform(0.5, 1.0), _asked_to_wait(error))  # noqa: S311  jitter, no secret
        self._wait_s = min(2 * self._wait_s, self._patience.longest_wait_s)
        if time.monotonic() + wait_s > self._until:
            raise HubError(
                f"{self._where}: the Hub did not take it within {self._patience.deadline_s:g} s (last: "
                f"{first_line(error)}; asked {endpoint()}); nothing is lost: run the same command again later"
            ) from error
        if time.monotonic() > self._say_after and not self._said:
            self._said = True
            log.warning("%s: %s; trying on for %.0f s", self._where, first_line(error), self._until - time.monotonic())
        log.debug("%s: %s; trying again in %.1f s", self._where, first_line(error), wait_s)
        time.sleep(wait_s)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, or behind its cause; None where there was no answer."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    return None if error.__cause__ is None else status_of(error.__cause__)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later; what it did at the Hub is then not known."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status in _TRANSIENT
    # Of the HTTP library (httpx2 today) only the name is known here: another takes its place now and then.
    broken = isinstance(error, ConnectionError | TimeoutError) or "TransportError" in {
        c.__name__ for c in type(error).mro()
    }
    return broken or (error.__cause__ is not None and is_transient(error.__cause__))


def _asked_to_wait(error: Exception) -> float:
    headers = getattr(getattr(error, "response", None), "headers", {})
    with contextlib.suppress(ValueError):
        if "retry-after" in headers:
            return float(headers["retry-after"])
    found = re.search(r"\bt=(\d+)", headers.get("ratelimit", "")) if status_of(error) == 429 else None
    return float(found[1]) + 1 if found else 0.0


def endpoint() -> str:
    """The address of the Hub."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
