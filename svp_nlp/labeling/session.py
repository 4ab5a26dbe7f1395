"""Who gets which row, what was answered, and how far everybody is: the labelling page without HTTP.

What must survive is in the journal of the queue; leases, pace and who is there live in memory and are made anew by a
server that starts again. Nothing here decides by the wall clock: leases and pace use a monotonic one.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from svp_nlp.errors import LabelError
from svp_nlp.labeling.answers import PAGE, Answer
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.labeling.resolve import Status
from svp_nlp.run import now

Empty: TypeAlias = Literal["", "full", "conflicts", "others"]

LEASE_S = 300.0  # a page asks every 10 s; hidden tabs may ask once a minute
_SILENT_S = 30.0
_PRESENT_S = 90.0
_BREAK_S = 120.0  # a longer gap between two answers is a break, not work
_GAPS = 30
_UNDONE = ("label", "skip", "flag")


class AnsweredAlready(LabelError):
    """The annotator has answered this row before, in another tab or by a file; nothing was written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A row that is on somebody's screen."""

    id: str
    until: float


class Session:
    """The labelling of a run by several people; call it from one thread at a time.

    An annotator may have several tabs; each is known by a random name that the page gives it.
    """

    def __init__(self, queue: LabelQueue, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue = queue
        self._clock = clock
        self._answers_seen = 0
        self._known: set[str] = set()  # names of requests
        self._status: dict[str, Status] = {}
        self._counts: dict[str, Counter[Status]] = {}
        self._by_origin: dict[str, Answer] = {}
        self._history: dict[str, dict[str, str]] = {}  # annotator -> row -> origin of his answer, the newest last
        self._leases: dict[tuple[str, str], Lease] = {}
        self._heard: dict[str, float] = {}
        self._answered_at: dict[str, deque[float]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in what others have written: requests of new rounds, answers from files and other servers."""
        self.queue.refresh()
        changed: set[str] = set()
        for request in self.queue.requests:
            if request.name not in self._known:
                self._known.add(request.name)
                self._counts[request.name] = Counter()
                changed.update(row.id for row in request.rows)
        answers = self.queue.journal.answers
        for answer in answers[self._answers_seen :]:
            self._remember(answer)
            changed.add(answer.id)
        self._answers_seen = len(answers)
        for id in changed & self.queue.rows.keys():
            counts = self._counts[self.queue.request_of[id].name]
            before, after = self._status.get(id), self.queue.resolution(id).status
            if before is not None:
                counts[before] -= 1
            counts[after] += 1
            self._status[id] = after

    def _remember(self, answer: Answer) -> None:
        if answer.source not in (PAGE, "review", "adjudication"):
            return
        if answer.origin:
            self._by_origin[answer.origin] = answer
        if answer.kind == "decision":
            return
        mine = self._history.setdefault(answer.annotator, {})
        mine.pop(answer.id, None)
        if answer.kind in _UNDONE:
            mine[answer.id] = answer.origin

    def next(self, annotator: str, tab: str) -> Row | None:
        """The row for this tab: the one it has, else the first that nobody else has; None: none is left."""
        self.refresh()
        self.hear(annotator)
        key = (annotator, tab)
        lease = self._leases.pop(key, None)
        if lease is not None and lease.until > self._clock() and self._wants(lease.id, annotator) > 0:
            return self._lend(key, lease.id)
        self._leases = {k: lease for k, lease in self._leases.items() if lease.until > self._clock()}
        theirs = Counter(lease.id for (who, _), lease in self._leases.items() if who != annotator)
        mine = {lease.id: lease.until for (who, _), lease in self._leases.items() if who == annotator}
        free = (id for id in self._waiting() if self._wants(id, annotator) > theirs[id])
        last: str | None = None
        for id in free:
            if id not in mine:
                return self._lend(key, id)
            if last is None and mine[id] - self._clock() < LEASE_S - _SILENT_S:
                last = id
        # Only what stands in a tab of the same person is left that says nothing any more: it was closed.
        return None if last is None else self._lend(key, last)

    def _lend(self, key: tuple[str, str], id: str) -> Row:
        self._leases[key] = Lease(id, self._clock() + LEASE_S)
        return self.queue.rows[id]

    def _waiting(self) -> Iterator[str]:
        """Rows that need an answer, in the order in which they should get one."""
        for request in self.queue.requests:
            counts = self._counts[request.name]
            if counts["open"] or counts["conflict"]:
                yield from (row.id for row in request.rows if self._status[row.id] in ("open", "conflict"))

    def _wants(self, id: str, annotator: str) -> int:
        """Annotators that the row still needs, this one being among them; 0: not this one."""
        status, answers = self._status[id], self.queue.answers_of(id)
        if answers is not None and annotator in answers.by_annotator:
            return 0
        if status == "open":
            return self.queue.project.answers_per_row - (0 if answers is None else len(answers.by_annotator))
        # A majority that is a tie is decided by one more; `adjudicate` waits for a decision.
        return int(status == "conflict" and self.queue.project.conflicts == "majority")

    def answer(
        self, annotator: str, tab: str, *, id: str, kind: str, label: str | None, note: str, origin: str
    ) -> Answer:
        """Write an answer; it is on disk when this returns. The same origin again is the same answer, written once.

        Args:
            kind: label, skip or flag.
            origin: random name that the page gave this answer.
        Raises:
            AnsweredAlready: this annotator has answered the row before.
            LabelError: a row that was not asked for, or a label that is not among the classes.
            RunError: it could not be written; nothing was.
        """
        if kind not in _UNDONE:
            raise LabelError(f"an answer of kind {kind!r}; expected one of {', '.join(_UNDONE)}")
        with self.queue.locked():
            self.refresh()
            self.hear(annotator)
            known = self._by_origin.get(origin)
            if known is not None:
                if (known.id, known.kind, known.label, known.annotator) != (id, kind, label, annotator):
                    raise LabelError(f"row {id}: this answer has the name of another one; reload the page")
                return known
            before = self.queue.answers_of(id)
            if before is not None and annotator in before.by_annotator:
                raise AnsweredAlready(f"{annotator} has answered this row already, in another tab or in a file")
            answer = Answer(id, _kind(kind), label, annotator, now(), PAGE, note=note, origin=origin)
            self.queue.append([answer])
        self.refresh()
        self._leases.pop((annotator, tab), None)
        self._answered_at.setdefault(annotator, deque(maxlen=_GAPS + 1)).append(self._clock())
        return answer

    def undo(self, annotator: str, tab: str, origin: str) -> Row | None:
        """Take back the last answer of this tab, else of this annotator, and show its row again; None: there is none.

        Raises:
            RunError: it could not be written; nothing was.
        """
        with self.queue.locked():
            self.refresh()
            self.hear(annotator)
            if origin in self._by_origin:  # said before; the page did not hear the answer
                return self._lend((annotator, tab), self._by_origin[origin].id)
            id = self._last_of(annotator, tab)
            if id is None:
                return None
            self.queue.append([Answer(id, "retract", None, annotator, now(), PAGE, origin=origin)])
        self.refresh()
        if times := self._answered_at.get(annotator):
            times.pop()
        return self._lend((annotator, tab), id)

    def _last_of(self, annotator: str, tab: str) -> str | None:
        standing = []
        for id, origin in reversed(self._history.get(annotator, {}).items()):
            answers = self.queue.answers_of(id)
            if id not in self.queue.rows or answers is None or answers.decision is not None:
                continue
            current = answers.by_annotator.get(annotator)
            if current is not None and current.source == PAGE:
                if origin.startswith(f"{tab}."):
                    return id
                standing.append(id)
        return standing[0] if standing else None

    def hear(self, annotator: str, tab: str = "") -> None:
        """This annotator is there, and so is what the tab shows."""
        self._heard[annotator] = self._clock()
        lease = self._leases.get((annotator, tab))
        if lease is not None:
            self._leases[annotator, tab] = Lease(lease.id, self._clock() + LEASE_S)

    def is_answered(self, id: str, annotator: str) -> bool:
        """The row needs no answer of this annotator: it has his, those of others are enough, or it is none any more."""
        return id not in self.queue.rows or self._wants(id, annotator) <= 0

    @property
    def why_empty(self) -> Empty:
        """Why there is no row: all are answered, annotators differ, or the rest is for somebody else."""
        total = sum(self._counts.values(), Counter[Status]())
        if total["open"] or (total["conflict"] and self.queue.project.conflicts == "majority"):
            return "others"
        return "conflicts" if total["conflict"] else "full"

    @property
    def is_full(self) -> bool:
        """Every row that was asked for has its label, or was skipped or flagged."""
        return self.why_empty == "full" and bool(self.queue.requests)

    def progress(self, annotator: str, row: Row | None) -> dict[str, Any]:
        """How far the round, the plan and the people are; JSON values."""
        request = self._at(row)
        if request is None:
            return {}
        counts = self._counts[request.name]
        waiting = counts["open"] + counts["conflict"]
        others = [name for name, at in self._heard.items() if name != annotator and self._clock() - at < _PRESENT_S]
        seconds = self._seconds_per_answer(annotator)
        return {
            "round": request.round,
            "part": request.part,
            "requested": len(request.rows),
            "returned": len(request.rows) - waiting,
            "conflicts": sum(c["conflict"] for c in self._counts.values()),
            "flagged": sum(c["flagged"] for c in self._counts.values()),
            "labelled": sum(c["labelled"] for c in self._counts.values()),
            "planned": self.queue.project.planned,
            "mine": len(self._history.get(annotator, {})),
            "others": sorted(others),
            "seconds_per_answer": seconds,
            "seconds_left": None if seconds is None else seconds * waiting / (1 + len(others)),
        }

    def _at(self, row: Row | None) -> Request | None:
        if row is not None:
            return self.queue.request_of[row.id]
        waiting = next(self._waiting(), None)
        if waiting is not None:
            return self.queue.request_of[waiting]
        return self.queue.requests[-1] if self.queue.requests else None

    def _seconds_per_answer(self, annotator: str) -> float | None:
        times = list(self._answered_at.get(annotator, ()))
        gaps = [after - before for before, after in itertools.pairwise(times) if after - before < _BREAK_S]
        return statistics.median(gaps) if len(gaps) >= 3 else None


def _kind(kind: str) -> Literal["label", "skip", "flag"]:
    return "label" if kind == "label" else "skip" if kind == "skip" else "flag"
