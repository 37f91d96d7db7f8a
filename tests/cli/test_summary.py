"""What a run's last lines say, of rows and settings that are written out here."""

import shlex

import numpy as np
import pytest

from offline_rl.analysis.statistics import Estimate
from offline_rl.cli.summary import print_report

REFERENCE = {"score_name": "normalised score", "returns": "D4RL's reference returns", "score_0": -20, "score_100": 180}
"""A score is half a return, and 10 more."""


class Finished:
    """A run in a folder that is not there."""

    def __init__(self, path, rows, *, seeds, each=None, reference=REFERENCE):
        self.path, self.rows = path, rows
        self.config = {
            "algorithm": "bc",
            "config": {},
            "task": "hopper",
            "dynamics": "d4rl",
            "options": {"seeds": seeds, "steps": 30, "online_steps": 0, **({"each": each} if each else {})},
            "dataset": {"name": "some", "mean_return": 100.0, "mean_score": 60.0, "reference": reference},
        }


def final(seed, mean, *, std=4.0, episodes=5):
    score = None if mean is None else mean / 2 + 10
    return {
        "kind": "final",
        "step": 30,
        "seed": seed,
        "episodes": episodes,
        "return": mean,
        "return_std": std,
        "score": score,
    }


def printed(run, capsys):
    status = print_report(run)
    out, err = capsys.readouterr()
    usual = out.replace(shlex.quote(str(run.path)), "runs/td3_bc-hopper-medium-v2")
    assert all(len(line) <= 80 for line in usual.splitlines() if str(run.path) not in line)
    return status, [" ".join(line.split()) for line in out.splitlines()], err


def test_the_mean_of_seeds_has_the_interval_that_compare_takes(tmp_path, capsys):
    """Broken by a scatter of episodes where one of seeds belongs, or one that is not brought to scores."""
    returns = [704.0, 413.8, 500.0]
    run = Finished(tmp_path, [final(seed, mean) for seed, mean in enumerate(returns)], seeds=[0, 1, 2])
    status, lines, _ = printed(run, capsys)
    assert status == 0
    assert "seed 0, 5 episodes 704.0 ± 4.0 362.0 ± 2.0" in lines
    half = 4.302653 * np.std(returns, ddof=1) / np.sqrt(3)  # t of two degrees of freedom
    assert f"mean of 3 seeds 539.3 ± {half:.1f} 279.6 ± {half / 2:.1f}" in lines
    assert str(Estimate.of([mean / 2 + 10 for mean in returns])) == f"279.6 ± {half / 2:.1f}"
    assert "± of the mean of seeds is its 95 % t interval (see offline-rl compare)" in lines
    assert not any("one seed" in line for line in lines)


def test_one_seed_is_said_to_be_no_result(tmp_path, capsys):
    status, lines, _ = printed(Finished(tmp_path / "run", [final(3, 80.0, episodes=1)], seeds=[3]), capsys)
    assert status == 0
    assert "seed 3, 1 episode 80.0 50.0" in lines
    assert "one seed is no result; train several: --seeds 0 1 2 3 4" in lines
    assert not any("±" in line for line in lines)


def test_agents_with_settings_of_their_own_have_no_mean(tmp_path, capsys):
    run = Finished(tmp_path, [final(0, 80.0), final(1, 90.0)], seeds=[0, 1], each={"beta": [1, 2]})
    _, lines, _ = printed(run, capsys)
    assert "seed 1, beta 2 90.0 ± 4.0 55.0 ± 2.0" in lines
    assert not any("mean of seeds" in line or "of 2 seeds" in line for line in lines)


def test_a_seed_that_has_diverged_leaves_no_mean(tmp_path, capsys):
    status, lines, err = printed(Finished(tmp_path, [final(0, 80.0), final(1, None)], seeds=[0, 1]), capsys)
    assert (status, err) == (0, "")
    assert "seed 1, 5 episodes has diverged" in lines
    assert "mean of seeds none, 1 of 2 diverged" in lines


LOSS = {"kind": "train", "step": 30, "loss": None}


def test_data_without_a_task_is_learned_under_no_dynamics(tmp_path, capsys):
    run = Finished(tmp_path, [], seeds=[0])
    assert printed(run, capsys)[1][1] == "bc on some, 30 updates, d4rl dynamics"
    run.config["task"], run.config["dataset"]["source"] = None, "log.csv"
    assert printed(run, capsys)[1][1] == "bc on some, 30 updates"


@pytest.mark.parametrize("rows", [[final(0, None), final(1, None)], [{**LOSS, "seed": 0}, {**LOSS, "seed": 1}]])
def test_a_run_without_any_agent_left_fails(tmp_path, capsys, rows):
    status, lines, err = printed(Finished(tmp_path, rows, seeds=[0, 1]), capsys)
    assert status == 1
    assert err == f"error: all agents have diverged, so {tmp_path} has no result; lower the learning rates\n"
    assert not any(line.startswith("next") for line in lines)


def test_one_agent_that_is_left_by_its_losses_is_a_result(tmp_path, capsys):
    rows = [{**LOSS, "seed": 0}, {**LOSS, "seed": 1, "loss": 0.5}]
    assert printed(Finished(tmp_path, rows, seeds=[0, 1]), capsys)[0] == 0


def test_what_one_would_type_next_can_be_typed(tmp_path, capsys):
    """Broken by a path with a space, or by an export of one of several agents that does not say which."""
    _, lines, _ = printed(Finished(tmp_path / "a b", [final(3, 1.0), final(4, 2.0)], seeds=[3, 4]), capsys)
    place = f"'{tmp_path}/a b'"
    start = next(number for number, line in enumerate(lines) if line.startswith("next"))
    assert lines[start:] == [
        f"next offline-rl evaluate {place}",
        f"offline-rl export {place} --seed 3 --out policy.onnx",
        f"offline-rl report {place} --out report",
    ]


def test_a_run_that_an_older_version_made_has_d4rls_references(tmp_path, capsys):
    _, lines, _ = printed(Finished(tmp_path, [final(0, 80.0, std=32.54572)], seeds=[0], reference=None), capsys)
    assert "seed 0, 5 episodes 80.0 ± 32.5 50.0 ± 1.0" in lines
