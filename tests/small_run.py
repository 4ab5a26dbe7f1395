"""A run that is small enough to be crashed a hundred times, and what must not change when it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svp_nlp.recipe import Recipe, make_recipe

FASTTEXT = {"kind": "fasttext", "bucket": 1000, "epochs": 3, "learning_rate": 0.5}
VDCNN = {
    "kind": "vdcnn",
    "depth": 9,
    "lite": True,
    "max_length": 64,
    "training": {"num_train_epochs": 1, "global_batch_size": 16, "checkpoint_every_s": 0},
}


def small_recipe(pool: Path, **changes: Any) -> Recipe:
    """fastText picks 20 + 20 of the toy pool, a lite VDCNN-9 learns from them in 3 steps, each with a checkpoint."""
    values: dict[str, Any] = {
        "mode": "active_learning",
        "pool": {"path": str(pool)},
        "test": {},
        "proxy": FASTTEXT,
        "target": VDCNN,
        "strategies": ["margin"],
        "initial": 20,
        "labeled_sizes": [40],
        "baselines": [],
    }
    return make_recipe({**values, **changes})


def outcome(run_dir: Path) -> dict[str, Any]:
    """Fingerprints of all selections and labels, sha256 of all weights, all metrics: everything but times."""
    found: dict[str, Any] = {}
    for path in sorted(run_dir.rglob("step.json")):
        step = json.loads(path.read_text())
        if step["name"].endswith("/selection"):
            found[step["name"]] = step["output"]["fingerprint"]
        elif step["name"].endswith("/model"):
            weights = [v for k, v in step["files"].items() if not k.endswith(".json")]
            found[step["name"]] = [step["output"]["fingerprint"], sorted(weights)]
        elif "/signals-" in step["name"]:
            found[step["name"]] = {k: v for k, v in step["files"].items() if k.endswith(".npy")}
        elif step["name"].endswith("/metrics") or step["name"].endswith("/labels"):
            found[step["name"]] = step["output"]
    return found
