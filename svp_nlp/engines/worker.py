"""What runs in a worker process: it opens a task once, then scores the shards that it is given, one at a time.

The parent and its worker speak through one socket pair; each message is a tuple (kind, value):

    worker -> parent   ("ready", None)  ("done", seconds)  ("log", (level, text))  ("error", exception)
    parent -> worker   a ScoreTask first, then a Shard for each "ready" and "done"
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from svp_nlp import errors
from svp_nlp.errors import EngineError
from svp_nlp.pool import Shard
from svp_nlp.scoring import ScoreTask, open_task

Say = Callable[[str, Any], None]


def main(descriptor: int) -> None:
    """Work for the parent process that holds the other end of this socket, until it closes it."""
    os.set_inheritable(descriptor, False)
    # The parent decides when to stop: Ctrl-C and a supervisor's SIGTERM reach its whole group.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    connection: Connection[Any, Any] = Connection(descriptor)
    lock = threading.Lock()

    def say(kind: str, value: Any) -> None:
        with lock:
            connection.send((kind, value))

    task: ScoreTask = connection.recv()
    orders: queue.SimpleQueue[Shard] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    _forward_warnings(say)
    shard = None
    try:
        opened = open_task(task)
        say("ready", None)
        while True:
            shard = orders.get()
            say("done", opened.score(shard))
    except Exception as error:
        say("log", (logging.DEBUG, traceback.format_exc()))
        say("error", portable(error, shard))


def _listen(connection: Connection[Any, Any], orders: queue.SimpleQueue[Shard]) -> None:
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        # The parent is gone or wants no more: at once, so that nobody writes into a run that another process took over.
        os._exit(0)


def _forward_warnings(say: Say) -> None:
    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say("log", (record.levelno, record.getMessage()))

    logging.getLogger().addHandler(Forward(logging.WARNING))

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        say("log", (logging.WARNING, f"{category.__name__}: {message}"))

    warnings.showwarning = show


def portable(error: Exception, shard: Shard | None) -> Exception:
    """The error as another process can raise it: ours and the system's as they are, others as an EngineError."""
    if type(error).__module__ in (errors.__name__, "builtins") and isinstance(error, errors.SVPError | OSError):
        return error
    doing = "opening the pool and the model" if shard is None else rows_of(shard)
    text = " ".join(str(error).split())
    return EngineError(f"a worker failed at {doing}: {type(error).__name__}: {text}; --verbose shows where")


def rows_of(shard: Shard) -> str:
    """A shard as people read it."""
    return f"rows {shard.start:,} to {shard.stop:,}"
