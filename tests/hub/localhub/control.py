"""Handles for tests whose Hub runs in another process; never in the log, never counted, never struck by a fault."""

from __future__ import annotations

from typing import Any

from .faults import Fault
from .routing import Call, route


@route("POST", "/__hub__/faults")
def set_faults(call: Call) -> dict[str, Any]:
    """A JSON list of faults takes the place of those that are left."""
    call.hub.faults = [Fault(**fault) for fault in call.json]
    return {}


@route("GET", "/__hub__/requests")
def get_requests(call: Call) -> list[dict[str, Any]]:
    return call.hub.requests


@route("GET", "/__hub__/saw")
def saw(call: Call) -> list[str]:
    return call.hub.saw(call.request.query_params["text"])


@route("POST", "/__hub__/die_at")
def die_at(call: Call) -> dict[str, Any]:
    """JSON: {"k": 3, "when": "before" or "after"}."""
    call.hub.die_at(**call.json)
    return {}


@route("POST", "/__hub__/revive")
def revive(call: Call) -> dict[str, Any]:
    call.hub.revive()
    return {}


@route("POST", "/__hub__/reset")
def reset(call: Call) -> dict[str, Any]:
    call.hub.reset()
    return {}
