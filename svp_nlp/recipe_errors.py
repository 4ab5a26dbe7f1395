"""What is wrong with a recipe, said with dotted paths, lines and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
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
    if kind == "union_tag_invalid":
        tag, known = detail["ctx"]["tag"], _quoted(detail["ctx"]["expected_tags"])
        return f"{tag!r} is no kind of {path[-1]}{did_you_mean(tag, known) or f'; expected {_either(known)}'}"
    if kind in ("union_tag_not_found", "model_attributes_type") and (known := _kinds_at(path, root, values)):
        given = detail["input"]
        if isinstance(given, dict):
            return f"kind is missing; expected {_either(known)}"
        meant = next(iter(difflib.get_close_matches(str(given), known, n=1)), known[0])
        return f"found {given!r}; write {path[-1]}: {{kind: {meant}}}"
    text = _IN_YAML.get(kind, text.removeprefix("Input should be "))
    found = "null" if detail["input"] is None else repr(detail["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    hint = did_you_mean(detail["input"], _literals(detail)) if isinstance(detail["input"], str) else ""
    return f"found {found}; expected {text}{hint}"


def _literals(detail: dict[str, Any]) -> list[str]:
    if detail["type"] != "literal_error":
        return []
    return _quoted(detail["ctx"]["expected"])


def _quoted(text: Any) -> list[str]:
    """`'a', 'b' or 'c'` as pydantic writes it -> [a, b, c]."""
    return [word.strip("'") for word in str(text).replace(" or ", ", ").split(", ")]


def _either(words: Sequence[str]) -> str:
    return " or ".join(map(repr, words))


def _kinds_at(path: Key, root: type[BaseModel], values: Any) -> list[str]:
    """The kinds of the section that stands at `path`, where it has several."""
    model = _model_at(path[:-1], root, values) if path else None
    field = model.model_fields.get(str(path[-1])) if model else None
    return [kind for member in _members(field.annotation) for kind in _kinds_of(member)] if field else []


def _members(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [member for part in get_args(annotation) for member in _members(part)]


def _kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    """What `kind` may be in a member of a union; empty where it is any text."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


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
    found = [model for part in get_args(annotation) if (model := _model_in(part, node))]
    kind = node.get("kind") if isinstance(node, dict) else None
    return next((model for model in found if kind in _kinds_of(model)), found[0] if found else None)
