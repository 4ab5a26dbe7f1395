"""Picks that look at no model: the baseline that every strategy must beat."""

from __future__ import annotations

import numpy as np

from svp_nlp.arrays import FloatN, UIntN, keyed_hash
from svp_nlp.strategies.base import KEYS, pointwise


@pointwise(KEYS, source="uniform without replacement", seeded=True)
def random(keys_N: UIntN, *, seed: int) -> FloatN:
    """A uniform score per row from the hash of its key and the seed, so random budgets nest.

    Args:
        keys_N: uint64 per row, from the row's id.
        seed: another seed gives an independent order.
    Returns:
        float32 [N] in [0, 1); higher is picked first; the few rows that tie are ordered by `top_k`.
    """
    # 24 bits fill a float32 exactly; rounding 64 bits to float32 could give 1.0.
    return (keyed_hash(keys_N, seed, "random") >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
