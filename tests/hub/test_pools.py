"""Pools from the Hub: one commit per run, from the caches by commit, refused in one line, streamed to the same rows."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from localhub import ALICE, BOB, Fault
from small_run import outcome, small_recipe
from toy import write_toy

import svp_nlp.data as data
from svp_nlp import load_pool
from svp_nlp.errors import Interrupted, PoolError
from svp_nlp.experiment import run_recipe
from svp_nlp.files import read_json
from svp_nlp.pool import Pool, PoolRef
from svp_nlp.pool_labels import read_labels
from svp_nlp.recipe import make_recipe

FORMATS = ["csv", "jsonl", "parquet"]
ROWS = [("NA", 0), ("007 \u00e4", 1), ('a,b "c"', 0), ("2020-01-01", 1), ("plain words", 0), ("line\nbreak", 1)]
CARD = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names: {'0': bad, '1': good}
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train*}
  - {split: test, path: data/test*}
---
"""
RECIPE = {
    "mode": "active_learning", "test": {}, "proxy": {"kind": "fasttext"}, "target": {"kind": "fasttext"},
    "strategies": ["margin"], "initial": 2, "labeled_sizes": [4], "baselines": [],
}  # fmt: skip
Usage = namedtuple("Usage", "total used free")


def content(kind: str, rows: list[tuple[str, int]]) -> bytes:
    texts, labels = [row[0] for row in rows], [row[1] for row in rows]
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({"text": texts, "label": pa.array(labels, pa.int64())}), sink, row_group_size=2)
        return sink.getvalue()
    frame = datasets.Dataset.from_dict({"text": texts, "label": labels})
    sink = io.BytesIO()
    frame.to_csv(sink, index=False) if kind == "csv" else frame.to_json(sink, force_ascii=False)
    return sink.getvalue()


def commit(repo_id: str, files: dict[str, bytes | str], **options) -> str:
    """Push one commit; returns its sha."""
    HfApi().create_repo(repo_id, repo_type="dataset", exist_ok=True, **options)
    operations = [CommitOperationAdd(k, v.encode() if isinstance(v, str) else v) for k, v in files.items()]
    return HfApi().create_commit(repo_id, operations, commit_message="rows", repo_type="dataset").oid


def push(repo_id: str, kind: str = "csv", mark: str = "", **options) -> str:
    rows = [(f"{text}{mark}", label) for text, label in ROWS]
    files = {
        f"data/train.{kind}": content(kind, rows),
        f"data/test.{kind}": content(kind, [("held out" + mark, 1)] * 2),
    }
    return commit(repo_id, {"README.md": CARD, **files}, **options)


def texts(pool: Pool) -> list[str]:
    return pool.take(np.arange(len(pool)))["text"].to_pylist()


def refused(*args, **options) -> str:
    with pytest.raises(PoolError) as caught:
        load_pool(*args, **options)
    said = str(caught.value)
    assert "\n" not in said and not re.search("hf_[A-Za-z0-9]{8}", said), said
    return said


@pytest.fixture
def offline(hub, monkeypatch):
    """Call it to go offline; nothing reaches the Hub from then on."""

    def go() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        huggingface_hub.HfFileSystem.clear_instance_cache()

    return go


@pytest.fixture
def unreachable(hub, monkeypatch):
    """Call it to let the Hub go away without a word."""

    def go() -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
        huggingface_hub.HfFileSystem.clear_instance_cache()

    return go


# ---- one commit


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_at_its_commit_and_found_again_without_the_hub(hub, repo_id, kind, offline):
    first = push(repo_id, kind)
    old = load_pool(repo_id)
    second = push(repo_id, kind, mark=" new")
    new = load_pool(repo_id)
    assert (old.ref.revision, new.ref.revision) == (first, second)
    assert texts(old) == [text for text, _ in ROWS]
    assert texts(new) == [f"{text} new" for text, _ in ROWS]
    assert read_labels(old, "label").class_names == ("bad", "good")
    hub.requests.clear()
    assert texts(load_pool(repo_id, revision=first)) == texts(old)
    assert hub.requests == []
    offline()
    for pool in (old, new):
        again = load_pool(repo_id, revision=pool.ref.revision)
        assert (again.fingerprint, texts(again)) == (pool.fingerprint, texts(pool))
        assert read_labels(again, "label").class_names == ("bad", "good")
    assert "is not in the cache; go online once" in refused(repo_id, revision="c" * 40)


def test_offline_a_branch_is_the_commit_that_the_cache_remembers_and_says_so(hub, repo_id, offline, caplog):
    first = push(repo_id)
    HfApi().create_tag(repo_id, tag="v1", repo_type="dataset", revision=first)
    load_pool(repo_id, revision="v1")
    second = push(repo_id, mark=" new")
    load_pool(repo_id)
    offline()
    with caplog.at_level(logging.WARNING, "svp_nlp"):
        assert load_pool(repo_id, revision="v1").ref.revision == first
        assert load_pool(repo_id).ref.revision == second
    assert re.search(f"offline, so v1 is commit {first}, as it was on 20", caplog.messages[0])
    assert re.search(f"offline, so main is commit {second}, as it was on 20", caplog.messages[1])
    said = refused(repo_id, revision="v2")
    assert "does not know revision 'v2'" in said and first in said
    assert "go online once" in refused("alice/never-seen")


def test_a_cached_commit_needs_no_hub_but_a_branch_does(hub, repo_id, unreachable):
    sha = push(repo_id)
    pool = load_pool(repo_id)
    unreachable()
    assert load_pool(repo_id, revision=sha).fingerprint == pool.fingerprint
    said = refused(repo_id)
    assert "the Hub cannot be reached" in said and "HF_HUB_OFFLINE=1" in said
    assert "the Hub cannot be reached" in refused(repo_id, revision="c" * 40)


@pytest.mark.parametrize("kind", FORMATS)
def test_offline_what_hf_download_has_fetched_is_enough_when_it_is_whole(hub, repo_id, kind, offline, monkeypatch):
    push(repo_id, kind)
    expected = load_pool(repo_id)
    shutil.rmtree(os.environ["SVP_CACHE"])
    shutil.rmtree(datasets.config.HF_DATASETS_CACHE)
    folder = Path(huggingface_hub.snapshot_download(repo_id, repo_type="dataset"))
    offline()
    pool = load_pool(repo_id)
    assert (pool.fingerprint, pool.ref) == (expected.fingerprint, expected.ref)
    shutil.rmtree(os.environ["SVP_CACHE"])
    shutil.rmtree(datasets.config.HF_DATASETS_CACHE)
    (folder / "data" / f"test.{kind}").unlink()
    assert "is not in the cache" in refused(repo_id)


def test_a_json_array_is_found_again_offline(hub, repo_id, offline):
    rows = [{"text": text, "label": label} for text, label in ROWS[1:]]
    commit(repo_id, {"data.json": json.dumps(rows)})
    pool = load_pool(repo_id)
    offline()
    assert load_pool(repo_id, revision=pool.ref.revision).fingerprint == pool.fingerprint


def test_what_load_dataset_made_of_a_csv_is_not_taken_for_ours(hub, repo_id, offline):
    sha = push(repo_id)
    assert datasets.load_dataset(repo_id, revision=sha)["train"]["text"][0] is None  # "NA"
    offline()
    assert "is not in the cache" in refused(repo_id, revision=sha)


def test_offline_the_default_configuration_is_the_one_of_the_card(hub, repo_id, offline):
    configs = ["{config_name: a, data_files: a.parquet}", "{config_name: b, data_files: b.parquet, default: true}"]
    card = f"---\nconfigs: [{', '.join(configs)}]\n---\n"
    files = {f"{name}.parquet": content("parquet", [(f"text {name} {i}", i) for i in range(2)]) for name in "ab"}
    sha = commit(repo_id, {"README.md": card, **files})
    assert texts(load_pool(repo_id, name="a"))[0] == "text a 0"
    offline()
    assert "is not in the cache" in refused(repo_id, revision=sha)
    assert texts(load_pool(repo_id, name="a", revision=sha))[0] == "text a 0"


def test_pool_test_and_dev_are_of_one_commit_though_somebody_pushes_in_between(hub, repo_id, monkeypatch):
    first = push(repo_id, "parquet")
    recipe = make_recipe({**RECIPE, "pool": {"path": repo_id}})
    recipe = recipe.model_copy(update={"dev": recipe.test})
    plain = data.read_labels

    def push_then_read(pool, column, **options):
        if pool.ref.split == "train":
            push(repo_id, "parquet", mark=" new")
        return plain(pool, column, **options)

    monkeypatch.setattr(data, "read_labels", push_then_read)
    opened = data.open_data(recipe)
    assert opened.revisions == {"pool": first, "test": first, "dev": first}
    assert opened.test.rows["text"].to_pylist() == ["held out"] * 2
    hub.requests.clear()
    again = data.open_data(recipe, opened.revisions)
    assert again.pool.fingerprint == opened.pool.fingerprint
    assert again.test.rows == opened.test.rows


def test_revisions_of_files_on_disk_are_none(tmp_path, hub):
    (tmp_path / "a.csv").write_bytes(content("csv", ROWS))
    (tmp_path / "b.csv").write_bytes(content("csv", [("held out", 1), ("out", 0)]))
    pool, test = {"path": str(tmp_path / "a.csv")}, {"path": str(tmp_path / "b.csv"), "split": "train"}
    opened = data.open_data(make_recipe({**RECIPE, "pool": pool, "test": test}))
    assert opened.revisions == {"pool": None, "test": None}
    assert hub.requests == []


def test_a_run_goes_on_with_the_commit_that_it_began_with(hub, repo_id, tmp_path, offline):
    def push_toy(seed: int) -> str:
        folder = write_toy(tmp_path / f"toy-{seed}", seed=seed)
        return commit(repo_id, {f"data/{f.name}": f.read_bytes() for f in (folder / "data").iterdir()})

    def run(name: str, stop) -> dict:
        run_recipe(recipe, tmp_path / name, stop_requested=stop)
        return outcome(tmp_path / name)

    first = push_toy(0)
    recipe = small_recipe(repo_id, test=None, target=None)
    straight = run("straight", lambda: False)
    asked = iter([False] * 3)
    with pytest.raises(Interrupted):
        run("resumed", lambda: next(asked, True))
    second = push_toy(1)
    assert run("resumed", lambda: False) == straight
    assert run("newer", lambda: False) != straight
    offline()
    assert run("resumed", lambda: False) == straight
    assert read_json(tmp_path / "resumed" / "pools" / "step.json")["output"] == {"pool": first}
    assert read_json(tmp_path / "newer" / "pools" / "step.json")["output"] == {"pool": second}


# ---- refused


def test_a_private_dataset_says_what_is_missing(hub, repo_id, monkeypatch):
    push(repo_id, private=True)
    assert len(load_pool(repo_id)) == len(ROWS)
    monkeypatch.setenv("HF_TOKEN", BOB)
    assert "no such dataset on the Hub that your token may read" in refused(repo_id)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongWrongWrongWrongWrong")
    assert "the Hub does not know your token" in refused(repo_id)
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused(repo_id)


def test_a_gated_dataset_says_where_to_ask(hub, repo_id, monkeypatch):
    sha = push(repo_id, "parquet")
    HfApi().update_repo_settings(repo_id, repo_type="dataset", gated="manual")
    monkeypatch.setenv("HF_TOKEN", BOB)
    for revision in (None, sha):
        said = refused(repo_id, revision=revision)
        assert f"must be asked for on its page, {hub.endpoint}/datasets/{repo_id}; your token has none yet" in said
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused(repo_id)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    assert len(load_pool(repo_id)) == len(ROWS)


def test_what_is_not_there_is_told_apart(hub, repo_id):
    assert "no such dataset on the Hub" in refused("alice/nothing-here")
    HfApi().create_repo(f"{repo_id}-model")
    assert "this is a model on the Hub, not a dataset" in refused(f"{repo_id}-model")
    sha = push(repo_id, "parquet")
    HfApi().create_tag(repo_id, tag="v1", repo_type="dataset")
    assert "no revision 'v11' on the Hub (did you mean 'v1'?); it has main, v1" in refused(repo_id, revision="v11")
    assert "no revision 'cccc" in refused(repo_id, revision="c" * 40)
    assert "is not a name" in refused(repo_id, revision="../../x")
    assert "no configuration 'en'; it has 'default'" in refused(repo_id, name="en")
    assert "no split 'tset' (did you mean 'test'?); it has 'train', 'test'" in refused(repo_id, split="tset")
    assert len(load_pool(repo_id, revision=sha)) == len(ROWS)
    assert "no split 'tset'" in refused(repo_id, split="tset", revision=sha)


def test_a_hub_that_fails_is_told_in_one_line(hub, repo_id):
    push(repo_id)
    hub.faults.append(Fault(rf"GET /api/datasets/{repo_id}", status=503, message="on fire"))
    assert "the Hub failed (503, on fire)" in refused(repo_id)
    hub.faults.append(Fault(rf"GET /datasets/{repo_id}/resolve/.*train", status=500, times=-1))
    assert "the Hub failed (500" in refused(repo_id)
    hub.faults.clear()
    assert len(load_pool(repo_id)) == len(ROWS)


def test_another_commit_in_the_cache_does_not_hide_that_the_hub_failed(hub, repo_id):
    push(repo_id, "parquet")
    load_pool(repo_id)
    second = push(repo_id, "parquet", mark=" new")
    hub.faults.append(Fault(rf"/api/datasets/{repo_id}/tree/", status=403, times=-1, message="not today"))
    said = refused(repo_id)
    assert "not today" in said, said
    hub.faults.clear()
    assert load_pool(repo_id).ref.revision == second


def test_a_slash_at_the_end_of_the_endpoint_is_told(hub, repo_id, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"{hub.endpoint}/")
    assert f"set it to {hub.endpoint}" in refused(repo_id)


# ---- streaming


@pytest.mark.parametrize("kind", FORMATS)
def test_a_streamed_pool_is_the_same_pool(hub, repo_id, kind, tmp_path, monkeypatch, offline):
    push(repo_id, kind)
    plain = load_pool(repo_id)
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "other-datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other-hub"))
    streamed = load_pool(repo_id, streaming=True)
    assert streamed.fingerprint == plain.fingerprint
    assert streamed.ids(np.arange(len(plain))) == plain.ids(np.arange(len(plain)))
    assert texts(streamed) == texts(plain)
    assert read_labels(streamed, "label").class_names == ("bad", "good")
    assert streamed.ref == plain.ref
    kept = [f for f in tmp_path.glob("other*/**/*") if f.is_file() and f.suffix in (".csv", ".jsonl", ".parquet")]
    assert kept == []
    offline()
    assert load_pool(repo_id, revision=streamed.ref.revision).fingerprint == plain.fingerprint


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_of_a_split_are_the_same_streamed_or_not(hub, repo_id, kind, tmp_path, monkeypatch):
    push(repo_id, kind)
    splits = {"train[1:4]": slice(1, 4), "train[:2]": slice(2), "train[3:]": slice(3, None), "train[:100]": slice(None)}
    plain = {split: load_pool(repo_id, split=split) for split in splits}
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "other-datasets")
    for split, rows in splits.items():
        streamed = load_pool(repo_id, split=split, streaming=True)
        assert texts(streamed) == texts(plain[split]) == [text for text, _ in ROWS][rows]
        assert streamed.fingerprint == plain[split].fingerprint


def test_streaming_refuses_what_it_cannot_do(hub, repo_id, tmp_path):
    push(repo_id, "parquet")
    assert "found split 'train[:10%]'; leave streaming out" in refused(repo_id, split="train[:10%]", streaming=True)
    assert "no split 'tset'" in refused(repo_id, split="tset", streaming=True)
    (tmp_path / "a.csv").write_bytes(content("csv", ROWS))
    assert "streaming is for Hub datasets" in refused(tmp_path / "a.csv", streaming=True)
    commit(f"{repo_id}-array", {"data.json": '[{"text": "a", "label": 1}]'})
    assert "leave streaming out" in refused(f"{repo_id}-array", streaming=True)


@pytest.fixture
def free(monkeypatch):
    """Call it with what the disk of SVP_CACHE has free, at one look after the other (the last one for ever)."""

    def set_to(*frees: int) -> None:
        left, real = list(frees), shutil.disk_usage

        def usage(path):
            if os.environ["SVP_CACHE"] not in str(path):
                return real(path)
            return Usage(10**12, 0, left.pop(0) if len(left) > 1 else left[0])

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return set_to


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_that_is_too_small_is_found_before_anything_is_written(hub, repo_id, kind, free):
    push(repo_id, kind)
    free(10)
    said = refused(repo_id, streaming=True)
    assert "needs at least" in said and "0.0 MB are free" in said and "SVP_CACHE" in said
    assert not list(Path(os.environ["SVP_CACHE"]).rglob("*.arrow"))


def test_a_disk_that_fills_up_while_streaming_stops_it_and_leaves_nothing(hub, repo_id, monkeypatch, free):
    push(repo_id, "parquet")
    monkeypatch.setattr("svp_nlp.pool_stream._CHECK_BYTES", 1)
    monkeypatch.setattr("svp_nlp.pool_stream._BATCH_ROWS", 2)
    free(10**9, 10**9, 0)
    said = refused(repo_id, streaming=True)
    assert "more after" in said and "SVP_CACHE" in said
    assert not list(Path(os.environ["SVP_CACHE"]).rglob("*.arrow"))


def test_a_stream_that_breaks_off_is_told_and_leaves_nothing(hub, repo_id, caplog):
    push(repo_id, "csv")
    hub.faults.append(Fault(rf"GET /datasets/{repo_id}/resolve/.*train", status=500, times=-1))
    assert "the Hub failed (500" in refused(repo_id, streaming=True)
    hub.faults.clear()
    assert not list(Path(os.environ["SVP_CACHE"]).rglob("*.arrow"))
    assert not [m for m in caplog.messages if "cannot be written" in m]
    assert len(load_pool(repo_id, streaming=True)) == len(ROWS)


def test_killed_while_streaming_it_starts_again_cleanly(hub, repo_id, hub_env, monkeypatch):
    push(repo_id)
    code = f"from svp_nlp import load_pool; print(len(load_pool({repo_id!r}, streaming=True)))"
    crash = subprocess.run([sys.executable, "-c", code], env={**hub_env, "SVP_CRASH_AT": "3"}, capture_output=True)
    assert crash.returncode == 137, crash.stderr
    cache = Path(hub_env["SVP_CACHE"])
    assert list(cache.glob("hub/.tmp-*")) and not list(cache.glob("hub/[0-9a-f]*"))
    monkeypatch.setenv("SVP_CACHE", str(cache))
    assert len(load_pool(repo_id, streaming=True)) == len(ROWS)
    assert not list(cache.glob("hub/.tmp-*"))


def test_the_bar_is_for_terminals_only(hub, repo_id, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    push(repo_id, "parquet")
    bars = sys.modules["datasets.utils.tqdm"]
    monkeypatch.setattr(bars, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(bars, "_hf_datasets_progress_bars_disabled", False)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    load_pool(repo_id, streaming=True)
    assert f"{repo_id} [train]" in screen.getvalue()
    paper = io.StringIO()
    monkeypatch.setattr(sys, "stderr", paper)
    load_pool(repo_id, split="test", streaming=True)
    assert paper.getvalue() == ""


def test_a_pool_reference_is_the_same_streamed_or_not():
    assert PoolRef("alice/a", streaming=True) == PoolRef("alice/a")
    assert hash(PoolRef("alice/a", streaming=True)) == hash(PoolRef("alice/a"))
