"""What makes two pushes the same content, and which labels go along."""

from __future__ import annotations

from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from toy import write_toy

from svp_nlp import LabelSet, Selection, active_learning, load_pool, load_selected, open_workspace
from svp_nlp.errors import HubRefused, LabelError


@pytest.fixture
def pool_file(tmp_path) -> Path:
    return write_toy(tmp_path / "pool.parquet")


def selection_of(pool, run_dir: Path, **options) -> tuple[Selection, LabelSet]:
    with open_workspace(pool, run_dir=run_dir, **options) as work:
        start = next(active_learning(work, learner="fasttext", strategy="random", initial=30, labeled_sizes=[40]))
        return start.selection, start.labels


def rewritten(file: Path, **columns) -> Path:
    table = pq.read_table(file)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
    pq.write_table(table, file)
    return file


def test_another_order_of_the_classes_is_another_content(hub, repo_id, pool_file, tmp_path):
    pool = load_pool(pool_file)
    selection, labels = selection_of(pool, tmp_path / "run")
    names = sorted(set(labels.table["label"].to_pylist()))
    for order in (names, names[::-1]):
        done = selection.push_to_hub(repo_id, pool=pool, labels=labels, class_names=order)
        assert done.new
        rows = datasets.load_dataset(repo_id, revision=done.version, split="train")
        assert rows.features["label"].names == order
        assert [rows.features["label"].int2str(n) for n in rows["label"][:]] == labels.table["label"].to_pylist()
    assert datasets.load_dataset(repo_id, split="train").features["label"].names == names[::-1]


def test_a_corrected_column_that_no_model_reads_is_another_content_and_another_join(hub, repo_id, pool_file, tmp_path):
    loaded = []
    for source in ("old", "new"):
        rewritten(pool_file, source=pa.array([f"{source}{n}" for n in range(200)]))
        pool = load_pool(pool_file)
        selection, _ = selection_of(pool, tmp_path / source)
        assert selection.push_to_hub(repo_id, pool=pool).new
        done = selection.push_to_hub(f"{repo_id}-ids", pool=pool, index_only=True)
        loaded.append(load_selected(f"{repo_id}-ids", revision=done.version, pool=pool)["source"][0])
    assert [value[:3] for value in loaded] == ["old", "new"]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_only_labels_that_are_not_the_pools_own_are_given_away_and_all_come_back(
    hub, repo_id, pool_file, tmp_path, noise
):
    pool = load_pool(pool_file)
    selection, labels = selection_of(pool, tmp_path / "run", noise=noise)
    given = labels.table["label"].to_pylist()
    done = selection.push_to_hub(repo_id, pool=pool, labels=labels, index_only=True)
    [file] = [f for f in HfApi().list_repo_files(repo_id, repo_type="dataset") if f.endswith(".parquet")]
    stored = pq.read_table(huggingface_hub.hf_hub_download(repo_id, file, repo_type="dataset"))["svp_label"].to_pylist()
    features, numbers = pool.features["label"], pool.column("label").take(selection.positions_K).to_pylist()
    own = [features.int2str(n) if isinstance(n, int) else n for n in numbers]
    assert stored == [None if a == b else a for a, b in zip(given, own, strict=True)]
    assert (noise > 0) == any(stored)
    rows = load_selected(repo_id, revision=done.version, pool=pool)
    assert [rows.features["label"].int2str(n) for n in rows["label"][:]] == given


def test_labels_of_a_column_that_the_pool_does_not_have_go_along(hub, repo_id, pool_file, tmp_path):
    pool = load_pool(pool_file)
    selection, labels = selection_of(pool, tmp_path / "run")
    selection.push_to_hub(repo_id, pool=pool, labels=labels, label_column="topic", index_only=True)
    rows = load_selected(repo_id, pool=pool)
    assert [rows.features["topic"].int2str(n) for n in rows["topic"][:]] == labels.table["label"].to_pylist()


def test_classes_stand_in_the_order_of_the_pool_and_new_ones_behind_them(hub, repo_id, tmp_path):
    names = ("weather", "music", "kitchen", "animals")
    pool = load_pool(write_toy(tmp_path / "pool", class_names=names))
    selection, labels = selection_of(pool, tmp_path / "run")
    selection.push_to_hub(repo_id, pool=pool, labels=labels)
    assert load_selected(repo_id).features["label"].names == list(names)
    given = ["zebras", "bees", *labels.table["label"].to_pylist()[2:]]
    people = LabelSet.of(selection.positions_K, selection.ids_K, pa.array(given), round=0, source="people")
    done = selection.push_to_hub(repo_id, pool=pool, labels=people)
    rows = load_selected(repo_id, revision=done.version)
    assert rows.features["label"].names == [*names, "bees", "zebras"]
    assert [rows.features["label"].int2str(n) for n in rows["label"][:]] == given


def test_labels_that_cannot_be_pushed_are_refused_before_anything_is_made(hub, repo_id, pool_file, tmp_path):
    pool = load_pool(pool_file)
    selection, labels = selection_of(pool, tmp_path / "run")
    for column in ("text", "svp_score"):
        with pytest.raises(HubRefused, match=rf"label_column is '{column}'.*; name another column"):
            selection.push_to_hub(repo_id, pool=pool, labels=labels, label_column=column)
    given = [None, *labels.table["label"].to_pylist()[1:]]
    holes = LabelSet.of(selection.positions_K, selection.ids_K, pa.array(given), round=0, source="people")
    for options in ({}, {"class_names": ["animals", "kitchen", "music", "weather"]}):
        with pytest.raises(
            LabelError, match=rf"position {selection.positions_K[0]:,} has a label that is null \(1 such"
        ):
            selection.push_to_hub(repo_id, pool=pool, labels=holes, **options)
    assert not HfApi().repo_exists(repo_id, repo_type="dataset")


@pytest.mark.parametrize("index_only", [False, True])
def test_labels_go_into_a_column_that_is_there_and_empty(hub, repo_id, pool_file, tmp_path, index_only):
    selection, labels = selection_of(load_pool(pool_file), tmp_path / "run")
    pool = load_pool(rewritten(pool_file, label=pa.nulls(200, pa.string())))
    done = selection.push_to_hub(repo_id, pool=pool, labels=labels, index_only=index_only)
    rows = load_selected(repo_id, revision=done.version, pool=pool)
    assert [rows.features["label"].int2str(n) for n in rows["label"][:]] == labels.table["label"].to_pylist()
