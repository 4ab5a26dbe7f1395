"""Selections and labels: kept exactly, tied to their pool."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import CLASS_NAMES, write_toy

from svp_nlp.columns import LabelColumn
from svp_nlp.errors import LabelError, LineageError
from svp_nlp.labels import LabelSet
from svp_nlp.oracles.column import ColumnOracle, ColumnOracleSpec
from svp_nlp.pool import PoolRef
from svp_nlp.pool_labels import read_labels
from svp_nlp.selected import SelectedRows, write_selected
from svp_nlp.selection import Lineage, Selection


@pytest.fixture
def pool(tmp_path):
    return PoolRef(str(write_toy(tmp_path / "toy"))).open()


def selection_of(pool, positions, scores=None) -> Selection:
    positions = np.asarray(positions, np.int64)
    lineage = Lineage(pool={"path": pool.ref.path}, strategy="margin", budget=len(positions), round=1, seed=0,
                      labeled_size=len(positions))  # fmt: skip
    return Selection(positions, pool.ids(positions), scores, lineage)


def test_a_selection_survives_saving_bit_for_bit(pool, tmp_path):
    scores = np.array([0.9, 0.5, 0.1], np.float32)
    selection = selection_of(pool, [17, 3, 150], scores)
    selection.save(tmp_path / "s")
    again = Selection.load(tmp_path / "s")
    assert again.positions_K.tolist() == [17, 3, 150]
    assert again.ids_K.to_pylist() == selection.ids_K.to_pylist()
    np.testing.assert_array_equal(again.scores_K, scores)
    assert again.lineage == selection.lineage
    assert again.fingerprint == selection.fingerprint


def test_an_empty_and_an_unscored_selection_survive_saving(pool, tmp_path):
    for name, positions in (("empty", []), ("unscored", [4, 2])):
        selection = selection_of(pool, positions)
        selection.save(tmp_path / name)
        again = Selection.load(tmp_path / name)
        assert again.scores_K is None or len(again) == 0
        assert again.fingerprint == selection.fingerprint


def test_the_fingerprint_depends_on_rows_and_order_not_on_scores_or_slicing(pool):
    one = selection_of(pool, [1, 2, 3], np.array([3, 2, 1], np.float32))
    assert one.fingerprint == selection_of(pool, [1, 2, 3]).fingerprint
    assert one.fingerprint != selection_of(pool, [1, 3, 2]).fingerprint
    sliced = dataclasses.replace(one, ids_K=pool.ids(np.array([9, 1, 2, 3])).slice(1))
    assert one.fingerprint == sliced.fingerprint


def test_a_changed_row_in_the_file_is_refused(pool, tmp_path):
    selection_of(pool, [1, 2, 3]).save(tmp_path / "s")
    path = tmp_path / "s" / "selection.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "svp_position", pa.array([1, 2, 4])), path)
    with pytest.raises(LineageError, match="was changed"):
        Selection.load(tmp_path / "s")


def test_verify_names_the_first_row_that_is_not_of_this_pool(pool, tmp_path):
    other = PoolRef(str(write_toy(tmp_path / "other", seed=5))).open()
    selection = selection_of(pool, [7, 8])
    selection.verify(pool)
    with pytest.raises(LineageError, match="position 7 has the id"):
        selection.verify(other)
    with pytest.raises(LineageError, match="position 199"):
        selection_of(pool, [199]).verify(PoolRef(str(write_toy(tmp_path / "small", rows=50))).open())


def test_to_dataset_keeps_the_order_and_joins_labels(pool):
    selection = selection_of(pool, [17, 3, 150], np.array([3, 2, 1], np.float32))
    labels = oracle_for(pool).labels_of(selection_of(pool, [150, 17, 9]))
    everything = selection.to_dataset(pool)
    assert everything["svp_position"][:] == [17, 3, 150]
    assert everything["text"][:] == pool.take([17, 3, 150])["text"].to_pylist()
    labelled = selection.to_dataset(pool, labels)
    assert labelled["svp_position"][:] == [17, 150]
    names = [CLASS_NAMES[i] for i in labelled["label"][:]]
    assert labelled["svp_label"][:] == names


def oracle_for(pool, noise=0.0, seed=0, column="label") -> ColumnOracle:
    return ColumnOracle(ColumnOracleSpec(noise=noise), read_labels(pool, column), pool.keys_N, seed)


def test_label_noise_hits_the_asked_share_and_the_same_rows_whoever_asks(pool):
    positions = np.arange(200)
    truth = oracle_for(pool).answers(positions)
    noisy = oracle_for(pool, noise=0.3).answers(positions)
    assert 0.2 < (truth != noisy).mean() < 0.4
    shuffled = np.random.default_rng(0).permutation(positions)
    assert oracle_for(pool, noise=0.3).answers(shuffled).tolist() == noisy[shuffled].tolist()
    assert (oracle_for(pool, noise=1.0).answers(positions) != truth).all()
    assert (oracle_for(pool, noise=0.3, seed=1).answers(positions) != noisy).any()


def test_a_row_without_a_label_is_an_error_not_a_class(pool):
    labels = LabelColumn(np.full(200, -1), CLASS_NAMES)
    oracle = ColumnOracle(ColumnOracleSpec(), labels, pool.keys_N, 0)
    with pytest.raises(LabelError, match="position 5 has no label"):
        oracle.answers(np.array([5, 6]))


def test_labels_keep_their_order_and_are_by_name(pool, tmp_path):
    oracle = oracle_for(pool)
    one, two = oracle.labels_of(selection_of(pool, [1, 2])), oracle.labels_of(selection_of(pool, [5]))
    both = LabelSet.empty().updated(one).updated(two)
    both.save(tmp_path / "labels.parquet")
    again = LabelSet.load(tmp_path / "labels.parquet")
    assert again.positions_L.tolist() == [1, 2, 5]
    assert again.fingerprint == both.fingerprint != one.fingerprint
    assert sum(again.class_counts(CLASS_NAMES).values()) == 3
    # Another order of the names gives other indices of the same names.
    turned = tuple(reversed(CLASS_NAMES))
    assert [turned[i] for i in again.indices(turned)] == [CLASS_NAMES[i] for i in again.indices(CLASS_NAMES)]
    with pytest.raises(LabelError, match="not among the classes"):
        again.indices(("fish",))


def label_set(*pairs, round=0) -> LabelSet:
    positions, names = zip(*pairs, strict=True) if pairs else ((), ())
    ids = pa.array([f"id{position}" for position in positions], pa.string())
    return LabelSet.of(np.array(positions, np.int64), ids, pa.array(names, pa.string()), round=round, source="people")


LABELS = st.dictionaries(st.integers(0, 9), st.sampled_from(["cat", "dog", None]), max_size=8)


@given(before=LABELS, more=LABELS)
def test_labels_that_are_updated_are_those_of_a_dict_in_its_order(before, more):
    before = {position: name for position, name in before.items() if name is not None}
    found = label_set(*before.items()).updated(label_set(*more.items(), round=1))
    expected = {position: name for position, name in (before | more).items() if name is not None}
    assert dict(zip(found.positions_L.tolist(), found.table["label"].to_pylist(), strict=True)) == expected
    assert found.positions_L.tolist() == list(expected)


@given(before=LABELS, after=LABELS)
def test_the_changes_between_two_label_sets_lead_from_one_to_the_other(before, after):
    before = {position: name for position, name in before.items() if name is not None}
    after = before | after  # what is not mentioned any more is taken away by a null label
    old, new = label_set(*before.items()), label_set(*after.items())
    changes = new.changes_to(old)
    assert old.updated(changes).table["label"].to_pylist() == old.updated(new).table["label"].to_pylist()
    assert all(before.get(p, "?") != after[p] for p in changes.positions_L.tolist())


def test_the_selected_folder_loads_as_a_dataset_with_class_names(pool, tmp_path):
    from datasets import load_dataset

    labels = oracle_for(pool).labels_of(selection_of(pool, [17, 3, 150]))
    scores = np.array([np.nan, 0.5, 0.25], np.float32)
    rows = SelectedRows(pool, labels, scores, CLASS_NAMES, "label")
    write_selected(tmp_path / "out", rows, strategy="margin")
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    assert dataset.features["label"].names == list(CLASS_NAMES)
    assert dataset["svp_position"][:] == [17, 3, 150]
    assert dataset["svp_score"][:] == [None, 0.5, 0.25]
    assert dataset["label"][:] == labels.indices(CLASS_NAMES).tolist()


def test_what_a_folder_tells_of_itself_cannot_break_its_page(tmp_path):
    names = ["text", "`l`\n# b"]
    pq.write_table(pa.table([["a"], ["x"]], names), tmp_path / "p.parquet")
    pool = PoolRef(str(tmp_path / "p.parquet")).open()
    labels = oracle_for(pool, column=names[1]).labels_of(selection_of(pool, [0]))
    rows = SelectedRows(pool, labels, np.array([np.nan], np.float32), ("x",), names[1])
    write_selected(tmp_path / "out", rows, strategy="margin")
    readme = (tmp_path / "out/README.md").read_text()
    assert "\\`l\\` # b" in readme
    assert [line for line in readme.splitlines() if line.startswith("#")] == ["# Selected rows"]
    assert "revision" not in readme  # it is on no Hub


def test_a_pool_that_is_a_selection_itself_gives_its_columns_up(pool, tmp_path):
    first = selection_of(pool, [17, 3, 150], np.array([3, 2, 1], np.float32))
    labels = oracle_for(pool).labels_of(first)
    first.to_dataset(pool, labels).to_parquet(tmp_path / "first.parquet")
    again = PoolRef(str(tmp_path / "first.parquet")).open()
    second = selection_of(again, [2, 0], np.array([9, 8], np.float32))
    found = second.to_dataset(again, oracle_for(again).labels_of(second))
    assert (found["svp_position"][:], found["svp_score"][:]) == ([2, 0], [9.0, 8.0])
    rows = SelectedRows(again, oracle_for(again).labels_of(second), second.scores_K, CLASS_NAMES, "label")
    write_selected(tmp_path / "out", rows, strategy="margin")
    assert pq.read_table(tmp_path / "out/data")["svp_position"].to_pylist() == [2, 0]
