"""How many threads our own kernels and decoders use."""

from __future__ import annotations

import os

from svp_nlp.errors import RecipeError


def num_threads() -> int:
    """Threads of one process: SVP_NUM_THREADS, else the processors that this process may use. Never changes a result.

    Raises:
        RecipeError: SVP_NUM_THREADS is not a positive whole number.
    """
    value = os.environ.get("SVP_NUM_THREADS", "")
    if value:
        if not value.isdecimal() or int(value) < 1:
            raise RecipeError(f"SVP_NUM_THREADS is {value!r}; expected a whole number from 1 on, or unset it")
        return int(value)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1
