"""Updates made by compiled programs."""

import contextlib
import json
import os

import pytest
import torch
from helpers.members import STACKABLE, STEPS, differing, looped, members, states
from helpers.needs import needs_kernel
from helpers.settings import TINY, Stopping, without_timings

import offline_rl as orl
from offline_rl.errors import Interrupted
from offline_rl.kernels import choice as kernels
from offline_rl.kernels import native
from offline_rl.neighbors import search as nearest
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan, split_settings
from offline_rl.training.run import carry_out
from offline_rl.training.trainer import Stop
from offline_rl.training.updates import compiled
from offline_rl.training.updates.lending import lend
from offline_rl.training.workers import WorkerPool

EXACT = {"dtype": torch.float64, "seeds": (0, 1)}
NAMES = [" ".join((name, *map(str, more.values()))) for name, more in STACKABLE]
needs_compiler = pytest.mark.skipif(
    compiled.obstacle(orl.agent.find_algorithm("bc"), "cpu") is not None, reason="needs a compiler and Python's headers"
)


def programmed(name, more, **options):
    """Train to the end by programs, in pieces."""
    trained = members(name, more, **options)
    updates = compiled.CompiledUpdates(trained)
    for first, last in ((1, 13), (14, 14), (15, STEPS)):
        updates.run(first, last)
    updates.settle()
    return states(trained)


def check(name, more, **tolerance):
    for ours, theirs in zip(programmed(name, more, **EXACT), looped(name, more, **EXACT), strict=True):
        assert differing(ours, theirs, **tolerance) == []


@pytest.mark.parametrize(("name", "more"), STACKABLE, ids=NAMES)
def test_traced_updates_are_those_of_the_loop(name, more, monkeypatch):
    """Without a compiler, in float64; broken by a tensor that is taken for a constant, or a place in the cycle."""
    monkeypatch.setattr(compiled, "compiled", lambda graph, inputs: graph)
    check(name, more, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_programs_for_vectors_of_another_length_lie_in_another_folder(capability, monkeypatch, tmp_path):
    """Inductor does not tell them apart, and one that was found by the other kind of process gave wrong numbers."""
    monkeypatch.setenv("OFFLINE_RL_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(compiled, "compiled", lambda graph, inputs: graph)
    (member,) = members("bc", {}, seeds=(0,))
    compiled.Program(member.agent, member.sampler.batch(1), 1)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled" / capability)


LEFT_OUT = {
    "dt": "a transformer takes minutes to compile",
    "doc": "a transformer takes minutes to compile",
    "fql": "it is refused before it is used, because the program moves targets too late",
    "wpc": "made of the operations of td3_bc",
    "spot": "made of the operations of td3_bc and a2pr",
    "sac_n": "made of the operations of edac",
}
"""A program costs a minute of two cores. Every run checks its own program before it is used, these, too."""
QUICK = [(name, more) for name, more in STACKABLE if name not in LEFT_OUT and "base" not in more]


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_compiler
@pytest.mark.parametrize(("name", "more"), QUICK)
def test_compiled_updates_are_those_of_the_loop(name, more):
    check(name, more, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@needs_compiler
@needs_kernel
def test_the_native_kernel_stands_in_a_program():
    kernels.use_kernel("native", 1)
    try:
        options = {"seeds": (0,)}
        (ours,), (theirs,) = (way("td3_bc", {}, **options) for way in (programmed, looped))
        assert differing(ours, theirs, rtol=1e-3, atol=2e-5) == []
        (member,) = members("td3_bc", {}, **options)
        batch = member.sampler.batch(1)
        graph = None

        def seen(found, inputs):
            nonlocal graph
            graph = found
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "compiled", seen)
            compiled.Program(member.agent, batch, 1)
        assert "offline_rl.mlp" in graph.code
        assert "addmm" not in graph.code
    finally:
        kernels.use_kernel("default", 1)


@pytest.mark.slow
@needs_compiler
@needs_kernel
def test_prdcs_search_runs_beside_the_critics_update_in_a_program(monkeypatch):
    """Broken by a program whose order is not that of tracing, or an end that depends on nothing."""
    happened = []

    def noting(name, method):
        return lambda *arguments: (happened.append(name), method(*arguments))[1]

    class Searches(dict):
        pop = noting("end", dict.pop)

    monkeypatch.setattr(compiled, "adam", noting("adam", compiled.adam))
    monkeypatch.setattr(nearest.NearestRows, "submit", noting("begin", nearest.NearestRows.submit))
    monkeypatch.setattr(nearest, "_searches", Searches())
    monkeypatch.setattr(native, "_active", native._library())
    (member,) = members("prdc", {}, seeds=(0,))
    updates = compiled.CompiledUpdates([member])
    updates.run(1, 2)  # before which it is seen whether programs do what updates do
    happened.clear()
    updates.run(3, 4)
    assert happened == ["adam", "begin", "adam", "end", "adam"]


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_resumes_exactly_and_keeps_its_mode(tmp_path):
    """Stopped and resumed without naming the mode, or in a process with another member, it ends in the same rows."""
    settings = {**TINY, "eval_every": 0, "final_episodes": 1, "log_every": 20, "steps": 400}
    straight = orl.train("bc", "hopper-demo", out=str(tmp_path / "straight"), mode="compile", **settings)
    settings |= {"out": str(tmp_path / "stopped")}
    stop = Stop()
    options, own = split_settings("bc", {**settings, "mode": "compile"})
    plan = Plan.make("bc", "hopper-demo", TrainOptions(**options), own)
    with contextlib.closing(WorkerPool()) as pool, pytest.raises(Interrupted):
        carry_out(plan, tmp_path / "stopped", pool, callbacks=[Stopping(stop)], stop=stop)
    resumed = orl.train("bc", "hopper-demo", resume=True, **{**settings, "workers": 1})
    assert without_timings(resumed.rows) == without_timings(straight.rows)
    assert json.loads((resumed.path / "config.json").read_text())["compute"]["mode"] == "compile"
    beside = {**settings, "out": str(tmp_path / "beside"), "seeds": [0, 1]}
    both = orl.train("bc", "hopper-demo", mode="compile", **beside)
    assert without_timings([row for row in both.rows if row["seed"] == 0]) == without_timings(straight.rows)
    eager = orl.train("bc", "hopper-demo", mode="eager", **{**settings, "out": str(tmp_path / "eager")})
    assert without_timings(eager.rows) != without_timings(straight.rows), "no program has made an update"


def test_without_a_compiler_updates_are_eager_and_one_warning_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    options = TrainOptions(mode="compile", dataset="hopper-demo")
    with pytest.warns(UserWarning, match="eagerly, not compiled: there is no C.. compiler") as warnings:
        plan = Plan.make("bc", "hopper-demo", options, {})
    assert plan.mode == "eager"
    assert len(warnings) == 1


def test_a_compiler_that_is_named_but_missing_is_an_obstacle(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -std=c++20")
    assert "no-such-compiler" in compiled.obstacle(orl.agent.find_algorithm("bc"), "cpu")


def test_networks_without_biases_and_with_tied_weights_can_be_lent_others():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3))
    network[1].weight = network[0].weight
    own = list(network.parameters())
    others = [torch.full_like(parameter, number) for number, parameter in enumerate(own, start=1)]
    before = lend(network, others)
    assert network[0].weight is network[1].weight is others[0]
    assert network[1].bias is others[1]
    lend(network, before)
    assert all(now is then for now, then in zip(network.parameters(), own, strict=True))


def test_what_cannot_be_compiled_is_eager():
    options = TrainOptions(mode="compile", dataset="hopper-demo")
    with pytest.warns(UserWarning, match=r"parl does not declare that its updates change .* alone \(stackable\)"):
        assert Plan.make("parl", "hopper-demo", options, {"rewards": "oracle"}).mode == "eager"


def test_a_program_that_fails_names_the_algorithm_and_the_remedy(monkeypatch):
    (member,) = members("bc", {}, seeds=(0,))
    monkeypatch.setattr(type(member.agent), "update", lambda self, batch, step: {"a": batch.reward.sum().item()})
    with pytest.raises(orl.RunError, match=r"bc's update cannot be compiled .*; train with --mode eager"):
        compiled.CompiledUpdates([member]).run(1, 1)
