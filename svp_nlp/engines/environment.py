"""What a worker process is to find in its environment, and how many of them this machine has room for."""

from __future__ import annotations

import os

# With these a worker would take itself for a rank of the launch that started its parent, and wait for the others.
_LAUNCH = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


def of_a_launch(name: str) -> bool:
    """Whether a variable of the environment says which rank of a launch a process is."""
    return name in _LAUNCH or name.startswith("TORCHELASTIC_")


def processors() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1
