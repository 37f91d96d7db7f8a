"""What DoC is about, on problems whose every number is known; each test names the mistake that breaks it.

Thresholds are those of the paper's claims for these problems, or of the sampling error of the data; none is tuned.
"""

import numpy as np
import pytest
import torch

from offline_rl.algos.tabular.doc import Config, Counts, cloned, return_conditioned, solve
from offline_rl.envs.finite import bernoulli_bandit, lucky_arm, two_step

SEEDS = range(5)
INFORMATION = {0.10: 0.1463, 0.30: 0.0694, 0.45: 0.0050}
"""Between reward and action in the Bernoulli bandit's data, in nats, exactly."""


def solved(problem, episodes=10_000, seeds=SEEDS, logits=None, **settings):
    return solve(problem, problem.collect(episodes, seed=0), Config(**settings), seeds, logits)


@pytest.fixture(scope="module")
def bandits():
    return {p: solved(bernoulli_bandit(p)) for p in (0.1, 0.3)}


@pytest.fixture(scope="module")
def wrong_sign():
    return solved(bernoulli_bandit(0.1), beta=-1.0)


def test_a_sure_one_beats_a_lucky_ten_and_rcsl_falls_for_the_ten():
    """Broken by β = -1: the ten is promised, and half of one is earned."""
    problem = lucky_arm()
    for solution in solved(problem, 2000):
        z = solution.chosen()
        assert solution.policies[z][0, 1] > 0.95
        assert 0.9 <= solution.candidates()[z] <= 1.1
    imitation = return_conditioned(problem, problem.collect(2000, seed=0), 10.0)
    assert imitation[0, 0] > 0.95
    assert problem.value(imitation) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_doc_finds_the_better_arm_where_imitation_does_not(p):
    """Broken by a constraint of the wrong sign, or by data in which success tells the arms apart."""
    problem = bernoulli_bandit(p)
    episodes = problem.collect(1000, seed=0)
    for solution in solve(problem, episodes, Config(), SEEDS):
        assert problem.value(solution.policies[solution.chosen()]) >= 1 - p - 0.06
    assert problem.value(return_conditioned(problem, episodes, 1.0)) == pytest.approx(0.5, abs=0.06)
    assert problem.value(cloned(problem, episodes)) == pytest.approx(2 * p * (1 - p), abs=0.04)


def largest_broken_promise(problem, solution):
    return max(abs(value - problem.value(solution.policies[z])) for z, value in solution.candidates().items())


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_promises_are_kept(bandits, p):
    """Broken by β = -1, see the next test."""
    problem = bernoulli_bandit(p)
    assert all(largest_broken_promise(problem, solution) < 0.06 for solution in bandits[p])
    assert all(len(solution.candidates()) > 1 for solution in bandits[p])


def test_with_the_wrong_sign_promises_are_broken(wrong_sign):
    """With β = -1 no seed may pass the test before."""
    problem = bernoulli_bandit(0.1)
    assert all(largest_broken_promise(problem, solution) > 0.06 for solution in wrong_sign)
    assert all(solution.candidates()[solution.chosen()] > 0.99 for solution in wrong_sign)


def information_by_hand(problem, episodes, solution):
    """MI(z; r | a) from the table of q and the rows of the data alone."""
    rows = np.stack([episodes.action[:, 0], episodes.reward[:, 0]], 1).astype(int)
    joint = np.zeros((2, 2, solution.posterior.shape[1]))
    kinds = np.unique(np.concatenate(list(vars(episodes).values()), axis=1).astype(float), axis=0)
    for kind, q in zip(kinds, solution.posterior.numpy(), strict=True):
        a, r = int(kind[1]), int(kind[2])
        joint[a, r] += (rows == (a, r)).all(1).mean() * q
    of_arm, of_pay, of_latent = joint.sum((1, 2)), joint.sum(2), joint.sum(1)
    share = joint * of_arm[:, None, None] / (of_pay[:, :, None] * of_latent[:, None, :])
    return (joint * np.log(np.where(joint > 0, share, 1))).sum()


def test_z_says_nothing_about_luck(bandits, wrong_sign):
    """Broken by β = -1: z then says almost all that there is to say."""
    problem = bernoulli_bandit(0.1)
    episodes = problem.collect(10_000, seed=0)
    for solution in bandits[0.1]:
        assert information_by_hand(problem, episodes, solution) < 0.02
    for solution in wrong_sign:
        found = information_by_hand(problem, episodes, solution)
        assert found > 0.2
        assert float(solution.counts.information(solution.posterior)) == pytest.approx(found)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.45])
def test_the_energy_of_a_z_that_knows_nothing_is_the_information_of_the_action(p):
    """Broken by leaving out ρ, or by taking it per action; a shuffled z is independent of the trajectory."""
    problem = bernoulli_bandit(p)
    counts = Counts(problem, problem.collect(10_000, seed=0))
    assert float(counts.floor()) == pytest.approx(INFORMATION[p], abs=0.03)
    shuffled = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).repeat(len(counts.weight), 1)
    assert float(counts.energy(shuffled)) == pytest.approx(float(counts.floor()), abs=1e-12)


def test_luck_in_the_next_state_is_luck():
    """Broken by a constraint on the reward alone, which this luck does not touch: a promise of 10, and 1 earned."""
    problem = two_step()
    episodes = problem.collect(2000, seed=0)
    blind, seeing = Counts(problem, episodes, reward_only=True), Counts(problem, episodes)
    # z = 0 for the lucky, z = 1 for the unlucky, z = 2 for those who took the other way.
    lucky, other = seeing.returns == 10, seeing.returns == 2
    q = torch.stack([lucky, ~lucky & ~other, other], 1).double()
    assert abs(float(blind.information(q))) < 1e-12
    assert float(seeing.information(q)) > 0.1
    assert float(seeing.value(q, 0).max()) == 10
    assert problem.value(seeing.policy(q)[0].numpy()) == pytest.approx(1.0, abs=0.1)

    begun_there = torch.cat([4 * q, torch.full((len(q), 1), -4.0)], 1)
    fooled, wise = (
        solved(problem, 2000, [0], logits=begun_there, reward_only=reward_only)[0] for reward_only in (True, False)
    )
    assert fooled.candidates()[fooled.chosen()] > 8
    assert problem.value(fooled.policies[fooled.chosen()]) < 1.5
    for solution in (wise, *solved(problem, 2000)):
        z = solution.chosen()
        assert solution.candidates()[z] == pytest.approx(2.0, abs=0.01)
        assert solution.policies[z][0, 1] > 0.95


@pytest.mark.parametrize("beta", [0.0, 1.0, 10.0])
def test_without_luck_the_constraint_costs_nothing(beta):
    """Broken by a constraint that is not conditioned on the action."""
    for solution in solved(lucky_arm(p=1.0, prize=0.0, sure=1.0), 500, beta=beta):
        assert float(solution.counts.policy_loss(solution.posterior)) < 0.01
        assert solution.candidates()[solution.chosen()] > 0.99
