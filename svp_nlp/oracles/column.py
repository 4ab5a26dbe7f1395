"""Labels from a column of the pool: a simulation of people who label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from svp_nlp.arrays import UIntN, fingerprint_array, fingerprint_json, keyed_hash
from svp_nlp.columns import LabelColumn
from svp_nlp.errors import LabelError
from svp_nlp.labels import LabelSet
from svp_nlp.models.base import Spec
from svp_nlp.oracles.base import Question
from svp_nlp.pool import Pool
from svp_nlp.selection import Selection


class ColumnOracleSpec(Spec):
    """Options of the column oracle."""

    kind: Literal["column"] = "column"
    noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the answers that are replaced by another class, drawn by the seed and the row's id"
    )


@dataclass(frozen=True)
class ColumnOracle:
    """Answers from a column, at once.

    Args:
        labels: the column.
        keys_N: uint64 per row, from its id: noise hits the same rows whoever asks, in whatever order.
    """

    spec: ColumnOracleSpec
    labels: LabelColumn
    keys_N: UIntN
    seed: int
    source: str = "column"

    @property
    def fingerprint(self) -> str:
        """Hash of the column and of the noise."""
        names = list(self.labels.class_names)
        return fingerprint_json([fingerprint_array(self.labels.labels_N), names, self.spec.noise, self.seed])

    is_finished: bool = False

    def request(self, question: Question, pool: Pool) -> None:
        """Nothing to ask: the column is there."""

    def collect(self, question: Question) -> LabelSet:
        """The labels of all picked rows."""
        return self.labels_of(question.selection)

    def answers(self, positions_K: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Class indices of these rows, noise included.

        Raises:
            LabelError: a row has no label; names the first.
        """
        labels_K = self.labels.labels_N[positions_K].astype(np.int64)
        if (labels_K < 0).any():
            raise LabelError(f"position {positions_K[labels_K < 0][0]:,} has no label in the column")
        num_classes = len(self.labels.class_names)
        if self.spec.noise > 0 and num_classes > 1:
            draw_K = keyed_hash(self.keys_N[positions_K], self.seed, "noise")
            wrong_K = (draw_K >> np.uint64(11)) * 2.0**-53 < self.spec.noise
            shift_K = keyed_hash(self.keys_N[positions_K], self.seed, "wrong class") % np.uint64(num_classes - 1) + 1
            labels_K[wrong_K] = (labels_K[wrong_K] + shift_K[wrong_K].astype(np.int64)) % num_classes
        return labels_K

    def labels_of(self, selection: Selection) -> LabelSet:
        """The labels of all rows of a selection."""
        names = pa.array(self.labels.class_names, pa.string()).take(pa.array(self.answers(selection.positions_K)))
        source = self.source if self.spec.noise == 0 else f"{self.source}+noise={self.spec.noise}"
        return LabelSet.of(selection.positions_K, selection.ids_K, names, round=selection.lineage.round, source=source)
