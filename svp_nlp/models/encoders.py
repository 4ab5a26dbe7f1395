"""Frozen encoders: the body of a transformer, and the pooling that makes one vector of the vectors of a text's tokens.

Folders of sentence-transformers are understood: what they say about pooling, norm and length is followed.

Letters in shapes: B batch, L tokens, D width of the vectors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.nn import functional

from svp_nlp.arrays import fingerprint_json
from svp_nlp.errors import ModelError
from svp_nlp.files import sha256_file
from svp_nlp.models import prediction, pretrained, training
from svp_nlp.models.base import (
    CONFIG_FILE,
    OUR_KEYS,
    LearnerSpec,
    Prediction,
    read_config,
    texts_of,
    write_config,
)
from svp_nlp.models.prediction import ScoringDtype
from svp_nlp.models.tokens import token_examples, token_lengths

WEIGHTS_FILE = "model.safetensors"
LONGEST = 256  # tokens read when neither the recipe nor the model says: sentence encoders are trained on so many
Pooling = Literal["mean", "cls", "last"]
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_POOLING_FLAGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "lasttoken"}


@dataclass(frozen=True)
class Layout:
    """What the files of sentence-transformers in a model say beside its weights; the defaults when there are none."""

    pooling: Pooling = "mean"
    normalize: bool = False
    max_length: int | None = None
    lower_case: bool = False
    unsupported: str | None = None  # a part that is not computed here


@dataclass(frozen=True)
class EncoderOptions:
    """How texts are read and vectors are made; saved with the encoder."""

    pooling: Pooling
    normalize: bool
    max_length: int
    lower_case: bool
    batch_size: int
    dtype: ScoringDtype


def read_layout(name: str, *, revision: str | None = None) -> Layout:
    """Read modules.json and what it names.

    Args:
        name: a model of the Hub, or a folder.
        revision: branch, tag or commit.
    Raises:
        ModelError: a file is damaged or out of reach, or the weights lie in a sub-folder.
    """
    modules = _read_json(name, "modules.json", revision)
    if modules is None:
        return Layout()
    try:
        found = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in modules}
        unsupported = next((part for part in found if part not in ("Transformer", "Pooling", "Normalize")), None)
        if found.get("Transformer"):
            raise ModelError(f"{name}: modules.json has the network in {found['Transformer']}; name that folder")
        pooling = _pooling(_read_json(name, f"{found.get('Pooling', '')}/config.json", revision) or {})
        texts = _read_json(name, "sentence_bert_config.json", revision) or {}
        max_length = texts.get("max_seq_length")
        return Layout(
            pooling=_POOLINGS.get(pooling, "mean"),
            normalize="Normalize" in found,
            max_length=None if max_length is None else int(max_length),
            lower_case=bool(texts.get("do_lower_case", False)),
            unsupported=unsupported or (None if pooling in _POOLINGS else f"pooling by {pooling}"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{name}: modules.json is not one of sentence-transformers ({error}); delete it") from None


def _pooling(config: dict[str, Any]) -> str:
    """The pooling that a 1_Pooling/config.json names, by one flag each or by `pooling_mode`; several joined by +."""
    named = config.get("pooling_mode")
    if named is None:
        prefix = "pooling_mode_"
        named = [key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on is True]
    names = [named] if isinstance(named, str) else list(named)
    return "+".join(_POOLING_FLAGS.get(each, each) for each in names) or "mean"


def _read_json(name: str, file: str, revision: str | None) -> Any:
    """A JSON file of a model; None when it has no such file."""
    if pretrained.is_folder(name):
        found = Path(name).expanduser() / file
        path = found if found.is_file() else None
    else:
        from transformers.utils.hub import cached_file

        with pretrained.clear_loading_errors(name, revision):
            # A missing file is fine, a Hub that cannot be reached is not: the features would depend on the network.
            answer = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        path = None if answer is None else Path(answer)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}); copy or download it again") from None


def pool_tokens(hidden_BLD: Tensor, mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """One vector per text, float32 [B, D]; tokens whose mask is 0 do not count.

    Args:
        hidden_BLD: any float type.
        mask_BL: 1 = token, 0 = padding; at least one token a row.
        pooling: mean of the tokens, the first (cls) or the last token.
    """
    if pooling == "mean":
        weights_BL1 = mask_BL.unsqueeze(-1).float()
        # Not a product: a NaN under the padding must not reach the sum.
        kept_BLD = hidden_BLD.float().masked_fill(weights_BL1 == 0, 0.0)
        return kept_BLD.sum(1) / weights_BL1.sum(1)
    places_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    if pooling == "cls":
        at_B = torch.where(mask_BL > 0, places_L, mask_BL.shape[1]).argmin(1)
    else:
        at_B = torch.where(mask_BL > 0, places_L, -1).argmax(1)
    return hidden_BLD[torch.arange(len(at_B), device=at_B.device), at_B].float()


class Encoder(nn.Module):
    """A transformer's body and its pooling, with the signature that `prediction.predict` expects."""

    def __init__(self, body: nn.Module, options: EncoderOptions) -> None:
        super().__init__()
        self.body, self.options = body, options

    def forward(self, *, attention_mask: Tensor, embeddings: bool = True, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """No logits [B, 0], and embeddings [B, D]."""
        hidden_BLD = self.body(attention_mask=attention_mask, **inputs).last_hidden_state
        embeddings_BD = pool_tokens(hidden_BLD, attention_mask, self.options.pooling)
        if self.options.normalize:
            embeddings_BD = functional.normalize(embeddings_BD, dim=1)
        return embeddings_BD[:, :0], embeddings_BD


class EncoderPredictor:
    """A frozen encoder as a predictor without classes."""

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        spec: LearnerSpec,
        body: nn.Module,
        tokenizer: Any,
        options: EncoderOptions,
        *,
        report: dict[str, Any],
        fingerprint: str | None = None,
    ) -> None:
        """Args:
        spec: of the learner that makes and loads it.
        body: what AutoModel gives; it must not be changed afterwards.
        tokenizer: its tokenizer.
        options: see EncoderOptions.
        report: JSON values.
        fingerprint: what was recorded when it was saved; None: computed when asked for.
        """
        self.spec, self.options, self.report, self.tokenizer = spec, options, report, tokenizer
        self._network = Encoder(body, options).eval().requires_grad_(False).to(training.device())
        self._recorded = fingerprint

    @property
    def width(self) -> int:
        """D: columns of the embeddings."""
        return int(self._network.body.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, and all that decides what is computed; half a second for 100 MB of weights."""
        if self._recorded is not None:
            return self._recorded
        digest = hashlib.sha256()
        for name, tensor in sorted(self._network.body.state_dict().items()):
            values = tensor.cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.numpy().reshape(-1).view(np.uint8).data)
        return fingerprint_json([digest.hexdigest(), tokenizer_content(self.tokenizer), asdict(self.options)])

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities [B, 0], and embeddings [B, D] when asked for, float32.

        Texts are read in order of length and come back in theirs; neighbours change no more than roundings, and the
        same batch gives the same bits.
        """
        probs_BC = np.zeros((batch.num_rows, 0), np.float32)
        if not embeddings:
            return Prediction(probs_BC)
        if batch.num_rows == 0:
            return Prediction(probs_BC, np.zeros((0, self.width), np.float32))
        texts = texts_of(batch)
        examples = token_examples(
            pc.utf8_lower(texts) if self.options.lower_case else texts,
            self.tokenizer,
            max_length=self.options.max_length,
        )
        part = prediction.predict(
            self._network, examples, batch_size=self.options.batch_size, embeddings=True, group_by_length=True,
            dtype=self.options.dtype, size_option="encode_batch_size",
        )  # fmt: skip
        return Prediction(probs_BC, part.embeddings_BD)

    def token_statistics(self, rows: pa.Table) -> dict[str, float]:
        """Lengths of texts in tokens (`mean`, `p95`), and the share that is `truncated` at `max_length`."""
        lengths = token_lengths(texts_of(rows), self.tokenizer, max_length=self.options.max_length)
        return {**asdict(lengths), "max_length": self.options.max_length}

    def save(self, directory: Path) -> None:
        """Write model.safetensors, the tokenizer and config.json: a folder that `AutoModel` can load as well."""
        with pretrained.quiet_transformers():
            self._network.body.save_pretrained(directory, max_shard_size="1TB")  # type: ignore[operator]
        self.tokenizer.save_pretrained(directory)
        theirs = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        dropped = OUR_KEYS | {"_name_or_path"}  # of the model that it began as; a folder of this machine, perhaps
        theirs = {key: value for key, value in theirs.items() if key not in dropped}
        beside = [path for path in sorted(directory.iterdir()) if path.name not in (CONFIG_FILE, WEIGHTS_FILE)]
        ours = {
            "report": self.report,
            "encoder": asdict(self.options),
            "encoder_fingerprint": self.fingerprint,
            "encoder_files": {path.name: sha256_file(path) for path in beside if path.is_file()},
        }
        write_config(directory, spec=self.spec, class_names=(), weights=WEIGHTS_FILE, **ours)
        ours = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        text = json.dumps({**theirs, **ours}, indent=2, ensure_ascii=False)
        (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def tokenizer_content(tokenizer: Any) -> str:
    """What decides how a tokenizer reads; what it was told to cut and pad last does not."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python: how it cuts is seen in what it does only
        probe = "Ünïcödé, CASE  and\tspaces\n1,234.5 <br> don't 中文 naïve"
        return fingerprint_json([sorted(tokenizer.get_vocab().items()), tokenizer(probe)["input_ids"]])
    content = json.loads(backend.to_str())
    return fingerprint_json({**content, "truncation": None, "padding": None})


def read_encoder_config(directory: Path) -> dict[str, Any]:
    """The config.json of a saved encoder, after all its files were verified.

    Raises:
        ModelError: a file is missing or differs from what was saved.
    """
    config = read_config(directory)
    for name, expected in _beside(config, directory).items():
        path = directory / name
        if not path.is_file() or sha256_file(path) != expected:
            raise ModelError(f"{path} is missing or was changed since the encoder was saved; encode the pool again")
    return config


def recorded_fingerprint(directory: Path) -> str:
    """The fingerprint of a saved encoder, as it was recorded; nothing is hashed or loaded.

    Raises:
        ModelError: no encoder was saved there.
    """
    try:
        return str(json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))["encoder_fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{directory} holds no encoder ({type(error).__name__}); encode the pool again") from None


def load_encoder(directory: Path, spec: LearnerSpec, *, trust_remote_code: bool = False) -> EncoderPredictor:
    """Load what `EncoderPredictor.save` wrote.

    Raises:
        ModelError: a file is missing, damaged, or not an encoder.
    """
    from transformers import AutoModel

    config = read_encoder_config(directory)
    tokenizer = pretrained.load_tokenizer(str(directory), trust_remote_code=trust_remote_code)
    with training.seeded(0):  # a pooler that was never saved is drawn; nothing reads it
        body = pretrained.load_model(AutoModel, str(directory), trust_remote_code=trust_remote_code)
    try:
        options = EncoderOptions(**config["encoder"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{directory / CONFIG_FILE} is not that of an encoder ({error}); encode again") from None
    return EncoderPredictor(
        spec, body, tokenizer, options, report=dict(config.get("report", {})), fingerprint=config["encoder_fingerprint"]
    )


def link_encoder(source: Path, target: Path) -> None:
    """Put the files of a saved encoder into a new directory as well, without copying where the file system allows.

    Raises:
        ModelError: no encoder was saved in `source`.
    """
    config = read_config(source)
    target.mkdir()
    for name in (CONFIG_FILE, str(config["weights"]), *_beside(config, source)):
        try:
            os.link((source / name).resolve(), target / name)  # a cache of the Hub holds symbolic links
        except OSError:  # another file system, or one without hard links
            shutil.copy2(source / name, target / name)


def _beside(config: dict[str, Any], directory: Path) -> dict[str, str]:
    files = config.get("encoder_files")
    if not isinstance(files, dict) or any(Path(name).name != name for name in files):
        raise ModelError(f"{directory / CONFIG_FILE} is not that of an encoder; encode the pool again")
    return files
