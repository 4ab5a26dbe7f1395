"""Two processes on a CPU train what one process trains, agree on every bit, and resume exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np, torch
from safetensors.torch import save_file
from torch import nn
from test_training import SPEC, PlainExamples, StopAt, Toy, run, seeded, toy_rows, train, untimed
from svp_nlp.errors import Interrupted
from svp_nlp.models.base import FitContext
from svp_nlp.models.devices import process_state

out, world = Path({out!r}), {world}
assert process_state().num_processes == world
rank = process_state().process_index

def plain():
    with seeded(0):
        model = Toy(norm=False)
    model.dropout = nn.Identity()
    examples, labels_L = toy_rows(37)
    dev, dev_labels_N = toy_rows(41, seed=1)
    # 37 rows in batches of 6 leave a batch of 7; parts and ranks share it unevenly.
    spec = SPEC.model_copy(update=dict(global_batch_size=6, eval_batch_size=8))
    result = train(model, PlainExamples(examples.tokens_NT, None), labels_L, positions_L=np.arange(37),
                   dev=(dev, dev_labels_N), training=spec, seed=0, context=FitContext(data_parallel=True))
    return model, result

model, result = plain()
save_file(dict(model.state_dict()), out / f"plain-{{world}}-{{rank}}.safetensors")
(out / f"plain-{{world}}-{{rank}}.json").write_text(json.dumps(untimed(result)))
if world > 1:
    whole, result = run(context=FitContext(data_parallel=True))  # batch norm, dropout, augmentation
    try:
        # Only one process is asked to stop.
        run(context=FitContext(out / "checkpoints", data_parallel=True, stop_requested=StopAt(3) if rank == 1 else lambda: False))
        stopped = False
    except Interrupted:
        stopped = True
    resumed, again = run(context=FitContext(out / "checkpoints", data_parallel=True))
    (out / f"resume-{{rank}}.json").write_text(json.dumps(
        [stopped, len(list((out / "checkpoints").iterdir())), untimed(again) == untimed(result)]))
    save_file(dict(whole.state_dict()), out / f"whole-{{rank}}.safetensors")
    save_file(dict(resumed.state_dict()), out / f"resumed-{{rank}}.safetensors")
"""


def launch(world: int, out: Path) -> None:
    script = out / "train.py"
    script.write_text(SCRIPT.format(tests=str(TESTS), out=str(out), world=world))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    # `accelerate launch --cpu --num_processes 2` would start one process (accelerate#2741).
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(script)],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_ranks_train_what_one_trains_and_resume_exactly(tmp_path: Path) -> None:
    launch(1, tmp_path)
    launch(2, tmp_path)
    one = load_file(tmp_path / "plain-1-0.safetensors")
    two = [load_file(tmp_path / f"plain-2-{rank}.safetensors") for rank in range(2)]
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        torch.testing.assert_close(two[0][name], value, rtol=1e-3, atol=1e-5)
    reports = [json.loads((tmp_path / f"plain-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")]
    assert reports[1] == reports[2]
    assert reports[1][:3] == reports[0][:3]
    for ours, single in zip(reports[1][3], reports[0][3], strict=True):
        assert abs(ours["loss"] - single["loss"]) < 1e-4
        assert ours["train_accuracy"] == single["train_accuracy"]
        assert ours["dev_accuracy"] == single["dev_accuracy"]

    whole, resumed = ([load_file(tmp_path / f"{what}-{rank}.safetensors") for rank in range(2)]
                      for what in ("whole", "resumed"))  # fmt: skip
    for rank in range(2):
        stopped, checkpoints, same = json.loads((tmp_path / f"resume-{rank}.json").read_text())
        assert stopped
        assert same
        assert checkpoints == 1
        for name, value in whole[0].items():
            assert torch.equal(whole[rank][name], value), name
            assert torch.equal(resumed[rank][name], value), name
