"""Image classifiers of transformers: read by transformers itself, what image processors say, ImageNet's layouts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Features
from datasets import Image as ImageFeature
from PIL import Image
from pydantic import ValidationError
from toy_images import encode, image_rows, toy_images
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

from svp_nlp.errors import ModelError, PoolError, TrainingError
from svp_nlp.experiment import run_recipe
from svp_nlp.models import image_classifier, image_processor, load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.batches import learning_rate
from svp_nlp.models.dynamics import DynamicsRecorder
from svp_nlp.models.image_classifier import ARCHITECTURES, ImageTransformerSpec, make_image_classifier
from svp_nlp.models.image_processor import FILE, Pixels, load_pixels, save_pixels
from svp_nlp.models.image_transformer import ImageTransformerPredictor
from svp_nlp.recipe import make_recipe

NAMES = ("red", "green", "blue", "yellow")
TRAINING = {"num_train_epochs": 1, "learning_rate": 1e-3, "global_batch_size": 16, "checkpoint_every_s": 0}
RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "depths": [1, 1],
    "hidden_sizes": [16, 24],
    "embedding_size": 16,
}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet": RESNET,
    "vit": VIT,
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 8},
    "convnext": {"depths": [1, 1], "hidden_sizes": [8, 12], "num_stages": 2},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "patch_size": 4},
}


def options(family: str = "resnet", **changes: Any) -> dict[str, Any]:
    return {"config": {**FAMILIES[family], "model_type": family}, "image_size": 16, "training": TRAINING, **changes}


def labeled(rows: int = 24, *, names: tuple[str, ...] = NAMES, size: int = 16) -> Labeled:
    images, labels = toy_images(rows, classes=len(names), size=size)
    return Labeled(image_rows(images), np.array(labels, np.int64), np.arange(rows), names)


def fit(train: Labeled | None = None, *, context: FitContext | None = None, **chosen: Any) -> Any:
    learner = make_learner("image_transformer", **(chosen or options()))
    return learner.fit(labeled() if train is None else train, dev=None, seed=0, context=context or FitContext())


def spec_of(**chosen: Any) -> ImageTransformerSpec:
    return ImageTransformerSpec.model_validate({"kind": "image_transformer", **chosen})


@pytest.fixture(scope="module")
def predictor() -> ImageTransformerPredictor:
    return fit()


@pytest.fixture(scope="module")
def saved(predictor: ImageTransformerPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    predictor.save(directory)
    return directory


# What is saved


@pytest.mark.parametrize(
    ("evaluation", "size", "tolerance"), [("resize", 16, 1e-6), ("resize", 23, 0.02), ("center_crop", 40, 0.02)]
)
def test_transformers_itself_reads_what_is_saved(tmp_path, evaluation, size, tolerance):
    # Where nothing is resized, to the last bits; else PIL rounds a crop of the resized and the resized crop apart.
    ours = fit(**options(evaluation=evaluation))
    ours.save(tmp_path)
    model, processor = (
        AutoModelForImageClassification.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path),
    )
    assert model.config.id2label == dict(enumerate(NAMES))
    data, _ = toy_images(6, size=size)
    with torch.inference_mode():
        theirs = model(**processor([Image.open(io.BytesIO(one)) for one in data], return_tensors="pt"))
    probs_BC = ours.predict(image_rows(data)).probs_BC
    np.testing.assert_allclose(theirs.logits.softmax(-1).numpy(), probs_BC, atol=tolerance)
    assert np.ptp(probs_BC, axis=0).max() > 2e-3  # the images are not all alike to it


def test_a_pipeline_reads_what_is_saved(predictor, saved):
    data, _ = toy_images(3)
    classify = pipeline("image-classification", model=str(saved), device="cpu")
    answers = classify([Image.open(io.BytesIO(one)).resize((18, 18)) for one in data], top_k=4)
    big = [encode(Image.open(io.BytesIO(one)).resize((18, 18))) for one in data]  # the middle 16 of 18: no resizing
    for answer, probs_C in zip(answers, predictor.predict(image_rows(big)).probs_BC, strict=True):
        found = {entry["label"]: entry["score"] for entry in answer}
        assert found == pytest.approx(dict(zip(NAMES, probs_C.tolist(), strict=True)), abs=1e-5)


def test_files_are_theirs_with_our_keys_and_no_path(saved):
    config = json.loads((saved / "config.json").read_text())
    assert (config["model_type"], config["svp_kind"]) == ("resnet", "image_transformer")
    assert config["architectures"] == ["ResNetForImageClassification"]
    assert str(saved.parent) not in json.dumps(config) and "_name_or_path" not in config
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", FILE]


def test_a_loaded_model_can_be_saved_again(predictor, saved, tmp_path):
    load_predictor(saved).save(tmp_path)
    for name in ("config.json", FILE, "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()
    batch = labeled(rows=7).rows
    again = load_predictor(tmp_path)
    assert again.fingerprint == predictor.fingerprint
    np.testing.assert_array_equal(again.predict(batch).probs_BC, predictor.predict(batch).probs_BC)


def test_the_fingerprint_sees_how_images_are_prepared(predictor):
    other = ImageTransformerPredictor(predictor.spec, predictor._model, Pixels(size=16), NAMES, report={})
    assert other.fingerprint != predictor.fingerprint


def test_a_saved_model_without_its_image_processor_or_with_other_classes_is_refused(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((saved / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "class_names": ["a", "b", "c", "d"]}))
    with pytest.raises(ModelError, match="id2label says"):
        load_predictor(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / FILE).unlink()
    with pytest.raises(ModelError, match=f"{FILE} is missing"):
        load_predictor(tmp_path)


# Which network


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_resnets_of_imagenet_have_the_known_numbers_of_parameters(name):
    config = AutoConfig.for_model(**ARCHITECTURES[name], num_labels=1000)
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
    known = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}
    assert sum(parameter.numel() for parameter in model.parameters()) == known[name]


def test_an_architecture_is_a_name_for_its_config():
    one = make_image_classifier(spec_of(architecture="resnet18"), NAMES, seed=0)
    assert sum(parameter.numel() for parameter in one.model.parameters()) == 11_689_512 - 996 * 513
    assert one.pixels == Pixels() == Pixels(224, "center_crop", 256)
    assert one.model.resnet.embedder.embedder.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert spec_of(architecture="resnet18").commit() is None


def test_the_authors_schedules_are_recipe_values():
    warm_up = [{"epochs": 1, "learning_rate": rate} for rate in (0.0167, 0.0333, 0.05, 0.0667, 0.0833)]
    rest = [(25, 0.1), (30, 0.01), (20, 0.001), (20, 0.0001)]
    for stages, epochs in ((rest, 100), ([(25, 0.1), (15, 0.01)], 45)):
        training = spec_of(
            architecture="resnet50",
            training={
                "optimizer": "sgd", "weight_decay": 1e-4, "label_smoothing": 0.1, "global_batch_size": 256,
                "max_grad_norm": None,
                "schedule": [*warm_up, *({"epochs": e, "learning_rate": rate} for e, rate in stages)],
            },
        ).training  # fmt: skip
        assert training.epochs == epochs
        rates = [learning_rate(training, step=3 * epoch, steps_per_epoch=3) for epoch in range(epochs)]
        assert rates[:6] == pytest.approx([k / 60 for k in range(1, 7)], abs=4e-5)
        assert rates[30] == 0.01 and rates[-1] == stages[-1][1]


@pytest.mark.parametrize("family", FAMILIES)
def test_families_train_and_embeddings_are_what_the_last_layer_reads(family):
    fitted, batch = fit(labeled(12), **options(family)), labeled(5).rows
    found = fitted.predict(batch, embeddings=True)
    last = fitted._scorer.last
    with torch.inference_mode():
        logits_BC = last(torch.from_numpy(found.embeddings_BD).to(last.weight.device)).cpu()
    assert found.embeddings_BD.shape == (5, last.in_features)
    np.testing.assert_allclose(logits_BC.softmax(-1).numpy(), found.probs_BC, atol=1e-5)


def test_a_head_for_the_same_classes_is_kept_and_any_other_replaced(predictor, saved):
    same = make_image_classifier(spec_of(model_name_or_path=str(saved)), NAMES, seed=1)
    other = make_image_classifier(spec_of(model_name_or_path=str(saved)), (*NAMES, "pink"), seed=1)
    head, body = "classifier.1.weight", "resnet.embedder.embedder.convolution.weight"
    trained = predictor._model.state_dict()
    assert torch.equal(same.model.state_dict()[head], trained[head].cpu())
    assert other.model.state_dict()[head].shape == (5, 24)
    for made in (same, other):
        assert torch.equal(made.model.state_dict()[body], trained[body].cpu())
        assert made.pixels == predictor._pixels


def test_a_saved_model_can_be_named_for_a_new_training(saved, tmp_path):
    assert spec_of(model_name_or_path=str(saved)).commit() is None
    again = fit(model_name_or_path=str(saved), training=TRAINING, head_first_epochs=1, layerwise_lr_decay=0.5)
    assert (again.report["epochs_run"], again.report["pixels"]["size"]) == (2, 16)
    again.save(tmp_path)
    assert load_predictor(tmp_path).fingerprint == again.fingerprint


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "give exactly one of model_name_or_path, architecture, config"),
        ({"architecture": "resnet18", "config": RESNET}, "give exactly one of"),
        ({"config": {"model_type": "resnet", "depth": [1]}}, "'depth' is not an option of resnet; did you mean depths"),
        ({"config": {**RESNET, "num_labels": 3}}, "leave it out"),
        ({"config": {"model_type": "resnett"}}, "did you mean resnet"),
        ({"architecture": "resnet18", "revision": "main"}, "revision belongs to model_name_or_path"),
        ({"model_name_or_path": "a/b", "trust_remote_code": True}, "pin revision to a commit"),
        ({"architecture": "resnet18", "mean": [0.5, 0.5, 0.5]}, "give both mean and std"),
        ({"architecture": "resnet18", "mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "greater than 0"),
        ({"architecture": "resnet18", "head_learning_rate": 0.1}, "does nothing without head_first_epochs"),
    ],
)
def test_options_that_contradict_each_other_are_refused(chosen, expected):
    with pytest.raises(ValidationError, match=expected):
        spec_of(**chosen)


def test_options_survive_a_dump():
    for spec in (spec_of(architecture="resnet34"), spec_of(model_name_or_path="a/b", revision="v1", image_size=64)):
        assert spec_of(**json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    assert spec_of(model_name_or_path="a/b").at("c0ffee").revision == "c0ffee"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"config": {"model_type": "bert"}}, r"bert\) does not classify images"),
        ({"config": {**RESNET, "num_channels": 1}, "image_size": 16}, "does not take RGB images of 16 x 16"),
        ({"config": {"model_type": "vit", **VIT, "image_size": 32}, "image_size": 16}, r"16 pixels \(.*set image_size"),
        ({"model_name_or_path": "no/such/folder"}, "is not a folder"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_used_say_what_to_do(chosen, expected):
    with pytest.raises(ModelError, match=expected):
        fit(**chosen)


def test_a_network_that_would_crash_a_cpu_is_refused_there(monkeypatch):
    spec = spec_of(config={**RESNET, "hidden_sizes": [8, 12]}, image_size=16)
    for kind in ("cuda", "cpu"):
        monkeypatch.setattr(image_classifier, "device", lambda kind=kind: torch.device(kind))
        if kind == "cuda":
            make_image_classifier(spec, NAMES, seed=0)
            continue
        with pytest.raises(ModelError, match="stride on 8 channels, which crashes torch on a CPU"):
            make_image_classifier(spec, NAMES, seed=0)


def test_a_single_class_or_no_row_is_refused():
    for train in (labeled(names=("one",)), labeled(0)):
        with pytest.raises(TrainingError, match="at least 2 classes: label some"):
            fit(train)


# How images are prepared


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": {"height": 64, "width": 64}}, (64, "resize", 64)),
        ({"size": 64}, (64, "resize", 64)),
        (
            {"size": {"shortest_edge": 80}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
            (64, "center_crop", 80),
        ),
        ({"size": 80, "do_center_crop": True, "crop_size": 64}, (64, "center_crop", 80)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, "center_crop", 256)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, "resize", 384)),
        ({"size": {"shortest_edge": 96}}, (96, "center_crop", 96)),
    ],
)  # fmt: skip
def test_sizes_of_image_processors_are_understood(tmp_path, values, expected):
    (tmp_path / FILE).write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], **values}))
    pixels = load_pixels(str(tmp_path))
    assert pixels == Pixels(*expected, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_pixels(pixels, tmp_path)
    assert load_pixels(str(tmp_path)) == pixels


def test_levels_of_image_processors_are_understood(tmp_path):
    def read(**values: Any) -> Pixels | None:
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 16, **values}}))
        return load_pixels(str(tmp_path))

    assert load_pixels(str(tmp_path)) is None
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert read(do_normalize=False, **half) == Pixels(16, "resize", 16, (0.0,) * 3, (1.0,) * 3)
    # levels in 0 to 2, of which 1 is taken away: as mean and deviation 0.5 of levels in 0 to 1
    twice = read(rescale_factor=2 / 255, image_mean=[1.0] * 3, image_std=[1.0] * 3)
    assert twice is not None and twice.mean == pytest.approx((0.5,) * 3) and twice.std == pytest.approx((0.5,) * 3)
    for wrong in (
        {"size": {"height": 16, "width": 8}},
        {"image_mean": [0.5]},
        {"image_std": [0, 0, 0]},
        {"size": "big"},
    ):
        with pytest.raises(ModelError, match="is not understood"):
            read(**{**half, **wrong})
    (tmp_path / FILE).write_text("[")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_pixels(str(tmp_path))


def test_a_recipe_says_more_than_the_model(saved):
    chosen = {"model_name_or_path": str(saved), "image_size": 32, "mean": [0.1] * 3, "std": [0.2] * 3}
    made = make_image_classifier(spec_of(**chosen), NAMES, seed=0)
    assert made.pixels == Pixels(32, "center_crop", 37, (0.1,) * 3, (0.2,) * 3)
    whole = make_image_classifier(spec_of(model_name_or_path=str(saved), evaluation="resize"), NAMES, seed=0)
    assert whole.pixels == Pixels(16, "resize", 16)


def test_a_network_of_one_size_gets_images_of_that_size():
    config = {"model_type": "vit", **VIT}
    assert make_image_classifier(spec_of(config={**config, "image_size": 24}), NAMES, seed=0).pixels.size == 24
    made = make_image_classifier(spec_of(config=config, image_size=40), NAMES, seed=0)
    assert (made.pixels.size, made.model.config.image_size) == (40, 40)


def test_training_is_augmented_and_scoring_never(monkeypatch):
    # A network that learns nothing and ends as it began, so that only what it was shown can differ.
    seen: list[str] = []
    real = image_processor.image_examples

    def spied(rows: pa.Table, **chosen: Any) -> Any:
        seen.append(chosen["train"])
        return real(rows, **chosen)

    monkeypatch.setattr(image_processor, "image_examples", spied)
    fitted = {name: fit(**options(augmentation=name)) for name in ("random_resized_crop", "pad_crop_flip", "none")}
    assert seen == ["random_resized_crop", "pad_crop_flip", "none"]
    assert len({one.fingerprint for one in fitted.values()}) == 3
    batch = labeled(6).rows
    one = fitted["random_resized_crop"]
    np.testing.assert_array_equal(one.predict(batch).probs_BC, one.predict(batch).probs_BC)
    assert seen[3:] == ["none"] * 2


def test_dynamics_are_recorded_and_a_dev_set_chooses_the_epoch():
    recorder, train = DynamicsRecorder(), labeled()
    learner = make_learner("image_transformer", **options(training={**TRAINING, "num_train_epochs": 3}))
    assert learner.spec.reads == "image" and learner.spec.records_dynamics
    fitted = learner.fit(train, dev=labeled(9), seed=0, context=FitContext(dynamics=recorder))
    assert {name: values.shape for name, values in recorder.signals().items()} == dict.fromkeys(recorder.names, (24, 3))
    assert 1 <= fitted.report["best_epoch"] <= 3


def test_it_learns():
    images, labels = toy_images(400, size=32, seed=3)
    train = Labeled(image_rows(images), np.array(labels), np.arange(400), NAMES)
    training = {"num_train_epochs": 6, "learning_rate": 5e-3, "global_batch_size": 20, "warmup_ratio": 0.0}
    found = fit(train, **options(image_size=32, augmentation="pad_crop_flip", training=training))
    test = labeled(100, size=32)
    assert (found.predict(test.rows).probs_BC.argmax(axis=1) == test.labels_L).mean() > 0.9


def test_a_bad_image_is_named_by_its_position():
    images, labels = toy_images(4)
    train = Labeled(image_rows([*images[:3], images[3][:40]]), np.array(labels), np.array([5, 6, 7, 8]), NAMES)
    for augmentation in ("random_resized_crop", "none"):
        with pytest.raises(PoolError, match="pool position 8"):
            fit(train, **options(augmentation=augmentation))


# ImageNet: its two layouts, generated, with a ResNet18 that is narrow

SYNSETS = ("n01440764", "n01443537", "n01484850")


def photos(rows: int, *, seed: int) -> tuple[list[bytes], list[int]]:
    """JPEGs of mixed sizes, some grey, some CMYK, whose class shows."""
    pngs, labels = toy_images(rows, classes=3, seed=seed)
    rng, found = np.random.default_rng(seed), []
    for number, png in enumerate(pngs):
        width, height = rng.integers(40, 120, size=2).tolist()
        mode = {7: "L", 9: "CMYK"}.get(number, "RGB")
        found.append(encode(Image.open(io.BytesIO(png)).resize((width, height)).convert(mode), "JPEG"))
    return found, labels


def as_folder(directory: Path, split: str, data: list[bytes], labels: list[int]) -> None:
    for number, (image, label) in enumerate(zip(data, labels, strict=True)):
        folder = directory / split / SYNSETS[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{SYNSETS[label]}_{number}.JPEG").write_bytes(image)


def as_parquet(directory: Path, split: str, data: list[bytes], labels: list[int]) -> None:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(SYNSETS))})
    images = [{"bytes": image, "path": f"{number}.JPEG"} for number, image in enumerate(data)]
    (directory / "data").mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images, "label": labels}, schema=features.arrow_schema)
    pq.write_table(table, directory / "data" / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("write", [as_folder, as_parquet])
def test_imagenets_layouts_run_from_recipe_to_report(tmp_path, write):
    for split, rows, seed in (("train", 60, 0), ("validation", 20, 1)):
        write(tmp_path / "imagenet", split, *photos(rows, seed=seed))
    narrow = {**ARCHITECTURES["resnet18"], "hidden_sizes": [16] * 4, "embedding_size": 16}
    learner = {"kind": "image_transformer", "config": narrow, "image_size": 32,
               "training": {**TRAINING, "optimizer": "sgd", "label_smoothing": 0.1}}  # fmt: skip
    recipe = make_recipe({
        "mode": "active_learning",
        "pool": {"path": str(tmp_path / "imagenet"), "image_column": "image"},
        "test": {"split": "validation"},
        "proxy": learner,
        "target": {**learner, "augmentation": "none"},
        "strategies": ["least_confidence", "greedy_k_centers"],
        "initial": 16,
        "labeled_sizes": [32],
        "baselines": ["random"],
        "seeds": [0],
    })  # fmt: skip
    result = run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    page = Path(result["report_html"]).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") + page.count("data:image/png;base64,") >= 16 * 2
    assert all(name in page for name in SYNSETS)
    saved = sorted(path.parent for path in (tmp_path / "run").rglob("model.safetensors"))
    assert saved
    assert load_predictor(saved[0]).class_names == SYNSETS
