"""A loop with people, killed, short of disk, moved, or under a clock that jumps: the loop that it would have been."""

from __future__ import annotations

import csv
import datetime
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_labeler import svp
from small_run import FASTTEXT, outcome
from test_people import TRUTH, answer, found, label_all, open_rows, people_recipe, play, run, simulated
from toy import write_toy

from svp_nlp import files
from svp_nlp import run as runs
from svp_nlp.errors import RunError, WaitingForLabels
from svp_nlp.labeling import session as sessions
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.session import Session
from svp_nlp.labels import LabelSet


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A process that dies loses nothing that it wrote; and a report without its picture is as good here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "fsync", lambda path: None)
        patch.setattr("svp_nlp.report.learning_curve", lambda summary: b"a picture")
        yield


@dataclass(frozen=True)
class Moment:
    """A run directory on which `svp run` is about to be called, and what that gives.

    Attributes:
        journal: what people have said by then.
        asked: the requests, as they are afterwards.
        waits: the run ends with code 3.
    """

    name: str
    directory: Path
    expected: dict[str, Any]
    journal: bytes
    asked: dict[str, bytes]
    waits: bool


def journal_of(run_dir: Path) -> bytes:
    path = run_dir / "labeling/answers.jsonl"
    return path.read_bytes() if path.exists() else b""


def asked_in(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "labeling/requests").glob("*.jsonl")}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    pool = write_toy(tmp_path_factory.mktemp("faults") / "toy")
    return people_recipe(pool, test=None, target=FASTTEXT, labeled_sizes=[40], oracle={"test_rows": 10})


def begin(queue: LabelQueue, rows: list) -> None:
    queue.add([answer(rows[0], kind="skip"), *(answer(row, TRUTH[row.text]) for row in rows[1:5])])


def label_round(queue: LabelQueue, rows: list) -> None:
    label_all(queue, [row for row in rows if queue.request_of[row.id].part == "train"])


def finish_early(queue: LabelQueue, rows: list) -> None:
    label_round(queue, rows[:-5])
    queue.request_finish({"by": "ann"})


@pytest.fixture(scope="module")
def moments(recipe, tmp_path_factory) -> list[Moment]:
    """A whole loop, cut where people have done something."""
    folder, said = tmp_path_factory.mktemp("moments"), None
    steps = {"first": None, "some": begin, "round 0": label_round, "early end": finish_early, "test set": label_all}
    moments = []
    for name, step in steps.items():
        if step is not None:
            step(*open_rows(folder / "run"))
        before = folder / name / "run"
        if (folder / "run").exists():
            shutil.copytree(folder / "run", before)
        said = journal_of(folder / "run")
        waits = goes_on(recipe, folder / "run")
        moments.append(Moment(name, before, outcome(folder / "run"), said, asked_in(folder / "run"), waits))
    assert [moment.waits for moment in moments] == [True] * 4 + [False]
    assert len(moments[-1].expected) == 9
    return moments


def goes_on(recipe, run_dir: Path) -> bool:
    """Call `svp run`; tells whether it waits for people."""
    try:
        run(recipe, run_dir)
    except WaitingForLabels:
        return True
    return False


def sweep(recipe, moments: list[Moment], folder: Path, fails: Callable[[Path, int], bool]) -> int:
    """Let the n-th write of each moment fail, for every n, and go on as if nothing had been; returns how many did."""
    swept = 0
    for moment in moments:
        for at in itertools.count(1):
            directory, where = folder / f"{moment.name}-{at}/run", f"{moment.name}, write {at}"
            directory.parent.mkdir()
            if moment.directory.exists():
                shutil.copytree(moment.directory, directory)
            failed = fails(directory, at)
            assert goes_on(recipe, directory) == moment.waits, where
            assert outcome(directory) == moment.expected, where
            assert asked_in(directory) == moment.asked, where
            assert journal_of(directory) == moment.journal, where
            assert not list(directory.rglob(".tmp-*")), where
            if not failed:
                break
            swept += 1
            shutil.rmtree(directory.parent)
    return swept


def test_a_loop_that_is_cut_anywhere_has_each_label_once(moments):
    """What the sweeps compare with."""
    run_dir = moments[-1].directory.parents[1] / "run"
    [last] = run_dir.glob("seed-0/proxy-margin/selected")
    queue = LabelQueue.open(run_dir)
    labels = LabelSet.load(run_dir / "seed-0/proxy-margin/round-001/labels/labels.parquet")
    labels = LabelSet.load(run_dir / "seed-0/start/labels/labels.parquet").updated(labels)
    given = dict(zip(labels.table["id"].to_pylist(), labels.table["label"].to_pylist(), strict=True))
    assert last.is_dir() and len(given) == len(labels) == 35  # 19 and a skip, then 16 of 21
    assert all(given[id] == TRUTH[queue.rows[id].text] for id in given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_run_that_is_killed_at_any_write_goes_on_as_if_it_had_not_been(recipe, moments, tmp_path):
    def killed(directory: Path, at: int) -> bool:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                files._writes = 0
                os.environ["SVP_CRASH_AT"] = str(at)
                code = 3 if goes_on(recipe, directory) else 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 3, 137)
        return code == 137

    assert sweep(recipe, moments, tmp_path, killed) > 50


@pytest.mark.slow
def test_a_full_disk_at_any_write_is_said_and_the_run_goes_on_when_there_is_room(
    recipe, moments, tmp_path, monkeypatch
):
    def full(directory: Path, at: int) -> bool:
        monkeypatch.setattr(files, "_writes", 0)
        monkeypatch.setenv("SVP_ENOSPC_AT", str(at))
        try:
            goes_on(recipe, directory)
        except RunError as error:
            assert "No space left" in str(error) and "run the same command again" in str(error)
            return True
        finally:
            monkeypatch.delenv("SVP_ENOSPC_AT")
        return False

    assert sweep(recipe, moments, tmp_path, full) > 50


def jumping() -> Iterator[str]:
    """What a clock says that somebody sets: forwards, back, to the same second again."""
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    for hours in itertools.cycle([0, 30_000, 5, 5, -300_000, 4]):
        yield (start + datetime.timedelta(hours=hours)).isoformat(timespec="seconds")


def test_a_clock_that_jumps_changes_no_label_and_no_choice(tmp_path, monkeypatch):
    pool, clock = write_toy(tmp_path / "toy"), jumping()
    run(simulated(pool, target=FASTTEXT), tmp_path / "column")
    for module in (sessions, runs):
        monkeypatch.setattr(module, "now", lambda: next(clock))
    names = itertools.count()

    def minds_change(queue: LabelQueue, rows: list) -> None:
        """Half on the page, each answer taken back once and given again; half in a file that is imported twice."""
        session = Session(queue, clock=lambda: float(random.Random(next(names)).randint(-10_000, 10_000)))

        def say(row, label: str) -> None:
            session.answer("ann", "1", id=row.id, kind="label", label=label, note="", origin=f"1.{next(names)}")

        for row in rows[::2]:
            wrong = next(name for name in queue.classes if name != TRUTH[row.text])
            say(row, wrong)
            assert session.undo("ann", "1", f"1.{next(names)}") == row
            say(row, TRUTH[row.text])
        sheet = tmp_path / "sheet.csv"
        with sheet.open("w", newline="") as file:
            lines = [(row.id, TRUTH[row.text], "ann", next(clock)) for row in rows[1::2]]
            csv.writer(file).writerows([("svp_id", "label", "annotator", "timestamp"), *lines])
        told = [svp("label", "import", queue.run_dir, sheet, "--format", "quiet") for _ in range(2)]
        assert told == [(0, f"{len(lines)}\n"), (0, "0\n")]
        assert svp("status", queue.run_dir)[0] == 0

    play(people_recipe(pool, target=FASTTEXT), tmp_path / "people", label=minds_change)
    assert found(tmp_path / "people") == found(tmp_path / "column")


def labelled_elsewhere(run_dir: Path) -> None:
    """See how far a run is and label what it asks for, half on the page's session, half in a file."""
    assert svp("status", run_dir, "--format", "quiet") == (0, "waiting\n")
    session = Session(LabelQueue.open(run_dir))
    for _ in range(10):
        row = session.next("ann", "1")
        session.answer("ann", "1", id=row.id, kind="label", label=TRUTH[row.text], note="", origin=f"1.{row.id}")
    assert svp("label", "export", run_dir, "--to", "csv", "--output", "sheet.csv", "--overwrite")[0] == 0
    with Path("sheet.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    with Path("sheet.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("svp_id", "label"), *((row["svp_id"], TRUTH[row["text"]]) for row in rows)])
    assert svp("label", "import", run_dir, "sheet.csv", "--format", "quiet") == (0, f"{len(rows)}\n")


@pytest.mark.parametrize("is_relative", [True, False], ids=["relative", "absolute"])
def test_a_run_that_is_moved_is_labelled_there_and_goes_on_where_its_pool_is(tmp_path, monkeypatch, is_relative):
    home, away = tmp_path / "home", tmp_path / "away"
    away.mkdir()
    pool = write_toy(home / "toy")
    recipe = people_recipe(Path("toy") if is_relative else pool, target=FASTTEXT, labeled_sizes=[40])
    monkeypatch.chdir(home)
    play(recipe, home / "runs/never moved")
    with pytest.raises(WaitingForLabels):
        run(recipe, home / "runs/it")
    (home / "runs/it").rename(away / "it")
    pool.rename(away / "toy")
    monkeypatch.chdir(away)
    labelled_elsewhere(Path("it"))
    command = ("run", "it/recipe.yaml", "--run-dir", "it", "--format", "json")
    if not is_relative:
        code, told = svp(*command)
        assert code == 2 and f"{pool}: no such file or folder" in told
        (away / "toy").rename(pool)
    assert svp(*command)[0] == 3
    labelled_elsewhere(Path("it"))
    assert svp(*command)[0] == 0
    assert outcome(away / "it") == outcome(home / "runs/never moved")
