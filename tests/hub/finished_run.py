"""A finished run that is quick to make, for what is pushed of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_run import small_recipe
from toy import write_toy

from svp_nlp.experiment import run_recipe

SIZES = [40, 60, 80]


def finished_run(folder: Path, **changes: Any) -> Path:
    """Three rounds of margin by fastText over the toy pool, below `folder`; no target unless asked for."""
    pool = write_toy(folder / "pool") if not (folder / "pool").exists() else folder / "pool"
    values = {"labeled_sizes": SIZES, "target": None, "test": None, **changes}
    run_recipe(small_recipe(pool, **values), folder / "run", stop_requested=lambda: False)
    return folder / "run"
