"""The benchmark of estimates: its numbers from made-up results, and episodes drawn whole."""

import numpy as np
import pytest

from benchmarks.estimates import RESULTS, SUITE, brief, jobs_of, rank_correlation, read, sample, summary, table
from tests.helpers.datasets import episodic_dataset


def result(true, said, half, method="m"):
    interval = {"mean": said, "low": said - half, "high": said + half}
    return {
        **{"dataset": "hopper_medium_replay", "method": method, "rows": 100, "references": [10.0, 110.0]},
        **{"true": {"discounted": [true - 1, true + 1]}, "fitted_q": interval, "per_decision": None},
        **{"doubly_robust": None, "verdict": "estimate", "versions": {"torch": "2"}},
    }


def test_a_line_says_how_good_an_estimator_is():
    results = [result(20.0, 21.0, 2.0), result(60.0, 90.0, 5.0), result(90.0, 80.0, 11.0)]
    assert summary(results, "fitted_q") == ["3", "0.50", "13.7", "67 %", "30.0"]
    assert summary(results, "per_decision") == ["0", "–", "–", "–", "–"]
    results[1]["verdict"] = "not known"
    lines = table(results).splitlines()
    assert "| hopper_medium_replay | fitted Q | 100 | 3 | 0.50 | 13.7 | 67 % | 30.0 |" in lines
    assert "| hopper_medium_replay | fitted Q, verdict `estimate` | 100 | 2 | – | – | – | – |" in lines
    assert "| all | fitted Q | 100 | 3 | 0.50 | 13.7 | 67 % | – |" in lines
    assert "| 100 | estimate | 2 | 5.5 | 10.0 | 2 of 2 |" in brief(results)
    assert "| 100 | not known | 1 | 30.0 | 30.0 | 0 of 1 |" in brief(results)


def test_ranks_of_ties_are_their_mean():
    assert rank_correlation(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(np.sqrt(0.75))


def test_episodes_are_drawn_whole():
    data = episodic_dataset([3, 5, 4, 6])
    part = sample(data, 8, 0)
    lengths = np.diff(part.episode_bounds)
    assert lengths.sum() == len(part) >= 8
    assert lengths.tolist() == part.episode_lengths.tolist()
    ends = part.episode_bounds[1:] - 1
    assert part.terminated[ends].all()
    assert part.terminated.sum() == len(ends)
    assert len(sample(data, 1000, 0)) == len(data)


def test_the_suite_has_thirty_agents_on_three_datasets():
    jobs = jobs_of(SUITE)
    assert len({job.dataset for job in jobs}) == 3
    assert sum(len(job.checkpoints) for job in jobs) >= 30
    names = [job.name(checkpoint) for job in jobs for checkpoint in job.checkpoints]
    assert len(set(names)) == len(names)


def test_the_committed_table_is_made_from_the_committed_results():
    assert (RESULTS / "table.md").read_text() == f"{table(read(RESULTS))}\n"
