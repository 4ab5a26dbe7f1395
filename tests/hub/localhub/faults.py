"""What can go wrong on purpose: wrong answers, delays, lost answers, broken connections, and the server's death."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Literal

When = Literal["before", "after"]


@dataclass
class Fault:
    """Answer matching requests wrongly.

    Attributes:
        path: regular expression, searched in "METHOD /raw/path".
        status: of the answer, where there is one.
        times: how many requests; -1: all.
        message: of the answer.
        code: X-Error-Code of the answer.
        headers: of the answer; like Retry-After.
        delay: seconds before anything happens.
        after: do the work first: the client loses an answer, the server keeps the effect.
        drop: break the connection in place of an answer.
        proceed: only the delay; answer as usual afterwards.
    """

    path: str
    status: int = 500
    times: int = 1
    message: str = "injected fault"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    after: bool = False
    drop: bool = False
    proceed: bool = False


class Faults:
    """Decides what happens to each request that arrives; thread-safe."""

    def __init__(self) -> None:
        self.planned: list[Fault] = []
        self.arrived = 0
        self._lock = threading.Lock()
        self._dies_at: int | None = None
        self._when: When = "before"

    @property
    def dead(self) -> bool:
        return self._dies_at is not None and self.arrived >= self._dies_at

    def die_at(self, k: int, when: When) -> None:
        with self._lock:
            self._dies_at, self._when = self.arrived + k, when

    def revive(self) -> None:
        with self._lock:
            self._dies_at = None

    def strike(self, line: str) -> Fault | None:
        """Count a request ("METHOD /raw/path"); the fault that it meets, if any."""
        with self._lock:
            self.arrived += 1
            if self.dead:
                last_word = self.arrived == self._dies_at and self._when == "after"
                return Fault("", drop=True, after=last_word)
            for fault in self.planned:
                if fault.times and re.search(fault.path, line):
                    fault.times -= 1
                    return fault
        return None
