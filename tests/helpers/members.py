"""Small members of every algorithm, trained update by update, and what they end in."""

import functools

import pytest
import torch
from helpers.datasets import episodic_dataset, linked

from offline_rl.agent import algorithms, find_algorithm
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.training.loop import make_updates
from offline_rl.training.replica import Replica

STEPS = 24
SMALL = {"hidden_dims": [16, 16], "batch_size": 8}
WINDOWS = {"width": 8, "layers": 1}
MORE = {
    "a2pr": {"actor_hidden_dims": [16], "vae_hidden_dims": [16]},
    "dt": {**WINDOWS, "length": 4},
    "edac": {"num_critics": 3},
    "doc": {**WINDOWS, "past": 3, "future": 4, "negatives": 5, "candidates": 10},
    "fql": {"flow_steps": 2},
    "parl": {
        "num_labels": 20,
        "segment_length": 5,
        "rounds": 3,
        "round_steps": 5,
        "upper_steps": 2,
        "reward_epochs": 2,
    },
    "sac_n": {"num_critics": 3},
    "spot": {"vae_hidden_dims": [16], "vae_steps": 5},
    "td3_bc": {"policy_delay": 3},
}
CASES = [(name, {}) for name in algorithms()] + [
    ("famo2o", {"base": "cql"}),
    ("parl", {"lower": "td3_bc"}),
    ("parl", {"rewards": "zero"}),
    ("doc", {"encoder": "mlp"}),
    ("bc", {"top_fraction": 0.5}),
]
ALL = pytest.mark.parametrize(("name", "more"), CASES, ids=[" ".join((n, *map(str, m.values()))) for n, m in CASES])


def members(name, more, device="cpu", seeds=(0, 1), *, dtype=torch.float32, each=None):
    """Make members that have not begun; ``each`` may hold a list of settings of their own."""
    dataset = episodic_dataset([20, 30, 15, 25, 40])
    if find_algorithm(name, more).needs_next_action:
        dataset = linked(dataset)
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    rows = PackedRows.of(dataset, preprocessing, device)
    parl = MORE["parl"] if more.get("rewards", "learned") == "learned" else {}
    settings = {**SMALL, **(parl if name == "parl" else MORE.get(name, {})), **more}
    options = {"steps": STEPS, "preprocessing": preprocessing, "device": device, "dtype": dtype}
    algorithm = find_algorithm(name, settings)
    configs = [algorithm.config_class.of({**settings, **own}) for own in each or [{}] * len(seeds)]
    agents = [algorithm(config, 4, 2, seed=seed, **options) for config, seed in zip(configs, seeds, strict=True)]
    return [Replica(agent, rows) for agent in agents]


def looped(name, more, device="cpu", **options):
    """Train to the end update by update."""
    trained = members(name, more, device, **options)
    for member in trained:
        make_updates(member, 1, STEPS)
    return states(trained)


STACKABLE = [case for case in CASES if find_algorithm(*case).stackable]


def states(trained):
    """Copy members' states, without how long things took."""
    return [
        {name: value.cpu().double() for name, value in sorted(member.state().items()) if "timing/" not in name}
        for member in trained
    ]


def differing(ours, theirs, **tolerance):
    """Name what differs between two members' states."""
    assert set(ours) == set(theirs)
    equal = functools.partial(torch.allclose, **tolerance) if tolerance else torch.equal
    return [name for name in ours if not equal(ours[name], theirs[name])]
