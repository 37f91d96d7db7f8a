import pytest
import torch
from parity.harness import check_float32, check_float64, make_batches, saturate
from parity.test_cql import cql_weights
from parity.test_sac_n import SMALL, PlainSACN

from offline_rl.algos.edac import EDAC, Config
from offline_rl.algos.sac_n import SACN

CASES = {
    "plain": SMALL,
    "many": {**SMALL, "hidden_dims": [24, 16], "num_critics": 20},
    "pair": {**SMALL, "num_critics": 2, "eta": 5.0},
    "tuned": {**SMALL, "num_critics": 3, "eta": 100.0, "discount": 0.9, "critic_learning_rate": 2e-3},
}


class PlainEDAC(PlainSACN):
    """SAC-N with the paper's equation for the diversity of gradients, pair by pair, by autograd's second pass."""

    def critic_loss(self, b, y):
        gradients = []
        for critic in self.critics:
            action = b.action.clone().requires_grad_()
            q = critic(torch.cat([b.observation, action], 1)).sum()
            (gradient,) = torch.autograd.grad(q, action, create_graph=True)
            gradients.append(gradient / ((gradient**2).sum(1, keepdim=True).sqrt() + 1e-10))
        similarity = 0.0
        for i, first in enumerate(gradients):
            for j, second in enumerate(gradients):
                if i != j:
                    similarity = similarity + (first * second).sum(1).mean()
        return super().critic_loss(b, y) + self.c.eta * similarity / (len(gradients) - 1)


def prepared(case, dtype):
    agent = EDAC(Config(**CASES[case]), 11, 3, dtype=dtype)
    return agent, saturate(make_batches(agent))


@pytest.mark.parametrize("case", CASES)
def test_edac_in_float64(case):
    agent, batches = prepared(case, torch.float64)
    check_float64(agent, PlainEDAC, cql_weights, batches)


@pytest.mark.parametrize("case", CASES)
def test_edac_in_float32(case):
    agent, batches = prepared(case, torch.float32)
    check_float32(agent, PlainEDAC, cql_weights, batches)


@pytest.mark.parametrize("count", [2, 7])
def test_without_its_term_it_is_sac_n(count):
    """To the last bit, after every update."""
    settings = {**SMALL, "num_critics": count}
    ours, theirs = EDAC(Config(**settings, eta=0.0), 11, 3), SACN(SACN.config_class(**settings), 11, 3)
    for step, batch in enumerate(saturate(make_batches(theirs)), start=1):
        found, expected = ours.update(batch, step), theirs.update(batch, step)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        state = theirs.training_state()
        assert all(torch.equal(value, state[name]) for name, value in ours.training_state().items())
