import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset
from parity.harness import UPDATES, check_float32, check_float64
from parity.test_td3_bc import ROBUST, PlainTD3BC, td3_bc_weights

from offline_rl.algos.prdc import PRDC, Config
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.training.updates.sampler import Sampler

SETTINGS = [{}, {"beta": 0.1, "neighbor_rank": 3, "alpha": 40.0, "neighbors": "tree"}, ROBUST]


class PlainPRDC(PlainTD3BC):
    """PRDC as its authors' program states it: TD3+BC with the action of the row nearest to (s, π(s)).

    The rows that the agent found are compared with a search of every row, then used by both sides.
    """

    def __init__(self, agent):
        super().__init__(agent)
        self.agent = agent
        columns = agent.test_rows.columns()
        beta = torch.tensor(agent.config.beta, dtype=torch.float32)
        self.actions = columns.action
        self.keys = torch.cat([beta * columns.observation, columns.action], 1).double()

    def actor_loss(self, b):
        action = torch.tanh(self.actor(b.observation))
        found = self.agent.test_found
        self.compare(found, b.index, action.detach().float().double())
        q = self.critics[0](torch.cat([b.observation, action], 1))[:, 0]
        weight = self.c.alpha / q.abs().mean().detach()
        return -weight * q.mean() + ((action - self.actions[found].double()) ** 2).mean()

    def compare(self, found, index, action):
        queries = torch.cat([self.keys[index, : -action.shape[1]], action], 1)
        distances = (queries[:, None] - self.keys[None]).square().sum(2).sqrt()
        nearest = distances.sort(dim=1, stable=True)
        rank = self.c.neighbor_rank - 1
        # Distances, not rows: on its own path this side's policy differs in the last bits.
        assert torch.allclose(distances.gather(1, found[:, None]), nearest.values[:, rank, None], rtol=1e-5, atol=1e-7)
        assert (nearest.indices[:, rank] == found).float().mean() > 0.99


def prepared(settings, dtype):
    dataset = random_dataset(rows=1000, observation_size=11, action_size=3, places=50)
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    agent = PRDC(Config(**settings), 11, 3, dtype=dtype)
    agent.test_rows = PackedRows.of(dataset, preprocessing)
    agent.prepare(agent.test_rows)
    sampler = Sampler(agent, agent.test_rows)
    find = agent.nearest.find

    def spy(query, rank, after=None):
        found = find(query, rank)
        agent.test_found = found.rows
        return found

    agent.nearest.find = spy
    return agent, [sampler.batch(step) for step in range(1, UPDATES + 1)]


@pytest.mark.parametrize("settings", SETTINGS)
def test_prdc_in_float64(settings):
    agent, batches = prepared(settings, torch.float64)
    check_float64(agent, PlainPRDC, td3_bc_weights, batches)


@pytest.mark.parametrize("settings", SETTINGS)
def test_prdc_in_float32(settings):
    agent, batches = prepared(settings, torch.float32)
    check_float32(agent, PlainPRDC, td3_bc_weights, batches)


def test_the_spy_sees_other_rows_than_the_batchs():
    """Guard the test itself: were the reference action the batch's own, the rows would be the batch's."""
    agent, batches = prepared({}, torch.float32)
    for step in (1, 2):
        agent.update(batches[step - 1], step)
    assert not np.array_equal(agent.test_found.numpy(), batches[1].index.numpy())
