import pytest
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.training import memory
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan


def test_a_runs_memory_is_that_of_its_data_and_of_all_agents():
    """Counted by hand: actor 11-16-3, two critics 14-16-1; weights, gradients, two moments, a target and two counts."""
    options = TrainOptions(dataset="hopper-demo", seeds=[0, 1, 2])
    plan = Plan.make("td3_bc", None, options, {"hidden_dims": [16]})
    weights = (11 * 16 + 16 + 16 * 3 + 3) + 2 * (14 * 16 + 16 + 16 * 1 + 1)
    found = memory.Memory.of(plan)
    assert found.replica == 4 * (5 * weights + 2)
    assert found.dataset == 4 * len(plan.dataset) * (11 + 3 + 1 + 1 + 11)
    assert found.needed == found.dataset + 3 * found.replica


def test_what_cannot_fit_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_free", lambda device: 1_000_000)
    with pytest.raises(
        orl.RunError, match=r"memory on cpu: at least .* needed, 1.0 MB free .*; train fewer seeds at once"
    ):
        orl.train("bc", "hopper-demo", steps=10, out=str(tmp_path / "run"), **TINY)
    assert not (tmp_path / "run").exists()
