"""Who scores which shard. Adding an engine is one module with the same `map_shards`."""

from svp_nlp.engines.base import Engine
from svp_nlp.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine"]
