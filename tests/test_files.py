"""Durable files: complete or absent, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from svp_nlp import files
from svp_nlp.errors import RecipeError, RunError


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "fault_point", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_directory_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(ValueError, match="stop"), files.atomic_directory(path) as tmp:
        (tmp / "half").write_text("half")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []
    for content in ("one", "two"):
        with files.atomic_directory(path) as tmp:
            (tmp / "whole").write_text(content)
    assert (path / "whole").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("at", [1, 2])
def test_a_crash_at_the_nth_write_leaves_only_whole_files(tmp_path, at):
    code = (
        "import sys; from pathlib import Path; from svp_nlp.files import write_text\n"
        "for i in range(3): write_text(Path(sys.argv[1]) / str(i), 'x' * 10)"
    )
    env = {**os.environ, "SVP_CRASH_AT": str(at)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=False)
    assert done.returncode == 137
    whole = sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".tmp-"))
    assert whole == [str(i) for i in range(at - 1)]
    assert files.remove_leftovers(tmp_path) == 1


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".hidden", "a\0b", "a" * 97, "con:", "-rf"])
def test_a_name_that_could_leave_its_directory_is_refused(name):
    with pytest.raises(RecipeError, match="cannot be used as a file name"):
        files.safe_name(name)


def test_damaged_json_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(RunError, match=r"x\.json is damaged"):
        files.read_json(tmp_path / "x.json")
    with pytest.raises(RunError, match=r"y\.json is missing"):
        files.read_json(tmp_path / "y.json")
