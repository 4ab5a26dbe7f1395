"""The very deep character CNN (VDCNN): 9, 17, 29 or 49 convolutions over the characters of a text.

Letters in shapes: B batch, L characters, C classes, D embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from svp_nlp.models import training
from svp_nlp.models.base import (
    FitContext,
    Labeled,
    LearnerSpec,
    Prediction,
    ScheduleStage,
    TrainingSpec,
    texts_of,
)
from svp_nlp.models.saving import load_network, network_fingerprint, save_network
from svp_nlp.models.text import PAPER_LENGTH, VOCABULARY_SIZE, CharacterExamples, Padding, character_examples

MIN_LENGTH = 64  # three halvings leave 8 positions, as many as the last pooling keeps

_BLOCKS = {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2), 49: (8, 8, 5, 3)}
_CHARACTER_WIDTH = 16
_KEPT_POSITIONS = 8


def _paper_training() -> TrainingSpec:
    rates = (0.01, 0.005, 0.0025, 0.00125, 0.000625)
    # eval_batch_size is not the paper's: on a CPU, 256 long texts at once score about 30 % fewer a second than 64.
    return TrainingSpec(
        schedule=tuple(ScheduleStage(epochs=3, learning_rate=rate) for rate in rates), eval_batch_size=64
    )


class VDCNNSpec(LearnerSpec):
    """Options of the VDCNN. The defaults are the target of the SVP paper on Amazon Review Polarity."""

    records_dynamics: ClassVar[bool] = True

    kind: Literal["vdcnn"] = "vdcnn"
    depth: Literal[9, 17, 29, 49] = 29
    downsampling: Literal["conv", "maxpool", "kmaxpool"] = "conv"
    shortcut: bool = False
    lite: bool = Field(
        default=False, description="a quarter of the filters and hidden units: 0.9 M parameters at depth 9"
    )
    max_length: Annotated[int, Field(ge=MIN_LENGTH, description="characters kept of a text")] = PAPER_LENGTH
    padding: Padding = Field(
        default="bucket",
        description="fixed: every text is filled up to max_length, as in the paper; bucket: only to about its own "
        "length, in batches of like lengths: about twice as fast on reviews, but not the same (see CharacterExamples)",
    )
    training: TrainingSpec = Field(default_factory=_paper_training)


def _kmax(x: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest values of each channel, in their original order."""
    kept = x.topk(k, dim=3).indices.sort(dim=3).values
    return x.gather(3, kept)


def _conv(width_in: int, width_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    # A Conv1d in all but name: only 2-d convolutions can have channels innermost, which scores 0.9 to 1.4 times as fast
    # on a CPU, 1.1 on average, and does nothing for training (benchmarks/vdcnn.py). Folding batch norm into the
    # convolutions as well gave 5 % more on average, within noise: left out.
    conv = nn.Conv2d(width_in, width_out, (1, kernel), (1, stride), (0, kernel // 2), bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in")
    return conv


class _Block(nn.Module):
    """Two convolutions; the first block of a section doubles the width and halves the length."""

    def __init__(self, width_in: int, width_out: int, *, downsampling: str | None, shortcut: bool) -> None:
        super().__init__()
        stride = 2 if downsampling == "conv" else 1
        self.pooling = downsampling if downsampling != "conv" else None
        self.conv1 = _conv(width_in, width_out, stride=stride)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = _conv(width_out, width_out)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.shortcut: nn.Module | None = None
        if shortcut:
            self.shortcut = _conv(width_in, width_out, kernel=1, stride=stride) if downsampling else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pooling == "maxpool":
            x = functional.max_pool2d(x, (1, 3), (1, 2), (0, 1))
        elif self.pooling == "kmaxpool":
            x = _kmax(x, x.shape[3] // 2)
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return functional.relu(y, inplace=True)


class VDCNN(nn.Module):
    """The network of Conneau et al. 2016 as Coleman et al. 2020 trained it.

    Source: arXiv 1606.01781, figure 1 and table 2. As in the SVP authors' code, the first convolution has neither
    batch norm nor ReLU, shortcuts that change the width have no batch norm, and there is no dropout.
    """

    def __init__(self, spec: VDCNNSpec, *, num_classes: int) -> None:
        super().__init__()
        widths = (16, 32, 64, 128) if spec.lite else (64, 128, 256, 512)
        hidden = 512 if spec.lite else 2048
        self.embedding = nn.Embedding(VOCABULARY_SIZE, _CHARACTER_WIDTH)
        self.conv = _conv(_CHARACTER_WIDTH, widths[0])
        blocks, width_in = [], widths[0]
        for width, count in zip(widths, _BLOCKS[spec.depth], strict=True):
            for _ in range(count):
                downsampling = spec.downsampling if width != width_in else None
                blocks.append(_Block(width_in, width, downsampling=downsampling, shortcut=spec.shortcut))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.hidden1 = nn.Linear(_KEPT_POSITIONS * width_in, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(
        self, codes_BL: torch.Tensor, *, embeddings: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, C]; with `embeddings` also the input of the last layer, [B, 2048] (lite: [B, 512]).

        Args:
            codes_BL: any integer type, values 0 to 68, L >= 64. Padding is not masked: the network sees it as text.
            embeddings: see above.
        """
        # Seen as a picture of height 1: [B, width, 1, L], channels innermost.
        x = self.embedding(codes_BL.int()).transpose(1, 2).unsqueeze(2)
        if self.training:
            x = x.contiguous()  # see _conv
        x = _kmax(self.blocks(self.conv(x)), _KEPT_POSITIONS).flatten(1)
        x = functional.relu(self.hidden1(x))
        embeddings_BD = functional.relu(self.hidden2(x))
        logits_BC: torch.Tensor = self.classifier(embeddings_BD)
        return (logits_BC, embeddings_BD) if embeddings else logits_BC


def _dev(dev: Labeled, spec: VDCNNSpec) -> training.Dev:
    """Rows in order of length: the dev batches of a bucket training are then as little filled as its own."""
    order_N = np.argsort(pc.utf8_length(texts_of(dev.rows)).to_numpy(), kind="stable")
    return _examples(dev.rows.take(order_N), spec), dev.labels_L[order_N]


def _examples(rows: pa.Table, spec: VDCNNSpec) -> CharacterExamples:
    return character_examples(texts_of(rows), max_length=spec.max_length, padding=spec.padding, min_length=MIN_LENGTH)


def _report(result: training.TrainingResult) -> dict[str, Any]:
    return {**asdict(result), "history": list(result.history)}


class VDCNNPredictor:
    """A fitted VDCNN."""

    def __init__(self, spec: VDCNNSpec, model: VDCNN, class_names: tuple[str, ...], *, report: dict[str, Any]) -> None:
        """`model` is what `training.train` leaves; it must not be changed afterwards."""
        self.spec, self.class_names, self.report = spec, class_names, report
        self._model = model.eval().requires_grad_(False)
        self.fingerprint = network_fingerprint(self._model, spec, class_names)

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities [B, C] and embeddings [B, 2048] (lite: 512), float32, in the order of `batch`.

        A text is filled up to a width that depends on its own length alone, so that its neighbours change no more
        than roundings; the same batch gives the same bits.
        """
        probs_BC = np.zeros((batch.num_rows, len(self.class_names)), dtype=np.float32)
        embeddings_BD = np.zeros((batch.num_rows, self._model.classifier.in_features), dtype=np.float32)
        batch_size = self.spec.training.eval_batch_size
        for rows_K, examples in _examples(batch, self.spec).by_width():
            part = training.predict(self._model, examples, batch_size=batch_size, embeddings=embeddings)
            probs_BC[rows_K] = part.probs_BC
            if part.embeddings_BD is not None:
                embeddings_BD[rows_K] = part.embeddings_BD
        return Prediction(probs_BC, embeddings_BD if embeddings else None)

    def save(self, directory: Path) -> None:
        """Write weights.safetensors and config.json."""
        save_network(directory, self._model, spec=self.spec, class_names=self.class_names, report=self.report)


class VDCNNLearner:
    """Fits a VDCNN with the shared training loop."""

    reproducible = True
    rows_per_batch = 1_024  # when scoring: enough rows of each width; a shard of four is a minute or two of a CPU

    def __init__(self, spec: VDCNNSpec) -> None:
        """The options; nothing is built yet."""
        self.spec = spec

    def fit(self, train: Labeled, *, dev: Labeled | None, seed: int, context: FitContext) -> VDCNNPredictor:
        """Train from scratch. Characters are encoded once, not per epoch.

        Raises:
            TrainingError: see `training.train`.
        """
        with training.seeded(seed):
            model = VDCNN(self.spec, num_classes=len(train.class_names))
        result = training.train(
            model,
            _examples(train.rows, self.spec),
            train.labels_L,
            positions_L=train.positions_L,
            dev=None if dev is None else _dev(dev, self.spec),
            training=self.spec.training,
            seed=seed,
            context=context,
            what=f"VDCNN-{self.spec.depth}",
        )
        return VDCNNPredictor(self.spec, model, train.class_names, report=_report(result))

    def load(self, directory: Path) -> VDCNNPredictor:
        """Load what `VDCNNPredictor.save` wrote.

        Raises:
            ModelError: a file is missing, damaged, or holds other tensors than the options ask for.
        """
        make, what = functools.partial(VDCNN, self.spec), f"a VDCNN-{self.spec.depth}"
        model, class_names, report = load_network(directory, make, what=what)
        return VDCNNPredictor(self.spec, model.to(training.device()), class_names, report=report)


spec_class = VDCNNSpec
learner_class: Callable[[VDCNNSpec], VDCNNLearner] = VDCNNLearner
