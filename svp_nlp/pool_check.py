"""What was found in the rows of a pool when they were read once: blank ones and duplicates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolCheck:
    """What was found in the rows of a pool."""

    rows: int
    blank: int  # null, empty or white space only
    first_blank: tuple[int, ...]  # positions
    duplicates: int  # same content as an earlier row after normalisation
    first_duplicates: tuple[tuple[int, int], ...]  # (position, position of the first row with this content)

    @property
    def usable(self) -> int:
        """Rows that can be picked."""
        return self.rows - self.blank - self.duplicates

    def lines(self) -> list[str]:
        """For people, one finding per line."""
        lines = [f"{self.rows:,} rows, {self.usable:,} usable"]
        if self.blank:
            lines.append(f"{self.blank:,} blank rows left out, first at {', '.join(map(str, self.first_blank))}")
        if self.duplicates:
            pairs = ", ".join(f"{row} = {first}" for row, first in self.first_duplicates)
            lines.append(f"{self.duplicates:,} duplicates left out, first {pairs}")
        return lines
