"""README.md of a repository: our part is written anew by each push, what people wrote around it stays as it is.

Our text stands between two marks. Of the YAML block at the top, the fields that we do not know are kept letter by
letter, and so is a field of ours that somebody changed: the mark holds a hash of what we wrote last, which tells.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from svp_nlp.errors import HubRefused, scrub

_BEGIN, _END = "<!-- svp_nlp: begin", "<!-- svp_nlp: end -->"
_HINT = "each push writes the lines from here to the end mark anew; what stands before and after them stays"
# A mark is a line of its own; the nearest two belong together, so one that lost its other half means nothing.
_OURS = re.compile(
    rf"^{_BEGIN}[^\r\n]*-->[ \t]*\r?$(?:(?!^{_BEGIN}).)*?^{_END}[ \t]*(?=\r?$)", re.DOTALL | re.MULTILINE
)
# As the Hub finds it (huggingface_hub.repocard.REGEX_YAML_BLOCK); an empty block is one too.
_BLOCK = re.compile(r"(\s*---[ \t]*(?:\r\n|\r|\n))(?:([\S\s]*?)(\r\n|\r|\n))??(---[ \t]*(?:\r\n|\n|$))")
_OPENED = re.compile(r"\s*---[ \t]*(?:\r\n|\r|\n)\s*[A-Za-z_][\w-]*:")
_BY_NAME = ("configs", "dataset_info")


def write_readme(readme: str | None, *, fields: Mapping[str, Any], body: str, where: str) -> str:
    """README.md with our part brought up to date.

    Args:
        readme: as the repository holds it; None or empty: there is none.
        fields: our part of the YAML block, JSON values.
        body: our part of the text, Markdown.
        where: for the error: the repository.
    Raises:
        HubRefused: the YAML block that is there cannot be read; says the line.
    """
    readme = (readme or "").removeprefix("\ufeff")
    found = _BLOCK.match(readme)
    newline = "\r\n" if "\r\n" in (found[1] if found else readme) else "\n"
    if found is None and _OPENED.match(readme):
        raise HubRefused(
            f"{where}: README.md, line 1: its YAML block has no end; write `---` in a line below it and push again"
        )
    opening, block, closing = f"---{newline}", "", f"{newline}---{newline}"
    text = newline + readme if readme else ""
    if found is not None:
        # The Hub wants nothing behind the first dashes; our text must not begin behind the last ones.
        opening, block, text = re.sub("---[ \t]+", "---", found[1]), found[2] or "", readme[found.end() :]
        closing = (found[3] or "") + found[4] + ("" if found[4].endswith("\n") else newline)
    theirs = _read_block(block, first_line=opening.count("\n") + 1, where=where)
    ours = _ours(text)
    merged = _merge(theirs, fields, written=_hashes(ours[0]) if ours else {})
    mark = " ".join(f"{key}={_hash(value)}" for key, value in fields.items() if key not in (*_BY_NAME, "tags"))
    part = f"{_BEGIN} ({_HINT}) {mark} -->\n\n{body}\n\n{_END}".replace("\n", newline)
    fields_text = _dump(block, theirs, merged, newline)
    if found is not None and found[3] is None:
        fields_text += newline
    return opening + fields_text + closing + _put(text, part, ours, newline)


def _ours(text: str) -> list[str]:
    return [match[0] for match in _OURS.finditer(text)]


def _put(text: str, part: str, ours: list[str], newline: str) -> str:
    if not ours:
        gap = newline if not text or text.endswith("\n") else 2 * newline
        return text + gap + part + newline
    first, *copies = _OURS.split(text)
    return first + part + "".join(copies)


def _read_block(block: str, *, first_line: int, where: str) -> dict[str, Any]:
    import yaml

    line, problem = first_line, "it is not a list of `name: value`"
    try:
        found = yaml.safe_load(block)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = mark.index if mark is not None else getattr(error, "position", 0)
        line, problem = (
            first_line + block.count("\n", 0, at),
            str(getattr(error, "problem", None) or "special characters"),
        )
    except (ValueError, RecursionError) as error:  # a date that is none; thousands of brackets
        problem = str(error)
    else:
        if found is None:
            return {}
        if isinstance(found, dict):
            return found
    said = scrub(" ".join(problem.split()))[:120]
    raise HubRefused(
        f"{where}: README.md, line {line}: its YAML block cannot be read ({said}); correct it on the page of the "
        "repository (Edit README.md) and push again"
    )


def _merge(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, written: Mapping[str, str]) -> dict[str, Any]:
    """Their fields, with ours where they have none or have what we wrote last."""
    merged = dict(theirs)
    for key, value in ours.items():
        there = merged.get(key)
        if key == "tags":
            kept = [there] if isinstance(there, str) else list(there or [])
            merged[key] = kept + [tag for tag in value if tag not in kept]
        elif key in _BY_NAME:
            merged[key] = _merge_by_name(there, value)
        elif there is None or written.get(key) == _hash(there):
            merged[key] = value
    return merged


def _merge_by_name(theirs: Any, ours: list[dict[str, Any]]) -> list[Any]:
    entries = [theirs] if isinstance(theirs, dict) else theirs if isinstance(theirs, list) else []
    names = {entry["config_name"] for entry in ours}
    foreign = [e for e in entries if isinstance(e, dict) and e.get("config_name", "default") not in names]
    # datasets refuses two defaults, and one that is called "default" always is one.
    if "default" in names:
        foreign = [{key: value for key, value in e.items() if key != "default"} for e in foreign]
    elif any(e.get("default") or e.get("config_name", "default") == "default" for e in foreign):
        ours = [{key: value for key, value in e.items() if key != "default"} for e in ours]
    return [*ours, *foreign]


def _dump(block: str, theirs: Mapping[str, Any], merged: Mapping[str, Any], newline: str) -> str:
    """YAML of `merged` in which the fields that are as they were keep their spelling, comments and order."""
    import yaml

    lines: list[str] = []
    done = set()
    for key, comments, spelled in _spelled(block):
        if key is not None and (key not in merged or key in done or theirs[key] != merged[key]):
            spelled = "" if key in done or key not in merged else _yaml(key, merged[key], newline)
        done.add(key)
        lines += [part if part.endswith(("\n", "\r")) else part + newline for part in (comments, spelled) if part]
    lines += [_yaml(key, value, newline) for key, value in merged.items() if key not in done]
    text = "".join(lines)
    try:
        if _hash(yaml.safe_load(text)) == _hash(merged):
            return text.removesuffix(newline)
    except (yaml.YAMLError, ValueError, TypeError):
        pass
    # Spelled in a way that does not come apart (one line, anchors): the same values in our spelling.
    return "".join(_yaml(key, value, newline) for key, value in merged.items()).removesuffix(newline)


def _spelled(block: str) -> list[tuple[Any, str, str]]:
    """(name, comments above it, its lines) for each field of a YAML block; the name is None for comments at the end."""
    import yaml

    node = yaml.compose(block, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return []
    lines = list(io.StringIO(block, newline=""))
    offsets = [0, *itertools.accumulate(len(line) for line in lines)]
    starts = [bisect.bisect_right(offsets, key.start_mark.index) - 1 for key, _ in node.value]
    tops = []
    for start in starts:
        top = start
        while top and (lines[top - 1].startswith("#") or not lines[top - 1].strip()):
            top -= 1
        tops.append(top)
    keys = [yaml.safe_load(yaml.serialize(key)) for key, _ in node.value]
    ends = [*tops[1:], len(lines)]
    head = [(None, "".join(lines[: tops[0]]), "")] if tops and tops[0] else []
    fields = zip(keys, tops, starts, ends, strict=True)
    return head + [(key, "".join(lines[top:start]), "".join(lines[start:end])) for key, top, start, end in fields]


def _yaml(key: Any, value: Any, newline: str) -> str:
    from huggingface_hub.repocard_data import CardData

    data = CardData()
    data[key] = value
    return data.to_yaml(line_break=newline) + newline


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _hashes(ours: str) -> dict[str, str]:
    mark = ours.splitlines()[0].rpartition(")")[2]
    return dict(re.findall(r"([\w-]+)=([0-9a-f]{8})(?= )", mark))
