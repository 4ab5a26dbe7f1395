"""Processes of a launch that speak through files; here each is a thread with its own view of the session."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svp_nlp.errors import EngineError, Interrupted, LabelError, RecipeError
from svp_nlp.ranks import SESSIONS, Launch, Ranks, current_launch, new_session, pack_error, unpack_error


def on_each(session: Path, world_size: int, work: Callable[[Ranks], Any], **options: Any) -> list[Any]:
    """What `work` returned or raised on each rank."""
    found: list[Any] = [None] * world_size

    def one(rank: int) -> None:
        try:
            with Ranks(session, Launch(rank, world_size), **options) as ranks:
                found[rank] = work(ranks)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return new_session(tmp_path)


def test_what_the_main_process_finds_reaches_all_and_is_found_once(session: Path) -> None:
    calls: list[int] = []

    def work(ranks: Ranks) -> Any:
        def find() -> dict[str, int]:
            calls.append(ranks.rank)
            return {"found": len(calls)}

        return [ranks.on_main("first", find), ranks.on_main("second", find)]

    assert on_each(session, 3, work) == [[{"found": 1}, {"found": 2}]] * 3
    assert calls == [0, 0]
    assert not session.exists()  # nothing is left of a session that ended well


def test_an_error_of_the_main_process_is_raised_on_all(session: Path) -> None:
    def work(ranks: Ranks) -> None:
        def fail() -> None:
            raise LabelError("label 7 is unknown")

        ranks.on_main("labels", fail)

    found = on_each(session, 2, work)
    assert [type(error) for error in found] == [LabelError, LabelError]
    assert [str(error) for error in found] == ["label 7 is unknown"] * 2


def test_a_rank_that_fails_alone_ends_the_others_with_its_name(session: Path) -> None:
    def work(ranks: Ranks) -> None:
        if ranks.rank == 1:
            raise ValueError("a disk fell over")
        ranks.wait_until(lambda: False)

    zero, one = on_each(session, 2, work)
    assert isinstance(zero, EngineError)
    assert str(zero) == "rank 1 failed: ValueError: a disk fell over"
    assert isinstance(one, ValueError)


def test_ranks_that_do_different_things_are_told_so(session: Path) -> None:
    first, other = on_each(session, 2, lambda ranks: ranks.on_main(f"what rank {ranks.rank} does", lambda: None))
    assert first is None
    assert "rank 1 waits for 'what rank 1 does', rank 0 did 'what rank 0 does'" in str(other)


def test_a_stop_of_one_rank_stops_those_that_wait(session: Path) -> None:
    def work(ranks: Ranks) -> None:
        if ranks.rank == 0:
            ranks.wait_until(lambda: False)
        assert ranks.stop_requested()
        raise Interrupted("stopped")

    asked = iter([True])
    found = on_each(session, 2, work, asked=lambda: next(asked, False))
    assert [type(error) for error in found] == [Interrupted, Interrupted]


def test_a_rank_that_waits_for_one_that_has_stopped_stops_too(session: Path) -> None:
    def work(ranks: Ranks) -> None:
        if ranks.rank == 0:
            (ranks.directory / "stop").touch()
            raise Interrupted("stopped")
        ranks.on_main("never done", lambda: None)

    assert [type(error) for error in on_each(session, 2, work)] == [Interrupted, Interrupted]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_each_number_is_claimed_by_exactly_one_rank(session: Path, world_size: int, count: int) -> None:
    numbers = list(range(0, 3 * count, 3))
    taken = on_each(session, world_size, lambda ranks: [list(ranks.claim(numbers)), list(ranks.claim(numbers))])
    for call in (0, 1):
        assert sorted(number for rank in taken for number in rank[call]) == numbers


def test_arrays_of_all_ranks_are_gathered_by_rank(session: Path) -> None:
    found = on_each(session, 3, lambda ranks: ranks.gather(np.full(ranks.rank, ranks.rank)))
    assert [part.tolist() for part in found[0]] == [[], [1], [2, 2]]
    assert found[1] == found[2] == []


def test_a_process_that_is_gone_is_noticed_and_named(session: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (session / "alive-1").write_text(f"3 {dead.pid} {socket.gethostname()}")
    match = rf"rank 1 failed: process {dead.pid} on .* has died; .*run the same command"
    with pytest.raises(EngineError, match=match), Ranks(session, Launch(0, 2)) as ranks:
        ranks.wait_until(lambda: False)


def test_a_process_that_is_silent_is_noticed_and_named(session: Path) -> None:
    (session / "alive-1").write_text("3 77 another-machine")
    match = "process 77 on another-machine has not been heard from for 1 s"
    with pytest.raises(EngineError, match=match), Ranks(session, Launch(0, 2), stall_s=1.0) as ranks:
        ranks.wait_until(lambda: False)


WATCHED = """
import sys, threading
from pathlib import Path
from svp_nlp import ranks
ranks._GRACE_S = 0.5
with ranks.Ranks(Path(sys.argv[1]), ranks.Launch(0, 2), stall_s=1.0):
    threading.Event().wait()  # as a collective call does
"""


def test_a_process_that_hangs_is_ended_when_another_has_failed(session: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(session)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "error: [rank 0] rank 1 failed: process ? on ? has not been heard from" in done.stderr


def test_a_rank_that_was_stopped_because_another_died_says_so(session: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (session / "alive-1").write_text(f"3 {dead.pid} {socket.gethostname()}")
    with pytest.raises(EngineError, match="rank 1 failed"), Ranks(session, Launch(0, 2)):
        raise Interrupted("stopped before scoring")  # what the launcher's SIGTERM leads to


def test_a_rank_whose_session_was_taken_over_stops_waiting(session: Path) -> None:
    with pytest.raises(EngineError, match="another launch has taken over"), Ranks(session, Launch(1, 2)) as ranks:
        shutil.rmtree(session)
        ranks.wait_until(lambda: False)


def test_a_stop_reaches_a_rank_that_only_waits(session: Path) -> None:
    def work(ranks: Ranks) -> None:
        while ranks.is_main and not ranks.stop_requested():
            threading.Event().wait(0.01)
        ranks.on_main("work", lambda: None)
        raise Interrupted("stopped")

    asked = {0: False, 1: True}
    found: list[Any] = [None, None]

    def one(rank: int) -> None:
        try:
            with Ranks(session, Launch(rank, 2), asked=lambda: asked[rank]) as ranks:
                work(ranks)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [type(error) for error in found] == [Interrupted, Interrupted]


def test_errors_for_other_processes_hold_no_token() -> None:
    assert "hf_***" in pack_error(ValueError("hf_" + "a" * 30))["message"]


def test_a_new_session_clears_away_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / SESSIONS / "old").mkdir(parents=True)
    assert list((tmp_path / SESSIONS).iterdir()) != [session := new_session(tmp_path)]
    assert list((tmp_path / SESSIONS).iterdir()) == [session]


def test_errors_cross_process_borders_with_their_type() -> None:
    again = unpack_error(pack_error(LabelError("x")))
    assert (type(again), str(again)) == (LabelError, "x")
    foreign = unpack_error(pack_error(KeyError("y")))
    assert (type(foreign), str(foreign)) == (EngineError, "KeyError: 'y'")


def test_rank_and_world_size_come_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert current_launch() == Launch(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    assert current_launch() == Launch(2, 3)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(RecipeError, match="RANK=3 and WORLD_SIZE=3"):
        current_launch()
