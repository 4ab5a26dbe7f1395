"""What a recipe would do and cost, without doing it: `svp run --dry-run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from svp_nlp.arms import arms_of
from svp_nlp.data import Data
from svp_nlp.engines import make_engine
from svp_nlp.fitting import is_feature_learner
from svp_nlp.models import make_learner
from svp_nlp.models.base import LearnerSpec, TrainingSpec
from svp_nlp.oracles.files import FilesOracleSpec
from svp_nlp.prepare import prepare
from svp_nlp.probe import Probe, probe
from svp_nlp.recipe import Recipe
from svp_nlp.sizes import resolve_size
from svp_nlp.strategy_spec import SEALSSpec, StrategySpec


@dataclass(frozen=True)
class Work:
    """What one role has to do in a whole run; what arms share counts once."""

    sizes: list[int]  # labelled size of each training
    scored: int  # rows, over all models
    encoded: int = 0  # rows of the pool that a frozen encoder reads, over all versions of it
    tuned: tuple[int, ...] = ()  # labelled sizes at which an encoder is fine-tuned


def plan(recipe: Recipe) -> dict[str, Any]:
    """Open and check all data, count the work, and time a small probe of each model. Writes nothing.

    Returns:
        `lines` for people; `pool`, `test`, `sizes`, `target_sizes`, `arms`, `work`, `tokens`, `probes` and `estimate`
        (seconds by stage).
    Raises:
        SVPError: what a run would refuse.
    """
    prepared = prepare(recipe, make_engine(recipe.engine), run_dir=None)
    data, sizes = prepared.data, prepared.sizes
    available = int(np.count_nonzero(data.available_N))
    initial = recipe.resolve_initial(available)
    target_sizes = recipe.resolve_target_sizes(available)
    arms = arms_of(recipe)
    work = _count(recipe, data, sizes=sizes, initial=initial, target_sizes=target_sizes)
    specs = {"proxy": recipe.proxy, "target": recipe.target}
    probes = {
        role: probe(spec, data)
        for role, spec in specs.items()
        if spec is not None and (work[role].sizes or role == "target")
    }
    steps = {role: [_steps(specs[role], size, recipe.dev) for size in work[role].sizes] for role in probes}
    estimate: dict[str, float] = {}
    for role, measured in probes.items():
        estimate |= _seconds(role, work[role], measured, steps=steps[role], dev=recipe.dev)
    encoders = _encoders(recipe, work)
    if encoders:
        per_row = sum(probe(encoder, data).seconds_per_text for encoder in encoders)
        estimate["neighbours encoding"] = len(data.pool) * per_row
    work["encoder"] = Work([], 0, encoded=len(encoders) * len(data.pool))
    test_rows = _test_rows(data)
    if test_rows and recipe.target is not None:
        tested = len(target_sizes) * len(arms) * len(recipe.seeds)
        estimate["testing"] = tested * test_rows * probes["target"].seconds_per_text
    seconds = sum(estimate.values())
    lines = [
        f"pool    {recipe.pool.path} [{recipe.pool.split}]: {len(data.pool):,} rows, {available:,} can be picked, "
        f"{len(data.class_names):,} classes",
        _test_line(data),
        f"arms    {', '.join(arm.name for arm in arms)}; seeds {', '.join(map(str, recipe.seeds))}",
        f"labels  {f'{initial:,} at the start, then ' if initial else ''}{', '.join(f'{s:,}' for s in sizes)} "
        f"({100 * sizes[-1] / available:.3g} % of what can be picked)",
        *_by_people(recipe, data, rows=sizes[-1]),
        *_publishing(recipe, len(sizes)),
        *(f"note    {warning}" for warning in data.warnings),
        "",
        *(line for role in probes for line in _lines(role, work[role], probes[role], steps=steps[role])),
        *([f"encoder tells who is near: encodes {work['encoder'].encoded:,} rows"] if encoders else []),
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
            role: {
                "trainings": len(done.sizes),
                "labels": sum(done.sizes),
                "scored": done.scored,
                "encoded": done.encoded,
                "optimizer_steps": sum(steps.get(role, [])),
                "optimizer_steps_each": sorted(set(steps.get(role, []))),
            }
            for role, done in work.items()
        },
        "tokens": {role: measured.tokens for role, measured in probes.items() if measured.tokens},
        "probes": {
            role: {"steps": measured.steps, "seconds_per_step": measured.seconds_per_step}
            for role, measured in probes.items()
        },
        "estimate": {**estimate, "seconds": seconds},
    }


def _test_rows(data: Data) -> int:
    if data.test is not None:
        return len(data.test)
    return 0 if data.test_positions is None else len(data.test_positions)


def _test_line(data: Data) -> str:
    if data.test_info:
        return f"test    {data.test_info['path']} [{data.test_info['split']}]: {data.test_info['rows']:,} rows"
    if data.test_positions is not None:
        return f"test    {len(data.test_positions):,} random rows of the pool, which people label; never trained on"
    return "test    none: no target is trained"


def _by_people(recipe: Recipe, data: Data, *, rows: int) -> list[str]:
    """How much work people will have."""
    if not isinstance(recipe.oracle, FilesOracleSpec):
        return []
    seeds, each = len(data.seeds), recipe.oracle.answers_per_row
    asked = rows - seeds + (0 if data.test_positions is None else len(data.test_positions))
    known = f" beside the {seeds:,} that are labelled" if seeds else ""
    return [f"people  label {asked:,} rows{known}" + (f", {each:,} people each row" if each > 1 else "")]


def _publishing(recipe: Recipe, rounds: int) -> list[str]:
    if recipe.publish is None:
        return []
    versions = rounds * len(recipe.strategies) * len(recipe.seeds)
    return [f"publish {versions:,} versions of {recipe.publish.repo_id}, one for each round, strategy and seed"]


def _count(recipe: Recipe, data: Data, *, sizes: list[int], initial: int, target_sizes: list[int]) -> dict[str, Work]:
    """The work of each role, over all arms and seeds."""
    fits: dict[str, set[tuple[str, int]]] = {"proxy": set(), "target": set()}
    scored: dict[str, dict[tuple[str, int, str], int]] = {"proxy": {}, "target": {}}  # by whom and for what: rows
    everything = int(np.count_nonzero(data.available_N))
    for arm in arms_of(recipe):
        if arm.strategy.strategy.needs_model:
            role = "target" if arm.selector == "target_selects" else "proxy"
            if recipe.mode == "core_set":
                used = [("full", everything)]
            else:
                used = [(arm.name if number else "start", size) for number, size in enumerate([initial, *sizes[:-1]])]
            fits[role] |= set(used)
            for place, size in used:
                for what, rows in _looked_at(arm.strategy, data, everything, labeled=size).items():
                    scored[role][place, size, what] = rows
        fits["target"] |= {("start" if size == initial else arm.name, size) for size in target_sizes}
    work = {}
    for role, spec in (("proxy", recipe.proxy), ("target", recipe.target)):
        by_model = {(place, size) for place, size, _ in scored[role]}
        encoded, tuned = _encodings(spec, fits[role], by_model, data, seeds=len(recipe.seeds))
        work[role] = Work(
            sizes=[size for _, size in sorted(fits[role])] * len(recipe.seeds),
            scored=sum(scored[role].values()) * len(recipe.seeds),
            encoded=encoded,
            tuned=tuned,
        )
    return work


def _looked_at(spec: StrategySpec, data: Data, everything: int, *, labeled: int) -> dict[str, int]:
    """Rows that a model scores for one round, by pass; what a reduction will leave out is not known before."""
    passes = {} if spec.scored_by is None else {"pool": len(data.pool)}  # one pass for all that look at the whole pool
    if spec.strategy.kind == "setwise":
        rows = (
            everything - labeled if spec.candidates is None else resolve_size(spec.candidates, everything, spec.title)
        )
        passes[spec.title] = rows + (labeled if spec.strategy.uses_labeled else 0)
    return passes


def _encoders(recipe: Recipe, work: dict[str, Work]) -> list[LearnerSpec]:
    """Encoders of reductions and of the start set, each once; not those of a proxy or target that encodes anyway."""
    found: dict[str, LearnerSpec] = {}
    reductions = [spec.reduce.encoder for spec in recipe.strategies if isinstance(spec.reduce, SEALSSpec)]
    for encoder in (*reductions, recipe.start.encoder):
        if encoder is not None:
            learner = make_learner(encoder)
            assert is_feature_learner(learner)
            found[learner.encoder_key] = encoder
    for role, spec in (("proxy", recipe.proxy), ("target", recipe.target)):
        if found and spec is not None and work[role].encoded:
            found.pop(getattr(make_learner(spec), "encoder_key", ""), None)
    return list(found.values())


def _encodings(
    spec: LearnerSpec | None, fits: set[tuple[str, int]], scored: set[tuple[str, int]], data: Data, *, seeds: int
) -> tuple[int, tuple[int, ...]]:
    """Rows that a frozen encoder reads, and the sizes at which it is fine-tuned: once for all, and once a refresh."""
    learner = None if spec is None or not fits else make_learner(spec)
    if not hasattr(learner, "encoder"):
        return 0, ()
    refresh_at = getattr(learner, "refresh_at", None)
    refreshed = {place for place, size in fits if refresh_at is not None and size >= refresh_at}
    versions = (1 if scored else 0) + len(refreshed & {place for place, _ in scored}) * seeds
    return versions * len(data.pool), (refresh_at,) * (len(refreshed) * seeds) if refresh_at is not None else ()


def _train_rows(size: int, dev: object) -> int:
    """Labelled rows that are trained on: a dev share is held out of them."""
    return max(1, round(size * (1 - dev))) if isinstance(dev, float) else size


def _steps(spec: LearnerSpec | None, size: int, dev: object) -> int:
    """Optimiser steps of one training; 0 for learners that have none."""
    training = getattr(spec, "training", None)
    return 0 if training is None else optimizer_steps(training, _train_rows(size, dev))


def optimizer_steps(training: TrainingSpec, rows: int) -> int:
    """Optimiser steps of a training on so many rows, unless it stops early."""
    from svp_nlp.models.batches import count_batches, planned_epochs  # imports torch, which fastText does without

    per_epoch = count_batches(rows, min(training.global_batch_size, rows))
    return per_epoch * planned_epochs(training, per_epoch)


def _seconds(role: str, work: Work, measured: Probe, *, steps: list[int], dev: object) -> dict[str, float]:
    """Estimated seconds of a role by stage."""
    rows = sum(_train_rows(size, dev) for size in work.sizes)
    training = len(work.sizes) * measured.seconds_per_training + rows * measured.seconds_per_row
    seconds = {f"{role} training": training + sum(steps) * measured.seconds_per_step}
    tuner = measured.tuner
    if tuner is not None and tuner.training is not None:
        tuner_steps = sum(optimizer_steps(tuner.training, size) for size in work.tuned)
        seconds[f"{role} refresh"] = tuner_steps * tuner.seconds_per_step
    if work.encoded:
        seconds[f"{role} encoding"] = work.encoded * measured.seconds_per_text
    seconds[f"{role} scoring"] = work.scored * measured.seconds_per_scored_row
    return seconds


def _lines(role: str, work: Work, measured: Probe, *, steps: list[int]) -> list[str]:
    parts = [f"{len(work.sizes):,} training{'s' * (len(work.sizes) != 1)}, {sum(work.sizes):,} labels in all"]
    if any(steps):
        each = f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,} to {max(steps):,}"
        parts.append(f"{sum(steps):,} optimiser steps ({each} a training)")
    if work.tuned:
        parts.append(f"{len(work.tuned):,} fine-tuning{'s' * (len(work.tuned) > 1)} of the encoder")
    if work.encoded:
        parts.append(f"encodes {work.encoded:,} rows")
    lines = [f"{role:<7} {', '.join(parts)}; scores {work.scored:,} rows"]
    if measured.tokens:
        tokens = measured.tokens
        lines.append(
            f"tokens  {role}: mean {tokens['mean']:.0f}, p95 {tokens['p95']:.0f}, {100 * tokens['truncated']:.1f} % of "
            f"{tokens['rows']:,} texts cut at {tokens['max_length']:,}"
        )
    if measured.steps:
        timed = f"{measured.steps} steps of {measured.batch_size} rows, {_duration(measured.seconds_per_step)} each"
        lines.append(f"probe   {role}: {timed}; scores {1 / max(measured.seconds_per_text, 1e-9):,.0f} rows/s")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
