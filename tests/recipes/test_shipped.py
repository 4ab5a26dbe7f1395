"""Shipped recipes: valid, documented, and the paper's where they say so. The smoke recipes run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_run import outcome

from svp_nlp.errors import WaitingForLabels
from svp_nlp.experiment import run_recipe
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.recipe import load_recipe
from svp_nlp.recipe_yaml import find_recipe, recipes_directory, shipped_recipes
from svp_nlp.run import now

PAPER_RATES = [0.01, 0.005, 0.0025, 0.00125, 0.000625]
LABELS_OF_AG_NEWS = 120_000
PAPER = [name for name in shipped_recipes() if name.endswith("_fasttext_vdcnn29")]


def dumped(name: str) -> dict[str, Any]:
    return load_recipe(name).model_dump(mode="json")


def test_all_recipes_are_there() -> None:
    assert shipped_recipes() == [
        "ag_news/active_distilbert_bert_large",
        "ag_news/active_fasttext_vdcnn29",
        "ag_news/active_minilm_embedding",
        "ag_news/active_tfidf_distilbert",
        "ag_news/coreset_fasttext_vdcnn29",
        "ag_news/plasm_distilbert_roberta",
        "ag_news/schroeder2022_bert_large",
        "amazon_polarity/active_distilbert_bert_large",
        "amazon_polarity/active_fasttext_vdcnn29",
        "amazon_polarity/coreset_fasttext_vdcnn29",
        "amazon_review_full/active_fasttext_vdcnn29",
        "amazon_review_full/coreset_fasttext_vdcnn29",
        "clinc150_imbalanced/active_fasttext_balanced",
        "demo/active_fasttext_vdcnn",
        "paper/amazon_polarity_fasttext",
        "paper/cifar100_resnet20_181",
        "paper/cifar10_resnet20_181",
        "paper/cifar10_resnet20_50",
        "paper/coreset_cifar10",
        "paper/coreset_cifar10_everything",
        "paper/imagenet_resnet18_45",
        "paper/imagenet_resnet18_90",
        "smoke/active_embedding",
        "smoke/active_fasttext_vdcnn",
        "smoke/active_tfidf",
        "smoke/active_transformer",
        "smoke/coreset_fasttext_vdcnn",
        "smoke/files_fasttext",
        "smoke/images_resnet",
    ]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_is_valid_and_opens_with_command_claim_number_and_hardware(name: str) -> None:
    recipe = load_recipe(name)
    opening = find_recipe(name).read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in opening.splitlines())
    for part in (f"svp run recipes/{name}.yaml", "Claim:", "Expected:", "Hardware:"):
        assert part in opening
    assert recipe.mode == ("core_set" if Path(name).name.startswith("coreset") else "active_learning")


@pytest.mark.parametrize("folder", sorted({name.split("/")[0] for name in shipped_recipes()}))
def test_every_folder_has_a_readme_that_names_its_recipes(folder: str) -> None:
    text = (recipes_directory() / folder / "README.md").read_text(encoding="utf-8")
    for name in shipped_recipes():
        if name.startswith(f"{folder}/") and folder != "demo":
            assert f"`{name.split('/')[1]}`" in text


@pytest.mark.parametrize("name", PAPER)
def test_the_target_has_the_papers_architecture_and_schedule(name: str) -> None:
    target = dumped(name)["target"]
    assert (target["kind"], target["depth"], target["padding"], target["max_length"]) == ("vdcnn", 29, "fixed", 1014)
    assert target["downsampling"] == ("maxpool" if "review_full" in name else "conv")
    training = target["training"]
    assert training["schedule"] == [{"epochs": 3, "learning_rate": rate} for rate in PAPER_RATES]
    assert (training["optimizer"], training["momentum"], training["weight_decay"]) == ("sgd", 0.9, 1e-4)
    assert training["global_batch_size"] == 128


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("amazon")])
def test_the_proxy_has_the_papers_hyper_parameters(name: str) -> None:
    proxy = dumped(name)["proxy"]
    expected = {"dim": 10, "word_ngrams": 2, "min_count": 1, "bucket": 10_000_000, "learning_rate": 0.05, "epochs": 10}
    assert proxy | expected == proxy


def test_polarity_has_the_papers_sizes() -> None:
    recipe = load_recipe("amazon_polarity/active_fasttext_vdcnn29")
    assert recipe.resolve_initial(3_600_000) == 72_000
    assert recipe.resolve_target_sizes(3_600_000) == [360_000, 720_000, 1_080_000, 1_440_000, 1_800_000]
    assert load_recipe("amazon_polarity/coreset_fasttext_vdcnn29").resolve_sizes(3_600_000) == [2_160_000]


@pytest.mark.parametrize("name", [name for name in PAPER if name.split("/")[1].startswith("active")])
def test_shares_are_the_same_for_every_dataset(name: str) -> None:
    recipe = load_recipe(name)
    rows = 3_600_000
    assert [recipe.resolve_initial(rows), *recipe.resolve_sizes(rows)] == [72_000, *range(360_000, 1_800_001, 360_000)]


def test_schroeder_2022_has_25_labels_and_20_rounds_of_25() -> None:
    recipe, values = load_recipe("ag_news/schroeder2022_bert_large"), dumped("ag_news/schroeder2022_bert_large")
    assert recipe.resolve_initial(LABELS_OF_AG_NEWS) == 25
    assert recipe.resolve_sizes(LABELS_OF_AG_NEWS) == list(range(50, 526, 25))
    for role, decay in (("proxy", 0.95), ("target", 0.975)):
        training = values[role]["training"]
        assert values[role]["layerwise_lr_decay"] == decay
        assert (training["learning_rate"], training["global_batch_size"]) == (2e-5, 12)
    assert "target_selects" in recipe.baselines and len(recipe.seeds) == 5


def test_plasm_has_15_rounds_of_1_percent_and_350_steps() -> None:
    recipe, values = load_recipe("ag_news/plasm_distilbert_roberta"), dumped("ag_news/plasm_distilbert_roberta")
    sizes = [recipe.resolve_initial(LABELS_OF_AG_NEWS), *recipe.resolve_sizes(LABELS_OF_AG_NEWS)]
    assert sizes == list(range(1_200, 16 * 1_200 + 1, 1_200))
    assert recipe.seeds == (23419, 705525, 4837, 10671619, 1084218)
    expected = {"learning_rate": 2e-5, "num_train_epochs": 10, "min_train_steps": 350, "global_batch_size": 16}
    for role in ("proxy", "target"):
        assert values[role]["training"] | expected == values[role]["training"]
        assert (values[role]["max_length"], values[role]["classifier_dropout"]) == (256, 0.0)


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith(("smoke/", "demo/"))])
def test_what_runs_here_needs_no_network(name: str) -> None:
    values = dumped(name)
    assert values["pool"]["path"].startswith("builtin:")
    assert all(values[role].get("model_name_or_path") is None for role in ("proxy", "target"))


def run_to_the_end(name: str, directory: Path) -> dict[str, Any]:
    """The run, with somebody who labels by the length of the text where it waits for people."""
    while True:
        try:
            return run_recipe(load_recipe(name), directory, stop_requested=lambda: False)
        except WaitingForLabels:
            queue = LabelQueue.open(directory)
            asked = [row for row in queue.rows.values() if queue.resolution(row.id).status == "open"]
            assert asked
            labels = queue.classes
            queue.add([Answer(r.id, "label", labels[len(r.text) % len(labels)], "me", now(), "page") for r in asked])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith("smoke/")])
def test_a_smoke_recipe_runs_twice_to_the_same_selections(name: str, tmp_path: Path) -> None:
    found = []
    for directory in (tmp_path / "one", tmp_path / "two"):
        result = run_to_the_end(name, directory)
        assert Path(result["report_html"]).stat().st_size > 10_000
        found.append(outcome(directory))
    assert found[0] == found[1]
    selections = [key for key in found[0] if key.endswith("/selection")]
    assert len(selections) >= 2
