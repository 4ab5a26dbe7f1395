"""Images on the Hub: as bytes that everybody reads, without them, and the models that were trained on them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from image_runs import NAMES, chosen_images, kept_images
from PIL import Image
from toy_images import image_rows, toy_images

from svp_nlp import (
    Selection,
    active_learning,
    classify,
    load_pool,
    load_predictor,
    load_selected,
    load_signals,
    models,
    open_workspace,
)
from svp_nlp.errors import LineageError, PoolError
from svp_nlp.hub.load import pull_selection
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.sharing import bundle_of
from svp_nlp.pool_images import read_image


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chosen")
    return folder, chosen_images(folder)


def push(repo_id, path, what="selection", **options):
    with bundle_of(path, what, **options) as bundle:
        return push_bundle(bundle, Remote(repo_id, bundle.repo_type))


def readme(repo_id, repo_type="dataset"):
    return Path(HfApi().hf_hub_download(repo_id, "README.md", repo_type=repo_type)).read_text(encoding="utf-8")


def parquet_files(repo_id):
    names = [f for f in HfApi().list_repo_files(repo_id, repo_type="dataset") if f.endswith(".parquet")]
    return [huggingface_hub.hf_hub_download(repo_id, name, repo_type="dataset") for name in sorted(names)]


def stored(rows):
    """The images of a dataset as their files have them."""
    return [image["bytes"] for image in rows.cast_column("image", datasets.Image(decode=False))["image"]]


def test_images_of_a_folder_are_pushed_as_bytes_that_everybody_decodes_and_no_path_is_told(hub, repo_id, run, tmp_path):
    folder, pool = run
    pushed = push(repo_id, folder / "run")
    assert hub.saw(str(folder)) == []
    [file] = parquet_files(repo_id)
    assert all("/" not in image["path"] for image in pq.read_table(file)["image"].to_pylist())
    rows = datasets.load_dataset(repo_id, split="train")
    assert isinstance(rows.features["image"], datasets.Image) and rows.features["label"].names == list(NAMES)
    expected = [read_image(value) for value in pool.take(rows["svp_position"])["image"]]
    for image, data in zip(rows["image"], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))
    assert stored(load_selected(repo_id, revision=pushed.version)) == expected
    pull_selection(repo_id, tmp_path / "pulled")
    assert stored(datasets.load_dataset(str(tmp_path / "pulled"), split="train")) == expected
    assert push(repo_id, folder / "run").new is False
    assert len(Selection.from_hub(repo_id)) == 10
    card = readme(repo_id)
    assert "image-classification" in card and "texts" not in card


def test_without_images_it_is_joined_with_its_pool_and_gives_the_very_rows(hub, repo_id, run, tmp_path):
    folder, pool = run
    push(repo_id, folder / "run", index_only=True)
    [file] = parquet_files(repo_id)
    assert "image" not in pq.read_table(file).column_names
    whole = f"{repo_id}-whole"
    push(whole, folder / "run")
    joined, expected = load_selected(repo_id, pool=pool), load_selected(whole)
    assert joined.features == expected.features
    assert stored(joined) == stored(expected) and joined["svp_id"][:] == expected["svp_id"][:]
    pull_selection(repo_id, tmp_path / "pulled", pool_path=str(folder / "photos"))
    found = datasets.load_dataset(str(tmp_path / "pulled"), split="train")
    assert stored(found) == stored(expected)
    with pytest.raises(LineageError, match="it holds no images, and its pool photos is on no Hub"):
        load_selected(repo_id)
    card = readme(repo_id)
    assert "**The images are not in this dataset**" in card and 'image_column="image"' in card
    assert "image-classification" in card and "text_columns" not in card


def test_rows_with_images_lie_in_small_groups_and_files_in_the_order_of_picking(hub, repo_id, run, monkeypatch):
    folder, _ = run
    whole = f"{repo_id}-whole"
    push(whole, folder / "run")
    monkeypatch.setattr("svp_nlp.selected._ROWS_PER_READ", 4)
    monkeypatch.setattr("svp_nlp.selected._BYTES_PER_GROUP", 5_000)
    monkeypatch.setattr("svp_nlp.selected._BYTES_PER_FILE", 15_000)
    push(repo_id, folder / "run")
    parts = [pq.ParquetFile(file).metadata for file in parquet_files(repo_id)]
    groups = [part.row_group(number) for part in parts for number in range(part.num_row_groups)]
    assert len(parts) > 1 and len(groups) > len(parts)
    assert all(group.num_rows % 4 == 0 for group in groups) and sum(group.num_rows for group in groups) == 40
    names = [Path(file).name for file in parquet_files(repo_id)]
    assert names == [f"train-{number:05d}-of-{len(parts):05d}.parquet" for number in range(len(parts))]
    assert stored(load_selected(repo_id)) == stored(load_selected(whole))


def test_a_file_of_an_image_that_is_gone_is_named_and_nothing_is_pushed(hub, repo_id, run):
    folder, pool = run
    gone = folder / "photos/train/red"
    gone.rename(folder / "elsewhere")
    try:
        with pytest.raises(PoolError, match=r"/red/\d+\.png: the image cannot be read \(No such file"):
            push(repo_id, folder / "run", pool=pool)
    finally:
        (folder / "elsewhere").rename(gone)
    assert hub.requests == []


@pytest.mark.parametrize("rows", [None, 40])
def test_an_image_pool_of_the_hub_is_opened_by_commit_also_a_part_of_it(hub, repo_id, tmp_path, rows):
    images, labels = toy_images(50)
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    values = {"picture": [{"bytes": image, "path": None} for image in images], "label": labels}
    parent = f"{repo_id}-pool"
    datasets.Dataset.from_dict(values, features=features).push_to_hub(parent)
    pool = load_pool(parent, image_column="picture", rows=rows)
    with open_workspace(pool, run_dir=tmp_path / "run") as workspace:
        *_, last = active_learning(
            workspace, learner="fasttext", strategy="random", initial=10, labeled_sizes=[20], arm="random"
        )
    push(repo_id, tmp_path / "run", index_only=True)
    assert load_selected(repo_id)["svp_id"][:] == last.labels.table["id"].to_pylist()
    kept = json.loads(Remote(repo_id, "dataset").read("lineage.json", "main"))["configs"]["default"]["lineage"]["pool"]
    assert (kept["modality"], kept.get("part")) == ("image", None if rows is None else True)
    card = readme(repo_id)
    assert ('images = pool.select(selected["svp_position"])' in card) == (rows is None)
    assert ("(40 rows of it, drawn at random)" in card) == (rows is not None)
    Selection.load(tmp_path / "run/seed-0/random/round-001/selection").push_to_hub(f"{repo_id}-alone", pool=pool)
    assert stored(load_selected(f"{repo_id}-alone").rename_column("picture", "image")) == [
        read_image(pool.take([position])["image"][0]) for position in last.selection.positions_K
    ]


def test_an_image_model_from_the_hub_answers_bit_for_bit_and_its_card_says_how_to_ask(hub, repo_id, run):
    folder, _ = run
    images, _ = toy_images(6, seed=9)
    for what, kind in (("proxy", "resnet"), ("target", "image_transformer")):
        name = f"{repo_id}-{what}"
        push(name, folder / "run", what)
        [weights] = (folder / "run").glob(f"seed-0/proxy-margin/{what}-*/model/weights")
        found, trained = load_predictor(name), models.load_predictor(weights)
        assert found.spec.kind == kind
        np.testing.assert_array_equal(
            found.predict(image_rows(images)).probs_BC, trained.predict(image_rows(images)).probs_BC
        )
        assert classify(found, images) == classify(trained, images)
        card = readme(name, "model")
        assert "pipeline_tag: image-classification" in card and "text classifier" not in card
        assert 'svp_nlp.classify(predictor, ["photo.jpg"])' in card
        assert ('pipeline("image-classification"' in card) == (kind == "image_transformer")
    assert hub.saw(str(folder)) == []


def test_a_pipeline_of_transformers_classifies_images_with_the_repository(hub, repo_id, run):
    from transformers import pipeline

    push(repo_id, run[0] / "run", "target")
    images = [Image.open(io.BytesIO(data)) for data in toy_images(3, seed=9)[0]]
    answers = pipeline("image-classification", repo_id, revision="v1", device="cpu")(images, top_k=1)
    expected = classify(load_predictor(repo_id), images)
    found = [(answer[0]["label"], answer[0]["score"]) for answer in answers]
    assert found == [(name, pytest.approx(chance, abs=1e-4)) for name, chance in expected]


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    return folder, kept_images(folder)


def test_what_was_recorded_in_training_stays_with_the_run(hub, repo_id, core):
    folder, _ = core
    push(repo_id, folder / "core", "proxy", arm="proxy-forgetting_events")
    files = set(HfApi().list_repo_files(repo_id))
    assert files == {".gitattributes", "README.md", "lineage.json", "config.json", "weights.safetensors"}
    assert "Trained on **60** of 60 rows, all that have a label." in readme(repo_id, "model")


def test_scores_of_training_dynamics_are_those_of_the_round_and_infinite_ones_stay_so(hub, repo_id, core):
    folder, pool = core
    [weights] = (folder / "core").glob("seed-0/full/proxy-*/signals-forgetting_events")
    pushed = push(repo_id, folder / "core", "signals", arm="proxy-forgetting_events", round=2)
    signals = load_signals(repo_id, pool=pool)
    assert set(signals.arrays) == {"forgetting_events", "el2n", "margin"}  # all that was asked of the same weights
    scores = np.load(weights / "forgetting_events.npy")
    assert np.isinf(scores).any()
    np.testing.assert_array_equal(signals.arrays["forgetting_events"], scores)
    for strategy in ("forgetting_events", "el2n"):
        expected = Selection.load(folder / f"core/seed-0/proxy-{strategy}/keep-0000000030/selection")
        found = signals.select(strategy, budget=30)
        assert found.fingerprint == expected.fingerprint and found.lineage.options == {}
    assert push(repo_id, folder / "core", "signals", arm="proxy-forgetting_events", round=1).sha == pushed.sha
    push(repo_id, folder / "core", "signals", arm="proxy-el2n-1-epochs", round=2)
    expected = Selection.load(folder / "core/seed-0/proxy-el2n-1-epochs/keep-0000000030/selection")
    signals = load_signals(repo_id)
    assert signals.select("el2n", budget=30).fingerprint == expected.fingerprint
    assert "60, float32, of the first epoch" in readme(repo_id)
    push(f"{repo_id}-set", folder / "core", arm="proxy-forgetting_events", round=2)
    kept = Selection.from_hub(f"{repo_id}-set")
    assert np.isinf(kept.scores_K).any() == np.isinf(scores[kept.positions_K]).any()
    assert "learned from all rows that have a label." in readme(f"{repo_id}-set")
