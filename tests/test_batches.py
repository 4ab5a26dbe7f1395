"""What a training is fed: every row once, no batch of a single row, a rate for every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.models.base import ScheduleStage, TrainingSpec
from svp_nlp.models.batches import (
    count_batches,
    epoch_batches,
    learning_rate,
    planned_epochs,
    split_batch,
    warmup_steps,
)
from svp_nlp.models.heads import HeadTrainingSpec


@given(
    num_rows=st.integers(1, 200), batch_size=st.integers(1, 40), seed=st.integers(-5, 2**70), epoch=st.integers(0, 3),
    grouped=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_an_epoch_has_every_row_once_in_full_batches(
    num_rows: int, batch_size: int, seed: int, epoch: int, grouped: bool
) -> None:
    lengths_N = np.random.default_rng(0).integers(1, 1000, size=num_rows) if grouped else None
    options: dict[str, Any] = {"seed": seed, "epoch": epoch, "batch_size": batch_size, "lengths_N": lengths_N}
    batches = epoch_batches(num_rows, **options)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(num_rows))
    assert sum(len(rows_B) != batch_size for rows_B in batches) <= 1
    assert all(len(rows_B) <= batch_size + 1 for rows_B in batches)
    assert min(map(len, batches)) > 1 or num_rows == 1 or batch_size == 1
    for rows_B, again_B in zip(batches, epoch_batches(num_rows, **options), strict=True):
        assert np.array_equal(rows_B, again_B)


def test_epochs_and_seeds_have_orders_of_their_own_and_groups_save_padding() -> None:
    lengths_N = np.random.default_rng(0).integers(1, 1000, size=6400)
    orders = {
        (seed, epoch): np.concatenate(epoch_batches(6400, seed=seed, epoch=epoch, batch_size=32))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len({order.tobytes() for order in orders.values()}) == 9
    for order in orders.values():  # no trace of the row number
        assert abs(np.corrcoef(order, np.arange(6400))[0, 1]) < 0.05

    def padded(grouped: np.ndarray | None) -> int:
        batches = epoch_batches(6400, seed=0, epoch=0, batch_size=32, lengths_N=grouped)
        return sum(len(rows_B) * int(lengths_N[rows_B].max()) for rows_B in batches)

    assert padded(lengths_N) < 1.05 * lengths_N.sum()
    assert padded(None) > 1.8 * lengths_N.sum()
    widths = [int(lengths_N[rows_B].max()) for rows_B in epoch_batches(
        6400, seed=0, epoch=0, batch_size=32, lengths_N=lengths_N)]  # fmt: skip
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.25  # short and long batches are mixed


@given(num_rows=st.integers(1, 200), batch_size=st.integers(1, 60), least=st.none() | st.integers(1, 500))
@settings(deadline=None)
def test_epochs_are_added_until_there_are_enough_steps_and_no_longer(
    num_rows: int, batch_size: int, least: int | None
) -> None:
    spec = TrainingSpec(num_train_epochs=3, min_train_steps=least, warmup_ratio=0.1)
    steps = count_batches(num_rows, batch_size)
    assert steps == len(epoch_batches(num_rows, seed=0, epoch=0, batch_size=batch_size))
    epochs = planned_epochs(spec, steps)
    assert epochs == 3 or (epochs > 3 and least is not None and (epochs - 1) * steps < least)
    assert epochs * steps >= (least or 0)
    rates = [learning_rate(spec, step=step, steps_per_epoch=steps) for step in (0, epochs * steps - 1)]
    assert min(rates) > 0
    assert warmup_steps(spec, epochs * steps) <= 0.1 * epochs * steps


@given(rows=st.integers(1, 60), parts=st.integers(1, 9), num_processes=st.integers(1, 8))
@settings(deadline=None, max_examples=200)
def test_shares_and_parts_cover_a_batch_without_single_rows(rows: int, parts: int, num_processes: int) -> None:
    rows_B = np.arange(rows)
    shares = [split_batch(rows_B, parts=parts, rank=rank, num_processes=num_processes) for rank in range(num_processes)]
    counted = [part_K for pieces, counts in shares if counts for part_K in pieces]
    assert np.array_equal(np.concatenate(counted), rows_B)
    assert len({len(pieces) for pieces, _ in shares}) == 1  # all processes take part in every backward pass
    assert rows == 1 or min(len(part_K) for pieces, _ in shares for part_K in pieces) > 1


@given(
    epochs=st.integers(1, 5), steps=st.integers(1, 30), warmup=st.floats(0, 0.99),
    scheduler=st.sampled_from(["constant", "linear", "cosine"]),
)  # fmt: skip
@settings(deadline=None)
def test_learning_rate_rises_to_its_peak_and_never_wastes_a_step(
    epochs: int, steps: int, warmup: float, scheduler: Any
) -> None:
    spec = TrainingSpec(num_train_epochs=epochs, learning_rate=0.5, lr_scheduler=scheduler, warmup_ratio=warmup)
    rates = [learning_rate(spec, step=step, steps_per_epoch=steps) for step in range(epochs * steps)]
    peak = int(np.argmax(rates))
    assert rates[peak] == 0.5
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_schedule_has_no_more_epochs_than_its_stages_whatever_the_default_number_of_steps() -> None:
    spec = HeadTrainingSpec(schedule=(ScheduleStage(epochs=2, learning_rate=0.1),))
    assert spec.min_train_steps is not None
    assert planned_epochs(spec, 1) == 2
    assert learning_rate(spec, step=1, steps_per_epoch=1) == 0.1


def test_learning_rate_of_stages_follows_the_epochs() -> None:
    spec = TrainingSpec(
        schedule=(ScheduleStage(epochs=2, learning_rate=0.1), ScheduleStage(epochs=1, learning_rate=0.01))
    )
    assert [learning_rate(spec, step=step, steps_per_epoch=2) for step in range(6)] == [0.1] * 4 + [0.01] * 2
