"""Names, sizes and scores."""

import subprocess
import sys

import numpy as np
import pytest

from offline_rl.envs import ROBOTS, find_task, normalized_score
from offline_rl.envs.tasks import check_fits
from offline_rl.errors import DatasetError, TaskError


@pytest.mark.parametrize(
    ("name", "robot"),
    [
        ("hopper", "hopper"),
        ("hopper-medium-v2", "hopper"),
        ("halfcheetah-full-replay-v1", "halfcheetah"),
        ("walker2d-medium-expert-v0", "walker2d"),
        ("ant-random-expert-v0", "ant"),
        ("Hopper-v2", "hopper"),
        ("HalfCheetah-v4", "halfcheetah"),
        ("hopper-demo", "hopper"),
        ("walker2d-medium-replay", "walker2d"),
    ],
)
def test_a_known_name_leads_to_its_robot_and_is_kept(name: str, robot: str) -> None:
    task = find_task(name)
    assert task.robot is ROBOTS[robot]
    assert task.name == name


def test_spelling_of_a_file_name_is_understood() -> None:
    assert find_task("hopper_medium_replay") == find_task("hopper-medium-replay")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hoper-medium-v2", "unknown task 'hoper-medium-v2'; did you mean 'hopper-medium-v2'?"),
        ("hopper-medium-v3", "did you mean 'hopper-medium-v2'?"),
        ("hopper-full-replay-v0", "did you mean 'hopper-full-replay-v"),
        ("hopper-random-expert-v0", "unknown task"),
        ("Humanoid-v4", "unknown task 'Humanoid-v4'; known are hopper"),
        ("", "unknown task ''"),
        ("Hopper-v5", "v5 environments have other dynamics"),
        ("mujoco/hopper/expert-v0", "D4RL's task is 'hopper'"),
        ("antmaze-umaze-v3", "did you mean 'antmaze-umaze-v"),
        ("D4RL/door/human-v2", "is a Minari dataset, which brings its own task"),
        ("maze2d-large-v1", "not supported yet"),
    ],
)
def test_another_name_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        find_task(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hopper", "halfcheetah", "walker2d"])
def test_the_reference_returns_score_0_and_100(name: str) -> None:
    robot = ROBOTS[name]
    scores = normalized_score(f"{name}-medium-v2", [[robot.reference_min, robot.reference_max]])
    np.testing.assert_allclose(scores, [[0.0, 100.0]], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "mean_return", "score"),
    [("hopper", 3234.3, 100.0), ("hopper", 0.0, 0.6229), ("walker2d", 0.0, -0.0355), ("halfcheetah", 0.0, 2.2568)],
)
def test_scores_worked_out_by_hand(name: str, mean_return: float, score: float) -> None:
    result = normalized_score(name, mean_return)
    assert isinstance(result, float)
    assert result == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "robot", "sizes", "limit", "low", "high"),
    [
        ("antmaze-umaze-diverse-v0", "antmaze-umaze", (29, 8), 700, 0.0, 1.0),
        ("antmaze-large-play-v2", "antmaze-large", (29, 8), 1000, 0.0, 1.0),
        ("pen-cloned-v1", "pen", (45, 24), 100, 96.262799, 3076.8331),
        ("hammer-human-v0", "hammer", (46, 26), 200, -274.856578, 12794.134825),
        ("door-expert-v1", "door", (39, 28), 200, -56.512833, 2880.569309),
        ("relocate-human-v1", "relocate", (39, 30), 200, -6.425911, 4233.877798),
    ],
)
def test_mazes_and_hands_are_d4rls(  # noqa: PLR0917
    name: str, robot: str, sizes: tuple[int, int], limit: int, low: float, high: float
) -> None:
    found = find_task(name).robot
    assert found is ROBOTS[robot]
    assert (found.observation_size, found.action_size) == sizes
    assert found.max_episode_steps == limit
    np.testing.assert_allclose(normalized_score(name, [low, high]), [0, 100], atol=1e-4)
    assert not found.score_name.startswith("normalised"), "these environments were not compared with D4RL's"


def test_the_kitchen_of_d4rl_has_no_environment_today() -> None:
    with pytest.raises(TaskError, match=r"kitchen has no normalised score: .*today's FrankaKitchen-v1"):
        normalized_score("kitchen-mixed-v0", 3.0)


def test_ant_has_no_score() -> None:
    with pytest.raises(TaskError, match="contact forces"):
        normalized_score("ant-medium-v2", 3000.0)


def test_a_dataset_of_the_robots_sizes_fits() -> None:
    for robot in ROBOTS.values():
        check_fits(find_task(robot.name), robot.observation_size, robot.action_size)


@pytest.mark.parametrize(
    ("observation_size", "action_size", "remedy"),
    [(17, 6, "halfcheetah or walker2d"), (11, 6, "no known robot"), (17, 3, "no known robot")],
)
def test_a_dataset_of_other_sizes_is_refused(observation_size: int, action_size: int, remedy: str) -> None:
    with pytest.raises(DatasetError) as caught:
        check_fits(find_task("hopper"), observation_size, action_size, "dataset 'mine.hdf5'")
    sizes = (
        f"'mine.hdf5' has {observation_size} observation entries and {action_size} action entries, but hopper has 11"
    )
    assert sizes in str(caught.value)
    assert remedy in str(caught.value)


def test_names_and_scores_need_no_simulator() -> None:
    program = "import sys, offline_rl.envs; sys.exit(bool({'mujoco', 'gymnasium', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
