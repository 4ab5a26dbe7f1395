"""What the Hub says about the YAML block of a README.md.

Its own rules are wider and not public; these are known ones.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from starlette.responses import JSONResponse, Response

from .routing import Call, route

_LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other"
)
LICENSES = frozenset(_LICENSES.split())
_LANGUAGE = re.compile("[a-z]{2,3}|code|multilingual")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "tags": list,
    "configs": list,
    "model-index": list,
    "dataset_info": (dict, list),
    "pretty_name": str,
}
_BLOCK = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", re.DOTALL)


def card_data(text: str) -> dict[str, Any]:
    """The YAML block of a card; {} where there is none or it is broken."""
    block = _BLOCK.match(text)
    try:
        data = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        data = None
    return data if isinstance(data, dict) else {}


def validate_card(text: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) for a README.md."""
    block = _BLOCK.match(text)
    try:
        data = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["repo card metadata must be a mapping"], []
    errors = [
        f'"{key}" has the wrong type'
        for key, kind in _TYPES.items()
        if data.get(key) is not None and not isinstance(data[key], kind)
    ]
    if not all(isinstance(value, str) and value in LICENSES for value in as_list(data.get("license"))):
        errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')
    if not all(isinstance(value, str) and _LANGUAGE.fullmatch(value) for value in as_list(data.get("language"))):
        errors.append('"language" must be an ISO 639-1, 639-2 or 639-3 code')
    return errors, []


def as_list(value: Any) -> list[Any]:
    """A card's value that may be one or many."""
    return value if isinstance(value, list) else [] if value is None else [value]


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Response:
    errors, warnings = validate_card(call.json["content"])
    if errors and "text/plain" in call.request.headers.get("accept", ""):
        return Response("".join(f"- Error: {message}\n" for message in errors), 400, media_type="text/plain")
    body = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return JSONResponse(body, 400 if errors else 200)
