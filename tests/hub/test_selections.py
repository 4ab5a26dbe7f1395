"""Selections pushed to the local Hub and read back: the same rows, the right version, and nothing that was changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow.parquet as pq
import pytest
from finished_run import finished_run
from huggingface_hub import CommitOperationAdd, HfApi, constants
from toy import CLASS_NAMES

from svp_nlp import Selection, load_pool, load_selected
from svp_nlp.errors import HubError, HubRefused, LineageError, RemoteConflict
from svp_nlp.hub.load import pull_selection
from svp_nlp.hub.push import Pushed, push_bundle
from svp_nlp.hub.remote import Remote, check_repo_id, check_version
from svp_nlp.hub.retry import Patience
from svp_nlp.hub.sharing import bundle_of, preview

QUICK = Patience(deadline_s=5.0, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("finished"))


def push(run: Path, repo_id: str, *, patience: Patience = QUICK, **options) -> Pushed:
    which = {name: options.pop(name) for name in ("arm", "seed", "round", "config", "index_only") if name in options}
    with bundle_of(run, "selection", **which) as bundle:
        return push_bundle(bundle, Remote(repo_id, "dataset", patience=patience), **options)


def last_selection(run: Path, round: int = 3) -> Selection:
    return Selection.load(run / "seed-0" / "proxy-margin" / f"round-{round:03d}" / "selection")


def commits(repo_id: str) -> list[str]:
    return [c.commit_id for c in HfApi().list_repo_commits(repo_id, repo_type="dataset")]


def test_each_round_is_one_commit_with_one_annotated_tag_and_the_rows_of_the_run(hub, repo_id, run):
    pushed = [push(run, repo_id, round=number) for number in (1, 2, 3)]
    assert [p.version for p in pushed] == ["v1", "v2", "v3"]
    assert all(p.new for p in pushed)
    assert commits(repo_id)[:3] == [p.sha for p in reversed(pushed)]
    refs = HfApi().list_repo_refs(repo_id, repo_type="dataset")
    assert {tag.name: tag.target_commit for tag in refs.tags} == {p.version: p.sha for p in pushed}
    files = HfApi().list_repo_files(repo_id, repo_type="dataset", revision=pushed[2].sha)
    assert set(files) == {".gitattributes", "README.md", "lineage.json", "data/default/train-00000-of-00001.parquet"}
    for number, one in enumerate(pushed, start=1):
        selected = load_selected(repo_id, revision=one.version)
        assert len(selected) == 20 + 20 * number
        assert Selection.from_hub(repo_id, revision=one.sha).fingerprint == last_selection(run, number).fingerprint
    exported = datasets.load_dataset(str(run / "seed-0/proxy-margin/selected/dataset"), split="train")
    newest = load_selected(repo_id)
    assert newest.features == exported.features
    assert newest.to_dict() == exported.to_dict()


def test_load_dataset_by_tag_gives_the_right_rows_with_features_and_class_names_to_who_knows_nothing_of_us(
    hub, repo_id, run
):
    for number in (1, 2):
        push(run, repo_id, round=number)
    for number, rows in ((1, 40), (2, 60)):
        found = datasets.load_dataset(repo_id, revision=f"v{number}", split="train")
        assert len(found) == rows
        assert found.features["label"].names == list(CLASS_NAMES)
        assert {"text", "svp_position", "svp_id", "svp_score", "svp_round", "svp_label_source"} < set(
            found.column_names
        )


def test_pushing_the_same_again_makes_no_commit(hub, repo_id, run):
    first = push(run, repo_id)
    again = push(run, repo_id)
    assert (again.new, again.version, again.sha) == (False, "v1", first.sha)
    assert len(commits(repo_id)) == 2  # the Hub's own first, and ours
    assert push(run, repo_id, version="v1").sha == first.sha


def test_a_version_that_exists_with_other_content_is_refused_with_its_commit(hub, repo_id, run):
    first = push(run, repo_id, round=1, version="pilot")
    with pytest.raises(RemoteConflict, match=rf"version pilot exists with other content \(commit {first.sha}; head"):
        push(run, repo_id, round=2, version="pilot")
    assert push(run, repo_id, round=2).version == "v1"
    HfApi().create_tag(repo_id, tag="v7", repo_type="dataset")
    assert push(run, repo_id, round=3).version == "v8"


def test_configurations_lie_side_by_side_and_one_push_changes_one(hub, repo_id, run):
    push(run, repo_id, round=1, config="margin")
    push(run, repo_id, round=2, config="other")
    names = datasets.get_dataset_config_names(repo_id)
    assert len(names) == 2
    assert names[0] == "margin"
    assert len(load_selected(repo_id, config="margin")) == 40
    with pytest.raises(HubRefused, match=r"several configurations; choose one of margin, other with config"):
        load_selected(repo_id)
    with pytest.raises(HubRefused, match=r"no configuration 'nope'"):
        load_selected(repo_id, config="nope")


def test_without_texts_it_is_joined_with_its_pool_and_gives_the_very_rows(hub, repo_id, run):
    whole, index = f"{repo_id}-whole", f"{repo_id}-index"
    push(run, whole, round=2)
    push(run, index, round=2, index_only=True)
    [file] = [f for f in HfApi().list_repo_files(index, repo_type="dataset") if f.endswith(".parquet")]
    table = pq.read_table(huggingface_hub.hf_hub_download(index, file, repo_type="dataset"))
    assert set(table.column_names) == {
        "svp_position", "svp_id", "svp_score", "svp_round", "svp_label_source", "svp_label"
    }  # fmt: skip
    assert table["svp_label"].null_count == len(table)  # the pool's own labels are the pool's
    pool = load_pool(run.parent / "pool")
    joined, expected = load_selected(index, pool=pool), load_selected(whole)
    assert joined.features == expected.features
    assert joined.to_dict() == expected.to_dict()
    with pytest.raises(LineageError, match=r"its pool pool is on no Hub; give the same files as pool"):
        load_selected(index)


def test_a_pool_row_that_was_changed_since_is_named(hub, repo_id, run, tmp_path):
    push(run, repo_id, round=1, index_only=True)
    position = last_selection(run, 1).positions_K.min()
    table = pq.read_table(run.parent / "pool/data/train-00000-of-00001.parquet")
    texts = table["text"].to_pylist()
    texts[position] = "somebody rewrote this"
    changed = table.set_column(0, table.schema.field("text"), [texts])
    (tmp_path / "changed/data").mkdir(parents=True)
    pq.write_table(changed, tmp_path / "changed/data/train-00000-of-00001.parquet")
    with pytest.raises(LineageError, match=rf"position {position:,} has the id \w+ in this pool, \w+ in the selection"):
        load_selected(repo_id, pool=load_pool(tmp_path / "changed"))


@pytest.mark.parametrize("changed", ["rows", "lineage"])
def test_what_was_changed_after_it_was_pushed_is_refused(hub, repo_id, run, changed):
    push(run, repo_id)
    api = HfApi()
    if changed == "rows":
        other = pq.read_table(run / "seed-0/proxy-margin/selected/dataset/data/train-00000-of-00001.parquet").slice(1)
        pq.write_table(other, run.parent / "other.parquet")
        content: str | bytes = str(run.parent / "other.parquet")
        path, message = "data/default/train-00000-of-00001.parquet", r"it was changed after it was pushed"
    else:
        document = json.loads(Path(api.hf_hub_download(repo_id, "lineage.json", repo_type="dataset")).read_text())
        document["configs"]["default"]["selection"]["fingerprint"] = "0" * 32
        content, path, message = json.dumps(document).encode(), "lineage.json", "it is not what was selected"
    api.create_commit(repo_id, [CommitOperationAdd(path, content)], commit_message="x", repo_type="dataset")
    with pytest.raises(LineageError, match=message):
        load_selected(repo_id, revision="main")
    assert len(load_selected(repo_id, revision="v1")) == 80  # the version itself is what it was


def test_offline_it_is_the_right_version_or_it_is_said_that_it_is_not_there(
    hub, repo_id, run, monkeypatch, short_waits
):
    for number in (1, 2):
        push(run, repo_id, round=number)
    load_selected(repo_id, revision="v2")
    load_selected(repo_id, revision="v1")
    third = push(run, repo_id, round=3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert [len(load_selected(repo_id, revision=v)) for v in ("v1", "v2")] == [40, 60]
    with pytest.raises(
        HubRefused, match=r"offline \(HF_HUB_OFFLINE=1\), and version v3 is not in the cache; go online"
    ):
        load_selected(repo_id, revision="v3")
    with pytest.raises(HubRefused, match=r"offline .*not in the cache"):
        load_selected(repo_id, revision=third.sha)
    with pytest.raises(HubRefused, match="HF_HUB_OFFLINE=1 is set"):
        push(run, repo_id)


def test_when_the_hub_cannot_be_reached_a_version_comes_from_the_cache_and_main_does_not(
    hub, repo_id, run, short_waits, monkeypatch, caplog
):
    monkeypatch.setattr("svp_nlp.hub.pull._READING", Patience(deadline_s=0.2, first_wait_s=0.01))
    push(run, repo_id, round=1)
    load_selected(repo_id, revision="v1")
    load_selected(repo_id)
    hub.die_at(1)
    assert len(load_selected(repo_id, revision="v1")) == 40
    assert "version v1 is taken from the cache" in caplog.text
    with pytest.raises(HubError, match=r"the Hub did not take it within 0.2 s"):
        load_selected(repo_id)


def test_a_selection_without_a_run_is_pushed_and_read_back_with_and_without_labels(hub, repo_id, run):
    pool = load_pool(run.parent / "pool")
    selection = last_selection(run, 1)
    done = selection.push_to_hub(repo_id, pool=pool)
    assert (done.version, done.new) == ("v1", True)
    found = load_selected(repo_id)
    assert found["svp_position"][:] == selection.positions_K.tolist()
    assert found["text"][:] == pool.take(selection.positions_K)["text"].to_pylist()
    assert found["label"][:] == pool.column("label").take(selection.positions_K).to_pylist()
    assert found["svp_label_source"][:] == [None] * 20
    again = Selection.from_hub(repo_id, revision=done.sha)
    assert again.fingerprint == selection.fingerprint
    assert again.lineage.strategy == "margin"
    again.verify(pool)
    # and from the directory of one
    selection.save(run.parent / "alone")
    assert push(run.parent / "alone", repo_id).new is False


def test_labels_that_people_gave_go_along_also_without_texts(hub, repo_id, run):
    from svp_nlp import LabelSet

    pool, selection = load_pool(run.parent / "pool"), last_selection(run, 1)
    import pyarrow as pa

    names = pa.array(["ham" if n % 3 else "spam" for n in range(20)])
    labels = LabelSet.of(selection.positions_K, selection.ids_K, names, round=1, source="people", annotator="ann")
    done = selection.push_to_hub(repo_id, pool=pool, labels=labels, label_column="topic", index_only=True)
    found = load_selected(repo_id, revision=done.version, pool=pool)
    assert found.features["topic"].names == ["ham", "spam"]
    assert [found.features["topic"].int2str(n) for n in found["topic"][:]] == names.to_pylist()
    assert "label" in found.column_names


def test_pull_writes_a_folder_that_load_dataset_reads_and_replaces_no_other(hub, repo_id, run, tmp_path, monkeypatch):
    done = push(run, repo_id, round=1)
    monkeypatch.chdir(tmp_path)
    found = pull_selection(repo_id, revision="v1")
    assert found["directory"] == f"{repo_id.split('/')[1]}-v1"
    assert found["sha"] == done.sha
    assert datasets.load_dataset(found["directory"], split="train").to_dict() == load_selected(repo_id).to_dict()
    assert pull_selection(repo_id, revision="v1")["rows"] == 40
    push(run, repo_id, round=2)
    with pytest.raises(HubRefused, match=r"holds alice/.* @ .*; name another directory with --output"):
        pull_selection(repo_id, Path(found["directory"]), revision="v2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(HubRefused, match=r"mine holds other files"):
        pull_selection(repo_id, tmp_path / "mine", revision="v1")


def test_a_full_disk_leaves_nothing_half_written(hub, repo_id, run, tmp_path, monkeypatch):
    push(run, repo_id, round=1)
    monkeypatch.setattr("svp_nlp.hub.load.shutil.copyfile", _no_space)
    with pytest.raises(HubRefused, match=r"No space left on device; nothing was written"):
        pull_selection(repo_id, tmp_path / "out", revision="v1")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("out", ".tmp"))]


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_preview_says_what_would_be_pushed_and_changes_nothing(hub, repo_id, run):
    with bundle_of(run, "selection", round=1) as bundle:
        found = preview(bundle, Remote(repo_id, "dataset"))
        assert found["lines"][0].endswith(
            f"as v1 of dataset {repo_id} (does not exist yet: it is made), configuration default"
        )
        assert not HfApi().repo_exists(repo_id, repo_type="dataset")
    push(run, repo_id, round=1)
    with bundle_of(run, "selection", round=2) as bundle:
        found = preview(bundle, Remote(repo_id, "dataset"))
        assert (found["version"], found["added"], found["removed"]) == ("v2", 20, 0)
        assert found["card"].startswith("---\n")
        assert set(found["files"]) >= {"README.md", "lineage.json", "data/default/train-00000-of-00001.parquet"}
        assert "--version" not in found["card"]
    assert len(commits(repo_id)) == 2
    with bundle_of(run, "selection", round=1) as bundle:
        assert preview(bundle, Remote(repo_id, "dataset"))["lines"][0].startswith(
            "nothing to push: this content is version v1"
        )


def test_a_pull_request_has_no_tag_until_it_is_merged_and_pushed_again(hub, repo_id, run):
    push(run, repo_id, round=1)
    proposed = push(run, repo_id, round=2, create_pr=True)
    assert proposed.pull_request
    assert "/discussions/1" in proposed.url
    assert push(run, repo_id, round=2, create_pr=True).url == proposed.url  # not proposed twice
    assert [t.name for t in HfApi().list_repo_refs(repo_id, repo_type="dataset").tags] == ["v1"]
    HfApi().merge_pull_request(repo_id, 1, repo_type="dataset")
    done = push(run, repo_id, round=2)
    assert (done.version, done.new) == ("v2", False)
    assert len(load_selected(repo_id, revision="v2")) == 60


@pytest.mark.parametrize("name", ["v 1", "", "-v1", "v1.lock", "a..b", "main", "0123abcd", "ä", "v1/", "x" * 65, "v1."])
def test_a_name_that_breaks_the_rules_of_tags_is_refused(name):
    with pytest.raises(HubRefused, match="cannot be the name of a version"):
        check_version(name)


@pytest.mark.parametrize(
    "name", ["a/b/c", "datasets/acme/x", "", "acme/", "acme/..", "a b", "https://huggingface.co/a/b"]
)
def test_what_is_no_repository_id_is_refused(name):
    with pytest.raises(HubRefused, match="is not the id of a repository"):
        check_repo_id(name)


def test_what_cannot_be_pushed_is_refused_in_one_line_before_anything_is_made(hub, repo_id, run, monkeypatch):
    from localhub import ALICE, ALICE_READ, BOB

    api = HfApi()
    for kind, token, message in [
        ("no token", "", r"no token; log in with `hf auth login`, or set HF_TOKEN"),
        ("wrong", "hf_" + "x" * 30, r"the Hub does not know this token"),
        ("read-only", ALICE_READ, r"the token of alice can only read"),
        ("another's", BOB, r"this token may not do that .*; use one that may write here"),
    ]:
        monkeypatch.setenv("HF_TOKEN", token)
        if not token:
            monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(HubRefused, match=message) as refused:
            push(run, repo_id)
        assert "\n" not in str(refused.value), kind
        assert not token or token not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    assert not api.repo_exists(repo_id, repo_type="dataset")
    api.create_repo(repo_id, repo_type="dataset")
    api.create_commit(
        repo_id, [CommitOperationAdd("data/mine.csv", b"a,b\n")], commit_message="mine", repo_type="dataset"
    )
    with pytest.raises(HubRefused, match=r"holds files that svp_nlp did not write \(data/mine.csv\); name a new one"):
        push(run, repo_id)
    api.create_commit(
        repo_id, [CommitOperationAdd("lineage.json", b'{"a": 1}')], commit_message="mine", repo_type="dataset"
    )
    with pytest.raises(HubRefused, match=r"its lineage.json was not written by svp_nlp"):
        push(run, repo_id)
    with pytest.raises(HubRefused, match=r"no such dataset|there is a|none on"):
        load_selected("alice/nothing-here")
    api.create_repo(f"{repo_id}-m", repo_type="model")
    with pytest.raises(HubRefused, match="model"):
        load_selected(f"{repo_id}-m")


def test_a_revision_that_is_not_there_lists_those_that_are(hub, repo_id, run):
    push(run, repo_id, round=1)
    with pytest.raises(HubRefused, match=r"it has the versions v1"):
        load_selected(repo_id, revision="v9")
    with pytest.raises(HubRefused, match=r"part of a commit; give all 40 digits"):
        load_selected(repo_id, revision="0123abcd")


def test_a_card_with_broken_yaml_is_refused_and_nothing_is_pushed(hub, repo_id, run):
    push(run, repo_id, round=1)
    repo = hub.find("datasets", repo_id)  # the client would look at the YAML; `git push` does not
    ref, old = repo.resolve("main")
    mode, _ = repo.files(old)["README.md"]
    files = {**repo.files(old), "README.md": (mode, repo.add_blob(b"---\nlicense: mit\ntags: [a\n---\n# Mine\n"))}
    head = repo.commit(ref, old, files=files, message="by git", author="alice").decode()
    with pytest.raises(
        HubRefused, match=r"README.md, line \d: its YAML block cannot be read .*Edit README.md"
    ) as refused:
        push(run, repo_id, round=2)
    assert refused.value.exit_code == 2
    assert commits(repo_id)[0] == head
    assert [tag.name for tag in HfApi().list_repo_refs(repo_id, repo_type="dataset").tags] == ["v1"]


def test_what_a_user_wrote_in_the_card_survives_the_next_push(hub, repo_id, run):
    push(run, repo_id, round=1)
    api = HfApi()
    readme = Path(api.hf_hub_download(repo_id, "README.md", repo_type="dataset")).read_text()
    mine = readme.replace("---\n", "---\npretty_name: Ours\n", 1) + "\n## My notes\n\nkeep | me\n"
    api.create_commit(
        repo_id, [CommitOperationAdd("README.md", mine.encode())], commit_message="x", repo_type="dataset"
    )
    push(run, repo_id, round=2)
    found = Path(api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision="v2")).read_text()
    assert found.endswith("\n## My notes\n\nkeep | me\n")
    assert "pretty_name: Ours" in found


def test_nothing_of_this_machine_goes_to_the_hub(hub, repo_id, run):
    push(run, repo_id)
    for secret in (str(run.parent), str(Path.home())):
        assert hub.saw(secret) == []
    assert hub.authorized_elsewhere() == []


def test_a_card_that_tells_less_than_is_known_now_is_renewed_without_a_new_version(hub, repo_id, run, tmp_path):
    first = push(run, repo_id)
    with bundle_of(run, "selection") as bundle:
        facts = {"target": "vdcnn", "metric": "error", "rows": [_POINT]}
        richer = dataclasses.replace(bundle, entry={**bundle.entry, "results": facts})
        again = push_bundle(richer, Remote(repo_id, "dataset", patience=QUICK))
        assert (again.new, again.card_updated, again.version, again.sha) == (False, True, "v1", first.sha)
        assert push_bundle(richer, Remote(repo_id, "dataset", patience=QUICK)).card_updated is False
    assert len(commits(repo_id)) == 3
    assert len(load_selected(repo_id)) == len(load_selected(repo_id, revision="v1")) == 80
    assert push(run, repo_id, round=2).version == "v2"


_POINT = {
    "selector": "proxy", "strategy": "margin", "labeled_size": 80, "labeled_percent": 40.0, "error_mean": 0.25,
    "error_std": 0.01, "seeds": 3,
}  # fmt: skip
