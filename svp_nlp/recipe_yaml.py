"""Recipe files: where they are, strict YAML with line numbers, dotted overrides, differences. No torch, no pydantic.

PyYAML follows YAML 1.1, which surprises: `1e-3` is a string, `no` is False, `012` is 10, `1:30` is 90, the last of two
equal keys wins, and a tag may build any Python object. Here a number is what Python and JSON call a number, only `true`
and `false` are booleans, and the rest is refused with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from svp_nlp.errors import RecipeError
from svp_nlp.errors import did_you_mean as did_you_mean
from svp_nlp.errors import scrub as scrub
from svp_nlp.files import shipped_directory

Key: TypeAlias = tuple[str | int, ...]  # a dotted path: ("seeds", 0)
Override: TypeAlias = str | tuple[str, str]  # `a.b=value`; or that, and where it stands if it was not given with --set

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"


@dataclass
class RecipeTree:
    """The values of a recipe file, and where each one was written."""

    source: str  # the file's name, for messages
    values: dict[str, Any]
    places: dict[Key, str] = field(default_factory=dict)  # path -> "line 12" or "--set proxy.dim=20"

    def place(self, path: Key) -> str | None:
        """Where `path`, or the nearest part of it that was written, stands."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return None


class _StrictLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own attribute)


def _resolve(tag: str, pattern: str, first: Iterable[str]) -> None:
    _StrictLoader.add_implicit_resolver(_TAG + tag, re.compile(pattern), list(first))


_resolve("null", r"(?:null|Null|NULL|~|)\Z", ["n", "N", "~", ""])
_resolve("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF")
_resolve("int", r"[-+]?[0-9][0-9_]*\Z", "-+0123456789")
_resolve("float", r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z", "-+.0123456789")


def parse_yaml(text: str, source: str) -> tuple[Any, dict[Key, str]]:
    """Read one YAML document.

    Args:
        text: the document.
        source: what messages call it.

    Returns:
        The value (None for an empty document), and the line of each key and list entry.

    Raises:
        RecipeError: not YAML, a tag, an alias, a key that is repeated or is not a name, nested too deeply.
    """
    loader = _StrictLoader(text) if not (bad := _unreadable(text)) else None
    if loader is None:
        raise RecipeError(f"{source}: {bad}")
    lines: dict[Key, str] = {}
    try:
        node = loader.get_single_node()
        value = None if node is None else _value(node, (), source, lines, set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = scrub(", ".join(part for part in (error.context, error.problem) if part) or "not YAML")
        hint = "; indent with spaces, and quote texts that start with a special character" if "token" in problem else ""
        raise RecipeError(f"{source}:{where} {problem}{hint}") from None
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply (more than {_MAX_DEPTH} levels)") from None
    finally:
        loader.dispose()
    return value, lines


def _unreadable(text: str) -> str | None:
    if len(text) > _MAX_BYTES:
        return f"{len(text):,} characters; a recipe has at most {_MAX_BYTES:,}. Is this the right file?"
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad is None:
        return None
    line = text.count("\n", 0, bad.start()) + 1
    return f"line {line}: character U+{ord(bad.group()):04X} is not allowed; remove it"


def _value(node: yaml.Node, path: Key, source: str, lines: dict[Key, str], seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    kind = node.tag.removeprefix(_TAG)
    if id(node) in seen:  # an alias gives the same node again, possibly inside itself
        raise RecipeError(f"{source}: line {line}: YAML aliases (*name) are not supported; write the value out")
    seen.add(id(node))
    if len(path) > _MAX_DEPTH:
        raise RecipeError(f"{source}: line {line}: nested too deeply (more than {_MAX_DEPTH} levels)")
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, path, source, lines, seen)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        for number, entry in enumerate(node.value):
            lines[(*path, number)] = f"line {entry.start_mark.line + 1}"
        return [_value(entry, (*path, number), source, lines, seen) for number, entry in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        try:
            return _SCALARS[kind](node.value)
        except ValueError:
            raise RecipeError(f"{source}: line {line}: {node.value!r} is not a YAML {kind}") from None
    raise RecipeError(
        f"{source}: line {line}: tag {node.tag.replace(_TAG, '!!')} is not allowed; a recipe has texts, numbers, "
        "true, false, null, lists and mappings only"
    )


_SCALARS: dict[str, Any] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
    "str": str,
}


def _mapping(node: yaml.MappingNode, path: Key, source: str, lines: dict[Key, str], seen: set[int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag != _TAG + "str":
            raise RecipeError(f"{source}: line {line}: key {key_node.value!r} is not a name; quote it if it is meant")
        key = str(key_node.value)
        if key in result:
            dotted_key = dotted((*path, key))
            first = lines[(*path, key)]
            raise RecipeError(f"{source}: key {dotted_key} is given twice, on {first} and on line {line}; keep one")
        lines[(*path, key)] = f"line {line}"
        result[key] = _value(value_node, (*path, key), source, lines, seen)
    return result


def dotted(path: Sequence[str | int]) -> str:
    """`("seeds", 0)` -> `seeds.0`."""
    return ".".join(map(str, path))


def read_tree(path: Path) -> RecipeTree:
    """Read a recipe file.

    Raises:
        RecipeError: the file cannot be read, is not UTF-8, is not strict YAML, or is not a mapping.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}; expected a recipe file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8; save the recipe as UTF-8") from None
    values, lines = parse_yaml(text, str(path))
    if values is None:
        raise RecipeError(f"{path}: the file is empty; start from a shipped recipe: svp recipes")
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: found a {type(values).__name__} at the top; expected keys such as 'mode: ...'")
    return RecipeTree(str(path), values, lines)


def override(tree: RecipeTree, assignment: str, *, place: str | None = None) -> None:
    """Apply one `a.b=value` in place; the value is YAML, list entries are addressed by number.

    An unknown key is put in as well: validation then names it, with what was probably meant.

    Args:
        tree: what is changed.
        assignment: `a.b=value`.
        place: where it stands, for messages; None: it was given with --set.

    Raises:
        RecipeError: no `=`, a value that is not YAML, a path through something that is neither mapping nor list, or a
            list entry that does not exist.
    """
    name, equals, text = assignment.partition("=")
    parts = name.strip().split(".")
    place = scrub(place or f"--set {assignment}")
    if not equals or not all(parts):
        raise RecipeError(f"{place}: expected KEY=VALUE, for example --set proxy.epochs=5")
    value, _ = parse_yaml(text, place)
    node: Any = tree.values
    path: Key = ()
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(node, dict):
            key: str | int = part
            if not last and node.get(part) is None:
                node[part] = {}
        elif isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise RecipeError(f"{place}: {dotted(path)} has {len(node)} entries, 0 to {len(node) - 1}; no {part!r}")
            key = int(part)
        else:
            raise RecipeError(f"{place}: {dotted(path)} is {node!r}, which has no keys; set {dotted(path)} itself")
        path = (*path, key)
        if last:
            node[key] = value
        else:
            node = node[key]
    for old in [p for p in tree.places if p[: len(path)] == path]:
        del tree.places[old]
    tree.places[path] = place


def recipes_directory() -> Path:
    """Where the shipped recipes are."""
    return shipped_directory("recipes")


_HARDWARE = "accelerate"  # configurations of processes, beside the recipes


def shipped_recipes() -> list[str]:
    """Names of the shipped recipes, such as `smoke/active_fasttext_vdcnn`, sorted."""
    root = recipes_directory()
    files = (p.relative_to(root) for p in root.glob("*/*.yaml"))
    return sorted(p.with_suffix("").as_posix() for p in files if p.parts[0] != _HARDWARE)


def find_recipe(name: str | Path) -> Path:
    """The file behind a path or the name of a shipped recipe, with or without `recipes/` and `.yaml`.

    Raises:
        RecipeError: neither a file nor a shipped recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    wanted = path.as_posix().removeprefix("./").removeprefix("recipes/").removesuffix(".yaml")
    known = shipped_recipes()
    if wanted in known:
        return recipes_directory() / f"{wanted}.yaml"
    what = "is a directory" if path.is_dir() else "no such file, and no shipped recipe of this name"
    hint = did_you_mean(wanted, known) or "; svp recipes lists the shipped ones"
    raise RecipeError(f"{name}: {what}{hint}")


class _Dumper(yaml.SafeDumper):
    # A text is quoted when either reader would take it for something else: ours, or a YAML 1.1 one.
    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own attribute)
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_StrictLoader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _StrictLoader.yaml_implicit_resolvers.keys()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_yaml(values: dict[str, Any]) -> str:
    """YAML that `parse_yaml` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two dumped recipes: `proxy.epochs: 5 -> 10`, in the order of the keys. Tokens are masked."""
    lines: list[str] = []
    _differ(old, new, (), lines)
    return lines


def _differ(old: Any, new: Any, path: Key, lines: list[str]) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            _differ(old.get(key), new.get(key), (*path, key), lines)
    elif _is_list(old) and _is_list(new) and old != new and _is_long(old, new):
        if len(old) != len(new):
            lines.append(f"{dotted(path)}: {len(old)} -> {len(new)} entries")
        changed = [(number, *pair) for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]]
        for number, before, after in changed if len(old) == len(new) else changed[:1]:
            _differ(before, after, (*path, number), lines)
    elif old != new:
        lines.append(scrub(f"{dotted(path)}: {_short(old)} -> {_short(new)}"))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_long(old: Any, new: Any) -> bool:
    """Whether two lists are told entry by entry: short ones of texts and numbers are read better as a whole."""
    return any(isinstance(entry, Mapping) for entry in (*old, *new)) or _short(old) == _short(new)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
