"""Estimates while a run trains: rows of their own, which change nothing else and come again after a stop."""

import json

import pytest

import offline_rl as orl
from offline_rl.errors import Interrupted, RunError, SweepError
from offline_rl.sweep.metric import Metric
from offline_rl.training.trainer import Trainer
from tests.helpers.datasets import episodic_dataset

SMALL = {"hidden_dims": [4], "batch_size": 8, "steps": 12, "eval_every": 0, "final_episodes": 0, "quiet": True}
OPTIONS = {**SMALL, "workers": 0, "log_every": 4}
ESTIMATES = {"estimate_every": 6, "estimate_updates": 3}


def rows_of(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights(path):
    return (path / "agents" / "seed-0" / "weights.safetensors").read_bytes()


def test_estimates_are_rows_of_their_own_and_change_no_weight(tmp_path):
    data = episodic_dataset([5] * 8)
    with_them = orl.train("td3_bc", data, out=tmp_path / "with", **OPTIONS, **ESTIMATES)
    without = orl.train("td3_bc", data, out=tmp_path / "without", **OPTIONS)
    rows = rows_of(with_them.path)
    found = [row for row in rows if row["kind"] == "estimate"]
    assert [row["step"] for row in found] == [6, 12]
    assert set(found[0]) == {
        *("kind", "step", "seed", "value", "value_low", "value_high"),
        *("difference", "difference_low", "difference_high"),
    }
    assert all(row["value_low"] < row["value"] < row["value_high"] for row in found)
    assert [row for row in rows if row["kind"] != "estimate"] == rows_of(without.path)
    assert weights(with_them.path) == weights(without.path)
    assert "estimate_every" not in without.config["options"]
    assert with_them.rows


def test_a_run_with_estimates_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    data = episodic_dataset([5] * 8)
    whole = orl.train("td3_bc", data, out=tmp_path / "whole", **OPTIONS, **ESTIMATES)
    estimate, made = Trainer._estimate, []

    def stop(self):
        estimate(self)
        made.append(self._step)
        self._stop.signal = 2

    monkeypatch.setattr(Trainer, "_estimate", stop)
    with pytest.raises(Interrupted):
        orl.train("td3_bc", data, out=tmp_path / "parted", **OPTIONS, **ESTIMATES)
    monkeypatch.setattr(Trainer, "_estimate", estimate)
    orl.train("td3_bc", data, out=tmp_path / "parted", resume=True, **OPTIONS, **ESTIMATES)
    assert made == [6]
    assert rows_of(tmp_path / "parted") == rows_of(whole.path)
    assert weights(tmp_path / "parted") == weights(whole.path)


def test_agents_that_act_on_the_past_have_no_estimates(tmp_path):
    with pytest.raises(RunError, match="cannot be estimated; leave out estimate_every"):
        orl.train("dt", episodic_dataset([5] * 8), out=tmp_path / "run", estimate_every=6, eval_every=0)


def test_a_sweep_may_compare_estimates():
    row = {"kind": "estimate", "value": 2.0, "difference": 1.0}
    rows = [{**row, "step": 6, "seed": 0}, {**row, "step": 12, "seed": 0, "value": 3.0}]
    assert Metric("estimate", maximize=True).value(rows, 1) == 3.0
    assert Metric("estimate/difference", maximize=True).history(rows, 1) == [1.0, 1.0]
    assert Metric("estimate", maximize=True).estimated
    with pytest.raises(SweepError, match="recorded no estimate"):
        Metric("estimate", maximize=True).value([], 1)
