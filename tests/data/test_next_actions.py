"""Which action followed a row: known where the episode goes on and its next row is among the data, else not."""

import numpy as np
import pytest
import torch
from helpers.datasets import linked, random_dataset

from offline_rl.agent import Batch, NextActionBatch
from offline_rl.algos.rebrac import Config, ReBRAC
from offline_rl.algos.td3_bc import TD3BC
from offline_rl.algos.td3_bc import Config as TD3BCConfig
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows, packed
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.replay import Replay
from offline_rl.data.rows import checked, d4rl_rows, exact_rows
from offline_rl.training.updates.sampler import Prefetcher, Sampler

SEEDS = range(8)


def recorded(seed, rows=300, *, following=False, time_limit=None):
    """Make rows with terminal ones, cut ones, both at once, and episodes of one row; by chance the last row is one."""
    rng = np.random.default_rng(seed)
    terminated, truncated = rng.random(rows) < 0.1, rng.random(rows) < 0.1
    arrays = {
        "observations": rng.standard_normal((rows, 4)),
        "actions": rng.uniform(-1, 1, (rows, 2)),
        "rewards": rng.standard_normal(rows),
        "terminated": terminated,
        "truncated": None if time_limit else truncated,
    }
    if following:
        arrays["next_observations"] = rng.standard_normal((rows, 4))
        goes_on = np.flatnonzero(~(terminated | truncated)[:-1])
        arrays["next_observations"][goes_on] = arrays["observations"][goes_on + 1]
    return checked("made", arrays, time_limit=time_limit)


def next_actions(dataset, index=None, normalize=True):
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=normalize))
    return rows.next_actions(torch.arange(len(rows)) if index is None else index)


def check(recording, selection):
    """Compare with the recording itself: of a row that is used, the next one follows if it is of the same episode."""
    action, known = next_actions(Dataset.assemble(recording, selection, name="made", metadata={}))
    used, ends = set(selection.rows.tolist()), recording.terminated | recording.truncated
    for place, row in enumerate(selection.rows.tolist()):
        expected = row + 1 in used and not ends[row]
        assert bool(known[place]) == expected, row
        if expected:
            assert np.array_equal(action[place].numpy(), recording.actions[row + 1])
    return known


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_dataset_without_next_observations(seed):
    """Broken by a plain shift of the actions, which gives terminal rows the next episode's."""
    recording = recorded(seed)
    known = check(recording, exact_rows(recording))
    assert 0.5 < known.double().mean() < 1


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_dataset_with_next_observations(seed):
    """Here cut rows and the last one stay, with an observation after which nothing is known to have been done."""
    recording = recorded(seed, following=True)
    selection = exact_rows(recording)
    known = check(recording, selection)
    assert len(selection.rows) == 300
    assert not known[-1]
    assert not known[torch.from_numpy(recording.truncated)].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_of_d4rls_rows(seed):
    """The row at a time limit is left out, so of the row before it the next action is not known."""
    recording = recorded(seed)
    check(recording, d4rl_rows(recording))


@pytest.mark.parametrize("seed", SEEDS)
def test_of_d4rls_rows_where_time_limits_are_counted(seed):
    """D4RL leaves out a row inside an episode there; broken by taking whichever row of the episode comes next."""
    recording = recorded(seed, time_limit=7)
    selection = d4rl_rows(recording)
    check(recording, selection)
    ends = recording.terminated | recording.truncated
    assert any(not ends[row + 1] for row in selection.rows[:-1] if row + 1 not in selection.rows)


def test_of_joined_datasets():
    parts = [recorded(seed, 40, following=True) for seed in (0, 1)]
    one, other = (Dataset.assemble(part, exact_rows(part), name="made", metadata={}) for part in parts)
    _, known = next_actions(one + other, normalize=False)
    assert torch.equal(known, torch.cat([next_actions(part, normalize=False)[1] for part in (one, other)]))


def test_of_rows_that_lead_nowhere_none_is_known():
    _, known = next_actions(random_dataset(50))
    assert not known.any()


@pytest.mark.parametrize("size", [0, 60])
def test_of_rows_collected_online(size):
    """The next action of the newest row is known with the next row, unless the episode has ended."""
    part = recorded(3, 60, following=True)
    dataset = Dataset.assemble(part, exact_rows(part), name="made", metadata={})
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    rows = PackedRows.of(dataset, preprocessing) if size else PackedRows.empty(4, 2)
    new = recorded(4, 50, following=True)
    columns = ("observations", "actions", "rewards", "terminated", "next_observations")
    matrix = packed(preprocessing, **{name: getattr(new, name) for name in columns})
    replay, ends = Replay(rows, 50), new.terminated | new.truncated
    for count in range(1, 51):
        replay.append(matrix[count - 1 : count])
        action, known = replay.next_actions(torch.arange(size + count))
        expected = [*(~ends[: count - 1]).tolist(), False]
        assert known[size:].tolist() == expected
        assert torch.equal(action[size:][known[size:]], torch.from_numpy(new.actions[1:count][~ends[: count - 1]]))
        if size:
            before = rows.next_actions(torch.arange(size))
            assert all(torch.equal(a[:size], b) for a, b in zip((action, known), before, strict=True))


def sampler_of(algorithm, config, block=16):
    dataset = linked(random_dataset(200))
    agent = algorithm(config(hidden_dims=[8], batch_size=32), 5, 2)
    return Sampler(agent, PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True)), block), dataset


@pytest.mark.parametrize("block", [1, 16])
def test_a_batch_brings_them_to_who_asks(block):
    sampler, dataset = sampler_of(ReBRAC, Config, block)
    batch = sampler.batch(5)
    index = batch.index.numpy()
    expected = (index < 199) & ~dataset.terminated[index]
    assert np.array_equal(batch.next_known.numpy() > 0, expected)
    assert np.array_equal(batch.next_action.numpy()[expected], dataset.actions[index[expected] + 1])
    assert batch.next_known.dtype == torch.float32


def test_a_batch_made_on_the_device_is_the_same():
    sampler, _ = sampler_of(ReBRAC, Config)
    prefetcher = Prefetcher([sampler], torch.device("cpu"), torch.float32)
    for step in (1, 2, 3):
        prefetcher.ready(step)
        made, expected = prefetcher.batch(), sampler.batch(step)
        assert type(made) is type(expected) is NextActionBatch
        assert all(torch.equal(getattr(made, name), getattr(expected, name)) for name in ("next_action", "next_known"))


def test_who_does_not_ask_pays_nothing(monkeypatch):
    """Broken by looking for following rows for everybody, or by another draw of rows for who asks."""
    asking, _ = sampler_of(ReBRAC, Config)
    expected = asking.batch(3)
    monkeypatch.delattr(PackedRows, "next_actions")
    plain, _ = sampler_of(TD3BC, TD3BCConfig)
    batch = plain.batch(3)
    assert type(batch) is Batch
    assert torch.equal(batch.index, expected.index)
    assert torch.equal(batch.draws["target"], expected.draws["target"])
