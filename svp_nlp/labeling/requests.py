"""What people are asked: files of rows in the run directory, one for each round, and one for a test set."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from svp_nlp.errors import RunError
from svp_nlp.files import atomic_file, json_lines

Part: TypeAlias = Literal["train", "test"]
_NAME = re.compile(r"(\d{4,})-(train|test)\.jsonl")


@dataclass(frozen=True, slots=True)
class Row:
    """One row that people are asked for.

    Attributes:
        id: of the row in the pool.
        text: what is shown; empty for an image.
        image: name of its file below `labeling/images`; empty for a text.
        score: what the strategy gave it; None: random, or picked as one of a set.
        suggestions: (class, probability) by the proxy, the likeliest first.
    """

    id: str
    position: int
    text: str
    image: str = ""
    score: float | None = None
    suggestions: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """Rows of one round, in the order in which they should be labelled."""

    round: int
    part: Part
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        return f"{self.round:04d}-{self.part}"


def write_request(directory: Path, request: Request) -> None:
    """Keep a request; one that is there already stays as it is, for it may have been sent to people."""
    path = directory / f"{request.name}.jsonl"
    if path.exists():
        return
    with atomic_file(path) as tmp, tmp.open("w", encoding="utf-8", errors="replace") as file:
        for row in request.rows:
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")


def read_requests(directory: Path, *, skip: Collection[str] = ()) -> Iterator[Request]:
    """All requests, by round.

    Args:
        skip: names of those that were read before; they never change.
    Raises:
        RunError: a file is damaged.
    """
    found = [(match, path) for path in directory.glob("*.jsonl") if (match := _NAME.fullmatch(path.name))]
    for round, part, path in sorted((int(match[1]), match[2], path) for match, path in found):
        if path.stem in skip:
            continue
        rows: list[Row] = []
        try:
            for values in json_lines(path.read_bytes()):
                values["suggestions"] = tuple([(label, float(share)) for label, share in values["suggestions"]])
                rows.append(Row(**values))
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}, line {len(rows) + 1:,}, is no request ({type(error).__name__}); remove the file and run "
                "`svp run` again: it is written anew, and no answer is lost"
            ) from None
        yield Request(round, "test" if part == "test" else "train", tuple(rows))
