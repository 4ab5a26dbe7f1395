"""Who scores which shard. Adding an engine is one module with `spec_class` and `engine_class`, and one row here."""

from __future__ import annotations

import importlib
from typing import Any

from svp_nlp.engines.base import Engine, EngineSpec
from svp_nlp.engines.local import LocalEngine

__all__ = ["ENGINES", "Engine", "EngineSpec", "LocalEngine", "engine_spec_classes", "make_engine"]

ENGINES = {
    "local": "svp_nlp.engines.local",
    "processes": "svp_nlp.engines.processes",
    "ray": "svp_nlp.engines.ray",
}


def engine_spec_classes() -> dict[str, type[EngineSpec]]:
    """`kind` -> the pydantic model of its options."""
    return {kind: importlib.import_module(module).spec_class for kind, module in ENGINES.items()}


def make_engine(spec: EngineSpec) -> Engine:
    """The engine that a spec describes; nothing is started before it is given shards."""
    module: Any = importlib.import_module(ENGINES[spec.kind])
    engine: Engine = module.engine_class(spec)
    return engine
