"""The label queue of a run: what is asked, what was answered, and what that comes to.

    run/labeling/project.json               classes, policies, guidelines: what those who label need to know
    run/labeling/requests/0001-train.jsonl  rows of a round; 0000-test.jsonl: rows of the test set
    run/labeling/answers.jsonl              the journal of all answers
    run/labeling/images/                    where rows are images

It needs neither the pool nor the recipe: a directory that was moved to another machine can be labelled there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from svp_nlp.errors import LabelError, RecipeError
from svp_nlp.files import read_json, write_json, write_text
from svp_nlp.labeling.answers import Answer, Journal
from svp_nlp.labeling.requests import Request, Row, read_requests, write_request
from svp_nlp.labeling.resolve import Policy, Resolution, RowAnswers, Status, resolve
from svp_nlp.run import STEP_FILE, disk_errors

DIRECTORY = "labeling"
AFTER_THE_END = (
    "the run is done and its target stays as it is; to learn from this, add a size to labeled_sizes and call `svp run` "
    "again (and svp label finish, if no more rows are wanted)"
)
_PROJECT_FILE = "project.json"
RECIPE_FILE = "recipe.yaml"  # with engine, stop and publish, which the one of the run leaves out
_FINISH_FILE = "finish.json"
_STOPPED_FILE = "stopped.json"
_SHOWN = 20


@dataclass(frozen=True)
class Project:
    """What those who label need to know; the same for all rounds.

    Attributes:
        labels: the classes of the recipe, in its order.
        new_classes: whether others may be given: `refuse` or `extend`.
        planned: labelled rows that the recipe wants in the end.
        guidelines: Markdown.
    """

    labels: tuple[str, ...]
    new_classes: Literal["refuse", "extend"] = "refuse"
    conflicts: Policy = "majority"
    answers_per_row: int = 1
    planned: int = 0
    modality: Literal["text", "image"] = "text"
    guidelines: str = ""
    name: str = ""


@dataclass(frozen=True)
class Counts:
    """How far a request is; rows, except `answers`."""

    requested: int
    labelled: int
    skipped: int
    flagged: int
    conflicts: int
    open: int

    @property
    def returned(self) -> int:
        return self.labelled + self.skipped + self.flagged


def is_asking(run_dir: Path) -> bool:
    """Whether people label for this run."""
    return (run_dir / DIRECTORY / _PROJECT_FILE).exists()


class LabelQueue:
    """The labelling of a run, for all who read or write it; `refresh` takes in what others have written."""

    def __init__(self, run_dir: Path, project: Project) -> None:
        self.run_dir = run_dir
        self.directory = run_dir / DIRECTORY
        self.project = project
        self.requests: list[Request] = []
        self.rows: dict[str, Row] = {}
        self.request_of: dict[str, Request] = {}
        self.journal = Journal(self.directory / "answers.jsonl")
        self.origins: set[tuple[str, str]] = set()  # (source, origin) of answers that came from elsewhere
        self._answers: dict[str, RowAnswers] = {}
        self._known: dict[str, None] = dict.fromkeys(project.labels)
        self._standing: Counter[str] = Counter()  # how often each class is said that is not of the recipe

    @classmethod
    def open(cls, run_dir: str | Path) -> LabelQueue:
        """The queue of a run.

        Raises:
            RecipeError: nothing of this run is labelled by people.
            RunError: a file is damaged.
        """
        run_dir = Path(run_dir)
        path = run_dir / DIRECTORY / _PROJECT_FILE
        if not is_asking(run_dir):
            what = "no rows were asked of people" if run_dir.is_dir() else "no such directory"
            raise RecipeError(
                f"{run_dir}: {what}; expected the run directory of a recipe with `oracle: {{kind: files, ...}}` after "
                "its first `svp run`"
            )
        values = read_json(path)
        queue = cls(run_dir, Project(**{**values, "labels": tuple(values["labels"])}))
        queue.refresh()
        return queue

    @classmethod
    def begin(cls, run_dir: Path, project: Project) -> LabelQueue:
        """The queue of a run, made where it is missing; what the recipe says now counts. For the main process."""
        path = run_dir / DIRECTORY / _PROJECT_FILE
        values = asdict(project) | {"labels": list(project.labels)}
        if not path.exists() or read_json(path) != values:
            with disk_errors(run_dir):
                write_json(path, values)
        queue = cls(run_dir, project)
        queue.refresh()
        return queue

    def keep_recipe(self, text: str) -> None:
        """Keep the recipe with which the run was last called, for the page: it calls it again."""
        path = self.directory / RECIPE_FILE
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with disk_errors(self.run_dir):
                write_text(path, text)

    def refresh(self) -> None:
        """Take in requests and answers that were added since."""
        known = {request.name for request in self.requests}
        for request in read_requests(self.directory / "requests", skip=known):
            self._take(request)
        for answer in self.journal.refresh():
            self._add(answer)

    def ask(self, request: Request) -> None:
        """Ask for a request's rows; one that was asked before stays as it was."""
        with disk_errors(self.run_dir):
            write_request(self.directory / "requests", request)
        self.refresh()

    def add(self, answers: Iterable[Answer]) -> None:
        """Check answers and write them to the journal; they are on disk when this returns.

        Raises:
            LabelError: a row that was not asked for, or a label that is not among the classes; nothing was written.
            RunError: the disk is full or fails; nothing was written.
        """
        with self.locked():
            self.append(answers)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else answers meanwhile; what they did before has been taken in."""
        before = len(self.journal.answers)
        with self.journal.locked():
            for answer in self.journal.answers[before:]:
                self._add(answer)
            yield

    def append(self, answers: Iterable[Answer]) -> None:
        """As `add`, under `locked`."""
        answers = list(answers)
        self.check(answers)
        before = len(self.journal.answers)
        self.journal.append(answers)
        for answer in self.journal.answers[before:]:
            self._add(answer)

    def check(self, answers: Sequence[Answer]) -> None:
        """Refuse what cannot be an answer here.

        Raises:
            LabelError: see `add`; lists all rows and labels that are wrong, up to a number.
        """
        rows = [answer.id for answer in answers if answer.id not in self.rows]
        if rows:
            more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
            raise LabelError(f"{self.run_dir}: rows that were not asked for: {', '.join(rows[:_SHOWN])}{more}")
        wrong = self.unknown_labels(answer.label for answer in answers if answer.label is not None)
        if wrong:
            from svp_nlp.columns import closest  # with numpy and pyarrow, half a second of `svp status`

            told = [f"{label!r}{closest(label, self.classes)}" for label in wrong[:_SHOWN]]
            known = ", ".join(map(repr, self.classes[:_SHOWN])) + (", ..." if len(self.classes) > _SHOWN else "")
            or_else = "" if self.project.new_classes == "extend" else ", or begin a run with oracle.new_classes: extend"
            raise LabelError(
                f"{self.run_dir}: labels that are not among the classes: {', '.join(told)}; expected {known}; correct "
                f"them{or_else}"
            )

    def unknown_labels(self, labels: Iterable[str]) -> list[str]:
        """Those that may not be given, each once: blank ones, and new ones or, where there may be new ones, those that
        differ from a class in upper and lower case only.
        """
        extend = self.project.new_classes == "extend"
        by_case = {name.casefold(): name for name in self.classes}
        wrong = []
        for label in dict.fromkeys(labels):
            is_new = label not in self._known
            if not label.strip() or (is_new and not (extend and by_case.setdefault(label.casefold(), label) == label)):
                wrong.append(label)
        return wrong

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the recipe, then those that appeared, in the order in which they did.

        One that nobody says any more, as a mistyped one that was taken back, is none.
        """
        own = len(self.project.labels) if self.project.new_classes == "extend" else len(self._known)
        return tuple(name for number, name in enumerate(self._known) if number < own or self._standing[name])

    def answers_of(self, id: str) -> RowAnswers | None:
        """What was said about a row."""
        return self._answers.get(id)

    def resolution(self, id: str) -> Resolution:
        """What the answers to a row come to."""
        return resolve(
            self._answers.get(id), policy=self.project.conflicts, answers_per_row=self.project.answers_per_row
        )

    def counts(self, request: Request) -> Counts:
        """How far a request is."""
        statuses: list[Status] = [self.resolution(row.id).status for row in request.rows]
        return Counts(
            requested=len(statuses),
            labelled=statuses.count("labelled"),
            skipped=statuses.count("skipped"),
            flagged=statuses.count("flagged"),
            conflicts=statuses.count("conflict"),
            open=statuses.count("open"),
        )

    @property
    def finish_requested(self) -> bool:
        """Somebody said that no more rows are to be asked for, and the recipe has not planned more since."""
        path = self.directory / _FINISH_FILE
        return path.exists() and int(read_json(path).get("planned", self.project.planned)) >= self.project.planned

    def request_finish(self, facts: Mapping[str, Any]) -> None:
        """Have the next `svp run` take what there is, ask for no more, and train the target.

        Raises:
            LabelError: there is nothing to train on, and a run that has ended so takes no label any more.
            RunError: the disk is full or fails.
        """
        self.refresh()
        rows = (row for request in self.requests if request.part == "train" for row in request.rows)
        has_seeds = (self.run_dir / "seeds" / STEP_FILE).exists()
        if not has_seeds and not any(self.resolution(row.id).status == "labelled" for row in rows):
            raise LabelError(f"{self.run_dir}: no row is labelled yet, so there is nothing to finish with; label some")
        with disk_errors(self.run_dir):
            write_json(self.directory / _FINISH_FILE, {**facts, "planned": self.project.planned})

    @property
    def stopped(self) -> str | None:
        """Why the recipe's `stop` asks for no more rows, and how to go on; None: it does not."""
        path = self.directory / _STOPPED_FILE
        return str(read_json(path)["reason"]) if path.exists() else None

    def note_stop(self, reason: str | None) -> None:
        """Keep what `stopped` tells."""
        if reason is None:
            (self.directory / _STOPPED_FILE).unlink(missing_ok=True)
        elif self.stopped != reason:
            with disk_errors(self.run_dir):
                write_json(self.directory / _STOPPED_FILE, {"reason": reason})

    def _take(self, request: Request) -> None:
        self.requests.append(request)
        self.requests.sort(key=lambda r: r.name)
        for row in request.rows:
            self.rows[row.id] = row
            self.request_of[row.id] = request

    def _add(self, answer: Answer) -> None:
        row = self._answers.setdefault(answer.id, RowAnswers())
        if self.project.new_classes == "extend":
            self._standing.subtract(row.labels)
        row.add(answer)
        if self.project.new_classes == "extend":
            self._standing.update(row.labels)
        if answer.label is not None:
            self._known.setdefault(answer.label)
        if answer.origin:
            self.origins.add((answer.source, answer.origin))
