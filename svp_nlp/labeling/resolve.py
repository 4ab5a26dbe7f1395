"""From answers of several people to one label a row. Ties are never broken silently: such a row stays open."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from svp_nlp.labeling.answers import Answer

Policy: TypeAlias = Literal["majority", "latest", "adjudicate"]
Status: TypeAlias = Literal["open", "labelled", "skipped", "flagged", "conflict"]


@dataclass
class RowAnswers:
    """All that was said about one row, in the order in which it came."""

    decision: Answer | None = None
    by_annotator: dict[str, Answer] = field(default_factory=dict)  # the last of each, the newest at the end

    def add(self, answer: Answer) -> None:
        """Take in the next answer."""
        if answer.kind == "decision":
            self.decision = answer
            return
        self.by_annotator.pop(answer.annotator, None)
        if answer.kind != "retract":
            self.by_annotator[answer.annotator] = answer

    @property
    def labels(self) -> list[str]:
        """All that stand, of annotators and of a decision."""
        found = [*self.by_annotator.values(), *([] if self.decision is None else [self.decision])]
        return [answer.label for answer in found if answer.label is not None]

    @property
    def votes(self) -> list[Answer]:
        """The labels, one an annotator; a decision that overrules them is none of them."""
        return [answer for answer in self.by_annotator.values() if answer.kind == "label"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the answers to a row come to.

    Attributes:
        label: of a labelled row.
        annotators: whose answers count, joined with "+".
        source: of the answer that was last.
    """

    status: Status
    label: str | None = None
    annotators: str = ""
    source: str = ""

    @property
    def is_returned(self) -> bool:
        """Nothing more is expected of anybody."""
        return self.status in ("labelled", "skipped", "flagged")


_OPEN = Resolution("open")


def resolve(row: RowAnswers | None, *, policy: Policy, answers_per_row: int = 1) -> Resolution:
    """The label of a row, or what is missing for one.

    Args:
        policy: where annotators differ: `majority` takes the label that most gave, `latest` the last one that came,
            `adjudicate` waits for a decision. A tie of a majority waits for a decision, or for another vote.
        answers_per_row: annotators that must have answered; skips and flags are answers.
    """
    if row is None:
        return _OPEN
    if row.decision is not None:
        status: Status = "skipped" if row.decision.label is None else "labelled"
        return Resolution(status, row.decision.label, row.decision.annotator, row.decision.source)
    if len(row.by_annotator) < answers_per_row:
        return _OPEN
    if len(row.by_annotator) == 1:
        [only] = row.by_annotator.values()
        if only.label is not None:  # by far the most: nothing to count
            return Resolution("labelled", only.label, only.annotator, only.source)
    votes = row.votes
    if not votes:
        flagged = any(answer.kind == "flag" for answer in row.by_annotator.values())
        return Resolution("flagged" if flagged else "skipped") if row.by_annotator else _OPEN
    counts = Counter(vote.label for vote in votes).most_common()
    winner = counts[0][0]
    if len(counts) > 1:
        if policy == "adjudicate" or (policy == "majority" and counts[0][1] == counts[1][1]):
            return Resolution("conflict")
        if policy == "latest":
            winner = votes[-1].label
    agreeing = [vote for vote in votes if vote.label == winner]
    return Resolution("labelled", winner, "+".join(v.annotator for v in agreeing if v.annotator), agreeing[-1].source)
