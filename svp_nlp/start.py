"""Starting a run on several processes: `svp run RECIPE --accelerate ddp` is `accelerate launch` with a shipped file.

`accelerate launch` ends with 1 whatever its processes ended with. So that exit codes mean the same here as without it,
the main process leaves its code in a file, and processes that ended in good order (waiting, interrupted, a bad recipe)
tell the launcher 0.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from svp_nlp.errors import RecipeError
from svp_nlp.files import shipped_directory
from svp_nlp.ranks import SESSIONS, STOP_FILE
from svp_nlp.recipe_yaml import did_you_mean

_EXIT_FILE = "SVP_EXIT_FILE"
_IN_GOOD_ORDER = (0, 2, 3, 4)
_STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


def shipped_configurations() -> dict[str, Path]:
    """Name -> file of the Accelerate configurations that come with svp_nlp."""
    return {path.stem: path for path in sorted((shipped_directory("recipes") / "accelerate").glob("*.yaml"))}


def find_configuration(name: str) -> Path:
    """The file behind the name of a shipped configuration, or a path.

    Raises:
        RecipeError: neither.
    """
    known = shipped_configurations()
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    hint = did_you_mean(name, known) or f"; expected {', '.join(known)}, or a file that `accelerate config` wrote"
    raise RecipeError(f"--accelerate {name}: no such file, and no shipped configuration of this name{hint}")


def start(name: str | None, *, num_processes: int | None, run_dir: Path, arguments: Sequence[str]) -> int:
    """Run `svp` with these arguments under `accelerate launch`, and wait for it; Ctrl-C and SIGTERM stop all.

    The launcher would kill processes that take more than 30 s to stop, and print a traceback: they are asked through
    their session instead, and it sees them end in good order. A second signal goes to the launcher.

    Args:
        name: see `find_configuration`; None: cpu_2proc, or ddp where there are several GPUs.
        num_processes: None: as the file says; for ddp and fsdp2 as many as there are GPUs.
        run_dir: what the arguments say.
    Returns:
        the exit code of the main process, or that of the launcher where it has left none.
    Raises:
        RecipeError: no such configuration, or too few GPUs for it.
    """
    name = name or ("ddp" if _gpus() > 1 else "cpu_2proc")
    path = find_configuration(name)
    values = _read(path)
    environment = dict(os.environ)
    if values.get("use_cpu"):
        environment["ACCELERATE_USE_CPU"] = "true"  # the launcher of several processes does not pass it on
    elif num_processes is None and name in ("ddp", "fsdp2"):
        num_processes = _gpus()
        if num_processes < 2:
            raise RecipeError(
                f"--accelerate {name} needs two GPUs or more, found {num_processes}; leave it out for one process, or "
                "use --accelerate cpu_2proc"
            )
    if num_processes == 1:
        raise RecipeError("--num-processes 1 needs no launcher: leave --accelerate and --num-processes out")
    more = [] if num_processes is None else ["--num_processes", str(num_processes)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), *more]
    with tempfile.TemporaryDirectory(prefix="svp_nlp-") as directory:
        exit_file = Path(directory) / "exit"
        environment[_EXIT_FILE] = str(exit_file)
        command = [*launcher, "-m", "svp_nlp", *arguments]
        # In a session of its own: Ctrl-C goes to the whole group of a terminal.
        process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 (our own)
        asked = False

        def forward(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            sessions = [] if asked else list((run_dir / SESSIONS).glob("*"))
            for session in sessions:
                (session / STOP_FILE).touch()
            if not sessions:
                process.send_signal(signal.SIGTERM)
            asked = True
            sys.stderr.write("stopping: what is begun is finished first; once more to stop at once\n")

        before = {number: signal.signal(number, forward) for number in _STOPPING}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return int(exit_file.read_text(encoding="utf-8")) if exit_file.exists() else code


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict) or "distributed_type" not in values:
        raise RecipeError(f"--accelerate {path} is no file that `accelerate config` wrote: distributed_type is missing")
    return values


def leave(code: int) -> int:
    """What this process tells whoever started it, having told `start` its code."""
    path = os.environ.get(_EXIT_FILE)
    if path is None:
        return code
    if os.environ.get("RANK", "0") == "0":
        Path(path).write_text(str(code), encoding="utf-8")
    return 0 if code in _IN_GOOD_ORDER else code


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
