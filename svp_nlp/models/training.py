"""The one loop that trains every nn.Module, and the one that predicts with it.

Everything random is a pure function of (seed, epoch, step): the order of the rows, dropout, augmentation; so is the
learning rate. A checkpoint therefore holds weights, optimiser state and counters but no generator, scheduler or data
loader, and a resumed training repeats an uninterrupted one bit for bit on a CPU.

Accelerate places the model, wraps it for several processes, scales and clips gradients. Its data loaders are not
used: they pad the last batch with rows from the start, and a resumed loader shifts the dropout masks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import nn

from svp_nlp.arrays import IntK
from svp_nlp.errors import TrainingError
from svp_nlp.models.base import Event, FitContext, TrainingSpec
from svp_nlp.models.batches import (
    Examples,
    count_batches,
    epoch_batches,
    learning_rate,
    planned_epochs,
    warmup_steps,
)
from svp_nlp.models.class_weights import class_weights
from svp_nlp.models.devices import device, make_accelerator, seeded
from svp_nlp.models.prediction import predict
from svp_nlp.models.resume import put_trained_state, resume, stop_or_save, trained_state, training_identity
from svp_nlp.models.sharded import sharded_copy, wants_sharding, whole
from svp_nlp.models.steps import (
    Dev,
    Fit,
    Labels,
    Unchecked,
    Wrapped,
    add_up,
    check_losses,
    collate_share,
    has_unused_parameters,
    make_optimizer,
    measure_dev,
    take_step,
)

__all__ = ["Dev", "Examples", "Labels", "TrainingResult", "device", "predict", "seeded", "train"]

_STEPS_PER_CHECK = 20  # reading losses and agreeing with other processes wait for the GPU; a CPU does it at every step


@dataclass(frozen=True)
class TrainingResult:
    """What a training did. Epochs count from 1."""

    epochs_run: int
    best_epoch: int  # the epoch whose weights the model has: best on dev, or the last one without dev
    history: tuple[Event, ...]  # one event per epoch, over all attempts
    seconds: float  # training and dev evaluation over all attempts; not checkpoints, nor steps that were lost
    steps: int  # optimiser steps
    epochs_planned: int  # num_train_epochs, or more for min_train_steps; early stopping may run fewer
    steps_per_epoch: int
    warmup_steps: int

    @property
    def report(self) -> Event:
        """As JSON values, for `Predictor.report`."""
        return {**asdict(self), "history": list(self.history)}


def train(
    model: nn.Module,
    examples: Examples,
    labels_L: Labels,
    *,
    positions_L: IntK,
    dev: Dev | None,
    training: TrainingSpec,
    seed: int,
    context: FitContext,
    what: str = "target",
    lr_scales: Mapping[str, float] | None = None,
    compiled: bool = False,
) -> TrainingResult:
    """Train `model` in place; it ends in eval mode with the chosen weights, on `device()`.

    The loss of a step is the mean over its global batch, whatever the number of processes and of accumulation
    parts. (Batch norm sees the rows of one part on one process: there the parts are not exactly the same thing.)
    An event for an epoch may come twice when the process died between it and the next checkpoint.

    Args:
        model: `model(**inputs)` gives logits_BC, as a tensor or as `.logits`. The caller initialises it (`seeded`).
        examples: [L] rows.
        labels_L: int64 in [0, C).
        positions_L: pool positions of the rows, for error messages.
        dev: rows and labels that choose the epoch; None: the last epoch.
        training: weight decay applies to all parameters under sgd, as the authors of SVP have it, and only to
            matrices (not to biases and norms) under adamw.
        seed: decides order, dropout and augmentation; torch's global generator is left as it was.
        context: `checkpoint_dir` is left for the caller to delete once it has saved the model. Without
            `data_parallel` this process trains alone, whatever else was launched, and calls no other. `dynamics`
            forgets what it held, and then has each epoch that is run, the ones after the best as well.
        what: names the training in events and errors.
        lr_scales: parameter name -> factor of its learning rate; 1 for those that are not named. Parameters that
            require no gradient are not trained.
        compiled: the training steps run through torch.compile, for any shapes; the dev evaluation does not.
    Raises:
        TrainingError: no row, bad labels, loss or weights not finite, out of memory, unusable precision or launcher.
        CheckpointError: the checkpoint belongs to another training, or cannot be written.
        Interrupted: asked to stop; the checkpoint is written.
    """
    _check(examples, labels_L, dev=dev, spec=training, what=what)
    accelerator = make_accelerator(training.mixed_precision)
    identity = training_identity(
        model, examples, labels_L, positions_L=positions_L, dev=dev, spec=training, seed=seed, lr_scales=lr_scales,
        compiled=compiled, dynamics=context.dynamics,
    )  # fmt: skip
    processes = accelerator.num_processes if context.data_parallel else 1
    sharded = processes > 1 and wants_sharding()
    if sharded and compiled:
        raise TrainingError(f"{what}: torch.compile cannot be used with FSDP2; turn one of them off")
    held = model  # what is trained; a copy only when it lies in parts on several processes
    if sharded:
        held = sharded_copy(model, accelerator.device, mixed_precision=training.mixed_precision, what=what)
    elif processes > 1:
        unused = has_unused_parameters(model.to(accelerator.device), examples, accelerator.device)
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=unused)
    wrapped = Wrapped(cast(nn.Module, torch.compile(held, dynamic=True)) if compiled else held)
    forward = wrapped if sharded else accelerator.prepare_model(wrapped, evaluation_mode=processes == 1)
    optimizer: Any = make_optimizer(held, training, lr_scales=lr_scales)
    if accelerator.scaler is not None:  # without a scaler the wrapper only looks for packages, 0.5 ms a step
        optimizer = accelerator.prepare_optimizer(optimizer)
    num_labels = int(labels_L.max()) + 1
    weights_C = class_weights(labels_L, training.class_weights, num_classes=num_labels)
    scales_C = None if weights_C is None else torch.from_numpy(weights_C).float().to(accelerator.device)
    fit = Fit(
        model=held, forward=forward, optimizer=optimizer, accelerator=accelerator, examples=examples,
        labels_L=labels_L, positions_L=positions_L, dev=dev, spec=training, seed=seed, context=context, what=what,
        identity=identity, num_labels=num_labels, processes=processes, sharded=sharded,
        weights_C=scales_C, rank=accelerator.process_index if processes > 1 else 0,
        steps_per_epoch=count_batches(len(labels_L), training.global_batch_size),
    )  # fmt: skip
    if context.dynamics is not None:
        context.dynamics.begin(positions_L, accelerator.device)
    with seeded(seed):
        resume(fit)
        try:
            _run(fit)
        finally:
            optimizer.zero_grad()
            del wrapped.model  # Accelerate's patch is a reference cycle: it would hold the weights until the next gc
    if fit.best or sharded:
        put_trained_state(model.to(accelerator.device), fit.best or trained_state(held))
    model.eval()
    done = fit.progress
    best_epoch = done.best_epoch if dev is not None else done.epoch
    epochs = planned_epochs(training, fit.steps_per_epoch)
    return TrainingResult(
        epochs_run=done.epoch, best_epoch=best_epoch, history=tuple(done.history), seconds=done.seconds,
        steps=done.step, epochs_planned=epochs, steps_per_epoch=fit.steps_per_epoch,
        warmup_steps=warmup_steps(training, epochs * fit.steps_per_epoch),
    )  # fmt: skip


def _check(examples: Examples, labels_L: Labels, *, dev: Dev | None, spec: TrainingSpec, what: str) -> None:
    if len(labels_L) == 0:
        raise TrainingError(f"{what}: no labelled row to train on; label some rows first")
    if labels_L.min() < 0:
        row = int(labels_L.argmin())
        raise TrainingError(f"{what}: training row {row} has label {labels_L[row]}; expected class numbers from 0")
    if dev is not None and len(dev[1]) == 0:
        raise TrainingError(f"{what}: the dev set is empty; give it rows or leave it out")
    if spec.early_stopping_patience is not None and dev is None:
        raise TrainingError(f"{what}: early_stopping_patience needs a dev set; give one or remove the option")
    assert len(examples) == len(labels_L)
    assert dev is None or len(dev[0]) == len(dev[1])


def _run(fit: Fit) -> None:
    """Epochs until the last one or until dev accuracy stops rising."""
    spec, progress = fit.spec, fit.progress
    num_rows = len(fit.labels_L)
    batch_size = min(spec.global_batch_size, num_rows)
    fit.saved_at, fit.saved_step = time.monotonic(), progress.step
    while progress.epoch < planned_epochs(spec, fit.steps_per_epoch) and not _stopped_early(fit):
        batches = epoch_batches(
            num_rows, seed=fit.seed, epoch=progress.epoch, batch_size=batch_size, lengths_N=fit.examples.lengths_N
        )
        _train_epoch(fit, batches)
        _finish_epoch(fit)


def _stopped_early(fit: Fit) -> bool:
    patience, progress = fit.spec.early_stopping_patience, fit.progress
    return patience is not None and progress.epoch - progress.best_epoch >= patience


def _train_epoch(fit: Fit, batches: Sequence[IntK]) -> None:
    """The rest of the running epoch, with stops and checkpoints between its steps."""
    progress, spec, accelerator = fit.progress, fit.spec, fit.accelerator
    always = accelerator.device.type == "cpu" or spec.checkpoint_every_s == 0
    check_every = 1 if always else _STEPS_PER_CHECK
    fit.forward.train()
    before, started = progress.epoch_seconds, time.perf_counter()
    for rows_B in batches[progress.step_in_epoch :]:
        pause = time.perf_counter()
        stop_or_save(fit, check_every=check_every)
        started += time.perf_counter() - pause
        rate = learning_rate(spec, step=progress.step, steps_per_epoch=len(batches))
        measured = take_step(fit, collate_share(fit, rows_B), rate=rate)
        fit.unchecked.append(Unchecked(progress.step, rows_B, rate, measured))
        progress.step += 1
        progress.step_in_epoch += 1
        if len(fit.unchecked) >= check_every or progress.step_in_epoch == len(batches):
            check_losses(fit)
        progress.epoch_seconds = before + time.perf_counter() - started
    if fit.context.dynamics is not None:
        fit.context.dynamics.end_epoch(partial(add_up, fit))
        progress.epoch_seconds = before + time.perf_counter() - started


def _finish_epoch(fit: Fit) -> None:
    """Measure on dev, keep the weights if they are the best so far, tell what happened."""
    progress, num_rows = fit.progress, len(fit.labels_L)
    if fit.processes > 1:
        for buffer in fit.model.buffers():
            buffer.copy_(broadcast(buffer))  # batch norm's running statistics differ between processes
    if not all(bool(torch.isfinite(whole(value)).all()) for value in fit.model.parameters()):
        raise TrainingError(
            f"{fit.what}: weights are not finite after epoch {progress.epoch + 1} (step {progress.step:,}); lower the "
            "learning rate or set max_grad_norm"
        )
    started = time.perf_counter()
    dev_accuracy = None if fit.dev is None else measure_dev(fit, fit.dev)
    dev_seconds = time.perf_counter() - started
    progress.epoch += 1
    if dev_accuracy is not None and dev_accuracy > progress.best_accuracy:
        progress.best_accuracy, progress.best_epoch = dev_accuracy, progress.epoch
        fit.best = {name: value.to("cpu", copy=True) for name, value in trained_state(fit.model).items()}
    event: Event = {
        "event": "epoch",
        "what": fit.what,
        "epoch": progress.epoch,
        "loss": progress.loss_sum / num_rows,
        "train_accuracy": progress.correct / num_rows,
        "dev_accuracy": dev_accuracy,
        "learning_rate": learning_rate(fit.spec, step=progress.step - 1, steps_per_epoch=fit.steps_per_epoch),
        "examples_per_second": num_rows / max(progress.epoch_seconds, 1e-9),
        "seconds": progress.epoch_seconds,
        "dev_seconds": dev_seconds,
    }
    progress.history.append(event)
    progress.seconds += progress.epoch_seconds + dev_seconds
    progress.step_in_epoch, progress.loss_sum, progress.correct, progress.epoch_seconds = 0, 0.0, 0, 0.0
    if fit.rank == 0:
        fit.context.on_event(event)
