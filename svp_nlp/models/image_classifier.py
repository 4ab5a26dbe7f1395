"""Which image classifier of transformers: its options, and how it is made for given classes.

Letters in shapes: B batch, S size (pixels of a side), C classes, D width.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from svp_nlp.errors import ModelError
from svp_nlp.models.classifiers import WithFeatures, make_network
from svp_nlp.models.devices import device
from svp_nlp.models.finetuning import FineTuningSpec
from svp_nlp.models.image import EvaluationTransform, TrainTransform
from svp_nlp.models.image_processor import FILE as PROCESSOR_FILE
from svp_nlp.models.image_processor import Levels, Pixels, load_pixels
from svp_nlp.models.network import NetworkSpec
from svp_nlp.models.prediction import ScoringDtype
from svp_nlp.models.pretrained import check_weights, clear_loading_errors, load_config, resolved_revision

log = logging.getLogger(__name__)

_SAFE_CHANNELS = 16  # what a processor with AVX-512 takes at once; 8 with AVX2

# He et al. 2015 (arXiv 1512.03385), table 1, with the stride of a bottleneck in its 3 x 3 convolution as torchvision
# has it: 11,689,512, 21,797,672 and 25,557,032 parameters for 1,000 classes.
_BASIC = {"model_type": "resnet", "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": {**_BASIC, "depths": [2, 2, 2, 2]},
    "resnet34": {**_BASIC, "depths": [3, 4, 6, 3]},
    "resnet50": {"model_type": "resnet", "layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048],
                 "depths": [3, 4, 6, 3]},
}  # fmt: skip

Positive = Annotated[float, Field(gt=0)]


class ImageTransformerSpec(NetworkSpec):
    """Options of an image classifier of transformers: one with trained weights, or one with random weights."""

    reads: ClassVar[Literal["text", "image"]] = "image"
    records_dynamics: ClassVar[bool] = True
    sources: ClassVar[tuple[str, ...]] = ("model_name_or_path", "architecture", "config")

    kind: Literal["image_transformer"] = "image_transformer"
    architecture: Literal["resnet18", "resnet34", "resnet50"] | None = Field(
        default=None, description="instead of model_name_or_path: random weights of a ResNet of ImageNet"
    )
    config: dict[str, Any] | None = Field(
        default=None,
        description="instead of these two: random weights of this shape, as {model_type: vit, hidden_size: 64, "
        "num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 128, image_size: 32, patch_size: 8}",
    )
    image_size: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="pixels of a side; null: what the model says, 224 where it says nothing"
    )
    mean: Levels | None = Field(
        default=None, description="of red, green and blue in 0 to 1; null: what the model says, else ImageNet's"
    )
    std: tuple[Positive, Positive, Positive] | None = None
    augmentation: TrainTransform = Field(
        default="random_resized_crop",
        description="of training alone: random_resized_crop as for ImageNet, pad_crop_flip as for CIFAR, or none",
    )
    evaluation: EvaluationTransform | None = Field(
        default=None,
        description="center_crop: the middle, after the shorter side was resized; resize: the whole image; null: what "
        "the model says, else center_crop",
    )
    layerwise_lr_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="each layer (of a ResNet: stage) learns at this factor of the rate of the one above it"
    )
    head_first_epochs: Annotated[int, Field(ge=0)] = Field(
        default=0, description="epochs in which the head alone is trained, before everything is (LP-FT)"
    )
    head_learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="in head_first_epochs")
    torch_compile: bool = Field(default=False, description="compile the training steps: minutes before the first one")
    scoring_dtype: ScoringDtype = Field(default="float32", description="bfloat16: faster on most GPUs, not on CPUs")
    training: FineTuningSpec = Field(default_factory=FineTuningSpec)

    @model_validator(mode="after")
    def _what_goes_together(self) -> ImageTransformerSpec:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or none of them")
        # A value that is the default is no clash: a dump holds all values and must be readable again.
        default = type(self).model_fields["head_learning_rate"].default
        if not self.head_first_epochs and self.head_learning_rate != default:
            raise ValueError("head_learning_rate does nothing without head_first_epochs; set that, or leave it out")
        return self

    @property
    def network(self) -> dict[str, Any] | None:
        """The shape of a network with random weights; None where the weights are trained ones."""
        return ARCHITECTURES[self.architecture] if self.architecture is not None else self.config

    @property
    def model_name(self) -> str:
        """What the network is called in messages."""
        return self.architecture or super().model_name

    def commit(self) -> str | None:
        """The commit that `revision` means now; None for a folder and for random weights. Loads no weights.

        Raises:
            ModelError: there is no such model or revision, it is out of reach, or it does not classify images.
        """
        config = _config(self)
        if self.model_name_or_path is None:
            return None
        load_pixels(self.model_name_or_path, revision=self.revision)
        check_weights(self.model_name_or_path)
        return resolved_revision(config)


def _config(spec: ImageTransformerSpec) -> Any:
    """The config of the network.

    Raises:
        ModelError: as `load_config`; values that this model type refuses; or a network that is for something else.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    if spec.network is None:
        name = str(spec.model_name_or_path)
        config = load_config(name, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    else:
        with clear_loading_errors(spec.model_name):
            config = AutoConfig.for_model(**spec.network)
        if spec.image_size is not None and hasattr(config, "image_size") and "image_size" not in spec.network:
            config.image_size = spec.image_size
    known = type(config) in AutoModelForImageClassification._model_mapping
    if not known and AutoModelForImageClassification.__name__ not in (getattr(config, "auto_map", None) or {}):
        raise ModelError(f"{spec.model_name} ({config.model_type}) does not classify images; name a model that does")
    return config


def _pixels(spec: ImageTransformerSpec, config: Any, *, revision: str | None) -> Pixels:
    """What the model says of its images, where the options do not say otherwise."""
    said = None
    if spec.model_name_or_path is not None:
        said = load_pixels(spec.model_name_or_path, revision=revision)
        if said is None:
            log.info("%s has no %s: images are prepared as for ImageNet", spec.model_name, PROCESSOR_FILE)
    if said is None:
        of_config = getattr(config, "image_size", None)
        said = Pixels().changed(
            size=of_config if isinstance(of_config, int) else None, evaluation=None, mean=None, std=None
        )
    return said.changed(size=spec.image_size, evaluation=spec.evaluation, mean=spec.mean, std=spec.std)


@dataclasses.dataclass(frozen=True)
class ImageClassifier:
    """A network to train, and what it wants its images to be like."""

    model: Any  # float32, on the CPU, channels innermost
    pixels: Pixels
    revision: str | None  # the commit that it came from; None for a folder and for random weights


def make_image_classifier(spec: ImageTransformerSpec, class_names: tuple[str, ...], *, seed: int) -> ImageClassifier:
    """A network for these classes, with trained weights or, from its shape alone, with random ones.

    The head is new, drawn from `seed`, unless the checkpoint has one for the same classes in the same order.

    Raises:
        ModelError: see `pretrained`; or the network does not take such images.
    """
    from transformers import AutoModelForImageClassification

    name, config = spec.model_name, _config(spec)
    revision = resolved_revision(config)
    pinned = revision or spec.revision  # all files from one commit, even if a branch moves
    pixels = _pixels(spec, config, revision=pinned)
    model = make_network(AutoModelForImageClassification, config, class_names, spec=spec, revision=pinned, seed=seed)
    _check_widths(model, name=name)
    _check_takes(model, pixels, name=name, num_classes=len(class_names))
    return ImageClassifier(model.to(memory_format=torch.channels_last), pixels, revision)


def _check_widths(model: Any, *, name: str) -> None:
    """Raises ModelError for a convolution whose training on a CPU writes beyond its memory.

    With channels innermost, as images come: https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    for path, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Conv2d) or layer.kernel_size != (1, 1) or max(layer.stride) == 1:
            continue
        if layer.in_channels // layer.groups < _SAFE_CHANNELS and device().type == "cpu":
            raise ModelError(
                f"{name}: {path} is a 1 x 1 convolution with a stride on {layer.in_channels // layer.groups} channels, "
                f"which crashes torch on a CPU; make it at least {_SAFE_CHANNELS} wide, or use a GPU"
            )


def _check_takes(model: Any, pixels: Pixels, *, name: str, num_classes: int) -> None:
    """Raises ModelError when the network does not take images of this size, or has no features of [1, D]."""
    tapped, blank = WithFeatures(model).eval(), torch.zeros(1, 3, pixels.size, pixels.size)
    try:
        with torch.inference_mode():
            logits_BC, features_BD = tapped(pixel_values=blank, embeddings=True)
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{name} does not take RGB images of {pixels.size} x {pixels.size} pixels ({reason}); set image_size to "
            "what it was made for, or use another model"
        ) from None
    if logits_BC.shape != (1, num_classes) or features_BD.ndim != 2:
        raise ModelError(
            f"{name} gives {list(logits_BC.shape)} logits and {list(features_BD.shape)} features for one image of "
            f"{num_classes} classes; use another model"
        )
