"""PARL's two levels on tables; each test names the mistake that breaks it.

Every closed form is compared with finite differences, or with autograd, of the plain objectives, which are written down
here once more.
"""

import doctest
import itertools

import pytest
import torch

from offline_rl.algos.tabular import parl
from offline_rl.algos.tabular.parl import Alignment, Config, random_problem, stacked
from offline_rl.draws import Stream
from offline_rl.errors import OfflineRLError

POOR = Config(decay=0.1, reward_decay=0.01, bounded=False)
"""With two features for six pairs of state and action, no reward says everything: else nothing hangs on the policy."""


def check(seed=0):
    """Return a small alignment, some ν of N(0, 1), and its policy."""
    alignment = Alignment(random_problem(seed))
    nu = torch.from_numpy(Stream(seed, "parl/nu").at(0).standard_normal(4))
    return alignment, nu, alignment.solve_inner(nu)


def relative(estimate, exact):
    return float((estimate - exact).norm() / exact.norm())


def plainly(problem, config, nu, theta):
    """Return V and G from lists of all trajectories."""
    states, actions, _ = problem.features.shape
    paths = torch.tensor(
        list(itertools.product(itertools.product(range(states), range(actions)), repeat=config.horizon))
    )
    s, a = paths[..., 0], paths[..., 1]
    moved = problem.transition[s[:, :-1], a[:, :-1], s[:, 1:]].prod(1)
    probability = problem.start[s[:, 0]] * theta.softmax(-1)[s, a].prod(1) * moved
    reward = (problem.features @ nu).tanh()[s, a]
    discounted = sum(config.discount**h * reward[:, h] for h in range(config.horizon))
    learned, true = reward.sum(1), problem.true_reward[s, a].sum(1)
    y = (config.rationality * (true[None] - true[:, None])).sigmoid()
    model = (learned[None] - learned[:, None]).sigmoid()
    loss = y * (model / y).log() + (1 - y) * ((1 - model) / (1 - y)).log()
    value = probability @ discounted - config.decay / 2 * theta.square().sum()
    return value, probability @ loss @ probability - config.reward_decay * nu.square().sum()


def test_the_example_of_the_module_runs():
    result = doctest.testmod(parl)
    assert result.attempted >= 5
    assert result.failed == 0


def test_both_objectives_are_those_of_the_trajectories():
    alignment, nu, theta = check()
    value, objective = plainly(alignment.problem, alignment.config, nu, theta)
    assert alignment.probability(theta).shape == (216,)
    assert float(alignment.probability(theta).sum()) == pytest.approx(1, abs=1e-12)
    assert float(alignment.value(nu, theta)) == pytest.approx(float(value), abs=1e-12)
    assert float(alignment.objective(nu, theta)) == pytest.approx(float(objective), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_hypergradient_is_that_of_finite_differences(seed):
    """Broken by leaving out the implicit part."""
    alignment, nu, theta = check(seed)

    def after(nu):
        return alignment.objective(nu, alignment.solve_inner(nu, theta))

    steps = 1e-5 * torch.eye(4, dtype=torch.float64)
    differences = torch.stack([(after(nu + step) - after(nu - step)) / 2e-5 for step in steps])
    assert relative(alignment.hypergradient_exact(nu, theta), differences) < 1e-6
    assert relative(alignment.direct(nu, theta), differences) > 1e-2


def test_the_hessian_needs_the_outer_product_and_is_then_that_of_autograd():
    alignment, nu, theta = check()

    def value(flat, nu):
        return plainly(alignment.problem, alignment.config, nu, flat.view(3, 2))[0]

    (hessian, cross), _ = torch.autograd.functional.hessian(value, (theta.flatten(), nu))
    assert (alignment.hessian(nu, theta) - hessian).abs().max() < 1e-10
    assert (alignment.cross_derivative(nu, theta) - cross).abs().max() < 1e-10
    without = alignment.curvature(nu, theta) - alignment.config.decay * torch.eye(6)
    assert (without - hessian).abs().max() > 1e-2


def test_gradients_are_those_of_autograd():
    alignment, nu, theta = check()
    nu, theta = nu.requires_grad_(), theta.requires_grad_()
    value, objective = plainly(alignment.problem, alignment.config, nu, theta)
    (lower,) = torch.autograd.grad(value, theta, retain_graph=True)
    direct, distribution = torch.autograd.grad(objective, (nu, theta))
    away = alignment.climb(nu, torch.zeros_like(theta), 1, 0.5)
    (farther,) = torch.autograd.grad(plainly(alignment.problem, alignment.config, nu, away)[0], away)
    assert lower.abs().max() < 1e-11
    assert (alignment.value_gradient(nu, away) - farther).abs().max() < 1e-12
    assert (alignment.direct(nu, theta) - direct).abs().max() < 1e-10
    assert (alignment.distribution(nu, theta) - distribution.flatten()).abs().max() < 1e-10


def test_the_decay_alone_bends_what_the_policy_does_not_depend_on():
    """The same number added to all logits of a state: without the decay, the Hessian is singular."""
    alignment, nu, theta = check()
    same = torch.ones(2, dtype=torch.float64)
    for state in range(3):
        shift = torch.zeros(3, 2, dtype=torch.float64)
        shift[state] = same
        product = alignment.hessian(nu, theta) @ shift.flatten()
        assert torch.allclose(product, -0.3 * shift.flatten(), atol=1e-14)


def test_more_iterations_solve_better():
    alignment, nu, theta = check()
    exact = alignment.hypergradient_exact(nu, theta)
    cg = [relative(alignment.hypergradient_cg(nu, theta, count), exact) for count in range(7)]
    # Below rounding, less is not better.
    assert all(after <= before or after < 1e-14 for before, after in itertools.pairwise(cg))
    assert cg[6] < 1e-8
    neumann = [
        relative(alignment.hypergradient_neumann(nu, theta, count, 0.5), exact) for count in (1, 2, 5, 10, 20, 50)
    ]
    assert all(after < before for before, after in itertools.pairwise(neumann))
    assert neumann[-1] < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_more_inner_steps_come_closer(seed):
    alignment, nu, theta = check(seed)
    exact, start = alignment.hypergradient_exact(nu, theta), torch.zeros_like(theta)
    counts = 1, 3, 10, 30, 100
    implicit = [alignment.hypergradient_exact(nu, alignment.climb(nu, start, count, 0.5)) for count in counts]
    unrolled = [alignment.hypergradient_unrolled(nu, start, count, 0.5) for count in counts]
    for estimates in implicit, unrolled:
        errors = [relative(estimate, exact) for estimate in estimates]
        assert all(after < before for before, after in itertools.pairwise(errors))
        assert errors[3] < 1e-3
        assert errors[4] < 1e-8


@pytest.mark.parametrize(("excess", "most"), [(False, 0.5), (True, 1.0)])
def test_the_baseline_keeps_the_mean_of_the_score_term_and_takes_off_its_noise(excess, most):
    """Half of the noise goes for the plain likelihood, whose mean is far from 0, and less for the excess."""
    alignment = Alignment(random_problem(0, features=2), Config(decay=0.1, bounded=False, excess=excess))
    nu = torch.full((2,), 0.3, dtype=torch.float64)
    theta = alignment.solve_inner(nu)
    uniform = torch.from_numpy(Stream(0, "test/pairs").at(0).random((2, 400, 256)))
    first, second = alignment.draw(theta, uniform)
    noise = []
    for baseline in (False, True):
        estimates = alignment.score_estimate(nu, theta, first, second, baseline)
        error = estimates.mean(0) - alignment.distribution(nu, theta)
        assert (error.abs() < 4 * estimates.std(0) / 20).all()
        noise.append(float(estimates.var(0).sum().sqrt()))
    assert noise[1] < most * noise[0]


def test_the_hypergradient_of_samples_is_right_up_to_their_noise():
    """A sample's inverse is biased, by less than the noise of 100 estimates of 256 pairs each."""
    alignment = Alignment(random_problem(0, features=2), POOR)
    nu = torch.full((2,), 0.3, dtype=torch.float64)
    theta = alignment.solve_inner(nu)
    uniform = torch.from_numpy(Stream(1, "test/pairs").at(0).random((100, 4, 256)))
    estimates = torch.stack([alignment.hypergradient_mc(nu, theta, each) for each in uniform])
    error = estimates.mean(0) - alignment.hypergradient_exact(nu, theta)
    assert (error.abs() < 4 * estimates.std(0) / 10).all()
    assert (alignment.direct(nu, theta) - estimates.mean(0)).norm() > 5 * error.norm()


def test_a_stack_of_problems_is_solved_as_each_alone():
    problems = [random_problem(seed, features=2) for seed in range(3)]
    nu = torch.from_numpy(Stream(0, "parl/nu").at(0).standard_normal((3, 2)))
    whole = Alignment(stacked(problems), POOR)
    theta = whole.solve_inner(nu)
    together = whole.hypergradient_exact(nu, theta)
    for number, problem in enumerate(problems):
        alone = Alignment(problem, POOR)
        assert relative(together[number], alone.hypergradient_exact(nu[number], alone.solve_inner(nu[number]))) < 1e-9


def test_a_policy_that_cannot_be_found_says_so():
    alignment = Alignment(random_problem(0), Config(decay=0.0))
    with pytest.raises(OfflineRLError, match="raise decay"):
        alignment.solve_inner(torch.ones(4, dtype=torch.float64))


@pytest.mark.slow
def test_the_whole_gradient_aligns_better_than_the_direct_term():
    """Broken by leaving out the implicit part: alternating stops where the direct term is 0, no maximum of G."""
    alignment = Alignment(stacked([random_problem(seed, features=2) for seed in range(10)]), POOR)
    reached, left = {}, {}
    for implicit in (True, False):
        nu, theta = alignment.ascend(torch.full((10, 2), 0.01, dtype=torch.float64), implicit=implicit)
        theta = alignment.climb(nu, theta, 300, 1.0)
        reached[implicit] = alignment.objective(nu, theta)
        left[implicit] = alignment.hypergradient_exact(nu, theta).norm(dim=-1)
    assert (reached[True] >= reached[False] - 1e-3).sum() >= 9
    assert left[True].max() < 0.02
    # Of ten, two stop at 0.010 and 0.013.
    assert (left[False] > 0.02).sum() >= 8
