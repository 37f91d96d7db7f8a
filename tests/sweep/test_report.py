"""What the end of a sweep says, of trials whose values are given."""

import json

import pytest
from helpers.sweeps import write_sweep
from matplotlib.figure import Figure

from offline_rl.sweep.file import read_sweep
from offline_rl.sweep.report import conclude, draw, needed_trials, new_seeds, used_seeds
from offline_rl.sweep.search import Search, held

RATE = {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-3}


def finished(folder, count, **changes):
    """Return a sweep whose trials came to minus their distance from alpha 3."""
    sweep = read_sweep(write_sweep(folder / "sweep.yaml", run_cap=count, **changes))
    search = Search(sweep, folder)
    for _ in range(count):
        with held(search.claim()) as claim:
            search.finish(claim, -abs(claim.point["alpha"] - 3))
    return search, sweep


@pytest.mark.parametrize(("count", "told"), [(9, False), (10, True)])
def test_importance_needs_enough_trials(count, told, tmp_path):
    said = conclude(*finished(tmp_path, count), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert ("importance: alpha 100%" in said) == told
    assert (summary["importance"] == {"alpha": 1.0}) == told
    assert ("importance: not computed from 9 finished trials; it needs 10" in said) == (not told)


def test_each_parameter_asks_for_trials_of_its_own(tmp_path):
    several = {name: {"min": 0.1, "max": 0.9} for name in ("alpha", "discount", "target_rate", "policy_noise")}
    assert needed_trials(read_sweep(write_sweep(tmp_path / "sweep.yaml", parameters=several))) == 12


def test_the_five_best_are_listed_and_the_first_is_trained_on_new_seeds(tmp_path):
    search, sweep = finished(tmp_path, 7, options={"seeds": "[3, 11]"})
    said = conclude(search, sweep, tmp_path)
    order = sorted(search.trials(), key=lambda trial: -trial.value)
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| rank", "| 1", "| 2", "| 3", "| 4", "| 5"]
    assert [int(row[1]) for row in rows[1:]] == [trial.number + 1 for trial in order[:5]]
    assert f"--alpha={order[0].point['alpha']} --seeds 12 13 14 15 --out=runs/td3_bc-best" in said
    assert "--seeds=[3" not in said
    assert "optimistic: it is the highest of 7 trials, on the seeds on which it was chosen" in said
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["seeds"] == [3, 11]
    assert [entry["number"] for entry in summary["top"]] == [trial.number + 1 for trial in order[:5]]
    assert summary["best"]["command"] in said


def test_no_seed_that_was_searched_counts_as_new(tmp_path):
    parameters = {"alpha": {"values": [1, 2]}, "seeds": {"values": ["0 1", 40]}}
    search, sweep = finished(tmp_path, 4, parameters=parameters, method="grid")
    assert used_seeds(sweep, search.trials()) == [0, 1, 40]
    assert new_seeds([0, 1, 40]) == [41, 42, 43, 44]
    assert new_seeds([0]) == [10, 11, 12, 13]


def test_axes_are_logarithmic_where_the_search_is(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    parameters = {"alpha": {"min": 0.01, "max": 5.0}, "actor_learning_rate": RATE}
    search, sweep = finished(tmp_path, 3, parameters=parameters)
    draw(sweep, search.trials(), tmp_path / "sweep.png")
    scales = {axes.get_xlabel(): axes.get_xscale() for axes in drawn[0].axes if axes.get_visible()}
    assert scales == {"trial": "linear", "alpha": "linear", "actor_learning_rate": "log"}
