import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset

from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.data.packed import PackedRows, packed
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.replay import Replay
from offline_rl.training.updates.sampler import Sampler


@pytest.fixture(scope="module")
def dataset():
    return random_dataset(rows=300)


@pytest.fixture(scope="module")
def preprocessing(dataset):
    return Preprocessing.fit(dataset, normalize=True)


@pytest.fixture
def rows(dataset, preprocessing):
    return PackedRows.of(dataset, preprocessing)


def fresh(preprocessing, count, seed=1):
    other = random_dataset(rows=count, seed=seed)
    columns = ("observations", "actions", "rewards", "terminated", "next_observations")
    return packed(preprocessing, **{name: getattr(other, name) for name in columns})


def test_online_rows_follow_the_datasets_and_change_none(rows, preprocessing):
    replay = Replay(rows, 100)
    before = rows.gather(torch.arange(300)).clone()
    new = fresh(preprocessing, 70)
    replay.append(new[:30])
    replay.append(new[30:])
    assert len(replay) == 370
    both = replay.columns(torch.arange(370))
    expected = rows.split(torch.cat([before, torch.from_numpy(new)]))
    assert all(torch.equal(a, b) for a, b in zip(both, expected, strict=True))
    assert torch.equal(rows.gather(torch.arange(300)), before)
    assert torch.equal(replay.online(30), torch.from_numpy(new[30:]))


def test_a_replay_may_begin_without_any_dataset(preprocessing):
    """Broken by looking up a row of a dataset that has none."""
    replay = Replay(PackedRows.empty(5, 2), 100)
    new = fresh(preprocessing, 40)
    replay.append(new)
    assert len(replay) == 40
    index = torch.tensor([39, 0, 7])
    expected = torch.from_numpy(new)[index]
    assert torch.equal(torch.cat([part.reshape(3, -1) for part in replay.columns(index)], 1), expected)


def test_agents_share_the_dataset_but_not_what_they_collect(rows, preprocessing):
    first, second = Replay(rows, 10), Replay(rows, 10)
    first.append(fresh(preprocessing, 4))
    assert len(second) == 300
    assert first.offline is second.offline


def test_dataset_and_online_rows_are_drawn_in_proportion(rows, preprocessing):
    """The share of online rows is k / (|D| + k), within three standard deviations."""
    replay = Replay(rows, 100)
    replay.append(fresh(preprocessing, 100))
    sampler = Sampler(TD3BC(Config(hidden_dims=[4], batch_size=256), 5, 2), replay, block=1)
    index = torch.cat([sampler.batch(step).index for step in range(1, 101)])
    share, expected = float((index >= 300).float().mean()), 100 / 400
    assert abs(share - expected) < 3 * np.sqrt(expected * (1 - expected) / len(index))
    assert int(index.max()) == 399


def test_a_batch_may_hold_the_row_collected_just_before_it(rows, preprocessing):
    """Broken by preparing batches ahead: a block of them would know only the rows at its start."""
    replay = Replay(rows, 400)
    sampler = Sampler(TD3BC(Config(hidden_dims=[4], batch_size=64), 5, 2), replay, block=1)
    new = fresh(preprocessing, 400)
    newest = 0
    for step in range(1, 401):
        replay.append(new[step - 1 : step])
        newest += int((sampler.batch(step).index == 299 + step).sum())
    # Expected: the sum over steps of 64 / (300 + step).
    assert 30 < newest < 90


def test_rows_are_drawn_the_same_while_the_replay_does_not_grow(rows):
    agent = TD3BC(Config(hidden_dims=[4], batch_size=64), 5, 2)
    plain, replay = Sampler(agent, rows), Sampler(agent, Replay(rows, 10), block=1)
    assert all(torch.equal(plain.batch(step).index, replay.batch(step).index) for step in (1, 2, 17))
