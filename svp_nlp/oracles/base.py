"""What an oracle is: ask, perhaps exit, and be told later."""

from __future__ import annotations

from typing import Protocol

from svp_nlp.labels import LabelSet
from svp_nlp.pool import Pool
from svp_nlp.selection import Selection


class Oracle(Protocol):
    """Where labels come from. The process may end between `request` and `collect`."""

    @property
    def source(self) -> str:
        """What the label table says of where a label comes from."""

    @property
    def fingerprint(self) -> str:
        """Hash of what the answers depend on."""

    def request(self, selection: Selection, pool: Pool) -> None:
        """Ask for the labels of a selection; asking twice is asking once."""

    def collect(self, selection: Selection) -> LabelSet:
        """Whatever has arrived for this selection; a part of it is normal."""
