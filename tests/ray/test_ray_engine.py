"""The cases of tests/contracts/test_engines.py with Ray Data: started here, and attached to a cluster that stays.

Not in `make test`: starting Ray takes seconds each time. `make test-ray` runs them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from engine_cases import KINDS, NEVER, made_once, outcome, stored

from svp_nlp.engines import LocalEngine, make_engine
from svp_nlp.engines import ray as ray_engine
from svp_nlp.engines.ray import RayEngine, RayEngineSpec
from svp_nlp.errors import EngineError, Interrupted, ModelError, RecipeError

pytest.importorskip("ray", reason="needs pip install 'svp_nlp[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning"
    ),  # sockets and log files of Ray's, closed when it is collected
]
CLUSTER = """
import os, ray, sys
context = ray.init(address="local", num_cpus=3, object_store_memory=100 * 2**20, include_dashboard=False,
    log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


class Deadly(ray_engine.Actor):
    """One shard kills it."""

    def _score(self, shard):
        return os._exit(1) if shard.index == 3 else super()._score(shard)


class Held(ray_engine.Actor):
    """After two shards it waits for what the test does: on a quiet machine all are scored between two looks."""

    def _score(self, shard):
        directory = self._task.store_dir
        while len(list(directory.rglob("shard-*.part"))) >= 2 and not self._stop_requested():
            if (directory.parent / "released").exists():
                break
            time.sleep(0.01)
        return super()._score(shard)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return made_once(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster with room for two workers that somebody else has started."""
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        address = owner.stdout.readline().strip()
        assert re.fullmatch(r"[\d.]+:\d+", address)
        yield address
        assert owner.poll() is None, "the cluster was shut down by somebody who had only attached to it"
        owner.stdin.close()


@pytest.fixture
def engine(cluster) -> RayEngine:
    return make_engine(RayEngineSpec(workers=2, address=cluster))


@pytest.fixture
def held(monkeypatch):
    """Actors that wait after two shards."""
    import ray

    module = sys.modules[__name__]
    monkeypatch.setattr(ray_engine, "Actor", Held)
    ray.cloudpickle.register_pickle_by_value(module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(module)


def test_started_here_it_gives_the_selection_of_one_process_and_is_gone_afterwards(cases, tmp_path):
    import ray

    case, engine = cases("fasttext"), RayEngine(RayEngineSpec(workers=2))
    before = signal.getsignal(signal.SIGTERM)
    engine.check()
    assert not ray.is_initialized()
    assert outcome(case, case.unscored(tmp_path / "run"), engine) == case.expected
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("kind", KINDS)
def test_two_actors_of_a_cluster_give_the_selection_and_the_scores_of_one_process(cases, tmp_path, kind, engine):
    case = cases(kind)
    assert case.expected["tied"] > 5
    engine.check()
    assert engine.workers == 2
    assert outcome(case, case.unscored(tmp_path / "run"), engine) == case.expected


def pids_of_actors() -> list[int]:
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "ray::MapWorker" in line]


@pytest.mark.usefixtures("held")
def test_kill_9_of_an_actor_costs_only_what_it_was_given(cases, tmp_path, engine):
    case, run_dir = cases("fasttext"), cases("fasttext").unscored(tmp_path / "run")
    killed = []

    def kill_one() -> bool:
        if stored(run_dir) >= 1 and not killed:
            killed.extend(pids_of_actors()[:1])
            os.kill(killed[0], signal.SIGKILL)
            (next(run_dir.rglob("shard-*.part")).parents[2] / "released").touch()
        return False

    assert outcome(case, run_dir, engine, stop_requested=kill_one) == case.expected
    assert killed
    assert not list(run_dir.rglob(".tmp-*"))


@pytest.mark.usefixtures("held")
def test_asked_to_stop_it_stops_and_another_engine_goes_on(cases, tmp_path, engine):
    case, run_dir = cases("fasttext"), cases("fasttext").unscored(tmp_path / "run")
    with pytest.raises(Interrupted):
        outcome(case, run_dir, engine, stop_requested=lambda: stored(run_dir) >= 2)
    assert 2 <= stored(run_dir) < 8
    assert outcome(case, run_dir, LocalEngine()) == case.expected


def test_an_error_in_an_actor_is_raised_here_and_a_deadly_shard_is_named(cases, tmp_path, monkeypatch, engine):
    import ray

    task = cases("fasttext").task(tmp_path / "signals")
    shards = task.shards()
    engine.map_shards(task, [], stop_requested=NEVER)
    (tmp_path / "damaged").mkdir()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        engine.map_shards(dataclasses.replace(task, predictor_dir=tmp_path / "damaged"), shards, stop_requested=NEVER)
    with pytest.raises(EngineError, match=rf"a worker on {socket.gethostname()} does not see .*/nowhere; put the run"):
        engine.map_shards(dataclasses.replace(task, predictor_dir=tmp_path / "nowhere"), shards, stop_requested=NEVER)
    monkeypatch.setattr(ray_engine, "Actor", Deadly)
    with pytest.raises(EngineError, match=r"a worker has no module 'test_ray_engine'; install svp_nlp\[ray\], in the"):
        engine.map_shards(task, shards[2:5], stop_requested=NEVER)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.raises(EngineError, match=r"3 workers died over rows 84 to 112 \(out of memory\?\); look at the texts"):
        engine.map_shards(task, shards[2:5], stop_requested=NEVER)


def test_an_actor_is_no_rank_of_the_launch_that_started_its_parent(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    for name in ("SVP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):  # which it sets; put back afterwards
        monkeypatch.setenv(name, "1")
    ray_engine.Actor(None, 1.0, 0.0)
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} & {*os.environ}


def test_started_here_without_a_number_there_are_as_many_workers_as_processors(monkeypatch):
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0})  # 3 processors and one CPU for the bookkeeping
    monkeypatch.setattr(ray_engine, "processors", lambda: 3)
    assert RayEngine(RayEngineSpec())._room(ray, started_here=True) == 3
    assert RayEngine(RayEngineSpec(workers=2))._room(ray, started_here=True) == 2
    assert RayEngine(RayEngineSpec())._room(ray, started_here=False) == 4


def test_what_cannot_work_is_said_before_any_work(cluster, monkeypatch):
    with pytest.raises(RecipeError, match=r"one worker wants 1 CPUs and 1 GPUs, the cluster has 3 CPUs and 0 GPUs"):
        RayEngine(RayEngineSpec(gpus_per_worker=1, address=cluster)).check()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: nobody answers
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RecipeError, match=rf"no Ray cluster answers at {address} .*ray start --head"):
            RayEngine(RayEngineSpec(address=address)).check()
    with pytest.raises(RecipeError, match=r"address is 'ray://head:10001'; expected auto or host:port"):
        RayEngine(RayEngineSpec(address="ray://head:10001")).check()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"pip install 'svp_nlp\[ray\]'"):
        RayEngine(RayEngineSpec()).check()
