"""The formulas of `metrics` as `evaluate.Metric` modules: add_batch, compute and combine work as users know them.

Apart from `metrics`, because importing evaluate imports transformers and torch.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from svp_nlp.metrics import FORMULAS, formula

_INPUTS = """
Args:
    predictions: class positions, integers from 0.
    references: class positions, integers from 0.
    num_classes: how many classes there are; without it, the highest class seen plus one.
    class_counts: rows of each class in the pool, which tell rare_recall what is rare; without it, in the references.
"""


class FormulaMetric(evaluate.Metric):  # type: ignore[misc]
    """One formula of ours. Rows wait in memory; no file is written that other processes could trip over."""

    def __init__(self, name: str) -> None:
        super().__init__(config_name=name, keep_in_memory=True)
        self.info.module_name = name

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(FORMULAS[self.config_name].__doc__ or "").strip(),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            format="numpy",
        )

    def _build_data_dir(self) -> str:
        return ""  # evaluate would make a folder in the user's cache that stays empty

    def _compute(
        self, *, predictions: Any, references: Any, num_classes: int | None = None, class_counts: Any = None
    ) -> dict[str, float]:
        predicted_N = np.asarray(predictions, dtype=np.int64)
        expected_N = np.asarray(references, dtype=np.int64)
        if num_classes is None:
            num_classes = int(max(predicted_N.max(initial=0), expected_N.max(initial=0))) + 1
        counts_C = None if class_counts is None else np.asarray(class_counts, dtype=np.int64)
        return {self.config_name: formula(self.config_name, counts_C)(predicted_N, expected_N, num_classes)}
