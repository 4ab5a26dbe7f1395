"""The training loop: exact resume at every step, order as a pure function, clear errors. Toy model, toy rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svp_nlp.errors import Interrupted
from svp_nlp.models.base import FitContext, ScheduleStage, TrainingSpec
from svp_nlp.models.training import TrainingResult, seeded, train

VOCABULARY, CLASSES = 30, 3


class Toy(nn.Module):
    """All that makes resuming hard: dropout, batch norm with running statistics, an embedding."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(VOCABULARY, 8, mode="mean", padding_idx=0)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor, embeddings: bool = False) -> Any:
        features_BD = self.dropout(torch.relu(self.norm(self.embedding(tokens))))
        logits_BC = self.output(features_BD)
        return (logits_BC, features_BD) if embeddings else logits_BC


@dataclasses.dataclass
class ToyExamples:
    """Rows of tokens; in training each is hidden with probability 0.1, as an augmentation."""

    tokens_NT: np.ndarray
    lengths_N: np.ndarray | None

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def collate(self, rows_B: np.ndarray, *, rng: np.random.Generator | None) -> dict[str, Tensor]:
        tokens_BT = self.tokens_NT[rows_B]
        if self.lengths_N is not None:
            tokens_BT = tokens_BT[:, : int(self.lengths_N[rows_B].max())]
        if rng is not None:
            tokens_BT = np.where(rng.random(tokens_BT.shape) < 0.1, 0, tokens_BT)
        return {"tokens": torch.from_numpy(tokens_BT)}


def toy_rows(num_rows: int, *, grouped: bool = False, seed: int = 0) -> tuple[ToyExamples, np.ndarray]:
    """The class decides which third of the vocabulary most tokens come from."""
    rng = np.random.default_rng(seed)
    labels_L = rng.integers(CLASSES, size=num_rows)
    tokens_NT = 1 + rng.integers(9, size=(num_rows, 6)) + 9 * labels_L[:, None]
    noise_NT = rng.random(tokens_NT.shape) < 0.4
    tokens_NT[noise_NT] = rng.integers(1, 28, size=int(noise_NT.sum()))
    lengths_N = rng.integers(1, 7, size=num_rows)
    tokens_NT[np.arange(6) >= lengths_N[:, None]] = 0
    return ToyExamples(tokens_NT, lengths_N if grouped else None), labels_L


SPEC = TrainingSpec(
    optimizer="adamw", num_train_epochs=3, learning_rate=0.02, lr_scheduler="cosine", warmup_ratio=0.2,
    label_smoothing=0.1, global_batch_size=8, gradient_accumulation_steps=2, max_grad_norm=0.5, eval_batch_size=16,
)  # fmt: skip


def run(
    spec: TrainingSpec = SPEC,
    *,
    context: FitContext | None = None,
    num_rows: int = 29,
    grouped: bool = True,
    with_dev: bool = True,
    seed: int = 3,
    model: nn.Module | None = None,
    labels_L: np.ndarray | None = None,
) -> tuple[nn.Module, TrainingResult]:
    if model is None:
        with seeded(seed):
            model = Toy()
    examples, own_L = toy_rows(num_rows, grouped=grouped)
    result = train(
        model, examples, own_L if labels_L is None else labels_L, positions_L=1000 + np.arange(num_rows),
        dev=toy_rows(40, grouped=grouped, seed=1) if with_dev else None,
        training=spec, seed=seed, context=context or FitContext(),
    )  # fmt: skip
    return model, result


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def untimed(result: TrainingResult) -> Any:
    clocks = {"seconds", "dev_seconds", "examples_per_second"}
    history = [{key: value for key, value in event.items() if key not in clocks} for event in result.history]
    return result.epochs_run, result.best_epoch, result.steps, history


class StopAt:
    """Asks to stop when it is asked for the n-th time."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


VARIANTS = {
    "adamw, cosine, dev, grouped": (SPEC, {}),
    "sgd, stages, last epoch": (
        TrainingSpec(
            optimizer="sgd",
            schedule=(ScheduleStage(epochs=1, learning_rate=0.2), ScheduleStage(epochs=2, learning_rate=0.05)),
            global_batch_size=7,
        ),
        {"with_dev": False, "grouped": False},
    ),
    "early stop": (
        SPEC.model_copy(update={"num_train_epochs": 9, "early_stopping_patience": 2, "learning_rate": 1e-6}),
        {"num_rows": 17},
    ),
    "bf16": (SPEC.model_copy(update={"mixed_precision": "bf16", "num_train_epochs": 2}), {"num_rows": 17}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_stopped_at_any_step_and_resumed_has_the_same_bits(variant: str, tmp_path: Path) -> None:
    spec, options = VARIANTS[variant]
    model, result = run(spec, **options)
    assert result.steps >= 6
    for step in range(result.steps):
        directory = tmp_path / str(step)
        with pytest.raises(Interrupted, match="same command"):
            run(spec, context=FitContext(directory, stop_requested=StopAt(step)), **options)
        resumed, again = run(spec, context=FitContext(directory), **options)
        assert bits(resumed) == bits(model), step
        assert untimed(again) == untimed(result)


def test_stopping_after_every_single_step_still_finishes_with_the_same_bits(tmp_path: Path) -> None:
    model, result = run()
    for _ in range(result.steps):
        with pytest.raises(Interrupted):
            run(context=FitContext(tmp_path, stop_requested=StopAt(1)))
    # The last stop finds all steps but one done.
    resumed, again = run(context=FitContext(tmp_path))
    assert bits(resumed) == bits(model)
    assert untimed(again) == untimed(result)
