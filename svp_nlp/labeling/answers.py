"""Answers of people: an append-only journal, one JSON line each, on disk before the next question is asked.

Nothing in it is ever changed: who changes his mind answers again. The order of the lines decides, never a clock. What
a crash can leave is half a line at the end, which was not acknowledged to anybody; the next writer cuts it off.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import filelock

from svp_nlp.errors import LabelError, RunError
from svp_nlp.files import fault_point, fsync, json_lines

Kind: TypeAlias = Literal["label", "skip", "flag", "retract", "decision"]
KINDS: tuple[Kind, ...] = ("label", "skip", "flag", "retract", "decision")
PAGE = "page"  # the source of what is answered in our own page
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one annotator said about one row.

    Attributes:
        id: of the row.
        kind: a `label`; `skip`: cannot tell; `flag`: somebody should look at it, `note` says why; `retract`: takes the
            annotator's last answer back; `decision`: a label that overrules all answers before it (adjudication,
            review), or that nobody can tell.
        label: of kinds label and decision; None for the others, and where nobody can tell.
        time: ISO 8601, for pace and people; the journal's order decides what is last.
        source: the way that it came: page, jsonl, csv, label_studio, doccano, prodigy, seed, review.
        origin: what the source calls this answer; the same origin is not taken twice. Empty: it has no name there.
    """

    id: str
    kind: Kind
    label: str | None
    annotator: str
    time: str
    source: str
    note: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LabelError(f"row {self.id}: an answer of kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        if (self.label is not None) != (self.kind == "label") and self.kind != "decision":
            raise LabelError(f"row {self.id}: {self.kind} with the label {self.label!r}")


_quoted = json.encoder.encode_basestring  # as `json.dumps` with ensure_ascii=False


class JournalCut(RunError):
    """The journal is shorter than it was: what was read before is not what it holds now."""


class Journal:
    """The answers in a file, read as far as it was when `refresh` was called last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[Answer] = []
        self._read_bytes = 0
        self._lock = filelock.FileLock(path.with_suffix(".lock"), thread_local=False)

    def refresh(self) -> list[Answer]:
        """Read what has been added since, by whomever; returns that.

        Raises:
            JournalCut: a writer whose disk was full took back what had been read here, or somebody put an older copy
                there; open it again.
            RunError: a line in the middle is damaged; names it.
        """
        added, size = b"", 0
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._read_bytes)
            added = file.read()
        if size < self._read_bytes:
            raise JournalCut(f"{self.path} is shorter than it was; nothing was written: call the same command again")
        added = added[: added.rfind(b"\n") + 1]  # what follows is still being written, or was cut off
        found: list[Answer] = []
        try:
            for values in json_lines(added):
                found.append(Answer(**values))  # one by one: how many there are says which line is damaged
        except (ValueError, TypeError, LabelError) as error:
            number = len(self.answers) + len(found) + 1
            raise RunError(
                f"{self.path}, line {number:,}, is no answer ({type(error).__name__}); it was changed by hand or "
                "the disk is failing: restore the file from a copy, or take that line out"
            ) from None
        self.answers += found
        self._read_bytes += len(added)
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile; the answers are read up to their end.

        Raises:
            RunError: another process holds it for a minute, or the directory cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=_LOCK_TIMEOUT_S)
        except filelock.Timeout:
            raise RunError(f"{self.path} is being written by another process for a minute; try again") from None
        except OSError as error:
            raise RunError(f"{self.path.parent} cannot be written ({error.strerror}); nothing was saved") from None
        try:
            self.refresh()
            yield
        finally:
            self._lock.release()

    def append(self, answers: Iterable[Answer]) -> None:
        """Write answers, on disk when this returns; call it under `locked`.

        Raises:
            RunError: the disk is full or fails; none of them is there then.
        """
        assert self._lock.is_locked, "two writers would mix their lines"
        answers = list(answers)
        if not answers:
            return
        text = "".join(map(_line, answers))
        try:
            lines, is_whole = text.encode(), True
        except UnicodeEncodeError:  # half a character, which no file can hold
            lines, is_whole = text.encode("utf-8", "replace"), False
        is_new = not self.path.exists()
        try:
            with self.path.open("ab") as file:
                file.truncate(self._read_bytes)  # half a line of a writer that was killed
                try:
                    fault_point()
                    _write(file.fileno(), lines)
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(self._read_bytes)
                    raise
            if is_new:
                fsync(self.path.parent)
        except OSError as error:
            raise RunError(
                f"{self.path}: {error.strerror or error}; the answer was not saved: mend that and send it again"
            ) from error
        if not is_whole:
            self.refresh()
            return
        self.answers += answers
        self._read_bytes += len(lines)


def _line(answer: Answer) -> str:
    label = "null" if answer.label is None else _quoted(answer.label)
    # Most have neither note nor origin. By hand, for `json.dumps` takes four times as long.
    note = f', "note": {_quoted(answer.note)}' if answer.note else ""
    origin = f', "origin": {_quoted(answer.origin)}' if answer.origin else ""
    return (
        f'{{"id": {_quoted(answer.id)}, "kind": "{answer.kind}", "label": {label}, "annotator": '
        f'{_quoted(answer.annotator)}, "time": {_quoted(answer.time)}, "source": {_quoted(answer.source)}'
        f"{note}{origin}}}\n"
    )


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
        if view:
            fault_point()
