"""What is wrong with a recipe, said with dotted paths, lines and what was probably meant."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from svp_nlp.models import LEARNERS, learner_module
from svp_nlp.models.base import LearnerSpec, Spec
from svp_nlp.oracles import oracle_spec_classes
from svp_nlp.recipe_yaml import Key, RecipeTree, did_you_mean, dotted, scrub


def explain(error: ValidationError, root: type[BaseModel], tree: RecipeTree) -> str:
    """All errors, one line each, in the order in which pydantic found them.

    Args:
        error: what validation raised.
        root: the model that was validated.
        tree: the values that were validated and where they stand.
    """
    found: dict[Key, list[str]] = {}
    for detail in error.errors(include_url=False):
        path = _path_in_values(detail["loc"], detail["type"], tree.values)
        message = _message(dict(detail), path, root, tree.values)
        if message not in found.setdefault(path, []):
            found[path].append(message)
    lines = []
    for path, messages in found.items():
        place = tree.place(path)
        lines.append(f"{dotted(path) or 'recipe'}{f' ({place})' if place else ''}: {'; or '.join(messages)}")
    if len(lines) == 1:
        return scrub(f"{tree.source}: {lines[0]}")
    return scrub(f"{tree.source}: {len(lines)} errors\n" + "\n".join(f"  {line}" for line in lines))


def _path_in_values(loc: Key, kind: str, values: Any) -> Key:
    """`loc` without what pydantic puts in for the members of a union: those are not in the file."""
    path: Key = ()
    node: Any = values
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        is_entry = isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
        if is_entry or (isinstance(node, dict) and part in node):
            node = node[part]
            path = (*path, part)
        elif last and kind == "missing" and isinstance(node, dict):
            path = (*path, part)
    return path


_IN_YAML = {  # what pydantic calls by names of Python
    "string_type": "a text; put it in quotes",
    "tuple_type": "a list, for example [a, b]",
    "model_type": "a section with keys of its own",
    "dict_type": "a section with keys of its own",
}


def _message(detail: dict[str, Any], path: Key, root: type[BaseModel], values: Any) -> str:
    kind, text = detail["type"], str(detail["msg"])
    if kind == "extra_forbidden":
        model = _model_at(path[:-1], root, values)
        return f"unknown key{did_you_mean(str(path[-1]), model.model_fields) if model else ''}"
    if kind == "missing":
        return "missing"
    if kind == "recipe":
        return text
    if kind == "value_error":
        return text.removeprefix("Value error, ")
    text = _IN_YAML.get(kind, text.removeprefix("Input should be "))
    found = "null" if detail["input"] is None else repr(detail["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    hint = did_you_mean(detail["input"], _literals(detail)) if isinstance(detail["input"], str) else ""
    return f"found {found}; expected {text}{hint}"


def _literals(detail: dict[str, Any]) -> list[str]:
    if detail["type"] != "literal_error":
        return []
    return [word.strip("'") for word in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(", ")]


def _model_at(path: Key, root: type[BaseModel], values: Any) -> type[BaseModel] | None:
    """The model whose keys stand at `path`; None where that cannot be told."""
    model: type[BaseModel] | None = root
    node: Any = values
    for part in path:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
        if isinstance(part, int):
            continue  # an entry of a list has the model of its list
        field = model.model_fields.get(part) if model else None
        model = _model_in(field.annotation, node) if field else None
    return model


def _model_in(annotation: Any, node: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = node.get("kind") if isinstance(node, dict) else None
        if annotation is LearnerSpec:
            spec: type[BaseModel] | None = learner_module(kind).spec_class if kind in LEARNERS else None
            return spec
        return oracle_spec_classes().get(str(kind)) if annotation is Spec else annotation
    found = (_model_in(part, node) for part in get_args(annotation))
    return next((model for model in found if model), None)
