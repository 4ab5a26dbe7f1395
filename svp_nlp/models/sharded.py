"""FSDP2, experimental: each process holds a part of every weight, and of the optimiser's state.

`accelerate launch --use_fsdp --fsdp_version 2` says that it is wanted and how. torch's `fully_shard` does it on a copy
of the model; what leaves a training (checkpoints, the best weights, the trained model) is whole again. Accelerate's own
preparation is not used: on CPUs it trains with plain data parallelism without a word (1.15.0), and its wrapping policy
stays that of the first model when a process trains a second one.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import Tensor, nn

from svp_nlp.errors import TrainingError

logger = logging.getLogger(__name__)


def wants_sharding() -> bool:
    """Whether this launch asks for FSDP2.

    Raises:
        TrainingError: it asks for FSDP1.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("true", "1"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise TrainingError(
            f"accelerate was launched for FSDP version {version}; set fsdp_version to 2, or use --multi_gpu"
        )
    return True


def sharded_copy(model: nn.Module, place: torch.device, *, mixed_precision: str, what: str) -> nn.Module:
    """A copy of the model whose parameters lie in parts on all processes; calling it talks to all of them.

    Args:
        model: the same weights on every process.
        place: where the parts go.
        mixed_precision: "no" or "bf16": bf16 computes and reduces in bf16, the parts stay float32.
        what: names the training in the log.
    Raises:
        TrainingError: fp16, or an option of the launch that is not supported.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    if mixed_precision == "fp16":
        raise TrainingError(f"{what}: mixed_precision fp16 cannot be used with FSDP2; use 'bf16' or 'no'")
    plugin = FullyShardedDataParallelPlugin()
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy) or plugin.activation_checkpointing:
        raise TrainingError(
            f"{what}: fsdp_offload_params and fsdp_activation_checkpointing are not supported; set both to false "
            "(the recipe's gradient_checkpointing saves the same memory as the latter)"
        )
    sharded = copy.deepcopy(model).to(place)
    # A model of transformers says which of its layers are units; it may be a part of the module.
    units = next((module for module in sharded.modules() if getattr(module, "_no_split_modules", None)), sharded)
    try:
        plugin.set_auto_wrap_policy(units)
        chosen = fsdp2_prepare_auto_wrap_policy(plugin, units)
    except ValueError as error:
        raise TrainingError(f"{what}: {error} Change fsdp_transformer_layer_cls_to_wrap or leave it out") from None
    policy = MixedPrecisionPolicy()
    if mixed_precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(place.type, (torch.distributed.get_world_size(),)),
        "mp_policy": policy,
        "reshard_after_forward": plugin.reshard_after_forward,
    }
    layers = [module for module in sharded.modules() if module is not sharded and chosen is not None and chosen(module)]
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(sharded, **options)
    if torch.distributed.get_rank() == 0:
        _say_experimental()
        logger.info("%s: %s layers are split over the processes one by one", what, f"{len(layers):,}")
    return sharded


@functools.cache
def _say_experimental() -> None:
    logger.warning("FSDP2 is experimental here: it was tried on CPUs only")


def without_fsdp() -> Any:
    """A context in which an Accelerator does not see that FSDP was asked for: what is sharded is sharded here."""
    return patch_environment(ACCELERATE_USE_FSDP="false")


def whole(value: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a part; then all processes must call it, in the same order."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def put(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one of which this process may hold a part."""
    with torch.no_grad():
        target.copy_(like(target, value))


def like(target: Tensor, value: Tensor) -> Tensor:
    """`value` where and in as many parts as `target` is."""
    value = value.to(target.device)
    if not hasattr(target, "full_tensor") or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    part: Any = target
    return distribute_tensor(value, part.device_mesh, part.placements)
