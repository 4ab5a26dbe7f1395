"""Which answers of a file are new.

An answer is known already

- that has a name of its own in its tool (origin): if that one, or a later version of it, is in the journal;
- that has a time: if the journal's last answer of this annotator, row and time says the same;
- that has neither, as in a spreadsheet: if the last one that came from a file, by this annotator for this row, says the
  same. So an old file does not set back what was corrected elsewhere since, and what was changed in the file counts.

An answer that only repeats what its annotator said elsewhere is written too: it is what a later edit of the file is
told by. Nobody's clock decides, times are names here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

from svp_nlp.labeling.answers import Answer, Kind
from svp_nlp.labeling.formats import FORMATS
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.table import LabelRow
from svp_nlp.run import now

_Who: TypeAlias = tuple[str, str, bool]  # row, annotator, and whether it is a decision
_Value: TypeAlias = tuple[str, str, str]  # kind, label, note


@dataclass(frozen=True)
class News:
    """New answers in the order of the file, how many were known, and how many new ones replace another."""

    answers: list[Answer]
    known: int
    changed: int


@dataclass
class _Heard:
    """What was said so far."""

    source: str
    latest: dict[_Who, Answer] = field(default_factory=dict)
    at_time: dict[tuple[_Who, str], _Value] = field(default_factory=dict)
    in_files: dict[_Who, _Value] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # of what has an origin
    authors: dict[str, str] = field(default_factory=dict)  # whose it is

    def add(self, answer: Answer) -> None:
        who = (answer.id, answer.annotator, answer.kind == "decision")
        value = (answer.kind, answer.label or "", answer.note)
        self.latest[who] = answer
        self.at_time[who, answer.time] = value
        if answer.origin and answer.source == self.source:
            name, version = _split(answer.origin)
            self.versions[name] = max(version, self.versions.get(name, ""))
            self.authors[name] = answer.annotator
        elif not answer.origin and answer.source in FORMATS:
            self.in_files[who] = value

    def knows(self, row: LabelRow) -> bool:
        if row.origin:
            name, version = _split(row.origin)
            return name in self.versions and version <= self.versions[name]
        who, value = _who(row), (row.kind, row.label, row.note)
        return value == (self.at_time.get((who, row.timestamp)) if row.timestamp else self.in_files.get(who))


def _who(row: LabelRow) -> _Who:
    return row.svp_id, row.annotator, row.kind == "decision"


def find_news(queue: LabelQueue, rows: Sequence[LabelRow], source: str) -> News:
    """Answers that are not in the journal; call it under the queue's lock. O(journal + rows).

    Args:
        rows: of known ids, with kinds; one that says nothing takes back what its origin said before.
        source: of the answers that do not say.
    """
    heard, time = _Heard(source), now()
    for answer in queue.journal.answers:
        heard.add(answer)
    new: list[Answer] = []
    known = changed = 0
    for row in rows:
        # One person, whom the server's API calls by the address and its export by a number, is no second opinion.
        author = heard.authors.get(_split(row.origin)[0], row.annotator) if row.origin else row.annotator
        row = row if author == row.annotator else replace(row, annotator=author)
        last, kind = heard.latest.get(_who(row)), cast(Kind, row.kind)
        if row.origin and not row.label and row.kind == "label":
            if last is None or last.source != source or _split(last.origin)[0] != _split(row.origin)[0]:
                continue
            kind = "retract"
        if heard.knows(row):
            known += 1
            continue
        is_edited = (_who(row), row.timestamp) in heard.at_time
        answer = Answer(
            id=row.svp_id,
            kind=kind,
            label=row.label or None,
            annotator=row.annotator,
            time=row.timestamp or time,
            source=row.source if row.source and row.timestamp and not is_edited else source,
            note=row.note,
            origin=row.origin,
        )
        changed += last is not None and last.kind != "retract" and (last.kind, last.label) != (kind, answer.label)
        heard.add(answer)
        new.append(answer)
    return News(new, known, changed)


def _split(origin: str) -> tuple[str, str]:
    """What an origin is of, and its version."""
    name, _, version = origin.rpartition("@")
    if version.endswith("Z") and "." not in version:  # as Label Studio writes a whole second
        version = f"{version[:-1]}.000000Z"
    return (name, version) if name else (version, "")
