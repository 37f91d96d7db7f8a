"""Kind: wrong types reach the inside; the library takes less than the command."""

import json
import shutil

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import offline_rl as orl
from offline_rl.algos.dt import DT
from offline_rl.algos.dt import Config as DTConfig
from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.cli.main import main
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.envs import foreign
from offline_rl.training.evaluation import RAW_RETURNS


def agent_of(observation_size, action_size, limit=1.0, **provenance):
    preprocessing = Preprocessing.identity(observation_size, action_size)
    preprocessing.action_low[:], preprocessing.action_high[:] = -limit, limit
    agent = TD3BC(Config(hidden_dims=[8]), observation_size, action_size, preprocessing=preprocessing)
    agent.provenance = provenance
    return agent


class Room(gymnasium.Env):
    """Counts to five; the reward is what is done."""

    observation_space = spaces.Box(-10, 10, (2, 2), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    reward_factor = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.resets = 0, [*getattr(self, "resets", []), seed]
        return np.zeros((2, 2), np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.count += 1
        return (
            np.full((2, 2), self.count, np.float32),
            self.reward_factor * float(action[0]),
            self.count == 5,
            False,
            {},
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Give a run of one agent and one of two, that are nothing but folders."""
    place = tmp_path_factory.mktemp("runs")
    agent = agent_of(11, 3, task="hopper-demo", dynamics="plain")
    for name, seeds in (("one", [0]), ("two", [0, 1]), ("none", [])):
        (place / name).mkdir()
        (place / name / "config.json").write_text("{}")
        for seed in seeds:
            agent.save(place / name / "agents" / f"seed-{seed}")
    return place


def test_an_agent_may_be_a_path_of_its_folder_or_of_its_run(runs):
    agent = orl.load_agent(runs / "one")
    expected = orl.evaluate(agent, "hopper", dynamics="plain", episodes=2).returns
    for path in (runs / "one", str(runs / "one"), runs / "one" / "agents" / "seed-0", orl.Run(runs / "one")):
        found = orl.evaluate(path, episodes=2)
        assert np.array_equal(found.returns, expected)
        assert (found.task, found.dynamics, found.score_name) == ("hopper-demo", "plain", "normalised score")
    d4rl = orl.evaluate(agent, "hopper", episodes=2)
    assert d4rl.dynamics == "d4rl"
    assert not np.array_equal(d4rl.returns, expected)


def test_a_run_of_several_agents_says_how_to_choose(runs):
    for refused in (orl.load_agent, orl.evaluate):
        with pytest.raises(
            orl.AgentError, match=r"has agents of the seeds 0, 1; choose one by its folder, such as .*seed-0"
        ):
            refused(runs / "two")
        with pytest.raises(orl.AgentError, match="is a run that has no agents yet"):
            refused(runs / "none")


@pytest.mark.parametrize("wrong", [None, 5, [1], b"\xff", "x\0y", {}])
def test_what_is_no_agent_is_one_sentence(wrong):
    for refused in (orl.load_agent, orl.evaluate):
        with pytest.raises(orl.AgentError, match=r"is no path|there is no folder"):
            refused(wrong)


def test_an_agent_without_a_task_needs_one():
    with pytest.raises(orl.AgentError, match=r"Agent\('td3_bc', .*\) was trained without a task; give one"):
        orl.evaluate(agent_of(11, 3))


def test_any_environment_with_boxes_gives_raw_returns():
    agent, room = agent_of(4, 2), Room()
    played = orl.evaluate(agent, room, episodes=3)
    expected = sum(float(agent.act(np.full(4, count))[0]) for count in range(5))
    assert np.allclose(played.returns, expected, atol=1e-5)
    assert played.lengths.tolist() == [5, 5, 5]
    assert (played.scores, played.score_name, played.task) == (None, RAW_RETURNS, "Room")
    assert len(set(room.resets)) == 3
    again = orl.evaluate(agent, room, episodes=1)
    assert room.resets[3] == room.resets[0]
    assert again.dynamics is None


def test_an_id_of_gymnasium_is_enough_and_the_caller_keeps_his_own_environment():
    agent = agent_of(3, 1, limit=2.0)
    mine = gymnasium.make("Pendulum-v1")
    found, named = (orl.evaluate(agent, task, episodes=2) for task in (mine, "Pendulum-v1"))
    assert np.array_equal(found.returns, named.returns)
    assert found.lengths.tolist() == [200, 200]
    assert found.task == "Pendulum-v1"
    mine.reset()


def test_an_agent_that_remembers_plays_every_target_return():
    agent = DT(DTConfig(width=8, layers=1, length=3, target_returns=[5.0, -5.0]), 4, 2)
    agent.groups["model"].flat.mul_(10)
    played = orl.evaluate(agent, Room(), episodes=2)
    assert list(played.by_target_return) == ["5", "-5"]
    assert played.by_target_return["5"].returns[0] != played.by_target_return["-5"].returns[0]


class Coin(TD3BC):
    """Does what noise says."""

    stochastic = True

    def explore(self, observation, noise):
        return noise.clamp(-1, 1)


@pytest.mark.parametrize("stochastic", [True, False])
def test_a_random_policy_is_scored_with_noise_that_the_episodes_seed_decides(stochastic):
    """Broken by scoring ``policy``, by noise that an agent draws itself, or by noise for those who asked for none."""
    coin = Coin(Config(hidden_dims=[8]), 4, 2)
    coin.stochastic = stochastic
    first, again = (orl.evaluate(coin, Room(), episodes=3).returns for _ in range(2))
    assert np.array_equal(first, again)
    assert (len(set(first)) == 3) == stochastic
    assert not np.array_equal(first, orl.evaluate(coin, Room(), episodes=3, seed=1).returns) or not stochastic


class Discrete(Room):
    action_space = spaces.Discrete(2)


class Dictionary(Room):
    observation_space = spaces.Dict({"x": spaces.Discrete(4)})


class Wrong(Room):
    """Gives other observations than it announces."""

    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (4,))})


class Whole(Room):
    action_space = spaces.Box(0, 5, (2,), np.int64)


class Broken(Room):
    reward_factor = np.nan


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Discrete(), r"Discrete has actions of the form Discrete\(2\); agents here play with boxes"),
        (Dictionary(), r"Dictionary has observations with x of the form Discrete.*; agents here play with boxes"),
        (Wrong(), "gave an observation that is not of its own observation space: it has no 'x'; give x"),
        (Whole(), r"Whole has whole numbers \(int64\) for actions"),
        (Broken(), "the environment gave nan as reward in step 1"),
        ("CartPole-v1", r"CartPole-v1 has observations|CartPole-v1 has actions of the form Discrete"),
        ("Pendulum-v1", r"Pendulum-v1 has observations of shape \(3,\); this agent has 4 numbers there"),
        ("Pendulum-v9", "unknown task 'Pendulum-v9'"),
        ("os:system", "unknown task 'os:system'"),
        (5, "task is 'int'; give a task's name"),
        (object(), "task is 'object'; give a task's name"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_agent_cannot_play_is_one_sentence(task, message):
    with pytest.raises(orl.TaskError, match=message) as caught:
        orl.evaluate(agent_of(4, 2), task, episodes=1)
    assert "\n" not in str(caught.value)


def test_what_is_for_tasks_alone_is_refused(tmp_path):
    for option in ({"dynamics": "plain"}, {"video": tmp_path / "x.gif"}):
        with pytest.raises(orl.TaskError, match=f"{next(iter(option))} is for tasks"):
            orl.evaluate(agent_of(4, 2), Room(), **option)


def test_an_episode_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(foreign, "LONGEST", 4)
    with pytest.raises(orl.TaskError, match=r"has not ended after 4 steps; put gymnasium\.wrappers\.TimeLimit around"):
        orl.evaluate(agent_of(4, 2), Room(), episodes=1)
    assert orl.evaluate(agent_of(4, 2), TimeLimit(Room(), 3), episodes=1).lengths.tolist() == [3]


def test_actions_that_are_cut_are_announced():
    with pytest.warns(UserWarning, match="the agent's actions go beyond those of Room"):
        orl.evaluate(agent_of(4, 2, limit=3.0), Room(), episodes=1)


def test_the_command_says_that_there_is_no_score(tmp_path, capsys):
    agent_of(3, 1, limit=2.0).save(tmp_path / "agent")
    shutil.copytree(tmp_path / "agent", tmp_path / "run" / "agents" / "seed-3")
    for path in ("agent", "run"):
        assert main(["evaluate", str(tmp_path / path), "--task", "Pendulum-v1", "--episodes", "1"]) == 0
        said = capsys.readouterr().out
        assert "on Pendulum-v1, 1 episode: raw returns, no score\n" in said
        assert said.splitlines()[-1].endswith(" 200")
    assert main(["evaluate", str(tmp_path / "agent"), "--task", "Pendulum-v1", "--episodes", "1", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["score_is"] == RAW_RETURNS
    assert "score" not in told
    assert main(["evaluate", str(tmp_path / "agent")]) == 2
    assert "was trained without a task" in capsys.readouterr().err
