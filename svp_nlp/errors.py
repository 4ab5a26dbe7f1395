"""Every error that svp_nlp raises on purpose, and the exit code that the `svp` command ends with.

A message says where, what was found, what was expected, and what to do next, in one line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar

_TOKEN = re.compile(r"hf_(?:oauth_|jwt_)?[A-Za-z0-9.~-]{20,}")


class SVPError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class RecipeError(SVPError):
    """The recipe or the command line is wrong; found before any work."""

    exit_code = 2


class PoolError(SVPError):
    """A pool, a test set or a column in it cannot be used."""

    exit_code = 2


class ImageError(PoolError):
    """An image that cannot be decoded.

    Attributes:
        reason: the message after the name of the image, for those who know it by a better one.
        row: of the rows that were given to a predictor; -1: not one of those.
    """

    def __init__(self, message: str, *, reason: str = "", row: int = -1) -> None:
        super().__init__(message)
        self.reason, self.row = reason, row


class LabelError(SVPError):
    """Labels are missing, unknown, of a wrong type, or contradict each other."""

    exit_code = 2


class BudgetError(SVPError):
    """More rows are asked for than there are."""

    exit_code = 2


class SignalError(SVPError):
    """A signal (probabilities, embeddings, scores) holds NaN, does not sum to 1, or has a wrong shape."""


class LineageError(SVPError):
    """A selection does not belong to the pool it is used with, or is not what it was when it was made."""

    exit_code = 2


class RunError(SVPError):
    """A run directory is locked, damaged, or belongs to another recipe."""


class RunRefused(RunError):
    """A run directory cannot be used as it is; found before any work."""

    exit_code = 2


class CheckpointError(RunError):
    """No checkpoint in a directory could be verified."""


class TrainingError(SVPError):
    """Training cannot go on: NaN loss, no example, out of memory."""


class ModelError(SVPError):
    """A model file is damaged, of an unknown format, or does not fit its data."""


class EngineError(SVPError):
    """Workers could not be started, died too often, or another process of the launch failed."""


class WaitingForLabels(SVPError):
    """The run stands still until people have labelled; not a failure."""

    exit_code = 3


class Interrupted(SVPError):
    """The run was asked to stop, has saved what it had, and can be resumed with the same command."""

    exit_code = 4


class HubError(SVPError):
    """The Hub failed or could not be reached; nothing that is here is lost."""


class HubRefused(HubError):
    """The Hub cannot do what was asked: no token, no right, no such repository or revision; found before any change."""

    exit_code = 2


class LabelStudioError(SVPError):
    """A Label Studio server failed or could not be reached; nothing that is here is lost."""


class LabelStudioRefused(LabelStudioError):
    """A Label Studio server cannot do what was asked: wrong address, token or project; the message says which."""

    exit_code = 2


class RemoteConflict(SVPError):
    """Somebody else changed the remote in between."""

    exit_code = 5


def told(error: SVPError) -> SVPError:
    """Mark an error that the main process of a launch tells the user about; the others need not repeat it."""
    error.__dict__["told"] = True
    return error


def is_told(error: BaseException) -> bool:
    """Whether another process tells the user about this error."""
    return bool(getattr(error, "told", False))


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar known word, else an empty string."""
    close = difflib.get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def scrub(text: str) -> str:
    """Replace Hub tokens by `hf_***`; for logs and error messages."""
    return _TOKEN.sub("hf_***", text)
