"""CIFAR ResNets: the paper's sizes and schedule, learning a planted task, no augmentation in scores."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from toy import CLASS_NAMES
from toy_images import encode, image_rows, toy_images, write_images

from svp_nlp import load_pool, load_test, open_workspace, train_target
from svp_nlp.errors import Interrupted, ModelError, PoolError
from svp_nlp.experiment import run_recipe
from svp_nlp.loop import all_labels
from svp_nlp.models import load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled, TrainingSpec
from svp_nlp.models.batches import learning_rate
from svp_nlp.models.dynamics import DynamicsRecorder
from svp_nlp.models.image import image_examples
from svp_nlp.models.resnet import ResNet, ResNetLearner, ResNetPredictor, ResNetSpec
from svp_nlp.models.saving import WEIGHTS_FILE
from svp_nlp.models.training import seeded
from svp_nlp.pool import Shard
from svp_nlp.recipe import make_recipe
from svp_nlp.scoring import ScoreTask, score_shard
from svp_nlp.selection import Selection

TRAINING = TrainingSpec(num_train_epochs=2, learning_rate=0.1, lr_scheduler="constant", global_batch_size=16)
SMALL = ResNetSpec(depth=8, image_size=16, training=TRAINING)


def build(**options: Any) -> ResNet:
    with seeded(0):
        return ResNet(ResNetSpec(**options), num_classes=10)


def noise(rows: int, size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (rows, 3, size, size)).astype(np.uint8))


def planted(rows: int = 64, *, seed: int = 0, size: int = 16) -> Labeled:
    images, labels = toy_images(rows, seed=seed, size=size)
    return Labeled(image_rows(images), np.array(labels), 100 + np.arange(rows), CLASS_NAMES)


def fit(spec: ResNetSpec = SMALL, *, rows: int = 64, **context: Any) -> ResNetPredictor:
    return ResNetLearner(spec).fit(planted(rows), dev=None, seed=0, context=FitContext(**context))


@pytest.fixture(scope="module")
def predictor() -> ResNetPredictor:
    return fit()


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(8, 77_850), (14, 175_066), (20, 272_282), (56, 855_578), (110, 1_730_522), (164, 1_703_258)],
)
def test_parameter_counts_are_those_of_the_authors_code(depth: int, expected: int) -> None:
    with torch.device("meta"):
        model = ResNet(ResNetSpec(depth=depth), num_classes=10)  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    # The name counts layers with weights but not projections: the first, all of the blocks, the last.
    convolutions = sum(len(block.convs) for block in model.blocks)
    assert 2 + convolutions == depth


def test_the_default_is_the_papers_training() -> None:
    spec = ResNetSpec().training
    assert (spec.epochs, spec.weight_decay, spec.momentum, spec.global_batch_size) == (181, 5e-4, 0.9, 128)
    assert (spec.optimizer, spec.label_smoothing) == ("sgd", 0)
    rates = [learning_rate(spec, step=epoch, steps_per_epoch=1) for epoch in range(181)]
    assert rates == [0.01] + [0.1] * 90 + [0.01] * 45 + [0.001] * 45


def reference(state: dict[str, torch.Tensor], x: torch.Tensor, *, blocks: int, kernels: int) -> torch.Tensor:
    """The network of the paper written down once more, in eval mode, from the names of its weights."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return functional.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    x = functional.conv2d(x, state["conv.weight"], padding=1)
    for number in range(3 * blocks):
        stride = 2 if number in (blocks, 2 * blocks) else 1
        strided = 1 if kernels == 3 else 0
        first = norm(x, f"blocks.{number}.norms.0").relu()
        y = first
        for k in range(kernels):
            weight = state[f"blocks.{number}.convs.{k}.weight"]
            y = y if k == 0 else norm(y, f"blocks.{number}.norms.{k}").relu()
            y = functional.conv2d(y, weight, stride=stride if k == strided else 1, padding=weight.shape[2] // 2)
        projection = state.get(f"blocks.{number}.projection.weight")
        x = y + (x if projection is None else functional.conv2d(first, projection, stride=stride))
    return functional.linear(norm(x, "norm").relu().mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize(("depth", "blocks", "kernels", "width"), [(8, 1, 2, 64), (14, 2, 2, 64), (164, 18, 3, 256)])
def test_the_function_is_that_of_the_paper(depth: int, blocks: int, kernels: int, width: int) -> None:
    model = build(depth=depth).train()
    with torch.no_grad():
        model(noise(4, 16))  # running statistics that are not those of a fresh model
        model.eval()
        pixels = noise(3, 16)
        logits_BC, embeddings_BD = model(pixels, embeddings=True)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ResNetSpec().mean, ResNetSpec().std))
        expected = reference(model.state_dict(), (pixels / 255 - mean) / std, blocks=blocks, kernels=kernels)
    assert torch.allclose(logits_BC, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert embeddings_BD.shape == (3, width)
    assert torch.allclose(model.fc(embeddings_BD), logits_BC)


def test_stages_halve_the_image_and_double_the_filters() -> None:
    model, shapes = build(depth=14).eval(), []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        model(noise(1))
    assert shapes == [(16, 32, 32)] * 2 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2


def test_convolutions_begin_with_the_variance_of_their_fan_out() -> None:
    weight = build(depth=20).blocks[3].convs[0].weight.detach()  # from 16 to 32 filters
    assert abs(float(weight.std()) / np.sqrt(2 / (32 * 9)) - 1) < 0.05


def test_learns_a_planted_task_and_lands_above_chance_on_new_rows() -> None:
    training = TRAINING.model_copy(update={"num_train_epochs": 5})
    spec, test = SMALL.model_copy(update={"training": training}), planted(100, seed=2)
    fitted = ResNetLearner(spec).fit(planted(240), dev=planted(40, seed=1), seed=0, context=FitContext())
    assert (fitted.predict(test.rows).probs_BC.argmax(1) == test.labels_L).mean() > 0.9
    assert fitted.report["epochs_run"] == 5 and len(fitted.report["history"]) == 5


def test_scores_are_of_images_as_they_are_and_never_of_augmented_ones(predictor: ResNetPredictor) -> None:
    """The authors' selection saw random crops and flips: two scorings of one pool differed."""
    batch = planted(40).rows
    first, second = (predictor.predict(batch, embeddings=True) for _ in range(2))
    np.testing.assert_array_equal(first.probs_BC, second.probs_BC)
    np.testing.assert_array_equal(first.embeddings_BD, second.embeddings_BD)
    examples = image_examples(batch, size=16, mean=predictor.spec.mean, std=predictor.spec.std)
    pixels = examples.collate(np.arange(40), rng=None)["pixel_values"]
    state = {name: value.detach() for name, value in predictor._model.state_dict().items()}
    expected = reference(state, pixels, blocks=1, kernels=2).softmax(1)
    np.testing.assert_allclose(first.probs_BC, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("augmentation", ["none", "pad_crop_flip"])
def test_training_sees_crops_and_mirrors_unless_it_is_told_not_to_and_dev_never_does(
    augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev, seen, forward = planted(16), planted(8, seed=1), {True: [], False: []}, ResNet.forward

    def spy(self: ResNet, pixel_values: torch.Tensor, **options: Any) -> Any:
        seen[self.training].extend(image.numpy().tobytes() for image in pixel_values)
        return forward(self, pixel_values, **options)

    monkeypatch.setattr(ResNet, "forward", spy)
    learner = ResNetLearner(SMALL.model_copy(update={"augmentation": augmentation}))
    learner.fit(train, dev=dev, seed=0, context=FitContext())
    plain, plain_dev = (
        {
            image.numpy().tobytes()
            for image in image_examples(part.rows, size=16).collate(np.arange(len(part)))["pixel_values"]
        }
        for part in (train, dev)
    )
    as_it_is = sum(image in plain for image in seen[True])
    assert len(seen[True]) == 2 * 16 and (as_it_is == 32 if augmentation == "none" else as_it_is < 4)
    assert set(seen[False]) == plain_dev


def test_images_of_other_sizes_are_resized_and_said_to_be(predictor: ResNetPredictor) -> None:
    mixed = planted(30, size=24)
    assert predictor.report["images_resized"] == 0
    fitted = ResNetLearner(SMALL).fit(mixed, dev=None, seed=0, context=FitContext())
    assert fitted.report["images_resized"] == 30
    assert np.isfinite(predictor.predict(mixed.rows).probs_BC).all()


def test_a_bad_image_is_named_by_its_position_before_the_first_step() -> None:
    train = planted(20)
    images = train.rows.column("image").to_pylist()
    images[13] = images[13][:90]
    with pytest.raises(PoolError, match="the image at pool position 113 is damaged"):
        ResNetLearner(SMALL).fit(
            dataclasses.replace(train, rows=image_rows(images)), dev=None, seed=0,
            context=FitContext(on_event=lambda event: pytest.fail("an epoch was run")),
        )  # fmt: skip


def test_a_row_without_an_image_stops_no_run_and_is_never_picked(tmp_path: Any) -> None:
    images, labels = toy_images(60, size=8)
    images[37], images[5] = None, b""
    path = write_images(tmp_path / "train.parquet", images, labels, names=CLASS_NAMES)
    tiny = {"kind": "resnet", "depth": 8, "image_size": 8, "training": {"num_train_epochs": 1}}
    recipe = make_recipe({
        "mode": "active_learning",
        "pool": {"path": path, "image_column": "image"},
        "test": {"path": path, "split": "train"},
        "allow_overlap": True,
        "proxy": tiny,
        "target": tiny,
        "strategies": [
            "greedy_k_centers",
            {"name": "margin", "reduce": {"kind": "ups"}},
        ],
        "initial": 16,
        "labeled_sizes": [58],
        "baselines": [],
        "seeds": [0],
    })  # fmt: skip
    run_recipe(recipe, tmp_path / "run", stop_requested=lambda: False)
    picked = [Selection.load(file.parent).positions_K for file in (tmp_path / "run").rglob("selection.parquet")]
    assert len(picked) == 3 and not any(np.isin([5, 37], rows).any() for rows in picked)


def test_a_bad_image_is_named_by_its_position_in_scoring_and_testing(
    tmp_path: Any, predictor: ResNetPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svp_nlp.pool._DECODED_BYTES", 0)  # a pool of ImageNet's size, of which most is not decoded
    images, labels = toy_images(40)
    pool = load_pool(write_images(tmp_path / "a.parquet", images, labels, names=CLASS_NAMES), image_column="image")
    images[29], images[3] = images[29][:90], None
    bad = load_pool(write_images(tmp_path / "b.parquet", images, labels, names=CLASS_NAMES), image_column="image")
    rows_R = np.arange(1, 40, 2)
    np.save(tmp_path / "rows.npy", rows_R)
    for rows_file, rows in ((None, None), (tmp_path / "rows.npy", rows_R)):
        task = ScoreTask(bad.ref, tmp_path, "p", tmp_path, 40, 8, ("margin",), rows_file=rows_file)
        with pytest.raises(PoolError, match=r"^the image at pool position 29 is damaged"):
            score_shard(task, Shard(0, 0, task.num_scored), pool=bad, predictor=predictor, rows_R=rows)
    with open_workspace(pool) as workspace:
        test = load_test(workspace, tmp_path / "b.parquet", split="train")
        labels = all_labels(workspace)
        with pytest.raises(PoolError, match=r"^the image at held-out set position 29 is damaged"):
            train_target(workspace, labels, learner=ResNetLearner(SMALL), test=test)
        with pytest.raises(PoolError, match=r"^the image at held-out set position 29 is damaged"):
            ResNetLearner(SMALL).fit(planted(), dev=test, seed=0, context=FitContext())


def test_its_training_records_dynamics_of_every_row() -> None:
    assert ResNetSpec.records_dynamics and ResNetSpec.reads == "image"
    recorder = DynamicsRecorder()
    fit(rows=20, dynamics=recorder)
    assert recorder.positions_L.tolist() == list(range(100, 120))
    assert recorder.correct_EN.shape == (2, 20) and np.isfinite(recorder.margin_EN).all()


def test_a_stopped_training_goes_on_with_the_same_crops_and_ends_with_the_same_bits(
    tmp_path: Any, predictor: ResNetPredictor
) -> None:
    calls = iter(range(1_000))
    with pytest.raises(Interrupted):
        fit(checkpoint_dir=tmp_path, stop_requested=lambda: next(calls) == 5)
    again = fit(checkpoint_dir=tmp_path)
    assert again.fingerprint == predictor.fingerprint
    assert again.report["images_resized"] == predictor.report["images_resized"]


def test_half_precision_trains_and_scores_about_the_same(predictor: ResNetPredictor) -> None:
    training = TRAINING.model_copy(update={"mixed_precision": "bf16", "num_train_epochs": 1})
    spec = SMALL.model_copy(update={"training": training, "scoring_dtype": "bfloat16"})
    fitted = fit(spec, rows=32)
    assert ResNetLearner(spec).scoring_dtype == "bfloat16"
    assert np.isfinite(fitted.predict(planted(8).rows).probs_BC).all()
    half = ResNetPredictor(
        SMALL.model_copy(update={"scoring_dtype": "bfloat16"}), predictor._model, CLASS_NAMES, report={}
    )
    batch = planted(40).rows
    assert 0 < np.abs(half.predict(batch).probs_BC - predictor.predict(batch).probs_BC).max() < 0.1


def test_weights_lie_channels_innermost_after_training_and_loading(predictor: ResNetPredictor, tmp_path: Any) -> None:
    predictor.save(tmp_path)
    for model in (predictor._model, load_predictor(tmp_path)._model):  # type: ignore[attr-defined]
        weight = model.blocks[-1].convs[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def test_weights_of_another_depth_are_not_loaded(predictor: ResNetPredictor, tmp_path: Any) -> None:
    predictor.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["spec"]["depth"] = 14
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"{WEIGHTS_FILE} does not hold the weights of a ResNet-14"):
        load_predictor(tmp_path)


def test_an_old_recipe_of_cifar100_can_say_its_own_mean() -> None:
    learner = make_learner("resnet", mean=(0.5071, 0.4866, 0.4409), std=(0.26733428, 0.25643846, 0.27615047))
    with seeded(0):
        model = ResNet(learner.spec, num_classes=100)  # type: ignore[arg-type]
    assert model.mean_311.flatten().tolist() == pytest.approx([0.5071, 0.4866, 0.4409])
    seen: list[torch.Tensor] = []
    model.conv.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.inference_mode():
        model.eval()(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([(1 - 0.5071) / 0.26733428, (1 - 0.4866) / 0.25643846,
                                                          (1 - 0.4409) / 0.27615047], rel=1e-5)  # fmt: skip


def test_a_grey_photo_is_classified_as_any_other(predictor: ResNetPredictor) -> None:
    grey = encode(Image.fromarray(np.full((40, 30), 128, np.uint8)), "JPEG")
    assert predictor.predict(image_rows([grey])).probs_BC.shape == (1, 4)
