"""What an update sees of optimisers is the same however updates are made."""

import pytest
import torch
from helpers.members import STEPS, members

from offline_rl.agent import Adam, ParameterGroup, find_algorithm
from offline_rl.training.loop import make_updates
from offline_rl.training.updates import compiled
from offline_rl.training.updates.cuda_graph import CapturedUpdates

CLIP = 0.01


class Loop:
    """Makes updates one by one."""

    def __init__(self, trained):
        self.trained = trained

    def run(self, first, last):
        for member in self.trained:
            make_updates(member, first, last)


@pytest.mark.parametrize(("name", "group"), [("bc", "actor"), ("td3_bc", "critic"), ("dt", "model")])
def test_the_length_of_a_gradient_is_a_metric_in_every_mode(name, group, monkeypatch):
    """Broken by a norm over all stacked agents, by the length after clipping, or by one that a program holds fixed."""
    algorithm, more = find_algorithm(name), {"gradient_clip": CLIP} if name == "dt" else {}
    plain = algorithm.update

    def update(self, batch, step):
        return plain(self, batch, step) | {"length": self.groups[group].gradient_norm()}

    def lengths(way):
        trained = members(name, more, dtype=torch.float64)
        way(trained).run(1, STEPS)
        return [member.means.report()["length"] for member in trained]

    monkeypatch.setattr(algorithm, "update", update)
    monkeypatch.setattr(compiled, "compiled", lambda graph, inputs: graph)
    expected = lengths(Loop)
    assert min(expected) > CLIP
    assert expected[0] != expected[1]
    assert lengths(CapturedUpdates) == pytest.approx(expected, rel=1e-7)
    assert lengths(compiled.CompiledUpdates) == pytest.approx(expected, rel=1e-7)


def test_a_gradient_is_measured_before_it_is_clipped():
    network = torch.nn.Linear(1, 1, bias=False)
    group = ParameterGroup(network, Adam(0.1, gradient_clip=0.5))
    group.step(group.gradients(3 * network.weight.sum()))
    assert (float(group.gradient_norm()), float(group.gradient.norm())) == (3.0, 0.5)
