"""Where models run: the Accelerator, the device, torch's generators, and what is said when memory runs out."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, parse_flag_from_env
from torch import Tensor

from svp_nlp.errors import TrainingError
from svp_nlp.models.sharded import wants_sharding, without_fsdp

_TIMEOUT = datetime.timedelta(minutes=10)


def process_state() -> PartialState:
    """Rank, number of processes and device; the first call opens the process group.

    A bare `PartialState()` does not know ACCELERATE_USE_CPU, and where several processes find no GPU it settles, for
    good, for one. A collective call gives up after ten minutes, not after the half hour that gloo waits for a
    process that is gone.
    """
    if "FSDP_CPU_RAM_EFFICIENT_LOADING" in os.environ:
        # transformers would then give all processes but one a model without weights, also the proxy's.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.accelerator.is_available())
    return PartialState(cpu=on_cpu, timeout=_TIMEOUT)


def device() -> torch.device:
    """Where models of this process run; ACCELERATE_USE_CPU=true keeps them off a GPU."""
    return torch.device(process_state().device)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from `seed` inside; the generators of the caller are as before afterwards."""
    place = device()
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        seed_torch(seed, place)
        yield


def seed_torch(seed: int, place: torch.device) -> None:
    """Seed torch's generators on the CPU and on this device.

    `torch.manual_seed` is not for every step: where no GPU is in use yet it remembers each call, with a traceback,
    for the day one will be, which takes 0.5 ms and some kB a step.
    """
    torch.default_generator.manual_seed(seed)
    if place.type != "cpu":
        torch.get_device_module(place).manual_seed(seed)


def make_accelerator(mixed_precision: str) -> Accelerator:
    """An Accelerator of this precision, also when the process has used another one before.

    Raises:
        TrainingError: the device cannot do it, or the launcher asks for more than data parallelism.
    """
    process_state()
    wants_sharding()  # raises for FSDP1
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        # Accelerate fixes the precision once per process, but a proxy and a target may differ; the Trainer of
        # transformers resets it the same way. The process group stays.
        AcceleratorState._reset_state()
    try:
        with without_fsdp():
            accelerator = Accelerator(
                mixed_precision=mixed_precision,
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            )
    except ValueError as error:
        raise TrainingError(f"mixed_precision {mixed_precision} cannot be used here ({error}); use 'no'") from None
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would train in fp32 without a word.
        raise TrainingError("mixed_precision fp16 needs a GPU, found a CPU; use 'no' or 'bf16'")
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise TrainingError(
            f"accelerate was launched for {accelerator.distributed_type}; training here needs plain data parallelism "
            "(--multi_gpu) or FSDP version 2"
        )
    return accelerator


def to_device(inputs: dict[str, Tensor], place: torch.device) -> dict[str, Tensor]:
    """Copy a batch to the device without waiting for it."""
    if place.type == "cpu":
        return inputs
    return {name: value.pin_memory().to(place, non_blocking=True) for name, value in inputs.items()}


@contextlib.contextmanager
def clear_errors(where: str, advice: str) -> Iterator[None]:
    """Turn what torch says about memory, batch norm over one row or a compiler into a TrainingError with advice."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise TrainingError(f"{where}: out of memory; {advice}") from error
        if "Expected more than 1 value per channel" in str(error):
            raise TrainingError(
                f"{where}: batch norm cannot train on a single row; label at least 2 rows and use batches of at least 2"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"{where}: torch.compile failed ({type(error).__name__}: {reason}); install a C++ compiler (on a GPU "
                "Triton too) or turn the option off"
            ) from error
        raise
