"""Mazes, kitchens and hands of Gymnasium-Robotics: sets made by playing, read, trained on, played and exported."""

import json
import sys
import warnings

import gymnasium
import numpy as np
import onnxruntime
import pytest
from helpers.needs import needs_robotics
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.data import load_dataset
from offline_rl.envs import find_task
from offline_rl.envs.layout import Layout
from offline_rl.envs.recovered import check_playable
from offline_rl.envs.registry import RAW, STATED, SUCCESS
from offline_rl.envs.robotics import ROBOTICS, with_robotics
from offline_rl.envs.vector import rollout
from offline_rl.errors import AgentError, TaskError

pytestmark = needs_robotics

STEPS, EPISODES = 12, 3
MAZE = [[1, 1, 1, 1, 1], [1, "r", 0, 0, 1], [1, 1, 1, 0, 1], [1, "g", 0, 0, 1], [1, 1, 1, 1, 1]]
FAMILIES = {
    "point": ("PointMaze_UMaze-v3", {"maze_map": MAZE, "continuing_task": False}),
    "ant": ("AntMaze_UMaze-v4", {"maze_map": MAZE}),
    "kitchen": ("FrankaKitchen-v1", {"tasks_to_complete": ["microwave", "kettle"]}),
    "pen": ("AdroitHandPen-v1", {}),
}
families = pytest.mark.parametrize(
    "family", [name if name == "point" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make the set of a family, once: give its id and what was seen, as the environment gave it."""
    patch, known = pytest.MonkeyPatch(), {}
    patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))

    def make(family):
        if family not in known:
            known[family] = _play(family)
        return known[family]

    yield make
    patch.undo()


def _play(family, **references):
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    env_id, kwargs = FAMILIES[family]
    with_robotics(env_id)
    env = gymnasium.make(gymnasium.spec(env_id), max_episode_steps=STEPS, disable_env_checker=True, **kwargs)
    env.action_space.seed(0)
    buffers, kept = [], []
    for seed in range(EPISODES):
        observation, _ = env.reset(seed=seed)
        seen, actions, rewards, flags = [observation], [], [], []
        for _ in range(STEPS):
            actions.append(env.action_space.sample())
            observation, reward, *ends, _ = env.step(actions[-1])
            seen, rewards, flags = [*seen, observation], [*rewards, float(reward)], [*flags, ends]
        ends = np.array(flags)
        buffers.append(
            EpisodeBuffer(
                observations=_stacked(seen),
                actions=np.array(actions),
                rewards=rewards,
                terminations=ends[:, 0],
                truncations=ends[:, 1],
                infos={},
            )
        )
        kept.append(seen)
    name = f"test/{family}-v0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(name, buffers, env=env, **references)
    env.close()
    return name, kept


def _stacked(observations):
    if isinstance(observations[0], dict):
        return {key: _stacked([each[key] for each in observations]) for key in observations[0]}
    return np.array(observations)


def followed(observation, name):
    """Look a number up by following its name."""
    for key in name.split("."):
        observation = observation[key] if isinstance(observation, dict) else observation[int(key)]
    return observation


@families
def test_each_number_is_where_its_name_says_and_comes_back_from_both_formats(family, made, tmp_path):
    name, seen = made(family)
    dataset = load_dataset(name)
    assert len(dataset) == STEPS * EPISODES
    names = dataset.observation_names
    if family == "pen":
        assert names is None
    else:
        assert names[0].startswith("achieved_goal")
        assert names[-1].startswith("desired_goal")
    for row, (episode, step) in enumerate((e, s) for e in range(EPISODES) for s in range(STEPS)):
        for vectors, at in ((dataset.observations, step), (dataset.next_observations, step + 1)):
            observation = seen[episode][at]
            wanted = [followed(observation, entry) for entry in names] if names else observation
            assert np.array_equal(vectors[row], np.asarray(wanted, np.float32))
    orl.export_dataset(dataset, f"test/again/{family}-v0", "minari")
    file = orl.export_dataset(dataset, tmp_path / "again.hdf5")
    for again in (load_dataset(f"test/again/{family}-v0"), load_dataset(file)):
        assert again.fingerprint == dataset.fingerprint
        assert again.observation_names == names
        assert again.find_task() == dataset.find_task()


@families
def test_an_agent_trains_acts_on_dictionaries_plays_resumes_and_is_exported(family, made, tmp_path):
    name, seen = made(family)
    settings = {**TINY, "workers": 0, "eval_every": 0, "final_episodes": 2, "preset": "none"}
    run = orl.train("td3_bc", name, out=str(tmp_path / "run"), steps=8, **settings)
    (final,) = [row for row in run.rows if row["kind"] == "final"]
    assert final["length"] <= STEPS
    assert ("success" in final) == (family != "kitchen")
    assert ("goal_distance" in final) == (family != "pen")
    straight = (run.path / "agents" / "seed-0" / "weights.safetensors").read_bytes()
    orl.train("td3_bc", name, out=str(tmp_path / "cut"), steps=3, **settings)
    resumed = orl.train("td3_bc", name, out=str(tmp_path / "cut"), steps=8, resume=True, **settings)
    assert (resumed.path / "agents" / "seed-0" / "weights.safetensors").read_bytes() == straight

    agent = orl.load_agent(run.path)
    dataset = load_dataset(name)
    batch = _stacked(seen[0][:STEPS])
    wanted = agent.act(dataset.observations[:STEPS])
    assert np.array_equal(agent.act(batch), wanted)
    assert np.array_equal(agent.act(seen[0][0]), agent.act(dataset.observations[0]))
    env_id, kwargs = FAMILIES[family]
    env = gymnasium.make(gymnasium.spec(env_id), max_episode_steps=STEPS, disable_env_checker=True, **kwargs)
    raw = orl.evaluate(agent, env, episodes=1)
    assert raw.outcomes.keys() == final.keys() & {"success", "goal_distance"}
    again = orl.evaluate(agent, episodes=1)
    assert again.returns == raw.returns
    env.close()

    agent.export_onnx(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    parts = agent.layout.pieces(dataset.observations[:STEPS]) if agent.layout else None
    inputs = parts or {"observation": dataset.observations[:STEPS]}
    assert [each.name for each in session.get_inputs()] == list(inputs)
    np.testing.assert_allclose(session.run(None, inputs)[0], wanted, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["iql", pytest.param("prdc", marks=pytest.mark.slow)])
def test_others_train_on_goals_too(algorithm, made, tmp_path):
    name, _ = made("point")
    own = {"scale_rewards": False} if algorithm == "iql" else {}
    settings = {**TINY, "workers": 0, "eval_every": 0, "final_episodes": 1, **own}
    run = orl.train(algorithm, name, out=str(tmp_path / "run"), steps=3, **settings)
    assert run.rows[-1]["score"] in (0, 100)


def test_a_program_takes_the_parts_as_a_dictionary(made, tmp_path):
    import torch

    name, _ = made("point")
    settings = {**TINY, "workers": 0, "eval_every": 0, "final_episodes": 0}
    agent = orl.train("bc", name, out=str(tmp_path / "run"), steps=2, **settings).agents[0]
    agent.export_program(tmp_path / "policy.pt2")
    rows = load_dataset(name).observations[:5]
    parts = {part: torch.tensor(piece) for part, piece in agent.layout.pieces(rows).items()}
    found = torch.export.load(tmp_path / "policy.pt2").module()(observation=parts)
    np.testing.assert_allclose(found.numpy(), agent.act(rows), atol=1e-5)
    with pytest.raises(AgentError, match="has no 'desired_goal'"):
        agent.act({"observation": rows[:, 2:6], "achieved_goal": rows[:, :2]})


def test_scores_are_what_the_set_states_or_success(made, tmp_path, monkeypatch):
    name, _ = made("point")
    task = load_dataset(name).find_task()
    assert (task.robot.reference, task.robot.reward, task.robot.family) == (SUCCESS, "sparse", "PointMaze_UMaze-v3")
    assert orl.normalized_score(task, [0.0, 1.0, 7.0]).tolist() == [0, 100, 100]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    stated, _ = _play("point", ref_min_score=1.0, ref_max_score=3.0)
    task = load_dataset(stated).find_task()
    assert task.robot.reference == STATED
    assert orl.normalized_score(task, 2.0) == 50


def test_success_and_distance_are_those_of_the_environment(made):
    """Play the same episodes beside, in an environment of our own."""
    name, _ = made("point")
    task = load_dataset(name).find_task()
    env_id, kwargs = FAMILIES["point"]

    def towards(observations):
        return (observations[:, 6:8] - observations[:, 0:2]).clip(-1, 1).astype(np.float32)

    result = rollout(towards, task, "plain", [1, 2])
    env = gymnasium.make(gymnasium.spec(env_id), max_episode_steps=STEPS, disable_env_checker=True, **kwargs)
    layout = Layout.of_space(env.observation_space)
    for place, seed in enumerate([1, 2]):
        observation, _ = env.reset(seed=seed)
        total, reached, ended = 0.0, False, False
        while not ended:
            vector = layout.flat(observation).astype(np.float32)
            observation, reward, *ends, info = env.step(towards(vector[None])[0])
            total, reached, ended = total + reward, reached or info["success"], any(ends)
        assert (result.returns[place], result.outcomes["success"][place]) == (total, float(reached))
        distance = np.hypot(*(observation["achieved_goal"] - observation["desired_goal"]))
        assert result.outcomes["goal_distance"][place] == pytest.approx(distance)


@families
def test_no_run_goes_on_online_where_it_could_not_be_resumed(family, made):
    with pytest.raises(TaskError, match="so no run could be resumed in it; leave out online_steps"):
        check_playable(load_dataset(made(family)[0]).find_task(), "plain", online=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("pen", 100), ("hammer", 200), ("door", 200), ("relocate", 200)])
def test_d4rls_hands_are_played_for_as_long_as_d4rl_plays_them(name, limit):
    task = find_task(f"{name}-human-v1")
    check_playable(task, "plain")
    result = rollout(lambda seen: np.zeros((len(seen), task.robot.action_size), np.float32), task, "plain", [1])
    assert result.lengths.tolist() == [limit]
    assert result.outcomes["success"][0] in (0, 1)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    for env_id in [name for name in gymnasium.registry if name.startswith(ROBOTICS)]:
        monkeypatch.delitem(gymnasium.registry, env_id)
    with pytest.raises(TaskError, match=r"pip install 'offline-rl-suite\[robotics\]'"):
        with_robotics("PointMaze_UMaze-v3")
    with_robotics("Hopper-v5")


def test_a_kitchen_has_no_success_and_its_score_is_the_number_of_tasks():
    from offline_rl.envs.recovered import recovered_task

    described = {"id": "FrankaKitchen-v1", "kwargs": {}, "max_episode_steps": 280, "wrappers": [], "references": None}
    task = recovered_task(described, observation_size=60, action_size=9, mean_return=1.0)
    assert (task.robot.reference, json.loads(task.robot.env_kwargs)) == (RAW, {})


@pytest.mark.slow
def test_a_set_of_minaris_own_collector_is_read(tmp_path, monkeypatch):
    """DataCollector needs JAX; without it this is skipped."""
    pytest.importorskip("jax")
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env_id, kwargs = FAMILIES["point"]
    with_robotics(env_id)
    env = minari.DataCollector(gymnasium.make(gymnasium.spec(env_id), max_episode_steps=STEPS, **kwargs))
    for seed in range(2):
        env.reset(seed=seed)
        for _ in range(STEPS):
            env.step(env.action_space.sample())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env.create_dataset("test/collected-v0")
    dataset = load_dataset("test/collected-v0")
    assert (len(dataset), dataset.observation_size) == (2 * STEPS, 8)
    assert dataset.find_task().robot.reference == SUCCESS
