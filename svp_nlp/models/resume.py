"""A training under way, written to disk and found again."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from svp_nlp.arrays import IntK, fingerprint_array, fingerprint_json
from svp_nlp.errors import CheckpointError, Interrupted
from svp_nlp.files import remove_leftovers
from svp_nlp.models.base import TrainingSpec
from svp_nlp.models.batches import Examples
from svp_nlp.models.checkpoint import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer
from svp_nlp.models.dynamics import DynamicsRecorder
from svp_nlp.models.sharded import put, whole
from svp_nlp.models.steps import Dev, Fit, Labels, Progress, add_up, check_losses

logger = logging.getLogger(__name__)

_SAME_BITS = ("processes", "sharded", "device")  # dropout, the cut of a batch and rounding depend on them


def training_identity(
    model: nn.Module,
    examples: Examples,
    labels_L: Labels,
    *,
    positions_L: IntK,
    dev: Dev | None,
    spec: TrainingSpec,
    seed: int,
    lr_scales: Mapping[str, float] | None,
    compiled: bool,
    dynamics: DynamicsRecorder | None = None,
) -> dict[str, Any]:
    """What decides the result; a checkpoint belongs to a training when all of it is the same."""
    weights = {name: [str(value.dtype), list(value.shape)] for name, value in model.state_dict().items()}
    scales = dict(lr_scales or {})
    trained = [[name, scales.get(name, 1.0)] for name, value in model.named_parameters() if value.requires_grad]
    identity = {
        "training options": fingerprint_json(spec.model_dump(mode="json", exclude={"checkpoint_every_s"})),
        "seed": seed,
        "labels": fingerprint_array(labels_L),
        "positions": fingerprint_array(positions_L),
        "model parameters": fingerprint_json(weights),
        "trained parameters": fingerprint_json(trained),
        "torch.compile": compiled,
    }
    if frozen := _frozen(model):
        identity["frozen weights"] = _hash_weights(model, frozen)
    if examples.lengths_N is not None:
        identity["lengths"] = fingerprint_array(examples.lengths_N)
    if dynamics is not None:
        identity["recorded dynamics"] = list(dynamics.names)
    if dev is not None:
        identity["dev labels"] = fingerprint_array(dev[1])
    return identity


def _frozen(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters(remove_duplicate=False) if not value.requires_grad}


def _hash_weights(model: nn.Module, names: set[str]) -> str:
    """Over bytes: about a second for a gigabyte."""
    digest, state = hashlib.sha256(), model.state_dict()
    for name in sorted(names):
        digest.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, but not what is frozen: a head on a frozen encoder has a small checkpoint.

    All processes of a sharded training must call it.
    """
    frozen = _frozen(model)
    return {name: whole(value).detach() for name, value in model.state_dict().items() if name not in frozen}


def put_trained_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `trained_state` gave for such a model."""
    state = model.state_dict()
    for name, value in tensors.items():
        put(state[name], value)


def resume(fit: Fit) -> None:
    """Go on from the newest good checkpoint, if there is one."""
    directory, accelerator = fit.context.checkpoint_dir, fit.accelerator
    if directory is None:
        return
    if fit.processes > 1:
        if fit.rank == 0:
            remove_leftovers(directory)
        accelerator.wait_for_everyone()
    loaded = load_checkpoint(directory, identity=fit.identity)
    step = -1 if loaded is None else loaded.step
    if fit.processes > 1:
        steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise CheckpointError(f"processes found different checkpoints in {directory} (steps {steps}); share it")
    if loaded is None:
        return
    hardware, then = _hardware(fit), loaded.state["hardware"]
    changed = {name: f"{name} {then.get(name)} -> {hardware[name]}" for name in hardware
               if then.get(name) != hardware[name]}  # fmt: skip
    if changed.keys() & set(_SAME_BITS):
        # Nothing of the old attempt is kept: its checkpoints are passed over until new ones take their place.
        _say(
            fit,
            logging.WARNING,
            "%s starts from its beginning, not from step %s: %s since its checkpoint, and half a training on each is "
            "a result that nobody could repeat",
            fit.what, f"{loaded.step:,}", ", ".join(changed.values()),
        )  # fmt: skip
        return
    if changed:
        _say(fit, logging.WARNING, "%s goes on with %s: last bits may differ", fit.what, ", ".join(changed.values()))
    put_trained_state(fit.model, loaded.tensors["model"])
    unpack_optimizer(fit.optimizer, loaded.tensors["optimizer"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(loaded.state["scaler"])
    fit.best = loaded.tensors["best"]
    if fit.context.dynamics is not None:
        fit.context.dynamics.unpack(loaded.tensors["dynamics"], keeps_running=fit.rank == 0)
    fit.progress = Progress(**loaded.state["progress"])
    _say(fit, logging.INFO, "%s goes on from step %s", fit.what, f"{fit.progress.step:,}")


def _say(fit: Fit, level: int, message: str, *values: str) -> None:
    if fit.rank == 0:
        logger.log(level, message, *values)


def _hardware(fit: Fit) -> dict[str, Any]:
    return {
        "device": fit.accelerator.device.type,
        "processes": fit.processes,
        "sharded": fit.sharded,
        "torch": str(torch.__version__),
    }


def stop_or_save(fit: Fit, *, check_every: int) -> None:
    """Between two steps: write a checkpoint when one is due, or when asked to stop.

    Raises:
        Interrupted: asked to stop.
    """
    progress, accelerator, directory = fit.progress, fit.accelerator, fit.context.checkpoint_dir
    stop = fit.context.stop_requested()
    due = time.monotonic() - fit.saved_at >= fit.spec.checkpoint_every_s
    if fit.processes > 1:
        # All processes must agree, and agreeing costs a collective call.
        if progress.step % check_every:
            return
        wishes = accelerator.reduce(torch.tensor([int(stop), int(due)], device=accelerator.device), reduction="sum")
        stop, due = (wish > 0 for wish in wishes.tolist())
    if directory is not None and (stop or due) and progress.step != fit.saved_step:
        check_losses(fit)
        dynamics = fit.context.dynamics
        recorded = None if dynamics is None else dynamics.pack(partial(add_up, fit))
        if fit.rank == 0 or fit.sharded:  # all processes put the parts together
            tensors: dict[str, dict[str, Tensor]] = {
                "model": trained_state(fit.model),
                "best": fit.best,
                "optimizer": pack_optimizer(fit.optimizer),
            }
        if fit.rank == 0:
            if recorded is not None:
                tensors["dynamics"] = recorded
            state = {
                "identity": fit.identity,
                "hardware": _hardware(fit),
                "progress": asdict(progress),
                "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
            }
            save_checkpoint(directory, progress.step, tensors=tensors, state=state)
        if fit.processes > 1:
            accelerator.wait_for_everyone()  # a launcher ends all processes as soon as one of them has ended
        fit.saved_step, fit.saved_at = progress.step, time.monotonic()
    if stop:
        then = "starts it again" if directory is None else "goes on from here"
        raise Interrupted(f"stopped during training of {fit.what}; the same command {then}")
