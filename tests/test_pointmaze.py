"""The collection of PointMaze: the controller's way, and the set that it makes."""

import numpy as np
import pytest
from helpers.needs import needs_robotics

from benchmarks import pointmaze
from offline_rl.data import load_dataset


def distances(walls, end):
    """Return the number of steps to a cell from each free one, by spreading them until nothing changes."""
    steps = np.full(walls.shape, np.inf)
    steps[end] = 0
    while True:
        around = [np.roll(steps, shift, axis) for axis in (0, 1) for shift in (1, -1)]
        nearer = np.where(walls, np.inf, np.minimum(steps, np.min(around, axis=0) + 1))
        if np.array_equal(nearer, steps):
            return steps
        steps = nearer


def test_the_way_is_a_shortest_one():
    generator = np.random.default_rng(0)
    for _ in range(20):
        walls = np.pad(generator.random((6, 7)) < 0.3, 1, constant_values=True)
        free = [tuple(cell) for cell in np.argwhere(~walls)]
        start, end = (free[generator.integers(len(free))] for _ in range(2))
        steps = distances(walls, end)
        if np.isinf(steps[start]):
            continue
        way = pointmaze.way(walls, start, end)
        assert len(way) == steps[start]
        for before, cell in zip([start, *way], way, strict=False):
            assert not walls[cell]
            assert abs(before[0] - cell[0]) + abs(before[1] - cell[1]) == 1
        assert (way[-1] if way else start) == end


@needs_robotics
@pytest.mark.parametrize("astray", [0.0, 1.0])
def test_a_controller_that_never_goes_astray_reaches_every_goal(astray, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    pointmaze.collect("test/maze-v0", 1000, noise=0.0, astray=astray)
    dataset = load_dataset("test/maze-v0")
    assert len(dataset) >= 1000
    ends = dataset.episode_bounds[1:] - 1
    # A reward is earned at the goal, and ends the episode; all others are cut after 300 steps.
    at_goal = np.linalg.norm(dataset.next_observations[:, :2] - dataset.next_observations[:, -2:], axis=1) <= 0.45
    assert np.array_equal(dataset.rewards == 1, at_goal)
    assert np.array_equal(np.flatnonzero(dataset.terminated), np.flatnonzero(at_goal))
    assert set(dataset.episode_lengths[~dataset.terminated[ends]]) <= {300}
    assert dataset.terminated[ends].all() == (astray == 0)
    assert "reach the goal" in capsys.readouterr().out
