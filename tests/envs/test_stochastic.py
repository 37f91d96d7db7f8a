import numpy as np
import pytest

from offline_rl.envs import find_task
from offline_rl.envs.stochastic import NoisyPolicy, prize_of, record, with_lottery
from offline_rl.envs.vector import rollout


def test_the_lottery_pays_a_fifth_of_the_median_return():
    """Broken by a prize per episode instead of per step."""
    prize = prize_of(np.array([500.0, 1000.0, 9000.0]))
    rewards = np.ones(1_000_000, np.float32)
    won = with_lottery(rewards, prize, seed=0) - rewards
    assert set(np.unique(won)) == {0.0, np.float32(prize)}
    assert abs(won.reshape(-1, 1000).sum(1).mean() / 200 - 1) < 0.15
    assert np.array_equal(with_lottery(rewards, prize, 0), rewards + won)
    assert not np.array_equal(with_lottery(rewards, prize, 1), rewards + won)


def test_the_noise_is_correlated_and_of_its_size():
    """Broken by σ² for σ, by noise that grows from 0, or by one that all episodes share."""
    policy = NoisyPolicy(lambda observations: np.zeros((len(observations), 3), np.float32), 0.2, range(400))
    steps = np.stack([policy(np.zeros((400, 1))) for _ in range(20)])
    for step in (0, 1, 19):
        assert abs(steps[step].std() - 0.2) < 0.02
    assert abs((steps[10] * steps[11]).mean() / 0.04 - 0.9) < 0.1
    assert abs((steps[0] * steps[19]).mean() / 0.04 - 0.9**19) < 0.1
    assert abs(np.corrcoef(steps[5, :200, 0], steps[5, 200:, 0])[0, 1]) < 0.25
    alone = NoisyPolicy(lambda observations: np.zeros((1, 3), np.float32), 0.2, [7])
    assert np.array_equal([alone(None)[0] for _ in range(20)], steps[:, 7])


def test_recorded_actions_are_those_that_were_wanted():
    """Broken by recording what the robot was made to do, or by other noise than evaluation has."""
    task = find_task("hopper")

    def policy(observations):
        return np.full((len(observations), 3), 0.25, np.float32)

    columns = record(policy, task, "d4rl", [3, 4], std=0.3)
    assert (columns["actions"] == np.float32(0.25)).all()
    ends = np.flatnonzero(columns["terminated"] | columns["truncated"])
    assert len(ends) == 2
    played = rollout(NoisyPolicy(policy, 0.3, [3, 4]), task, "d4rl", [3, 4])
    assert played.lengths.tolist() == np.diff([-1, *ends]).tolist()
    np.testing.assert_allclose(
        played.returns, [part.sum() for part in np.split(columns["rewards"], [ends[0] + 1])], rtol=1e-9
    )
    calm = rollout(policy, task, "d4rl", [3, 4])
    assert calm.returns.tolist() != played.returns.tolist()


def test_a_policy_is_told_its_rewards():
    """Broken by rewards of the step before last, or by those of an ended episode told again and again."""
    task, told = find_task("walker2d"), []

    def policy(observations, rewards):
        told.append(rewards)
        return np.full((len(observations), 6), 0.5, np.float32)

    result = rollout(policy, task, "d4rl", [0, 1, 2], tell_rewards=True)
    assert (told[0] == 0).all()
    rewards = np.array(told[1:])
    for row, length in enumerate(result.lengths):
        assert (rewards[length:, row] == 0).all()
        assert (rewards[: length - 1, row] != 0).all()
    shortest = int(result.lengths.argmin())
    assert rewards[:, shortest].sum() == pytest.approx(result.returns[shortest])
    assert len(set(result.lengths.tolist())) > 1
    silent = rollout(lambda observations: policy(observations, None), task, "d4rl", [0, 1, 2])
    assert silent.returns.tolist() == result.returns.tolist()
