"""Runs over generated images that are quick to make: the pool is a folder of files, as people have them."""

from __future__ import annotations

from pathlib import Path

from toy_images import toy_images

from svp_nlp import Pool, load_pool, load_test, open_workspace
from svp_nlp.loop import active_learning, core_set, train_target
from svp_nlp.models import make_learner
from svp_nlp.strategy_spec import StrategySpec

NAMES = ("blue", "green", "red", "yellow")  # as a folder sorts them
RESNET = {"depth": 8, "image_size": 8, "training": {"num_train_epochs": 2, "global_batch_size": 32}}
TRANSFORMER = {
    "config": {"model_type": "resnet", "layer_type": "basic", "depths": [1], "hidden_sizes": [8], "embedding_size": 8},
    "image_size": 8,
    "training": {"num_train_epochs": 1},
}
DYNAMICS = ("forgetting_events", "el2n", {"name": "el2n", "epochs": 1})


def write_photos(folder: Path, *, rows: int = 60, seed: int = 0) -> Path:
    """`<folder>/train/<class>/<number>.png`."""
    images, labels = toy_images(rows, seed=seed)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = folder / "train" / NAMES[label] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    return folder


def chosen_images(folder: Path) -> Pool:
    """A run in `folder/run` whose ResNet chose images by margin twice, and on which a target was trained."""
    pool = load_pool(write_photos(folder / "photos"), image_column="image")
    test = write_photos(folder / "test", rows=20, seed=1)
    with open_workspace(pool, run_dir=folder / "run") as workspace:
        sizes = {"initial": 20, "labeled_sizes": [30, 40]}
        *_, last = active_learning(workspace, learner=make_learner("resnet", **RESNET), strategy="margin", **sizes)
        target = make_learner("image_transformer", **TRANSFORMER)
        train_target(
            workspace, last.labels, learner=target, test=load_test(workspace, test, split="train"), arm="proxy-margin"
        )
    return pool


def kept_images(folder: Path) -> Pool:
    """A run in `folder/core` that kept core-sets by training dynamics, and one by margin of a model without them."""
    pool = load_pool(write_photos(folder / "kept"), image_column="image")
    with open_workspace(pool, run_dir=folder / "core") as workspace:
        learner = make_learner("resnet", **RESNET)
        for strategy in map(StrategySpec.model_validate, (*DYNAMICS, "margin")):
            list(core_set(workspace, learner=learner, strategy=strategy, labeled_sizes=[15, 30]))
    return pool
