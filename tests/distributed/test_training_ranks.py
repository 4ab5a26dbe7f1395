"""Two processes on a CPU train what one process trains, agree on every bit, and resume exactly; or one trains alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]

COMMON = """
import json, logging, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np, torch
from safetensors.torch import save_file
from torch import nn
from test_training import SPEC, PlainExamples, StopAt, Toy, run, seeded, toy_rows, train, untimed
from tiny_bert import UnusedPooler, tiny_bert, token_rows
from svp_nlp.errors import Interrupted
from svp_nlp.models.base import FitContext
from svp_nlp.models.devices import process_state

out, world = Path({out!r}), {world}
assert process_state().num_processes == world
rank = process_state().process_index
warned = []

class Listener(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())

logging.getLogger("svp_nlp").addHandler(Listener(level=logging.WARNING))

def together(directory=None, **options):
    return FitContext(directory, data_parallel=True, **options)

def train_bert(context, rows=29, make=tiny_bert, dropout=True, freeze=False, **changes):
    # Dropout, attention dropout, accumulation, clipping, batches grouped by length.
    with seeded(0):
        model = make()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    if freeze:
        model.bert.embeddings.requires_grad_(False)
    examples, labels_L = token_rows(rows)
    result = train(model, examples, labels_L, positions_L=np.arange(rows), dev=token_rows(21, seed=1),
                   training=SPEC.model_copy(update=dict(changes)), seed=0, context=context)
    return model, result

def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))

def close(one, two, what):
    for (name, value), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        # A softmax does not see the bias of the keys: its gradient is rounding alone, which Adam makes large.
        if "key.bias" not in name:
            torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4, msg=lambda text: what + name + text)

def keep(name, model, result):
    tensors = {{key: value.clone() for key, value in model.state_dict().items()}}
    save_file(tensors, out / f"{{name}}-{{rank}}.safetensors")
    (out / f"{{name}}-{{rank}}.json").write_text(json.dumps(untimed(result)))

def stop_at(step, directory, **options):
    try:
        train_bert(together(directory, stop_requested=StopAt(step)), **options)
    except Interrupted:
        return
    raise AssertionError("was not stopped")
"""

RANKS = """
def plain():
    with seeded(0):
        model = Toy(norm=False)
    model.dropout = nn.Identity()
    examples, labels_L = toy_rows(37)
    dev, dev_labels_N = toy_rows(41, seed=1)
    # 37 rows in batches of 6 leave a batch of 7; parts and ranks share it unevenly.
    spec = SPEC.model_copy(update=dict(global_batch_size=6, eval_batch_size=8))
    return train(model, PlainExamples(examples.tokens_NT, None), labels_L, positions_L=np.arange(37),
                 dev=(dev, dev_labels_N), training=spec, seed=0, context=together()), model

if world > 1:  # gloo would wait half an hour for a process that is gone
    backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    assert backend.options._timeout.total_seconds() == 600

result, model = plain()
keep(f"plain-{world}", model, result)

# Alone, while the other process is in no call at all: a collective call would wait for ever.
if rank == 0:
    guarded = {name: getattr(torch.distributed, name) for name in
               ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "barrier")}
    def forbidden(*_, **__):
        raise AssertionError("a collective call")
    for name in guarded:
        setattr(torch.distributed, name, forbidden)
    alone = train_bert(FitContext())
    keep(f"alone-{world}", *alone)
    try:
        train_bert(FitContext(out / f"alone-{world}", stop_requested=StopAt(6)))
    except Interrupted:
        pass
    resumed = train_bert(FitContext(out / f"alone-{world}"), checkpoint_every_s=0)
    assert same(alone[0], resumed[0]) and untimed(alone[1]) == untimed(resumed[1])
    for name, function in guarded.items():
        setattr(torch.distributed, name, function)
    (out / f"alone-{world}.done").touch()
while not (out / f"alone-{world}.done").exists():
    time.sleep(0.05)

if world > 1:
    whole, result = run(context=together())  # batch norm, dropout, augmentation
    try:
        # Only one process is asked to stop.
        run(context=together(out / "toy", stop_requested=StopAt(3) if rank == 1 else lambda: False))
        raise AssertionError("was not stopped")
    except Interrupted:
        pass
    assert len(list((out / "toy").iterdir())) == 1
    resumed, again = run(context=together(out / "toy"))
    assert untimed(again) == untimed(result)
    assert same(whole, resumed)
    keep("toy", whole, result)

    # A transformer: every rate once for each optimiser step, whatever the number of processes.
    from svp_nlp.models import training
    rates, make = [], training.make_optimizer
    def recording(*arguments, **options):
        optimizer = make(*arguments, **options)
        optimizer.register_step_post_hook(lambda done, *_: rates.append(done.param_groups[0]["lr"]))
        return optimizer
    training.make_optimizer = recording
    whole, result = train_bert(together())
    training.make_optimizer = make
    keep("bert", whole, result)
    assert rates == [training.learning_rate(SPEC, step=step, steps_per_epoch=4) for step in range(12)], rates

    # Stopped in the middle of an epoch; the newest checkpoint is damaged, the one before is used and that is said.
    stop_at(6, out / "bert", checkpoint_every_s=0)
    torch.distributed.barrier()
    if rank == 0:
        newest = out / "bert" / "step-00000006" / "model.safetensors"
        data = bytearray(newest.read_bytes())
        data[-3] ^= 4
        newest.write_bytes(data)
    torch.distributed.barrier()
    warned.clear()
    resumed, again = train_bert(together(out / "bert"), checkpoint_every_s=0)
    assert same(whole, resumed) and untimed(again) == untimed(result)
    assert len(warned) == 1 and "step-00000006 is damaged" in warned[0], warned

    # A checkpoint of one process is not continued by two, nor the other way round.
    assert (out / "alone-2" / "step-00000011").exists()
    warned.clear()
    restarted, again = train_bert(together(out / "alone-2"), checkpoint_every_s=0)
    assert same(whole, restarted) and untimed(again) == untimed(result)
    assert len(warned) == (rank == 0), warned
    assert rank == 1 or "starts from its beginning, not from step 11: processes 1 -> 2" in warned[0], warned
    torch.distributed.barrier()
    if rank == 0:
        restarted, again = train_bert(FitContext(out / "alone-2"))
        assert same(alone[0], restarted) and untimed(again) == untimed(alone[1])
        assert "processes 2 -> 1" in warned[-1], warned

    # Without dropout two processes train what one trains: unused and frozen parameters, more processes than rows,
    # a last batch that is smaller than the number of processes, more parts than rows.
    for number, options in enumerate([
        dict(make=UnusedPooler), dict(make=UnusedPooler, freeze=True), dict(rows=1), dict(rows=3, global_batch_size=2),
        dict(rows=5, global_batch_size=4, gradient_accumulation_steps=3), dict(rows=13, global_batch_size=1),
        dict(rows=11, global_batch_size=4, gradient_accumulation_steps=2, class_weights="balanced"),
    ]):
        both, result = train_bert(together(), dropout=False, **options)
        one, expected = train_bert(FitContext(), dropout=False, **options)
        keep(f"case-{number}", both, result)
        close(both, one, str(options))
        for ours, single in zip(result.history, expected.history, strict=True):
            assert abs(ours["loss"] - single["loss"]) < 1e-4, options
            assert ours["train_accuracy"] == single["train_accuracy"], options
            assert ours["learning_rate"] == single["learning_rate"], options
"""

SHARDED = """
from torch.distributed.tensor import DTensor

whole, result = train_bert(together(), dropout=False)
keep("sharded", whole, result)
assert not any(isinstance(value, DTensor) for value in whole.state_dict().values())
assert [message for message in warned if "FSDP2 is experimental" in message] == warned and len(warned) == (rank == 0)
one, expected = train_bert(FitContext(), dropout=False)  # alone: nothing is split
close(whole, one, "sharded")
assert [event["train_accuracy"] for event in result.history] == [event["train_accuracy"] for event in expected.history]

whole, result = train_bert(together())
stop_at(6, out / "sharded")
from safetensors.torch import load_file
saved = out / "sharded" / "step-00000006"
shapes = {name: value.shape for name, value in load_file(saved / "model.safetensors").items()}
assert shapes == {name: value.shape for name, value in whole.state_dict().items()}
resumed, again = train_bert(together(out / "sharded"))
assert same(whole, resumed) and untimed(again) == untimed(result)

frozen, _ = train_bert(together(), make=UnusedPooler, freeze=True)
keep("frozen", frozen, result)
train_bert(together(), mixed_precision="bf16")
"""


def launch(world: int, out: Path, script: str, **environment: str) -> None:
    file = out / f"train-{world}.py"
    file.write_text(COMMON.format(tests=str(TESTS), out=str(out), world=world) + script)
    variables = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **environment}
    # `accelerate launch --cpu --num_processes 2` would start one process (accelerate#2741).
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(file)],
        env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    assert "find_unused_parameters=True" not in done.stderr


def weights(out: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(out / f"{name}.safetensors")


def assert_ranks_agree(out: Path, name: str) -> None:
    one, two = (weights(out, f"{name}-{rank}") for rank in range(2))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), (name, key)
    assert (out / f"{name}-0.json").read_bytes() == (out / f"{name}-1.json").read_bytes(), name


@pytest.mark.slow
def test_two_ranks_train_what_one_trains_and_resume_exactly(tmp_path: Path) -> None:
    launch(1, tmp_path, RANKS)
    launch(2, tmp_path, RANKS)
    for name in ("plain-2", "toy", "bert", *(f"case-{number}" for number in range(7))):
        assert_ranks_agree(tmp_path, name)
    for name, value in weights(tmp_path, "plain-1-0").items():
        torch.testing.assert_close(weights(tmp_path, "plain-2-0")[name], value, rtol=1e-3, atol=1e-5)
    reports: list[Any] = [json.loads((tmp_path / f"plain-{name}.json").read_text()) for name in ("1-0", "2-0")]
    assert reports[1][:3] == reports[0][:3]
    for ours, single in zip(reports[1][3], reports[0][3], strict=True):
        assert abs(ours["loss"] - single["loss"]) < 1e-4
        assert ours["train_accuracy"] == single["train_accuracy"]
        assert ours["dev_accuracy"] == single["dev_accuracy"]

    # One process that trains alone among two gives the bits of a launch of one.
    one, among = weights(tmp_path, "alone-1-0"), weights(tmp_path, "alone-2-0")
    for name, value in one.items():
        assert torch.equal(among[name], value), name
    assert (tmp_path / "alone-1-0.json").read_bytes() == (tmp_path / "alone-2-0.json").read_bytes()


@pytest.mark.slow
def test_fsdp2_trains_what_one_process_trains_and_resumes_exactly(tmp_path: Path) -> None:
    launch(
        2, tmp_path, SHARDED, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2",
        FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP", FSDP_CPU_RAM_EFFICIENT_LOADING="true",
    )  # fmt: skip
    assert_ranks_agree(tmp_path, "sharded")
    assert_ranks_agree(tmp_path, "frozen")
