"""Trials that are trained at once, in processes that others have used before, end as if trained alone."""

import json

import pytest
from helpers.settings import without_timings
from helpers.sweeps import TINY, write_sweep

import offline_rl as orl
from offline_rl.cli.main import main

ALPHAS = [1.0, 2.5, 5.0, 10.0]


def content(run):
    seeds = run.config["options"]["seeds"]
    weights = [(run.path / "agents" / f"seed-{seed}" / "weights.safetensors").read_bytes() for seed in seeds]
    return weights, without_timings(run.rows)


def check(folder, parameters, algorithm="td3_bc", concurrent=4, **options):
    """Run a grid; compare each run with the same settings trained alone."""
    file = write_sweep(folder / "sweep.yaml", algorithm, options, method="grid", run_cap=99, parameters=parameters)
    assert main(["sweep", str(file), f"--out={folder / 'out'}", f"--concurrent_trials={concurrent}"]) == 0
    trials = json.loads((folder / "out" / "summary.json").read_text())["trials"]
    assert len({trial["run"] for trial in trials}) == len(trials)
    for number, trial in enumerate(trials):
        settings = {**TINY, **options, **trial["parameters"]}
        alone = orl.train(algorithm, **settings, out=folder / f"alone-{number}", workers=0)
        assert content(orl.Run(folder / "out" / trial["run"])) == content(alone), trial
    return trials


@pytest.mark.slow
def test_concurrent_trials_that_differ_in_sizes_and_preprocessing_do_not_touch_each_other(tmp_path):
    """Broken by a process that keeps an earlier trial's agent or data."""
    parameters = {"hidden_dims": {"values": [[8], [16, 4]]}, "normalize": {"values": [True, False]}}
    assert len(check(tmp_path, parameters, concurrent=2, steps=60)) == 4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("algorithm", "concurrent"), [("td3_bc", 4), ("prdc", 2)])
def test_trials_with_their_own_alpha_and_seed_equal_one_by_one(tmp_path, algorithm, concurrent):
    """Twice as many trials as run at once, so that the second half comes to processes that the first has used."""
    parameters = {"alpha": {"values": ALPHAS[:concurrent]}, "seeds": {"values": [[0], [7]]}}
    assert len(check(tmp_path, parameters, algorithm, concurrent)) == 2 * concurrent
