"""Going on with a run beyond its end: what it leaves is what a run that was planned longer leaves."""

import contextlib
import dataclasses

import pytest
from helpers.settings import TINY, Stopping, without_timings

import offline_rl as orl
from offline_rl.agent import find_algorithm
from offline_rl.errors import Interrupted
from offline_rl.training import run as runs
from offline_rl.training.checkpoint import Checkpoint
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan, split_settings
from offline_rl.training.trainer import Stop
from offline_rl.training.workers import WorkerPool

SETTINGS = {**TINY, "hidden_dims": [8], "eval_every": 30, "eval_episodes": 1, "log_every": 25, "final_episodes": 2}


def train(out, steps, algorithm="td3_bc", **more):
    return orl.train(algorithm, "hopper-demo", out=str(out), **{**SETTINGS, **more, "steps": steps})


def stopped(out, steps, algorithm="td3_bc", **more):
    """Train until the first row of metrics is written."""
    stop = Stop()
    options, own = split_settings(algorithm, {**SETTINGS, **more, "steps": steps, "out": str(out)})
    plan = Plan.make(algorithm, "hopper-demo", TrainOptions(**options), own)
    with contextlib.closing(WorkerPool()) as pool, pytest.raises(Interrupted):
        runs.carry_out(plan, out, pool, callbacks=[Stopping(stop)], stop=stop)


def content(run):
    """Return what a run leaves, but for times."""
    seeds = run.config["options"]["seeds"]
    folders = [run.path / "agents" / f"seed-{seed}" for seed in seeds]
    files = [(folder / name).read_bytes() for folder in folders for name in ("weights.safetensors", "agent.json")]
    config = {name: value for name, value in run.config.items() if name not in ("offline", "started", "command")}
    return files, without_timings(run.rows), config, Checkpoint.load(run.path).step


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Give a run of 100 updates: its old ends below fall on an evaluation, on a row of metrics, or on neither."""
    return content(train(tmp_path_factory.mktemp("straight") / "run", 100))


def test_a_run_shorter_than_an_interval_records_its_losses(tmp_path):
    run = train(tmp_path / "run", 10, "bc", eval_every=0)
    assert [row["step"] for row in run.rows if row["kind"] == "train"] == [10]
    longer = train(tmp_path / "run", 30, "bc", eval_every=0, resume=True)
    assert [(row["kind"], row["step"]) for row in longer.rows] == [("train", 25), ("train", 30), ("final", 30)]


SLOW = pytest.mark.slow


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ends", [[50, 75], pytest.param([60], marks=SLOW), pytest.param([33], marks=SLOW)])
def test_a_finished_run_goes_on_to_what_a_longer_one_is(straight, tmp_path, ends):
    train(tmp_path / "run", ends[0])
    for steps in (*ends[1:], 100):
        run = train(tmp_path / "run", steps, resume=True)
    assert content(run) == straight


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_what_a_longer_one_is(straight, tmp_path):
    stopped(tmp_path / "run", 60)
    assert content(train(tmp_path / "run", 100, resume=True)) == straight


@pytest.mark.slow
def test_without_final_episodes_no_evaluation_is_made_twice(tmp_path):
    train(tmp_path / "run", 30, "bc", final_episodes=0)
    run = train(tmp_path / "run", 40, "bc", final_episodes=0, resume=True)
    assert [row["step"] for row in run.rows if row["kind"] == "evaluation"] == [0, 30]


def test_killed_while_it_is_made_longer_a_run_goes_on(straight, tmp_path, monkeypatch):
    """Between the checkpoint and the settings; the old length is then one that the run no longer has."""
    train(tmp_path / "run", 60)

    def fail(path, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "write_json", fail)
        train(tmp_path / "run", 100, resume=True)
    with pytest.raises(orl.RunError, match=r"is to have 100 updates, of which 60 are made, and cannot be shortened"):
        train(tmp_path / "run", 60, resume=True)
    assert content(train(tmp_path / "run", 100, resume=True)) == straight


@pytest.mark.slow
def test_stopped_while_it_goes_on_a_run_goes_on(straight, tmp_path):
    train(tmp_path / "run", 60)
    stopped(tmp_path / "run", 100, resume=True)
    assert not Checkpoint.load(tmp_path / "run").finished
    assert content(train(tmp_path / "run", 100, resume=True)) == straight


def test_fewer_steps_are_refused(tmp_path):
    run = train(tmp_path / "run", 30, "bc")
    before = content(run)
    with pytest.raises(orl.RunError, match="is to have 30 updates, of which 30 are made, and cannot be shortened to"):
        train(tmp_path / "run", 20, "bc", resume=True)
    with pytest.raises(orl.RunError, match=r"log_every was 25, now 10; steps was 30, now 40|steps was 30, now 40; log"):
        train(tmp_path / "run", 40, "bc", log_every=10, resume=True)
    assert content(run) == before


@pytest.mark.parametrize(
    ("algorithm", "more"),
    [
        ("iql", {}),
        pytest.param("dt", {"width": 8, "layers": 1, "length": 4}, marks=pytest.mark.slow),
        ("doc", {"width": 8, "layers": 1, "past": 4, "future": 3, "negatives": 5, "candidates": 10}),
    ],
)
def test_a_schedule_over_the_whole_run_is_why_not(tmp_path, algorithm, more):
    """A learning rate that falls to the end, one that grows over a share of it, and a loss's weight in an update."""
    settings = {"eval_every": 0, "final_episodes": 0, **more}
    if algorithm != "iql":
        settings["hidden_dims"] = None
    settings = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
    options, own = split_settings(algorithm, {**settings, "steps": 5, "out": str(tmp_path / "run")})
    orl.train(algorithm, "hopper-demo", **options, **own)
    with pytest.raises(orl.RunError, match=f"steps was 5, now 9, but {algorithm} has a schedule over all steps"):
        orl.train(algorithm, "hopper-demo", **{**options, "steps": 9, "resume": True}, **own)
    assert orl.Run(tmp_path / "run").config["options"]["steps"] == 5


def test_whoever_asks_for_the_length_is_noted_whenever_that_is():
    algorithm = find_algorithm("bc")
    asks = type("Asks", (algorithm,), {"update": lambda self, batch, step: {"share": step / self.steps}})
    for wanted, made in (([], algorithm), (["steps"], asks)):
        agent = made(algorithm.config_class(hidden_dims=[8]), 4, 2, steps=10)
        assert agent.lengths_used == set()
        with contextlib.suppress(AttributeError):
            agent.update(None, 1)
        agent.description(), agent.fresh_copy()
        assert sorted(agent.lengths_used) == wanted


def test_a_checkpoint_that_does_not_say_what_was_asked_is_not_made_longer(tmp_path):
    run = train(tmp_path / "run", 30, "bc")
    dataclasses.replace(Checkpoint.load(run.path), total=None, lengths=None).save(run.path)
    with pytest.raises(orl.RunError, match="of an older version"):
        train(tmp_path / "run", 40, "bc", resume=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_online_phase_goes_on_too(tmp_path):
    settings = {"online_steps": 40}
    straight = content(train(tmp_path / "straight", 30, **settings))
    train(tmp_path / "run", 30, online_steps=20)
    with pytest.raises(orl.RunError, match="has an online phase, which begins after these"):
        train(tmp_path / "run", 50, online_steps=20, resume=True)
    assert content(train(tmp_path / "run", 30, **settings, resume=True)) == straight
    train(tmp_path / "offline", 30)
    more = {"final_episodes": 2, "eval_every": 30, "eval_episodes": 1, "log_every": 25, "quiet": True, "workers": 0}
    orl.finetune(tmp_path / "offline", steps=20, out=str(tmp_path / "tuned"), **more)
    tuned = orl.finetune(tmp_path / "offline", steps=40, out=str(tmp_path / "tuned"), resume=True, **more)
    assert content(tuned)[:2] == straight[:2]
