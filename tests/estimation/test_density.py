"""Densities of noisy policies, which importance weights need."""

import math

import pytest
import torch

from tests.helpers.agents import agent_of

SETTINGS = {"hidden_dims": [4]}
CASES = [
    *(("sac", SETTINGS), ("cql", SETTINGS), ("iql", SETTINGS), ("awac", SETTINGS)),
    *(("iql", {**SETTINGS, "deterministic": True}), ("famo2o", SETTINGS), ("famo2o", {**SETTINGS, "base": "cql"})),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_a_density_is_that_of_explore(name, settings):
    """It integrates to 1 over all actions, and each part of it to the share of samples there."""
    agent = agent_of(name, settings, 3, 1, seed=1, dtype=torch.float64)
    assert agent.has_density()
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    squashed = name in ("sac", "cql") or settings.get("base") == "cql"
    # Before the cut to [-1, 1], where a method has one; at the ends of tanh's range the density is cut instead.
    grid = torch.linspace(-9, 9, 60_001, dtype=torch.float64)
    action, width = (grid.tanh(), 1 - grid.tanh() ** 2) if squashed else (grid, torch.ones_like(grid))
    with torch.no_grad():
        density = agent.log_density(observation.expand(len(grid), -1), action[:, None]).exp() * width
        inside = action.abs() < (1 - 1e-5 if squashed else math.inf)
        step = 18 / 60_000
        assert float(density[inside].sum() * step) == pytest.approx(1, abs=2e-3)
        noise = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
        samples = agent.explore(observation.expand(len(noise), -1), noise)[:, 0]
        for bound in (-0.3, 0.1, 0.5):
            below = float(density[inside & (action <= bound)].sum() * step)
            assert below == pytest.approx(float((samples <= bound).double().mean()), abs=0.02)


def test_what_knows_no_density_says_so():
    assert not agent_of("td3_bc", SETTINGS, 3, 1).has_density()
    assert not agent_of("fql", SETTINGS, 3, 1).has_density()
