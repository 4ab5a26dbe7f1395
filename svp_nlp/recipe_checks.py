"""What the single values of a recipe cannot show: those that contradict each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from svp_nlp.arms import arms_of
from svp_nlp.recipe_yaml import differences
from svp_nlp.run import FULL, START
from svp_nlp.sizes import INITIAL, amount
from svp_nlp.stop_spec import stop_contradictions
from svp_nlp.strategy_checks import misfits, start_misfits

_SIZES = ("labeled_sizes", "train_target_at")
_PLACES = {START: "of the start set", FULL: "of models that are trained on all labels"}


def contradictions(recipe: Any) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) for what single values cannot show. Mixed sizes are compared once resolved."""
    found = "text" if recipe.pool.image_column is None else "image"
    for role, learner in (("proxy", recipe.proxy), ("target", recipe.target)):
        if learner is not None and learner.reads != found:
            hint = "name its image_column" if found == "text" else "remove pool.image_column"
            yield role, f"{learner.kind} reads {learner.reads}s, the pool has {found}s; choose another kind, or {hint}"
    if found == "image" and recipe.pool.text_columns != type(recipe.pool).model_fields["text_columns"].default:
        yield "pool", "text_columns beside image_column: a pool holds texts or images; remove one of them"
    if recipe.mode == "core_set" and recipe.initial is not None:
        yield "initial", "a core-set has no start set; remove it, or use mode: active_learning"
    grows = recipe.mode == "active_learning"
    yield from (("start", wrong) for wrong in start_misfits(recipe.start, recipe.proxy, grows=grows))
    sizes = list(recipe.labeled_sizes) if recipe.initial is None else [recipe.initial, *recipe.labeled_sizes]
    for before, after in itertools.pairwise(sizes):
        if type(before) is type(after) and amount(before) >= amount(after):
            what = "initial" if before is sizes[0] and recipe.initial is not None else "the size before"
            yield "labeled_sizes", f"{after} is not more than {what}, {before}; make the sizes strictly increasing"
    if recipe.train_target_at != "all":
        allowed = {*recipe.labeled_sizes, *([] if recipe.initial is None else [INITIAL])}
        for size in recipe.train_target_at:
            if size not in allowed:
                names = ", ".join(map(str, sorted(allowed, key=str)))
                yield "train_target_at", f"{size} is not one of labeled_sizes as written there ({names})"
    if recipe.target is None:
        if recipe.train_target_at != "all":
            yield "train_target_at", "there is no target to train; add target, or remove this key"
        if "target_selects" in recipe.baselines:
            yield "baselines", "target_selects needs a target; add target, or remove it"
    elif recipe.test is None and not (recipe.by_people and recipe.oracle.test_rows):
        ask = ", or oracle.test_rows: so many random rows are labelled for it" if recipe.by_people else ""
        yield (
            "target",
            (f"without a test set nobody would read what the target learns; add test{ask}, or set target to null"),
        )
    if recipe.by_people:
        yield from _people_contradictions(recipe)
    yield from _strategy_contradictions(recipe)
    yield from stop_contradictions(recipe)
    if "target_selects" in recipe.baselines and not any(s.strategy.needs_model for s in recipe.strategies):
        yield "baselines", "target_selects needs a strategy other than random; add one, or remove it"
    specs: dict[str, Any] = {"proxy": recipe.proxy, "target": recipe.target}
    specs |= {f"{role}.refresh": getattr(spec, "refresh", None) for role, spec in specs.items()}
    trainings = {f"{key}.training": spec.training for key, spec in specs.items() if hasattr(spec, "training")}
    for key, training in trainings.items():
        if training.early_stopping_patience is not None and recipe.dev is None:
            role, inner = key.split(".", 1)
            yield role, f"{inner}.early_stopping_patience needs a dev set; set dev, or remove it"
    watched = not isinstance(recipe.dev, float) and (recipe.by_people or recipe.stop is not None)
    if recipe.dev is not None and not trainings and not watched:
        yield "dev", "neither proxy nor target trains in epochs that a dev set could choose among; remove it"
    if "random" in recipe.baselines and any(s.name == "random" for s in recipe.strategies):
        yield "baselines", "random is a strategy and a baseline; keep one of them"
    else:
        yield from _names_taken(recipe)


def _people_contradictions(recipe: Any) -> Iterator[tuple[str, str]]:
    """What cannot be asked of people: they label for one choice."""
    oracle = recipe.oracle
    if recipe.mode == "core_set":
        yield (
            "oracle",
            "a core-set needs the labels of all rows, people give them bit by bit; use mode: active_learning",
        )
    if len(recipe.strategies) > 1 or recipe.baselines:
        found = ", ".join([*(spec.title for spec in recipe.strategies), *recipe.baselines])
        yield "strategies", f"people label for one strategy, found {found}; keep one, and baselines: []"
    if len(recipe.seeds) > 1:
        yield "seeds", f"people label for one seed, found {', '.join(map(str, recipe.seeds))}; keep one"
    if len(oracle.labels) < 2 and oracle.new_classes == "refuse":
        yield "oracle", "labels: expected at least two classes, or new_classes: extend"
    if oracle.test_rows is not None and recipe.test is not None:
        yield "oracle", "test_rows asks people for a test set, and test names one; keep one of them"
    if oracle.test_rows is not None and recipe.target is None:
        yield (
            "oracle",
            "test_rows would be labelled and read by nobody, for there is no target; add target, or remove it",
        )


def _strategy_contradictions(recipe: Any) -> Iterator[tuple[str, str]]:
    """What strategies do not get from the learners that choose, each said once."""
    choosing = [recipe.proxy, *([recipe.target] if recipe.target and "target_selects" in recipe.baselines else [])]
    grows = recipe.mode == "active_learning"
    found = [
        wrong
        for spec in recipe.strategies
        for learner in choosing
        for wrong in misfits(spec, learner, grows=grows, dev=recipe.dev)
    ]
    yield from (("strategies", wrong) for wrong in dict.fromkeys(found))


def _names_taken(recipe: Any) -> Iterator[tuple[str, str]]:
    """Arms have directories of their own, also where file systems take upper and lower case as one."""
    taken = dict(_PLACES)
    for arm in arms_of(recipe):
        name = arm.name.casefold()
        if name in _PLACES:
            yield "strategies", f"the label {arm.strategy.title} is the directory {taken[name]}; choose another"
        elif name in taken and taken[name] == arm.strategy.title:
            yield "strategies", f"two strategies are called {taken[name]}; give one a label"
        elif name in taken:
            yield "strategies", f"{taken[name]} and {arm.strategy.title} would both write to {arm.name}; change a label"
        taken.setdefault(name, arm.strategy.title)


def forbidden_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two recipes (JSON values) and may not, in one run directory; as `recipe_yaml.differences`.

    Who sees what labels bring may want more than was planned: where people label, sizes may be added.
    """
    if new.get("oracle", {}).get("kind") == "files":
        planned = list(old.get("labeled_sizes", ()))
        if list(new["labeled_sizes"])[: len(planned)] == planned:
            old, new = ({k: v for k, v in one.items() if k not in _SIZES} for one in (old, new))
    return differences(old, new)
