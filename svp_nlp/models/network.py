"""Which network of transformers a learner wants: its name or its shape, checked before anything is loaded.

transformers is imported inside the functions: it takes seconds.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field, field_validator, model_validator

from svp_nlp.models.base import LearnerSpec

Spec = TypeVar("Spec", bound="NetworkSpec")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_OURS = ("vocab_size", "num_labels", "id2label", "label2id", "problem_type", "architectures", "dtype", "torch_dtype")


class NetworkSpec(LearnerSpec):
    """Which network: one with trained weights, or one with random weights.

    `sources` are the options that name one.
    """

    sources: ClassVar[tuple[str, ...]] = ("model_name_or_path", "config")

    model_name_or_path: str | None = Field(default=None, description="a model of the Hub, or a folder")
    revision: str | None = Field(default=None, description="branch, tag or commit of the model; null: its main branch")
    trust_remote_code: bool = Field(default=False, description="run code of the model; needs a commit as revision")
    config: dict[str, Any] | None = None

    @property
    def model_name(self) -> str:
        """What the network is called in messages."""
        return self.model_name_or_path or f"a {(self.config or {}).get('model_type')} from config"

    def at(self: Spec, commit: str | None) -> Spec:
        """These options with the commit as revision; None: as they are."""
        return self if commit is None else self.model_copy(update={"revision": commit})

    @field_validator("config")
    @classmethod
    def _known_keys(cls, config: dict[str, Any] | None) -> dict[str, Any] | None:
        if config is not None:
            check_config(config)
        return config

    @model_validator(mode="after")
    def _one_source(self: Spec) -> Spec:
        if sum(getattr(self, name) is not None for name in self.sources) != 1:
            raise ValueError(f"give exactly one of {', '.join(self.sources)}")
        if self.model_name_or_path is None:
            given = [name for name in ("revision", "trust_remote_code") if getattr(self, name)]
            if given:
                raise ValueError(f"{', '.join(given)} belongs to model_name_or_path; leave it out")
            return self
        folder = is_folder(self.model_name_or_path)
        if self.revision is not None and folder:
            raise ValueError(
                f"revision belongs to a model of the Hub, {self.model_name_or_path} is a folder; leave it out"
            )
        if self.trust_remote_code and not folder and not _COMMIT.fullmatch(str(self.revision)):
            raise ValueError(
                "trust_remote_code runs code of the model: pin revision to a commit (40 hexadecimal digits) that you "
                f"have read, found {self.revision!r}"
            )
        return self


def is_folder(name: str) -> bool:
    """Whether a model name means a folder: there is one, or it cannot be a name on the Hub."""
    return Path(name).expanduser().is_dir() or not _REPOSITORY.fullmatch(name)


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ValueError for an unknown model type or key; transformers itself would take any key in silence."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model_type {model_type!r} is not known{_meant(model_type, CONFIG_MAPPING.keys())}")
    config_class = CONFIG_MAPPING[model_type]
    known = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    for key in config.keys() - {"model_type"}:
        if key in _OURS:
            raise ValueError(f"{key} is decided by the tokenizer and the labels; leave it out")
        if key not in known:
            raise ValueError(f"{key!r} is not an option of {model_type}{_meant(key, known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
