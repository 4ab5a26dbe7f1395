"""What a recipe would do and cost, without doing it: `svp run --dry-run`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from svp_nlp.arrays import IntK
from svp_nlp.data import Data, open_data
from svp_nlp.experiment import arms_of
from svp_nlp.models import make_learner
from svp_nlp.models.base import FitContext, Labeled, LearnerSpec, Predictor
from svp_nlp.recipe import Recipe
from svp_nlp.strategies import get_strategy

_PROBE_ROWS = 2000
_PROBE_ROWS_OF_A_NETWORK = 48


def plan(recipe: Recipe) -> dict[str, Any]:
    """Open and check all data, count the work, and time a small probe of each model. Writes nothing.

    Returns:
        `lines` for people; `pool`, `test`, `sizes`, `target_sizes`, `arms`, `work` and `estimate` (seconds by stage).
    Raises:
        SVPError: what a run would refuse.
    """
    data = open_data(recipe)
    available = int(np.count_nonzero(data.available_N))
    sizes, initial = recipe.resolve_sizes(available), recipe.resolve_initial(available)
    target_sizes = recipe.resolve_target_sizes(available)
    arms = arms_of(recipe)
    fits, scored = _count(recipe, data, sizes=sizes, initial=initial, target_sizes=target_sizes)
    probes = {"proxy": _probe(recipe.proxy, data) if fits["proxy"] else (0.0, 0.0)}
    if recipe.target is not None:
        probes["target"] = _probe(recipe.target, data)
    estimate = {f"{role} training": sum(fits[role]) * probes[role][0] for role in probes}
    estimate |= {f"{role} scoring": scored[role] * probes[role][1] for role in probes}
    if data.test is not None and recipe.target is not None:
        tested = len(target_sizes) * len(arms) * len(recipe.seeds)
        estimate["testing"] = tested * len(data.test) * probes["target"][1]
    seconds = sum(estimate.values())
    share = 100 * sizes[-1] / available
    lines = [
        f"pool    {recipe.pool.path} [{recipe.pool.split}]: {len(data.pool):,} rows, {available:,} can be picked, "
        f"{len(data.class_names):,} classes",
        f"test    {data.test_info['path']} [{data.test_info['split']}]: {data.test_info['rows']:,} rows"
        if data.test_info
        else "test    none: no target is trained",
        f"arms    {', '.join(arm.name for arm in arms)}; seeds {', '.join(map(str, recipe.seeds))}",
        f"labels  {f'{initial:,} at the start, then ' if initial else ''}{', '.join(f'{s:,}' for s in sizes)} "
        f"({share:.3g} % of what can be picked)",
        *(f"note    {warning}" for warning in data.warnings),
        "",
        *(
            f"{role:<7} {len(fits[role]):,} trainings, {sum(fits[role]):,} labels in all; scores {scored[role]:,} rows"
            for role in probes
        ),
        f"cost    about {_duration(seconds)} on this machine, by a small probe: "
        + ", ".join(f"{stage} {_duration(s)}" for stage, s in estimate.items() if s),
        "nothing was written",
    ]
    return {
        "lines": lines,
        "pool": data.pool_info,
        "test": data.test_info,
        "initial": initial,
        "sizes": sizes,
        "target_sizes": target_sizes,
        "arms": [arm.name for arm in arms],
        "work": {
            role: {"trainings": len(fits[role]), "labels": sum(fits[role]), "scored": scored[role]} for role in fits
        },
        "estimate": {**estimate, "seconds": seconds},
    }


def _count(
    recipe: Recipe, data: Data, *, sizes: list[int], initial: int, target_sizes: list[int]
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Labelled sizes of all trainings, and rows to score, by role; what arms share counts once."""
    fits: dict[str, set[tuple[str, int]]] = {"proxy": set(), "target": set()}
    scored: dict[str, set[tuple[str, int]]] = {"proxy": set(), "target": set()}
    everything = int(np.count_nonzero(data.available_N))
    for arm in arms_of(recipe):
        if get_strategy(arm.strategy).needs_model:
            role = "target" if arm.selector == "target_selects" else "proxy"
            if recipe.mode == "core_set":
                used = {("full", everything)}
            else:
                used = {(arm.name if number else "start", size) for number, size in enumerate([initial, *sizes[:-1]])}
            fits[role] |= used
            scored[role] |= used
        fits["target"] |= {("start" if size == initial else arm.name, size) for size in target_sizes}
    seeds = len(recipe.seeds)
    return (
        {role: [size for _, size in sorted(models)] * seeds for role, models in fits.items()},
        {role: len(models) * len(data.pool) * seeds for role, models in scored.items()},
    )


def _probe(spec: LearnerSpec, data: Data) -> tuple[float, float]:
    """Seconds to train one labelled row (all epochs), seconds to score one row, on this machine."""
    training = getattr(spec, "training", None)
    available = np.flatnonzero(data.available_N)
    rows = min(_PROBE_ROWS if training is None else _PROBE_ROWS_OF_A_NETWORK, len(available))
    epochs = 1
    if training is not None:
        epochs = training.epochs
        changes = {"schedule": None, "num_train_epochs": 1, "early_stopping_patience": None, "global_batch_size": rows}
        spec = spec.model_copy(update={"training": training.model_copy(update=changes)})
    learner = make_learner(spec)

    def fit(positions: IntK) -> tuple[Predictor, Labeled, float]:
        labels = data.labels.labels_N[positions].astype(np.int64)
        labeled = Labeled(data.pool.take(positions), labels, positions, data.class_names)
        started = time.perf_counter()
        return learner.fit(labeled, dev=None, seed=0, context=FitContext()), labeled, time.perf_counter() - started

    fit(available[:4])  # compiles and warms up
    predictor, labeled, seconds = fit(available[:: max(1, len(available) // rows)][:rows])
    started = time.perf_counter()
    predictor.predict(labeled.rows)
    return epochs * seconds / rows, (time.perf_counter() - started) / rows


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
