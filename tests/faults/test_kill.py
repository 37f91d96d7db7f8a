"""Runs killed without warning at any moment: nothing survives, and resuming ends in the same bytes."""

import os
import random
import subprocess
import sys
import time

import pytest
from helpers.commands import offline_rl
from helpers.settings import without_timings

import offline_rl as orl
from benchmarks.robustness import kills
from offline_rl.training.checkpoint import Checkpoint

SETTINGS = {
    "seeds": [0, 1],
    "steps": 6000,
    "hidden_dims": [32, 32],
    "batch_size": 32,
    "eval_every": 1500,
    "eval_episodes": 5,
    "final_episodes": 20,
    "log_every": 500,
    "checkpoint_seconds": 0.25,
}


SHORT = {
    **SETTINGS,
    "steps": 500,
    "hidden_dims": [8],
    "batch_size": 8,
    "eval_every": 125,
    "log_every": 100,
    "eval_episodes": 2,
    "final_episodes": 5,
    "checkpoint_seconds": 0.2,
}
SMALL_A2PR = {"actor_hidden_dims": [8], "vae_hidden_dims": [8]}
SMALL_SPOT = {"vae_hidden_dims": [8], "vae_steps": 250}
SMALL_WINDOWS = {"steps": 300, "eval_every": 150, "width": 8, "layers": 1}
SMALL_DT = {**SMALL_WINDOWS, "length": 4}
SMALL_DOC = {**SMALL_WINDOWS, "past": 4, "future": 3, "negatives": 5, "candidates": 10, "encoder": "mlp"}
SMALL_PARL = {
    "steps": 300,
    "reward_hidden_dims": [8],
    "reward_epochs": 3,
    "num_labels": 40,
    "segment_length": 8,
    "rounds": 10,
    "round_steps": 1,
    "upper_steps": 2,
    "upper_batch": 8,
    "head_size": 4,
    "eval_every": 150,
}
ONLINE = {"online_steps": 500}
HERE = "--workers=0"
"""No child processes; the bytes are the same."""


def words(algorithm, out, dataset, settings, *more):
    flags = [f"--{name}={value}" for name, value in {**settings, "out": str(out), "dataset": str(dataset)}.items()]
    return ["train", algorithm, *flags, *more]


def start(*arguments):
    line = [sys.executable, "-m", "offline_rl", *words(*arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*arguments):
    """Do it in this process, to the end; return what was said."""
    done = offline_rl(*words(*arguments, HERE))
    assert done.returncode == 0, done.stderr
    return done.stderr


def content(out):
    rows = without_timings(orl.Run(out).rows)
    agents = [(out / "agents" / f"seed-{seed}" / "weights.safetensors").read_bytes() for seed in SETTINGS["seeds"]]
    return rows, agents


def kill_and_check_that_nothing_survives(process):
    family, alive = kills.killed(process)
    assert not alive
    return family


def wait_for_checkpoint(out, step=0):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if out.exists() and (checkpoint := Checkpoint.load(out)) and checkpoint.step >= step:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint appeared")


def kill_once(algorithm, out, dataset, settings, *, delay, step=0):
    """Kill a run so many seconds after its first checkpoint at or after ``step``, and resume it.

    Return the step it resumed at; None if the run had ended before, or was closing down.
    """
    process = start(algorithm, out, dataset, settings)
    wait_for_checkpoint(out, step)
    time.sleep(delay)
    if process.poll() is not None:
        return None
    children = kill_and_check_that_nothing_survives(process)
    checkpoint = Checkpoint.load(out)
    said = finish(algorithm, out, dataset, settings, "--resume")
    if checkpoint.finished:
        assert "is finished" in said
        return None
    # One process for each seed and one that plays, unless the run was closing them down already.
    assert children > len(settings["seeds"]) or checkpoint.step == settings["steps"] + settings.get("online_steps", 0)
    assert f"resumed at step {checkpoint.step}\n" in said
    return checkpoint.step


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data_folder):
    """Give the dataset, and what a run leaves that nobody kills."""
    dataset, out = data_folder / "hopper_medium_replay.hdf5", tmp_path_factory.mktemp("straight") / "run"
    finish("td3_bc", out, dataset, SETTINGS)
    return dataset, content(out)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("more", [[], [HERE]], ids=["workers", "no workers"])
def test_ten_kills_at_random_moments(straight, tmp_path, more):
    """A run is killed ten times on its way: what a kill loses or does twice, no later step makes good."""
    (dataset, expected), out, steps = straight, tmp_path / "run", [0]
    begin, generator = time.monotonic(), random.Random(len(more))
    for left in range(10, 0, -1):
        # Moments counted in steps, then in seconds within one checkpoint's interval: seconds alone, measured on
        # another run, say little on a machine whose speed changes.
        step = generator.randrange((SETTINGS["steps"] - steps[-1]) // (2 * left + 2))
        process = start("td3_bc", out, dataset, SETTINGS, "--resume", *more)
        wait_for_checkpoint(out, steps[-1] + 1 + step)
        time.sleep(generator.uniform(0, SETTINGS["checkpoint_seconds"]))
        children = kill_and_check_that_nothing_survives(process)
        assert more or children > len(SETTINGS["seeds"])
        assert (f"resumed at step {steps[-1]}\n" in process.stdout.read()) == (steps[-1] > 0)
        steps.append(Checkpoint.load(out).step)
    assert f"resumed at step {steps[-1]}\n" in finish("td3_bc", out, dataset, SETTINGS, "--resume")
    assert content(out) == expected, f"killed at {steps[1:]}"
    print(f"resumed at {steps[1:]}; {time.monotonic() - begin:.0f} s in all")


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("algorithm", "more"),
    [
        ("td3_bc", {}),
        pytest.param("doc", SMALL_DOC, marks=pytest.mark.slow),
        pytest.param("prdc", {}, marks=pytest.mark.slow),
        pytest.param("a2pr", SMALL_A2PR, marks=pytest.mark.slow),
        pytest.param("spot", SMALL_SPOT, marks=pytest.mark.slow),
        pytest.param("dt", SMALL_DT, marks=pytest.mark.slow),
        pytest.param("parl", SMALL_PARL, marks=pytest.mark.slow),
        pytest.param("parl", {**SMALL_PARL, "lower": "td3_bc"}, marks=pytest.mark.slow),
    ],
)
def test_one_kill(algorithm, more, tmp_path):
    settings = {**SHORT, **more}
    finish(algorithm, tmp_path / "straight", "hopper-demo", settings)
    step = kill_once(algorithm, tmp_path / "killed", "hopper-demo", settings, delay=0.0)
    assert step is not None
    assert step > 0
    assert content(tmp_path / "killed") == content(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("algorithm", ["famo2o"])
def test_a_kill_in_each_phase(algorithm, tmp_path):
    settings = {**SHORT, **ONLINE}
    finish(algorithm, tmp_path / "straight", "hopper-demo", settings)
    steps = [
        kill_once(algorithm, tmp_path / f"killed-{first}", "hopper-demo", settings, delay=0.0, step=first)
        for first in (1, 501)
    ]
    assert None not in steps
    assert 0 < steps[0] <= 500 < steps[1]
    assert content(tmp_path / "killed-1") == content(tmp_path / "straight")
    assert content(tmp_path / "killed-501") == content(tmp_path / "straight")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Give a folder with all that the commands below begin with."""
    folder = tmp_path_factory.mktemp("kills") / "prepared"
    kills.prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", kills.COMMANDS)
def test_a_command_that_is_killed_ends_the_same_when_given_again(prepared, command):
    """How often is up to the variable; `python -m benchmarks.robustness kills` records more of them."""
    for seed in range(5):  # on a machine whose speed changes, a command may have ended before its moment comes
        found = kills.kill(command, int(os.environ.get("OFFLINE_RL_KILLS", "1")), seed=seed, prepared=prepared)
        assert found.failures == []
        if found.kills:
            return
    pytest.fail("it always ended before")


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("table.json", b'{"a": [1, 2'),
        ("agents/seed-0/weights.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("metrics.jsonl", b'{"a": 1}\n{"a"\n{"a": 1}\n'),
        ("mine.hdf5", b"\x89HDF\r\n\x1a\n"),
        ("policy.onnx", b"onnx"),
        ("curves.png", b""),
    ],
)
def test_half_a_file_is_seen(name, half, tmp_path):
    """Fails if the look after a kill cannot fail."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(half)
    assert kills.half_files(tmp_path) == [name]
    path.rename(path.with_name(f".{path.name}.17.tmp"))
    assert kills.half_files(tmp_path) == []


def test_another_result_is_seen():
    assert kills.different({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"}) == [
        "c is missing",
        "d is too much",
        "b is another",
    ]
