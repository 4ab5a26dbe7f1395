"""Files of labels: whatever a text holds, each format gives back what was written, and reads what its tool writes."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svp_nlp.errors import LabelError, RecipeError
from svp_nlp.labeling.formats import FORMATS, format_named, read_rows, write_rows
from svp_nlp.labeling.formats.csv import escape, escape_id, unescape, unescape_id
from svp_nlp.labeling.table import About, LabelRow

NASTY = (
    "=HYPERLINK('x')", "+1", "-5", "@SUM(A1)", "\ttab", "\rreturn", "\nline", "'=1", "''", "'tis", "＝1",
    'say "x", then; go', "multi\r\nline\nof text", "<script>&amp;</script>", "שלום עולם", "😀", "a\u2028b", " lead",
    "[skip", "null", "NA", "{}", "[]", "1e5", "ends with '", "\ufeffmark",
)  # fmt: skip
IDS = ("007", "12345678901234567", "1e5", "3-4", "1/2", "TRUE", "-7", "=id", "'7", "'id", "a,b", "é", "0" * 32)
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
ABOUT = About("run", ("a", "b"))
# No lone surrogate (no file can hold it), no NUL (no spreadsheet can).
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30)


def given_back(rows, name: str):
    data = write_rows(rows, FORMATS[name], about=ABOUT)
    return FORMATS[name].parse(data.decode("utf-8-sig" if FORMATS[name].has_bom else "utf-8"))


@given(st.one_of(texts, st.sampled_from(NASTY), st.sampled_from("'=+-@\t").flatmap(lambda c: texts.map(c.__add__))))
def test_an_escaped_cell_is_no_formula_and_comes_back(text):
    for there, back in ((escape, unescape), (escape_id, unescape_id)):
        assert back(there(text)) == text
        assert not there(text).startswith(FORMULA)


@given(st.lists(st.tuples(texts, st.sampled_from(NASTY)), min_size=1, max_size=5))
def test_rows_with_any_characters_come_back_from_each_format(drawn):
    rows = [
        LabelRow(svp_id=id, text=text, label=label or "x", round=3, annotator="ann")
        for id, (text, label) in zip(IDS, drawn, strict=False)
    ]
    for name in FORMATS:
        back = given_back(rows, name)
        assert [(r.svp_id, r.text, r.label, r.round) for r in back] == [
            (r.svp_id, r.text, r.label, r.round) for r in rows
        ], name


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_the_table_comes_back_whole(name):
    rows = [
        LabelRow(id, text, "" if kind == "skip" else text or "x", "=ann", "2026-01-02T03:04:05+00:00", "page", 7, kind)
        for id, text, kind in zip(IDS, NASTY, ["", "skip", "decision", "flag", ""] * 3, strict=False)
    ]
    rows.append(LabelRow("open", "text", note="-note", round=0))
    back = given_back(rows, name)
    at = {"at": ""}
    assert [LabelRow(**{**_values(row), **at}) for row in back] == rows


def _values(row: LabelRow) -> dict:
    return {name: getattr(row, name) for name in LabelRow.__slots__}


@pytest.mark.parametrize("name", ["csv", "jsonl", "label_studio", "doccano", "prodigy"])
def test_images_are_named_by_their_file(name):
    [row] = given_back([LabelRow("a", image="labeling/images/0000000007.png", label="x")], name)
    assert (row.text, row.image, row.label) == ("", "labeling/images/0000000007.png", "x")


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_file_tells_its_format(tmp_path, name):
    for rows in ([LabelRow("a", "text")], [LabelRow("a", "text", "x")]):
        (tmp_path / "file").write_bytes(write_rows(rows, FORMATS[name], about=ABOUT))
        assert read_rows(tmp_path / "file")[0].name == name


def test_csv_opens_in_excel_with_its_letters_and_in_others_without_a_mark():
    rows = [LabelRow("a", "é")]
    assert write_rows(rows, FORMATS["csv"], about=ABOUT).startswith(b"\xef\xbb\xbfsvp_id,")
    assert write_rows(rows, FORMATS["csv"], about=ABOUT, bom=False).startswith(b"svp_id,")


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("svp_id;text;label\r\na;x, y;b\r\n", "utf-8-sig"),
        ("svp_id\ttext\tlabel\na\tx, y\tb\n", "utf-16"),
        ('"SVP_ID","Text ","Label"\n"a","x, y","b"\n', "utf-8"),
        ('label,svp_id,text,\nb,a,"x, y",\n\n,,,\n', "utf-8"),
        ('svp_id,text,label,note\na,"x, y",b\n', "utf-8"),
    ],
)
def test_what_spreadsheets_make_of_csv_is_read(tmp_path, data, encoding):
    (tmp_path / "file.csv").write_text(data, encoding=encoding, newline="")
    _, [row] = read_rows(tmp_path / "file.csv")
    assert (row.svp_id, row.text, row.label) == ("a", "x, y", "b")


def test_suggestions_have_a_place_where_they_do_not_count_as_labels():
    rows = [LabelRow("a", "text", suggestions=(("b", 0.7), ("a", 0.3)), round=1)]
    for name in FORMATS:
        text = write_rows(rows, FORMATS[name], about=ABOUT, bom=False).decode()
        assert [row.label for row in FORMATS[name].parse(text)] == [""]
        assert ('"b"' in text or ",b\r\n" in text) == (name != "doccano")
        hidden = write_rows([LabelRow("a", "text", round=1)], FORMATS[name], about=ABOUT, bom=False).decode()
        assert "predictions" not in hidden and "accept" not in hidden and not hidden.endswith(",b\r\n")


def annotation(number: int, choices: list[str], **more) -> dict:
    result = [{"from_name": "svp_label", "to_name": "text", "type": "choices", "value": {"choices": choices}}]
    stamp = f"2026-01-01T00:00:0{number}.000000Z"
    values = {"id": number, "result": result if choices else [], "was_cancelled": False, "completed_by": 1}
    return {**values, "created_at": stamp, "updated_at": stamp, **more}


def test_label_studios_json_gives_answers_in_the_order_of_their_time():
    other = [{"from_name": "sentiment", "type": "choices", "value": {"choices": ["good"]}}]
    tasks = [
        {
            "id": 9,
            "data": {"text": "=x", "svp_id": "a", "svp_round": 2, "id": 77},
            "annotations": [annotation(3, ["b"]), annotation(2, ["a"], completed_by={"id": 2, "email": "ann@x.org"})],
            "predictions": [1],
        },
        {"id": 10, "data": {"text": "y", "svp_id": "b"}, "annotations": [annotation(4, ["a"], was_cancelled=True)]},
        {"id": 11, "data": {"text": "z", "svp_id": "c"}, "annotations": [annotation(5, [])]},
        {"id": 12, "data": {"text": "w", "svp_id": "d"}, "annotations": []},
        {"id": 13, "data": {"text": "v", "svp_id": "e"}, "annotations": [annotation(6, ["a", "b"])]},
        {"id": 14, "data": {"text": "u", "svp_id": "f"}, "annotations": [annotation(7, [], result=other)]},
    ]
    rows = FORMATS["label_studio"].parse(json.dumps(tasks))
    assert [(row.svp_id, row.label, row.kind, row.annotator) for row in rows] == [
        ("d", "", "", ""),
        ("a", "a", "", "ann@x.org"),
        ("a", "b", "", "label_studio:1"),
        ("b", "", "skip", "label_studio:1"),
        ("c", "", "", "label_studio:1"),
        ("e", "", "", "label_studio:1"),
        ("f", "good", "", "label_studio:1"),
    ]
    assert [bool(row.problem) for row in rows] == [False] * 5 + [True, False]
    assert rows[1].text == "=x" and rows[1].round == 2


def test_the_three_exports_of_label_studio_name_an_answer_alike():
    given_ = annotation(3, ["=b"])
    task = {"id": 9, "data": {"text": "=x", "svp_id": "a", "svp_round": 2}, "annotations": [given_]}
    small = {**task["data"], "id": 9, "svp_label": "=b", "annotator": 1, "annotation_id": 3, "lead_time": 1.5}
    small |= {"created_at": given_["created_at"], "updated_at": given_["updated_at"]}
    file = io.StringIO()
    csv.writer(file).writerows([list(small), list(small.values())])
    found = [FORMATS["label_studio"].parse(text) for text in (json.dumps([task]), json.dumps([small]), file.getvalue())]
    assert FORMATS["label_studio"].sniff(file.getvalue())
    named = {(r.svp_id, r.text, r.label, r.annotator, r.timestamp, r.origin, r.round) for [r] in found}
    assert len(named) == 1 and named.pop()[:3] == ("a", "=x", "=b")


def test_label_studios_small_exports_without_a_label_are_open_and_with_two_a_problem():
    small = {"svp_id": "a", "text": "x", "annotation_id": 1, "lead_time": 1}
    assert not FORMATS["label_studio"].parse(json.dumps([small]))[0].is_answered
    two = {**small, "svp_label": {"choices": ["a", "b"]}}
    assert FORMATS["label_studio"].parse(json.dumps([two]))[0].problem
    text = 'svp_id,svp_label,annotation_id,lead_time\na,"{""choices"": [""a"", ""b""]}",1,2\n'
    assert FORMATS["label_studio"].parse(text)[0].problem


def test_doccano_and_prodigy_say_skip_and_two_labels_in_their_way():
    doccano = FORMATS["doccano"].parse(
        '{"id": 5, "text": "x", "label": ["a"], "svp_id": "i", "Comments": []}\n'
        '{"id": 6, "text": "y", "label": [], "meta": {"svp_id": "j"}}\n'
        '{"id": 7, "text": "z", "label": ["a", "b"]}\n'
    )
    assert [(row.svp_id, row.label, bool(row.problem)) for row in doccano] == [
        ("i", "a", False), ("j", "", False), ("", "", True),
    ]  # fmt: skip
    lines = [
        {"text": "x", "accept": ["a"], "answer": "accept", "meta": {"svp_id": "i"}, "_timestamp": 1_700_000_000},
        {"text": "x", "accept": [], "answer": "ignore", "meta": {"svp_id": "i"}, "_annotator_id": "db-ann"},
        {"text": "x", "label": "b", "answer": "accept", "_input_hash": 1},
        {"text": "x", "label": "b", "answer": "reject"},
        {"text": "x", "accept": ["a", "b"], "answer": "accept"},
        {"text": "x", "options": [], "accept": ["a"]},
    ]
    prodigy = FORMATS["prodigy"].parse("\n".join(map(json.dumps, lines)))
    assert [(row.label, row.kind, row.note, bool(row.problem)) for row in prodigy] == [
        ("a", "", "", False),
        ("", "skip", "", False),
        ("b", "", "", False),
        ("", "flag", "rejected b", False),
        ("", "", "", True),
        ("", "", "", False),
    ]
    assert prodigy[0].timestamp == "2023-11-14T22:13:20+00:00" and prodigy[1].annotator == "db-ann"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"PK\x03\x04rest", "Excel workbook.*save it as CSV UTF-8"),
        (b"\x1f\x8brest", "compressed"),
        ("svp_id,text,label\na,é,b\n".encode("latin1"), r"not UTF-8 \(line 2, byte 20\).*iconv"),
        (b"id,sentence,class\n1,x,y\n", "columns are id, sentence, class; expected svp_id or text, and label"),
        (b"svp_id,text,kind\na,x,\n", "columns are svp_id, text, kind; expected svp_id or text, and label"),
        (b"svp_id,text,label\na,x,b,c\n", "line 2 has 4 cells, the header 3"),
        (b'svp_id,text,label\na,"x,b\n', "line 2 is no CSV"),
        (b"text,label,Label\na,b,c\n", "label stand twice"),
        (b'{"text": "x", "label": "a"}\n{"text": \n', "line 2 is not JSON"),
        (b'{"text": "x", "label": "a"}\n[1]\n', "line 2 is list in JSON"),
        (b"{\n", "line 1 is not JSON"),
        (b"[1]", "task 1 is int"),
        (b"[{]", "not JSON"),
        (b'[{"data": {}, "annotations": [5]}]', "cannot be read as Label Studio.*AttributeError"),
        (b'{"text": "x", "answer": "accept", "_timestamp": 1700000000000000}', "year 53872825"),
        (b'annotation_id,lead_time,svp_label\n1,2,"{""choices"":[x"\n', "JSONDecodeError"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_a_file_that_is_something_else_is_told_apart(tmp_path, data, message):
    (tmp_path / "file.csv").write_bytes(data)
    with pytest.raises(LabelError, match=rf"file\.csv.*{message}"):
        read_rows(tmp_path / "file.csv")


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(LabelError, match="Is a directory"):
        read_rows(tmp_path)
    with pytest.raises(LabelError, match="No such file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(RecipeError, match=r"did you mean 'doccano'\?; expected csv, doccano"):
        format_named("docano")


def test_classes_that_look_like_numbers_are_no_numbers_to_a_spreadsheet():
    [row] = given_back([LabelRow("a", "x", "1.10", suggestions=(("01", 1.0),))], "csv")
    assert row.label == "1.10"
    assert write_rows([row], FORMATS["csv"], about=ABOUT).decode("utf-8-sig").splitlines()[1].split(",")[2] == "'1.10"


def test_a_text_longer_than_the_csv_reader_takes_by_itself_comes_back():
    [row] = given_back([LabelRow("a", "x" * 200_000, "b")], "csv")
    assert len(row.text) == 200_000
