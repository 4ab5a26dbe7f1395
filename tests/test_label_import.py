"""Importing labels: twice is once, nothing is lost or doubled whatever dies, and what is wrong is told all at once."""

from __future__ import annotations

import json
import os
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import outcome, small_recipe
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp import files
from svp_nlp.cli import app
from svp_nlp.errors import LabelError, RecipeError, RunError, WaitingForLabels
from svp_nlp.experiment import run_recipe
from svp_nlp.labeling import answers as journal
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.exporting import content, export_file, export_rows
from svp_nlp.labeling.formats import FORMATS
from svp_nlp.labeling.importing import import_file, import_rows
from svp_nlp.labeling.queue import LabelQueue, Project
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.labeling.table import LabelRow

CLASSES = ("billing", "bug", "=x")
TIME = "2026-01-01T00:00:00+00:00"


def make_queue(run_dir: Path, *, rows: int = 6, **project) -> LabelQueue:
    queue = LabelQueue.begin(run_dir, Project(labels=CLASSES, **project))
    asked = [Row(f"id{n}", n, f'=text {n}, "q"', score=0.5, suggestions=(("bug", 0.6),)) for n in range(rows)]
    queue.ask(Request(0, "train", tuple(asked[: rows // 2])))
    queue.ask(Request(1, "train", tuple(asked[rows // 2 :])))
    return queue


@pytest.fixture
def queue(tmp_path):
    return make_queue(tmp_path / "run")


def write(path: Path, rows, *, format: str = "csv", queue: LabelQueue | None = None) -> Path:
    path.write_bytes(content(queue or LabelQueue.open(path.parent / "run"), list(rows), FORMATS[format]))
    return path


def labelled(queue: LabelQueue, label: str = "bug", **more) -> list[LabelRow]:
    return [replace(row, label=label, suggestions=(), **more) for row in export_rows(queue)]


def says(queue: LabelQueue, id: str, label: str, *, annotator: str = "", kind: str = "label", **more) -> None:
    queue.add([Answer(id, kind, label or None, annotator, TIME, more.pop("source", "page"), **more)])


def given_labels(queue: LabelQueue) -> dict[str, str | None]:
    return {id: queue.resolution(id).label for id in queue.rows}


@pytest.mark.parametrize("format", list(FORMATS))
def test_what_is_exported_labelled_and_imported_twice_is_there_once(queue, tmp_path, format):
    path = write(tmp_path / "file", labelled(queue, "=x"), format=format, queue=queue)
    assert import_file(queue, path).new == 6
    before = queue.journal.path.read_bytes()
    again = import_file(LabelQueue.open(tmp_path / "run"), path)
    assert (again.new, again.known) == (0, 6)
    assert queue.journal.path.read_bytes() == before
    assert set(given_labels(queue).values()) == {"=x"} and export_rows(queue) == []


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_all_answers_of_a_run_make_the_same_labels_in_another_one(tmp_path, format):
    one, other = make_queue(tmp_path / "one"), make_queue(tmp_path / "other")
    for annotator, label in (("ann", "bug"), ("bob", "billing"), ("bob", "bug")):
        says(one, "id0", label, annotator=annotator)
    says(one, "id1", "", annotator="ann", kind="skip", note="-")
    says(one, "id2", "bug", annotator="ann")
    says(one, "id2", "=x", annotator="ann", kind="decision", source="review")
    says(one, "id3", "bug", annotator="ann", source="label_studio", origin="7@a@b")
    says(one, "id4", "bug", annotator="ann")
    says(one, "id4", "billing", annotator="bob")
    assert one.resolution("id4").status == "conflict"
    says(one, "id4", "", annotator="eve", kind="decision", source="adjudication")  # nobody can tell
    assert one.resolution("id4").status == "skipped"
    [nobody_can_tell] = [row for row in export_rows(one, what="all") if row.annotator == "eve"]
    assert b'"accept": [], "answer": "ignore"' in content(one, [nobody_can_tell], FORMATS["prodigy"])
    path = write(tmp_path / "file", export_rows(one, what="all"), format=format, queue=one)
    assert import_file(one, path).new == 0
    report = import_file(other, path)
    annotators = {"ann": 6, "bob": 2, "eve": 1}
    assert (report.new, report.skipped, report.unanswered, report.annotators) == (9, 1, 1, annotators)
    assert import_file(other, path).new == 0
    for id in one.rows:
        assert other.resolution(id) == one.resolution(id)


def test_a_label_that_is_changed_in_the_file_counts_and_back_again(queue, tmp_path):
    for label in ("bug", "billing", "bug"):
        path = write(tmp_path / "file", labelled_again(queue, label))
        report = import_file(queue, path)
        assert report.new == 6
        assert set(given_labels(queue).values()) == {label}
    assert report.changed == 6


def test_an_answer_of_the_page_that_is_edited_in_a_file_comes_from_the_file(queue, tmp_path):
    says(queue, "id0", "bug", annotator="ann")
    rows = [replace(row, label="billing") for row in export_rows(queue, what="all") if row.label]
    for news in (1, 0):
        assert import_file(queue, write(tmp_path / "file", rows)).new == news
    assert (queue.resolution("id0").label, queue.resolution("id0").source) == ("billing", "csv")


def labelled_again(queue: LabelQueue, label: str) -> list[LabelRow]:
    return [LabelRow(row.id, row.text, label) for row in queue.rows.values()]


def test_an_old_file_does_not_set_back_what_was_corrected_elsewhere(queue, tmp_path):
    path = write(tmp_path / "file", labelled(queue))
    import_file(queue, path, annotator="ann")
    says(queue, "id0", "billing", annotator="ann")
    says(queue, "id1", "", annotator="ann", kind="retract")
    assert import_file(queue, path, annotator="ann").new == 0
    assert (given_labels(queue)["id0"], queue.resolution("id1").status) == ("billing", "open")


def test_a_newer_version_of_an_annotation_counts_and_an_older_one_no_more(queue):
    def found(version: int, label: str) -> list[LabelRow]:
        return [LabelRow("id0", label=label, annotator="ann", timestamp=TIME, origin=f"5@2026@{version}")]

    def take(rows) -> int:
        return import_rows(queue, rows, source="label_studio", where="there").new

    assert [take(found(1, "bug")), take(found(1, "bug")), take(found(2, "billing")), take(found(1, "bug"))] == [
        1,
        0,
        1,
        0,
    ]
    assert given_labels(queue)["id0"] == "billing"
    assert take([replace(found(1, "bug")[0], origin="5@2025@1")]) == 1  # another server that counts from 1


def test_a_version_of_a_whole_second_is_older_than_what_follows_within_it(queue):
    for version, label in (("05Z", "bug"), ("05.400000Z", "billing")):
        row = LabelRow("id0", label=label, timestamp=TIME, origin=f"5@2026@2026-01-01T00:00:{version}")
        assert import_rows(queue, [row], source="label_studio", where="there").new == 1


def test_one_person_whom_api_and_export_call_differently_changes_his_label_and_is_no_second_opinion(queue):
    first = LabelRow("id0", label="bug", annotator="ann@x", timestamp=TIME, origin="5@2026@1")
    import_rows(queue, [first], source="label_studio", where="there")
    changed = replace(first, label="billing", annotator="label_studio:1", origin="5@2026@2")
    report = import_rows(queue, [changed], source="label_studio", where="its export")
    assert report.annotators == {"ann@x": 1}
    assert given_labels(queue)["id0"] == "billing"


def test_classes_that_a_file_brings_are_told(tmp_path):
    queue = make_queue(tmp_path / "run", new_classes="extend")
    labels = ["bug", "bgu", "bgu", "new", "[skip]", ""]
    rows = [replace(row, label=label) for row, label in zip(labelled(queue), labels, strict=True)]
    path = write(tmp_path / "file", rows)
    assert import_file(queue, path, is_dry=True).classes == import_file(queue, path).classes == ("bgu", "new")
    assert import_file(queue, path).classes == ()


def test_an_annotation_that_is_emptied_takes_its_label_back(queue):
    row = LabelRow("id0", label="bug", annotator="ann", timestamp=TIME, origin="5@2026@1")
    import_rows(queue, [row], source="label_studio", where="there")
    emptied = replace(row, label="", origin="5@2026@2")
    other = replace(emptied, svp_id="id1", origin="6@2026@1")
    report = import_rows(queue, [emptied, other], source="label_studio", where="there")
    assert (report.new, report.unanswered, queue.resolution("id0").status) == (1, 1, "open")


def test_skips_flags_and_empty_cells_are_told_apart(queue, tmp_path):
    marks = ["[Skip]", "[flag]", "", "bug", " bug ", ""]
    rows = [replace(row, label=mark) for row, mark in zip(labelled(queue), marks, strict=True)]
    rows[1] = replace(rows[1], note="what is this?")
    rows[5] = replace(rows[5], kind="Skip")
    report = import_file(queue, write(tmp_path / "file", rows))
    assert (report.new, report.skipped, report.flagged, report.unanswered) == (5, 2, 1, 1)
    statuses = [queue.resolution(id).status for id in queue.rows]
    assert statuses == ["skipped", "flagged", "open", "labelled", "labelled", "skipped"]
    assert queue.answers_of("id1").by_annotator[""].note == "what is this?"


def test_a_class_may_be_called_like_a_mark(tmp_path):
    queue = LabelQueue.begin(tmp_path / "run", Project(labels=("[skip]", "b")))
    queue.ask(Request(0, "train", (Row("a", 0, "x"),)))
    import_rows(queue, [LabelRow("a", label="[skip]")], source="csv", where="file")
    assert given_labels(queue) == {"a": "[skip]"}


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_written(queue, tmp_path):
    rows = labelled(queue, annotator="ann")
    rows[0] = replace(rows[0], text="another text")
    rows[1] = replace(rows[1], label="bugg")
    rows[2] = replace(rows[2], label="Billing")
    rows[3] = replace(rows[3], kind="maybe")
    rows[4] = replace(rows[4], svp_id="", text="")
    rows += [replace(rows[5], label="billing"), LabelRow("nobody", "x", "bug")]
    with pytest.raises(LabelError) as error:
        import_file(queue, write(tmp_path / "file", rows), allow_unknown=True)
    for part in (
        "1 rows have another text than was asked for (line 2: id0)",
        "'Billing' x 1, line 4 (did you mean 'billing'?); 'bugg' x 1, line 3 (did you mean 'bug'?)",
        "delete the column text: svp_id is enough",
        "the classes are 'billing', 'bug', '=x'",
        "are of kind 'maybe'",
        "neither svp_id nor text (line 6)",
        "stand twice with different labels; say by whom they are, in a column annotator (line 7 and line 8)",
        "1 rows were not asked for by this run (line 9)",
        "Nothing was imported",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not queue.journal.path.exists() or not queue.journal.path.read_bytes()


def test_rows_of_another_run_go_into_quarantine_and_the_rest_is_imported_if_wished(queue, tmp_path):
    rows = [*labelled(queue), LabelRow("other", "=unknown text", "bug", annotator="ann")]
    path = write(tmp_path / "a file.csv", rows)
    with pytest.raises(LabelError, match="--allow-unknown") as error:
        import_file(queue, path)
    [kept] = (tmp_path / "run/labeling/quarantine").iterdir()
    assert str(kept) in str(error.value)
    assert json.loads(kept.read_text(encoding="utf-8"))["text"] == "=unknown text"
    assert given_labels(queue)["id0"] is None
    report = import_file(queue, path, allow_unknown=True)
    assert (report.new, report.unknown, report.quarantine) == (6, 1, kept)
    assert len(list(kept.parent.iterdir())) == 1


def test_a_dry_run_tells_the_same_and_writes_nothing(queue, tmp_path):
    path = write(tmp_path / "file", [*labelled(queue), LabelRow("other", "x", "bug")])
    before = {p for p in (tmp_path / "run").rglob("*") if p.is_file()}
    dry = import_file(queue, path, allow_unknown=True, is_dry=True)
    assert {p for p in (tmp_path / "run").rglob("*") if p.is_file() and p.suffix != ".lock"} <= before
    real = import_file(queue, path, allow_unknown=True)
    assert replace(dry, is_dry=False, quarantine=real.quarantine) == real


def test_a_file_without_ids_is_joined_by_its_texts(queue, tmp_path):
    lines = ["text,label", *(f'"  =text {n},   ""q"" ",bug' for n in range(6))]
    (tmp_path / "file.csv").write_text("\n".join(lines), encoding="utf-8")
    assert import_file(queue, tmp_path / "file.csv").new == 6
    assert set(given_labels(queue).values()) == {"bug"}
    (tmp_path / "file.csv").write_text("text,label\nnot asked,bug\n", encoding="utf-8")
    with pytest.raises(LabelError, match="were not asked for"):
        import_file(queue, tmp_path / "file.csv")


def test_an_image_is_refused_where_its_file_is_another(tmp_path):
    queue = LabelQueue.begin(tmp_path / "run", Project(labels=CLASSES, modality="image"))
    queue.ask(Request(0, "train", (Row("a", 7, "", "0000000007.png"), Row("b", 8, "", "0000000008.png"))))
    rows = [replace(row, label="bug") for row in export_rows(queue)]
    assert [row.image for row in rows] == [f"labeling/images/000000000{n}.png" for n in (7, 8)]
    with pytest.raises(LabelError, match="another image"):
        import_rows(queue, [replace(rows[0], image=rows[1].image)], source="csv", where="file")
    assert import_rows(queue, rows, source="csv", where="file").new == 2


def test_classes_may_be_new_where_the_recipe_says_so(tmp_path):
    queue = make_queue(tmp_path / "run", new_classes="extend")
    import_rows(queue, [LabelRow("id0", label="  a  new class ")], source="csv", where="file")
    assert queue.classes == (*CLASSES, "a new class")
    for label in ("BUG", "A new class"):  # nobody means another class by that
        with pytest.raises(LabelError, match=f"'{label}' x 1.*did you mean"):
            import_rows(queue, [LabelRow("id1", label=label)], source="csv", where="file")
        with pytest.raises(LabelError, match=r"did you mean.*correct them$"):
            says(queue, "id1", label)
    two = [LabelRow("id1", label="Spam"), LabelRow("id2", label="spam")]
    with pytest.raises(LabelError, match="'spam' x 1"):
        import_rows(queue, two, source="csv", where="file")


def test_where_each_row_needs_several_people_they_must_be_named(tmp_path):
    queue = make_queue(tmp_path / "run", answers_per_row=2)
    rows = [LabelRow("id0", label="bug", at="line 2"), LabelRow("id1", label="bug", annotator="ann", at="line 3")]
    with pytest.raises(LabelError, match=r"1 rows say nothing of who labelled.*--annotator NAME \(line 2\)"):
        import_rows(queue, rows, source="csv", where="file")
    assert import_rows(queue, rows, source="csv", where="file", annotator="bob").annotators == {"bob": 1, "ann": 1}


def test_who_labelled_is_the_file_then_the_option_and_numbers_are_no_names(queue):
    def names(rows, annotator="") -> dict[str, int]:
        report = import_rows(queue, rows, source="label_studio", where="file", annotator=annotator, is_dry=True)
        return report.annotators

    rows = [LabelRow("id0", label="bug", annotator=" ann "), LabelRow("id1", label="bug")]
    assert names(rows) == {"ann": 1, "": 1}
    assert names(rows, "bob") == {"ann": 1, "bob": 1}
    numbered = [LabelRow("id0", label="bug", annotator="label_studio:1"), LabelRow("id1", label="bug")]
    assert names(numbered) == {"label_studio:1": 1, "": 1}
    assert names(numbered, "bob") == {"bob": 2}
    with pytest.raises(LabelError, match="leave --annotator out"):
        names([numbered[0], replace(numbered[0], annotator="label_studio:2")], "bob")


def test_open_rows_of_one_annotator_are_those_that_miss_an_answer_of_hers(tmp_path):
    queue = make_queue(tmp_path / "run", answers_per_row=2)
    says(queue, "id0", "bug", annotator="ann")
    says(queue, "id1", "bug", annotator="ann")
    says(queue, "id1", "billing", annotator="bob")
    for annotator, ids in (("ann", "2345"), ("bob", "02345"), ("cat", "012345"), ("", "02345")):
        rows = export_rows(queue, annotator=annotator)
        assert [row.svp_id for row in rows] == [f"id{n}" for n in ids]
        assert {row.annotator for row in rows} == {annotator}
    assert [row.svp_id for row in export_rows(queue, round=1)] == ["id3", "id4", "id5"]
    assert export_rows(queue, part="test") == []
    shown = export_rows(queue)[0], export_rows(queue, suggestions=False)[0]
    assert [row.suggestions for row in shown] == [(("bug", 0.6),), ()]


def test_a_file_that_is_there_is_not_overwritten(queue, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = export_rows(queue)
    path = export_file(queue, rows, FORMATS["label_studio"], stem="round-001")
    assert path.name == "run-round-001-label_studio.json"
    for there, message in ((path, "may hold labels"), (tmp_path, "is a directory"), (path / "x", "cannot be written")):
        with pytest.raises(RecipeError, match=message):
            export_file(queue, rows, FORMATS["csv"], path=there)
    before = path.read_bytes()
    assert export_file(queue, rows, FORMATS["csv"], path=path, overwrite=True).read_bytes() != before


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("012"), st.sampled_from(["bug", "billing", "[skip]"]), st.booleans())))
def test_any_history_of_files_and_of_the_page_is_as_if_each_change_came_once(tmp_path_factory, steps):
    """One file is edited and imported, twice each time, while the same person also answers on the page."""
    queue = make_queue(tmp_path_factory.mktemp("history") / "run", rows=3)
    file = {id: LabelRow(id, annotator="ann") for id in queue.rows}
    expected: dict[str, str] = {}
    for digit, label, in_file in steps:
        id = f"id{digit}"
        if in_file:
            if file[id].label != label:
                expected[id] = label
            file[id] = replace(file[id], label=label)
            import_rows(queue, list(file.values()), source="csv", where="file")
            assert import_rows(queue, list(file.values()), source="csv", where="file").new == 0
        else:
            kind = "skip" if label == "[skip]" else "label"
            says(queue, id, "" if kind == "skip" else label, annotator="ann", kind=kind)
            expected[id] = label
        found = {id: (r := queue.resolution(id)).label or f"[{r.status[:4]}]" for id in expected}
        assert found == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_write_no_label_is_lost_and_none_is_there_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fsync", lambda path: None)  # a process that dies loses nothing that it wrote
    monkeypatch.setattr(journal, "_write", byte_by_piece)
    reached = 0
    for at in range(1, 50):
        run_dir = tmp_path / f"run-{at}"
        queue = make_queue(run_dir)
        says(queue, "id0", "billing", annotator="bob")
        path = write(tmp_path / "file", [*labelled_again(queue, "bug"), LabelRow("other", "x", "bug")], queue=queue)
        status = import_in_child(run_dir, path, at)
        if status == 0:
            break
        assert status == 137
        reached = at
        queue = LabelQueue.open(run_dir)
        import_file(queue, path, annotator="ann", allow_unknown=True)
        assert import_file(queue, path, annotator="ann", allow_unknown=True).new == 0
        said = [(a.id, a.annotator, a.label) for a in LabelQueue.open(run_dir).journal.answers]
        assert sorted(said) == sorted([("id0", "bob", "billing"), *((f"id{n}", "ann", "bug") for n in range(6))])
        assert len(list((run_dir / "labeling/quarantine").glob("[!.]*"))) == 1
    assert reached >= 8  # the quarantine, the journal, and pieces of its lines


def byte_by_piece(descriptor: int, data: bytes) -> None:
    """As os.write may do: a piece at a time."""
    for start in range(0, len(data), 97):
        os.write(descriptor, data[start : start + 97])
        journal.fault_point()


def import_in_child(run_dir: Path, path: Path, at: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            files._writes = 0
            os.environ["SVP_CRASH_AT"] = str(at)
            import_file(LabelQueue.open(run_dir), path, annotator="ann", allow_unknown=True)
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_full_disk_at_any_write_is_said_and_the_next_import_has_all(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fsync", lambda path: None)
    monkeypatch.setattr(journal, "_write", byte_by_piece)
    queue = make_queue(tmp_path / "run")
    path = write(tmp_path / "file", [*labelled(queue), LabelRow("other", "x", "bug")])
    for at in (1, 2, 3, 5):
        monkeypatch.setattr(files, "_writes", 0)
        monkeypatch.setenv("SVP_ENOSPC_AT", str(at))
        with pytest.raises(RunError, match="No space left"):
            import_file(queue, path, allow_unknown=True)
        monkeypatch.delenv("SVP_ENOSPC_AT")
        assert not list((tmp_path / "run").rglob(".tmp-*"))
        assert not LabelQueue.open(tmp_path / "run").journal.answers
    assert import_file(queue, path, allow_unknown=True).new == 6


def test_who_read_what_a_full_disk_then_took_back_leaves_the_journal_as_it_is(queue, monkeypatch):
    says(queue, "id0", "bug")
    reader = LabelQueue.open(queue.run_dir)

    def full(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: data.index(b"\n") + 1])
        reader.refresh()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", full)
        with pytest.raises(RunError, match="No space left"):
            queue.add([Answer(f"id{n}", "label", "bug", "ann", TIME, "csv") for n in (1, 2)])
    assert len(reader.journal.answers) == 2
    before = queue.journal.path.read_bytes()
    with pytest.raises(RunError, match="shorter than it was"):
        says(reader, "id3", "bug")
    assert queue.journal.path.read_bytes() == before
    says(queue, "id3", "bug")
    assert [answer.id for answer in LabelQueue.open(queue.run_dir).journal.answers] == ["id0", "id3"]


def test_imports_at_once_give_each_answer_once(tmp_path):
    queue = make_queue(tmp_path / "run", rows=60)
    shuffled = labelled(queue, annotator="ann")
    failures: list[BaseException] = []

    def take(seed: int) -> None:
        rows = shuffled.copy()
        random.Random(seed).shuffle(rows)
        try:
            import_rows(LabelQueue.open(tmp_path / "run"), rows, source="csv", where="file")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=take, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    said = [answer.id for answer in LabelQueue.open(tmp_path / "run").journal.answers]
    assert sorted(said) == sorted(queue.rows)


def call(*arguments: str) -> tuple[int, str, str]:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["label", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_say_what_is_done_and_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_queue(tmp_path / "run", conflicts="adjudicate")
    code, out, _ = call("export", "run", "--to", "csv", "--annotator", "ann")
    assert (code, out.splitlines()) == (
        0,
        [
            "6 rows in run-round-000-001-ann.csv",
            "label them there, then: svp label import run run-round-000-001-ann.csv",
        ],
    )
    file = tmp_path / "run-round-000-001-ann.csv"
    assert call("export", "run", "--to", "csv", "--annotator", "ann")[0] == 2
    code, _, err = call("export", "run", "--to", "csv", "--round", "7")
    assert code == 2 and "its rounds are 0, 1" in err
    code, out, _ = call("export", "run", "--to", "jsonl", "--output", "-")
    assert "suggestion" not in out
    assert '"suggestions"' in call("export", "run", "--to", "jsonl", "--output", "-", "--suggestions")[1]
    assert [json.loads(line)["svp_id"] for line in out.splitlines()] == [f"id{n}" for n in range(6)]
    lines = file.read_text(encoding="utf-8-sig").replace('"",,', '"",bug,').splitlines()
    file.write_text("\n".join(lines[:4]), encoding="utf-8")
    code, out, _ = call("import", "run", file.name)
    assert code == 0 and "3 new answers" in out and "still open: 3" in out
    file.write_text("\n".join(lines), encoding="utf-8")
    code, out, _ = call("import", "run", file.name, "--format", "json")
    facts = json.loads(out)
    assert (facts["new"], facts["known"], facts["open"], facts["annotators"]) == (3, 3, 0, {"ann": 3})
    assert "call the same `svp run` again" in call("import", "run", file.name)[1]
    assert call("export", "run", "--to", "csv")[0] == 2
    file.write_text(file.read_text(encoding="utf-8").replace("ann", "bob").replace("bug", "billing"), encoding="utf-8")
    assert "svp label review run" in call("import", "run", file.name, "--from", "csv")[1]
    file.write_text(file.read_text(encoding="utf-8").replace("id1,", "id9,"), encoding="utf-8")
    code, _, err = call("import", "run", file.name)
    assert code == 2 and "quarantine" in err
    code, out, _ = call("import", "run", file.name, "--allow-unknown")
    assert code == 0 and "1 not asked for by this run" in out
    assert call("finish", "run")[0] == 2  # annotators differ on all rows
    says(LabelQueue.open("run"), "id0", "bug", kind="decision")
    code, out, _ = call("finish", "run")
    assert code == 0 and LabelQueue.open("run").finish_requested
    monkeypatch.setattr("svp_nlp.results.is_finished", lambda run_dir: True)
    assert "add a size to labeled_sizes" in call("import", "run", file.name, "--allow-unknown")[1]


def test_labels_through_files_give_the_run_of_a_simulation(tmp_path):
    toy = write_toy(tmp_path / "toy")
    truth = {text: CLASS_NAMES[label] for text, label in zip(*toy_rows(), strict=True)}
    changes = {"labeled_sizes": [40, 60], "test": None, "target": None}
    people = {"oracle": {"kind": "files", "labels": list(CLASS_NAMES)}, "baselines": None}
    run_recipe(small_recipe(toy, **changes), tmp_path / "column", stop_requested=lambda: False)
    for format in ("csv", "label_studio", "prodigy", None):
        try:
            run_recipe(small_recipe(toy, **changes, **people), tmp_path / "run", stop_requested=lambda: False)
        except WaitingForLabels:
            queue = LabelQueue.open(tmp_path / "run")
            rows = [replace(row, label=truth[row.text]) for row in reversed(export_rows(queue))]
            import_file(queue, write(tmp_path / "file", rows, format=format))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "column")
    assert len(outcome(tmp_path / "run")) == 10
