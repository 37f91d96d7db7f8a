"""Importance weights against the formulas in plain loops, and against the values of known problems."""

import dataclasses

import numpy as np
import pytest

from offline_rl.data.packed import PackedRows
from offline_rl.estimation.importance import Behaviour, Steps, bootstrap_weights, log_density, weighted
from offline_rl.estimation.log import Log
from tests.helpers.logged import BOUND, additive, agent_of, hazard


def random_steps(seed, lengths, spread=0.5):
    generator = np.random.default_rng(seed)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    rows, episodes = bounds[-1], len(lengths)
    return Steps(
        bounds=bounds,
        ended=generator.random(episodes) < 0.5,
        reward=generator.standard_normal(rows),
        log_ratio=spread * generator.standard_normal(rows),
        q=generator.standard_normal(rows),
        v=generator.standard_normal(rows),
        v_cut=generator.standard_normal(episodes),
    )


def by_the_formulas(steps, discount, bootstrap):
    """Return both estimates and the effective size for one bootstrap sample, episode by episode."""
    lengths = np.diff(steps.bounds)

    def product(e, t):
        last = min(t, lengths[e] - 1)
        return float(np.exp(sum(steps.log_ratio[steps.bounds[e] + i] for i in range(last + 1))))

    direct = robust = effective = total = 0.0
    everyone = range(len(lengths))
    for t in range(max(lengths) + 1):
        known = [e for e in everyone if steps.ended[e] or lengths[e] > t]
        alive = [e for e in everyone if lengths[e] > t]
        weights = {e: bootstrap[e] * product(e, t) for e in everyone}
        before = {e: bootstrap[e] * (product(e, t - 1) if t else 1.0) for e in everyone}
        for e in everyone:
            if lengths[e] == t and not steps.ended[e]:
                robust += discount**t * before[e] / sum(before.values()) * steps.v_cut[e]
        for e in alive:
            row = steps.bounds[e] + t
            direct += discount**t * weights[e] * steps.reward[row] / sum(weights[k] for k in known)
            robust += discount**t * weights[e] / sum(weights.values()) * (steps.reward[row] - steps.q[row])
            robust += discount**t * before[e] / sum(before.values()) * steps.v[row]
        if alive:
            own = [bootstrap[e] * product(e, t) ** 2 for e in known]
            effective += discount**t * sum(weights[e] for e in known) ** 2 / sum(own)
            total += discount**t
    return direct, robust, effective / total


@pytest.mark.parametrize("lengths", [[3, 1, 4, 4, 2], [1], [2, 2]])
def test_both_estimates_are_the_formulas(lengths):
    steps = random_steps(0, lengths)
    bootstrap = np.random.default_rng(1).exponential(size=(3, len(lengths)))
    found = weighted(steps, 0.9, bootstrap)
    expected = np.array([by_the_formulas(steps, 0.9, own) for own in bootstrap]).T
    for values, own in zip((found.per_decision, found.doubly_robust, found.effective_episodes), expected, strict=True):
        assert values == pytest.approx(own, rel=1e-10)


def test_products_that_no_float_holds_are_computed():
    steps = random_steps(0, [400, 300, 400], spread=20.0)
    found = weighted(steps, 0.99, bootstrap_weights(2, 3, 0))
    assert np.isfinite(found.per_decision).all()
    assert np.isfinite(found.doubly_robust).all()
    assert 1 <= found.effective_episodes[0] <= 3


def test_equal_policies_make_the_mean_return_and_all_episodes_count():
    steps = dataclasses.replace(random_steps(0, [3, 5, 2]), ended=np.ones(3, bool), log_ratio=np.zeros(10))
    found = weighted(steps, 1.0, np.ones((1, 3)))
    assert found.per_decision[0] == pytest.approx(steps.reward.sum() / 3)
    assert found.effective_episodes[0] == pytest.approx(3)


def test_a_right_control_variate_leaves_no_scatter():
    """Where Q and V are right and nothing is left to chance, doubly robust is V whatever the weights."""
    steps = random_steps(0, [1, 1, 1])
    steps = dataclasses.replace(steps, q=steps.reward, v=np.full(3, 0.7), ended=np.ones(3, bool))
    assert weighted(steps, 0.9, bootstrap_weights(4, 3, 0)).doubly_robust == pytest.approx(np.full(5, 0.7))


def test_the_fitted_policy_is_the_one_that_made_the_data():
    problem = hazard()
    data = problem.dataset(300, 0)
    agent = agent_of(data, [0.0, 0.0])
    log = Log(PackedRows.of(data, agent.preprocessing))
    fitted = Behaviour(log, 0, updates=300).log_density(log.columns.observation, log.columns.action)
    state, action = data.observations.argmax(1), data.actions[:, 0]
    error = (action - problem.behavior[state]) / problem.std
    true = -(error**2 / 2 + np.log(problem.std / BOUND) + np.log(2 * np.pi) / 2)
    assert fitted.mean() == pytest.approx(true.mean(), abs=0.05)


@pytest.mark.slow
def test_intervals_of_per_decision_weights_cover_a_known_value_and_converge():
    """With the data's true policy, on 200 datasets; the fitted one is tested above."""
    problem = dataclasses.replace(additive(), limit=200)
    mean, std, truth = np.array([0.2, 0.3]), 0.45, None
    truth = problem.value(mean, std)[0]
    covered, centers = [], []
    for seed in range(200):
        data = problem.dataset(120, seed)
        agent = agent_of(data, mean, std)
        log = Log(PackedRows.of(data, agent.preprocessing))
        behaviour = agent_of(data, problem.behavior, problem.std)
        ratio = [log_density(own, log.columns.observation, log.columns.action) for own in (agent, behaviour)]
        zero = np.zeros(len(data))
        steps = Steps(data.episode_bounds, log.ended, log.reward, ratio[0] - ratio[1], zero, zero, log.ended * 0.0)
        found = weighted(steps, 0.9, bootstrap_weights(40, 120, seed)).per_decision
        centers.append(found[0])
        covered.append(abs(found[0] - truth) <= 1.645 * found[1:].std(ddof=1))
    assert np.mean(centers) == pytest.approx(truth, rel=0.01)
    assert 0.85 <= np.mean(covered) <= 0.95
