"""A-PARL on a chain: exact gradients, what each estimator leaves out, and the trap of the usual alternation."""

import itertools
import math

import pytest
import torch

from offline_rl.algos.parl_online.hypergradient import along, centred, conjugate_gradients
from offline_rl.algos.tabular.parl_chain import RIGHT_PAYS, Chain, ChainAlignment, Config, chain
from offline_rl.draws import Stream

SEEDS = 20
RESTING = 0.13
"""Where the alternation rests, to two digits."""


def number(*values):
    return torch.tensor(values, dtype=torch.float64)


def uniform(seed, *shape):
    return torch.from_numpy(Stream(seed, "test/chain").at(0).random(shape))


def rich_chain(seed=0):
    """Return a chain with three random features, on which what follows a step matters."""
    return Chain(chain().pays, torch.from_numpy(Stream(seed, "test/features").at(0).standard_normal((4, 2, 3))))


def second_objective(nu, c, pays=RIGHT_PAYS):
    """G on the trap chain in plain Python, by sums over trajectories and value iteration."""
    places, eta = range(4), c.temperature
    go = [[max(s - 1, 0), min(s + 1, 3)] for s in places]
    v = [0.0] * 4
    for _ in range(2000):
        q = [[sign * nu + c.discount * v[go[s][a]] for a, sign in enumerate((-1, 1))] for s in places]
        # The reference is even, so each value has -η log 2 more than with entropy alone; the policy is the same.
        v = [eta * math.log(sum(math.exp(x / eta) for x in q[s]) / 2) for s in places]
    log_pi = [[(q[s][a] - v[s]) / eta - math.log(2) for a in (0, 1)] for s in places]
    rows = []
    for actions in itertools.product((0, 1), repeat=c.length):
        s, log_p, true, ours = 0, 0.0, 0.0, 0.0
        for a in actions:
            log_p, true, ours = log_p + log_pi[s][a], true + (2 * a - 1) * pays[s], ours + (2 * a - 1) * nu
            s = go[s][a]
        rows.append((math.exp(log_p), true, ours))
    total = 0.0
    for (p0, t0, r0), (p1, t1, r1) in itertools.product(rows, rows):
        y, mine = (1 / (1 + math.exp(-d)) for d in (c.rationality * (t1 - t0), r1 - r0))
        total += p0 * p1 * (y * math.log(mine / y) + (1 - y) * math.log((1 - mine) / (1 - y)))
    return total - c.reward_decay * nu**2


@pytest.mark.parametrize("nu", [-0.7, 0.2, 1.1])
def test_the_objective_is_that_of_a_second_implementation(nu):
    ours = float(ChainAlignment(chain()).objective(number(nu)))
    assert ours == pytest.approx(second_objective(nu, Config()), abs=1e-12)


@pytest.mark.parametrize("problem", [chain(), rich_chain()], ids=["trap", "rich"])
def test_the_hypergradient_is_that_of_finite_differences(problem):
    alignment, size = ChainAlignment(problem), problem.features.shape[-1]
    nu = 0.6 * number(1.0, -0.7, 0.4)[:size]
    step = 1e-5 * torch.eye(size, dtype=torch.float64)
    slope = (alignment.objective(nu + step) - alignment.objective(nu - step)) / 2e-5
    exact = alignment.gradient(nu)
    assert torch.allclose(exact, slope, rtol=1e-6, atol=1e-8)
    # Without the distribution term it is another vector.
    assert (exact - alignment.gradient(nu, "none")).norm() > 0.05 * exact.norm()


def test_conjugate_gradients_along_trajectories_give_the_whole_hypergradient():
    alignment, nu = ChainAlignment(rich_chain()), 0.6 * number(1.0, -0.7, 0.4)
    exact = alignment.gradient(nu)
    assert torch.allclose(alignment.gradient(nu, "cg"), exact, rtol=1e-6)
    errors = [float((alignment.gradient(nu, "cg", horizon) - exact).norm()) for horizon in (1, 5, 20, 80)]
    assert errors == sorted(errors, reverse=True)


def test_one_step_is_exact_only_where_rewards_have_no_later_effect():
    trap, rich = ChainAlignment(chain()), ChainAlignment(rich_chain())
    nu = number(0.4)
    assert torch.allclose(trap.gradient(nu, "onestep"), trap.gradient(nu), rtol=1e-9)
    nu = 0.6 * number(1.0, -0.7, 0.4)
    exact = rich.gradient(nu)
    assert (rich.gradient(nu, "onestep") - exact).norm() > 0.02 * exact.norm()


@pytest.mark.parametrize("mode", ["none", "onestep", "exact"])
def test_estimates_from_drawn_pairs_have_the_exact_mean(mode):
    alignment, nu = ChainAlignment(rich_chain()), 0.6 * number(1.0, -0.7, 0.4)
    draws = uniform(0, 100, 3, 64)
    estimates = torch.stack([alignment.estimate(nu, mode, own) for own in draws])
    error = (estimates.mean(0) - alignment.gradient(nu, mode)).abs()
    assert (error < 4 * estimates.std(0) / math.sqrt(len(draws))).all()


def test_segments_alone_point_the_same_way():
    """The estimate by conjugate gradients cuts rewards at the segment's end, so it is not without bias."""
    alignment, nu = ChainAlignment(rich_chain()), 0.6 * number(1.0, -0.7, 0.4)
    direct = alignment.estimate(nu, "none", uniform(0, 3, 4000))
    ours = alignment.estimate(nu, "cg", uniform(0, 3, 4000)) - direct
    exact = alignment.gradient(nu) - alignment.gradient(nu, "none")
    assert torch.cosine_similarity(ours, exact, dim=0) > 0.95


def test_the_baseline_takes_most_of_the_noise():
    alignment, nu = ChainAlignment(chain()), number(0.13)
    log_policy = alignment.log_policy(nu)
    bounds = alignment.log_probability(log_policy).exp().cumsum(-1)
    drawn = torch.searchsorted(bounds, uniform(1, 2, 400, 64), right=True).clamp_max(len(bounds) - 1)
    e = alignment.excess(nu)[drawn[0], drawn[1]]
    scores = alignment.state[drawn].sum((0, -1)).double()  # any function of the pair stands for its score
    plain, less = ((values * (scores - scores.mean())).mean(-1) for values in (e, centred(e)))
    assert less.std() < plain.std()


def test_the_alternation_rests_at_one_place_from_everywhere():
    """The steps ν + rate · direct rise with ν and cross the diagonal once: so every start in the range ends there."""
    alignment, rate = ChainAlignment(chain()), 0.2
    line = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    direct = alignment.direct(line).squeeze(-1)
    after = line[:, 0] + rate * direct
    assert (after.diff() > 0).all()
    assert after[0] > -5
    assert after[-1] < 5
    assert ((direct > 0) == (line[:, 0] < RESTING + 0.001)).all()


def test_the_optimum_is_elsewhere_and_on_the_way_there_is_no_rest():
    alignment = ChainAlignment(chain())
    line = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    objective, place = alignment.objective(line), line[:, 0]
    best = int(objective.argmax())
    assert float(place[best]) == pytest.approx(1.33, abs=0.01)
    uphill = (objective.diff() > 0)[(place[:-1] >= -0.25) & (place[:-1] < place[best])]
    assert uphill.all()
    resting = number(RESTING)
    assert objective[best] > alignment.objective(resting) + 0.2
    assert alignment.true_return(line[best]) > 1.9
    assert alignment.true_return(resting) < 0.5


def test_a_parl_reaches_the_optimum_where_the_alternation_does_not():
    alignment = ChainAlignment(chain())
    starts = -0.25 + 0.75 * uniform(7, SEEDS, 1)
    full, direct = (alignment.ascend(starts, mode, steps=60, rate=0.5) for mode in ("exact", "none"))
    line = torch.linspace(1.3, 1.36, 61, dtype=torch.float64)[:, None]
    assert (alignment.objective(full) > alignment.objective(line).max() - 1e-3).all()
    assert (alignment.true_return(full) > 1.9).all()
    assert torch.allclose(direct, number(RESTING).expand_as(direct), atol=1e-3)
    assert (alignment.true_return(direct) < 0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "seeds"), [("onestep", SEEDS), ("none", SEEDS), ("cg", 5)])
def test_so_it_does_from_samples(mode, seeds):
    """Of 256 pairs a step, each drawn anew and labelled by a teacher who errs; cg takes more time than there is."""
    alignment, returns = ChainAlignment(chain()), []
    for seed in range(seeds):
        draws = uniform(seed, 60, 3, 256)
        nu = alignment.ascend(number(0.0), mode, steps=len(draws), rate=0.3, uniform=draws)
        returns.append(float(alignment.true_return(nu)))
    assert min(returns) > 1.8 if mode != "none" else max(returns) < 0.6


def test_conjugate_gradients_solve_and_ending_early_is_no_harm():
    root = torch.from_numpy(Stream(0, "test/cg").at(0).standard_normal((6, 6)))
    matrix, right = root @ root.T + torch.eye(6, dtype=torch.float64), uniform(2, 6)
    for iterations in (6, 30):
        solution = conjugate_gradients(lambda v: matrix @ v, right, iterations)
        assert torch.allclose(solution, torch.linalg.solve(matrix, right), rtol=1e-9)
    assert not conjugate_gradients(lambda v: matrix @ v, torch.zeros(6, dtype=torch.float64), 3).any()


def test_the_derivative_along_a_direction_is_that_of_finite_differences():
    theta = uniform(3, 4, 2).requires_grad_()
    direction = uniform(4, 8)
    state = torch.tensor([[0, 1, 1], [2, 3, 0]])

    def value(parameters):
        return parameters.log_softmax(-1)[state, state % 2]

    ours = along(value(theta), [theta], direction)
    step = 1e-6 * direction.view(4, 2)
    slope = (value(theta + step) - value(theta - step)).detach() / 2e-6
    assert torch.allclose(ours, slope, atol=1e-8)


def test_less_the_mean_of_the_others():
    values = uniform(5, 7)
    others = [(values.sum() - own) / 6 for own in values]
    assert torch.allclose(centred(values), values - torch.stack(others))
