"""Properties of PRDC that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset

from offline_rl.algos.prdc import PRDC, Config
from offline_rl.algos.td3_bc import TD3BC
from offline_rl.algos.td3_bc import Config as TD3BCConfig
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.replay import Replay
from offline_rl.neighbors.search import NearestRows, Query
from offline_rl.training.updates.sampler import Sampler

SMALL = {"hidden_dims": [32, 32], "batch_size": 64}


def packed(dataset):
    return PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))


@pytest.fixture(scope="module")
def rows():
    return packed(random_dataset())


def make(rows, **settings):
    agent = PRDC(Config(**{**SMALL, **settings}), 5, 2)
    agent.prepare(rows)
    return agent, Sampler(agent, rows)


def find(rows, beta, index, action, rank=1):
    return NearestRows(rows, beta, "lists", 64).find(query(rows, index, action), rank).rows


def query(rows, index, action):
    return Query(index, rows.columns(index).observation, action)


def test_a_large_beta_gives_td3_bc_bit_for_bit(rows):
    """Broken by β on the actions instead of the states, or by any other float32 path."""
    prdc, sampler = make(rows, beta=1e4)
    td3_bc = TD3BC(TD3BCConfig(**SMALL), 5, 2)
    for step in range(1, 41):
        batch = sampler.batch(step)
        metrics = prdc.update(batch, step)
        td3_bc.update(batch, step)
        if step % 2 == 0:
            assert metrics["constraint"] == metrics["cloning_constraint"]
    for name, tensor in td3_bc.training_state().items():
        assert torch.equal(tensor, prdc.training_state()[name]), name


def test_beta_zero_ignores_the_state():
    """Broken by keys that forget β."""
    dataset = random_dataset()
    shuffled = np.random.default_rng(1).permutation(len(dataset))
    other = dataclasses.replace(dataset, observations=dataset.observations[shuffled].copy())
    index, action = torch.arange(50), torch.rand(50, 2) * 2 - 1
    found = find(packed(dataset), 0.0, index, action)
    assert torch.equal(found, find(packed(other), 0.0, index, action))
    actions = torch.from_numpy(dataset.actions.copy())
    assert torch.equal(found, torch.cdist(action.double(), actions.double()).argmin(1))


def test_the_constraint_is_never_stronger_than_cloning(rows):
    """Broken by a search that can miss the batch's own row."""
    prdc, sampler = make(rows)
    for step in range(2, 61, 2):
        metrics = prdc.update(sampler.batch(step), step)
        assert metrics["constraint"] <= metrics["cloning_constraint"] * (1 + 1e-6)
        assert metrics["neighbor_distance"] > 0


def test_a_larger_beta_keeps_nearer_to_the_state_and_farther_from_the_action(rows):
    """Broken by β on the wrong part."""
    columns = rows.columns()
    index, action = torch.arange(200), torch.rand(200, 2) * 2 - 1
    state_distances, action_distances = [], []
    for beta in (0.0, 0.1, 1.0, 2.0, 10.0):
        found = find(rows, beta, index, action)
        state_distances.append((columns.observation[index] - columns.observation[found]).norm(dim=1))
        action_distances.append((action - columns.action[found]).norm(dim=1))
    for i in range(4):
        assert (state_distances[i + 1] <= state_distances[i] + 1e-5).all()
        assert (action_distances[i + 1] >= action_distances[i] - 1e-5).all()
    assert (state_distances[4] < state_distances[0] - 0.1).any()


def test_the_constraint_vanishes_on_the_data(rows):
    """Broken by any error in the keys."""
    index = torch.arange(len(rows))
    assert torch.equal(find(rows, 2.0, index, rows.columns().action), index)


def test_the_gradient_of_the_constraint(rows):
    """Broken by another mean, or by a gradient that reaches the reference."""
    prdc, sampler = make(rows, alpha=0.0)
    batch = sampler.batch(2)
    action = (torch.rand(64, 2) * 2 - 1).requires_grad_()
    prdc.actor = lambda _: action
    loss, _ = prdc.actor_loss(batch)
    (gradient,) = torch.autograd.grad(loss, action)
    reference, _ = prdc.reference_action(batch, action)
    assert not reference.requires_grad
    assert torch.allclose(gradient, 2 * (action - reference).detach() / action.numel(), atol=1e-7)


def test_the_order_of_rows_changes_no_loss():
    """Broken by an index that mixes up rows."""
    dataset = random_dataset()
    order = np.random.default_rng(2).permutation(len(dataset))
    fields = ("observations", "actions", "rewards", "terminated", "next_observations")
    moved = Dataset.from_arrays(**{name: getattr(dataset, name)[order] for name in fields})
    place = torch.from_numpy(np.argsort(order))
    prdc, sampler = make(packed(dataset))
    other, _ = make(packed(moved))
    batch = sampler.batch(2)
    same = dataclasses.replace(batch, index=place[batch.index])
    assert torch.allclose(prdc.actor_loss(batch)[0], other.actor_loss(same)[0], rtol=1e-5)


def test_rank_takes_one_neighbour(rows):
    """Broken by averaging the k nearest, or by counting from zero."""
    columns = rows.columns()
    keys = torch.cat([2.0 * columns.observation, columns.action], 1).double()
    index, action = torch.arange(30), torch.rand(30, 2) * 2 - 1
    query = torch.cat([keys[index, :5], action.double()], 1)
    order = torch.cdist(query, keys, compute_mode="donot_use_mm_for_euclid_dist").argsort(1)
    for rank in (1, 2, 5):
        assert torch.equal(find(rows, 2.0, index, action, rank), order[:, rank - 1])


def test_agents_never_share_a_search_by_accident(rows):
    """Broken as where the search structure belongs to the class: the last agent prepared decides for all."""
    first, _ = make(rows)
    other = packed(random_dataset(rows=100, seed=5))
    second, _ = make(other)
    index, action = torch.arange(20), torch.zeros(20, 2)
    before = first.nearest.find(query(rows, index, action), 1).rows
    assert not torch.equal(before, second.nearest.find(query(other, index, action), 1).rows)
    assert torch.equal(before, find(rows, 2.0, index, action))
    third, _ = make(rows)
    assert third.nearest._search is first.nearest._search
    assert make(rows, beta=3.0)[0].nearest._search is not first.nearest._search


@pytest.mark.parametrize("settings", [{"beta": -1.0}, {"neighbor_rank": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(Exception, match="must be at least"):
        Config(**settings)


@pytest.mark.parametrize("search_online", [False, True])
def test_online_the_dataset_alone_constrains_unless_told_otherwise(rows, search_online):
    """Broken by a search that never looks at collected rows, always does, or takes their actions from the dataset."""
    agent, sampler = make(rows, search_online=search_online)
    batch = sampler.batch(1)
    replay = Replay(rows, 40)
    agent.go_online(replay)
    action = agent.actor(batch.observation).detach()
    # What is collected is exactly what is asked for, in the same states.
    filler = torch.zeros(len(action), 2 + rows.columns().observation.shape[1])
    replay.append(torch.cat([batch.observation, action, filler], 1)[:40].numpy())
    reference, _ = agent.reference_action(batch, action)
    nearest = agent.nearest.find(Query(batch.index, batch.observation, action), 1)
    count = min(40, len(action))
    assert bool((nearest.rows[:count] >= len(rows)).all()) is search_online
    assert torch.equal(reference[:count], action[:count]) is search_online
    assert torch.equal(reference, replay.columns(nearest.rows).action)
    assert agent.phase == "online"
