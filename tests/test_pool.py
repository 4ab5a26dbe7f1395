"""Pools: what is read, what is refused, and that rows keep their names."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import pickle
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp.cache import cached_directory
from svp_nlp.content import find_duplicates, hash_texts, hex_ids, normalise
from svp_nlp.errors import LabelError, PoolError
from svp_nlp.pool import Pool, PoolRef
from svp_nlp.pool_labels import conflicting_labels, overlap, read_labels

SHARED = Path(os.environ.get("SVP_SHARED") or Path(__file__).parents[1] / "../shared/data")
NASTY = [
    "NA", "null", "None", "nan", "007", "1.50", "1e5", "2020-01-01", "true", "-", '"quoted"', "a,b;c\td", "\\N",
    "line\nbreak", "carriage\rreturn", "both\r\n", "nul\x00inside", "u\u2028sep", "\u00e4 \U0001f600", "=1+1",
    "<script>", " edges ",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _private_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "svp-cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))


def _csv(path: Path, rows, header=("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _parquet(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def _texts(pool: Pool) -> list[str]:
    return pool.take(np.arange(len(pool)))["text"].to_pylist()


# ---- what is read


@pytest.mark.parametrize("name", ["toy", "toy.parquet", "toy.csv", "toy.jsonl", "toy.jsonl.gz"])
def test_every_format_gives_the_same_pool(tmp_path, name):
    pool = PoolRef(str(write_toy(tmp_path / name))).open()
    texts, labels = toy_rows()
    assert _texts(pool) == texts
    column = read_labels(pool, "label")
    assert column.class_names == CLASS_NAMES
    assert column.labels_N.tolist() == labels
    assert column.labels_N.dtype == np.int64
    reference = PoolRef(str(write_toy(tmp_path / "reference.csv"))).open()
    assert pool.fingerprint == reference.fingerprint
    assert pool.keys_N.tolist() == reference.keys_N.tolist()


def test_a_gzipped_csv_and_a_tsv_are_read(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\nx y,1\n"))
    (tmp_path / "a.tsv").write_bytes(b"text\tlabel\nx y\t1\n")
    for name in ("a.csv.gz", "a.tsv"):
        assert _texts(PoolRef(str(tmp_path / name)).open()) == ["x y"]


def test_csv_texts_stay_what_was_written(tmp_path):
    rows = [(text, str(row % 2)) for row, text in enumerate(NASTY)] + [("", "1")]
    pool = PoolRef(str(_csv(tmp_path / "nasty.csv", rows))).open()
    assert _texts(pool) == [*NASTY, ""]
    assert pool.check.blank == 1
    assert pool.check.first_blank == (len(NASTY),)
    assert read_labels(pool, "label").class_names == ("0", "1")


def test_jsonl_texts_stay_what_was_written(tmp_path):
    pool = PoolRef(str(_jsonl(tmp_path / "nasty.jsonl", [{"text": text} for text in [*NASTY, None, ""]]))).open()
    assert _texts(pool) == [*NASTY, "", ""]
    assert pool.check.first_blank == (len(NASTY), len(NASTY) + 1)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "folder"])
def test_rows_of_a_split_are_those_rows(tmp_path, name):
    rows = [(f"text {row}", row % 2) for row in range(5)]
    path = tmp_path / name
    if name == "a.csv":
        _csv(path, rows)
    elif name == "a.parquet":
        _parquet(path, text=[text for text, _ in rows])
    else:
        path.mkdir()
        _csv(path / "train.csv", rows)
    whole = PoolRef(str(path)).open()
    for split, start, stop in [("train[1:3]", 1, 3), ("train[:2]", 0, 2), ("train[4:]", 4, 5), ("train[:99]", 0, 5)]:
        pool = PoolRef(str(path), split=split).open()
        assert _texts(pool) == [text for text, _ in rows[start:stop]]
        assert pool.ids(np.arange(stop - start)) == whole.ids(np.arange(start, stop))
    assert "no row" in _refused(PoolRef(str(path), split="train[5:]"))
    assert "no split 'tran'" in _refused(PoolRef(str(path), split="tran[:2]"))


def test_a_single_file_has_no_percents(tmp_path):
    assert "'train[:10%]' is not read here" in _refused(
        PoolRef(str(_csv(tmp_path / "a.csv", [("a", 1)])), split="train[:10%]")
    )


def test_a_line_separator_in_a_jsonl_text_is_no_line_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\u2028b\u0085c"}\n{"text": "d"}\n', encoding="utf-8")
    assert _texts(PoolRef(str(path)).open()) == ["a\u2028b\u0085c", "d"]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=8))
def test_csv_and_jsonl_agree_with_the_texts(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("round-trip")
    rows = [*texts, "always one text"]
    # The csv module reads a lone \r as a line end unless it is quoted, so all cells are.
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in rows)])
    _jsonl(folder / "a.jsonl", [{"text": text} for text in rows])
    for name in ("a.csv", "a.jsonl"):
        assert _texts(PoolRef(str(folder / name)).open()) == rows


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_text_of_ten_megabytes_is_kept(tmp_path, suffix):
    long = "word " * 2_100_000
    rows = [("short", "a"), (long, "b")]
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        _csv(path, rows)
    else:
        _jsonl(path, [{"text": text, "label": label} for text, label in rows])
    assert _texts(PoolRef(str(path)).open()) == ["short", long]


def test_jsonl_columns_that_appear_late_or_change_from_null_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("svp_nlp.pool_files._JSON_ROWS", 2)
    rows = [{"text": "a", "label": None}, {"text": "b"}, {"text": "c", "label": "x", "n": 1}, {"text": "d", "n": 1.5}]
    pool = PoolRef(str(_jsonl(tmp_path / "a.jsonl", rows))).open()
    assert pool.column("n").to_pylist() == [None, None, 1.0, 1.5]
    assert read_labels(pool, "label").labels_N.tolist() == [-1, -1, 0, -1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_folder_of_csv_or_jsonl_files_is_read_like_the_files(tmp_path, suffix):
    folder = tmp_path / "folder" / "data"
    folder.mkdir(parents=True)
    for split, texts in (("train", ["NA", "007"]), ("test", ["null"])):
        if suffix == "csv":
            _csv(folder / f"{split}.csv", [(text, 1) for text in texts])
        else:
            _jsonl(folder / f"{split}.jsonl", [{"text": text, "label": 1} for text in texts])
    assert _texts(PoolRef(str(folder.parent)).open()) == ["NA", "007"]
    assert _texts(PoolRef(str(folder.parent), split="test").open()) == ["null"]


def test_class_names_in_a_card_apply_to_csv_files(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    _csv(folder / "train.csv", [("a", 1), ("b", 0)])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.csv\ndataset_info:\n  features:\n"
        "  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        "          '0': bad\n          '1': good\n---\n",
        encoding="utf-8",
    )
    column = read_labels(PoolRef(str(folder)).open(), "label")
    assert (column.class_names, column.labels_N.tolist()) == (("bad", "good"), [1, 0])


def test_a_folder_written_by_save_to_disk_is_read(tmp_path):
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert _texts(PoolRef(str(tmp_path / "one")).open()) == ["a", "b"]
    assert _texts(PoolRef(str(tmp_path / "two"), split="test").open()) == ["b"]


def test_two_text_columns_are_joined_and_nulls_are_empty(tmp_path):
    path = _parquet(tmp_path / "a.parquet", title=["A", None, " "], body=["b c", "d", None])
    pool = PoolRef(str(path), columns=("title", "body")).open()
    assert _texts(pool) == ["A b c", " d", "  "]
    assert pool.check.first_blank == (2,)
    single = PoolRef(str(_parquet(tmp_path / "b.parquet", text=["A b c", "d", "x"]))).open()
    assert pool.ids([0, 1]).to_pylist() == single.ids([0, 1]).to_pylist()
    assert pool.dataset([1]).to_dict() == {"title": [None], "body": ["d"]}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_arrow_type_of_text_is_read(tmp_path, kind):
    texts = pa.array(["a", None, "a b"]).cast(kind)
    pool = PoolRef(str(_parquet(tmp_path / "a.parquet", text=texts))).open()
    table = next(pool.batches(pool.shards()[0], 10))
    assert table.schema == pa.schema([("text", pa.large_string())])
    assert table["text"].to_pylist() == ["a", "", "a b"]
    assert table["text"].null_count == 0


# ---- rows


@pytest.fixture(scope="module")
def many_blocks(tmp_path_factory):
    """A pool whose file has a new block every 7 rows."""
    path = tmp_path_factory.mktemp("blocks") / "a.parquet"
    texts = [f"text {row}" for row in range(100)]
    pq.write_table(pa.table({"text": texts, "row": list(range(100))}), path, row_group_size=7)
    return PoolRef(str(path)).open(), texts


@settings(deadline=None, max_examples=50)
@given(positions=st.lists(st.integers(0, 99), max_size=60))
def test_rows_come_in_the_order_asked_for(many_blocks, positions):
    pool, texts = many_blocks
    expected = [texts[p] for p in positions]
    assert pool.take(positions)["text"].to_pylist() == expected
    assert pool.take(positions).schema == pa.schema([("text", pa.large_string())])
    data = pool.dataset(positions)
    assert (list(data["text"]), list(data["row"])) == (expected, positions)
    ids = pool.ids(np.arange(100)).to_pylist()
    assert pool.ids(positions).to_pylist() == [ids[p] for p in positions]


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 120), batch_size=st.integers(1, 120))
def test_batches_cover_each_shard_once_in_storage_order(many_blocks, rows, batch_size):
    pool, texts = many_blocks
    shards = pool.shards(rows)
    assert [(s.index, s.start, s.stop) for s in shards] == [
        (i, i * rows, min((i + 1) * rows, 100)) for i in range(-(-100 // rows))
    ]
    seen = []
    for shard in shards:
        batches = list(pool.batches(shard, batch_size))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert all(batch["text"].num_chunks == 1 for batch in batches)
        assert sum(map(len, batches)) == len(shard)
        seen += [text for batch in batches for text in batch["text"].to_pylist()]
    assert seen == texts


def test_a_position_outside_the_pool_is_refused(many_blocks):
    for bad in (-1, 100):
        with pytest.raises(PoolError, match=f"position {bad} is outside the pool of 100 rows"):
            many_blocks[0].take([0, bad])


def test_a_reference_crosses_process_borders_and_hides_labels(tmp_path):
    ref = PoolRef(str(write_toy(tmp_path / "toy")))
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert {ref: 1}[PoolRef(ref.path)] == 1
    pool = ref.open()
    assert pool.take([0]).column_names == ["text"]


# ---- ids and duplicates


@settings(deadline=None)
@given(st.text())
def test_normalise_is_idempotent_and_blind_to_white_space_and_composition(text):
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(f" \t{text}\u2003\n") == once
    assert normalise(text.replace(" ", "\u00a0 \n")) == once
    assert normalise(unicodedata.normalize("NFD", text)) == once
    assert once == once.strip() and "  " not in once


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.text(st.sampled_from("ab \t\n\r\x0b\x0c\x1c\x1f\x00\x85\xa0\u2003e\u0301"))
    ),
    st.integers(0, 3),
)
def test_vectorised_hashes_equal_those_of_normalised_texts(texts, skip):
    array = pa.array(texts, pa.large_string()).slice(min(skip, len(texts)))
    hashes, blank = hash_texts(array)
    expected = [hashlib.blake2b(normalise(text).encode(), digest_size=16) for text in array.to_pylist()]
    assert [bytes(row) for row in hashes] == [digest.digest() for digest in expected]
    assert blank.tolist() == [not normalise(text) for text in array.to_pylist()]
    assert hex_ids(hashes).to_pylist() == [digest.hexdigest() for digest in expected]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=40))
def test_duplicates_equal_brute_force_even_when_half_of_the_hash_collides(rows):
    hashes = np.zeros((len(rows), 16), dtype=np.uint8)
    hashes[:, 0] = [low for low, _, _ in rows]
    hashes[:, 15] = [high for _, high, _ in rows]
    ignore = np.array([ignored for _, _, ignored in rows], dtype=bool)
    seen: dict[tuple[int, int], int] = {}
    expected = []
    for row, (low, high, ignored) in enumerate(rows):
        if not ignored:
            first = seen.setdefault((low, high), row)
            if first != row:
                expected.append([row, first])
    assert find_duplicates(hashes, ignore).tolist() == expected


def test_blank_rows_and_duplicates_are_left_out_and_counted(tmp_path):
    texts = ["a b", None, "", " \t\u00a0", "a  b ", "c", "caf\u00e9", "cafe\u0301", "a b"]
    pool = PoolRef(str(_parquet(tmp_path / "a.parquet", text=texts, label=[0, 0, 0, 0, 1, 0, 1, 1, 0]))).open()
    assert pool.usable_N.tolist() == [True, False, False, False, False, True, True, False, False]
    assert (pool.check.rows, pool.check.usable) == (9, 3)
    assert (pool.check.blank, pool.check.first_blank) == (3, (1, 2, 3))
    assert (pool.check.duplicates, pool.check.first_duplicates) == (3, ((4, 0), (7, 6), (8, 0)))
    assert pool.ids([0, 4]).unique().to_pylist() == [hashlib.blake2b(b"a b", digest_size=16).hexdigest()]
    assert pool.check.lines() == [
        "9 rows, 3 usable",
        "3 blank rows left out, first at 1, 2, 3",
        "3 duplicates left out, first 4 = 0, 7 = 6, 8 = 0",
    ]
    assert conflicting_labels(pool, read_labels(pool, "label")) == (1, ((4, 0),))


def test_keys_and_fingerprint_follow_content_and_order_only(tmp_path):
    one = PoolRef(str(_csv(tmp_path / "a.csv", [("a", 1), ("b", 2)]))).open()
    two = PoolRef(str(_jsonl(tmp_path / "b.jsonl", [{"text": "a "}, {"text": "b"}]))).open()
    swapped = PoolRef(str(_csv(tmp_path / "c.csv", [("b", 1), ("a", 2)]))).open()
    assert one.fingerprint == two.fingerprint != swapped.fingerprint
    assert one.keys_N.dtype == np.uint64
    assert one.keys_N.tolist() == swapped.keys_N.tolist()[::-1]
    assert one.keys_N[0] == int.from_bytes(hashlib.blake2b(b"a", digest_size=16).digest()[:8], "little")


def test_a_changed_file_is_read_again(tmp_path):
    path = _csv(tmp_path / "a.csv", [("a", 1)])
    assert _texts(PoolRef(str(path)).open()) == ["a"]
    _csv(path, [("b", 1)])
    os.utime(path, ns=(0, time.time_ns()))
    assert _texts(PoolRef(str(path)).open()) == ["b"]


def test_the_second_open_reads_the_cache(tmp_path, monkeypatch):
    ref = PoolRef(str(write_toy(tmp_path / "toy.csv")))
    first = ref.open()
    monkeypatch.setattr("svp_nlp.pool.hash_texts", None)
    monkeypatch.setattr("svp_nlp.pool_files._csv_batches", None)
    second = ref.open()
    assert second.fingerprint == first.fingerprint
    assert second.keys_N.tolist() == first.keys_N.tolist()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "file"))
    ref = PoolRef(str(write_toy(tmp_path / "toy.csv")))
    assert _texts(ref.open()) == toy_rows()[0]
    assert ref.open().fingerprint == ref.open().fingerprint


def test_processes_that_open_at_once_read_the_rows_once(tmp_path):
    built = []

    def build(directory):
        built.append(directory)
        (directory / "done").write_text("x")

    leftover = tmp_path / "svp-cache" / "kind" / ".tmp-1234abcd-key"
    leftover.mkdir(parents=True)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: cached_directory("kind", "key", build), range(8)))
    assert len(built) == 1
    assert {path / "done" for path in found} == {tmp_path / "svp-cache" / "kind" / "key" / "done"}
    assert not leftover.exists()


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(tmp_path):
    with pytest.raises(PoolError):
        PoolRef(str(_csv(tmp_path / "a.csv", [("a", 1), ("b",)]))).open()
    assert [p for p in (tmp_path / "svp-cache").rglob("*") if p.suffix != ".lock" and p.is_file()] == []
    assert _texts(PoolRef(str(_csv(tmp_path / "a.csv", [("a", 1), ("b", 2)]))).open()) == ["a", "b"]


def test_an_id_column_names_the_rows(tmp_path):
    path = _csv(tmp_path / "a.csv", [("x", "007"), ("x", "7"), ("y", "NA")], header=("text", "id"))
    pool = PoolRef(str(path), id_column="id").open()
    assert pool.ids([2, 0, 0]).to_pylist() == ["NA", "007", "007"]
    assert pool.keys_N[0] == int.from_bytes(hashlib.blake2b(b"007", digest_size=16).digest()[:8], "little")
    assert pool.check.first_duplicates == ((1, 0),)
    assert pool.fingerprint != PoolRef(str(path)).open().fingerprint
    numbers = PoolRef(str(_parquet(tmp_path / "b.parquet", text=["x", "y"], id=[10, 2])), id_column="id").open()
    assert numbers.ids([1, 0]).to_pylist() == ["2", "10"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a", "b"], "'a' in 'id' stands at positions 0 and 2 .2 repeated"),
        (["a", None, "c", "d"], "position 1"),
    ],
)
def test_ids_that_repeat_or_are_missing_are_refused(tmp_path, ids, message):
    path = _parquet(tmp_path / "a.parquet", text=["x", "y", "z", "w"], id=ids)
    with pytest.raises(PoolError, match=message):
        PoolRef(str(path), id_column="id").open()


# ---- what is refused


def _refused(ref: PoolRef) -> str:
    with pytest.raises(PoolError) as caught:
        ref.open()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    for path in ("./no.csv", str(tmp_path / "no"), str(tmp_path / "no.parquet"), "../no/where"):
        assert "no such file" in _refused(PoolRef(path))
    assert "'./no.csv'" not in _refused(PoolRef("no.csv"))


def test_a_missing_column_is_named_with_what_is_there(tmp_path):
    path = str(_csv(tmp_path / "a.csv", [("a", 1)], header=("Text", "label")))
    assert "no column 'text' (did you mean 'Text'?); it has Text (large_string), label (int64)" in _refused(
        PoolRef(path)
    )
    assert "no column 'ident'" in _refused(PoolRef(path, columns=("Text",), id_column="ident"))
    with pytest.raises(PoolError, match="did you mean 'label'"):
        read_labels(PoolRef(path, columns=("Text",)).open(), "lable")


def test_a_missing_split_is_named_with_what_is_there(tmp_path):
    folder = str(write_toy(tmp_path / "toy"))
    assert "no split 'tset' (did you mean 'test'?); it has 'train', 'test'" in _refused(PoolRef(folder, split="tset"))
    file = str(write_toy(tmp_path / "toy.csv"))
    assert "it has 'train'" in _refused(PoolRef(file, split="test"))


def test_a_missing_configuration_is_named_with_what_is_there(tmp_path):
    assert "'default'" in _refused(PoolRef(str(write_toy(tmp_path / "toy")), name="en"))


@pytest.mark.parametrize(
    "columns", [{"text": [1, 2]}, {"text": [1.5, 2.0]}, {"text": [["a"], ["b"]]}, {"text": [True, False]}]
)
def test_a_column_that_is_no_text_is_refused(tmp_path, columns):
    assert "expected text" in _refused(PoolRef(str(_parquet(tmp_path / "a.parquet", **columns))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"text,label\n", "no row"),
        (b"text,label\na,1\nb\n", "Row #3: Expected 2 columns, got 1"),
        (b"text,label\na,1\nb,2,3\n", "Row #3: Expected 2 columns, got 3"),
        (b"text,text\na,b\n", "column names repeat"),
        (b"text,label\n ,1\n,2\n", "all 2 rows are blank"),
        (b"text,label\nabc,1\ncaf\xe9,2\n", "not UTF-8 at byte 20 (line 3)"),
        (b"caf\xe9,label\nabc,1\n", "not UTF-8 at byte 3 (line 1)"),
        ("text,label\na,1\n".encode("utf-16"), "not UTF-8 at byte 0 (line 1)"),
    ],
)
def test_a_broken_csv_is_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    found = _refused(PoolRef(str(path)))
    assert message in found and str(path) in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "no row"),
        (b'{"text": "a"}\n{"text": "b"\n', "line 2: not JSON"),
        (b'{"text": "a"}\n\n["b"]\n', "line 3: holds a list"),
        (b'[{"text": "a"}]\n', "line 1: holds a list"),
        (b'{"text": "a"}\n{"text": 7}\n', "line 2: 'text' holds 7 (int); expected a string or null"),
        (b'{"text": "a"}\n{"text": "x\\ud800y"}\n', "line 2: lone surrogate \\ud800"),
        (b'{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n', "column 'n' mixes types"),
        (b'{"text": "a"}\n{"text": "caf\xe9"}\n', "not UTF-8 at byte 27 (line 2)"),
    ],
)
def test_a_broken_jsonl_is_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    found = _refused(PoolRef(str(path)))
    assert message in found and str(path) in found


def test_a_surrogate_pair_in_jsonl_is_a_character(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\\ud83d\\ude00"}\n')
    assert _texts(PoolRef(str(path)).open()) == ["\U0001f600"]


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=40), st.integers(1, 5))
def test_the_place_of_a_bad_byte_is_that_of_the_whole_file(tmp_path_factory, content, block):
    from svp_nlp import pool_files

    path = tmp_path_factory.mktemp("bytes") / "a.csv"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_files, "_UTF8_BLOCK", block)
        try:
            content.decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            with pytest.raises(PoolError) as caught:
                pool_files.check_utf8(path)
            assert f"at byte {error.start} (line {line})" in str(caught.value)
        else:
            pool_files.check_utf8(path)


def test_bytes_that_are_not_utf8_in_parquet_are_refused(tmp_path):
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe"))
    assert "not UTF-8" in _refused(PoolRef(str(_parquet(tmp_path / "a.parquet", text=bad))))


def test_a_damaged_gzip_file_is_refused(tmp_path, caplog):
    path = write_toy(tmp_path / "toy.jsonl.gz")
    for content in (path.read_bytes()[:-20], b"no gzip"):
        path.write_bytes(content)
        assert "damaged gzip data" in _refused(PoolRef(str(path)))
    assert "cannot be written" not in caplog.text


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = write_toy(tmp_path / "toy.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in _refused(PoolRef(str(path)))


def test_other_kinds_of_files_and_scripts_are_refused(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"x")
    assert "unknown kind of file" in _refused(PoolRef(str(tmp_path / "a.xlsx")))
    script = tmp_path / "scripted"
    script.mkdir()
    (script / "scripted.py").write_text("raise SystemExit('this must not run')")
    _refused(PoolRef(str(script)))


def test_options_that_do_not_apply_are_refused(tmp_path):
    path = str(write_toy(tmp_path / "toy.csv"))
    assert "revision" in _refused(PoolRef(path, revision="main"))
    assert "name" in _refused(PoolRef(path, name="en"))
    with pytest.raises(PoolError, match="one or more different text columns"):
        PoolRef(path, columns=())
    assert PoolRef(path, columns="text").columns == ("text",)  # type: ignore[arg-type]


def test_without_a_hub_the_error_is_quick_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    _refused(PoolRef("nobody/nothing"))
    assert "does not know revision 'main'" in _refused(PoolRef("nobody/nothing", revision="main"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", _no_network)
    assert "the Hub cannot be reached" in _refused(PoolRef("nobody/nothing"))
    assert time.monotonic() - start < 5


def test_offline_the_revision_that_is_asked_for_is_opened_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    shas = ["a" * 40, "b" * 40]
    for sha in shas:  # as load_dataset leaves it
        folder = tmp_path / "hf-cache" / "alice___toy" / "default" / "0.0.0" / sha
        data = datasets.Dataset.from_dict({"text": [f"text of {sha}"]})
        data.save_to_disk(str(tmp_path / sha))
        folder.mkdir(parents=True)
        Path(data.load_from_disk(str(tmp_path / sha)).cache_files[0]["filename"]).rename(folder / "toy-train.arrow")
        split = datasets.SplitInfo(name="train", num_examples=1, dataset_name="toy")
        datasets.DatasetInfo(
            features=data.features,
            dataset_name="toy",
            config_name="default",
            version="0.0.0",
            splits=datasets.splits.SplitDict({"train": split}),
        ).write_to_directory(str(folder))
    for sha in shas:
        pool = PoolRef("alice/toy", revision=sha).open()
        assert (_texts(pool), pool.ref.revision) == ([f"text of {sha}"], sha)
    assert "does not know revision 'main'" in _refused(PoolRef("alice/toy"))
    assert f"{'c' * 40} is not in the cache" in _refused(PoolRef("alice/toy", revision="c" * 40))


def _no_network(*_, **__):
    raise ConnectionError("Connection refused")


# ---- labels


def _labels(tmp_path, values, *, names=None, class_names=None):
    path = tmp_path / f"labels-{time.monotonic_ns()}.parquet"
    texts = [f"text {row}" for row in range(len(values))]
    if names is None:
        _parquet(path, text=texts, label=values)
    else:
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        table = pa.table({"text": texts, "label": pa.array(values, pa.int64())})
        pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), path)
    return read_labels(PoolRef(str(path)).open(), "label", class_names=class_names)


@pytest.mark.parametrize(
    ("values", "names", "labels", "class_names"),
    [
        (["b", "a", None, "", "b"], None, [1, 0, -1, -1, 1], ("a", "b")),
        ([10, 2, None, 10], None, [1, 0, -1, 1], ("2", "10")),
        ([-1, 1, 0], None, [0, 2, 1], ("-1", "0", "1")),
        ([True, False, None], None, [1, 0, -1], ("False", "True")),
        ([1, 0, -1, None], ["x", "y"], [1, 0, -1, -1], ("x", "y")),
        (pa.array(["b", "a", None]).dictionary_encode(), None, [1, 0, -1], ("a", "b")),
    ],
)
def test_labels_come_with_their_names(tmp_path, values, names, labels, class_names):
    column = _labels(tmp_path, values, names=names)
    assert column.labels_N.tolist() == labels
    assert column.class_names == class_names
    assert column.unlabelled == labels.count(-1)


def test_a_test_set_with_permuted_classes_agrees_by_name(tmp_path):
    pool = _labels(tmp_path, [0, 1, 2], names=["x", "y", "z"])
    test = _labels(tmp_path, [0, 1, 2, -1], names=["z", "x", "y"], class_names=pool.class_names)
    assert test.class_names == ("x", "y", "z")
    assert test.labels_N.tolist() == [2, 0, 1, -1]
    assert _labels(tmp_path, ["y", "x"], class_names=pool.class_names).labels_N.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "names", "class_names", "message"),
    [
        ([0, 5, 5, -2], ["x", "y"], None, r"labels are 0 to 1 .*; found -2 x 1, 5 x 2"),
        ([0.0, 1.0], None, None, "type double"),
        ([["x"], ["y"]], None, None, "expected class names, integers, or a ClassLabel"),
        ([None, None], None, None, "no row has a label"),
        (["1", "0"], None, ("no", "yes"), "'0' x 1 .if it is the index of 'no'"),
        ([1, 0], None, ("no", "yes"), "'1' x 1 .if it is the index of 'yes'"),
        (["Yes", "yes", "Yes"], None, ("no", "yes"), "'Yes' x 2 .did you mean 'yes'"),
        ([1], ["no", "maybe"], ("no", "yes"), "'maybe' x 1"),
        ([f"c{i:03}" for i in range(20)], None, ("no", "yes"), "and 10 more"),
    ],
)
def test_wrong_labels_are_refused_with_the_offenders(tmp_path, values, names, class_names, message):
    with pytest.raises(LabelError, match=message):
        _labels(tmp_path, values, names=names, class_names=class_names)


def test_numeric_csv_labels_sort_by_value_and_empty_cells_are_no_label(tmp_path):
    path = _csv(tmp_path / "a.csv", [("a", "10"), ("b", "9"), ("c", ""), ("d", "10")])
    column = read_labels(PoolRef(str(path)).open(), "label")
    assert (column.class_names, column.labels_N.tolist()) == (("9", "10"), [1, 0, -1, 1])
    with pytest.raises(LabelError, match="type double"):
        read_labels(PoolRef(str(_csv(tmp_path / "b.csv", [("a", "1.0"), ("b", "0.5")]))).open(), "label")
    words = read_labels(PoolRef(str(_csv(tmp_path / "c.csv", [("a", "NA"), ("b", "01"), ("c", "")]))).open(), "label")
    assert (words.class_names, words.labels_N.tolist()) == (("01", "NA"), [1, 0, -1])


# ---- pool and test set


def test_overlap_finds_every_test_row_that_is_in_the_pool(tmp_path):
    pool = PoolRef(str(_csv(tmp_path / "a.csv", [(t, 1) for t in ("a", "b b", "", "a", "c")]))).open()
    test = PoolRef(str(_csv(tmp_path / "b.csv", [(t, 1) for t in ("z", "b  b", "", "a ", "a")]))).open()
    found = overlap(pool, test)
    assert (found.count, found.first) == (3, ((1, 1), (0, 3), (0, 4)))
    assert overlap(pool, PoolRef(str(_csv(tmp_path / "c.csv", [("q", 1)]))).open()).count == 0


@settings(deadline=None, max_examples=20)
@given(*[st.lists(st.sampled_from(["a", "b", "a b", "a  b", " ", "c"]), min_size=1, max_size=8)] * 2)
def test_overlap_equals_brute_force(tmp_path_factory, pool_texts, test_texts):
    folder = tmp_path_factory.mktemp("overlap")
    pool = PoolRef(str(_jsonl(folder / "a.jsonl", [{"text": t} for t in ["pool only", *pool_texts]]))).open()
    test = PoolRef(str(_jsonl(folder / "b.jsonl", [{"text": t} for t in ["test only", *test_texts]]))).open()
    names = [normalise(text) for text in pool_texts]
    expected = [
        (names.index(normalise(text)) + 1, row)
        for row, text in enumerate(test_texts, start=1)
        if normalise(text) and normalise(text) in names
    ]
    found = overlap(pool, test)
    assert (found.count, found.first) == (len(expected), tuple(expected[:5]))


@pytest.mark.skipif(not (SHARED / "trec6").is_dir(), reason="real data is not at hand (set SVP_SHARED)")
def test_real_data_is_read_as_its_notes_say():
    pool, test = PoolRef(str(SHARED / "trec6")).open(), PoolRef(str(SHARED / "trec6"), split="test").open()
    assert (len(pool), len(test)) == (5_452, 500)
    assert pool.check.duplicates == 71
    assert overlap(pool, test).count == 10
    column = read_labels(pool, "label")
    assert len(column.class_names) == 6
    assert read_labels(test, "label", class_names=column.class_names).unlabelled == 0
