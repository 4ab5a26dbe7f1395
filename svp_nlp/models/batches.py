"""What a training is fed, step by step: pure functions of (seed, epoch, step), so that resuming needs no state."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from torch import Tensor

from svp_nlp.arrays import IntK, IntN, keyed_hash
from svp_nlp.models.base import TrainingSpec

_BATCHES_PER_BLOCK = 50  # rows are sorted by length within so many batches: little padding, still well mixed


class Examples(Protocol):
    """Encoded model inputs of some rows, held ready for batching."""

    lengths_N: IntN | None  # for length-grouped batches; None: shuffled only

    def __len__(self) -> int: ...

    def collate(self, rows_B: IntK, *, rng: np.random.Generator | None) -> dict[str, Tensor]:
        """CPU tensors of these rows, in their order; `rng` is for augmentation, None = evaluation."""


def epoch_batches(
    num_rows: int, *, seed: int, epoch: int, batch_size: int, lengths_N: IntN | None = None
) -> list[IntK]:
    """The batches of one epoch: every row once, a pure function of the arguments.

    Args:
        num_rows: how many rows there are, at least 1.
        seed: any int.
        epoch: from 0.
        batch_size: rows of a batch over all processes. A last batch of a single row joins the one before it: batch
            norm has no variance over one row.
        lengths_N: when given, rows are sorted by length inside blocks of 50 batches, and the batches are shuffled.
    Returns:
        int64 arrays of row numbers in [0, num_rows).
    """
    order_N = np.argsort(keyed_hash(np.arange(num_rows), seed, f"rows of epoch {epoch}"))
    if lengths_N is not None:
        for start in range(0, num_rows, block := batch_size * _BATCHES_PER_BLOCK):
            rows_K = order_N[start : start + block]
            order_N[start : start + block] = rows_K[np.argsort(lengths_N[rows_K], kind="stable")]
    cuts = batch_size * np.arange(1, count_batches(num_rows, batch_size))
    batches = np.split(order_N.astype(np.int64, copy=False), cuts)
    if lengths_N is not None:
        shuffled = np.argsort(keyed_hash(np.arange(len(batches)), seed, f"batches of epoch {epoch}"))
        batches = [batches[number] for number in shuffled]
    return batches


def count_batches(num_rows: int, batch_size: int) -> int:
    """How many batches, and optimiser steps, an epoch has; at least 1."""
    whole, rest = divmod(num_rows, batch_size)
    joins = rest == 1 and batch_size > 1
    return max(1, whole + (rest > 0 and not joins))


def planned_epochs(spec: TrainingSpec, steps_per_epoch: int) -> int:
    """Epochs of a training that is not stopped early: those of a schedule, else enough for `min_train_steps`."""
    least = 0 if spec.schedule is not None else spec.min_train_steps or 0  # a head has one by default
    return max(spec.epochs, -(-least // steps_per_epoch))


def warmup_steps(spec: TrainingSpec, steps: int) -> int:
    """How many of the steps of a training warm up."""
    return 0 if spec.schedule is not None else int(spec.warmup_ratio * steps)


def learning_rate(spec: TrainingSpec, *, step: int, steps_per_epoch: int) -> float:
    """The learning rate of an optimiser step, counted from 0.

    Stages are constant. Otherwise the rate rises linearly over the first `warmup_ratio` of all steps, reaching the
    full rate at the last of them, and then stays, or falls to zero (linear, cosine), which the step after the last
    one would have: no step is wasted on a rate of zero.
    """
    if spec.schedule is not None:
        epoch = step // steps_per_epoch
        for stage in spec.schedule:
            if epoch < stage.epochs:
                return stage.learning_rate
            epoch -= stage.epochs
        raise AssertionError(f"step {step} is after the last stage")
    total = planned_epochs(spec, steps_per_epoch) * steps_per_epoch
    warmup = warmup_steps(spec, total)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    if spec.lr_scheduler == "constant":
        return spec.learning_rate
    return spec.learning_rate * (1 - done if spec.lr_scheduler == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def split_batch(rows_B: IntK, *, parts: int, rank: int, num_processes: int) -> tuple[list[IntK], bool]:
    """The share of one process in a global batch, cut into parts that follow each other in memory.

    No part has a single row unless the batch has, because batch norm has no variance over one row: a small batch is
    cut into fewer parts, the same number on every process.

    Returns:
        The parts, and whether they count: a process without a share computes the first one with weight zero, since
        all processes must take part in every backward pass.
    """
    used = max(1, min(num_processes, len(rows_B) // 2))
    share_K = np.array_split(rows_B, used)[rank if rank < used else 0]
    parts = max(1, min(parts, len(rows_B) // used // 2))
    return np.array_split(share_K, parts), rank < used


def collate_rng(seed: int, step: int, rank: int) -> np.random.Generator:
    """The generator that augments the batch of a step."""
    return np.random.default_rng(step_seed(seed, step, f"augmentation {rank}"))


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A 64-bit seed for one step and purpose."""
    return int(keyed_hash(np.array([step]), seed, purpose)[0])
