"""What an oracle is: ask, perhaps exit, and be told later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from svp_nlp.arrays import FloatNC
from svp_nlp.labels import LabelSet
from svp_nlp.pool import Pool
from svp_nlp.selection import Selection


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Question:
    """What is asked of an oracle in one round.

    Attributes:
        earlier: what was asked in rounds before, in order.
        labels: all that is labelled so far.
        suggest: what the proxy thinks of the rows, probabilities [K, C] in the order of `class_names`; None: nothing.
        class_names: of these probabilities.
        is_test: the rows are for a test set, not for training.
    """

    selection: Selection
    earlier: tuple[Selection, ...]
    labels: LabelSet
    suggest: Callable[[], FloatNC | None] = _nothing
    class_names: tuple[str, ...] = ()
    is_test: bool = False


class Oracle(Protocol):
    """Where labels come from. The process may end between `request` and `collect`."""

    @property
    def fingerprint(self) -> str:
        """Hash of what the answers depend on, as far as that is known before they come."""

    @property
    def is_finished(self) -> bool:
        """No more is to be asked: what has come in is all there will be."""

    def request(self, question: Question, pool: Pool) -> None:
        """Ask for the labels of a selection; asking twice is asking once."""

    def collect(self, question: Question) -> LabelSet:
        """Labels that came since `question.labels`: of this selection, of earlier ones late, and corrected ones.

        Raises:
            WaitingForLabels: too few have come to go on.
        """
