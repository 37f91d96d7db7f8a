"""Properties of the Decision Transformer that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset

import offline_rl as orl
from offline_rl.agent import merged, presets
from offline_rl.algos.dt import DT, Config
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.envs.tasks import find_task
from offline_rl.training.evaluation import Evaluation, by_target_return, play
from offline_rl.training.updates.sampler import Sampler

SMALL = {"batch_size": 8, "length": 6, "width": 16, "layers": 2, "hidden_dims": [16, 16]}


@pytest.fixture(scope="module")
def dataset():
    return random_dataset()


@pytest.fixture(scope="module")
def rows(dataset):
    return packed(dataset)


def packed(dataset):
    return PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))


def make(rows, dataset=None, observation_size=5, action_size=2, **settings):
    preprocessing = Preprocessing.fit(dataset, normalize=True) if dataset else None
    agent = DT(Config(**{**SMALL, **settings}), observation_size, action_size, preprocessing=preprocessing)
    if rows:
        agent.prepare(rows)
    return agent


def loosened(agent):
    """Move the weights away from the almost linear beginning, where no input matters much."""
    agent.groups["model"].flat.mul_(5)
    return agent


@pytest.mark.parametrize("encoder", ["transformer", "mlp"])
def test_the_loss_does_not_depend_on_what_is_padded(rows, encoder):
    """Broken by a loss without its mask."""
    agent = make(rows, encoder=encoder, length=6)
    agent.windows = dataclasses.replace(agent.windows, future=6)  # so that the MLP gets padding, too
    batch = Sampler(agent, rows).batch(1)
    mask = batch.steps.mask
    assert 0 < mask.double().mean() < 1
    garbage = {
        name: torch.where(mask.view(*mask.shape, *[1] * (value.ndim - 2)), value, (7 * value + 3).to(value.dtype))
        for name, value in vars(batch.steps).items()
        if name != "mask"
    }
    other = dataclasses.replace(batch, steps=dataclasses.replace(batch.steps, **garbage))
    assert not torch.equal(other.steps.action, batch.steps.action)
    assert torch.equal(agent.model_loss(batch)[0], agent.model_loss(other)[0])


def test_the_same_seed_gives_the_same_weights_whatever_is_prefetched(rows):
    """Broken by any draw, dropout's above all, that is not a function of (seed, name, step)."""
    states = []
    for block in (200, 1):
        agent = make(rows)
        sampler = Sampler(agent, rows, block)
        for step in range(1, 7):
            agent.update(sampler.batch(step), step)
        states.append({name: tensor.clone() for name, tensor in agent.training_state().items()})
    resumed = make(rows)
    resumed.load_training_state(states[0])
    straight = make(rows)
    straight.load_training_state(states[1])
    for step in (7, 8):
        resumed.update(Sampler(resumed, rows).batch(step), step)
        straight.update(Sampler(straight, rows, 300).batch(step), step)
    for name, tensor in resumed.training_state().items():
        assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(tensor, straight.training_state()[name])


@pytest.mark.parametrize("encoder", ["transformer", "mlp"])
def test_acting_gives_what_training_saw(dataset, rows, encoder):
    """Broken by a reward taken off a step late, by a crop, or by an action token in the wrong slot."""
    agent = loosened(make(rows, dataset, encoder=encoder, length=40))
    lengths = np.diff(dataset.episode_bounds)
    episode = int(np.flatnonzero((lengths >= 6) & (lengths < 40))[0])
    own = slice(*dataset.episode_bounds[episode : episode + 2])
    agent.model.best_return.fill_(dataset.episode_returns[episode])
    sampler = Sampler(agent, rows)
    windows = sampler._episodes.around(torch.tensor([own.start]), dataclasses.replace(agent.windows, future=40))
    with torch.inference_mode():
        expected = agent.model(windows, windows.return_to_go)[0, : own.stop - own.start].numpy()
    reward, acted = None, []
    for row in range(own.start, own.stop):
        acted.append(agent.act(dataset.observations[row], reward))
        reward = dataset.rewards[row]
        if encoder == "transformer":  # what was done is what the data did, not what the agent would have
            with torch.inference_mode():
                agent.history._steps.action[0, -1] = torch.from_numpy(dataset.actions[row].copy())
    np.testing.assert_allclose(acted, expected, atol=2e-5)


def test_only_the_last_steps_are_remembered(rows):
    """Broken by a history longer than the windows of the training."""
    agent = loosened(make(rows, length=3))
    observations = np.random.default_rng(0).standard_normal((5, 5))
    other = observations.copy()
    other[:2] += 1
    acted = []
    for episode in (observations, other):
        agent.reset()
        acted.append([agent.act(observation, 0.0) for observation in episode])
    assert not np.array_equal(acted[0][3], acted[1][3])
    for late in (agent.act(observations[0], 0.0), agent.act(observations[1], 0.0)):
        assert late.shape == (2,)
    assert agent.history._steps.mask.shape == (1, 3)


def test_environments_do_not_know_each_other(rows):
    """Broken by attention, or a reset, across the batch."""
    agent = loosened(make(rows))
    observations = np.random.default_rng(0).standard_normal((8, 3, 5))
    rewards = np.random.default_rng(1).standard_normal((8, 3))
    together = []
    for time in range(8):
        if time == 4:
            agent.reset(np.array([False, True, False]))
        together.append(agent.act(observations[time], rewards[time - 1] if time else None))
    for row, begin in ((0, 0), (1, 4), (2, 0)):
        agent.reset()
        for time in range(begin, 8):
            alone = agent.act(observations[time, row], rewards[time - 1, row] if time > begin else None)
            np.testing.assert_allclose(together[time][row], alone, atol=1e-5)


def test_without_rewards_the_return_asked_for_stays(rows):
    """Broken by a reward that is needed, or by predict not telling where episodes start."""
    agent = loosened(make(rows, target_returns=[30.0], return_scale=1.0))
    observation = np.ones((1, 5), np.float32)
    first, _ = agent.predict(observation, episode_start=np.array([True]))
    agent.predict(observation, episode_start=np.array([False]))
    assert agent.history._steps.return_to_go.tolist() == [[0.0, 0.0]]
    agent.act(observation, np.array([4.0]))
    assert agent.history._steps.return_to_go.tolist() == [[0.0, 0.0, -4.0]]
    again, _ = agent.predict(np.ones((1, 5)), episode_start=np.array([True]))
    assert np.array_equal(first, again)
    assert agent.predict(np.ones((2, 5)), episode_start=np.array([True, True]))[0].shape == (2, 2)


def test_an_evaluation_plays_every_target_as_if_it_were_alone():
    """Broken by targets that reach the wrong environments, or by a table whose columns are exchanged."""
    settings = {"observation_size": 11, "action_size": 3, "return_scale": 1.0}
    both = loosened(make(None, target_returns=[5.0, -5.0], **settings))
    returns, lengths, _ = play(both, find_task("hopper"), "d4rl", [1, 2, 3])
    found = by_target_return(DT, both.config, returns)
    assert list(found) == ["5", "-5"]
    assert not np.array_equal(found["5"], found["-5"])
    for target in (5.0, -5.0):
        one = loosened(make(None, target_returns=[target], **settings))
        alone, alone_lengths, _ = play(one, find_task("hopper"), "d4rl", [1, 2, 3])
        np.testing.assert_allclose(found[f"{target:g}"], np.ravel(alone), rtol=1e-3)
        assert by_target_return(DT, both.config, lengths)[f"{target:g}"].tolist() == np.ravel(alone_lengths).tolist()
    evaluation = orl.evaluate(both, "hopper", episodes=2)
    assert evaluation.returns.tolist() == evaluation.by_target_return["5"].returns.tolist()
    assert list(evaluation.by_target_return) == ["5", "-5"]
    assert by_target_return(DT, both.config, [[np.nan]] * 3)["-5"].shape == (3,)
    with pytest.raises(orl.AgentError, match="target is 2; dt has 2 target returns, counted from 0"):
        both.reset(target=2)


def test_what_was_called_a_condition_is_still_understood():
    agent = make(None, target_returns=[5.0, -5.0])
    with pytest.warns(DeprecationWarning, match="target"):
        agent.reset(condition=1)
    assert agent.target_return().tolist() == [[-5.0]]
    alone = Evaluation(np.ones(1), np.ones(1, int), None)
    with pytest.warns(DeprecationWarning, match="by_target_return"):
        assert Evaluation(np.ones(1), np.ones(1, int), None, {"5": alone}).by_condition == {"5": alone}


def test_a_fragment_is_not_imitated_and_the_best_return_is_asked_for():
    """Broken by training on an episode whose return nobody knows."""
    made = Dataset.from_arrays(
        observations=np.zeros((6, 5)),
        actions=np.zeros((6, 2)),
        rewards=[1.0, 2.0, -1.0, -1.0, 50.0, 50.0],
        terminated=[0, 1, 0, 1, 0, 0],
        next_observations=np.zeros((6, 5)),
    )
    agent = make(packed(made))
    assert agent.rows.tolist() == [0, 1, 2, 3]
    assert agent.target_return().tolist() == [[3.0]]
    alone = Dataset.from_arrays(np.zeros((2, 5)), np.zeros((2, 2)), [1, 1], [0, 0], None, np.zeros((2, 5)))
    assert make(packed(alone)).rows is None


def test_what_is_saved_is_enough_to_act(dataset, rows):
    """Broken by a best return that is not among the weights."""
    agent = loosened(make(rows, dataset, return_scale=0.1))
    loaded = make(None, dataset, return_scale=0.1)
    loaded.load_acting_weights(agent.acting_weights())
    for step in range(3):
        observation = np.full(5, step)
        assert np.array_equal(loaded.act(observation, 1.0), agent.act(observation, 1.0))
    assert loaded.model.best_return == agent.model.best_return != 0


def test_presets_are_the_robots():
    for robot in ("hopper", "halfcheetah", "walker2d"):
        task = find_task(f"{robot}-medium-v2")
        first, second = merged(presets(DT, robot, task.name))["target_returns"]
        assert first == 2 * second
