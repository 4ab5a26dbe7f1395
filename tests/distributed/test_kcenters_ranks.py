"""Two processes that hold a half of the rows each pick what one process picks, over torch.distributed."""

from __future__ import annotations

import json
from pathlib import Path

from distributed.launched import finish, start

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from torch import distributed
from svp_nlp.strategies import select
from svp_nlp.strategies.kcenters_ranks import greedy_k_centers_ranks
from svp_nlp.strategies.kcenters_torch import torch_exchange

out, rank, world = Path(sys.argv[1]), int(sys.argv[2]), 2
distributed.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=world)
rng = np.random.default_rng(0)
points = rng.integers(-20, 20, (3000, 5)).astype(np.float32)
labeled = rng.random(3000) < 0.01
keys = rng.permutation(3000).astype(np.uint64)
held = np.flatnonzero(rng.integers(0, world, 3000) == rank)
ranks, positions = greedy_k_centers_ranks(
    points[held], available_N=~labeled[held], labeled_N=labeled[held], budget=150, keys_N=keys[held], seed=4,
    rank=rank, exchange=torch_exchange(),
)
assert set(ranks.tolist()) == {0, 1}
alone = select("greedy_k_centers", {"embeddings": points}, budget=150, seed=4, labeled=labeled, keys=keys).positions_K
mine = ranks == rank
assert held[positions[mine]].tolist() == alone[mine].tolist()
(out / f"{rank}.json").write_text(json.dumps([ranks.tolist(), positions.tolist()]))
distributed.destroy_process_group()
"""


def test_two_processes_pick_what_one_picks(tmp_path: Path) -> None:
    script = tmp_path / "pick.py"
    script.write_text(SCRIPT)
    # Not by torchrun: it would be a third process that loads torch.
    for process in [start([str(script), str(tmp_path), str(rank)]) for rank in range(2)]:
        code, _, errors = finish(process)
        assert code == 0, errors[-3000:]
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one == two and len(one[0]) == 150
