"""A run on all processes of a launch: they find each other, agree on the data, and share one run directory."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from svp_nlp.errors import EngineError, SVPError, told
from svp_nlp.ranks import Ranks, current_launch, new_session, pack_error, unpack_error
from svp_nlp.run import Run, open_run

log = logging.getLogger(__name__)
T = TypeVar("T")


def together(fn: Callable[[], T]) -> T:
    """Call `fn` on all processes and wait for all of them; if one fails, all do.

    Raises:
        SVPError: what `fn` raised on rank 0, or else on the first rank that failed, which is named.
        EngineError: fewer processes have come together than the launcher says.
    """
    launch = current_launch()
    if launch.world_size == 1:
        return fn()
    _meet(launch.world_size)
    value: Any = None
    error: SVPError | None = None
    try:
        value = fn()
    except SVPError as failure:
        error = failure
    packed = _gather(None if error is None else pack_error(error))
    failed = [rank for rank, entry in enumerate(packed) if entry is not None]
    if not failed:
        result: T = value
        return result
    if launch.rank == 0 and error is not None:
        raise error
    if packed[0] is not None:
        raise told(unpack_error(packed[0]))
    first = unpack_error(packed[failed[0]])
    named = type(first)(f"rank {failed[0]}: {first}")
    raise named if launch.rank == 0 else told(named)


@contextlib.contextmanager
def open_run_together(directory: Path, *, stop_requested: Callable[[], bool], **options: Any) -> Iterator[Run]:
    """`run.open_run`, which rank 0 does for all processes of the launch.

    Raises:
        RunRefused: as `open_run`, on every rank.
        EngineError: a rank does not see the directory: it must lie on a disk that all machines share.
    """
    launch = current_launch()
    if launch.world_size == 1:
        with open_run(directory, stop_requested=stop_requested, **options) as run:
            yield run
        return
    with contextlib.ExitStack() as stack:
        session: str | None = None
        if launch.rank == 0:

            def begin() -> None:
                nonlocal session
                stack.enter_context(open_run(directory, stop_requested=stop_requested, **options))
                session = str(new_session(directory).resolve())

            together(begin)
        else:
            together(lambda: None)
        found = Path(_gather(session)[0])
        together(lambda: _check_shared(found, launch.rank))
        ranks = stack.enter_context(Ranks(found, launch, asked=stop_requested))
        log.info("%d processes work together", launch.world_size)
        yield Run(directory, ranks.stop_requested, ranks)


def _check_shared(session: Path, rank: int) -> None:
    if not session.is_dir():
        raise EngineError(
            f"{session} is not there on rank {rank}: --run-dir must lie on a disk that all machines share, under the "
            "same path"
        )


def _meet(world_size: int) -> None:
    """Open the process group, and see that it has all processes: a launcher may start fewer than it was asked for."""
    from accelerate.state import PartialState

    from svp_nlp.models.devices import process_state

    if not PartialState._shared_state:
        log.info("waiting until all %d processes of this launch are there", world_size)
    try:
        found = process_state().num_processes
    except (RuntimeError, ValueError) as error:
        raise EngineError(
            f"{world_size} processes were promised (WORLD_SIZE) and did not come together "
            f"({' '.join(str(error).split())[:200]}); start them with `accelerate launch`, or unset WORLD_SIZE and RANK"
        ) from error
    if found != world_size:
        raise EngineError(
            f"WORLD_SIZE is {world_size}, but {found} processes came together; start them with `svp run RECIPE "
            "--accelerate cpu_2proc`, or with torchrun and ACCELERATE_USE_CPU=true"
        )


def _gather(value: Any) -> list[Any]:
    """One JSON value of each process, by rank."""
    from accelerate.utils import gather_object

    gathered: list[Any] = gather_object([value])
    return gathered


def part(*, failed: bool) -> None:
    """Leave the process group, if one was opened. After a failure the process ends here, with exit code 1.

    Closing a group in good order would wait for processes that are not there any more.
    """
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if failed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    torch.distributed.destroy_process_group()
