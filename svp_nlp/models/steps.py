"""One step of a training: the state that a training carries, a batch's gradient, its loss, and the dev accuracy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from torch import Tensor, nn

from svp_nlp.arrays import IntK
from svp_nlp.errors import TrainingError
from svp_nlp.models.base import Event, FitContext, TrainingSpec
from svp_nlp.models.batches import Examples, collate_rng, split_batch, step_seed
from svp_nlp.models.devices import clear_errors, seed_torch, to_device
from svp_nlp.models.prediction import logits_of

Labels: TypeAlias = npt.NDArray[np.int64]
Dev: TypeAlias = tuple[Examples, Labels]

_POSITIONS_NAMED = 10
_FEWEST_ROWS = 2  # accumulation does not cut a batch into smaller parts


@dataclass
class Progress:
    """Counters of a training: all of them are in a checkpoint."""

    epoch: int = 0  # the running one, from 0
    step: int = 0  # optimiser steps done, over all epochs
    step_in_epoch: int = 0
    loss_sum: float = 0.0  # of the running epoch, over rows
    correct: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0  # finished epochs
    best_epoch: int = 0
    best_accuracy: float = -1.0
    history: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class Share:
    """What one process does for one step: the parts follow each other."""

    inputs: list[dict[str, Tensor]]
    labels: list[Tensor]
    rows: list[IntK]
    weight: float  # of a row's loss


@dataclass(frozen=True)
class Unchecked:
    """A step whose loss has not been read yet."""

    step: int
    rows_B: IntK
    rate: float
    measured: Tensor  # [loss, correct, rows]


@dataclass
class Fit:
    """One training under way."""

    model: nn.Module  # the caller's; holds the weights
    forward: nn.Module  # the model as Accelerate wraps it
    optimizer: Any
    accelerator: Accelerator
    examples: Examples
    labels_L: Labels
    positions_L: IntK
    dev: Dev | None
    spec: TrainingSpec
    seed: int
    context: FitContext
    what: str
    identity: dict[str, Any]
    num_labels: int  # the largest label plus one
    weights_C: Tensor | None  # of the labels, on the device of the training; None: all count the same
    rank: int  # of those that share this training, not of the launch
    processes: int  # 1: nothing below calls another process
    sharded: bool  # FSDP2: `model` holds parts, and `forward` talks to all processes in evaluation too
    steps_per_epoch: int
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    unchecked: list[Unchecked] = field(default_factory=list)
    saved_step: int = 0
    saved_at: float = 0.0


class Wrapped(nn.Module):
    """What Accelerate wraps in place of the model, whose forward it would patch and leave patched."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return logits_of(self.model(**inputs))


def has_unused_parameters(model: nn.Module, examples: Examples, place: torch.device) -> bool:
    """Whether a forward pass leaves out parameters that are to be trained, as a pooler that no classifier reads.

    DDP must know: it would wait for their gradients. Always saying yes costs a walk over the graph at every step and
    a warning that cannot be silenced. Costs one forward pass over two rows, without dropout.
    """
    was_training = model.training
    inputs = examples.collate(np.arange(min(2, len(examples))), rng=None)
    pending = [logits_of(model.eval()(**to_device(inputs, place))).grad_fn]
    model.train(was_training)
    reached, seen = set(), set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        pending.extend(before for before, _ in node.next_functions)
    drops_layers = any(getattr(module, "layerdrop", 0) for module in model.modules())
    return drops_layers or any(id(value) not in reached for value in model.parameters() if value.requires_grad)


def make_optimizer(
    model: nn.Module, spec: TrainingSpec, *, lr_scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimiser of all parameters that require a gradient; `lr_scale` of a group multiplies a step's rate.

    SGD decays all parameters, as the authors of SVP have it. AdamW decays only matrices and embeddings: what has one
    axis is a bias or the scale of a norm, which is the rule of the Trainer of transformers in other words.

    Raises:
        TrainingError: `lr_scales` names a parameter that the model does not have; nothing is trainable.
    """
    scales = dict(lr_scales or {})
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    unknown = scales.keys() - dict(model.named_parameters(remove_duplicate=False)).keys()
    if unknown:
        raise TrainingError(f"lr_scales names {sorted(unknown)[0]!r}; expected a parameter of the model")
    if not named:
        raise TrainingError("no parameter of the model requires a gradient; unfreeze one")
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, value in named:
        decays = spec.optimizer == "sgd" or value.ndim >= 2
        groups.setdefault((decays, scales.get(name, 1.0)), []).append(value)
    options = [
        {"params": values, "weight_decay": spec.weight_decay if decays else 0.0, "lr_scale": scale}
        for (decays, scale), values in groups.items()
    ]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(options, lr=spec.learning_rate, momentum=spec.momentum)
    # One kernel for all of a parameter's update instead of a dozen passes over it; on a CPU as on a GPU.
    fused = all(value.device.type in ("cpu", "cuda") for _, value in named)
    return torch.optim.AdamW(options, lr=spec.learning_rate, fused=fused)


def collate_share(fit: Fit, rows_B: IntK) -> Share:
    """This process's part of a global batch, ready for the model.

    Not made ahead in a second thread: 128 texts take 0.4 ms, handing them over takes as long, and on a GPU this runs
    while the device works on the step before, because losses are not read at every step.
    """
    parts, counts = split_batch(
        rows_B, parts=fit.spec.gradient_accumulation_steps, rank=fit.rank, num_processes=fit.processes
    )
    rng = collate_rng(fit.seed, fit.progress.step, fit.rank)
    inputs = [fit.examples.collate(rows_K, rng=rng) for rows_K in parts]
    labels = [torch.from_numpy(fit.labels_L[rows_K]) for rows_K in parts]
    return Share(inputs, labels, parts, weight=fit.processes / len(rows_B) if counts else 0.0)


def take_step(fit: Fit, share: Share, *, rate: float) -> Tensor:
    """One optimiser step; returns [loss, correct, rows] of this process on its device, to be summed over processes."""
    accelerator, spec, place = fit.accelerator, fit.spec, fit.accelerator.device
    for group in fit.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    seed_torch(step_seed(fit.seed, fit.progress.step, f"dropout {fit.rank}"), place)
    measured = torch.zeros(3, device=place)
    with clear_errors(f"{fit.what}: step {fit.progress.step + 1:,}", _memory_advice(spec, share)):
        for number, (inputs, labels_B) in enumerate(zip(share.inputs, share.labels, strict=True)):
            last = number + 1 == len(share.inputs)
            with contextlib.nullcontext() if last else _no_sync(fit):
                logits_BC = fit.forward(**to_device(inputs, place)).float()
                if logits_BC.shape[1] < fit.num_labels:
                    raise TrainingError(
                        f"{fit.what}: labels go up to {fit.num_labels - 1}, the model has {logits_BC.shape[1]} classes"
                    )
                labels_B = to_device({"labels": labels_B}, place)["labels"]
                loss = share.weight * _summed_loss(fit, logits_BC, labels_B)
                accelerator.backward(loss)
            with torch.no_grad():
                hits = (logits_BC.argmax(1) == labels_B).sum()
                counted = torch.stack([loss / fit.processes, hits, torch.full_like(hits, len(labels_B))])
                measured += counted * (share.weight > 0)  # a process without a share repeats what others count
                if fit.context.dynamics is not None and share.weight > 0:
                    fit.context.dynamics.record(share.rows[number], logits_BC, labels_B)
        if spec.max_grad_norm is not None:
            accelerator.clip_grad_norm_(fit.model.parameters(), spec.max_grad_norm)
        fit.optimizer.step()
        fit.optimizer.zero_grad()
    return measured


def _summed_loss(fit: Fit, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy of some rows, each times the weight of its class.

    Not cross_entropy's own `weight`, whose label smoothing weighs the other classes too. Weights are 1 on average over
    the training rows, so that a step divides by its rows alone, however they are shared out.
    """
    smoothing = fit.spec.label_smoothing
    if fit.weights_C is None:
        return F.cross_entropy(logits_BC, labels_B, reduction="sum", label_smoothing=smoothing)
    losses_B = F.cross_entropy(logits_BC, labels_B, reduction="none", label_smoothing=smoothing)
    return (fit.weights_C[labels_B] * losses_B).sum()


@contextlib.contextmanager
def _no_sync(fit: Fit) -> Iterator[None]:
    """Gradients are added up on this process only, to be shared after the last part."""
    if fit.sharded:
        forward: Any = fit.model
        forward.set_requires_gradient_sync(False)
        yield
        forward.set_requires_gradient_sync(True)
    elif fit.processes > 1:
        with fit.accelerator.no_sync(fit.forward):
            yield
    else:
        yield


def _memory_advice(spec: TrainingSpec, share: Share) -> str:
    rows = max(len(labels_B) for labels_B in share.labels)
    width = max((value.shape[1] for inputs in share.inputs for value in inputs.values() if value.ndim > 1), default=1)
    more = "" if rows <= _FEWEST_ROWS else f"gradient_accumulation_steps to {2 * spec.gradient_accumulation_steps}, or "
    return (
        f"{rows} rows of up to {width:,} tokens at once did not fit; set {more}a lower max_length, or, for a "
        "transformer, gradient_checkpointing or mixed_precision bf16"
    )


def add_up(fit: Fit, value: Tensor) -> Tensor:
    """The sum over the processes of the training, all of which must call it."""
    return cast(Tensor, fit.accelerator.reduce(value, reduction="sum")) if fit.processes > 1 else value


def check_losses(fit: Fit) -> None:
    """Add up the losses of the last steps, and stop at one that is not a number.

    Raises:
        TrainingError: names the step, the epoch, the learning rate and the rows.
    """
    if not fit.unchecked:
        return
    measured = torch.stack([entry.measured for entry in fit.unchecked])
    measured = add_up(fit, measured)
    progress = fit.progress
    for entry, (loss, correct, rows) in zip(fit.unchecked, measured.tolist(), strict=True):
        assert round(rows) == len(entry.rows_B), "processes counted a row twice or not at all"
        if not math.isfinite(loss):
            positions_B = fit.positions_L[entry.rows_B]
            named = ", ".join(str(position) for position in positions_B[:_POSITIONS_NAMED])
            more = f" and {len(positions_B) - _POSITIONS_NAMED:,} more" if len(positions_B) > _POSITIONS_NAMED else ""
            raise TrainingError(
                f"{fit.what}: loss is {loss} at step {entry.step + 1:,} (epoch {progress.epoch + 1}, learning rate "
                f"{entry.rate:g}), on the rows at pool positions {named}{more}; lower the learning rate, set "
                "max_grad_norm, or look at these rows"
            )
        progress.loss_sum += loss * len(entry.rows_B)
        progress.correct += round(correct)
    fit.unchecked.clear()


def measure_dev(fit: Fit, dev: Dev) -> float:
    """Accuracy in the precision of the training; processes share the batches, unless they need each other for each."""
    examples, labels_N = dev
    accelerator, size = fit.accelerator, fit.spec.eval_batch_size
    batches = [np.arange(start, min(start + size, len(labels_N))) for start in range(0, len(labels_N), size)]
    mine = batches if fit.sharded else batches[fit.rank :: fit.processes]
    counts = torch.zeros(2, dtype=torch.int64, device=accelerator.device)  # correct, rows
    fit.model.eval()
    with torch.inference_mode(), clear_errors(f"{fit.what}: dev", f"set eval_batch_size below {size}"):
        for rows_B in mine:
            inputs = to_device(examples.collate(rows_B, rng=None), accelerator.device)
            with accelerator.autocast():
                logits_BC = logits_of(fit.model(**inputs))
            correct = (logits_BC.argmax(1).cpu() == torch.from_numpy(labels_N[rows_B])).sum()
            counts += torch.tensor([int(correct), len(rows_B)], device=counts.device)
    fit.model.train()
    if fit.processes > 1 and not fit.sharded:
        counts = accelerator.reduce(counts, reduction="sum")
    correct_count, rows = counts.tolist()
    assert rows == len(labels_N), "processes counted a row twice or not at all"
    return correct_count / rows
