"""What tests ask of agents."""

import json

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
