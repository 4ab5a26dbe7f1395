"""The table of oracles: where labels come from. Adding one is one module and one row here."""

from __future__ import annotations

from svp_nlp.models.base import Spec
from svp_nlp.oracles.column import ColumnOracleSpec
from svp_nlp.oracles.files import FilesOracleSpec


def oracle_spec_classes() -> dict[str, type[Spec]]:
    """`kind` -> the pydantic model of its options."""
    return {"column": ColumnOracleSpec, "files": FilesOracleSpec}
