"""Fine-tuning a classifier that has a head on a body: learning rates by layer, and the head before the rest."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from accelerate.utils import gather_object
from pydantic import Field
from safetensors import SafetensorError
from torch import nn

from svp_nlp.arrays import fingerprint_json
from svp_nlp.errors import CheckpointError, ModelError, SVPError, TrainingError
from svp_nlp.files import atomic_directory, read_json, sha256_file, write_json
from svp_nlp.models import training
from svp_nlp.models.base import FitContext, Labeled, TrainingSpec
from svp_nlp.models.devices import device, process_state
from svp_nlp.models.pretrained import head_parameters
from svp_nlp.models.sharded import wants_sharding

log = logging.getLogger(__name__)

_HEAD_FILE = "head.safetensors"
_DONE_FILE = "head.json"


class FineTuningSpec(TrainingSpec):
    """TrainingSpec with the defaults that transformers are usually fine-tuned with (Devlin et al. 2019)."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    num_train_epochs: Annotated[int, Field(ge=1)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    global_batch_size: Annotated[int, Field(ge=1)] = 32
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    eval_batch_size: Annotated[int, Field(ge=1)] = 64


def layer_scales(model: Any, decay: float) -> dict[str, float]:
    """Parameter name -> factor of its learning rate, lower towards the input.

    With N layers: the head 1, layer N (and what comes after it: a pooler, a last norm) `decay`, layer 1 `decay ** N`,
    embeddings and what else comes before the layers `decay ** (N + 1)`.

    Args:
        model: a PreTrainedModel with a head; its layers are the longest nn.ModuleList that is in no other one, or
            several of that length (an encoder and a decoder).
        decay: in (0, 1]; 1 gives no entry.
    Raises:
        ModelError: no such list.
    Source: Howard & Ruder 2018, section 3.2 (1/2.6 a layer). ELECTRA's code has the same but for one more `decay`
        below the head.
    """
    if decay == 1.0:
        return {}
    stacks: dict[str, nn.ModuleList] = {}
    for path, module in model.base_model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(path.startswith(f"{outer}.") for outer in stacks):
            stacks[path] = module
    depth = max((len(stack) for stack in stacks.values()), default=0)
    if depth == 0:
        raise ModelError(f"{type(model).__name__} has no list of layers; leave out layerwise_lr_decay")
    layer_of = {
        id(parameter): number
        for stack in stacks.values()
        if len(stack) == depth
        for number, layer in enumerate(stack, start=1)
        for parameter in layer.parameters()
    }
    tables = {id(m.weight) for m in model.base_model.modules() if isinstance(m, nn.Embedding)}
    head, scales, after = head_parameters(model), {}, False
    for name, parameter in model.named_parameters():
        if name in head:
            continue
        number = layer_of.get(id(parameter))
        after = after or number is not None
        if number is None:
            number = depth if after and id(parameter) not in tables else 0
        scales[name] = decay ** (depth + 1 - number)
    return scales


def check_labels(train: Labeled, name: str) -> None:
    """Raises: TrainingError: no row, or fewer than two classes; found before a network is loaded."""
    if len(train) == 0 or len(train.class_names) < 2:
        raise TrainingError(
            f"{name}: {len(train):,} labelled rows of {len(train.class_names)} classes; a classifier needs rows "
            "and at least 2 classes: label some, or add a class"
        )


@torch.no_grad()
def draw_head(model: Any) -> None:
    """Give the head (what lies outside of the base model) new weights from torch's generator."""
    head = {id(parameter) for parameter in head_parameters(model).values()}
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and all(id(parameter) in head for parameter in own):
            for parameter in own:
                # Set by from_pretrained: initialisers leave such a tensor as it is.
                parameter._is_hf_initialized = False
            model._init_weights(module)


def fine_tune(
    model: Any,
    examples: training.Examples,
    train: Labeled,
    *,
    dev: training.Dev | None,
    spec: TrainingSpec,
    seed: int,
    context: FitContext,
    what: str,
    layerwise_lr_decay: float = 1.0,
    head_first_epochs: int = 0,
    head_learning_rate: float = 1e-3,
    compiled: bool = False,
) -> training.TrainingResult:
    """Train a PreTrainedModel in place: with `head_first_epochs` its head alone, then everything.

    The two trainings have checkpoints of their own, and a finished first one is kept beside them, so that a second
    one that was cut short goes on from where it was.

    Args:
        model: ends in eval mode on `device()`.
        examples: of `train.rows`.
        train: labels and positions.
        dev: as in `training.train`; chooses the epoch of both trainings.
        spec: of the training of everything; the head's has its own epochs and rate, and the same rest.
        seed: see `training.train`.
        context: see `training.train`; `dynamics` are those of the training of everything.
        what: names the training in events and errors.
        layerwise_lr_decay: see `layer_scales`.
        head_first_epochs: 0 = everything at once.
        head_learning_rate: of the head alone.
        compiled: see `training.train`.
    Returns:
        Epochs, steps, seconds and history of both; `best_epoch` counts on from the first.
    Raises:
        TrainingError, CheckpointError, Interrupted: see `training.train`.
        ModelError: no head, or no list of layers, for the options that need them.
    Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features (LP-FT).
    """
    scales = layer_scales(model, layerwise_lr_decay)

    def run(part: str, spec: TrainingSpec, **options: Any) -> training.TrainingResult:
        directory = context.checkpoint_dir
        inside = directory / part if directory is not None and head_first_epochs else directory
        return training.train(
            model, examples, train.labels_L, positions_L=train.positions_L, dev=dev, training=spec, seed=seed,
            context=dataclasses.replace(context, checkpoint_dir=inside,
                                        dynamics=None if part == "head" else context.dynamics), compiled=compiled,
            what=f"{what} (head)" if part == "head" else what, **options,
        )  # fmt: skip

    if not head_first_epochs:
        return run("all", spec, lr_scales=scales)
    key = _head_key(model, train, dev=dev, spec=spec, seed=seed, context=context,
                    options=[head_first_epochs, head_learning_rate])  # fmt: skip
    first = _load_head(model, context.checkpoint_dir, key=key)
    if context.data_parallel and len(set(gather_object([first is not None]))) > 1:
        raise CheckpointError(f"processes found different files in {context.checkpoint_dir}; share it")
    if first is None:
        head_spec = spec.model_copy(
            update={
                "schedule": None,
                "num_train_epochs": head_first_epochs,
                "min_train_steps": None,
                "learning_rate": head_learning_rate,
            }
        )
        first = _head_alone(model, lambda: run("head", head_spec))
        if process_state().is_main_process or not context.data_parallel:
            _save_head(model, context.checkpoint_dir, first, key=key)
    then = run("all", spec, lr_scales=scales)
    return dataclasses.replace(
        then,
        epochs_run=first.epochs_run + then.epochs_run,
        best_epoch=first.epochs_run + then.best_epoch,
        history=first.history + then.history,
        seconds=first.seconds + then.seconds,
        steps=first.steps + then.steps,
    )


def _head_alone(model: Any, run: Any) -> training.TrainingResult:
    head = {id(parameter) for parameter in head_parameters(model).values()}
    if not head:
        raise ModelError(f"{type(model).__name__} has no head outside of its base model; leave out head_first_epochs")
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in head]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        result: training.TrainingResult = run()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return result


def _head_key(
    model: Any,
    train: Labeled,
    *,
    dev: training.Dev | None,
    spec: TrainingSpec,
    seed: int,
    context: FitContext,
    options: list[Any],
) -> str:
    """What a finished first training must agree with to be used again."""
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    processes = process_state().num_processes if context.data_parallel else 1
    # The last three as in resume: a head and a body trained on other hardware are a result that nobody could repeat.
    return fingerprint_json([
        spec.model_dump(mode="json"), seed, train.fingerprint, options, shapes,
        None if dev is None else dev[1].tolist(),
        processes, processes > 1 and wants_sharding(), device().type,
    ])  # fmt: skip


def _save_head(model: Any, directory: Path | None, result: training.TrainingResult, *, key: str) -> None:
    if directory is None:
        return
    head = {name: p.detach().cpu().contiguous() for name, p in head_parameters(model).items()}
    with atomic_directory(directory / "head-done") as path:
        safetensors.torch.save_file(head, path / _HEAD_FILE)
        done = {"key": key, "sha256": sha256_file(path / _HEAD_FILE), "result": result.report}
        write_json(path / _DONE_FILE, {**done, "check": fingerprint_json(done)})


def _load_head(model: Any, directory: Path | None, *, key: str) -> training.TrainingResult | None:
    """Put back the head of a finished first training, if there is one and it is whole and of this training."""
    if directory is None or not (directory / "head-done").is_dir():
        return None
    path = directory / "head-done"
    try:
        done = read_json(path / _DONE_FILE)
        check = done.pop("check")
        if check != fingerprint_json(done) or done["key"] != key or done["sha256"] != sha256_file(path / _HEAD_FILE):
            raise ValueError("it is of another training, or was changed")
        head = safetensors.torch.load_file(path / _HEAD_FILE)
        result = training.TrainingResult(**{**done["result"], "history": tuple(done["result"]["history"])})
        with torch.no_grad():
            for name, parameter in head_parameters(model).items():
                parameter.copy_(head[name])
    except (SVPError, SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        log.warning("%s cannot be used (%s); the head is trained again", path, error)
        return None
    return result
