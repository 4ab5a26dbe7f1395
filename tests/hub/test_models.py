"""Models on the Hub: pushed from a run, read back by name and version with the same answers, by us and by others."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from strangers import push_entry
from toy import toy_rows, write_toy

from svp_nlp import load_pool, load_test, models, open_workspace
from svp_nlp.errors import HubRefused, LineageError, ModelError
from svp_nlp.files import sha256_file
from svp_nlp.hub.models import load_predictor, model_bundle
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.loop import active_learning, train_target
from svp_nlp.models import make_learner

CONFIG = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
TARGETS = {
    "embedding": {"config": CONFIG, "vocab_size": 400},
    "fasttext": {"bucket": 1000, "epochs": 3, "learning_rate": 0.5},
    "tfidf": {"bucket": 1000, "classifier": "complement_nb"},
    "transformer": {"config": CONFIG, "vocab_size": 400, "max_length": 32, "training": {"num_train_epochs": 1}},
    "vdcnn": {"depth": 9, "lite": True, "max_length": 64, "training": {"num_train_epochs": 1, "global_batch_size": 16}},
}
ROWS = pa.table({"text": pa.array(toy_rows(20, seed=5)[0], pa.large_string())})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run for each kind of target, made when it is first asked for; fastText chooses in that of the VDCNN."""
    folder = tmp_path_factory.mktemp("models")
    pool = load_pool(write_toy(folder / "toy.csv"))
    write_toy(folder / "test.csv", rows=50, seed=1)
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = folder / kind
            with open_workspace(pool, run_dir=made[kind]) as workspace:
                chooser = {"learner": "fasttext", "strategy": "random", "arm": "random"}
                if kind == "vdcnn":
                    fast = make_learner("fasttext", **TARGETS["fasttext"])
                    chooser = {"learner": fast, "strategy": "margin", "arm": "proxy-margin"}
                test = load_test(workspace, folder / "test.csv", split="train")
                for round in active_learning(workspace, initial=30, labeled_sizes=[60], **chooser):
                    if kind != "vdcnn" or round.round == 1:
                        learner = make_learner(kind, **TARGETS[kind])
                        train_target(workspace, round.labels, learner=learner, test=test, arm=chooser["arm"])
        return made[kind]

    return make


def push(repo_id, run_dir, role="target", **options):
    with model_bundle(run_dir, role=role, **options) as bundle:
        return push_bundle(bundle, Remote(repo_id, "model"))


def weights(run_dir, name="target-0000000060"):
    (found,) = run_dir.glob(f"seed-0/*/{name}-*/model/weights")
    return found


def document(repo_id):
    return json.loads(Remote(repo_id, "model").read("lineage.json", HfApi().model_info(repo_id).sha))


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_a_model_from_the_hub_answers_bit_for_bit_as_the_one_that_was_trained(hub, repo_id, runs, kind):
    run_dir = runs(kind)
    pushed = push(repo_id, run_dir)
    found, trained = load_predictor(repo_id, revision=pushed.version), models.load_predictor(weights(run_dir))
    np.testing.assert_array_equal(found.predict(ROWS).probs_BC, trained.predict(ROWS).probs_BC)
    assert (found.fingerprint, found.class_names) == (trained.fingerprint, trained.class_names)
    files = set(HfApi().list_repo_files(repo_id))
    extra = {"model.bin"} if kind == "fasttext" else set()
    own = {".gitattributes", "README.md", "lineage.json"}
    assert {f for f in files - own - extra if not f.endswith((".json", ".safetensors"))} == set()
    assert "fit.json" not in files
    assert hub.saw(str(run_dir.parent)) == []


def test_a_pipeline_of_transformers_reads_the_repository(hub, repo_id, runs):
    from transformers import AutoModelForSequenceClassification, pipeline

    push(repo_id, runs("transformer"))
    answers = pipeline("text-classification", repo_id, device="cpu")(ROWS["text"].to_pylist()[:3], top_k=None)
    predictor = load_predictor(repo_id)
    for answer, probs_C in zip(answers, predictor.predict(ROWS.slice(0, 3)).probs_BC, strict=True):
        found = {entry["label"]: entry["score"] for entry in answer}
        assert [found[name] for name in predictor.class_names] == pytest.approx(probs_C.tolist(), abs=1e-5)
    assert AutoModelForSequenceClassification.from_pretrained(repo_id, revision="v1").config.num_labels == 4


def test_the_tools_of_fasttext_read_the_bin_file(hub, repo_id, runs):
    fasttext = pytest.importorskip("fasttext")
    push(repo_id, runs("fasttext"))
    model = fasttext.load_model(HfApi().hf_hub_download(repo_id, "model.bin"))
    predictor = load_predictor(repo_id)
    texts = ROWS["text"].to_pylist()
    labels, _ = model.predict(texts, k=1)
    best = [predictor.class_names[c] for c in predictor.predict(ROWS).probs_BC.argmax(axis=1)]
    assert [label[0].removeprefix("__label__") for label in labels] == best


def test_a_model_of_the_fasttext_package_comes_as_safetensors_that_predict_the_same(hub, repo_id, tmp_path):
    pytest.importorskip("fasttext")
    with open_workspace(write_toy(tmp_path / "toy.csv"), run_dir=tmp_path / "run") as workspace:
        learner = make_learner("fasttext", engine="fasttext", **TARGETS["fasttext"])
        for round in active_learning(workspace, learner=learner, strategy="margin", initial=40, labeled_sizes=[60]):
            assert len(round.labels)
    push(repo_id, tmp_path / "run", "proxy")
    found = load_predictor(repo_id)
    trained = models.load_predictor(weights(tmp_path / "run", "proxy-0000000040"))
    np.testing.assert_allclose(found.predict(ROWS).probs_BC, trained.predict(ROWS).probs_BC, atol=2e-5)
    assert found.class_names == trained.class_names


def test_a_proxy_is_the_model_that_chose_and_a_target_the_one_that_was_trained_on_the_choice(hub, repo_id, runs):
    run_dir = runs("vdcnn")
    push(repo_id, run_dir, "proxy")
    entry = document(repo_id)["configs"]["default"]
    assert (entry["kind"], entry["labeled_size"], entry["lineage"]["strategy"]) == ("fasttext", 30, "random")
    push(f"{repo_id}-target", run_dir)
    entry = document(f"{repo_id}-target")["configs"]["default"]
    assert (entry["kind"], entry["labeled_size"], entry["lineage"]["strategy"]) == ("vdcnn", 60, "margin")
    assert set(entry["metrics"]) == {"accuracy", "macro_f1"}
    assert entry["lineage"]["pool"]["path"] == "toy.csv"
    with pytest.raises(HubRefused, match="targets are there on 60 labels"):
        push(repo_id, run_dir, round=0)
    with pytest.raises(HubRefused, match="no model chose there"):
        push(repo_id, runs("tfidf"), "proxy")


def test_the_same_model_pushed_again_makes_no_commit(hub, repo_id, runs):
    first, again = push(repo_id, runs("tfidf")), push(repo_id, runs("tfidf"))
    assert (first.new, again.new, again.sha) == (True, False, first.sha)


def test_another_model_replaces_all_files_of_the_one_before(hub, repo_id, runs):
    push(repo_id, runs("embedding"))
    assert push(repo_id, runs("tfidf")).version == "v2"
    found = {f for f in HfApi().list_repo_files(repo_id) if f.endswith((".json", ".safetensors"))}
    assert found == {"config.json", "lineage.json", "weights.safetensors"}
    assert load_predictor(repo_id, revision="v1").spec.kind == "embedding"


def test_a_head_from_the_hub_can_be_saved_with_its_encoder(hub, repo_id, runs, tmp_path):
    push(repo_id, runs("embedding"))
    found = load_predictor(repo_id)
    found.save(tmp_path)
    shutil.rmtree(snapshot_download(repo_id))  # nothing of it may point into the cache
    assert models.load_predictor(tmp_path).predict(ROWS).probs_BC.shape == (20, 4)


def test_a_folder_that_a_model_began_as_is_not_told(hub, repo_id, runs, tmp_path):
    start = tmp_path / "private folder" / "minilm"
    start.parent.mkdir()
    shutil.copytree(weights(runs("transformer")), start)
    with open_workspace(write_toy(tmp_path / "toy.csv"), run_dir=tmp_path / "run") as workspace:
        learner = make_learner("embedding", model_name_or_path=str(start))
        list(active_learning(workspace, learner=learner, strategy="margin", initial=40, labeled_sizes=[60]))
    push(repo_id, tmp_path / "run", "proxy")
    assert hub.saw("private folder") == []
    assert document(repo_id)["configs"]["default"]["spec"]["model_name_or_path"] == "minilm"
    found = load_predictor(repo_id)
    trained = models.load_predictor(weights(tmp_path / "run", "proxy-0000000040"))
    np.testing.assert_array_equal(found.predict(ROWS).probs_BC, trained.predict(ROWS).probs_BC)


def test_a_file_that_was_changed_at_the_hub_is_refused_and_the_version_before_is_not(hub, repo_id, runs):
    push(repo_id, runs("tfidf"))
    data = bytearray((weights(runs("tfidf")) / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    HfApi().create_commit(repo_id, [CommitOperationAdd("weights.safetensors", bytes(data))], commit_message="x")
    with pytest.raises(LineageError, match=r"weights\.safetensors has the sha256"):
        load_predictor(repo_id)
    assert load_predictor(repo_id, revision="v1").spec.kind == "tfidf"
    HfApi().create_commit(repo_id, [CommitOperationDelete("weights.safetensors")], commit_message="x")
    with pytest.raises(LineageError, match=r"weights\.safetensors is missing"):
        load_predictor(repo_id)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights": "pytorch_model.bin"}, r"weights are 'pytorch_model\.bin', expected \*\.safetensors"),
        ({"weights": "../../weights.safetensors"}, r"expected \*\.safetensors among the files that were pushed"),
        ({"spec": {"kind": "tfidf", "trust_remote_code": True}}, "code of its own"),
    ],
)
def test_weights_that_can_run_code_and_code_of_a_repository_are_refused(hub, repo_id, runs, changes, told, tmp_path):
    push(repo_id, runs("tfidf"))
    config = json.loads((weights(runs("tfidf")) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    changed = document(repo_id)
    changed["configs"]["default"]["files"]["config.json"]["sha256"] = sha256_file(tmp_path / "config.json")
    operations = [CommitOperationAdd("config.json", str(tmp_path / "config.json"))]
    operations.append(CommitOperationAdd("lineage.json", json.dumps(changed).encode()))
    HfApi().create_commit(repo_id, operations, commit_message="x")
    with pytest.raises(ModelError, match=told):
        load_predictor(repo_id)


def test_offline_the_cache_gives_the_version_that_was_asked_for(hub, repo_id, runs, monkeypatch):
    push(repo_id, runs("tfidf"))
    push(repo_id, runs("fasttext"))
    kinds = {"v1": "tfidf", "v2": "fasttext"}
    assert {v: load_predictor(repo_id, revision=v).spec.kind for v in kinds} == kinds
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert {v: load_predictor(repo_id, revision=v).spec.kind for v in kinds} == kinds
    with pytest.raises(HubRefused, match="v3 is not in the cache"):
        load_predictor(repo_id, revision="v3")


def test_what_is_no_model_of_ours_is_refused_in_one_line(hub, repo_id, tmp_path):
    with pytest.raises(HubRefused, match=f"model {repo_id}: ") as missing:
        load_predictor(repo_id)
    HfApi().create_repo(repo_id, repo_type="dataset")
    with pytest.raises(HubRefused, match="dataset"):
        load_predictor(repo_id)
    HfApi().create_repo(f"{repo_id}-theirs")
    with pytest.raises(ModelError, match=r"model_name_or_path: alice/.*-theirs") as foreign:
        load_predictor(f"{repo_id}-theirs")
    with pytest.raises(HubRefused, match=r"no (such )?revision"):
        load_predictor(f"{repo_id}-theirs", revision="v9")
    with pytest.raises(ModelError, match="revision belongs to a model of the Hub"):
        load_predictor(tmp_path, revision="v1")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_predictor(f"{tmp_path}/nothing")
    assert all(str(error.value).count("\n") == 0 for error in (missing, foreign))


@pytest.mark.parametrize("files", [{"config.json": {}}, ["config.json"]])
def test_a_lineage_that_is_damaged_is_one_line(hub, repo_id, files, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    push_entry(repo_id, "model", {"files": files}, {"config.json": tmp_path / "config.json"}, repo_type="model")
    with pytest.raises(HubRefused, match=r"lineage\.json was not written by svp_nlp, or is damaged"):
        load_predictor(repo_id)


def test_a_spec_that_no_model_has_is_one_line(hub, repo_id, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    config = {"svp_kind": "tfidf", "spec": {"kind": "tfidf", "bucket": -1}, "weights": "a.safetensors"}
    config["weights_sha256"] = sha256_file(tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    files = {name: tmp_path / name for name in ("config.json", "a.safetensors")}
    push_entry(repo_id, "model", {}, files, repo_type="model")
    with pytest.raises(LineageError, match=rf"^{repo_id} @ .*ValidationError") as told:
        load_predictor(repo_id)
    assert "\n" not in str(told.value)


def test_a_weight_that_was_changed_here_is_refused_before_anything_is_pushed(hub, runs, tmp_path):
    shutil.copytree(runs("tfidf"), tmp_path / "run")
    file = weights(tmp_path / "run") / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with (
        pytest.raises(ModelError, match=r"weights\.safetensors is missing or was changed"),
        model_bundle(tmp_path / "run", role="target"),
    ):
        pass
    assert hub.requests == []
