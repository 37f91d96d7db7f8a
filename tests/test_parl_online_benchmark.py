"""The comparison of A-PARL with the alternation: what is missing is run, and the table says what was reached when."""

import pytest

from benchmarks.parl_online import draw, jobs, reached, row_of, run_missing, table

TINY = {
    **{"hidden_dims": [8], "batch_size": 8, "reward_hidden_dims": [8], "reward_epochs": 2, "reset_updates": 1},
    **{"random_steps": 30, "search_steps": 5, "feedback_every": 10, "segment_length": 4, "upper_steps": 1},
    **{"eval_every": 20, "eval_episodes": 1, "final_episodes": 1, "workers": 0, "log_every": 10},
}


def test_every_method_gets_every_budget():
    wanted = jobs(["hopper", "walker2d"], [100, 400])
    assert len(wanted) == 2 * (2 + 2 * 2)
    assert [name for _, name, _ in wanted[:2]] == ["oracle", "zero"]
    settings = {name: own for task, name, own in wanted if task == "walker2d"}
    assert settings["decoupled, 100 labels"] == {"hyper_mode": "none", "num_labels": 100, "labels_per_round": 5}
    assert settings["A-PARL, 400 labels"] == {"hyper_mode": "cg", "num_labels": 400, "labels_per_round": 20}


def test_a_level_is_reached_at_the_first_evaluation_that_has_it():
    curve = [(0, 10.0), (100, 60.0), (200, 40.0), (300, 90.0)]
    assert reached(curve, 50.0) == 100
    assert reached(curve, 90.0) == 300
    assert reached(curve, 91.0) is None


def test_a_line_says_how_many_seeds_reached_a_share_of_the_oracle():
    curves = {0: [(0, 0.0), (100, 60.0)], 1: [(0, 0.0), (100, 60.0)], 2: [(0, 0.0), (100, 90.0)]}
    # 70 ± 4.303 · 17.32 / √3, by hand.
    assert row_of("hopper", "x", curves, 100.0) == ["hopper", "x", "70 ± 43", "100 ± 0", "1 of 3 seeds"]
    assert row_of("hopper", "x", curves, None)[3:] == ["no oracle", "no oracle"]


@pytest.mark.slow
def test_runs_that_are_missing_are_made_and_kept(tmp_path):
    wanted = [job for job in jobs(["hopper"], [4]) if job[1] in ("oracle", "A-PARL, 4 labels")]
    run_missing(wanted, tmp_path, 60, [0, 1], **TINY)
    lines = table(wanted, tmp_path).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["oracle", "A-PARL, 4 labels"]
    draw(wanted, tmp_path)
    assert (tmp_path / "ranking.png").stat().st_size > 1000
    before = (tmp_path / "runs" / "hopper-oracle" / "metrics.jsonl").stat().st_mtime_ns
    run_missing(wanted, tmp_path, 60, [0, 1], **TINY)
    assert (tmp_path / "runs" / "hopper-oracle" / "metrics.jsonl").stat().st_mtime_ns == before
