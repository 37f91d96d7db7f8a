"""The benchmark of luck and skill: what is missing is run, what is there is kept, and the table says both."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.stochastic import RESULTS, SUITE, jobs_of, main, read, table

ROOT = Path(__file__).parent.parent
SMALL = """
groups:
  - seeds: 2
    episodes: 500
    problems:
      lucky arm: [lucky]
    methods:
      DoC, on tables: {algorithm: tables}
      return-conditioned MLP:
        {algorithm: dt, steps: 1500, encoder: mlp, hidden_dims: [16], learning_rate: 1.0e-2, return_scale: 0.1}
      BC: {algorithm: bc, steps: 300, hidden_dims: [16], learning_rate: 1.0e-2}
"""


def run(suite, out, *more):
    """Run the benchmark in this process; what it starts for its jobs are processes."""
    words = ["benchmarks.stochastic", "--suite", str(suite), "--out", str(out), *more]
    output, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        patch.setattr(sys, "argv", words)
        return subprocess.CompletedProcess(words, main(), output.getvalue(), error.getvalue())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stochastic")
    suite, out = folder / "suite.yaml", folder / "results"
    suite.write_text(SMALL)
    done = run(suite, out, "--data_dir", str(folder), "--workers", "1")
    assert done.returncode == 0, done.stderr
    return suite, out, done


def test_luck_is_promised_by_those_who_imitate_it(finished):
    """Broken by another problem, another promise, or earnings of another policy."""
    suite, out, done = finished
    assert "[6/6] " in done.stderr
    results = read(jobs_of(suite), out)
    found = {(result["method"], result["seed"]): result for result in results}
    for seed in (0, 1):
        assert found["DoC, on tables", seed]["promised"] == pytest.approx(1, abs=0.1)
        assert found["DoC, on tables", seed]["earned"] == 1
        lucky = found["return-conditioned MLP", seed]
        assert lucky["promised"] == 10
        assert lucky["best_actions"] < 0.3
        assert found["BC", seed]["promised"] is None
        assert found["BC", seed]["earned"] == pytest.approx(0.75, abs=0.25)
    assert "| lucky arm | *the best policy* | | 1.00 | | | |" in done.stdout
    assert (out / "table.md").read_text() == done.stdout


def test_what_is_there_is_not_run_again_and_other_settings_are_refused(finished, tmp_path):
    suite, out, done = finished
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    again = run(suite, out, "--data_dir", str(tmp_path))
    assert (again.returncode, again.stderr, again.stdout) == (0, "", done.stdout)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")} == before
    other = tmp_path / "other.yaml"
    other.write_text(SMALL.replace("steps: 300", "steps: 400"))
    refused = run(other, out)
    assert refused.returncode == 2
    assert "was made with other settings; remove it" in refused.stderr


def test_the_committed_table_is_made_from_the_committed_results():
    jobs, out = jobs_of(SUITE), ROOT / RESULTS
    assert {path.name for path in out.glob("*.json")} == {job.file_name for job in jobs}
    assert (out / "table.md").read_text() == table(read(jobs, out)) + "\n"
    for path in out.glob("*.json"):
        assert "/" not in json.dumps({**json.loads(path.read_text()), "problem": ""}), f"{path.name} names a folder"
