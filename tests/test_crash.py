"""Kill it anywhere: what comes out after a resume is what an uninterrupted run gives, bit for bit."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from small_run import outcome, small_recipe
from toy import write_toy

from svp_nlp import files
from svp_nlp.data import open_data
from svp_nlp.errors import Interrupted, RunError
from svp_nlp.experiment import run_recipe

CHUNKS = 4  # the sweep is cut into as many tests, so that workers can share it


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_fsync(monkeypatch):
    """A process that dies does not lose what it wrote; only a machine does. A fsync costs 20 ms here."""
    monkeypatch.setattr(files, "fsync", lambda path: None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The recipe, what an uninterrupted run gives, and how many durable writes it makes."""
    directory = tmp_path_factory.mktemp("reference")
    recipe = small_recipe(write_toy(directory / "toy"))
    open_data(recipe)  # fills the cache of the pool, which is not the run's
    before = files._writes
    run_recipe(recipe, directory / "run", stop_requested=lambda: False)
    expected = outcome(directory / "run")
    assert len(expected) == 8  # 2 selections, 2 sets of labels, 2 models, signals, metrics
    return recipe, expected, files._writes - before


def run_in_child(recipe, directory, at) -> int:
    """Run in a forked process that dies at its `at`-th durable write; returns its exit status."""
    child = os.fork()
    if child == 0:
        try:
            files._writes = 0
            os.environ["SVP_CRASH_AT"] = str(at)
            run_recipe(recipe, directory, stop_requested=lambda: False)
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_crash_at_any_write_changes_nothing(reference, tmp_path, no_fsync, chunk):
    recipe, expected, writes = reference
    assert writes > 25
    for at in range(1 + chunk, writes + 1, CHUNKS):
        directory = tmp_path / f"crash-{at}"
        assert run_in_child(recipe, directory, at) == 137, at
        run_recipe(recipe, directory, stop_requested=lambda: False)
        assert outcome(directory) == expected, at


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_full_disk_at_any_write_is_said_and_changes_nothing(reference, tmp_path, no_fsync, monkeypatch, chunk):
    recipe, expected, writes = reference
    for at in range(1 + chunk, writes + 1, CHUNKS):
        directory = tmp_path / f"full-{at}"
        monkeypatch.setattr(files, "_writes", 0)
        monkeypatch.setenv("SVP_ENOSPC_AT", str(at))
        with pytest.raises(RunError, match="No space left"):
            run_recipe(recipe, directory, stop_requested=lambda: False)
        monkeypatch.delenv("SVP_ENOSPC_AT")
        assert not list(directory.rglob(".tmp-*")), at
        run_recipe(recipe, directory, stop_requested=lambda: False)
        assert outcome(directory) == expected, at


def test_asked_to_stop_anywhere_it_stops_keeps_its_work_and_goes_on(reference, tmp_path, no_fsync):
    recipe, expected, _ = reference
    asked = 0
    for _ in range(60):  # each attempt gets a little further before it is asked to stop
        left = asked % 5 + 2

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        try:
            run_recipe(recipe, tmp_path / "run", stop_requested=stop)
            break
        except Interrupted as error:
            assert error.exit_code == 4
            asked += 1
    assert asked >= 5
    assert outcome(tmp_path / "run") == expected


def test_the_message_of_a_full_disk_names_the_cause_and_the_way_on(tmp_path, monkeypatch):
    recipe = small_recipe(write_toy(tmp_path / "toy"))
    open_data(recipe)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr(files, "fault_point", full)
    with pytest.raises(RunError, match=r"somewhere: No space left on device; what was finished is kept"):
        run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
