"""Predicting with any nn.Module: float32 probabilities in row order, the same bits for the same batches."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from svp_nlp.arrays import IntK
from svp_nlp.errors import ModelError
from svp_nlp.models.base import Prediction
from svp_nlp.models.batches import Examples
from svp_nlp.models.devices import clear_errors, to_device

ScoringDtype: TypeAlias = Literal["float32", "bfloat16"]


def predict(
    model: nn.Module,
    examples: Examples,
    *,
    batch_size: int,
    embeddings: bool = False,
    group_by_length: bool = False,
    dtype: ScoringDtype = "float32",
    size_option: str = "eval_batch_size",
) -> Prediction:
    """Probabilities, and embeddings when asked for, of all rows, computed where the model lies.

    Args:
        model: `model(**inputs)` gives logits_BC, as a tensor or as `.logits`; with `embeddings=True` the pair
            (logits_BC, embeddings_BD). Its mode (train or eval) is as before afterwards.
        examples: at least one row.
        batch_size: rows of a batch. Another one changes the last bits of float32 logits (about 1e-7).
        embeddings: also the features before the last layer.
        group_by_length: cut batches in order of length, for less padding; bits then depend on all the rows passed.
        dtype: bfloat16 computes matrix products in it (autocast): faster on most GPUs, slower on most CPUs, and
            probabilities move by about 1e-3. What is returned is float32 either way, and the softmax is.
        size_option: what the recipe calls `batch_size`, for the advice when memory runs out.
    Returns:
        Arrays in row order.
    Raises:
        ModelError: no row.
        TrainingError: out of memory.
    """
    num_rows = len(examples)
    if num_rows == 0:
        raise ModelError("predict was given no row; pass at least one")
    order_N: IntK = np.arange(num_rows, dtype=np.int64)
    if group_by_length and examples.lengths_N is not None:
        order_N = np.argsort(examples.lengths_N, kind="stable").astype(np.int64, copy=False)
    batches = [order_N[start : start + batch_size] for start in range(0, num_rows, batch_size)]
    place = next((p.device for p in model.parameters()), torch.device("cpu"))
    results: list[npt.NDArray[np.float32] | None] = [None, None]  # probabilities, embeddings

    def keep(rows_B: IntK, outputs: Sequence[Tensor]) -> None:
        for number, values in enumerate(outputs):
            values_BX = values.cpu().numpy()  # waits for the device
            if results[number] is None:
                results[number] = np.empty((num_rows, values_BX.shape[1]), dtype=np.float32)
            results[number][rows_B] = values_BX  # type: ignore[index]

    cast = torch.autocast(place.type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), cast, clear_errors("predict", f"set {size_option} below {batch_size}"):
            waiting: tuple[IntK, list[Tensor]] | None = None
            for rows_B in batches:
                inputs = to_device(examples.collate(rows_B, rng=None), place)
                if embeddings:
                    logits_BC, embeddings_BD = model(**inputs, embeddings=True)
                    outputs = [logits_BC.float().softmax(-1), embeddings_BD.float()]
                else:
                    outputs = [logits_of(model(**inputs)).float().softmax(-1)]
                # A GPU is still at work on this batch while the one before is read and the next one is collated.
                if waiting is not None:
                    keep(*waiting)
                waiting = rows_B, outputs
            assert waiting is not None
            keep(*waiting)
    finally:
        model.train(was_training)
    assert results[0] is not None
    return Prediction(results[0], results[1])


def logits_of(output: object) -> Tensor:
    """The logits of a model's output: the output itself, or its `.logits`."""
    logits_BC: Tensor = output if isinstance(output, Tensor) else output.logits  # type: ignore[attr-defined]
    return logits_BC
