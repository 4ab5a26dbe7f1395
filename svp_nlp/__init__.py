"""svp_nlp: a small proxy chooses which texts are worth labelling, a large target learns from them.

Public names are resolved when they are first used: importing this package imports neither torch nor datasets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from svp_nlp.api import load_pool, load_test, open_workspace
    from svp_nlp.errors import SVPError
    from svp_nlp.experiment import run_recipe
    from svp_nlp.hub.load import load_selected
    from svp_nlp.hub.models import load_predictor
    from svp_nlp.hub.shared_signals import load_signals
    from svp_nlp.labels import LabelSet
    from svp_nlp.loop import active_learning, core_set, train_target
    from svp_nlp.models import classify, make_learner
    from svp_nlp.pool import Pool, PoolRef
    from svp_nlp.recipe import load_recipe
    from svp_nlp.report import write_report
    from svp_nlp.selection import Selection
    from svp_nlp.strategies import STRATEGIES, select

_MODULES = {
    "load_pool": "api",
    "load_test": "api",
    "open_workspace": "api",
    "SVPError": "errors",
    "run_recipe": "experiment",
    "LabelSet": "labels",
    "active_learning": "loop",
    "core_set": "loop",
    "train_target": "loop",
    "classify": "models",
    "load_predictor": "hub.models",
    "load_selected": "hub.load",
    "load_signals": "hub.shared_signals",
    "make_learner": "models",
    "Pool": "pool",
    "PoolRef": "pool",
    "load_recipe": "recipe",
    "write_report": "report",
    "Selection": "selection",
    "STRATEGIES": "strategies",
    "select": "strategies",
}

__all__ = [
    "STRATEGIES",
    "LabelSet",
    "Pool",
    "PoolRef",
    "SVPError",
    "Selection",
    "active_learning",
    "classify",
    "core_set",
    "load_pool",
    "load_predictor",
    "load_recipe",
    "load_selected",
    "load_signals",
    "load_test",
    "make_learner",
    "open_workspace",
    "run_recipe",
    "select",
    "train_target",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
