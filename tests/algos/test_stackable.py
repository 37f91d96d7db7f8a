"""Which settings may differ between agents that are trained as one: names, and what building does not read.

That stacked agents follow their own settings is tested in ``tests/training/updates/test_cuda_graph.py``.
"""

import copy

import pytest
import torch
from helpers.datasets import episodic_dataset
from helpers.members import MORE, SMALL

from offline_rl.agent import algorithms, variants
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing

CLASSES = [algorithm for name in algorithms() for algorithm in variants(name).values()]
BY_CLASS = pytest.mark.parametrize("algorithm", CLASSES, ids=lambda algorithm: algorithm.__name__)


def built(algorithm, **changes):
    """Build and prepare a small agent; return it with the names of the settings that were read."""
    read = set()

    class Watched(algorithm.config_class):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    settings = {**SMALL, **MORE.get(algorithm.name, {}), **changes}
    config = copy.copy(algorithm.config_class.of(settings))
    object.__setattr__(config, "__class__", Watched)
    dataset = episodic_dataset([20, 30, 15])
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    agent = algorithm(config, 4, 2, steps=100, preprocessing=preprocessing)
    agent.prepare(PackedRows.of(dataset, preprocessing))
    return agent, read


@BY_CLASS
def test_stackable_settings_are_decimal_numbers_of_the_config(algorithm):
    types = algorithm.config_class.types()
    assert [name for name in algorithm.stackable_settings if types.get(name) is not float] == []
    assert len(set(algorithm.stackable_settings)) == len(algorithm.stackable_settings)
    assert algorithm.stackable or not algorithm.stackable_settings


@BY_CLASS
def test_building_reads_none_of_them_but_learning_rates(algorithm):
    """Broken by a setting that is read once, when an agent is built or prepared, for all agents of a stack."""
    _, read = built(algorithm)
    early = {name for name in algorithm.stackable_settings if name in read and not name.endswith("learning_rate")}
    assert early == set()


@BY_CLASS
def test_what_is_built_does_not_hang_on_them(algorithm):
    first, _ = built(algorithm)
    settings = first.config.settings()
    changes = {name: settings[name] / 2 or 0.25 for name in algorithm.stackable_settings}
    other, _ = built(algorithm, **changes)
    states = first.training_state(), other.training_state()
    assert set(states[0]) == set(states[1])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    numbers = [{name: v for name, v in vars(agent).items() if isinstance(v, float | int)} for agent in (first, other)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(("name", "setting"), [("bc", "top_fraction"), ("prdc", "beta"), ("dt", "return_scale")])
def test_settings_that_are_read_early_are_seen(name, setting):
    """What the tests above rest on: reading is noticed."""
    (algorithm,) = variants(name).values()
    assert setting in built(algorithm)[1]
    assert setting not in algorithm.stackable_settings
