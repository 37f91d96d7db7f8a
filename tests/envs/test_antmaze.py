"""D4RL's AntMaze, rebuilt: its geometry, its robot, its resets and its end, by the numbers of D4RL's own files."""

import json

import mujoco
import numpy as np
import pytest

from offline_rl.envs import ROBOTS, find_task, make_env
from offline_rl.envs.antmaze import centre
from offline_rl.envs.online import OnlineEnvironment

MEDIUM = """
11111111
1r011001
10010001
11000111
10010001
10100101
100010g1
11111111
"""
"""D4RL's BIG_MAZE_TEST, typed again."""
LARGE = """
111111111111
1r0001000001
101101010101
100000010001
101111011101
100101000001
110101010111
100100010g01
111111111111
"""
"""D4RL's HARDEST_MAZE_TEST, typed again."""


@pytest.fixture
def environment():
    return make_env("antmaze-umaze-v2").unwrapped


@pytest.mark.parametrize(("name", "typed"), [("antmaze-medium", MEDIUM), ("antmaze-large", LARGE)])
def test_the_mazes_are_d4rls(name, typed):
    assert [row.lower() for row in json.loads(ROBOTS[name].env_kwargs)["maze"]] == typed.split()


def test_the_goals_are_where_d4rl_has_them():
    """The goal of the large maze is 32 m to the right of the start and 24 m above."""
    mazes = {size: json.loads(ROBOTS[f"antmaze-{size}"].env_kwargs)["maze"] for size in ("umaze", "medium", "large")}
    assert {size: centre(maze, "G") for size, maze in mazes.items()} == {
        "umaze": (0, 8),
        "medium": (20, 20),
        "large": (32, 24),
    }


def test_walls_stand_around_the_cells(environment):
    model = environment.model
    walls = {
        tuple(np.rint(model.geom_pos[number]).astype(int))
        for number in range(model.ngeom)
        if (mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, number) or "").startswith("wall")
    }
    cells = ["11111", "1r001", "11101", "1g001", "11111"]
    expected = {(4 * x - 4, 4 * y - 4, 1) for y, row in enumerate(cells) for x, cell in enumerate(row) if cell == "1"}
    assert walls == expected
    assert environment.model.geom("wall_0_0").size.tolist() == [2, 2, 1]


def test_the_robot_is_d4rls(environment):
    model = environment.model
    assert (model.opt.timestep, environment.frame_skip, environment.dt) == (0.02, 5, 0.1)
    assert (model.actuator_gear[:, 0] * model.actuator_ctrlrange[:, 1]).tolist() == [30] * 8
    assert model.geom("torso_geom").solref.tolist() == [0.02, 1]
    assert model.geom("torso_geom").solimp[:3].tolist() == [0.8, 0.8, 0.01]
    weight = sum(model.body_mass)
    ball = 5 * 4 / 3 * np.pi * 0.25**3
    # MuJoCo 2.0 weighed a capsule as a cylinder longer by its radius: eight of 0.2 sqrt(2) m, four of twice that.
    short, long = np.sqrt(0.08), 2 * np.sqrt(0.08)
    capsules = 5 * np.pi * 0.08**2 * (8 * (short + 0.08) + 4 * (long + 0.08))
    assert weight == pytest.approx(ball + capsules)


def test_resets_are_d4rls():
    environment = make_env("antmaze-large-play-v2").unwrapped
    positions, goals = [], []
    for seed in range(200):
        observation, _ = environment.reset(seed=seed)
        assert observation.shape == (29,)
        positions.append(observation[:2])
        goals.append(environment.goal.copy())
    assert 0.09 < np.abs(positions).max() <= 0.1
    offsets = np.array(goals) - [32, 24]
    assert offsets.min() >= 0
    assert 1.2 < offsets.max() <= 1.5
    assert np.array_equal(environment.reset(seed=3)[0], environment.reset(seed=3)[0])


def test_an_episode_ends_at_the_goal_and_is_cut_at_the_limit():
    environment = make_env("antmaze-umaze-v2")
    inner = environment.unwrapped
    environment.reset(seed=0)
    positions = inner.data.qpos.copy()
    positions[:2] = inner.goal - [0.3, 0]
    inner.set_state(positions, np.zeros(14))
    observation, reward, terminated, truncated, info = environment.step(np.zeros(8, np.float32))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["goal_distance"] == pytest.approx(np.linalg.norm(observation[:2] - inner.goal))
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(8, np.float32))[1:4] for _ in range(700)]
    assert ends == [(0.0, False, False)] * 699 + [(0.0, False, True)]


def test_a_stopped_episode_goes_on_towards_the_same_goal():
    """Broken by a goal that is no part of the simulator's state: a resumed run would be rewarded elsewhere."""
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 8)).astype(np.float32)
    first, second = (OnlineEnvironment(find_task("antmaze-umaze"), "d4rl", seed) for seed in (0, 1))
    for action in actions[:15]:
        first.step(action)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    goals = [player._environment.goal.tolist() for player in (first, second)]
    assert goals[0] == goals[1]
    for action in actions[15:]:
        one, other = first.step(action), second.step(action)
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))
