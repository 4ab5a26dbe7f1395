"""The journal of answers and the files of requests: what was written comes back, and a damaged line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.errors import RunError
from svp_nlp.files import json_lines
from svp_nlp.labeling.answers import Answer, Journal
from svp_nlp.labeling.requests import Request, Row, read_requests, write_request

ANY = st.text(max_size=12)
WHOLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def written(path: Path, answers: list[Answer]) -> Journal:
    journal = Journal(path)
    with journal.locked():
        journal.append(answers)
    return journal


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY, st.none() | ANY, ANY, ANY, ANY), min_size=1, max_size=4))
def test_answers_of_any_characters_are_in_memory_what_others_read_each_line_in_json(tmp_path_factory, drawn):
    answers = [
        Answer(id, "skip" if label is None else "label", label, name, "now", "page", note, origin)
        for id, label, name, note, origin in drawn
    ]
    path = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    journal = written(path, answers[:1])
    with journal.locked():
        journal.append(answers[1:])
    assert journal.answers == Journal(path).refresh()
    text = path.read_bytes().decode()
    assert text.count("\n") == len(answers)
    for line, answer in zip(text.split("\n"), answers, strict=False):
        values = {name: getattr(answer, name) for name in Answer.__slots__}
        values = {name: value for name, value in values.items() if value or name not in ("note", "origin")}
        assert line.encode() == json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.recursive(st.none() | st.integers() | WHOLE, st.lists, max_leaves=4), max_size=4))
def test_json_lines_are_what_each_line_holds(values):
    data = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    assert list(json_lines(data)) == values


@pytest.mark.parametrize("damaged", [b"{", b"1, 2", b"", b"[1", b"\xff", b'{"id": "a"}, {"id": "b"}'])
def test_the_lines_before_one_that_is_damaged_are_read(damaged):
    read = []
    with pytest.raises(ValueError):
        for value in json_lines(b"1\n2\n" + damaged + b"\n3\n"):
            read.append(value)
    assert read == [1, 2]


def test_a_damaged_line_is_named_in_both_files(tmp_path):
    path = tmp_path / "answers.jsonl"
    written(path, [Answer(str(n), "skip", None, "ann", "now", "page") for n in range(3)])
    lines = path.read_bytes().splitlines(keepends=True)
    for line in (b"{\n", b'{"id": "1"}\n', b'{"id": "1", "kind": "?"}\n', b"[]\n"):
        path.write_bytes(lines[0] + line + lines[2])
        with pytest.raises(RunError, match="line 2, is no answer"):
            Journal(path).refresh()
    write_request(tmp_path / "requests", Request(0, "train", tuple(Row(str(n), n, "a text") for n in range(3))))
    file = tmp_path / "requests/0000-train.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for line in (b"{\n", b'{"id": "1"}\n', b"[]\n"):
        file.write_bytes(lines[0] + line + lines[2])
        with pytest.raises(RunError, match="line 2, is no request"):
            list(read_requests(tmp_path / "requests"))
