"""Whole runs with real processes, real files and the real simulator, on a small agent."""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers.commands import offline_rl
from helpers.datasets import random_dataset
from helpers.settings import TINY, WITH_WORKERS, without_timings

import offline_rl as orl
from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.envs import find_task
from offline_rl.errors import Interrupted, RunError
from offline_rl.files import sealed, write_json
from offline_rl.kernels.choice import use_kernel
from offline_rl.tracking.record import Record
from offline_rl.training.checkpoint import Checkpoint
from offline_rl.training.options import FinetuneOptions, LoopOptions, TrainOptions
from offline_rl.training.plan import Plan
from offline_rl.training.run import carry_out
from offline_rl.training.trainer import Stop
from offline_rl.training.worker import Worker
from offline_rl.training.workers import WorkerPool

STEPS = 400
SEEDS = [0, 1]
SCHEDULE = {"steps": STEPS, "eval_every": 150, "log_every": 50, "final_episodes": 12}


def weights(run, seed):
    return (run.path / "agents" / f"seed-{seed}" / "weights.safetensors").read_bytes()


def flags(out, seeds, **settings):
    names = {**SCHEDULE, **WITH_WORKERS, "seeds": list(seeds), "out": str(out), **settings}
    return ["train", "td3_bc", "--dataset", "hopper-demo", *(f"--{name}={value}" for name, value in names.items())]


def start(words):
    return subprocess.Popen([sys.executable, "-m", "offline_rl", *words], stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Give one uninterrupted run of two seeds, each in a process of its own."""
    out = tmp_path_factory.mktemp("straight") / "run"
    return orl.train("td3_bc", "hopper-demo", seeds=SEEDS, out=str(out), **SCHEDULE, **WITH_WORKERS)


def test_a_run_leaves_what_it_promises(straight):
    assert {entry.name for entry in straight.path.iterdir()} >= {"config.json", "metrics.jsonl", "checkpoint", "agents"}
    assert (straight.path / "curve.png").read_bytes().startswith(b"\x89PNG")
    kinds = [(row["kind"], row["step"]) for row in straight.rows if row["seed"] == 1]
    train = [("train", step) for step in range(50, STEPS + 1, 50)]
    assert kinds == sorted(
        [("evaluation", 0), ("evaluation", 150), ("evaluation", 300), *train, ("final", STEPS)],
        key=lambda entry: (entry[1], ["train", "evaluation", "final"].index(entry[0])),
    )
    assert set(straight.scores) == {0, 1}
    assert all(row["episodes"] == 12 for row in straight.rows if row["kind"] == "final")
    config = straight.config
    assert config["dataset"]["fingerprint"] == orl.load_dataset("hopper-demo").fingerprint
    assert config["versions"]["mujoco"]


def test_members_learn_apart_from_each_other(straight, tmp_path, tiny):
    alone = orl.train("td3_bc", "hopper-demo", seeds=[1], out=str(tmp_path / "alone"), **SCHEDULE, **tiny)
    assert weights(alone, 1) == weights(straight, 1)
    assert without_timings(alone.rows) == [row for row in without_timings(straight.rows) if row["seed"] == 1]
    assert weights(straight, 0) != weights(straight, 1)


def test_the_number_of_processes_changes_nothing(straight, tmp_path):
    settings = {**SCHEDULE, **TINY, "workers": 1}
    one = orl.train("td3_bc", "hopper-demo", seeds=SEEDS, out=str(tmp_path / "one"), **settings)
    assert [weights(one, seed) for seed in SEEDS] == [weights(straight, seed) for seed in SEEDS]
    assert without_timings(one.rows) == without_timings(straight.rows)


def test_prdc_learns_the_same_alone_beside_others_and_by_any_search(tmp_path, tiny):
    settings = {**tiny, "steps": 60, "eval_every": 0, "final_episodes": 0}

    def run(name, seeds, **more):
        out = str(tmp_path / name)
        return weights(orl.train("prdc", "hopper-demo", seeds=seeds, out=out, **settings, **more), 1)

    shared = run("shared", [0, 1])
    assert shared == run("alone", [1])
    assert shared == run("tree", [1], neighbors="tree")
    assert shared == run("brute", [1], neighbors="brute")


def test_a_diverged_agent_ends_with_no_score_and_a_warning(tmp_path, tiny):
    settings = {**tiny, "steps": 40, "log_every": 10, "eval_every": 20, "final_episodes": 2}
    with pytest.warns(UserWarning, match="seed-0 has diverged: .* is not finite at step"):
        run = orl.train("td3_bc", "hopper-demo", out=str(tmp_path / "x"), critic_learning_rate=1e38, **settings)
    assert np.isnan(run.scores[0])
    assert run.rows[-1]["return"] is None
    with pytest.raises(orl.AgentError, match=r"seed-0: td3_bc holds NaN or infinity in .*its training has diverged"):
        run.agents[0].act(np.zeros(11))


def test_an_agent_that_has_diverged_is_no_obstacle_to_the_others(tmp_path, tiny):
    """Broken by loading all at once."""
    settings = {**tiny, "steps": 40, "log_every": 10, "eval_every": 0, "final_episodes": 2}
    each = {"critic_learning_rate": [1e38, 3e-4]}
    with pytest.warns(UserWarning, match="seed-0 has diverged"):
        run = orl.train("td3_bc", "hopper-demo", seeds=[0, 1], each=each, out=str(tmp_path / "x"), **settings)
    assert list(run.agents) == [0, 1]
    assert np.isfinite(run.agents[1].act(np.zeros(11))).all()
    with pytest.raises(orl.AgentError, match="diverged"):
        run.agents[0]
    with pytest.raises(KeyError):
        run.agents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_checkpoint_and_resume_ends_in_the_same_bytes(straight, tmp_path, number):
    out = tmp_path / "run"
    process = start(flags(out, SEEDS, checkpoint_seconds=0.0))
    wait_for_step(out, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    stopped = Checkpoint.load(out).step
    assert 0 < stopped < STEPS
    assert f"stopped at step {stopped}; offline-rl resume " in errors
    resumed = offline_rl(*flags(out, SEEDS, checkpoint_seconds=0.0, resume=True, quiet=False, workers=0))
    assert f"resumed at step {stopped}\n" in resumed.stderr
    run = orl.Run(out)
    assert [weights(run, seed) for seed in SEEDS] == [weights(straight, seed) for seed in SEEDS]
    assert without_timings(run.rows) == without_timings(straight.rows)


def test_a_profiled_run_says_how_long_evaluation_held_it_up(tmp_path, tiny, caplog):
    caplog.set_level(logging.INFO, "offline_rl")
    settings = {**tiny, "quiet": False, "steps": 20, "eval_every": 0, "final_episodes": 10, "profile": True}
    run = orl.train("bc", "hopper-demo", out=str(tmp_path / "x"), **settings)
    said = re.search(r"evaluation: nothing was trained for (\d+) of (\d+) seconds", caplog.text)
    assert int(said[1]) <= int(said[2])
    (place,) = (number for number, message in enumerate(caplog.messages) if "profile: writing" in message)
    assert "where the time of" in caplog.messages[-1]
    assert place < len(caplog.messages) - 1
    assert 0 < Checkpoint.load(run.path).waited <= Checkpoint.load(run.path).seconds


def wait_for_step(out, step, timeout=120):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        checkpoint = Checkpoint.load(out) if out.exists() else None
        if checkpoint is not None and checkpoint.step >= step:
            return
        time.sleep(0.01)
    raise AssertionError("no checkpoint appeared")


def test_resuming_a_finished_run_does_nothing(straight, tiny, caplog):
    before = {path: path.stat().st_mtime_ns for path in straight.path.rglob("*.*") if path.name != ".lock"}
    caplog.set_level(logging.INFO, "offline_rl")
    settings = {**SCHEDULE, **tiny}
    for quiet in (False, True):
        settings["quiet"] = quiet
        orl.train("td3_bc", "hopper-demo", seeds=SEEDS, out=str(straight.path), resume=True, **settings)
    (said,) = (message for message in caplog.messages if "finished" in message)
    assert said == f"{straight.path} is finished (400 updates); nothing to do"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_resuming_with_other_settings_names_them(straight, tiny):
    settings = {**SCHEDULE, **tiny, "steps": 500}
    with pytest.raises(orl.RunError, match=r"alpha was 2.5, now 9.0; steps was 400, now 500; .* resume"):
        orl.train("td3_bc", "hopper-demo", seeds=SEEDS, out=str(straight.path), resume=True, alpha=9.0, **settings)


def test_an_existing_folder_is_left_alone(straight, tmp_path, tiny):
    with pytest.raises(orl.RunError, match="exists; choose another --out, or continue it by offline-rl resume"):
        orl.train("td3_bc", "hopper-demo", out=str(straight.path), **tiny)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(orl.RunError, match="is no run folder"):
        orl.train("td3_bc", "hopper-demo", out=str(tmp_path), resume=True, **tiny)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_without_a_checkpoint_starts_anew_and_says_so(tmp_path, tiny, caplog):
    out = tmp_path / "new"
    caplog.set_level(logging.INFO, "offline_rl")
    settings = {**tiny, "quiet": False, "steps": 10, "eval_every": 0, "final_episodes": 0}
    orl.train("bc", "hopper-demo", out=str(out), resume=True, **settings)
    assert f"no checkpoint in {out}; starting over" in caplog.messages
    assert Checkpoint.load(out).finished


def test_a_locked_run_is_refused(straight, tiny):
    with (
        FileLock(straight.path / ".lock"),
        pytest.raises(orl.RunError, match="in use by another process"),
    ):
        orl.train("td3_bc", "hopper-demo", out=str(straight.path), resume=True, seeds=SEEDS, **SCHEDULE, **tiny)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "checkpoint.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage")
    with pytest.raises(orl.RunError, match="is damaged"):
        Checkpoint.load(tmp_path)


def test_agents_of_a_run_act_and_score(straight):
    agent = straight.agents[0]
    env = orl.make_env("hopper")
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(observation))
    first = orl.evaluate(agent, "hopper", episodes=3, seed=5)
    again = orl.evaluate(agent, "hopper", episodes=3, seed=5)
    assert np.array_equal(first.returns, again.returns)
    with pytest.raises(orl.AgentError, match="episodes is 0; it must be at least 1"):
        orl.evaluate(agent, "hopper", episodes=0)


def test_training_works_from_a_plain_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import offline_rl as orl\n"
        "run = orl.train('bc', 'hopper-demo', seeds=[0, 1], steps=20, eval_every=0, final_episodes=0,"
        f" hidden_dims=[8], out={str(tmp_path / 'run')!r}, workers=1)\n"
        "print(sorted(run.agents))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[0, 1]"


def test_a_task_is_needed_only_for_episodes(tmp_path, tiny):
    generator = np.random.default_rng(0)
    dataset = orl.Dataset.from_arrays(
        generator.standard_normal((60, 4)), generator.uniform(-1, 1, (60, 2)), np.zeros(60), np.zeros(60, bool)
    )
    with pytest.raises(orl.TaskError, match="names no task; give one, for instance --task hopper, in Python task="):
        orl.train("bc", dataset, out=str(tmp_path / "a"), steps=10, **tiny)
    run = orl.train("bc", dataset, out=str(tmp_path / "b"), steps=10, eval_every=0, final_episodes=0, **tiny)
    assert run.agents[0].act(np.zeros(4)).shape == (2,)
    assert not (tmp_path / "a").exists()


def test_resuming_takes_settings_however_they_are_written(tmp_path, tiny, caplog):
    caplog.set_level(logging.INFO, "offline_rl")
    settings = {
        **tiny,
        "quiet": False,
        "steps": 10.0,
        "eval_every": 0,
        "final_episodes": 0,
        "hidden_dims": (8, 8),
        "seeds": range(2),
    }
    orl.train("bc", "hopper-demo", out=tmp_path / "x", **settings)
    orl.train("bc", "hopper-demo", out=tmp_path / "x", resume=True, **settings)
    assert "is finished" in caplog.text


def test_without_final_episodes_the_last_update_is_evaluated_as_any_other(tmp_path, tiny):
    settings = {**tiny, "steps": 20, "eval_every": 10, "final_episodes": 0}
    run = orl.train("bc", "hopper-demo", out=str(tmp_path / "x"), **settings)
    assert [row["step"] for row in run.rows if row["kind"] == "evaluation"] == [0, 10, 20]


def test_a_checkpoint_can_be_read_while_the_next_one_takes_its_place(tmp_path):
    """Broken by reading from the path, at which another file may lie a moment later."""
    made = [Checkpoint(size, 0, [], 0.0, tensors={"x": torch.full((size,), float(size))}) for size in (10, 5000)]
    made[0].save(tmp_path)
    reading = threading.Event()

    def replace():
        while not reading.is_set():
            for checkpoint in made:
                checkpoint.save(tmp_path)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(3000):
            found = Checkpoint.load(tmp_path)
            assert found.tensors["x"].tolist() == [float(found.step)] * found.step
    finally:
        reading.set()
        writer.join()


TOO_LARGE = {"batch_size": 10**13, "hidden_dims": []}
"""Without hidden layers nothing says beforehand that a batch does not fit."""


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(tmp_path):
    settings = {**WITH_WORKERS, "steps": 10, "eval_every": 0, "final_episodes": 0, **TOO_LARGE}
    with pytest.raises(orl.RunError, match="MemoryError"):
        orl.train("bc", "hopper-demo", out=str(tmp_path / "x"), **settings)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_gets_its_curve_and_a_changed_record_is_refused(tmp_path, tiny):
    out = tmp_path / "x"
    settings = {**tiny, "steps": 20, "eval_every": 10, "final_episodes": 2, "out": str(out)}
    orl.train("bc", "hopper-demo", **settings)
    (out / "curve.png").unlink()
    orl.train("bc", "hopper-demo", resume=True, **settings)
    assert (out / "curve.png").exists()
    (out / "metrics.jsonl").write_text("")
    with pytest.raises(orl.RunError, match="is shorter than its checkpoint says"):
        Record(out / "metrics.jsonl", keep_bytes=Checkpoint.load(out).metrics_bytes)


def test_episodes_are_the_same_in_every_process_whatever_it_trains_with():
    """Training may use another matrix product, and more threads, than the process that only plays.

    The agent is of full size: smaller products come out the same either way.
    """
    agent = TD3BC(Config(), 11, 3)
    answers = []
    for setup in ({"kernel": "default", "threads": 1}, {"kernel": "onednn", "threads": 2}):
        worker = Worker()
        try:
            worker.setup(**setup)
            request = {"task": find_task("hopper").to_json(), "dynamics": "d4rl", "seeds": list(range(10))}
            answers.append(worker.play(description=agent.description(), weights=agent.acting_weights(), **request))
        finally:
            use_kernel("default", 1)
    assert answers[0] == answers[1]


def test_ant_trains_but_has_no_score(tmp_path, tiny):
    dataset = random_dataset(rows=60, observation_size=111, action_size=8)
    settings = {**tiny, "steps": 10, "task": "ant-medium-v2"}
    with pytest.raises(orl.TaskError, match=r"ant has no normalised score: .* train without evaluation, with"):
        orl.train("bc", dataset, out=str(tmp_path / "x"), **settings)
    run = orl.train("bc", dataset, out=str(tmp_path / "x"), eval_every=0, final_episodes=0, **settings)
    assert run.scores == {}


def test_top_fraction_imitates_the_best_episodes(tmp_path, tiny):
    """Two kinds of episodes, equal but for action and return: only the better kind is imitated."""
    rows = np.arange(400)
    good = (rows // 20) % 10 == 0
    dataset = orl.Dataset.from_arrays(
        np.random.default_rng(0).standard_normal((400, 3)),
        np.where(good, 0.8, -0.8)[:, None] * np.ones((400, 2)),
        np.where(good, 1.0, 0.0),
        rows % 20 == 19,
    )
    settings = {"steps": 600, "eval_every": 0, "final_episodes": 0, "learning_rate": 1e-2, **tiny}
    best = orl.train("bc", dataset, out=str(tmp_path / "best"), top_fraction=0.1, **settings).agents[0]
    every = orl.train("bc", dataset, out=str(tmp_path / "all"), **settings).agents[0]
    assert best.act(np.zeros(3)).mean() > 0.7
    assert every.act(np.zeros(3)).mean() < -0.3


def test_tensorboard_sees_what_the_record_holds(tmp_path, tiny):
    out = tmp_path / "run"
    settings = {**SCHEDULE, **tiny, "steps": 100, "tensorboard": True}
    run = orl.train("bc", "hopper-demo", seeds=[0, 1], out=str(out), **settings)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard" / "seed-1"))
    events.Reload()
    expected = [(row["step"], row["actor_loss"]) for row in run.rows if row["kind"] == "train" and row["seed"] == 1]
    shown = [(event.step, event.value) for event in events.Scalars("train/actor_loss")]
    assert shown == [(step, pytest.approx(value)) for step, value in expected]


def test_a_worker_that_dies_ends_the_run_with_a_sentence(tmp_path):
    out = tmp_path / "run"
    process = start(flags(out, [0], steps=100_000, eval_every=0, final_episodes=0, checkpoint_seconds=0.0))
    wait_for_step(out, 1)
    (trainer,) = children_of(process.pid)
    os.kill(trainer, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "was killed by signal 9" in errors
    assert "Traceback" not in errors


def children_of(pid):
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"eval_every": -1}, "eval_every is -1"),
        ({"device": "warp"}, "unknown device"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"alhpa": 1}, "unknown setting 'alhpa' for td3_bc; did you mean alpha"),
        ({"task": "walker2d"}, "17"),
        ({"task": "hoper"}, "did you mean 'hopper'"),
    ],
)
def test_bad_settings_are_one_sentence_and_write_nothing(tmp_path, settings, message):
    with pytest.raises(orl.OfflineRLError, match=message) as caught:
        orl.train("td3_bc", "hopper-demo", out=str(tmp_path / "x"), **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("options", [TrainOptions, FinetuneOptions])
def test_every_option_has_a_sentence(options):
    """The docstrings of options are their help."""
    import inspect

    source = inspect.getsource(LoopOptions) + inspect.getsource(options)
    for name in options.__dataclass_fields__:
        _, _, after = source.partition(f"    {name}: ")
        assert after.split("\n", 1)[1].lstrip().startswith('"""'), name


def test_metrics_are_strict_json(straight):
    for line in (straight.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


SILENT = """
import time

from offline_rl.processes.child import serve

if __name__ == "__main__":
    serve(lambda message, tensors: time.sleep(600))
"""


def test_a_run_that_is_still_beginning_stops_at_once(tmp_path, monkeypatch):
    """Its processes do not answer, as while they import or compile; broken by waiting for the first update."""
    (tmp_path / "a_silent_child.py").write_text(SILENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("offline_rl.training.workers.WORKER", "a_silent_child")
    plan = Plan.make("bc", "hopper-demo", TrainOptions(steps=10, eval_every=0, quiet=True), {"hidden_dims": [8]})
    stop, began = Stop(), time.monotonic()
    threading.Timer(0.5, lambda: setattr(stop, "signal", signal.SIGINT)).start()
    with (
        contextlib.closing(WorkerPool()) as pool,
        pytest.raises(Interrupted, match="stopped before the first step was saved"),
    ):
        carry_out(plan, tmp_path / "run", pool, stop=stop)
    assert time.monotonic() - began < 20
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_still_beginning_stops_at_once(tmp_path, number):
    out = tmp_path / "run"
    process = start(flags(out, [0, 1]))
    deadline = time.monotonic() + 120
    while not (out / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - began < 10
    assert process.returncode == 128 + number
    assert errors == "stopped before the first step was saved; the same command starts over\n"
    assert not out.exists()


def filling(row):
    """Leave a run no room from its first row of metrics on."""
    import resource

    if row["kind"] != "config":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
def test_a_disk_that_fills_up_during_training_is_one_sentence(tmp_path, checkpoint_seconds):
    import resource

    settings = {"steps": 200, "log_every": 5, "checkpoint_seconds": checkpoint_seconds, "quiet": True, "workers": 0}
    options = TrainOptions(**settings, eval_every=0, final_episodes=0)
    plan = Plan.make("bc", "hopper-demo", options, {"hidden_dims": [8], "batch_size": 8})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            contextlib.closing(WorkerPool()) as pool,
            pytest.raises(orl.RunError, match=r"cannot be written .*; make room"),
        ):
            carry_out(plan, tmp_path / "run", pool, callbacks=[filling])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_record_that_was_cut_knows_its_length_before_anything_is_written(tmp_path):
    """Broken by reporting the old end: what a checkpoint then keeps of the record ends within a row."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kept": 1}\n{"step": 2}\n')
    record = Record(path, keep_bytes=12)
    assert record.sync() == 12
    record.add([{"step": 3}])
    assert record.sync() == path.stat().st_size
    record.close()
    assert path.read_bytes() == b'{"kept": 1}\n{"step": 3}\n'


def test_rows_of_a_seed_that_the_run_does_not_name_are_refused(tmp_path):
    run = orl.train("bc", "hopper-demo", out=tmp_path / "run", steps=2, eval_every=0, final_episodes=1, **TINY)
    config = json.loads((run.path / "config.json").read_text())
    config.pop("checksum")
    config["options"]["seeds"] = []
    write_json(run.path / "config.json", sealed(config))
    with pytest.raises(RunError, match=r"rows of seed 0, which config\.json does not name"):
        print(run.rows)


def test_options_of_wandb_that_nothing_uses_are_named(tmp_path):
    said = "wandb_project and wandb_tags are ignored, because nothing is logged to W&B"
    with pytest.warns(UserWarning, match=said), pytest.raises(orl.DatasetError):
        orl.train("bc", "no-such.hdf5", wandb_project="mine", wandb_tags=["x"], out=str(tmp_path / "run"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(orl.DatasetError):
            orl.train("bc", "no-such.hdf5", wandb=True, wandb_project="mine", out=str(tmp_path / "run"))
