"""One suite over every engine: the same scores to the last bit, whoever works, dies or is asked to stop.

Ray has the same cases in tests/ray, processes of one launch in tests/distributed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import signal
import socket
import threading
from multiprocessing.connection import Connection

import pytest
from engine_cases import KINDS, NEVER, made_once, outcome, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.engines import LocalEngine, make_engine, processes
from svp_nlp.engines.processes import ProcessesEngine, ProcessesEngineSpec
from svp_nlp.errors import EngineError, Interrupted, ModelError, PoolError
from svp_nlp.pool import Shard


def workers(count: int) -> ProcessesEngine:
    return make_engine(ProcessesEngineSpec(workers=count))


class Counting(LocalEngine):
    """One process that remembers how much it was given."""

    def map_shards(self, task, shards, *, stop_requested):
        self.shards = len(shards)
        super().map_shards(task, shards, stop_requested=stop_requested)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return made_once(tmp_path_factory.mktemp("cases"))


@pytest.fixture
def started(monkeypatch):
    """The workers that have been started, in order."""
    found, start = [], processes._started

    @contextlib.contextmanager
    def spy(*args):
        with start(*args) as worker:
            found.append(worker)
            yield worker

    monkeypatch.setattr(processes, "_started", spy)
    return found


@pytest.mark.slow  # for each worker torch and transformers are imported
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_selection_and_the_scores_of_one(cases, tmp_path, kind, started):
    case = cases(kind)
    assert case.expected["tied"] > 5
    engine = workers(2)
    engine.check()
    assert outcome(case, case.unscored(tmp_path / "run"), engine) == case.expected
    assert len(started) == 2  # the head of an embedding is scored without workers
    assert all(worker.process.returncode == 0 for worker in started)


def test_kill_9_of_a_worker_costs_nothing_but_its_shard(cases, tmp_path, started, caplog):
    case, run_dir = cases("fasttext"), cases("fasttext").unscored(tmp_path / "run")
    killed = []

    def kill_one_that_works() -> bool:
        working = [worker for worker in started if worker.busy]
        if stored(run_dir) >= 2 and working and not killed:
            killed.append(working[0].process.pid)
            os.kill(killed[0], signal.SIGSTOP)  # it cannot answer before it dies
            os.kill(killed[0], signal.SIGKILL)
        return False

    with caplog.at_level(logging.WARNING):
        assert outcome(case, run_dir, workers(2), stop_requested=kill_one_that_works) == case.expected
    assert f"(pid {killed[0]}) was ended by SIGKILL (out of memory?)" in caplog.text


def test_when_all_workers_die_what_they_finished_is_kept_and_scored_no_more(cases, tmp_path, monkeypatch, caplog):
    case, run_dir = cases("fasttext"), cases("fasttext").unscored(tmp_path / "run")
    monkeypatch.setenv("SVP_CRASH_AT", "2")  # each of them dies at its second write
    monkeypatch.setattr("svp_nlp.files._writes", 1_000)  # but not this process
    with pytest.raises(EngineError, match=r"all 2 workers have died; 6 of 8 shards are left, the next rows"):
        outcome(case, run_dir, workers(2))
    assert "ended with exit code 137 over rows" in caplog.text
    monkeypatch.delenv("SVP_CRASH_AT")
    assert stored(run_dir) == 2
    engine = Counting()
    assert outcome(case, run_dir, engine) == case.expected
    assert engine.shards == 6


def test_asked_to_stop_the_workers_finish_their_shard_and_another_engine_goes_on(cases, tmp_path):
    case, run_dir = cases("fasttext"), cases("fasttext").unscored(tmp_path / "run")
    with pytest.raises(Interrupted, match="stopped before scoring rows"):
        outcome(case, run_dir, workers(2), stop_requested=lambda: stored(run_dir) >= 3)
    assert 3 <= stored(run_dir) < 8
    assert outcome(case, run_dir, LocalEngine()) == case.expected


def test_no_shard_one_shard_and_more_workers_than_shards(cases, tmp_path, started):
    case = cases("fasttext")
    task = case.task(tmp_path / "signals")
    shards = task.shards()
    engine = workers(5)
    engine.map_shards(task, [], stop_requested=NEVER)
    assert not started
    engine.map_shards(task, shards[3:4], stop_requested=NEVER)
    assert len(started) == 1
    assert task.store().missing(["margin"], shards) == [*shards[:3], *shards[4:]]
    engine.map_shards(task, shards[-2:], stop_requested=NEVER)
    assert len(started) == 3


def test_an_error_in_a_worker_is_raised_here_as_it_was_there(cases, tmp_path, monkeypatch, started):
    case = cases("fasttext")
    task = case.task(tmp_path / "signals")
    shards = task.shards()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        empty = dataclasses.replace(task, predictor_dir=tmp_path)
        workers(2).map_shards(empty, shards, stop_requested=NEVER)
    with pytest.raises(PoolError, match="200 rows here, the run began with 201"):
        workers(1).map_shards(dataclasses.replace(task, num_rows=201), shards, stop_requested=NEVER)
    with pytest.raises(EngineError, match=r"a worker failed at rows 0 to 28: ValueError"):
        unknown = dataclasses.replace(task, keep=("no_such_signal",))
        workers(1).map_shards(unknown, shards, stop_requested=NEVER)
    monkeypatch.setenv("SVP_ENOSPC_AT", "1")
    with pytest.raises(OSError, match="No space left") as caught:
        workers(1).map_shards(task, shards, stop_requested=NEVER)
    assert caught.value.errno == errno.ENOSPC
    assert all(worker.process.poll() is not None for worker in started)


class _Ended:
    """As much of a process as is asked of one that has died."""

    pid, returncode = 4242, -signal.SIGSEGV

    def wait(self, timeout: float) -> int:
        return self.returncode


def pretend_worker(number: int, deadly: set[int], done: list[int]):
    """A worker in a thread: it dies over a shard that is deadly, as a process does: its end of the pair closes."""
    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())

    def work() -> None:
        with theirs, contextlib.suppress(EOFError, OSError):
            theirs.send(("ready", None))
            while (shard := theirs.recv()).index not in deadly:
                done.append(shard.index)
                theirs.send(("done", 0.0))

    threading.Thread(target=work, daemon=True).start()
    return processes._Worker(number, _Ended(), ours)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 4),
    num_shards=st.integers(1, 9),
    deadly=st.sets(st.integers(0, 8), max_size=2),
)
def test_every_shard_is_scored_once_or_the_deadly_rows_are_named(count, num_shards, deadly):
    shards, done = [Shard(i, 10 * i, 10 * i + 10) for i in range(num_shards)], []
    crew = [pretend_worker(number, deadly, done) for number in range(count)]
    deadly_here = deadly & set(range(num_shards))
    try:
        if not deadly_here:
            processes._share_out(crew, shards, stop_requested=NEVER)
            assert sorted(done) == list(range(num_shards))
            return
        with pytest.raises(EngineError) as caught:
            processes._share_out(crew, shards, stop_requested=NEVER)
    finally:
        for worker in crew:
            worker.connection.close()
    assert len(done) == len(set(done))
    assert not set(done) & deadly
    message = str(caught.value)
    named = [f"rows {10 * i} to {10 * i + 10}" for i in deadly_here]
    assert ("as another one did before" in message and any(rows in message for rows in named)) or (
        f"all {count} workers have died" in message
    )


def test_a_worker_is_no_rank_of_its_parents_launch_and_shares_the_processors(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("SVP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(processes, "processors", lambda: 8)
    environments = [processes._environment(number, 3) for number in (1, 2, 3)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["4", "7", "4"]
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"} & environments[0].keys()
    assert environments[0]["OMP_NUM_THREADS"] == "3"
    assert environments[0]["SVP_NUM_THREADS"] == "2"
