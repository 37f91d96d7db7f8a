"""How updates are made if nobody says, and where the numbers come from by which that is decided."""

from pathlib import Path

import pytest
from helpers.needs import needs_kernel
from helpers.settings import TINY, without_timings
from helpers.sweeps import write_sweep

import offline_rl as orl
from benchmarks.compile_table import cost_table, rule
from offline_rl.agent import find_algorithm
from offline_rl.cli.main import main
from offline_rl.files import read_sealed
from offline_rl.sweep import trials
from offline_rl.training import mode as modes
from offline_rl.training import plan as plans
from offline_rl.training.mode import Choice, Repaid, choose_mode, repaid
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan
from offline_rl.training.updates import compiled

needs_compiler = pytest.mark.skipif(
    compiled.obstacle(find_algorithm("bc"), "cpu") is not None, reason="needs a compiler and Python's headers"
)
RESULTS = Path(__file__).parents[2] / "results" / "throughput"


@pytest.fixture
def able(monkeypatch):
    """A machine with a compiler and the native kernel, on which bc is repaid after 30 updates, td3_bc after 40."""
    monkeypatch.setattr(modes, "obstacle", lambda algorithm, device: None)
    monkeypatch.setattr(plans, "obstacle", lambda algorithm, device: None)
    monkeypatch.setattr(plans, "choose_kernel", lambda threads: "native")
    monkeypatch.setattr(modes, "repaid", lambda: {"bc": Repaid(30, 9, 1), "td3_bc": Repaid(40, 20, 2)})


def chosen(updates, name="td3_bc", kernel="native", cycle=2):
    return choose_mode(find_algorithm(name), updates, kernel, lambda: cycle)


def test_a_run_is_compiled_from_the_first_number_of_updates_that_repays_it(able):
    assert chosen(39) == Choice("eager", "39 updates are too few to repay compiling: --mode compile")
    assert chosen(40) == Choice("compile", "40 updates repay 20 s of compiling")
    assert chosen(40, kernel="native+onednn").mode == "compile"


def test_a_longer_cycle_is_more_programs_and_needs_more_updates(able):
    assert chosen(59, cycle=3).mode == "eager"
    assert chosen(60, cycle=3).mode == "compile"
    assert chosen(39, cycle=1).mode == "eager", "a shorter one was not measured"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"updates": 0}, "those of an online phase are made one by one"),
        ({"name": "fql"}, "no measurement says that compiling fql repays"),
        ({"name": "dt"}, "no measurement says that compiling dt repays"),
        ({"kernel": "default"}, "compiling was measured with the native kernel only"),
        ({"kernel": "bf16"}, "compiling was measured with the native kernel only"),
    ],
)
def test_what_was_not_measured_is_eager(able, given, reason):
    assert chosen(**{"updates": 10**9, **given}) == Choice("eager", reason)


def test_without_a_compiler_the_default_is_eager_without_a_warning(monkeypatch, able, recwarn):
    monkeypatch.setattr(modes, "obstacle", lambda algorithm, device: "there is no C++ compiler g++")
    plan = Plan.make("bc", "hopper-demo", TrainOptions(device="cpu", steps=50), {})
    assert plan.mode == "eager"
    assert plan.choice.reason == "there is no C++ compiler g++"
    assert not [warning for warning in recwarn if "eagerly" in str(warning.message)]


def test_a_plan_asks_for_its_own_number_of_updates_and_cycle(able):
    """Broken by the updates of the online phase, or by a cycle that is not that of the settings."""

    def mode(steps, overrides=None, **options):
        options = TrainOptions(device="cpu", steps=steps, **options)
        return Plan.make("td3_bc", "hopper-demo", options, overrides or {}).mode

    assert (mode(39), mode(40)) == ("eager", "compile")
    assert mode(39, online_steps=100) == "eager"
    assert (mode(99, {"policy_delay": 5}), mode(100, {"policy_delay": 5})) == ("eager", "compile")
    assert mode(40, mode="eager") == "eager"


@pytest.fixture
def always(monkeypatch):
    """A machine on which every run that names no mode would be compiled."""
    monkeypatch.setattr(plans, "choose_mode", lambda *_: Choice("compile", "so the test will have it"))
    monkeypatch.setattr(plans, "obstacle", lambda algorithm, device: None)
    return monkeypatch


def mode_of(run):
    return run.config["compute"]["mode"]


def test_a_run_that_goes_on_keeps_the_mode_that_it_has_recorded(tmp_path, always):
    """Broken by a run made longer, which by its new length would be compiled."""
    settings = {**TINY, "eval_every": 0, "final_episodes": 0, "log_every": 10}
    short = orl.train("bc", "hopper-demo", steps=20, mode="eager", out=str(tmp_path / "run"), **settings)
    longer = orl.resume(short, steps=40)
    assert mode_of(longer) == "eager"
    straight = orl.train("bc", "hopper-demo", steps=40, mode="eager", out=str(tmp_path / "straight"), **settings)
    assert without_timings(longer.rows) == without_timings(straight.rows)


def test_a_run_that_goes_on_online_is_eager(tmp_path, always):
    settings = {**TINY, "eval_every": 0, "final_episodes": 0, "steps": 20}
    offline = orl.train("td3_bc", "hopper-demo", mode="eager", out=str(tmp_path / "run"), **settings)
    options = {"eval_every": 0, "final_episodes": 0, "quiet": True, "workers": 0}
    assert mode_of(orl.finetune(offline, steps=3, **options)) == "eager"


@pytest.mark.parametrize("changes", [{}, {"early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 3}}])
def test_trials_that_may_be_stopped_early_are_eager(tmp_path, always, changes):
    planned = []

    def stopped(plan, *_, **__):
        planned.append(plan.mode)
        raise orl.RunError("that was all")

    always.setattr(trials, "carry_out", stopped)
    main(["sweep", str(write_sweep(tmp_path / "sweep.yaml", run_cap=1, **changes)), f"--out={tmp_path / 'out'}"])
    assert planned == ["eager" if changes else "compile"]


def test_the_package_decides_by_the_committed_measurements():
    """Broken by a number that was typed, by the gain of another kernel, or by a run that takes 5 % too long.

    The run is one of 100,000 updates, on the machine that was measured, with nothing in the cache.
    """
    costs, speed = (read_sealed(RESULTS / f"{name}.json") for name in ("compiling", "cpu"))
    rates = {
        (line["algorithm"], line["mode"]): line["updates_per_second"]
        for line in speed["measurements"]
        if (line["kernel"], line["members"], line["cores"]) == ("native", 1, 1)
        and (line["data"] == "synthetic" or line["algorithm"] == "prdc")
    }
    assert {"td3_bc", "iql", "bc", "prdc"} <= set(repaid())
    for line in costs["measurements"]:
        name, seconds = line["algorithm"], line["cold"]["cpu_seconds"]
        eager, program = (1 / rates[name, mode] if (name, mode) in rates else None for mode in ("eager", "compile"))
        if program is None or program >= eager:
            assert name not in repaid()
            continue
        assert seconds + repaid()[name].updates * program < repaid()[name].updates * eager
        assert 0 <= repaid()[name].updates - 1.5 * seconds / (eager - program) < 1000
        both = {"eager": 1e5 * eager, "compile": seconds + 1e5 * program}
        taken = both["compile" if repaid()[name].updates <= 1e5 else "eager"]
        assert taken <= 1.05 * min(both.values()), name


def test_what_gains_nothing_is_left_out_of_the_rule_and_shown_in_the_table():
    ways = {"data": "synthetic", "members": 1, "cores": 1, "kernel": "native"}
    speed = {
        "measurements": [
            {**ways, "algorithm": name, "mode": mode, "updates_per_second": rate}
            for name, rates in {"fast": (100.0, 200.0), "slow": (100.0, 99.0)}.items()
            for mode, rate in zip(("eager", "compile"), rates, strict=True)
        ]
    }
    states = {"cold": {"cpu_seconds": 30.0}, "warm": {"cpu_seconds": 5.0}}
    lines = [{"algorithm": name, "cycle": 2, **states} for name in ("fast", "slow", "unknown")]
    costs = {"hardware": "a machine", "date": "today", "versions": {"torch": "2"}, "note": "", "measurements": lines}
    # An update gains 5 ms, so that 6,000 repay 30 s.
    assert rule(costs, speed)["algorithms"] == {"fast": {"updates": 9000, "seconds": 30, "cycle": 2}}
    shown = cost_table(costs, speed)
    assert "| fast | 30 | 5.0 | 5.00 | 6,000 | 1,000 | 9,000 |" in shown
    assert "| slow | 30 | 5.0 | -0.10 | never | never | never |" in shown
    assert "unknown" not in shown


@pytest.mark.slow
@needs_compiler
@needs_kernel
def test_a_long_run_is_compiled_by_default(tmp_path, monkeypatch):
    """Broken by a mode that is recorded and not used."""
    monkeypatch.setattr(modes, "repaid", lambda: {"bc": Repaid(20, 9, 1)})
    settings = {**TINY, "eval_every": 0, "final_episodes": 0, "log_every": 10, "steps": 20, "device": "cpu"}
    default = orl.train("bc", "hopper-demo", out=str(tmp_path / "default"), **settings)
    assert mode_of(default) == "compile"
    for mode in ("compile", "eager"):
        named = orl.train("bc", "hopper-demo", mode=mode, out=str(tmp_path / mode), **settings)
        assert (without_timings(named.rows) == without_timings(default.rows)) == (mode == "compile")
