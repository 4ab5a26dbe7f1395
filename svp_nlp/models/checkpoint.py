"""Checkpoints of a training: whole or absent, verified before they are read, and never pickled.

A checkpoint is a directory `step-00000123` with one safetensors file per group of tensors, `state.json`, and
`manifest.json`, written last, with the size and sha256 of the others. `save_state` of Accelerate is not used: it
writes in place, deletes the old checkpoint before the new one is complete, and loads truncated files silently.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from svp_nlp.errors import CheckpointError
from svp_nlp.files import atomic_directory, remove_leftovers, sha256_file
from svp_nlp.models.sharded import like, whole

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.json"
_FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What `save_checkpoint` was given, read back and verified."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # group -> name -> tensor on the CPU
    state: dict[str, Any]  # JSON values; floats come back with the same bits


def save_checkpoint(
    directory: Path, step: int, *, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write a checkpoint and only then delete older ones, so that a crash anywhere leaves a whole one.

    Args:
        directory: holds the checkpoints of one training and nothing else.
        step: optimiser steps done; names the checkpoint.
        tensors: group -> name -> tensor; a group becomes one safetensors file and may be empty.
        state: JSON values without NaN.
        keep: how many checkpoints stay, the new one included.
    Returns:
        The directory of the new checkpoint.
    Raises:
        CheckpointError: the disk is full or cannot be written to; older checkpoints are untouched.
    """
    path = directory / f"step-{step:08d}"
    try:
        with atomic_directory(path) as tmp:
            for group, named in tensors.items():
                save_file(_separate(named), tmp / f"{group}.safetensors")
            (tmp / STATE_FILE).write_text(json.dumps(dict(state), allow_nan=False), encoding="utf-8")
            files = {
                file.name: {"size": file.stat().st_size, "sha256": sha256_file(file)} for file in sorted(tmp.iterdir())
            }
            manifest = {"format": _FORMAT, "step": step, "files": files}
            (tmp / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        older = _steps(directory)
        rest = f"{older[0][1].name} is intact" if older else "there is no earlier one"
        raise CheckpointError(
            f"{path} could not be written ({error}); {rest}: free or repair the disk and run the same command again"
        ) from error
    # A later step can only be a damaged one that this training went back from.
    done = _steps(directory)
    stale = [old for number, old in done if number > step] + [old for number, old in done if number <= step][keep:]
    for old in stale:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_checkpoint(directory: Path, *, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Read the newest checkpoint that verifies; damaged ones are logged and passed over.

    Args:
        directory: as given to `save_checkpoint`; may be missing.
        identity: what the training is made of, name -> JSON value; compared with `state["identity"]`.
    Returns:
        None when there is no checkpoint, or (with a warning) when none of them verifies.
    Raises:
        CheckpointError: the checkpoint belongs to another training; names what differs.
    """
    remove_leftovers(directory)
    found = _steps(directory)
    for number, path in found:
        damage = verify_checkpoint(path)
        if damage is not None:
            logger.warning("checkpoint %s is damaged (%s); trying the one before", path, damage)
            continue
        state = json.loads((path / STATE_FILE).read_bytes())
        theirs = state.get("identity", {})
        differing = sorted(key for key in theirs.keys() | identity.keys() if theirs.get(key) != identity.get(key))
        if differing:
            raise CheckpointError(
                f"{path} belongs to another training: {', '.join(differing)} differ; "
                f"restore what was changed, or delete {directory} to train from the start"
            )
        tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
        return Checkpoint(step=number, tensors=tensors, state=state)
    if found:
        logger.warning("no checkpoint in %s could be verified; training starts again", directory)
    return None


def verify_checkpoint(path: Path) -> str | None:
    """None if every file is as it was written, else what is wrong, naming the file."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_bytes())
        files: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["format"] != _FORMAT or f"step-{manifest['step']:08d}" != path.name:
            return f"{MANIFEST_FILE} is of format {manifest['format']!r}, step {manifest['step']!r}"
        for name, expected in files.items():
            size = (path / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size:,} bytes, expected {expected['size']:,}"
            if sha256_file(path / name) != expected["sha256"]:
                return f"{name} was changed: its sha256 differs"
        extra = {file.name for file in path.iterdir()} - files.keys() - {MANIFEST_FILE}
        if extra or STATE_FILE not in files:
            return f"unexpected or missing files: {', '.join(sorted(extra)) or STATE_FILE}"
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} cannot be read: {type(error).__name__}: {error}"
    return None


def pack_optimizer(optimizer: Any) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors; its options are not in it, they come from the recipe.

    All processes of a sharded training must call it.
    """
    packed: dict[str, Tensor] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:  # momentum before its first step
                packed[f"{number}.{name}"] = whole(torch.as_tensor(value))
    return packed


def unpack_optimizer(optimizer: Any, packed: Mapping[str, Tensor]) -> None:
    """Put back what `pack_optimizer` gave into a new optimiser over the same parameters."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in packed.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = like(parameters[int(number)], value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _steps(directory: Path) -> list[tuple[int, Path]]:
    """Checkpoints by name, newest first."""
    if not directory.is_dir():
        return []
    named = [(match, path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in named), reverse=True)


def _separate(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and without shared memory (tied weights), which safetensors refuses."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, value in named.items():
        tensor = value.detach().to("cpu").contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate
