"""Versions read back: moved tags, branches, caches that hold a part, damaged lineages, private and changed pools."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from huggingface_hub import CommitOperationDelete, HfApi, constants
from localhub import ALICE
from strangers import rewrite_lineage
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp import LabelSet, Selection, load_pool, load_selected
from svp_nlp.errors import HubError, HubRefused, LineageError, SVPError
from svp_nlp.hub.load import pull_selection
from svp_nlp.hub.retry import Patience
from svp_nlp.pool_labels import read_labels
from svp_nlp.selection import Lineage


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return load_pool(write_toy(tmp_path_factory.mktemp("pulls") / "toy.csv"))


def picked(pool, rows) -> Selection:
    positions = np.arange(rows, dtype=np.int64)[::-1] * 3
    known = {**pool.ref.meaning, "rows": len(pool), "fingerprint": pool.fingerprint}
    lineage = Lineage(pool=known, strategy="margin", budget=rows, round=rows, seed=0, labeled_size=rows)
    return Selection(positions, pool.ids(positions), None, lineage)


def push(pool, repo_id, rows, **options):
    return picked(pool, rows).push_to_hub(repo_id, pool=pool, **options)


def with_own_labels(pool, repo_id, rows, **options):
    selection, found = picked(pool, rows), read_labels(pool, "label")
    names = pa.array([found.class_names[n] for n in found.labels_N[selection.positions_K]])
    labels = LabelSet.of(selection.positions_K, selection.ids_K, names, round=1, source="column")
    return selection.push_to_hub(repo_id, pool=pool, labels=labels, class_names=found.class_names, **options)


def move_tag(repo_id, tag, revision):
    HfApi().delete_tag(repo_id, tag=tag, repo_type="dataset")
    HfApi().create_tag(repo_id, tag=tag, revision=revision, repo_type="dataset")


@pytest.fixture
def no_patience(monkeypatch, short_waits):
    monkeypatch.setattr("svp_nlp.hub.pull._READING", Patience(deadline_s=0.1, first_wait_s=0.01))


def go_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_tag_that_was_moved_to_another_version_is_refused_with_both(hub, repo_id, pool):
    first = push(pool, repo_id, 5)
    push(pool, repo_id, 6)
    move_tag(repo_id, "v1", "v2")
    with pytest.raises(LineageError, match=rf"this is version v2, not v1: .* v1 was commit {first.sha}"):
        load_selected(repo_id, revision="v1")
    assert len(load_selected(repo_id, revision="v2")) == 6
    assert len(load_selected(repo_id, revision=first.sha)) == 5


def test_a_version_whose_tag_is_on_another_commit_than_when_it_was_read_is_told_and_stays_what_it_was_offline(
    hub, repo_id, pool, monkeypatch, caplog
):
    first = push(pool, repo_id, 5)
    push(pool, repo_id, 6)
    load_selected(repo_id, revision="v2")
    move_tag(repo_id, "v2", first.sha)
    load_selected(repo_id, revision="v2")  # what this commit holds knows of no v2
    assert f"version v2 is commit {first.sha} now; when it was read here" in caplog.text
    go_offline(monkeypatch)
    assert len(load_selected(repo_id, revision="v2")) == 6


@pytest.mark.parametrize("name", ["dev", "best"])
def test_a_branch_or_a_tag_of_ones_own_is_treated_like_main_without_the_hub(
    hub, repo_id, pool, name, no_patience, monkeypatch, caplog
):
    push(pool, repo_id, 5)
    make = HfApi().create_branch if name == "dev" else HfApi().create_tag
    make(repo_id, repo_type="dataset", **{"branch" if name == "dev" else "tag": name})
    assert len(load_selected(repo_id, revision=name)) == 5
    load_selected(repo_id, revision="v1")
    hub.die_at(1)
    with pytest.raises(HubError, match="did not take it"):
        load_selected(repo_id, revision=name)
    assert len(load_selected(repo_id, revision="v1")) == 5
    caplog.clear()
    go_offline(monkeypatch)
    assert len(load_selected(repo_id, revision="v1")) == 5
    assert caplog.messages == []
    assert len(load_selected(repo_id, revision=name)) == 5
    assert f"offline; {name} is taken as it was on" in caplog.text


def test_of_a_version_only_part_of_which_is_cached_it_is_said_to_go_online(
    hub, repo_id, pool, no_patience, monkeypatch
):
    first = push(pool, repo_id, 5)
    push(pool, repo_id, 6)
    huggingface_hub.hf_hub_download(repo_id, "lineage.json", repo_type="dataset", revision=first.sha)
    hub.die_at(1)
    with pytest.raises(HubError, match="the Hub did not take it within"):
        load_selected(repo_id, revision=first.sha)
    go_offline(monkeypatch)
    with pytest.raises(HubRefused, match=r"offline \(HF_HUB_OFFLINE=1\), and it is not in the cache; go online once"):
        load_selected(repo_id, revision=first.sha)


def test_a_file_that_somebody_removed_is_named(hub, repo_id, pool):
    push(pool, repo_id, 5)
    name = "data/default/train-00000-of-00001.parquet"
    HfApi().create_commit(repo_id, [CommitOperationDelete(name)], commit_message="x", repo_type="dataset")
    with pytest.raises(LineageError, match=rf"{name} is missing, but lineage.json names it"):
        load_selected(repo_id)


def _drop(*path):
    def change(document):
        for name in path[:-1]:
            document = document[name]
        del document[path[-1]]

    return change


def _put(value, *path):
    def change(document):
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


ENTRY = ("configs", "default")
DAMAGES = {
    "entry-is-a-list": _put([], *ENTRY),
    "entry-without-files": _drop(*ENTRY, "files"),
    "files-are-a-list": _put(["data/default/train-00000-of-00001.parquet"], *ENTRY, "files"),
    "files-elsewhere": _put({"../../x": {"sha256": "0"}}, *ENTRY, "files"),
    "file-without-hash": _put({"README.md": {}}, *ENTRY, "files"),
    "no-lineage": _drop(*ENTRY, "lineage"),
    "strange-lineage": _put({"of": "another kind"}, *ENTRY, "lineage"),
    "more-rows-than-there-are": _put(10**6, *ENTRY, "selection", "rows"),
    "rows-are-a-text": _put("5", *ENTRY, "selection", "rows"),
    "a-version-is-a-number": _put([1], "versions"),
    "a-version-without-key": _put([{"version": "v1"}], "versions"),
    "no-version": _put([], "versions"),
    "a-version-that-is-a-path": _put("x/../../../evil", *ENTRY, "version"),
    "the-last-version-is-a-path": lambda document: document["versions"][-1].update(version="../evil"),
    "no-configuration": _put({}, "configs"),
    "endless-format": lambda document: json.dumps({**document, "format": float("inf")}).encode(),
    "deep": lambda document: b"[" * 100_000,
    "a-list": lambda document: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lineage_is_one_line(hub, repo_id, pool, damage, tmp_path, monkeypatch):
    (tmp_path / "a/b/c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b/c")
    push(pool, repo_id, 5)
    rewrite_lineage(repo_id, DAMAGES[damage])
    with pytest.raises(SVPError, match=repo_id) as told:
        pull_selection(repo_id)
    assert "\n" not in str(told.value)
    assert "several" not in str(told.value)
    assert not list((tmp_path / "a").rglob("*.*"))


@pytest.mark.parametrize("damage", ["a-version-is-a-number", "files-are-a-list", "endless-format", "deep", "a-list"])
def test_a_damaged_lineage_is_one_line_for_who_pushes_too(hub, repo_id, pool, damage):
    push(pool, repo_id, 5)
    rewrite_lineage(repo_id, DAMAGES[damage])
    with pytest.raises(HubRefused, match=r"its lineage\.json was not written by svp_nlp, or is damaged"):
        push(pool, repo_id, 6)


def test_a_configuration_of_others_that_no_card_can_tell_of_is_one_line_for_who_pushes(hub, repo_id, pool):
    push(pool, repo_id, 5)
    rewrite_lineage(repo_id, _put({"version": "v1", "files": {}}, "configs", "other"))
    with pytest.raises(LineageError, match=rf"dataset {repo_id}: its lineage\.json is damaged"):
        push(pool, repo_id, 6)


def test_the_token_that_is_given_also_reads_the_licence_of_the_private_parent(hub, repo_id, monkeypatch):
    texts, labels = toy_rows(30)
    Dataset.from_dict({"text": texts, "label": labels}).push_to_hub(f"{repo_id}-pool", private=True)
    huggingface_hub.metadata_update(f"{repo_id}-pool", {"license": "mit"}, repo_type="dataset")
    parent = load_pool(f"{repo_id}-pool")
    monkeypatch.delenv("HF_TOKEN")
    push(parent, repo_id, 5, token=ALICE)
    assert huggingface_hub.get_token() is None
    assert huggingface_hub.DatasetCard.load(repo_id).data.license == "mit"


def test_a_version_is_pulled_under_the_name_that_was_asked_for(hub, repo_id, pool, tmp_path, monkeypatch):
    push(pool, repo_id, 5, config="a")
    push(pool, repo_id, 6, config="b")
    monkeypatch.chdir(tmp_path)
    found = pull_selection(repo_id, revision="v2", config="a")
    assert (found["version"], found["rows"]) == ("v2", 5)
    assert found["directory"] == f"{repo_id.split('/')[1]}-v2"
    assert "v2" in (tmp_path / found["directory"] / "README.md").read_text()


@pytest.mark.parametrize("content", ["[]", "{", '{"pulled": 3}'])
def test_a_folder_with_a_lineage_that_is_none_is_not_replaced(hub, repo_id, pool, tmp_path, content):
    push(pool, repo_id, 5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/lineage.json").write_text(content)
    with pytest.raises(HubRefused, match="mine holds other files"):
        pull_selection(repo_id, tmp_path / "mine")


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "place", ["huggingface_hub.HfApi.snapshot_download", "svp_nlp.hub.load.write_rows", "datasets.Dataset.from_parquet"]
)
def test_a_full_disk_says_what_to_do(hub, repo_id, pool, place, monkeypatch):
    push(pool, repo_id, 5, index_only=True)
    monkeypatch.setattr(place, full_disk)
    with pytest.raises(HubRefused, match=r"no space left on the disk.*free some, or move the caches"):
        load_selected(repo_id, pool=pool)


def test_the_token_that_is_given_also_opens_the_private_parent(hub, repo_id, tmp_path, monkeypatch):
    texts, labels = toy_rows(60)
    Dataset.from_dict({"text": texts, "label": labels}).push_to_hub(f"{repo_id}-pool", private=True)
    parent = load_pool(f"{repo_id}-pool")
    push(parent, repo_id, 5, index_only=True, private=True)
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.setattr(constants, name, str(tmp_path / "fresh"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "fresh" / "datasets")
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "fresh" / "svp"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubRefused):
        load_selected(repo_id)
    assert load_selected(repo_id, token=ALICE)["text"][:] == [texts[p] for p in (12, 9, 6, 3, 0)]
    assert pull_selection(repo_id, tmp_path / "out", token=ALICE)["rows"] == 5
    assert huggingface_hub.get_token() is None
    assert all(ALICE not in p.read_text(errors="ignore") for p in (tmp_path / "out").rglob("*") if p.is_file())


def changed(pool, folder: Path, column: str, change) -> Path:
    table = pool.dataset(np.arange(len(pool))).data.table
    values = table[column].to_pylist()
    change(values)
    folder.mkdir()
    kept = {name: table[name].to_pylist() for name in table.column_names}
    pq.write_table(pa.table({**kept, column: values}), folder / "pool.parquet")
    return folder / "pool.parquet"


def test_labels_of_the_pool_that_are_others_now_are_told(hub, repo_id, pool, tmp_path):
    with_own_labels(pool, repo_id, 5, index_only=True)
    assert load_selected(repo_id, pool=pool).features["label"].names == sorted(CLASS_NAMES)

    def swap(values):
        others = [name for name in sorted(CLASS_NAMES) if name != values[6]]
        values[6] = others[0]

    with pytest.raises(
        LineageError, match=r"labels in column 'label' .* are not what they were \(\d of '\w+', expected \d; \d of"
    ):
        load_selected(repo_id, pool=load_pool(changed(pool, tmp_path / "swapped", "label", swap)))

    def rename(values):
        values[6] = "cooking"

    with pytest.raises(LineageError, match=r"position 6 has cooking, expected \['animals'"):
        load_selected(repo_id, pool=load_pool(changed(pool, tmp_path / "renamed", "label", rename)))


def test_a_join_with_another_pool_is_not_taken_from_the_cache(hub, repo_id, pool, tmp_path):
    """The ids cover the model's columns alone: two pools may differ in others."""
    texts, _ = toy_rows(60)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pq.write_table(
            pa.table({"text": texts, "note": [f"{name} {i}" for i in range(60)]}), tmp_path / name / "p.parquet"
        )
    first, second = (load_pool(tmp_path / name / "p.parquet") for name in ("a", "b"))
    push(first, repo_id, 2, index_only=True)
    assert load_selected(repo_id, pool=first)["note"][:] == ["a 3", "a 0"]
    assert load_selected(repo_id, pool=second)["note"][:] == ["b 3", "b 0"]


def test_a_selection_of_no_row_is_read_back(hub, repo_id, pool):
    for index_only in (False, True):
        done = push(pool, repo_id, 0, index_only=index_only)
        found = load_selected(repo_id, revision=done.version, pool=pool)
        assert (len(found), found.column_names[:2]) == (0, ["text", "label"])
        assert len(Selection.from_hub(repo_id, revision=done.version)) == 0


def test_a_selection_is_compared_with_its_pool_block_by_block(pool, tmp_path, monkeypatch):
    monkeypatch.setattr("svp_nlp.selection._ROWS_PER_BLOCK", 4)
    selection = picked(pool, 10)
    selection.verify(pool)

    def rewrite(values):
        values[6] = "somebody rewrote this"

    other = load_pool(changed(pool, tmp_path / "other", "text", rewrite))
    with pytest.raises(LineageError, match=r"position 6 has the id \w+ in this pool, \w+ in the selection; expected"):
        selection.verify(other)
