"""How far people are: by request and by annotator, how fast, and what is left."""

from __future__ import annotations

import datetime
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from svp_nlp.labeling.answers import PAGE, Answer
from svp_nlp.labeling.queue import LabelQueue

_BREAK_S = 300.0  # who takes longer was away


def progress(queue: LabelQueue) -> dict[str, Any]:
    """The state of all requests, as JSON values.

    Returns:
        `requests`: round, part, and rows requested, labelled, skipped, flagged, conflicts, open; `annotators`: name,
        answers, seconds_per_answer (None: not known); `labelled`, `open`, `planned` (labelled rows that the recipe
        wants in the end, its test set included), `finish_requested`, `stopped` (why the recipe's `stop` asks for no
        more; None: it does not), `seconds_per_answer`, and `seconds_left` of one person's work (None where nothing
        tells a pace, and where no more rows will be asked for).
    """
    requests: list[dict[str, Any]] = []
    for request in queue.requests:
        counts = queue.counts(request)
        requests.append(
            {
                "round": request.round,
                "part": request.part,
                "requested": counts.requested,
                "labelled": counts.labelled,
                "skipped": counts.skipped,
                "flagged": counts.flagged,
                "conflicts": counts.conflicts,
                "open": counts.open,
            }
        )
    by_annotator: dict[str, list[Answer]] = defaultdict(list)
    for answer in queue.journal.answers:
        if answer.kind != "retract":
            by_annotator[answer.annotator].append(answer)
    gaps = {name: seconds_between(answers) for name, answers in by_annotator.items()}
    pace = _median([gap for found in gaps.values() for gap in found])
    labelled = sum(request["labelled"] for request in requests)
    left = max(0, queue.project.planned - labelled) * queue.project.answers_per_row
    return {
        "requests": requests,
        "annotators": [
            {"name": name, "answers": len(answers), "seconds_per_answer": _median(gaps[name])}
            for name, answers in sorted(by_annotator.items())
        ],
        "labelled": labelled,
        "open": sum(request["open"] + request["conflicts"] for request in requests),
        "planned": queue.project.planned,
        "finish_requested": queue.finish_requested,
        "stopped": queue.stopped,
        "seconds_per_answer": pace,
        "seconds_left": None if pace is None or queue.finish_requested or queue.stopped else pace * left,
    }


def seconds_between(answers: Iterable[Answer]) -> list[float]:
    """Seconds from one answer of an annotator to the next, without breaks and where a clock went backwards.

    A time that several answers share is that of an import, unless they are of our page.
    """
    answers = list(answers)
    shared = Counter(answer.time for answer in answers if answer.source != PAGE)
    times = [time for answer in answers if shared[answer.time] < 2 and (time := _parsed(answer.time)) is not None]
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(times)]
    return [gap for gap in gaps if 0 < gap <= _BREAK_S]


def _parsed(time: str) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(time.replace("Z", "+00:00"))
    except ValueError:
        return None  # other tools write what they like
    return found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)


def _median(seconds: list[float]) -> float | None:
    return statistics.median(seconds) if seconds else None
