"""Networks that classify: made for given classes, from pretrained or random weights; tapped for features; saved.

Letters in shapes: B batch, L tokens, C classes, D width.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from svp_nlp.errors import ModelError
from svp_nlp.models.base import CONFIG_FILE, OUR_KEYS, LearnerSpec, read_config, write_config
from svp_nlp.models.devices import seeded
from svp_nlp.models.finetuning import draw_head
from svp_nlp.models.network import NetworkSpec
from svp_nlp.models.prediction import logits_of
from svp_nlp.models.pretrained import (
    PretrainedSpec,
    build_config,
    check_fits,
    clear_loading_errors,
    head_parameters,
    load_config,
    load_model,
    load_tokenizer,
    quiet_transformers,
    resolved_revision,
    set_classifier_dropout,
)
from svp_nlp.models.tokens import pool_tokenizer
from svp_nlp.pool import Pool

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
_ONE_FILE = "1000GB"


@dataclass(frozen=True)
class Classifier:
    """A network to train and what belongs to it."""

    model: Any  # an AutoModelForSequenceClassification, float32, on the CPU
    tokenizer: Any
    revision: str | None  # the commit that it came from; None for a folder and for random weights


def make_classifier(
    spec: PretrainedSpec,
    class_names: tuple[str, ...],
    texts: pa.ChunkedArray,
    *,
    pool: Pool | None,
    seed: int,
    max_length: int,
    dropout: float | None = None,
) -> Classifier:
    """A network for these classes, with pretrained weights or, from a config, with random ones.

    The head is new, drawn from `seed`, unless the checkpoint has one for the same classes in the same order.

    Args:
        spec: which network.
        class_names: become `id2label`.
        texts: the labelled ones, on which a tokenizer is trained for want of a pool.
        pool: on which a tokenizer is trained, for a network from a config.
        seed: decides all new weights.
        max_length: tokens of a text.
        dropout: before the classifier; None: what the model says.
    Raises:
        ModelError: see `pretrained`; or the network does not take `max_length` tokens, or has no such dropout.
    """
    from transformers import AutoModelForSequenceClassification

    name, trust, revision, pinned = spec.model_name, spec.trust_remote_code, None, None
    if spec.config is not None:
        tokenizer = pool_tokenizer(texts, pool, vocab_size=spec.vocab_size, max_length=max_length)
        config = build_config(spec.config, tokenizer)
    else:
        config = load_config(name, revision=spec.revision, trust_remote_code=trust)
        revision = resolved_revision(config)
        pinned = revision or spec.revision  # all files from one commit, even if a branch moves
        tokenizer = load_tokenizer(name, revision=pinned, trust_remote_code=trust)
    config.pad_token_id = tokenizer.pad_token_id
    if hasattr(config, "use_cache"):
        config.use_cache = False  # for generating; decoders would keep keys and values of every batch
    if dropout is not None:
        set_classifier_dropout(config, dropout, name)
    model = make_network(AutoModelForSequenceClassification, config, class_names, spec=spec, revision=pinned, seed=seed)
    check_fits(model, tokenizer, max_length=max_length, name=name)
    tokenizer.model_max_length = max_length  # so that users who truncate get the same probabilities
    return Classifier(model, tokenizer, revision)


def make_network(
    auto_class: Any, config: Any, class_names: tuple[str, ...], *, spec: NetworkSpec, revision: str | None, seed: int
) -> Any:
    """The network of a config, for these classes, float32, on the CPU.

    The head is new, drawn from `seed`, unless the checkpoint has one for the same classes in the same order.

    Args:
        auto_class: one of transformers, as AutoModelForImageClassification.
        config: is changed; its classes are those of the checkpoint.
        class_names: become `id2label`.
        spec: whether its weights are trained or random.
        revision: branch, tag or commit of the weights.
        seed: decides all new weights.
    Raises:
        ModelError: see `pretrained`.
    """
    name, kept = spec.model_name, False
    of_kind = str(auto_class.__name__).removeprefix("AutoModel")
    is_trained = spec.model_name_or_path is not None
    if is_trained and any(str(architecture).endswith(of_kind) for architecture in config.architectures or ()):
        kept = names_of(config) == class_names
        what = "is kept" if kept else "is replaced by a new one"
        log.info("%s has a head for %s, which %s", name, ", ".join(names_of(config)[:10]), what)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {label: number for number, label in enumerate(class_names)}
    config.problem_type = "single_label_classification"
    with seeded(seed):
        if not is_trained:
            with clear_loading_errors(name):
                return auto_class.from_config(config, dtype=torch.float32)
        model = load_model(auto_class, name, revision=revision, trust_remote_code=spec.trust_remote_code, config=config)
        if not kept:
            draw_head(model)
    return model


def names_of(config: Any) -> tuple[str, ...]:
    """Class names of a config, in order."""
    return tuple(str(name) for _, name in sorted(config.id2label.items()))


class WithFeatures(nn.Module):
    """A classifier that also gives, when asked, what its last layer reads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        head = {name.rpartition(".")[0] for name in head_parameters(model)}
        fitting = [m for name, m in model.named_modules() if name in head and isinstance(m, nn.Linear)]
        fitting = [m for m in fitting if m.out_features == model.config.num_labels]
        if not fitting:
            raise ModelError(f"{type(model).__name__} has no linear last layer; use another model")
        self.last = fitting[-1]

    def forward(self, *, embeddings: bool = False, **inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [B, C]; with `embeddings` also [B, D]."""
        if not embeddings:
            return logits_of(self.model(**inputs))
        caught: list[Tensor] = []
        hook = self.last.register_forward_pre_hook(lambda _module, arguments: caught.append(arguments[0]))
        try:
            logits_BC = logits_of(self.model(**inputs))
        finally:
            hook.remove()
        features = caught[0]
        if features.ndim == 3:  # decoders classify every token and take the last one of a text
            last_B = inputs["attention_mask"].sum(1) - 1
            features = features[torch.arange(len(features), device=features.device), last_B]
        return logits_BC, features


def checkpoint_activations(model: Any, on: bool) -> None:
    """Gradient checkpointing, which transformers has renamed: the old name warns in 5.23, the new one is not in 5.0."""
    found = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        options = {f"{found}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{found}_checkpointing_enable")(**options)
    else:
        getattr(model, f"{found}_checkpointing_disable")()


def weights_digest(model: nn.Module) -> str:
    """Hash of all weights with their names; a second for 1 GB."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_classifier(
    directory: Path, model: Any, *, spec: LearnerSpec, class_names: tuple[str, ...], report: dict[str, Any]
) -> None:
    """Write what `from_pretrained` and `pipeline` of transformers read, with our keys in its config.json."""
    with quiet_transformers():
        # Channels may be innermost in memory, which safetensors does not take.
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        model.save_pretrained(directory, state_dict=weights, max_shard_size=_ONE_FILE)
    theirs = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    dropped = OUR_KEYS | {"_name_or_path"}  # of the model that it began as; a folder of this machine, perhaps
    theirs = {key: value for key, value in theirs.items() if key not in dropped}
    write_config(directory, spec=spec, class_names=class_names, weights=WEIGHTS_FILE, report=report, **theirs)


def load_classifier(
    directory: Path, auto_class: Any, *, trust_remote_code: bool
) -> tuple[Any, tuple[str, ...], dict[str, Any]]:
    """The network that `save_classifier` wrote, on the CPU; its class names and report.

    Raises:
        ModelError: a file is missing, damaged, or of another model.
    """
    saved, name = read_config(directory), str(directory)
    config = load_config(name, trust_remote_code=trust_remote_code)
    class_names = tuple(saved.get("class_names", ()))
    if class_names != (found := names_of(config)):
        raise ModelError(
            f"{directory / CONFIG_FILE}: class_names are {list(class_names)}, id2label says {list(found)}; the "
            "file was changed: copy or train the model again"
        )
    for key in saved.keys() & OUR_KEYS:
        delattr(config, key)
    model = load_model(auto_class, name, trust_remote_code=trust_remote_code, config=config)
    return model, class_names, dict(saved.get("report", {}))
