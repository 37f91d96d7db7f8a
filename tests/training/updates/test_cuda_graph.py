"""Updates made by replaying what was recorded once: on a CPU by calling it again, on a GPU by CUDA graphs."""

import contextlib
import json

import pytest
import torch
from helpers.members import ALL, CASES, STACKABLE, STEPS, differing, looped, members, states
from helpers.settings import TINY, Stopping, without_timings
from torch.utils._python_dispatch import TorchDispatchMode

import offline_rl as orl
from offline_rl.agent import find_algorithm
from offline_rl.errors import AgentError, Interrupted
from offline_rl.neighbors import search as nearest
from offline_rl.training.loop import make_updates
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan, split_settings
from offline_rl.training.run import carry_out
from offline_rl.training.trainer import Stop
from offline_rl.training.updates.cuda_graph import CapturedUpdates
from offline_rl.training.updates.sampler import Prefetcher
from offline_rl.training.workers import WorkerPool


def replayed(name, more, device="cpu", stacked=None, **options):
    """Train to the end by replays, in pieces."""
    trained = members(name, more, device, **options)
    updates = CapturedUpdates(trained, stacked=stacked)
    for first, last in ((1, 13), (14, 14), (15, STEPS)):
        updates.run(first, last)
    updates.settle()
    return states(trained)


@ALL
def test_replayed_updates_are_those_of_the_loop(name, more):
    """A replay knows the step it was recorded at, not its own; broken by a wrong ``cycle`` or ``repeats``."""
    for ours, theirs in zip(replayed(name, more, stacked=False), looped(name, more), strict=True):
        assert differing(ours, theirs) == []


@pytest.mark.parametrize(("name", "more"), STACKABLE)
def test_stacked_members_are_those_trained_alone(name, more, monkeypatch):
    """In float64, where a few updates leave no room for drift; broken by members that see each other's weights."""
    # PRDC's search as on a GPU: that of a CPU is the host's, and cannot be mapped.
    monkeypatch.setattr(nearest, "HostSearch", lambda columns, beta, *_: nearest.ProductSearch(columns, beta, tile=50))
    options = {"dtype": torch.float64, "seeds": (0, 1, 2)}
    for ours, theirs in zip(replayed(name, more, **options), looped(name, more, **options), strict=True):
        assert differing(ours, theirs, rtol=1e-7, atol=1e-9) == []


def moved(name, more, settings):
    """For three members, other values of some settings, those that have no meaning left out."""
    (member,) = members(name, more, seeds=(0,))
    values = {setting: member.agent.config.settings()[setting] for setting in settings}
    meant = []
    for setting, value in values.items():
        with contextlib.suppress(AgentError):
            members(name, {**more, setting: value / 2 or 0.3}, seeds=(0,))
            meant.append(setting)
    return [{setting: values[setting] * share or share / 9 for setting in meant} for share in (0.6, 0.9, 1)]


@pytest.mark.parametrize(("name", "more"), STACKABLE)
def test_stacked_members_keep_their_own_settings(name, more, monkeypatch):
    """All that may differ differs; broken by one setting that an algorithm reads elsewhere than in its update."""
    monkeypatch.setattr(nearest, "HostSearch", lambda columns, beta, *_: nearest.ProductSearch(columns, beta, tile=50))
    each = moved(name, more, find_algorithm(name, more).stackable_settings)
    options = {"dtype": torch.float64, "seeds": (0, 1, 2), "each": each}
    for ours, theirs in zip(replayed(name, more, stacked=True, **options), looped(name, more, **options), strict=True):
        assert differing(ours, theirs, rtol=1e-7, atol=1e-9) == []


@pytest.mark.parametrize(
    ("name", "setting"), [("bc", "top_fraction"), ("prdc", "beta"), ("dt", "weight_decay"), ("parl", "anchor_weight")]
)
def test_members_that_cannot_be_stacked_keep_their_own_settings(name, setting):
    each = [{setting: value} for value in (0.2, 0.7)]
    for ours, theirs in zip(replayed(name, {}, each=each), looped(name, {}, each=each), strict=True):
        assert differing(ours, theirs) == []


class Watch(TorchDispatchMode):
    """Notes operations that wait for a device, or bring it numbers from the host."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "is_nonzero", "unique")

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(word in str(function) for word in self.FORBIDDEN):
            self.found.add(str(function))
        if str(function).startswith("aten.index.Tensor") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        ):
            self.found.add("indexing by a mask")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "more"), [case for case in CASES if case[0] != "prdc"])
def test_an_update_never_waits(name, more):
    """Broken by reading a number, a branch on data, a mask as an index, or a tensor made from a number.

    PRDC's search is the host's on a CPU; on a GPU a graph could not be made of it if it waited.
    """
    (member,) = members(name, more, seeds=(0,))
    CapturedUpdates([member]).run(1, 8)
    feed = Prefetcher([member.sampler], member.agent.device, member.agent.dtype)
    feed.ready(9)  # what follows lies in one block
    with Watch() as watch:
        for step in range(9, 9 + 2 * member.agent.cycle):
            if member.agent.repeats(step):
                feed.ready(step)
                member.agent.update(feed.batch(), step)
    assert watch.found == set()


@pytest.mark.gpu
@ALL
def test_graphs_on_a_gpu_agree_with_the_loop(name, more):
    """Members that are branches of one graph are the same as alone, bit for bit."""
    both = replayed(name, more, "cuda", stacked=False)
    for ours, theirs in zip(both, looped(name, more, "cuda"), strict=True):
        assert differing(ours, theirs, rtol=1e-3, atol=1e-4) == []
    (alone,) = replayed(name, more, "cuda", stacked=False, seeds=(1,))
    assert differing(alone, both[1]) == []


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "more"), STACKABLE)
def test_stacked_graphs_on_a_gpu_agree_with_the_loop(name, more):
    """In float64, as on a CPU."""
    options = {"dtype": torch.float64, "seeds": (0, 1, 2)}
    both = replayed(name, more, "cuda", **options)
    for ours, theirs in zip(both, looped(name, more, "cuda", **options), strict=True):
        assert differing(ours, theirs, rtol=1e-6, atol=1e-8) == []


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "more"), STACKABLE)
def test_stacked_graphs_on_a_gpu_keep_their_own_settings(name, more):
    """In float64, as on a CPU."""
    each = moved(name, more, find_algorithm(name, more).stackable_settings)
    options = {"dtype": torch.float64, "seeds": (0, 1, 2), "each": each}
    both = replayed(name, more, "cuda", stacked=True, **options)
    for ours, theirs in zip(both, looped(name, more, "cuda", **options), strict=True):
        assert differing(ours, theirs, rtol=1e-6, atol=1e-8) == []


@pytest.mark.gpu
@ALL
def test_a_gpu_agrees_with_a_cpu(name, more):
    """In float64, where a few updates leave no room for drift."""
    for ours, theirs in zip(
        looped(name, more, "cuda", dtype=torch.float64), looped(name, more, dtype=torch.float64), strict=True
    ):
        assert differing(ours, theirs, rtol=1e-6, atol=1e-8) == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["td3_bc", "dt"])
def test_two_replays_of_a_graph_differ(name):
    """Broken by batches, noise or dropout masks that a graph would hold fast."""
    (member,) = members(name, {}, "cuda", seeds=(0,))
    updates = CapturedUpdates([member])
    updates.run(1, 8)
    losses = set()
    for step in range(9, 25):
        before = {key: value.clone() for key, value in member.agent.training_state().items()}
        updates.run(step, step)
        losses.add(member.metrics()["critic_loss" if name == "td3_bc" else "model_loss"])
        member.agent.load_training_state(before)
    assert len(losses) >= 10


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "cudagraph"])
@pytest.mark.parametrize("name", ["td3_bc", "prdc", "iql"])
def test_a_run_on_a_gpu_resumes_exactly(name, mode, tmp_path):
    """Stopped at its first row of metrics and resumed, a run ends in the same weights and rows."""
    settings = {**TINY, "eval_every": 0, "final_episodes": 2, "seeds": [0, 1], "log_every": 20, "device": "cuda"}
    settings |= {"mode": mode, "steps": 400}
    straight = orl.train(name, "hopper-demo", out=str(tmp_path / "straight"), **settings)
    assert json.loads((straight.path / "config.json").read_text())["compute"]["mode"] == mode
    settings |= {"out": str(tmp_path / "stopped")}
    stop = Stop()
    options, own = split_settings(name, settings)
    plan = Plan.make(name, "hopper-demo", TrainOptions(**options), own)
    with contextlib.closing(WorkerPool()) as pool, pytest.raises(Interrupted):
        carry_out(plan, tmp_path / "stopped", pool, callbacks=[Stopping(stop)], stop=stop)
    resumed = orl.train(name, "hopper-demo", resume=True, **settings)
    assert without_timings(resumed.rows) == without_timings(straight.rows)
    assert set(resumed.scores) == {0, 1}


def test_a_table_of_rewards_stays_where_it_is():
    """A graph knows its place only; broken by a new tensor in each round of the upper level."""
    (member,) = members("parl", {}, seeds=(0,))
    make_updates(member, 1, 1)
    place, values = member.agent.upper.rewards.data_ptr(), member.agent.upper.rewards.clone()
    make_updates(member, 2, STEPS)
    assert member.agent.upper.rewards.data_ptr() == place
    assert not torch.equal(member.agent.upper.rewards, values)
