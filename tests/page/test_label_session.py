"""Who gets which row: nobody's work is done twice, nothing is lost, and nothing is in nobody's hands for ever."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_runs import CLASSES, answer, ask, make_run, said

from svp_nlp import files
from svp_nlp.errors import LabelError
from svp_nlp.labeling import answers as journals
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.session import LEASE_S, AnsweredAlready, Session


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(tmp_path, clock):
    def make(*texts: str, **project) -> Session:
        return Session(make_run(tmp_path / "run", texts or ("a", "b", "c"), **project), clock=clock)

    return make


_origins = iter(range(10**9))


def give(session: Session, annotator: str, tab: str, label: str = "music", *, kind: str = "label", origin: str = ""):
    row = session.next(annotator, tab)
    assert row is not None
    origin = origin or f"{tab}.{next(_origins)}"
    session.answer(
        annotator, tab, id=row.id, kind=kind, label=label if kind == "label" else None, note="", origin=origin
    )
    return row.id


def id_of(session: Session, annotator: str, tab: str) -> str | None:
    row = session.next(annotator, tab)
    return None if row is None else row.id


def test_a_tab_keeps_its_row_until_it_is_answered(start):
    session = start()
    assert [id_of(session, "ann", "1") for _ in range(3)] == ["row-0"] * 3
    give(session, "ann", "1")
    assert id_of(session, "ann", "1") == "row-1"


def test_two_annotators_and_two_tabs_have_different_rows_while_there_are_some(start):
    session = start()
    assert [id_of(session, *who) for who in [("ann", "1"), ("ben", "2"), ("ann", "3")]] == ["row-0", "row-1", "row-2"]
    assert id_of(session, "cem", "4") is None
    assert session.why_empty == "others"


def test_what_is_left_in_a_closed_tab_of_the_same_person_can_be_had_and_is_answered_once(start, clock):
    session = start("a")
    assert id_of(session, "ann", "1") == "row-0" and id_of(session, "ann", "2") is None
    clock.now += 31
    assert id_of(session, "ann", "2") == "row-0"
    give(session, "ann", "1")
    with pytest.raises(AnsweredAlready, match="another tab"):
        session.answer("ann", "2", id="row-0", kind="label", label="music", note="", origin="2.x")
    assert len(said(session.queue.run_dir)) == 1


def test_a_row_that_nobody_answers_goes_to_somebody_else_when_its_time_is_over(start, clock):
    session = start("a")
    assert id_of(session, "ann", "1") == "row-0"
    clock.now += LEASE_S - 1
    assert id_of(session, "ben", "2") is None
    session.hear("ann", "1")  # her page is still open
    clock.now += LEASE_S - 1
    assert id_of(session, "ben", "2") is None
    clock.now += 2
    assert id_of(session, "ben", "2") == "row-0"
    # What the first says late is kept all the same.
    session.answer("ann", "1", id="row-0", kind="label", label="music", note="", origin="1.x")
    assert session.is_full


def test_a_screen_that_was_left_moves_on_when_somebody_else_has_answered_its_row(start, clock):
    session = start("one", "two")
    id = id_of(session, "ann", "1")
    assert not session.is_answered(id, "ann")
    clock.now += 10 * LEASE_S
    assert id_of(session, "bob", "2") == id
    give(session, "bob", "2")
    assert session.is_answered(id, "ann")
    session.undo("bob", "2", "2.undo")
    assert not session.is_answered(id, "ann")


def test_a_new_class_that_is_taken_back_is_none_any_more(start):
    session = start("one", "two", new_classes="extend")
    for label, taken_back in (("musci", True), ("jazz", False)):
        give(session, "ann", "1", label)
        assert session.queue.classes[-1] == label
        if taken_back:
            session.undo("ann", "1", f"1.undo {label}")
    assert "musci" not in session.queue.classes
    assert LabelQueue.open(session.queue.run_dir).classes == session.queue.classes


def test_a_row_is_handed_to_as_many_as_must_answer_it(start):
    session = start("a", answers_per_row=2)
    assert id_of(session, "ann", "1") == id_of(session, "ben", "2") == "row-0"
    assert id_of(session, "cem", "3") is None
    give(session, "ann", "1")
    assert id_of(session, "cem", "3") is None
    assert not session.is_full
    give(session, "ben", "2")
    assert session.is_full


def test_a_tie_of_a_majority_gets_a_third_person_and_one_that_waits_for_a_decision_does_not(start, tmp_path):
    session = start("a", answers_per_row=2)
    give(session, "ann", "1", "music")
    give(session, "ben", "2", "weather")
    assert id_of(session, "ann", "1") is None and id_of(session, "cem", "3") == "row-0"
    assert id_of(session, "dan", "4") is None, "one more is enough"
    give(session, "cem", "3", "music")
    assert session.queue.resolution("row-0").label == "music" and session.is_full

    strict = Session(make_run(tmp_path / "strict", ["a"], answers_per_row=2, conflicts="adjudicate"))
    give(strict, "ann", "1", "music")
    give(strict, "ben", "2", "weather")
    assert id_of(strict, "cem", "3") is None
    assert strict.why_empty == "conflicts" and not strict.is_full


def test_an_answer_that_is_sent_again_is_written_once_also_by_a_server_that_was_started_anew(start):
    session = start()
    give(session, "ann", "1", origin="1.same")
    again = Session(LabelQueue.open(session.queue.run_dir))
    for one in (session, again):
        one.answer("ann", "1", id="row-0", kind="label", label="music", note="", origin="1.same")
    assert said(session.queue.run_dir) == [("ann", "label", "music", "row-0")]
    with pytest.raises(LabelError, match="the name of another one"):
        session.answer("ann", "1", id="row-1", kind="label", label="music", note="", origin="1.same")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("at", range(1, 5))
def test_a_server_that_dies_at_any_write_loses_nothing_and_takes_nothing_twice(start, at):
    run = start("a", "b", "c", "d").queue.run_dir

    def label_all():
        session = Session(LabelQueue.open(run))
        while (row := session.next("ann", "1")) is not None:
            # The page sends what was not acknowledged again, by the same name.
            give(session, "ann", "1", CLASSES[row.position], origin=f"1.{row.id}")

    child = os.fork()
    if child == 0:
        files._writes = 0
        os.environ["SVP_CRASH_AT"] = str(at)
        label_all()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    with (run / "labeling/answers.jsonl").open("ab") as file:
        file.write(b'{"id": "row-')  # it may die in the middle of a line
    label_all()
    assert said(run) == [("ann", "label", CLASSES[row], f"row-{row}") for row in range(4)]


def test_undo_goes_back_answer_by_answer_and_takes_each_back_also_after_a_restart(start):
    session = start()
    for label in ("music", "weather"):
        give(session, "ann", "1", label)
    session = Session(LabelQueue.open(session.queue.run_dir))
    assert session.undo("ann", "1", "1.u1").id == "row-1"
    assert session.undo("ann", "1", "1.u1").id == "row-1", "the page did not hear that it was done"
    assert id_of(session, "ann", "1") == "row-1"
    assert session.undo("ann", "1", "1.u2").id == "row-0"
    assert session.undo("ann", "1", "1.u3") is None
    assert [kind for _, kind, _, _ in said(session.queue.run_dir)] == ["label", "label", "retract", "retract"]
    assert session.queue.resolution("row-0").status == session.queue.resolution("row-1").status == "open"


def test_undo_takes_back_what_was_answered_in_that_tab_and_nothing_of_others(start):
    session = start()
    mine = give(session, "ann", "1")
    give(session, "ann", "2")
    give(session, "ben", "3")
    assert session.undo("ann", "1", "1.u").id == mine


def test_undo_does_not_touch_what_came_from_a_file_or_was_decided(start):
    session = start()
    session.queue.add([answer("row-0", "music")])
    give(session, "ann", "1")
    session.queue.add([answer("row-1", "weather", "boss", kind="decision", source="review")])
    session.refresh()
    assert session.undo("ann", "1", "1.u") is None


def test_rows_of_a_new_round_and_answers_from_elsewhere_are_taken_in(start):
    session = start("a")
    give(session, "ann", "1")
    assert session.is_full and id_of(session, "ann", "1") is None
    other = LabelQueue.open(session.queue.run_dir)
    ask(other, ["d", "e"], round=2)
    assert id_of(session, "ann", "1") == "row-1"
    other.add([answer("row-1", "music", "ann")])
    assert id_of(session, "ann", "1") == "row-2"
    assert session.is_answered("row-1", "ann") and not session.is_answered("row-2", "ann")


def test_pace_is_of_work_and_not_of_breaks(start, clock):
    session = start(*map(str, range(10)))
    for gap in (0, 4, 4, 3_600, 6):
        clock.now += gap
        give(session, "ann", "1")
    found = session.progress("ann", session.next("ann", "1"))
    assert found["seconds_per_answer"] == 4 and found["seconds_left"] == 5 * 4
    session.hear("ben")
    found = session.progress("ann", session.next("ann", "1"))
    assert found["others"] == ["ben"] and found["seconds_left"] == 5 * 4 / 2
    clock.now += 600
    assert session.progress("ann", session.next("ann", "1"))["others"] == []


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_people_do_the_books_are_what_a_count_from_the_start_gives(data, tmp_path_factory):
    directory: Path = tmp_path_factory.mktemp("run")
    per_row = data.draw(st.integers(1, 3))
    session = Session(make_run(directory / "run", list("abcd"), answers_per_row=per_row), clock=(clock := Clock()))
    people = [("ann", "1"), ("ben", "2"), ("ann", "3"), ("cem", "4")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals.os, "fsync", lambda descriptor: None)
        for step in range(data.draw(st.integers(1, 25))):
            who, tab = data.draw(st.sampled_from(people))
            what = data.draw(st.sampled_from(["label", "label", "skip", "flag", "undo", "wait", "elsewhere"]))
            if what == "wait":
                clock.now += 200
            elif what == "undo":
                session.undo(who, tab, f"{tab}.{step}")
            elif what == "elsewhere":
                free = [id for id in session.queue.rows if not session.is_answered(id, "dan")]
                if free:
                    session.queue.add([answer(free[0], "music", "dan")])
            elif session.next(who, tab) is not None:
                give(session, who, tab, data.draw(st.sampled_from(CLASSES)), kind=what, origin=f"{tab}.{step}")
        session.refresh()
    queue = LabelQueue.open(session.queue.run_dir)
    statuses = Counter(queue.resolution(id).status for id in queue.rows)
    assert +session._counts["0001-train"] == statuses
    assert session.is_full == (not statuses["open"] and not statuses["conflict"])
