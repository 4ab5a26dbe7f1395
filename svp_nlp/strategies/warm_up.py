"""Compiling and importing what a strategy needs before a clock runs."""

from __future__ import annotations

import functools

import numpy as np

from svp_nlp.strategies.base import Strategy

_ROWS, _WIDTH, _BUDGET = 24, 4, 2


@functools.cache
def warm_up(strategy: Strategy) -> None:
    """Let a setwise strategy pick from made-up rows, once in a process: seconds where numba compiles, else nothing."""
    rng = np.random.default_rng(0)
    exponents_NC = np.exp(rng.normal(size=(_ROWS, _WIDTH)))
    signals = {
        "probs": (exponents_NC / exponents_NC.sum(axis=1, keepdims=True)).astype(np.float32),
        "embeddings": rng.normal(size=(_ROWS, _WIDTH)).astype(np.float32),
    }
    labeled_N = np.arange(_ROWS) == 0
    given = {
        "available_N": ~labeled_N, "labeled_N": labeled_N, "budget": _BUDGET,
        "keys_N": np.arange(_ROWS, dtype=np.uint64), "seed": 0,
    }  # fmt: skip
    arrays = strategy.arrays(signals)
    strategy.function(*arrays, **given)
    if strategy.over_ranks is not None:  # its way of working is also that of one process with many rows
        strategy.over_ranks(*arrays, **given, rank=0, exchange=lambda array: [array])
