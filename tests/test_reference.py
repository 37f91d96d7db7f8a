"""Reference rows: a CSV of what result files hold."""

import csv
import json
import statistics

import pytest

import offline_rl as orl
from benchmarks import reference
from offline_rl.benchmark import collect
from offline_rl.errors import RunError


@pytest.fixture
def results(tmp_path, tiny):
    settings = {**tiny, "workers": 0, "eval_every": 0, "final_episodes": 1}
    run = orl.train("bc", "hopper-demo", seeds=[0, 1, 2], steps=2, out=str(tmp_path / "run"), **settings)
    collect([run.path], out=tmp_path / "results")
    return tmp_path / "results"


def test_a_row_says_what_a_score_is_and_how_it_was_made(results):
    out = results / "reference.csv"
    assert reference.write(results, out) == 1
    (row,) = csv.DictReader(out.read_text().splitlines())
    found = [json.loads(path.read_text()) for path in results.glob("*.json")]
    scores = [result["score_last"] for result in found]
    assert (row["method"], row["dataset"], row["version"], row["seeds"]) == ("bc", "hopper-demo", "", "3")
    assert row["fingerprint"] == orl.load_dataset("hopper-demo").fingerprint
    assert float(row["score"]) == pytest.approx(statistics.fmean(scores), abs=0.005)
    # Student's t for two degrees of freedom, from a table.
    width = 4.30265 * statistics.stdev(scores) / 3**0.5
    assert float(row["half_width_95"]) == pytest.approx(width, abs=0.006)
    assert row["protocol"].startswith("last agent after 2 updates; 1 episodes of each seed;")
    assert "d4rl dynamics" in row["protocol"]
    assert (row["success_rate"], row["score_0_and_100_are"]) == ("", "D4RL's reference returns")


def test_successes_and_versions_of_minari_are_taken_and_divergence_is_said(results, monkeypatch):
    read = reference.read_results

    def changed(folder):
        results = read(folder)
        for place, result in enumerate(results):
            result["dataset"]["name"] = "D4RL/pen/human-v2"
            result["final"]["success"] = place / 2
        return results

    monkeypatch.setattr(reference, "read_results", changed)
    (row,) = reference.rows(results)
    assert (row["dataset"], row["version"], row["success_rate"]) == ("D4RL/pen/human-v2", "2", "0.5000")
    monkeypatch.setattr(reference, "read_results", lambda folder: [{**r, "score_last": None} for r in read(folder)])
    (row,) = reference.rows(results)
    assert (row["score"], row["half_width_95"]) == ("3 of 3 diverged", "")


def test_a_folder_without_results_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match="holds no results"):
        reference.write(tmp_path, tmp_path / "out.csv")
