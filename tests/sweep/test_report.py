"""What the end of a sweep says, of trials whose values are given."""

import json

import pytest
from helpers.sweeps import write_sweep
from matplotlib.figure import Figure

from offline_rl.analysis.statistics import BudgetCurve
from offline_rl.sweep.file import read_sweep
from offline_rl.sweep.report import _on_the_budget, conclude, draw, needed_trials, new_seeds, used_seeds
from offline_rl.sweep.search import Search, Trial, held

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
    best = said[: said.index("optimistic")]
    rows = [line.split(" | ") for line in best.splitlines() if line.startswith("| ")]
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


def test_the_budget_is_told_of_trials_that_were_drawn_independently(tmp_path):
    search, sweep = finished(tmp_path, 6, method="random")
    said = conclude(search, sweep, tmp_path)
    values = [trial.value for trial in search.trials()]
    curve = BudgetCurve.of(values)
    assert f"| 3 | {curve.best[2]:.4g} | {curve.low[2]:.4g} to {curve.high[2]:.4g} |" in said
    assert "the best of so many trials, drawn from the 6 of this sweep\n" in said
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["budget"] == {"tries": [1, 2, 3, 5, 6], **{n: getattr(curve, n) for n in ("best", "low", "high")}}
    lost = [*search.trials(), Trial(9, "failed", {"alpha": 1.0}, [], None, "no")]
    assert "drawn from the 6 of this sweep; 1 without a value are left out" in _on_the_budget(sweep, lost, curve)[-1]


def test_the_budget_is_not_told_where_it_would_mislead(tmp_path):
    """A Bayesian search draws better trials later; of four trials the best is chance."""
    for name, count, method, why in (
        ("bayes", 6, "bayes", "a Bayesian search does not draw its trials independently"),
        ("few", 4, "random", "it needs 5 trials with a value"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        assert f"tuning budget: not told; {why}" in conclude(*finished(folder, count, method=method), folder)
        assert json.loads((folder / "summary.json").read_text())["budget"] is None
