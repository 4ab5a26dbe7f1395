"""Two processes record each row once, the same on both, and what one process records of the same training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributed.launched import TORCHRUN, run

from svp_nlp.models.dynamics import DynamicsRecorder

TESTS = Path(__file__).parents[1]

RANKS = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np, torch
from torch import nn
import test_training
from test_training import SPEC, PlainExamples, StopAt, Toy, seeded, toy_rows, train
from tiny_bert import tiny_bert, token_rows
from svp_nlp.errors import Interrupted
from svp_nlp.models.base import FitContext
from svp_nlp.models.devices import process_state
from svp_nlp.models.dynamics import DynamicsRecorder

out = Path({out!r})
assert process_state().num_processes == 2
rank = process_state().process_index

def close(one, two, what):
    for name, values in one.signals().items():
        other = two.signals()[name]
        assert values.shape == other.shape, (what, name)
        if name == "correct":  # rounding decides where two classes are as likely
            clear = np.abs(two.signals()["logit_margin"]) > 1e-3
            assert clear.mean() > 0.9, what
            values, other = values[clear], other[clear]
        np.testing.assert_allclose(values, other, rtol=1e-3, atol=1e-4, err_msg=what + name)

def same(one, two):
    return all((values == two.signals()[name]).all() for name, values in one.signals().items())

def deterministic(rows, together, **changes):
    with seeded(0):
        model = Toy(norm=False)
    model.dropout = nn.Identity()
    examples, labels_L = toy_rows(rows)
    recorder = DynamicsRecorder()
    spec = SPEC.model_copy(update=dict(changes))
    train(model, PlainExamples(examples.tokens_NT, None), labels_L, positions_L=100 + np.arange(rows), dev=None,
          training=spec, seed=0, context=FitContext(data_parallel=together, dynamics=recorder))
    return recorder

# A last batch of 7 after those of 6; a process without a share; more parts than rows; fewer rows than processes.
for number, options in enumerate([
    dict(rows=37, global_batch_size=6), dict(rows=13, global_batch_size=1),
    dict(rows=5, global_batch_size=4, gradient_accumulation_steps=3), dict(rows=1),
]):
    both = deterministic(together=True, **options)
    close(both, deterministic(together=False, **options), str(options))
    both.save(out / f"case-{{number}}-{{rank}}")

# Batch norm, dropout, augmentation; stopped in the middle of each epoch and gone on.
def noisy(directory=None, **options):
    recorder = DynamicsRecorder()
    test_training.run(context=FitContext(directory, data_parallel=True, dynamics=recorder, **options))
    return recorder

whole = noisy()
for step in (2, 6, 9):
    try:
        noisy(out / f"stopped-{{step}}", stop_requested=StopAt(step) if rank == 1 else lambda: False)
        raise AssertionError("was not stopped")
    except Interrupted:
        pass
    assert same(noisy(out / f"stopped-{{step}}"), whole), step
whole.save(out / f"noisy-{{rank}}")

os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP")
def sharded(together):
    with seeded(0):
        model = tiny_bert()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    examples, labels_L = token_rows(15)
    recorder = DynamicsRecorder()
    train(model, examples, labels_L, positions_L=np.arange(15), dev=None, seed=0,
          training=SPEC.model_copy(update=dict(num_train_epochs=2)),
          context=FitContext(data_parallel=together, dynamics=recorder))
    return recorder

parts = sharded(True)
close(parts, sharded(False), "sharded")
parts.save(out / f"sharded-{{rank}}")
(out / f"done-{{rank}}.json").write_text(json.dumps(whole.epochs))
"""


@pytest.mark.slow
def test_two_ranks_record_every_row_once_and_what_one_rank_records(tmp_path: Path) -> None:
    script = tmp_path / "record.py"
    script.write_text(RANKS.format(tests=str(TESTS), out=str(tmp_path)))
    code, _, err = run([*TORCHRUN, str(script)])
    assert code == 0, err[-5000:]
    for name in ("case-0", "case-1", "case-2", "case-3", "noisy", "sharded"):
        files = sorted(path.name for path in (tmp_path / f"{name}-0").iterdir())
        assert len(files) == 5
        for file in files:
            assert (tmp_path / f"{name}-0" / file).read_bytes() == (tmp_path / f"{name}-1" / file).read_bytes()
    assert DynamicsRecorder.load(tmp_path / "noisy-0").epochs == json.loads((tmp_path / "done-0.json").read_text()) == 3
