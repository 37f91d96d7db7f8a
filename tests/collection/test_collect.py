"""Datasets made here, with the real simulator: their layout, and that the same command gives the same bytes."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from data.test_d4rl_rows import qlearning_dataset, transitions
from filelock import FileLock
from helpers.commands import offline_rl
from safetensors.torch import load_file

import offline_rl as orl
from offline_rl.algos import sac
from offline_rl.algos.dt import DT
from offline_rl.algos.dt import Config as DTConfig
from offline_rl.algos.td3_bc import TD3BC
from offline_rl.algos.td3_bc import Config as TD3BCConfig
from offline_rl.cli.main import main
from offline_rl.collection import collect as collection_run
from offline_rl.collection.behavior import Recorder
from offline_rl.draws import Stream
from offline_rl.envs import find_task
from offline_rl.envs.online import OnlineEnvironment
from offline_rl.errors import Interrupted
from offline_rl.training.checkpoint import Checkpoint

TINY = {"hidden_dims": [8], "batch_size": 8}
SAC = {"task": "hopper", "steps": 500, "random_steps": 200, "snapshots": [200, 300, 400], "quiet": True, **TINY}
RANDOM = {"task": "hopper", "steps": 500, "quiet": True}


def contents(path):
    with h5py.File(path) as file:
        found = {key: file[key][:] for key in file if key != "infos"}
        found |= {f"infos/{key}": file["infos"][key][:] for key in file["infos"]}
        return found, dict(file.attrs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with data of SAC, SAC's snapshots, and two untrained agents."""
    folder = tmp_path_factory.mktemp("collected")
    orl.collect("sac", out=folder / "sac.hdf5", **SAC)
    TD3BC(TD3BCConfig(**TINY), 11, 3, seed=4).save(folder / "td3_bc")
    # It remembers four steps of the episode, and what it received.
    DT(DTConfig(encoder="mlp", width=8, layers=1, length=4), 11, 3, seed=3).save(folder / "dt")
    return folder


@pytest.fixture(scope="module")
def kinds(folder):
    """Give a small collection of each kind."""
    snapshot, steps = str(folder / "sac-agents" / "step-400"), {"steps": 400, "quiet": True}
    return {
        "random": ("random", RANDOM),
        "sac": ("sac", {**SAC, "snapshots": []}),
        "agent": ("agent", {**steps, "agent": snapshot}),
        "noisy": ("agent", {**steps, "agent": snapshot, "noise": 0.3}),
        "exploring": ("agent", {**steps, "agent": snapshot, "deterministic": False}),
        "remembering": ("agent", {**steps, "agent": str(folder / "dt"), "task": "hopper"}),
    }


@pytest.fixture(scope="module")
def made(folder, kinds):
    """Give the file of each kind, made without a stop."""
    others = {name: folder / f"{name}.hdf5" for name in kinds if name != "sac"}
    for name, out in others.items():
        kind, settings = kinds[name]
        orl.collect(kind, out=out, **settings)
    return {**others, "sac": folder / "sac.hdf5"}


def check_layout(path, robot, steps):
    arrays, attributes = contents(path)
    size, action_size = robot.observation_size, robot.action_size
    assert arrays["observations"].shape == arrays["next_observations"].shape == (steps, size)
    assert arrays["actions"].shape == (steps, action_size)
    assert np.abs(arrays["actions"]).max() <= 1
    terminals, timeouts = arrays["terminals"], arrays["timeouts"]
    for name, array in arrays.items():
        assert array.dtype == (bool if name in ("terminals", "timeouts") else np.float32), name
    assert arrays["rewards"].shape == terminals.shape == timeouts.shape == (steps,)
    assert not (terminals & timeouts).any()
    ends = np.flatnonzero(terminals | timeouts)
    assert ends[-1] == steps - 1
    lengths = np.diff(ends, prepend=-1)
    assert (lengths[timeouts[ends]][: -1 if attributes["last_episode_cut"] else None] == 1000).all()
    assert lengths.max() <= 1000
    follows = (arrays["observations"][1:] == arrays["next_observations"][:-1]).all(1)
    assert np.array_equal(follows, ~(terminals | timeouts)[:-1])
    # An observation is the joints' state, without the way travelled, and with limited velocities.
    positions, velocities = arrays["infos/qpos"][:, 1:], arrays["infos/qvel"].clip(-10, 10)
    seen = arrays["observations"][:, positions.shape[1] :]
    assert np.array_equal(arrays["observations"][:, : positions.shape[1]], positions)
    assert np.array_equal(seen if robot.name != "halfcheetah" else seen.clip(-10, 10), velocities)
    return arrays, attributes


def test_a_file_keeps_to_d4rls_layout_and_says_how_it_was_made(folder):
    """Broken by flags one row late, both flags at once, or a next observation from after the reset."""
    _, attributes = check_layout(folder / "sac.hdf5", find_task("hopper").robot, 500)
    assert attributes["last_episode_cut"]
    told = {"collector": "sac", "task": "hopper", "env_id": "Hopper-v4", "dynamics": "d4rl", "seed": 0, "steps": 500}
    assert told.items() <= attributes.items()
    assert {"offline-rl-suite", "mujoco", "gymnasium", "torch", "return_mean", "normalized_score"} <= set(attributes)
    settings = json.loads(attributes["settings"])
    assert settings | {"random_steps": 200, "batch_size": 8, "discount": 0.99} == settings


def test_afterwards_the_caller_computes_as_before(tmp_path):
    torch.set_flush_denormal(False)
    orl.collect("random", task="hopper", steps=20, out=tmp_path / "x.hdf5", quiet=True)
    assert torch.tensor(1e-39) * 1 != 0


def test_a_time_limit_is_a_timeout_and_the_cut_at_the_end_is_another(tmp_path):
    """Broken by a time limit that terminates, or by the file's last row without a flag."""
    path = orl.collect("random", task="halfcheetah", steps=1010, out=tmp_path / "x.hdf5", quiet=True)
    arrays, attributes = check_layout(path, find_task("halfcheetah").robot, 1010)
    assert np.flatnonzero(arrays["timeouts"]).tolist() == [999, 1009]
    assert not arrays["terminals"].any()
    assert attributes["last_episode_cut"]
    assert attributes["episodes"] == 1
    assert attributes["return_mean"] == pytest.approx(arrays["rewards"][:1000].sum(), rel=1e-5)
    assert orl.load_dataset(path).episode_complete.tolist() == [True, False]


def test_both_modes_read_a_file(folder):
    path = folder / "sac.hdf5"
    arrays, _ = contents(path)
    exact = orl.load_dataset(path)
    assert (len(exact), exact.task, exact.metadata["mode"]) == (500, "hopper", "exact")
    assert np.array_equal(exact.next_observations, arrays["next_observations"])
    assert exact.episode_complete.tolist() == [True] * (len(exact.episode_returns) - 1) + [False]
    ours = orl.load_dataset(path, mode="d4rl")
    for name, column in transitions(arrays, qlearning_dataset(arrays, 1000)).items():
        assert np.array_equal(getattr(ours, name), column), name


def test_what_was_recorded_is_what_the_simulator_does(folder):
    arrays, _ = contents(folder / "sac.hdf5")
    environment = OnlineEnvironment(find_task("hopper"), "d4rl", 0)
    for row, action in enumerate(arrays["actions"]):
        happened = environment.step(action)
        assert np.array_equal(happened.observation, arrays["observations"][row])
        assert np.array_equal(happened.next_observation, arrays["next_observations"][row])
        assert np.float32(happened.reward) == arrays["rewards"][row]
        assert happened.terminated == arrays["terminals"][row]


def test_sac_begins_at_random_without_learning_and_then_explores_as_it_has_learned(folder, made):
    """Broken by a snapshot that is late, by no learning, or by random steps with other numbers than `random` has."""
    arrays, _ = contents(folder / "sac.hdf5")
    chance, _ = contents(made["random"])
    assert np.array_equal(arrays["actions"][:200], chance["actions"][:200])
    assert not np.isclose(arrays["actions"][200:], chance["actions"][200:]).all(1).any()
    noise = Stream(0, "exploration")
    for step in SAC["snapshots"]:
        agent = orl.load_agent(folder / "sac-agents" / f"step-{step}")
        drawn = noise.at(step + 1).standard_normal(3, np.float32)
        assert np.array_equal(agent.act_with_noise(arrays["observations"][step], drawn), arrays["actions"][step])
    files = [folder / "sac-agents" / f"step-{step}" / "weights.safetensors" for step in SAC["snapshots"]]
    weights = [load_file(file)["actor.mlp.layers.0"] for file in files]
    assert torch.equal(weights[0], sac.SAC(sac.Config(**TINY), 11, 3).actor.mlp.layers[0])
    assert not torch.equal(weights[1], weights[0])
    assert not torch.equal(weights[2], weights[1])


def test_a_saved_agent_plays_as_it_is_told(folder, made):
    """Broken by the noise's size, by noise beyond the bounds, or by another way to act than the one asked for."""
    agent = orl.load_agent(folder / "sac-agents" / "step-400")
    played, attributes = contents(made["agent"])
    assert attributes["task"] == "hopper", "by default what the agent was trained for"
    assert np.array_equal(played["actions"], [agent.act(row) for row in played["observations"]])
    noisy, _ = contents(made["noisy"])
    noise = noisy["actions"] - agent.act(noisy["observations"])
    assert 0.27 < noise[np.abs(noisy["actions"]) < 1].std() < 0.33
    assert np.abs(noisy["actions"]).max() == 1
    exploring, _ = contents(made["exploring"])
    drawn = Stream(0, "exploration").at(7).standard_normal(3, np.float32)
    assert np.array_equal(agent.act_with_noise(exploring["observations"][6], drawn), exploring["actions"][6])


def test_an_agent_that_remembers_is_told_rewards_and_where_episodes_begin(folder, made):
    """Broken by no reset, by no reward, or by a reward told at an episode's first step."""
    arrays, _ = contents(made["remembering"])
    agent = orl.load_agent(folder / "dt")
    begins = True
    for row, observation in enumerate(arrays["observations"]):
        if begins:
            agent.reset()
        action = agent.act(observation, None if begins else arrays["rewards"][row - 1])
        assert np.array_equal(action, arrays["actions"][row]), row
        begins = arrays["terminals"][row]
    assert arrays["terminals"].sum() >= 2


@contextlib.contextmanager
def stopped_after(steps, monkeypatch):
    """Let a signal arrive after so many steps; the loop notices at once."""
    append = Recorder.append

    def and_signal(self, happened):
        append(self, happened)
        if len(self.rows()) == steps:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "append", and_signal)
        patch.setattr(collection_run, "LOOK_SECONDS", 0)
        with pytest.raises(Interrupted):
            yield


@pytest.mark.parametrize("name", ["random", "sac", "noisy", "exploring", "remembering"])
def test_stopped_and_resumed_it_ends_in_the_same_bytes(name, kinds, made, tmp_path, monkeypatch):
    """Broken by any state left out: physics, networks, optimisers, replay, or what an agent remembers."""
    kind, settings = kinds[name]
    out = tmp_path / "stopped.hdf5"
    with stopped_after(333, monkeypatch):
        orl.collect(kind, out=out, **settings)
    assert not out.exists()
    with (tmp_path / "stopped.hdf5.partial" / "checkpoint" / "replay-rows.f32").open("ab") as file:
        file.write(b"left by a killed process")
    orl.collect(kind, out=out, resume=True, **settings)
    assert out.read_bytes() == made[name].read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_the_same_seed_gives_the_same_bytes_at_another_time(made, tmp_path):
    """Broken by times, which HDF5 keeps in whole seconds, or by a path in the file."""
    first = made["random"].read_bytes()
    time.sleep(1.1)
    assert orl.collect("random", out=tmp_path / "second.hdf5", **RANDOM).read_bytes() == first
    assert orl.collect("random", out=tmp_path / "third.hdf5", seed=1, **RANDOM).read_bytes() != first


def test_a_file_that_is_there_stays_as_it_is(folder, caplog):
    path = folder / "sac.hdf5"
    before = path.read_bytes()
    with pytest.raises(orl.RunError, match="exists; choose another --out"):
        orl.collect("sac", out=path, **SAC)
    with pytest.raises(
        orl.RunError, match="begun with other settings: steps was 500, now 600; batch_size was 8, now 9"
    ):
        orl.collect("sac", out=path, resume=True, **{**SAC, "steps": 600, "batch_size": 9})
    caplog.set_level(logging.INFO, "offline_rl")
    assert orl.collect("sac", out=path, resume=True, **{**SAC, "quiet": False}) == path
    assert caplog.messages == [f"{path} is finished (500 steps); nothing to do"]
    assert path.read_bytes() == before


def test_what_was_stopped_is_only_resumed_with_its_own_settings(tmp_path, monkeypatch):
    out = tmp_path / "x.hdf5"
    with stopped_after(100, monkeypatch):
        orl.collect("random", out=out, **RANDOM)
    with pytest.raises(orl.RunError, match=r"x\.hdf5\.partial is of a collection that was stopped; add --resume"):
        orl.collect("random", out=out, **RANDOM)
    with pytest.raises(orl.RunError, match="seed was 0, now 1"):
        orl.collect("random", out=out, resume=True, seed=1, **RANDOM)
    with FileLock(tmp_path / "x.hdf5.partial" / ".lock"), pytest.raises(orl.RunError, match="in use by another"):
        orl.collect("random", out=out, resume=True, **RANDOM)
    assert Checkpoint.load(tmp_path / "x.hdf5.partial").step == 100


def test_a_learner_that_diverges_is_no_dataset(tmp_path):
    with pytest.raises(orl.RunError, match="sac has diverged"):
        orl.collect("sac", out=tmp_path / "x.hdf5", critic_learning_rate=1e38, **SAC | {"snapshots": []})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], None),
        (["--task", "hopper"], "say first who plays: offline-rl collect random|agent|sac"),
        (["randm"], "nothing collects by the name 'randm'; did you mean random?"),
        (["random", "--task", "hopper"], "no file to make; give --out"),
        (["random", "--out", "x.hdf5"], "no task to play; give --task"),
        (["random", "--out", "x.hdf5", "--task", "hoper"], "did you mean 'hopper'?"),
        (["random", "--out", "x.hdf5", "--task", "ant"], "D4RL's dynamics of ant have not been verified"),
        (["random", "--out", "x.hdf5", "--task", "hopper", "--steps", "0"], "steps is 0; it must be at least 1"),
        (["random", "--out", "x.hdf5", "--task", "hopper", "--noise", "1"], "unknown option --noise"),
        (["random", "--out", "x.hdf5", "--task", "hopper", "--steps", "1e15"], "more than fit into memory"),
        (["random", "--out", "/dev/null/x.hdf5", "--task", "hopper"], "cannot be written"),
        (["agent", "--out", "x.hdf5"], "no agent; give its folder with --agent"),
        (["agent", "--out", "x.hdf5", "--agent", "nowhere"], "there is no folder nowhere"),
        (["agent", "--out", "x.hdf5", "--agent", "TD3", "--task", "walker2d"], "11 observation entries"),
        (["agent", "--out", "x.hdf5", "--agent", "TD3"], "no task to play; give --task"),
        (["agent", "--out", "x.hdf5", "--agent", "TD3", "--noise", "1", "--deterministic=False"], "leave out one"),
        (
            ["agent", "--out", "x.hdf5", "--agent", "DT", "--task", "hopper", "--noise", "1"],
            "remembers its own actions",
        ),
        (["agent", "--out", "x.hdf5", "--agent", "DT", "--deterministic=False"], "dt has no way to explore"),
        (["sac", "--out", "x.hdf5", "--task", "hopper", "--batch_size", "0"], "batch_size is 0"),
        (["sac", "--out", "x.hdf5", "--task", "hopper", "--normalize"], "normalize needs a dataset"),
        (
            ["sac", "--out", "x.hdf5", "--task", "hopper", "--steps", "9", "--snapshots", "9", "10"],
            "snapshots is [9, 10]",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(arguments, message, folder, tmp_path, capsys):
    agents = {"TD3": str(folder / "td3_bc"), "DT": str(folder / "dt")}
    with contextlib.chdir(tmp_path):
        code = main(["collect", *(agents.get(argument, argument) for argument in arguments)])
    printed = capsys.readouterr()
    if message is None:
        assert code == 0
        assert "usage: offline-rl collect [-h] [OPTIONS] KIND" in printed.out
    else:
        assert code == 2
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert message in printed.err
    assert not list(tmp_path.iterdir())


def words(out, *more):
    flags = ["--task=hopper", "--steps=1500", "--random_steps=300", "--hidden_dims=16", "--batch_size=16"]
    return ["collect", "sac", *flags, "--checkpoint_seconds=0.3", f"--out={out}", *more]


def start(out, *more):
    command = [sys.executable, "-m", "offline_rl", *words(out, *more)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_without_warning_it_resumes_to_the_same_bytes(tmp_path):
    assert "1,500 (mode exact)" in offline_rl(*words(tmp_path / "straight.hdf5")).stdout
    out, partial = tmp_path / "killed.hdf5", tmp_path / "killed.hdf5.partial"
    steps = []
    for least in (1, 700):
        process = start(out, "--resume")
        while process.poll() is None and not (
            partial.exists() and (checkpoint := Checkpoint.load(partial)) and checkpoint.step >= least
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
        steps.append(Checkpoint.load(partial).step)
    assert f"resumed at step {steps[-1]}\n" in offline_rl(*words(out, "--resume")).stderr
    assert 0 < steps[0] < steps[1] < 1500
    assert out.read_bytes() == (tmp_path / "straight.hdf5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.hdf5", "straight.hdf5"]
