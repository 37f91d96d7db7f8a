"""What tests ask of agents."""

import json

import torch

from offline_rl.agent import find_algorithm


def agent_of(name, settings, *sizes, **options):
    """Make an agent of settings by name."""
    algorithm = find_algorithm(name, settings)
    return algorithm(algorithm.config_class.of(settings), *sizes, **options)


def snapshot(agent):
    """Copy all that continuing the training needs."""
    return {name: tensor.clone() for name, tensor in agent.training_state().items()}


def as_format_1(folder, **changes):
    """Make an agent folder one of format 1, which has no checksums, with other values in ``agent.json``."""
    path = folder / "agent.json"
    description = {**json.loads(path.read_text()), "format": 1, **changes}
    for name in ("weights_sha256", "checksum"):
        description.pop(name, None)
    path.write_text(json.dumps(description))


def moved(agent, change):
    """Return which weights a change moves."""
    before = snapshot(agent)
    change()
    names = {name for name in before if name.endswith((".parameters", ".target"))}
    return {name for name in names if not torch.equal(agent.training_state()[name], before[name])}


def gradient(loss, network):
    """Return the gradient of a loss by a network's parameters as one vector."""
    found = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    return torch.cat([g.reshape(-1) for g in found])
