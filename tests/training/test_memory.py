import subprocess
import sys

import pytest
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.training import memory
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan


def test_a_runs_memory_is_that_of_its_data_and_of_all_agents():
    """Counted by hand: actor 11-16-3, two critics 14-16-1; weights, gradients, two moments, a target and two counts.

    An update holds the gradients twice, and the hidden layers of both critics for 256 rows.
    """
    options = TrainOptions(dataset="hopper-demo", seeds=[0, 1, 2])
    plan = Plan.make("td3_bc", None, options, {"hidden_dims": [16]})
    weights = (11 * 16 + 16 + 16 * 3 + 3) + 2 * (14 * 16 + 16 + 16 * 1 + 1)
    found = memory.Memory.of(plan)
    assert found.replica == 4 * (5 * weights + 2)
    assert found.dataset == 4 * len(plan.dataset) * (11 + 3 + 1 + 1 + 11)
    assert found.update == 4 * (weights + 256 * 2 * 16)
    assert found.needed == found.dataset + 3 * found.replica + found.update


@pytest.mark.parametrize("algorithm", ["sac_n", "edac"])
def test_memory_grows_by_the_same_for_every_critic(algorithm):
    """Broken by critics, their moments, targets or hidden layers that are not counted."""
    options, settings = TrainOptions(dataset="hopper-demo", seeds=[0]), {"hidden_dims": [16, 8], "batch_size": 32}
    few, many = (
        memory.Memory.of(Plan.make(algorithm, None, options, {**settings, "num_critics": count})) for count in (2, 52)
    )
    critic = (14 * 16 + 16) + (16 * 8 + 8) + (8 * 1 + 1)
    assert many.replica - few.replica == 50 * 4 * 5 * critic
    assert many.update - few.update == 50 * 4 * (critic + 32 * (16 + 8))
    assert str(many).endswith(f"{many.update / 1e6:.1f} MB for an update)")


def test_what_cannot_fit_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_free", lambda device: 1_000_000)
    with pytest.raises(
        orl.RunError, match=r"memory on cpu: at least .* needed, 1.0 MB free .*; train fewer seeds at once"
    ):
        orl.train("bc", "hopper-demo", steps=10, out=str(tmp_path / "run"), **TINY)
    assert not (tmp_path / "run").exists()


def test_sizes_are_known_without_a_compiler():
    """Joining tensors without numbers by torch.cat, or copying one by zeros_like, loads parts of PyTorch's compiler."""
    code = (
        "import sys\nfrom offline_rl.agent import algorithms, describe, find_algorithm, new_agent\n"
        "from offline_rl.data.preprocessing import Preprocessing\n"
        "for name in ('bc', 'td3_bc', 'doc', 'famo2o', 'parl', 'iql'):\n"
        "    kind = find_algorithm(name)\n"
        "    sizes = {'observation_size': 3, 'action_size': 2, 'seed': 0, 'steps': 10, 'online_steps': 0}\n"
        "    own = {'preprocessing': Preprocessing.identity(3, 2), 'provenance': {}}\n"
        "    new_agent(describe(kind, kind.config_class(), **sizes, **own), 'meta')\n"
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
