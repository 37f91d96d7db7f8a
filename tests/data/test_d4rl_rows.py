"""Row for row, against a plain restatement of the loop in D4RL's `qlearning_dataset`."""

import time

import numpy as np
import pytest

from offline_rl.data.hdf5 import load
from offline_rl.data.rows import checked, d4rl_rows
from offline_rl.errors import DatasetError

D4RL_KEYS = {"terminated": "terminals", "truncated": "timeouts"}


def qlearning_dataset(file, max_episode_steps):
    """D4RL's loop with its default `terminate_on_end=False`: the row numbers it takes, one after the other."""
    rows, episode_step = [], 0
    for i in range(len(file["rewards"]) - 1):
        done = bool(file["terminals"][i])
        final = file["timeouts"][i] if "timeouts" in file else episode_step == max_episode_steps - 1
        if final:
            episode_step = 0
            continue
        if done:
            episode_step = 0
        rows.append(i)
        episode_step += 1
    return rows


def transitions(file, rows):
    rows = np.array(rows, int)
    return {
        "observations": file["observations"][rows].astype(np.float32),
        "actions": file["actions"][rows].astype(np.float32),
        "rewards": file["rewards"][rows].astype(np.float32),
        "next_observations": file["observations"][rows + 1].astype(np.float32),
        "terminated": file["terminals"][rows].astype(bool),
    }


def generated(make_arrays, seed):
    rng = np.random.default_rng(seed)
    return make_arrays(
        rng, int(rng.integers(2, 300)), ends=rng.choice([0.0, 0.02, 0.1, 0.4]), timeouts=bool(rng.random() < 0.5)
    )


@pytest.mark.parametrize("seed", range(200))
def test_generated_rows(make_arrays, seed):
    file = generated(make_arrays, seed)
    limit = int(np.random.default_rng(seed).choice([1, 2, 3, 7, 20]))
    recording = checked(
        "generated",
        {name: file.get(D4RL_KEYS.get(name, name)) for name in (*file, "terminated", "truncated")},
        time_limit=limit,
    )
    selection = d4rl_rows(recording)
    expected = qlearning_dataset(file, limit)
    assert selection.rows.tolist() == expected
    following = transitions(file, expected)
    assert np.array_equal(selection.next_observations, following["next_observations"])
    assert np.array_equal(selection.terminated, following["terminated"])


@pytest.mark.parametrize("seed", range(12))
def test_generated_files(make_arrays, write, seed):
    file = generated(make_arrays, seed)
    expected = qlearning_dataset(file, 1000)
    if not expected:
        with pytest.raises(DatasetError, match="no usable transition"):
            load(write(file), "d4rl")
        return
    dataset = load(write(file), "d4rl")
    for field, value in transitions(file, expected).items():
        assert np.array_equal(getattr(dataset, field), value), field


def test_a_file_without_timeouts_has_the_limit_of_1000(make_arrays, write):
    file = make_arrays(np.random.default_rng(0), 5000, ends=0.0, timeouts=False)
    file["terminals"][[400, 3000]] = True
    expected = qlearning_dataset(file, 1000)
    assert sorted(set(range(5000)) - set(expected)) == [1399, 2399, 3999, 4999]
    dataset = load(write(file), "d4rl")
    for field, value in transitions(file, expected).items():
        assert np.array_equal(getattr(dataset, field), value), field
    assert dataset.episode_lengths.tolist() == [401, 1000, 1000, 600, 1000, 999], "episodes are those truly recorded"
    assert dataset.episode_complete.tolist() == [True] * 5 + [False]


def test_last_row_both_flags_and_returns_as_recorded(write):
    file = {
        "observations": np.arange(6.0)[:, None],
        "actions": np.zeros((6, 1)),
        "rewards": np.arange(6.0),
        "terminals": np.array([0, 1, 0, 1, 0, 1], bool),
        "timeouts": np.array([0, 0, 0, 1, 0, 0], bool),
        "next_observations": np.full((6, 1), 99.0),
    }
    dataset = load(write(file), "d4rl")
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 4]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 3, 5]
    assert dataset.terminated.tolist() == [False, True, False, False]
    assert dataset.episode_returns.tolist() == [1, 5, 9]
    assert dataset.episode_lengths.tolist() == [2, 2, 2]
    assert dataset.episode_complete.all()
    assert dataset.episode_bounds.tolist() == [0, 2, 3, 4]


def test_exact_rows_of_the_same_file(write):
    file = {
        "observations": np.arange(6.0)[:, None],
        "actions": np.zeros((6, 1)),
        "rewards": np.arange(6.0),
        "terminals": np.array([0, 1, 0, 1, 0, 0], bool),
        "timeouts": np.array([0, 0, 0, 1, 0, 1], bool),
        "next_observations": np.full((6, 1), 99.0),
    }
    dataset = load(write(file, last_episode_cut=True), "exact")
    assert dataset.next_observations[:, 0].tolist() == [99] * 6
    assert dataset.terminated.tolist() == [False, True, False, True, False, False]
    assert dataset.truncated.tolist() == [False] * 5 + [True]
    assert dataset.episode_complete.tolist() == [True, True, False]
    del file["next_observations"]
    dataset = load(write(file), "exact")
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert dataset.next_observations[:, 0].tolist() == [1, 1, 3, 3, 5]
    assert dataset.episode_complete.all()


def test_two_million_rows_take_less_than_half_of_the_time_of_the_plain_loop():
    """A ratio of processor times within one run, so that the machine does not matter; broken by a loop over rows."""
    rows = 2_000_000
    file = {"rewards": np.zeros(rows, np.float32), "terminals": np.random.default_rng(0).random(rows) < 0.05}
    unused = {name: np.zeros((rows, 1), np.float32) for name in ("observations", "actions")}
    recording = checked(
        "large", {**unused, "rewards": file["rewards"], "terminated": file["terminals"]}, time_limit=1000
    )
    began = time.process_time()
    found = d4rl_rows(recording).rows
    ended = time.process_time()
    assert found.tolist() == qlearning_dataset(file, 1000)
    assert ended - began < (time.process_time() - ended) / 2


def test_agrees_with_d4rl_itself(make_arrays):
    d4rl = pytest.importorskip("d4rl", reason="d4rl is not installed", exc_type=Exception)
    file = generated(make_arrays, 4)

    class Environment:
        _max_episode_steps = 1000

    theirs = d4rl.qlearning_dataset(Environment(), dataset=file)
    ours = transitions(file, qlearning_dataset(file, 1000))
    assert np.array_equal(theirs["next_observations"], ours["next_observations"])
    assert np.array_equal(theirs["terminals"], ours["terminated"])
