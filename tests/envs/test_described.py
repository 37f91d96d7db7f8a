"""Environments that a file describes: only harmless arguments are taken from it, whichever file it is."""

import json

import h5py
import numpy as np
import pytest

import offline_rl as orl
from offline_rl.envs.described import ARGUMENTS, check_described
from offline_rl.envs.recovered import check_playable, recovered_task
from offline_rl.envs.tasks import Task, find_task
from offline_rl.errors import TaskError

DEEP = "[" * 100_000 + "]" * 100_000


def described(env_id="Hopper-v5", limit=1000, **kwargs):
    return {"id": env_id, "kwargs": kwargs, "max_episode_steps": limit, "wrappers": [], "references": None}


def task(sizes=(11, 3), **changes):
    return recovered_task(described(**changes), observation_size=sizes[0], action_size=sizes[1], mean_return=1.0)


HARMFUL = [
    ({"xml_file": "./mesh.xml"}, "'xml_file'"),
    ({"xml_file": "hopper.xml"}, "'xml_file'"),
    ({"frame_skip": 10**9}, "frame_skip 1000000000; it must be a whole number from 1 to 100"),
    ({"frame_skip": 0}, "frame_skip 0"),
    ({"frame_skip": 4.5}, "frame_skip 4.5"),
    ({"frame_skip": True}, "frame_skip True"),
    ({"reset_noise_scale": 1e300}, "reset_noise_scale 1e[+]300; it must be a number from 0 to 10"),
    ({"reset_noise_scale": float("nan")}, "reset_noise_scale nan"),
    ({"ctrl_cost_weight": "1.0"}, "ctrl_cost_weight '1.0'"),
    ({"ctrl_cost_weight": 10**400}, "ctrl_cost_weight 1000"),
    ({"healthy_reward": [1.0]}, "healthy_reward"),
    ({"terminate_when_unhealthy": 1}, "terminate_when_unhealthy 1; it must be true or false"),
    ({"healthy_z_range": [2.0, 1.0]}, "healthy_z_range .*; it must be two numbers, the smaller one first"),
    ({"healthy_z_range": [0.7, float("nan")]}, "healthy_z_range"),
    ({"healthy_z_range": "ab"}, "healthy_z_range 'ab'"),
    ({"default_camera_config": {"distance": 1.0}}, "'default_camera_config'"),
    ({"width": 10**6}, "'width'"),
    ({"main_body": "torso"}, "'main_body'"),
    ({"a" * 5000: 1}, "'aaaaaaaa"),
]


@pytest.mark.parametrize(("kwargs", "message"), HARMFUL)
def test_an_argument_that_could_harm_is_named_in_one_sentence(kwargs, message):
    with pytest.raises(TaskError, match=message) as caught:
        task(**kwargs)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kwargs", "message"), HARMFUL)
def test_an_agents_own_description_is_held_to_the_same(kwargs, message):
    stored = task().to_json()
    stored["robot"]["env_kwargs"] = json.dumps(kwargs)
    with pytest.raises(TaskError, match=message):
        Task.from_json(stored)


@pytest.mark.parametrize("limit", [0, -1, 100_001, 10**12, True, 1.5])
def test_episodes_have_a_bound(limit):
    with pytest.raises(TaskError, match=r"has max_episode_steps .*; it must be a whole number from 1 to 100,000"):
        task(limit=limit)
    stored = task().to_json()
    stored["robot"]["max_episode_steps"] = limit
    with pytest.raises(TaskError, match="max_episode_steps"):
        Task.from_json(stored)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("GymV26Environment-v0", {"env_id": "os:Hopper-v4"}),
        ("Mine/Hopper-v5", {"frame_skip": 4}),
        ("Mine-v0", {"size": 10**9}),
        ("Mine-v0", {"size": 1}),
        ("Hopper", {"frame_skip": 4}),
    ],
)
def test_what_is_not_known_takes_no_argument(env_id, kwargs):
    with pytest.raises(TaskError, match=r"is not taken from a file \(none is\)"):
        check_described(env_id, kwargs, 1000)
    check_described(env_id, {}, 1000)


def test_a_module_is_never_named():
    with pytest.raises(TaskError, match="names a module to import"):
        check_described("antigravity:Hopper-v5", {}, 1000)


@pytest.mark.parametrize(
    "changes",
    [
        {"env_kwargs": DEEP},
        {"env_kwargs": "{"},
        {"env_kwargs": "[1]"},
        {"reference_min": float("nan")},
        {"reference_max": 0.0},
        {"d4rl": True},
        {"d4rl": True, "name": "hopper", "env_id": "antigravity:Hopper-v4"},
        {"env_id": "antigravity:Hopper-v4"},
    ],
)
def test_a_stored_task_that_is_not_whole_is_one_sentence(changes):
    stored = task().to_json()
    with pytest.raises(TaskError) as caught:
        Task.from_json({**stored, "robot": {**stored["robot"], **changes}})
    assert len(str(caught.value)) < 600


def test_tasks_of_ours_go_through_json_as_they_are():
    for name in ("hopper", "ant-medium-v2", "walker2d-demo"):
        assert Task.from_json(find_task(name).to_json()) == find_task(name)


def test_an_hdf5_file_that_names_a_path_trains_only_without_evaluation(tmp_path):
    path, rows, generator = tmp_path / "evil.hdf5", 100, np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = generator.normal(size=(rows, 11)), generator.uniform(-1, 1, (rows, 3))
        file["rewards"], file["terminals"] = np.zeros(rows), np.arange(rows) % 50 == 49
        file["timeouts"] = np.zeros(rows, bool)
        file.attrs["environment"] = json.dumps(described(xml_file="./mesh.xml"))
    settings = {"steps": 2, "hidden_dims": [8], "batch_size": 8, "workers": 0, "out": str(tmp_path / "run")}
    with pytest.raises(TaskError, match="'xml_file', which is not taken from a file"):
        orl.train("bc", path, **settings)
    assert orl.train("bc", path, eval_every=0, final_episodes=0, **settings).agents


DEFAULTS = {
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 0.1,
    "reset_noise_scale": 0.01,
    "exclude_current_positions_from_observation": True,
    "healthy_reward": 1.0,
    "terminate_when_unhealthy": False,
    "healthy_z_range": [0.5, float("inf")],
}


@pytest.mark.parametrize(
    ("env_id", "sizes"), [("Hopper-v5", (11, 3)), ("Walker2d-v5", (17, 6)), ("HalfCheetah-v5", (17, 6))]
)
def test_what_is_harmless_is_taken(env_id, sizes):
    known = ARGUMENTS[env_id.partition("-")[0]]
    kwargs = {name: value for name, value in DEFAULTS.items() if name in known}
    found = task(sizes, env_id=env_id, frame_skip=3, **kwargs)
    check_playable(found, "plain")
    assert Task.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("AntMaze_UMaze-v4", {"xml_file": "/etc/passwd"}, "'xml_file'"),
        ("AntMaze_UMaze-v4", {"maze_map": [[1] * 40] * 40}, "maze_map .*3 to 30 rows"),
        ("AntMaze_UMaze-v4", {"maze_map": [[1, 1, 1], [1, 0, 0], [1, 1, 1]]}, "maze_map"),
        ("PointMaze_UMaze-v3", {"maze_map": [[1, 1, 1], [1, "c", 1], [1, 1, 1]]}, "maze_map"),
        ("PointMaze_UMaze-v3", {"maze_map": [[1, 1, 1, 1], [1, "x", 0, 1], [1, 1, 1, 1]]}, "maze_map"),
        ("PointMaze_UMaze-v3", {"maze_map": "111"}, "maze_map"),
        ("PointMaze_UMaze-v3", {"reward_type": "large"}, "one of sparse, dense"),
        ("PointMaze_UMaze-v3", {"reward_type": ["sparse"]}, "one of sparse, dense"),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["kettle", "kettle"]}, "different ones of"),
        ("FrankaKitchen-v1", {"tasks_to_complete": []}, "different ones of"),
        ("FrankaKitchen-v1", {"tasks_to_complete": [["kettle"]]}, "different ones of"),
        ("FrankaKitchen-v1", {"model_path": "x.xml"}, "'model_path'"),
    ],
)
def test_mazes_and_kitchens_are_taken_within_bounds(env_id, kwargs, message):
    """A maze without room to begin away from the goal would be drawn for ever."""
    with pytest.raises(TaskError, match=message):
        check_described(env_id, kwargs, 300)


def test_mazes_and_kitchens_as_minari_describes_them_are_taken():
    maze = [[1, 1, 1, 1, 1], [1, "r", 0, 0, 1], [1, 1, 1, 0, 1], [1, "g", 0, 0, 1], [1, 1, 1, 1, 1]]
    both = [[1, 1, 1, 1], [1, "c", "c", 1], [1, 1, 1, 1]]
    flags = {"reward_type": "sparse", "continuing_task": True, "reset_target": False}
    for place in (maze, both, [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]):
        check_described("AntMaze_UMaze-v4", {"maze_map": place, **flags}, 700)
    tasks = ["microwave", "kettle", "light switch", "slide cabinet"]
    check_described("FrankaKitchen-v1", {"tasks_to_complete": tasks, "remove_task_when_completed": True}, 280)
    check_described("AdroitHandPen-v1", {"reward_type": "dense"}, 200)


def test_every_known_argument_is_one_that_gymnasium_takes():
    import importlib.util
    import inspect

    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    from offline_rl.envs.robotics import ROBOTICS, with_robotics

    has_robotics = importlib.util.find_spec("gymnasium_robotics") is not None
    if has_robotics:
        with_robotics("FrankaKitchen-v1")
    for name, known in ARGUMENTS.items():
        if not has_robotics and f"{name}-".startswith(ROBOTICS):
            continue
        versions = [spec for spec in gymnasium.registry.values() if spec.id.rpartition("-v")[0] == name]
        taken = set()
        for spec in versions:
            try:
                taken |= set(inspect.signature(load_env_creator(spec.entry_point)).parameters) | set(spec.kwargs)
            except Exception:  # another library is needed for it
                taken |= set(known)
        assert set(known) <= taken, name
