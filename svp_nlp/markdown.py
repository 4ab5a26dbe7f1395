"""Markdown of which some parts are facts that anybody may have written: class names, paths, titles of versions.

What is not `Markdown` is escaped where it is put in, so a template cannot forget it.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import Any

from svp_nlp.files import shipped_directory
from svp_nlp.report_format import DASH, clean, count

_LONGEST = 100
_MEANS_SOMETHING = re.compile(r"([\\`*\[\]~|$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_PLAIN = re.compile(r"[A-Za-z0-9 ._/@:=,+()-]+")
# Controls of the writing direction would turn round what stands after them; joiners are part of words and stay.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def one_line(value: Any) -> str:
    """Text in one line of bounded length, without control characters and Hub tokens."""
    text = " ".join(clean(_DIRECTION.sub("", str(value))).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def escape(value: Any) -> Markdown:
    """A value as Markdown that shows it and does nothing else, in a sentence and in a cell of a table.

    None is a dash. Not for the beginning of a line, where `-` and `1.` have a meaning too.
    """
    if isinstance(value, Markdown):
        return value
    if value is None:
        return Markdown(DASH)
    text = one_line(value)
    if not text:
        return Markdown("*(empty)*")
    safe = _MEANS_SOMETHING.sub(r"\\\1", html.escape(text, quote=False))
    safe = safe.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")  # no links of its own
    if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text):
        safe = f"&#8296;{safe}&#8297;"  # isolates: what stands beside it keeps its order
    return Markdown(safe)


def code(value: Any) -> Markdown:
    """A name as code, where it is a plain one; escaped otherwise, because code spans cannot hold all of Markdown."""
    text = DASH if value is None else one_line(value)
    return Markdown(f"`{text}`") if _PLAIN.fullmatch(text) and text == text.strip() else escape(value)


def link(text: Any, address: str) -> Markdown:
    """A link; `address` is made by us, its parts quoted."""
    return Markdown(f"[{escape(text)}]({address})")


def table(header: Sequence[Any], rows: Sequence[Sequence[Any]], align: str) -> Markdown:
    """A table.

    Args:
        align: one letter per column: l or r.
    """
    lines = [header, [{"l": "---", "r": "---:"}[letter] for letter in align], *rows]
    return Markdown("\n".join("| " + " | ".join(map(escape, line)) + " |" for line in lines))


def render(template: str, **values: Any) -> str:
    """Fill a template of hub_cards/; every value that is not Markdown is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(shipped_directory("hub_cards")),
        undefined=StrictUndefined,
        finalize=escape,
        autoescape=False,  # noqa: S701  what Jinja escapes is HTML; `finalize` does Markdown
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": code,
        "count": lambda value: Markdown(count(value)),
        "quoted": lambda value: Markdown(json.dumps(clean(value))),
        "shell": lambda value: Markdown(shlex.quote(one_line(value))),
        "html": lambda value: Markdown(html.escape(one_line(value))),
    }
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(**values)).strip()
