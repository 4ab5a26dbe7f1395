"""The pre-activation ResNets of CIFAR, 8 to 164 layers deep: proxies and target of the SVP paper on images.

Letters in shapes: B batch, H = W pixels of a side, C classes, D embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from svp_nlp.models import training
from svp_nlp.models.base import (
    FitContext,
    Labeled,
    LearnerSpec,
    Prediction,
    ScheduleStage,
    TrainingSpec,
)
from svp_nlp.models.image import ImageExamples, image_examples, log_resized
from svp_nlp.models.prediction import ScoringDtype
from svp_nlp.models.saving import load_network, network_fingerprint, save_network

_WIDTHS = (16, 32, 64)
_BLOCKS = {8: 1, 14: 2, 20: 3, 56: 9, 110: 18, 164: 18}  # of each of the three stages
_BOTTLENECK = 164  # the one depth with three convolutions a block
_EXPANSION = 4  # how much wider such a block ends than it works

Positive = Annotated[float, Field(gt=0)]


def _paper_training() -> TrainingSpec:
    stages = ((1, 0.01), (90, 0.1), (45, 0.01), (45, 0.001))
    return TrainingSpec(
        schedule=tuple(ScheduleStage(epochs=epochs, learning_rate=rate) for epochs, rate in stages), weight_decay=5e-4
    )


class ResNetSpec(LearnerSpec):
    """Options of the CIFAR ResNet. The defaults are the proxy of the SVP paper on CIFAR10; its target has depth 164."""

    reads: ClassVar[Literal["text", "image"]] = "image"
    records_dynamics: ClassVar[bool] = True

    kind: Literal["resnet"] = "resnet"
    depth: Literal[8, 14, 20, 56, 110, 164] = 20
    image_size: Annotated[
        int, Field(ge=8, description="pixels of a side; images of another size are resized, shape and all")
    ] = 32
    mean: tuple[float, float, float] = Field(
        default=(0.4914, 0.4822, 0.4465), description="of red, green and blue in 0 to 1; the default is CIFAR10's"
    )
    std: tuple[Positive, Positive, Positive] = (0.24703223, 0.24348512, 0.26158784)
    augmentation: Literal["none", "pad_crop_flip"] = Field(
        default="pad_crop_flip",
        description="of training alone: crops of the image with 4 black pixels around it, half of them mirrored; none "
        "where a mirrored image is of another class, as digits are",
    )
    torch_compile: bool = Field(
        default=False, description="compile the training steps: a minute or more before the first one"
    )
    scoring_dtype: ScoringDtype = Field(default="float32", description="bfloat16: faster on most GPUs, not on CPUs")
    training: TrainingSpec = Field(default_factory=_paper_training)


def _conv(width_in: int, width_out: int, *, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class _Block(nn.Module):
    """Norm, ReLU, convolution, two or three times, added to what came in, or to a projection of its first ReLU."""

    def __init__(self, width_in: int, width: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        width_out = width * _EXPANSION if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (width_in, width, width, width_out) if bottleneck else (width_in, width, width_out)
        strided = kernels.index(3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[:-1])
        self.convs = nn.ModuleList(
            _conv(widths[k], widths[k + 1], kernel=kernel, stride=stride if k == strided else 1)
            for k, kernel in enumerate(kernels)
        )
        self.projection: nn.Module | None = None
        if stride != 1 or width_in != width_out:
            self.projection = _conv(width_in, width_out, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y, shortcut = x, x
        for k, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            y = functional.relu(norm(y), inplace=True)
            if k == 0 and self.projection is not None:
                shortcut = self.projection(y)
            y = conv(y)
        return y + shortcut


class ResNet(nn.Module):
    """The network of He et al. 2016 as Coleman et al. 2020 trained it.

    Source: arXiv 1603.05027 (identity mappings), figure 4e; depths 8, 14, 20 and 56 are not in it. As in the SVP
    authors' code, shortcuts that change shape are 1 x 1 convolutions of the first ReLU without a norm, the stride of a
    bottleneck is in its 3 x 3 convolution, and convolutions begin as Kaiming normal, fan-out.
    """

    mean_311: Tensor
    std_311: Tensor

    def __init__(self, spec: ResNetSpec, *, num_classes: int) -> None:
        super().__init__()
        bottleneck = spec.depth == _BOTTLENECK
        self.register_buffer("mean_311", torch.tensor(spec.mean).view(3, 1, 1))
        self.register_buffer("std_311", torch.tensor(spec.std).view(3, 1, 1))
        self.conv = _conv(3, _WIDTHS[0], kernel=3)
        blocks, width_in = [], _WIDTHS[0]
        for stage, width in enumerate(_WIDTHS):
            for number in range(_BLOCKS[spec.depth]):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(_Block(width_in, width, stride=stride, bottleneck=bottleneck))
                width_in = width * _EXPANSION if bottleneck else width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width_in)
        self.fc = nn.Linear(width_in, num_classes)
        # Channels innermost: 1.25 times as fast as the usual layout in training on a CPU, 1.6 times in scoring.
        _channels_innermost(self)

    def forward(self, pixel_values: Tensor, *, embeddings: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [B, C]; with `embeddings` also the input of the last layer, [B, 64] (depth 164: [B, 256]).

        Args:
            pixel_values: uint8 [B, 3, H, W], levels 0 to 255; normalised here, on the device.
            embeddings: see above.
        """
        x = (pixel_values.float() / 255 - self.mean_311) / self.std_311
        x = self.blocks(self.conv(x))
        embeddings_BD = functional.relu(self.norm(x), inplace=True).mean((2, 3))
        logits_BC: Tensor = self.fc(embeddings_BD)
        return (logits_BC, embeddings_BD) if embeddings else logits_BC


def _channels_innermost(model: ResNet) -> ResNet:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _examples(labeled: Labeled, spec: ResNetSpec) -> ImageExamples:
    return image_examples(
        labeled.rows, size=spec.image_size, train=spec.augmentation, positions_N=labeled.positions_L,
        source=labeled.source,
    )  # fmt: skip


class ResNetPredictor:
    """A fitted ResNet."""

    def __init__(
        self, spec: ResNetSpec, model: ResNet, class_names: tuple[str, ...], *, report: dict[str, Any]
    ) -> None:
        """`model` is what `training.train` leaves; it must not be changed afterwards."""
        self.spec, self.class_names, self.report = spec, class_names, report
        self._model = model.eval().requires_grad_(False)
        self.fingerprint = network_fingerprint(self._model, spec, class_names)

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities [B, C] and embeddings [B, 64] (depth 164: 256), float32; images are never augmented.

        Raises:
            ModelError: the table holds no images.
            PoolError: an image cannot be decoded; names it.
        """
        examples = image_examples(batch, size=self.spec.image_size)
        if len(examples) == 0:
            nothing_BD = np.zeros((0, self._model.fc.in_features), dtype=np.float32)
            nothing_BC = np.zeros((0, len(self.class_names)), dtype=np.float32)
            return Prediction(nothing_BC, nothing_BD if embeddings else None)
        return training.predict(
            self._model, examples, batch_size=self.spec.training.eval_batch_size, embeddings=embeddings,
            dtype=self.spec.scoring_dtype,
        )  # fmt: skip

    def save(self, directory: Path) -> None:
        """Write weights.safetensors and config.json."""
        save_network(directory, self._model, spec=self.spec, class_names=self.class_names, report=self.report)


class ResNetLearner:
    """Fits a ResNet with the shared training loop."""

    reproducible = True
    rows_per_batch = 2_048  # when scoring: a shard of four is a minute or two of a CPU at depth 164

    def __init__(self, spec: ResNetSpec) -> None:
        """The options; nothing is built yet."""
        self.spec = spec

    @property
    def scoring_dtype(self) -> str:
        """What `predict` computes in."""
        return self.spec.scoring_dtype

    def fit(self, train: Labeled, *, dev: Labeled | None, seed: int, context: FitContext) -> ResNetPredictor:
        """Train from scratch. Images are decoded once, not per epoch, unless they would take over 1 GiB.

        Raises:
            ModelError: the rows hold no images.
            PoolError: an image cannot be decoded; names its position in the pool.
            TrainingError: see `training.train`.
        """
        examples = _examples(train, self.spec)
        log_resized(examples)
        with training.seeded(seed):
            model = ResNet(self.spec, num_classes=len(train.class_names))
        result = training.train(
            model,
            examples,
            train.labels_L,
            positions_L=train.positions_L,
            dev=None if dev is None else (_examples(dev, self.spec), dev.labels_L),
            training=self.spec.training,
            seed=seed,
            context=context,
            what=f"ResNet-{self.spec.depth}",
            compiled=self.spec.torch_compile,
        )
        report = {**result.report, "images_resized": examples.resized}
        return ResNetPredictor(self.spec, model, train.class_names, report=report)

    def load(self, directory: Path) -> ResNetPredictor:
        """Load what `ResNetPredictor.save` wrote.

        Raises:
            ModelError: a file is missing, damaged, or holds other tensors than the options ask for.
        """
        make, what = functools.partial(ResNet, self.spec), f"a ResNet-{self.spec.depth}"
        model, class_names, report = load_network(directory, make, what=what)
        return ResNetPredictor(self.spec, _channels_innermost(model).to(training.device()), class_names, report=report)


spec_class = ResNetSpec
learner_class: Callable[[ResNetSpec], ResNetLearner] = ResNetLearner
