"""Transformers from the Hub, from a folder, or from a config with random weights: the one place that loads them.

Only safetensors are read, code from the Hub runs only at a pinned commit, and weights are float32 whatever the
checkpoint holds. transformers is imported inside the functions: it takes seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from svp_nlp.errors import ModelError
from svp_nlp.models.network import NetworkSpec, check_config
from svp_nlp.models.network import is_folder as is_folder
from svp_nlp.models.tokens import train_tokenizer as train_tokenizer

log = logging.getLogger(__name__)

_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "cls_dropout", "classifier_dropout_prob",
             "summary_last_dropout")  # fmt: skip


class PretrainedSpec(NetworkSpec):
    """Which network for texts; one with random weights has a tokenizer that is trained on the pool."""

    config: dict[str, Any] | None = Field(
        default=None,
        description="instead of model_name_or_path: random weights of this shape, as {model_type: distilbert, "
        "dim: 64, n_layers: 2, n_heads: 2, hidden_dim: 128}",
    )
    vocab_size: Annotated[int, Field(ge=300)] = Field(
        default=8_000, description="with config: tokens of the tokenizer that is trained on the pool"
    )

    def commit(self) -> str | None:
        """The commit that `revision` means now; None for a folder and for random weights.

        Looks, without loading weights, for what would fail hours later: files, a tokenizer that pads, room for tokens.

        Raises:
            ModelError: there is no such model or revision, it is out of reach, or it does not fit these options.
        """
        longest = getattr(self, "max_length", None) or 0
        if self.model_name_or_path is None:
            from transformers import AutoConfig

            config = AutoConfig.for_model(**(self.config or {}))
            _check_room(getattr(config, "max_position_embeddings", None), longest, self.model_name)
            return None
        name, trust = self.model_name_or_path, self.trust_remote_code
        config = load_config(name, revision=self.revision, trust_remote_code=trust)
        tokenizer = load_tokenizer(name, revision=self.revision, trust_remote_code=trust)
        _check_room(tokenizer.model_max_length, longest, name)
        _check_room(getattr(config, "max_position_embeddings", None), longest, name)
        check_weights(name)
        return resolved_revision(config)

    @model_validator(mode="after")
    def _own_tokenizer(self) -> PretrainedSpec:
        if self.config is None and self.vocab_size != type(self).model_fields["vocab_size"].default:
            raise ValueError("vocab_size belongs to config; the tokenizer of model_name_or_path has its own")
        return self


def _check_room(positions: Any, max_length: int, name: str) -> None:
    if isinstance(positions, int) and 0 < positions < max_length:
        raise ModelError(f"{name} takes {positions:,} tokens, max_length is {max_length:,}; lower max_length")


@contextlib.contextmanager
def clear_loading_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn what transformers and the Hub's client say into one line that tells what to do.

    Raises:
        ModelError: in place of their errors.
    """
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    at = f"{name} at revision {revision}" if revision else name
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError, SafetensorError) as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
            causes.append(cause)
        said = " ".join(str(error).split()) or type(error).__name__

        def among(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        if among(hub.GatedRepoError):
            reason = f"{name} is gated: ask for access on its page, then log in with `hf auth login`"
        elif among(hub.RevisionNotFoundError):
            reason = f"{name} has no revision {revision!r}; look at its page for branches, tags and commits"
        elif among(hub.RepositoryNotFoundError):
            reason = f"{name} is neither a folder nor a model on the Hub that you may read; check the spelling"
        elif among(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
            reason = (
                f"{at} is not in the cache and the Hub cannot be reached; download it once with `hf download {name}`, "
                "or name a folder"
            )
        elif "safetensors" in said and ("named" in said or "use_safetensors" in said):
            reason = f"{at} has no safetensors file, and pickled weights can run code; convert it or use another model"
        elif "trust_remote_code" in said:
            reason = f"{at} brings its own code; read it, then set trust_remote_code: true and a commit as revision"
        else:
            reason = f"{at} cannot be loaded ({said[:300]}); name another model or mend the folder"
        raise ModelError(reason) from error


def _arguments(name: str, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    if is_folder(name) and not Path(name).expanduser().is_dir():
        raise ModelError(f"{name} is not a folder; expected one with config.json, or a name on the Hub")
    path = str(Path(name).expanduser()) if is_folder(name) else name
    return {"pretrained_model_name_or_path": path, "revision": revision, "trust_remote_code": trust_remote_code}


def _check_code(name: str, revision: str | None, *used: str) -> None:
    """Check that code is the model's own: `revision` pins no other repository, which may change at any time.

    Args:
        name: a model of the Hub, or a folder.
        revision: branch, tag or commit.
        used: the entries of `auto_map` that will be followed, as AutoConfig.
    Raises:
        ModelError: an entry names another repository (`other/repository--file.Class`); or as `load_config`.
    """
    from transformers import PretrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    path = _arguments(name, revision, True)["pretrained_model_name_or_path"]
    with clear_loading_errors(name, revision):
        configs = [PretrainedConfig.get_config_dict(path, revision=revision)[0]]
        configs.append(get_tokenizer_config(path, revision=revision))
    for found in (config.get("auto_map") or {} for config in configs):
        auto_map = found if isinstance(found, Mapping) else {"AutoTokenizer": found}
        for entry in (auto_map.get(key) for key in used):
            for reference in entry if isinstance(entry, list | tuple) else [entry]:
                repository, foreign, _ = str(reference).partition("--")
                if foreign and repository != path:
                    raise ModelError(
                        f"{name} runs code of {repository} ({reference}), which its revision does not pin; copy that "
                        "file, once read, into a folder with the model, and name it without the repository in auto_map"
                    )


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The config of a model; the cheapest way to find out whether it is there.

    Raises:
        ModelError: unknown model or revision, gated, out of reach; or code of another repository.
    """
    from transformers import AutoConfig

    arguments = _arguments(name, revision, trust_remote_code)
    if trust_remote_code:
        _check_code(name, revision, "AutoConfig")
    with clear_loading_errors(name, revision):
        return AutoConfig.from_pretrained(**arguments)


def check_weights(name: str) -> None:
    """Check that a folder holds weights that may be read; says nothing of a model of the Hub.

    Raises:
        ModelError: it holds none.
    """
    if is_folder(name) and not any(Path(name).expanduser().glob("*.safetensors")):
        raise ModelError(f"{name} holds no *.safetensors; pickled weights are not read: save the model again")


def resolved_revision(config: Any) -> str | None:
    """The commit that a loaded config came from; None for a folder."""
    commit = getattr(config, "_commit_hash", None)
    return None if commit is None else str(commit)


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model, which pads on the right and has a padding token.

    Raises:
        ModelError: as `load_config`; or it has neither a padding nor an end token.
    """
    from transformers import AutoTokenizer

    arguments = _arguments(name, revision, trust_remote_code)
    if trust_remote_code:
        _check_code(name, revision, "AutoConfig", "AutoTokenizer")
    with clear_loading_errors(name, revision):
        tokenizer = AutoTokenizer.from_pretrained(**arguments)
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        # transformers makes an empty one where a folder has none, and every text is then unknown tokens.
        raise ModelError(f"{name} has no tokenizer files; add tokenizer.json to it")
    return with_padding(tokenizer, name)


def with_padding(tokenizer: Any, name: str) -> Any:
    """The same tokenizer, padding on the right; its end token pads where it has no padding token.

    Raises:
        ModelError: it has neither.
    """
    tokenizer.padding_side = "right"  # what the position numbers of encoders and of GPT-2 expect
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"the tokenizer of {name} has neither a padding nor an end token; use another model")
        tokenizer.pad_token = tokenizer.eos_token
        log.info("%s has no padding token; its end token %r pads", name, tokenizer.eos_token)
    return tokenizer


def load_model(
    auto_class: Any, name: str, *, revision: str | None = None, trust_remote_code: bool = False, **options: Any
) -> Any:
    """Weights as float32, on the CPU, in eval mode, from safetensors alone.

    A head (what lies outside of the base model) and a pooler may be missing from the checkpoint, or be of other sizes:
    they are then drawn from torch's generator.

    Args:
        auto_class: AutoModel, AutoModelForSequenceClassification or a model class.
        name: a model of the Hub, or a folder.
        revision: branch, tag or commit.
        trust_remote_code: see PretrainedSpec.
        options: passed on, as `config`.
    Raises:
        ModelError: as `load_config`; only pickled weights; or weights of another network.
    """
    import torch

    arguments = _arguments(name, revision, trust_remote_code)
    if trust_remote_code:
        _check_code(name, revision, "AutoConfig", auto_class.__name__)
    with clear_loading_errors(name, revision), quiet_transformers():
        model, found = auto_class.from_pretrained(
            **arguments, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True, **options,
        )  # fmt: skip
    new = head_parameters(model)
    body = {key for key, _ in model.named_parameters() if key not in new and "pooler" not in key}
    missing = sorted(body & set(found["missing_keys"]))
    wrong = sorted(body & {entry[0] for entry in found["mismatched_keys"]})
    if missing or wrong:
        raise ModelError(
            f"the weights of {name} are not those of {type(model).__name__}: {len(missing):,} of {len(body):,} are "
            f"missing and {len(wrong):,} have another size, as {(missing + wrong)[0]}; name a model of its kind"
        )
    return model.eval()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without progress bars, and without the report that a head is new, which is said in our own words."""
    from transformers.utils import logging as transformers_logging

    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def head_parameters(model: Any) -> dict[str, Any]:
    """Name -> parameter of what lies outside of the base model: the classifier. Empty for a base model itself."""
    body = {id(parameter) for parameter in model.base_model.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in body}


def build_config(values: Mapping[str, Any], tokenizer: Any) -> Any:
    """The config of a network with random weights for a tokenizer.

    Args:
        values: `PretrainedSpec.config`.
        tokenizer: decides vocabulary size and the numbers of special tokens.
    Raises:
        ModelError: values that this model type refuses.
    """
    from transformers import AutoConfig

    special = {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos", "cls", "sep")
    }
    with clear_loading_errors(f"config {dict(values)}"):
        check_config(values)
        known = {field.name for field in dataclasses.fields(type(AutoConfig.for_model(values["model_type"])))}
        special = {key: number for key, number in special.items() if key in known}
        config = AutoConfig.for_model(**{**special, **values, "vocab_size": len(tokenizer)})
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id  # as T5 has it
    return config


def set_classifier_dropout(config: Any, dropout: float, name: str) -> None:
    """Set the dropout before the classifier, whatever this family calls it.

    Raises:
        ModelError: it has none.
    """
    known = [key for key in _DROPOUTS if hasattr(config, key)]
    if not known:
        raise ModelError(f"{name} ({config.model_type}) has no dropout before its classifier; leave out the option")
    setattr(config, known[0], dropout)


def check_fits(model: Any, tokenizer: Any, *, max_length: int, name: str) -> None:
    """Check that the network knows all tokens, and positions up to `max_length`.

    Raises:
        ModelError: it does not.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer):,} tokens, the network knows {rows:,}; name a pair"
        )
    positions = [tokenizer.model_max_length] if tokenizer.model_max_length < 1_000_000 else []
    for path, module in model.named_modules():
        if path.endswith(("position_embeddings", "wpe", "embed_positions")) and hasattr(module, "num_embeddings"):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            positions.append(module.num_embeddings - offset)
    if positions and max_length > min(positions):
        raise ModelError(f"{name} takes {min(positions):,} tokens, max_length is {max_length:,}; lower max_length")
