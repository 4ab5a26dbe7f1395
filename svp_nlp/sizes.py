"""Sizes in a recipe: a number of rows (1200), or a share of the usable rows of the pool ("10%")."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from svp_nlp.errors import BudgetError

INITIAL = "initial"  # in train_target_at: the size of the start set
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")


def wrong(message: str) -> PydanticCustomError:
    """A validation error with this message; a placeholder's value, because braces in a template are placeholders."""
    return PydanticCustomError("recipe", "{message}", {"message": message})


def _size(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise wrong(f"{value} rows; expected at least 1")
        return value
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise wrong(f"found {value!r}; expected a number of rows such as 1200, or a share of the pool such as 10%")
    if not 0 < Fraction(match[1]) <= 100:
        raise wrong(f"{value} of the pool; expected more than 0% and at most 100%")
    # One way to write each share, so that train_target_at and labeled_sizes can be compared as texts.
    whole, _, decimals = match[1].partition(".")
    decimals = decimals.rstrip("0")
    return f"{int(whole)}.{decimals}%" if decimals else f"{int(whole)}%"


def _target_size(value: Any) -> int | str:
    return INITIAL if value == INITIAL else _size(value)


Size: TypeAlias = Annotated[int | str, BeforeValidator(_size)]
TargetSize: TypeAlias = Annotated[int | str, BeforeValidator(_target_size)]


def amount(size: int | str) -> Fraction:
    """The number in a size, exactly: rows or percent."""
    return Fraction(size) if isinstance(size, int) else Fraction(size.rstrip("%"))


def resolve_size(size: int | str, num_usable: int, what: str) -> int:
    """Number of rows, in [1, num_usable]; halves are rounded up. Exact: in floats 0.07 * 100 is above 7.

    Raises:
        BudgetError: more rows than there are, or none after rounding; `what` names the key.
    """
    rows = size if isinstance(size, int) else math.floor(amount(size) / 100 * num_usable + Fraction(1, 2))
    if rows > num_usable:
        raise BudgetError(f"{what} asks for {rows:,} rows, the pool has {num_usable:,} usable ones; lower it")
    if rows < 1:
        raise BudgetError(f"{what} ({size}) of {num_usable:,} usable rows is no row; raise it")
    return rows
