"""Starting things on two processes of this machine, as torchrun and `svp run --accelerate` do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
# `accelerate launch --cpu --num_processes 2` would start one process (accelerate#2741).
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def start(arguments: Sequence[str], **variables: str) -> subprocess.Popen[str]:
    """A Python process with these arguments, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **ENVIRONMENT, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], *, timeout: float = 150) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def run(arguments: Sequence[str], **variables: Any) -> tuple[int, str, str]:
    """Start and finish."""
    return finish(start(arguments, **variables))
