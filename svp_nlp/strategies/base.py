"""What a strategy is, and `select`, which applies one to arrays.

A strategy is a plain function of signals. *Pointwise* ones give each row a score and the highest are picked;
*setwise* ones pick a set. Nothing here knows a model, a modality or a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import BoolN, FloatK, FloatN, IntK, UIntN, first_bad_row
from svp_nlp.errors import BudgetError, SignalError
from svp_nlp.strategies.topk import top_k

KEYS = "keys"  # the one signal that every pool has: a uint64 per row, from its id
# What a training tells of each labelled row, epoch by epoch, as [N, E]; models/dynamics.py records it.
DYNAMICS = ("correct", "logit_margin", "gold_probability", "error_norm")


@dataclass(frozen=True)
class Strategy:
    """A strategy function with what it needs; call it like the function that it wraps."""

    name: str
    kind: Literal["pointwise", "setwise"]
    signals: tuple[str, ...]
    seeded: bool
    source: str
    function: Callable[..., Any]
    uses_labeled: bool = False  # a setwise one that wants the signals of labelled rows as well
    over_ranks: Callable[..., Any] | None = None  # the same picks, each process with a part of the rows

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def uses_dynamics(self) -> bool:
        """True when it looks at how a training went, and so at labelled rows only: for core-set selection."""
        return bool(set(self.signals) & set(DYNAMICS))

    @property
    def needs_model(self) -> bool:
        """False when no proxy has to be trained or scored for it (random)."""
        return self.signals != (KEYS,)

    def arrays(self, signals: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The signals that the function takes, in its order.

        Raises:
            SignalError: one is absent.
        """
        missing = [name for name in self.signals if name not in signals]
        if missing:
            raise SignalError(
                f"{self.name} needs the signal{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"found {', '.join(sorted(signals)) or 'none'}"
            )
        return [signals[name] for name in self.signals]

    def scores(self, signals: Mapping[str, npt.NDArray[Any]], *, seed: int) -> FloatN:
        """Scores of a pointwise strategy for whatever rows the signals cover.

        Raises:
            SignalError: a needed signal is absent.
        """
        assert self.kind == "pointwise"
        arrays = self.arrays(signals)
        scores_N: FloatN = self.function(*arrays, seed=seed) if self.seeded else self.function(*arrays)
        return scores_N


def pointwise(*signals: str, source: str, seeded: bool = False) -> Callable[[Callable[..., Any]], Strategy]:
    """Declare a function of per-row signals that returns one score per row; higher is picked first.

    Args:
        signals: names of the signals, in the order of the function's arguments.
        source: paper, and what differs from it.
        seeded: the function takes `seed=` as well.
    """

    def wrap(function: Callable[..., Any]) -> Strategy:
        return Strategy(function.__name__, "pointwise", signals, seeded, source, function)

    return wrap


def setwise(
    *signals: str, source: str, uses_labeled: bool = False, over_ranks: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Strategy]:
    """Declare a function that picks a set, in the order of picking.

    It is called as `f(*signals, available_N=, labeled_N=, budget=, keys_N=, seed=) -> positions_K`. The masks exclude
    each other, and `budget` is at most the number of available rows. Rows that are neither (blank, duplicate) are to
    be left out of everything. What it picks must follow the rows when these are re-ordered: ties are broken by the
    keyed hash, never by position.

    Args:
        signals: names of the signals, in the order of the function's arguments.
        source: paper, and what differs from it.
        uses_labeled: it looks at labelled rows; where False, their signals may be missing from the arrays.
        over_ranks: finds the same picks where each process of a launch has a part of the rows: called with `rank=` and
            `exchange=` besides, it returns ranks and positions there.
    """

    def wrap(function: Callable[..., Any]) -> Strategy:
        return Strategy(function.__name__, "setwise", signals, True, source, function, uses_labeled, over_ranks)

    return wrap


@dataclass(frozen=True)
class Picks:
    """What `select` returns: absolute positions, best first, and their scores (None for setwise strategies)."""

    positions_K: IntK
    scores_K: FloatK | None
    strategy: str

    def __len__(self) -> int:
        return len(self.positions_K)


def select(
    strategy: str | Strategy,
    signals: Mapping[str, npt.ArrayLike],
    *,
    budget: int,
    seed: int = 0,
    available: npt.ArrayLike | None = None,
    labeled: npt.ArrayLike | None = None,
    keys: npt.ArrayLike | None = None,
) -> Picks:
    """Pick `budget` rows from plain arrays.

    Args:
        strategy: a name from `STRATEGIES`, or one of its values.
        signals: name -> array whose first axis is the pool rows; all of one length.
        budget: how many rows to pick.
        seed: breaks ties and drives random strategies.
        available: bool [N], rows that may be picked; by default all that are not labelled.
        labeled: bool [N], rows that are labelled already, which setwise strategies may look at; none by default.
        keys: uint64 [N], one per row, from its id; row positions by default. With keys from ids the picks follow
            the rows when these are re-ordered.
    Returns:
        Picks, highest score first, equal scores in the order of the keyed hash.
    Raises:
        BudgetError: the budget is larger than the number of available rows; names both.
        SignalError: a signal is missing, has another length, or holds NaN; names the first position; or a row is both
            available and labelled.
        RecipeError: no strategy has this name (the message suggests the nearest).
    """
    if isinstance(strategy, str):
        from svp_nlp.strategies import get_strategy

        strategy = get_strategy(strategy)
    arrays = {name: np.asarray(value) for name, value in signals.items()}
    lengths = {name: len(value) for name, value in arrays.items()}
    if keys is not None:
        lengths[KEYS] = len(np.asarray(keys))
    masks = {"available": available, "labeled": labeled}
    lengths |= {name: len(np.asarray(mask)) for name, mask in masks.items() if mask is not None}
    if len(set(lengths.values())) != 1:
        raise SignalError(f"signals must cover the same rows; found lengths {lengths or 'of no signal'}")
    num_rows = next(iter(lengths.values()))
    keys_N: UIntN = np.arange(num_rows, dtype=np.uint64) if keys is None else np.asarray(keys, dtype=np.uint64)
    given = {name: None if mask is None else _mask(mask, name, num_rows) for name, mask in masks.items()}
    available_N, labeled_N = given["available"], given["labeled"]
    if labeled_N is not None:
        available_N = ~labeled_N if available_N is None else available_N
        if (both_N := available_N & labeled_N).any():
            raise SignalError(f"position {first_bad_row(both_N)} is available and labelled; a row is one of them")
    arrays.setdefault(KEYS, keys_N)
    if strategy.kind == "pointwise":
        scores_N = strategy.scores(arrays, seed=seed)
        positions_K = top_k(
            scores_N, keys_N, budget=budget, seed=seed, available_N=available_N, name=f"{strategy.name} scores"
        )
        return Picks(positions_K, np.asarray(scores_N[positions_K], dtype=np.float32), strategy.name)
    num_available = num_rows if available_N is None else int(np.count_nonzero(available_N))
    if not 0 <= budget <= num_available:
        raise BudgetError(f"a budget of {budget:,} was asked for, {num_available:,} of {num_rows:,} rows are available")
    picked_K = strategy.function(
        *strategy.arrays(arrays),
        available_N=np.ones(num_rows, dtype=np.bool_) if available_N is None else available_N,
        labeled_N=np.zeros(num_rows, dtype=np.bool_) if labeled_N is None else labeled_N,
        budget=budget,
        keys_N=keys_N,
        seed=seed,
    )
    positions_K = np.asarray(picked_K, dtype=np.int64)
    assert len(np.unique(positions_K)) == len(positions_K) == budget, f"{strategy.name} broke its budget"
    return Picks(positions_K, None, strategy.name)


def _mask(mask: npt.ArrayLike, name: str, num_rows: int) -> BoolN:
    mask_N = np.asarray(mask)
    if mask_N.dtype != np.bool_:
        raise SignalError(f"{name}: expected bool [{num_rows}], found {mask_N.dtype}")
    return mask_N
