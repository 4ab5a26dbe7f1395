"""Training dynamics: what the model said of each training row, epoch by epoch, kept while it is trained.

Letters in shapes: L labelled rows, B rows of a batch, C classes, E epochs, S kept signals.

A row's values are those of the training forward pass: in train mode (dropout, batch norm over the batch), augmented,
and before the update that the row takes part in. So Toneva et al. 2019 and the authors of SVP have it, and it costs no
pass of its own. Rows that are seen late in an epoch are therefore seen by a model that has learned more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp_nlp.arrays import IntK
from svp_nlp.errors import RunError
from svp_nlp.files import atomic_directory
from svp_nlp.models.devices import to_device
from svp_nlp.strategies.base import DYNAMICS as DYNAMICS

CORRECT, LOGIT_MARGIN, GOLD_PROBABILITY, ERROR_NORM = DYNAMICS

_POSITIONS = "positions"

AddUp: TypeAlias = Callable[[Tensor], Tensor]  # the sum of a tensor over the processes of the training


def _correct(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    return (logits_BC.argmax(1) == labels_B).float()


def _logit_margin(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    labels_B1 = labels_B[:, None]
    others_BC = logits_BC.scatter(1, labels_B1, -torch.inf)
    return logits_BC.gather(1, labels_B1)[:, 0] - others_BC.amax(1)


def _gold_probability(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    return logits_BC.log_softmax(1).gather(1, labels_B[:, None])[:, 0].exp()


def _error_norm(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    # One minus the probability of the label is the sum of the others: near 1 the difference would be rounding alone.
    others_BC = logits_BC.softmax(1).scatter(1, labels_B[:, None], 0.0)
    return (others_BC.square().sum(1) + others_BC.sum(1).square()).sqrt()


_VALUES = {
    CORRECT: _correct,
    LOGIT_MARGIN: _logit_margin,
    GOLD_PROBABILITY: _gold_probability,
    ERROR_NORM: _error_norm,
}


class DynamicsRecorder:
    """Keeps signals of the rows of one training, given as `FitContext.dynamics`; the training calls the rest.

    A step costs a few small operations on the device and no wait for it; an epoch one copy of [L, S + 1] floats.
    On several processes each has all rows after an epoch, and the same ones.

    Attributes:
        names: the signals that are kept, of DYNAMICS: correct (the label is the class with the largest logit),
            logit_margin (logit of the label minus the largest other), gold_probability (of the label), error_norm
            (L2 norm of probabilities minus one-hot label, in [0, sqrt 2]).
        positions_L: int64, pool positions of the rows, in the order of the training set; empty before a training.
    """

    def __init__(self, names: Sequence[str] = DYNAMICS) -> None:
        assert set(names) <= set(DYNAMICS), f"{names} are not all of {DYNAMICS}"
        self.names = tuple(name for name in DYNAMICS if name in names)
        self.positions_L: IntK = np.empty(0, dtype=np.int64)
        self._finished: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in self.names}  # [L], one an epoch
        self._running_LS = torch.empty(0)  # the running epoch; the last column counts how often a row was seen

    @property
    def epochs(self) -> int:
        """Finished epochs, E."""
        return min((len(columns) for columns in self._finished.values()), default=0)

    @property
    def correct_EN(self) -> npt.NDArray[np.bool_]:
        """Bool [E, L]."""
        return self._stacked(CORRECT, axis=0)

    @property
    def margin_EN(self) -> npt.NDArray[np.float32]:
        """float32 [E, L]."""
        return self._stacked(LOGIT_MARGIN, axis=0)

    @property
    def probability_EN(self) -> npt.NDArray[np.float32]:
        """float32 [E, L], in [0, 1]."""
        return self._stacked(GOLD_PROBABILITY, axis=0)

    @property
    def error_EN(self) -> npt.NDArray[np.float32]:
        """float32 [E, L], in [0, sqrt 2]."""
        return self._stacked(ERROR_NORM, axis=0)

    def signals(self) -> dict[str, npt.NDArray[Any]]:
        """Name -> [L, E], rows first as signals are: bool for `correct`, float32 for the others."""
        return {name: self._stacked(name, axis=1) for name in self.names}

    def begin(self, positions_L: IntK, place: torch.device) -> None:
        """Forget everything; a training of these rows begins on this device."""
        self.positions_L = positions_L.astype(np.int64)
        self._finished = {name: [] for name in self.names}
        self._running_LS = torch.zeros((len(positions_L), len(self.names) + 1), device=place)

    def record(self, rows_B: IntK, logits_BC: Tensor, labels_B: Tensor) -> None:
        """Keep what the model said of some rows, each of them once an epoch.

        Args:
            rows_B: row numbers in [0, L), different ones.
            logits_BC: of the training forward pass, in any precision; computed on in float32, without a gradient.
            labels_B: class numbers, on the device of the logits.
        """
        with torch.no_grad():
            logits_BC = logits_BC.detach().float()
            values = [_VALUES[name](logits_BC, labels_B) for name in self.names]
            values_BS = torch.stack([*values, torch.ones_like(logits_BC[:, 0])], dim=1)
            place = self._running_LS.device
            # Added to zero, which leaves every value as it is and lets a row that is seen twice be noticed.
            self._running_LS.index_add_(0, to_device({"rows": torch.from_numpy(rows_B)}, place)["rows"], values_BS)

    def end_epoch(self, add_up: AddUp) -> None:
        """Close the running epoch; all processes of the training must call it."""
        whole_LS = add_up(self._running_LS).cpu().numpy()
        assert (whole_LS[:, -1] == 1).all(), "an epoch recorded a row twice or not at all"
        for column, name in enumerate(self.names):
            dtype = np.bool_ if name == CORRECT else np.float32
            self._finished[name].append(whole_LS[:, column].astype(dtype))
        self._running_LS.zero_()

    def pack(self, add_up: AddUp) -> dict[str, Tensor]:
        """All that was recorded, for a checkpoint; all processes of the training must call it."""
        finished = {name: torch.from_numpy(self._stacked(name, axis=0)) for name in self.names}
        return {**finished, "running": add_up(self._running_LS).cpu()}

    def unpack(self, packed: Mapping[str, Tensor], *, keeps_running: bool) -> None:
        """Go on from what `pack` gave.

        Args:
            packed: on every process the same.
            keeps_running: on one process only, because the running epoch is added up over all of them.
        """
        self._finished = {name: list(packed[name].numpy()) for name in self.names}
        self._running_LS.zero_()
        if keeps_running:
            self._running_LS.copy_(packed["running"])

    def save(self, directory: Path) -> None:
        """Write positions.npy and one [L, E] file for each signal; a directory of its own, whole or not at all."""
        with atomic_directory(directory) as path:
            for name, values in {_POSITIONS: self.positions_L, **self.signals()}.items():
                np.save(path / f"{name}.npy", values, allow_pickle=False)

    @classmethod
    def load(cls, directory: Path) -> DynamicsRecorder:
        """What `save` wrote.

        Raises:
            RunError: a file is missing or damaged, or the files are not of one training.
        """
        names = [name for name in DYNAMICS if (directory / f"{name}.npy").exists()]
        recorder = cls(names)
        try:
            found = {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in [_POSITIONS, *names]}
        except FileNotFoundError as error:
            raise RunError(f"{error.filename} is missing; expected what a training recorded: train it again") from None
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{directory}: training dynamics are damaged ({error}); train it again") from None
        recorder.positions_L = found.pop(_POSITIONS)
        shapes = {values.shape for values in found.values()}
        if len(shapes) > 1 or any(shape[:1] != recorder.positions_L.shape for shape in shapes):
            raise RunError(
                f"{directory}: training dynamics of {len(recorder.positions_L):,} rows have shapes {sorted(shapes)}; "
                "expected one [rows, epochs]: train it again"
            )
        recorder._finished = {name: list(np.ascontiguousarray(values.T)) for name, values in found.items()}
        return recorder

    def _stacked(self, name: str, *, axis: int) -> Any:
        columns = self._finished[name]
        if columns:
            return np.stack(columns, axis=axis)
        shape = (0, len(self.positions_L)) if axis == 0 else (len(self.positions_L), 0)
        return np.empty(shape, dtype=np.bool_ if name == CORRECT else np.float32)
