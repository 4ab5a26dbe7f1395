"""Array aliases, shape checks, keyed hashes and fingerprints. numpy only.

Shape legend, used as suffixes everywhere: N pool rows, L labelled, K picked, B batch, C classes, D embedding
width, E epochs.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.errors import SignalError

FloatN: TypeAlias = npt.NDArray[np.float32]
FloatK: TypeAlias = npt.NDArray[np.float32]
FloatNC: TypeAlias = npt.NDArray[np.float32]
FloatND: TypeAlias = npt.NDArray[np.float32]
IntK: TypeAlias = npt.NDArray[np.int64]
IntN: TypeAlias = npt.NDArray[np.int64]
UIntN: TypeAlias = npt.NDArray[np.uint64]
BoolN: TypeAlias = npt.NDArray[np.bool_]
BoolEN: TypeAlias = npt.NDArray[np.bool_]

_ROWS_PER_CHECK = 65_536  # float64 row sums of a whole pool would cost more memory than its scores


def splitmix64(values: npt.ArrayLike) -> UIntN:
    """The finaliser of splitmix64: a bijection on uint64 whose output looks random.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 2.
    """
    z = np.asarray(values, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def keyed_hash(keys_N: npt.ArrayLike, seed: int, salt: str = "") -> UIntN:
    """Hash row keys (uint64: ids or positions) with a seed: the source of all ties and random picks.

    For a fixed (seed, salt) this is a bijection, so distinct keys never tie. `salt` names the purpose, so that
    the random start set and the tie-break of one seed are independent.
    """
    digest = hashlib.blake2b(f"{salt}\0{int(seed)}".encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        return splitmix64(np.asarray(keys_N, dtype=np.uint64) ^ np.uint64(int.from_bytes(digest, "little")))


def first_bad_row(bad_N: BoolN) -> int:
    """Position of the first True."""
    return int(np.argmax(bad_N))


def check_scores(scores_N: npt.NDArray[Any], name: str = "scores") -> None:
    """Refuse NaN in scores; infinities are fine (they sort).

    Raises:
        SignalError: names the first position that holds NaN.
    """
    bad_N = np.isnan(scores_N)
    if bad_N.any():
        raise SignalError(
            f"{name}: NaN at position {first_bad_row(bad_N)} ({int(bad_N.sum()):,} in all); a NaN cannot be ranked"
        )


def check_probs(probs_NC: npt.NDArray[Any], name: str = "probs", tolerance: float = 1e-4) -> None:
    """Refuse anything that is not a row of class probabilities. O(N C) time, O(1) memory.

    Raises:
        SignalError: not two-dimensional, fewer than 2 classes, NaN or negative values, or a row whose sum is off
            by more than `tolerance`; names the first such position.
    """
    if probs_NC.ndim != 2 or probs_NC.shape[1] < 2 or not np.issubdtype(probs_NC.dtype, np.floating):
        raise SignalError(
            f"{name}: expected floats of shape [rows, classes >= 2], found {probs_NC.dtype} {list(probs_NC.shape)}"
        )
    num_classes = probs_NC.shape[1]
    ones_C = np.ones(num_classes, dtype=np.float32)
    for start in range(0, len(probs_NC), _ROWS_PER_CHECK):
        block_BC = np.asarray(probs_NC[start : start + _ROWS_PER_CHECK], dtype=np.float32)
        sums_B = block_BC @ ones_C
        # One comparison catches NaN and infinities too: both make the comparison false.
        bad_B = ~(np.abs(sums_B - 1) <= tolerance)
        if not bad_B.any() and float(block_BC.min(initial=0.0)) >= -tolerance:
            continue
        bad_B |= (block_BC < -tolerance).any(axis=1)
        row = first_bad_row(bad_B)
        raise SignalError(
            f"{name}: position {start + row} holds {block_BC[row].tolist()[:8]} (sum {float(sums_B[row]):.6g}); "
            "expected class probabilities that sum to 1"
        )


def fingerprint_array(array: npt.NDArray[Any]) -> str:
    """Hex blake2b-128 over dtype, shape and content."""
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fingerprint_json(value: Any) -> str:
    """Hex blake2b-128 of a JSON value; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
