"""The labelling configuration of a Label Studio project: one text, one class for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from svp_nlp.errors import LabelError, LabelStudioRefused
from svp_nlp.labeling.formats.label_studio import CONTROL

_SHOWN = "text"
_HOTKEYS = "123456789"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONGEST = 1_000_000


def new_config(classes: Sequence[str]) -> str:
    """The configuration for these classes; the first nine have the keys 1 to 9, more than nine can be searched.

    Raises:
        LabelError: a class that XML cannot hold, or none at all.
    """
    if not classes:
        raise LabelError(
            "no class is known yet, so there is nothing to choose from in Label Studio; name some in oracle.labels, or "
            "begin with svp label serve"
        )
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", name=_SHOWN, value="$text", valueType="text")
    if len(classes) > len(_HOTKEYS):
        ElementTree.SubElement(view, "Filter", name="svp_search", toName=CONTROL, minlength="0")
    choices = ElementTree.SubElement(view, "Choices", name=CONTROL, toName=_SHOWN, choice="single", required="true")
    _append(choices, classes)
    return _text(view)


def extended(config: str, classes: Sequence[str], where: str) -> str | None:
    """A project's configuration with the classes that it lacks; whatever else is in it stays. None: it lacks none.

    Args:
        where: the project, for the message.
    Raises:
        LabelStudioRefused: it is a configuration for something else.
    """
    view = _parse(config)
    if view is not None and view.find(".//*[@name]") is None:  # as a new project has it
        return new_config(classes)
    choices = None if view is None else view.find(f".//Choices[@name='{CONTROL}']")
    if view is None or choices is None:
        raise LabelStudioRefused(
            f"{where} has a labelling configuration of its own, without <Choices name={CONTROL!r}>; give --project the "
            "title of a new project"
        )
    known = {choice.get("alias") or choice.get("value") for choice in choices.iter("Choice")}
    missing = [name for name in classes if name not in known]
    if not missing:
        return None
    _append(choices, missing)
    return _text(view)


def _append(choices: ElementTree.Element, classes: Sequence[str]) -> None:
    taken = {choice.get("hotkey") for choice in choices.iter("Choice")}
    free = [key for key in _HOTKEYS if key not in taken]
    for name in classes:
        if (found := _NOT_XML.search(name)) is not None:
            raise LabelError(
                f"the class {name!r} holds the character U+{ord(found[0]):04X}, which Label Studio cannot; rename it"
            )
        choice = ElementTree.SubElement(choices, "Choice", value=name)
        if free:
            choice.set("hotkey", free.pop(0))


def _parse(config: str) -> ElementTree.Element | None:
    # A DTD is what makes XML of strangers dangerous, and a labelling configuration has none.
    if "<!DOCTYPE" in config or len(config) > _LONGEST:
        return None
    try:
        return ElementTree.fromstring(config)  # noqa: S314
    except ElementTree.ParseError:
        return None


def _text(view: ElementTree.Element) -> str:
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")
