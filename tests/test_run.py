"""The run directory: steps happen once, changes are refused, one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from svp_nlp.errors import Interrupted, RunError
from svp_nlp.recipe_yaml import differences
from svp_nlp.run import open_run, stop_on_signals


def opened(path, recipe=None, stop=lambda: False):
    return open_run(
        path, recipe=recipe or {"a": {"b": 1}}, recipe_text="a: 1", differences=differences, stop_requested=stop
    )


def test_a_step_is_done_once_and_its_output_is_kept(tmp_path):
    calls = []

    def do(path):
        calls.append(path)
        (path / "file").write_text("content")
        return {"value": (1, 2), "seconds": 12.5}

    for _ in range(2):
        with opened(tmp_path) as run:
            step = run.step("seed-0/x", {"inputs": (1,)}, do)
    assert len(calls) == 1
    assert step.skipped
    assert step.seconds == 12.5
    assert step.output == {"value": [1, 2]}


def test_a_step_with_other_inputs_says_which_input_changed(tmp_path):
    with opened(tmp_path) as run:
        run.step("x", {"seed": 0, "same": 1}, lambda path: {})
        with pytest.raises(RunError, match=r"seed = 0, now it is 1.*delete"):
            run.step("x", {"seed": 1, "same": 1}, lambda path: {})


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_step_whose_file_was_damaged_is_done_again(tmp_path, damage, caplog):
    def do(path):
        (path / "file").write_bytes(b"0123456789")
        return {}

    with opened(tmp_path) as run:
        run.step("x", {}, do)
    file = tmp_path / "x" / "file"
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(b"01234" if damage == "truncate" else b"0123456788")
    with opened(tmp_path) as run:
        assert not run.step("x", {}, do).skipped
    assert file.read_bytes() == b"0123456789"
    assert "done again" in caplog.text


def test_a_step_that_fails_is_not_finished(tmp_path):
    def fail(path):
        (path / "part").write_text("half")
        raise ValueError("broken")

    with opened(tmp_path) as run:
        with pytest.raises(ValueError, match="broken"):
            run.step("x", {}, fail)
        assert not run.step("x", {}, lambda path: {}).skipped


def test_another_recipe_on_the_same_directory_is_refused_with_the_key(tmp_path):
    with opened(tmp_path, {"proxy": {"epochs": 5}}):
        pass
    with pytest.raises(RunError, match=r"proxy\.epochs: 5 -> 6"), opened(tmp_path, {"proxy": {"epochs": 6}}):
        pass


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not a run directory"), opened(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_process_is_told_who_holds_the_directory(tmp_path):
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from svp_nlp.errors import RunError
        from svp_nlp.run import open_run
        try:
            with open_run(Path(sys.argv[1]), recipe={"a": {"b": 1}}, recipe_text="", differences=lambda a, b: [],
                          stop_requested=lambda: False):
                print("entered")
        except RunError as error:
            print(error)
    """)
    with opened(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"in use by process {os.getpid()}" in done.stdout
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "entered"


def test_sigterm_stops_before_the_next_step_and_handlers_are_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop, opened(tmp_path, stop=stop) as run:
        run.step("one", {}, lambda path: {})
        os.kill(os.getpid(), signal.SIGTERM)
        run.step("one", {}, lambda path: {})  # finished steps are still read
        with pytest.raises(Interrupted, match="stopped before two"):
            run.step("two", {}, lambda path: {})
    assert signal.getsignal(signal.SIGTERM) is before


def test_leftovers_of_a_crash_are_removed_and_upgrades_are_said(tmp_path, caplog):
    with opened(tmp_path):
        pass
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / ".tmp-1234-x").write_text("half")
    environment = json.loads((tmp_path / "environment.json").read_text())
    environment["versions"]["numpy"] = "0.1"
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    with opened(tmp_path):
        pass
    assert list((tmp_path / "seed-0").iterdir()) == []
    assert "numpy 0.1 ->" in caplog.text


def test_a_directory_that_cannot_be_made_or_is_a_file_is_refused_before_work(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="with --run-dir") as caught, opened(path):
            pass
        assert caught.value.exit_code == 2
