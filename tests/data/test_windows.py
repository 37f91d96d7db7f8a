"""Windows and histories against a plain loop over episodes; each test names the mistake that breaks it."""

import numpy as np
import pytest
import torch

from offline_rl.data import Dataset
from offline_rl.data.history import History
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.windows import EpisodeWindows, Windows
from offline_rl.errors import AgentError

LENGTHS = [1, 5, 2, 30, 1, 7]


def episodes(lengths=LENGTHS, keep_next=True):
    """Make episodes in which every number tells the row it belongs to; the last one is a fragment."""
    rows = sum(lengths)
    ends = np.cumsum(lengths) - 1
    truncated = np.zeros(rows, bool)
    truncated[ends[:-1:2]] = True
    terminated = np.zeros(rows, bool)
    terminated[ends[1:-1:2]] = True
    number = np.arange(rows, dtype=float)
    return Dataset.from_arrays(
        observations=np.stack([number, number + 0.5], 1),
        actions=(number / rows)[:, None],
        rewards=number + 1,
        terminated=terminated,
        truncated=truncated,
        next_observations=np.stack([number + 1, number + 1.5], 1) if keep_next else None,
    )


def packed(dataset):
    return PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=False))


@pytest.mark.parametrize(("history", "future"), [(1, 1), (4, 1), (1, 6), (3, 5), (40, 40)])
def test_windows_are_the_episodes_own_rows(history, future):
    """Broken by a window that runs into the next episode, by one row too many, or by padding on the wrong side."""
    dataset = episodes()
    rows = packed(dataset)
    steps = EpisodeWindows(rows).around(torch.arange(len(rows)), Windows(history, future))
    assert steps.mask.shape == (len(rows), history + future - 1)
    bounds = dataset.episode_bounds
    for row in range(len(rows)):
        episode = np.searchsorted(bounds, row, side="right") - 1
        first, end = bounds[episode], bounds[episode + 1]
        wanted = np.arange(row - history + 1, row + future)
        inside = (wanted >= first) & (wanted < end)
        assert np.array_equal(steps.mask[row].numpy(), inside)
        kept, own = wanted[inside], torch.from_numpy(inside)
        assert np.array_equal(steps.observation[row][own].numpy(), dataset.observations[kept])
        assert np.array_equal(steps.next_observation[row][own].numpy(), dataset.next_observations[kept])
        assert np.array_equal(steps.action[row][own].numpy(), dataset.actions[kept])
        assert np.array_equal(steps.reward[row][own].numpy(), dataset.rewards[kept])
        assert np.array_equal(steps.terminated[row][own].numpy(), dataset.terminated[kept])
        assert np.array_equal(steps.time[row][own].numpy(), kept - first)
        assert np.array_equal(
            steps.previous_reward[row][own].numpy(), [dataset.rewards[r - 1] if r > first else 0 for r in kept]
        )
        assert np.array_equal(steps.return_to_go[row][own].numpy(), [dataset.rewards[r:end].sum() for r in kept])


def test_the_return_to_go_counts_rewards_of_rows_left_out():
    """Broken by sums over the rows in training alone: without successors, the last row of a cut episode is missing."""
    dataset = episodes(keep_next=False)
    assert len(dataset) < sum(LENGTHS)
    steps = EpisodeWindows(packed(dataset)).around(torch.from_numpy(dataset.episode_bounds[:-1].copy()), Windows(1, 1))
    assert np.array_equal(steps.return_to_go[:, 0].numpy(), dataset.episode_returns)


def test_long_data_keeps_its_precision():
    """Broken by running sums in float32."""
    lengths = [1000] * 200
    dataset = episodes(lengths)
    steps = EpisodeWindows(packed(dataset)).around(torch.tensor([len(dataset) - 3]), Windows(1, 3))
    assert torch.equal(steps.return_to_go[0, -1], steps.reward[0, -1])


def test_rows_drawn_uniformly_are_episodes_by_length():
    """Broken by drawing an episode first, and then a place in it."""
    dataset = episodes([1, 9])
    steps = EpisodeWindows(packed(dataset)).around(torch.arange(len(dataset)), Windows(1, 1))
    assert (steps.time[:, 0] == torch.tensor([0, *range(9)])).all()


def test_a_history_grows_like_a_window():
    """Broken by a reward put one step late, by a crop of the wrong end, or by a time that stops at K."""
    dataset = episodes([8, 3])
    history = History(4, 1)
    windows = EpisodeWindows(packed(dataset))
    for time in range(8):
        history.set_reward(None if time == 0 else dataset.rewards[time - 1 : time])
        steps = history.append_observation(torch.from_numpy(dataset.observations[time : time + 1].copy()))
        known = windows.around(torch.tensor([time]), Windows(4, 1))
        count = min(time + 1, 4)
        assert steps.mask.all()
        assert steps.mask.shape == (1, count)
        for name in ("observation", "previous_reward", "time"):
            assert torch.equal(vars(steps)[name], vars(known)[name][:, -count:]), name
        assert torch.equal(steps.action[:, :-1], known.action[:, -count:-1])
        assert torch.equal(steps.return_to_go, known.return_to_go[:, -count:] - float(dataset.episode_returns[0]))
        assert (steps.action[:, -1] == 0).all()
        history.set_action(torch.tensor(dataset.actions[time : time + 1]))


def played(history, observations, rewards=None):
    history.set_reward(rewards)
    steps = history.append_observation(torch.as_tensor(observations, dtype=torch.float32)[:, None])
    history.set_action(torch.zeros(len(observations), 1))
    return steps


def test_environments_begin_anew_apart_from_each_other():
    """Broken by a mask that forgets everybody, or by the last reward of an episode counted in the next one."""
    history = History(3, 1)
    played(history, [1.0, 2.0])
    played(history, [3.0, 4.0], [10.0, 20.0])
    history.reset(np.array([True, False]))
    steps = played(history, [5.0, 6.0], [100.0, 200.0])
    assert steps.mask.tolist() == [[False, False, True], [True, True, True]]
    assert steps.return_to_go[:, -1].tolist() == [0.0, -220.0]
    assert steps.previous_reward[:, -1].tolist() == [0.0, 200.0]
    assert steps.time[:, -1].tolist() == [0, 2]
    steps = played(history, [7.0, 8.0], [1.0, 2.0])
    assert steps.return_to_go[:, -1].tolist() == [-1.0, -222.0]
    assert steps.mask.tolist() == [[False, True, True], [True, True, True]]


def test_another_number_of_environments_needs_a_reset():
    history = History(3, 1)
    played(history, [1.0, 2.0])
    for act in (
        lambda: played(history, [1.0]),
        lambda: history.set_reward([1.0]),
        lambda: history.reset([True, False, True]),
    ):
        with pytest.raises(AgentError, match="remembers 2; call reset"):
            act()
    with pytest.raises(AgentError, match="reward holds NaN"):
        history.set_reward([1.0, np.nan])
    history.reset()
    assert played(history, [1.0]).mask.shape == (1, 1)
