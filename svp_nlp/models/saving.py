"""Networks of ours on disk: safetensors beside config.json, loaded without pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from svp_nlp.arrays import fingerprint_json
from svp_nlp.errors import ModelError
from svp_nlp.models.base import LearnerSpec, read_config, write_config

WEIGHTS_FILE = "weights.safetensors"

Network = TypeVar("Network", bound=nn.Module)


def network_fingerprint(model: nn.Module, spec: LearnerSpec, class_names: tuple[str, ...]) -> str:
    """Hash of spec, weights and class names."""
    weights_sha256 = hashlib.sha256(_content(model)).hexdigest()
    return fingerprint_json([spec.fingerprint, weights_sha256, list(class_names)])


def _content(model: nn.Module) -> bytes:
    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})


def save_network(
    directory: Path, model: nn.Module, *, spec: LearnerSpec, class_names: tuple[str, ...], report: dict[str, Any]
) -> None:
    """Write weights.safetensors and config.json."""
    (directory / WEIGHTS_FILE).write_bytes(_content(model))
    write_config(directory, spec=spec, class_names=class_names, weights=WEIGHTS_FILE, report=report)


def load_network(
    directory: Path, make: Callable[..., Network], *, what: str
) -> tuple[Network, tuple[str, ...], dict[str, Any]]:
    """The network that `save_network` wrote, on the CPU; its class names and report.

    Args:
        directory: where it is.
        make: the network for `num_classes`; its weights are replaced.
        what: what it is called in messages, with an article.
    Raises:
        ModelError: a file is missing, damaged, or holds other tensors than `make` asks for.
    """
    config = read_config(directory)
    path = directory / config["weights"]
    try:
        class_names = tuple(config["class_names"])
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
            model = make(num_classes=len(class_names))
        model.load_state_dict(safetensors.torch.load_file(path), assign=True)
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} does not hold the weights of {what} ({reason}); train it again") from None
    return model, class_names, dict(config.get("report", {}))
