"""The programs that speed is compared with: their updates are ours, from equal weights, rows and noise."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import peer_serving, peer_torch
from benchmarks.peer import PYTHON, ROOT, Peer
from benchmarks.peer_parity import networks
from offline_rl.agent import find_algorithm
from offline_rl.data import load_dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.training.updates.sampler import Sampler

PEERS = Path(os.environ.get("OFFLINE_RL_PEERS", PYTHON))
SETTINGS = {"td3_bc": {}, "iql": {"scale_rewards": False}}
FIELDS = ("observation", "action", "reward", "terminated", "next_observation")
UPDATES = 4


def ours(name):
    """Make updates of our agent in float64; return its weights before and after, and the rows and noise of each."""
    found, data = find_algorithm(name), load_dataset("hopper-demo")
    config = found.config_class.of({"hidden_dims": [16, 12], "batch_size": 32, **SETTINGS[name]})
    preprocessing = Preprocessing.fit(data, normalize=True)
    agent = found(config, *preprocessing.sizes, steps=peer_serving.STEPS, dtype=torch.float64)
    sampler = Sampler(agent, PackedRows.of(data, preprocessing))
    batches = [sampler.batch(step) for step in range(1, UPDATES + 1)]
    before = networks(agent)
    for step, batch in enumerate(batches, start=1):
        agent.update(batch, step)
    return before, networks(agent), batches


def largest_gap(found, expected):
    """Return the largest difference of any weight, as a share of one update's step."""
    assert set(found) == set(expected)
    gaps = [
        np.abs(mine - theirs).max() for name in found for mine, theirs in zip(found[name], expected[name], strict=True)
    ]
    return max(gaps) / peer_serving.LEARNING_RATE


def plain_networks(learner):
    """Name a plain learner's networks as :func:`benchmarks.peer_parity.networks` does."""
    named = {"actor": learner.actor}
    named |= {f"critic_{place}": critic for place, critic in enumerate(learner.critics)}
    named |= {f"target_critic_{place}": critic for place, critic in enumerate(learner.target_critics)}
    return named | ({"value": learner.value} if hasattr(learner, "value") else {"target_actor": learner.target_actor})


def tensors_of(learner):
    found = {name: list(network.parameters()) for name, network in plain_networks(learner).items()}
    return found | ({"actor": [learner.log_std, *found["actor"]]} if hasattr(learner, "log_std") else {})


@pytest.mark.parametrize("name", SETTINGS)
def test_plain_pytorchs_updates_are_ours(name, monkeypatch):
    """Broken by another formula, setting, order of steps, or a target that moves at another time."""
    before, after, batches = ours(name)
    learner = peer_torch.LEARNERS[name](11, 3, [16, 12])
    for network in plain_networks(learner).values():
        network.double()
    for network, tensors in tensors_of(learner).items():
        for tensor, start in zip(tensors, before[network], strict=True):
            tensor.data = torch.from_numpy(start.reshape(tensor.shape)).double()
    for batch in batches:
        monkeypatch.setattr(torch, "randn_like", lambda _, batch=batch: batch.draws["target"])
        learner.update([getattr(batch, field) for field in FIELDS])
    found = {
        network: [
            tensor.detach().numpy().reshape(end.shape) for tensor, end in zip(tensors, after[network], strict=True)
        ]
        for network, tensors in tensors_of(learner).items()
    }
    assert largest_gap(found, after) < 1e-9


SCRIPT = """
import sys, numpy as np, jax
jax.config.update("jax_enable_x64", True)
from benchmarks import peer_jax
name, folder, fields = sys.argv[1:]
given = np.load(f"{folder}/given.npz")

def layers(network):
    arrays = [given[f"{network}/{place}"] for place in range(6)]
    return [(jax.numpy.asarray(arrays[place].T), jax.numpy.asarray(arrays[place + 1])) for place in (0, 2, 4)]

def flat(network):
    return [array for weight, bias in network for array in (weight.T, bias)]

networks = {"critics": [layers("critic_0"), layers("critic_1")], "actor": layers("actor")}
if name == "iql":
    networks |= {"actor": {"mean": networks["actor"], "log_std": jax.numpy.asarray(given["log_std"])}}
    networks |= {"value": layers("value")}
update, cycle, targets = peer_jax.UPDATES[name]
state = peer_jax.begin(networks, targets)
update = jax.jit(update, static_argnums=3)
for number in range(len(given["rows/reward"])):
    rows = peer_jax.Rows(*(given[f"rows/{field}"][number] for field in fields.split()))
    state = update(state, rows, given["noise"][number], number % cycle + 1)
found = {f"critic_{place}": flat(critic) for place, critic in enumerate(state.networks["critics"])}
found |= {f"target_critic_{place}": flat(critic) for place, critic in enumerate(state.targets["critics"])}
if name == "iql":
    actor = state.networks["actor"]
    found |= {"value": flat(state.networks["value"]), "actor": [actor["log_std"][None], *flat(actor["mean"])]}
else:
    found |= {"actor": flat(state.networks["actor"]), "target_actor": flat(state.targets["actor"])}
written = {f"{network}/{place}": array for network, arrays in found.items() for place, array in enumerate(arrays)}
np.savez(f"{folder}/found.npz", **written)
"""
"""Makes updates of the JAX program in float64 from what the test has written."""


def has_jax():
    command = [str(PEERS), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('jax') is None)"]
    return PEERS.exists() and subprocess.run(command, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_jaxs_updates_are_ours(name, tmp_path):
    """Broken by another formula, setting, order of steps, or a target that moves at another time."""
    if not has_jax():
        pytest.skip("JAX is not installed; OFFLINE_RL_PEERS names a Python that has it")
    before, after, batches = ours(name)
    start = {network: arrays[1:] if len(arrays) == 7 else arrays for network, arrays in before.items()}
    arrays = {f"{network}/{place}": array for network, own in start.items() for place, array in enumerate(own)}
    arrays |= {f"rows/{field}": np.stack([getattr(batch, field).numpy() for batch in batches]) for field in FIELDS}
    noise = [batch.draws.get("target", torch.zeros(32, 3)).numpy() for batch in batches]
    np.savez(tmp_path / "given.npz", **arrays, noise=noise, log_std=np.zeros(3))
    done = subprocess.run(
        [str(PEERS), "-c", SCRIPT, name, str(tmp_path), " ".join(FIELDS)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as written:
        found = {network: [written[f"{network}/{place}"] for place in range(len(after[network]))] for network in after}
    assert largest_gap(found, after) < 1e-9


@pytest.fixture
def episodes(tmp_path):
    """A file of 40 rows in four episodes, which are cut."""
    rng = np.random.default_rng(0)
    columns = {"observations": rng.normal(size=(40, 5)), "actions": rng.uniform(-1, 1, (40, 2)), "rewards": np.ones(40)}
    np.savez(tmp_path / "rows.npz", **columns, terminals=np.zeros(40), timeouts=np.arange(40) % 10 == 9)
    return str(tmp_path / "rows.npz")


@pytest.mark.parametrize("name", SETTINGS)
def test_plain_pytorch_makes_updates_of_a_files_rows(name, episodes):
    window = peer_torch.build(name, episodes, batch_size=8, hidden_dims=[4])
    assert window(60.0, 2)["updates"] == 2


@pytest.mark.slow
def test_jax_makes_eight_updates_a_call(episodes):
    if not has_jax():
        pytest.skip("JAX is not installed; OFFLINE_RL_PEERS names a Python that has it")
    program = Peer("peer_jax.py", PEERS)
    given = {"data": episodes, "batch_size": 8, "hidden_dims": [4]}
    assert program.ask({"td3_bc": given, "iql": given}) == ["iql", "td3_bc"]
    assert program.ask("version").count(".") >= 2
    assert program.ask({"algorithm": "td3_bc", "seconds": 60, "most": 9})["updates"] == 16
    program.close()


def test_rows_of_a_cut_episode_are_left_out(tmp_path):
    """Broken by a next observation that belongs to another episode, or by a last row that is lost."""
    observations = np.arange(5, dtype=np.float32)[:, None]
    ends = {"terminals": np.array([0, 1, 0, 0, 1.0]), "timeouts": np.array([0, 0, 1, 0, 0.0])}
    columns = {"observations": observations, "actions": -observations, "rewards": observations[:, 0]}
    np.savez(tmp_path / "rows.npz", **columns, **ends)
    observation, action, reward, terminated, following = peer_serving.rows_of(str(tmp_path / "rows.npz"))
    assert reward.tolist() == [0, 1, 3, 4]
    assert terminated.tolist() == [0, 1, 0, 1]
    assert action[:, 0].tolist() == [0, -1, -3, -4]
    scale = observations.std() + 1e-3
    np.testing.assert_allclose(observation[:, 0], (np.array([0, 1, 3, 4]) - 2) / scale, rtol=1e-6)
    np.testing.assert_allclose(following[[0, 2], 0], (np.array([1, 4]) - 2) / scale, rtol=1e-6)


def test_a_window_makes_at_least_one_update_and_no_more_than_it_may():
    assert peer_serving.timed(lambda: 8, 0.0)["updates"] == 8
    assert peer_serving.timed(lambda: 1, 60.0, most=3)["updates"] == 3
