"""Estimates from end to end: what is said, what is flagged, what is kept, and the command."""

import dataclasses
import json

import numpy as np
import pytest

import offline_rl as orl
from offline_rl.cli.estimate import kept_estimates, next_command
from offline_rl.cli.main import main
from offline_rl.data.packed import PackedRows
from offline_rl.errors import AgentError, RunError
from offline_rl.estimation import EstimateOptions, importance
from offline_rl.estimation.flags import FEW_EPISODES, _disagree, possible_values
from offline_rl.estimation.log import Log
from offline_rl.estimation.result import Comparison, Flag, Importance, Interval, ValueEstimate, verdict_of
from offline_rl.estimation.saved import Saved, read_result, results_in
from tests.helpers.agents import agent_of as algorithm_of
from tests.helpers.datasets import episodic_dataset
from tests.helpers.logged import PROBLEMS, agent_of, chain, hazard, ring

QUICK = {"updates": 80, "members": 3, "hidden_dims": [8], "batch_size": 32, "discount": 0.9}


def kinds(result):
    return {flag.kind for flag in result.flags}


def test_a_result_survives_json_and_says_what_was_asked():
    data = hazard().dataset(40, 0)
    result = orl.estimate(agent_of(data, [0.1, 0.0]), data, **QUICK)
    assert ValueEstimate.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.value.discount == 0.9
    assert result.value.data.mean == pytest.approx(
        np.mean(
            [
                sum(0.9**i * r for i, r in enumerate(data.rewards[a:b].astype(float)))
                for a, b in zip(data.episode_bounds[:-1], data.episode_bounds[1:], strict=True)
            ]
        )
    )
    apart = result.value.agent.mean - result.value.data.mean
    assert result.value.difference.mean == pytest.approx(apart, abs=result.value.data.half_width)
    assert result.undiscounted is not None
    assert result.undiscounted.data.mean == pytest.approx(data.mean_return)
    assert result.importance is None
    assert "deterministic" in result.no_importance
    assert [point.update for point in result.curve] == list(range(4, 81, 4))


def test_a_stochastic_policy_has_a_second_estimator(monkeypatch):
    monkeypatch.setattr(importance, "UPDATES", 50)
    data = hazard().dataset(60, 0)
    result = orl.estimate(agent_of(data, [0.1, 0.0], 0.45), data, **QUICK, noise=True)
    assert result.importance is not None
    assert 1 <= result.importance.effective_episodes <= 60


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_agent_without_support_is_an_extrapolation(name):
    problem = PROBLEMS[name]()
    data = problem.dataset(40, 0)
    result = orl.estimate(agent_of(data, problem.behavior + 3), data, **QUICK)
    assert "support" in kinds(result)
    assert result.verdict != "estimate"
    near = orl.estimate(agent_of(data, problem.behavior), data, **QUICK)
    assert "support" not in kinds(near)


@pytest.mark.parametrize(("name", "limit"), [("ring", 15), ("chain", 8), ("hazard", 4)])
def test_time_limits_marked_as_ends_are_flagged(name, limit):
    """A value that is computed from wrong ends is wrong, however certain it looks."""
    problem = dataclasses.replace(PROBLEMS[name](), limit=limit)
    columns = problem.collect(40, 0)
    wrong = problem.dataset(
        40, 0, terminated=columns["terminated"] | columns["truncated"], truncated=columns["truncated"] & False
    )
    agent = agent_of(wrong, problem.behavior)
    found = orl.estimate(agent, wrong, **QUICK)
    assert "ends" in kinds(found)
    assert found.verdict == "not known"
    right = problem.dataset(40, 0)
    assert "ends" not in kinds(orl.estimate(agent, right, **QUICK))


def test_ends_after_a_fixed_number_of_steps_that_the_state_shows_are_a_remark():
    """They may be the task's own; where others are marked as cut at the same step, nothing is in doubt."""
    always = dataclasses.replace(chain(), behavior=np.full(4, 3.0))
    data = always.dataset(40, 0)
    assert set(data.episode_lengths) == {4}
    found = orl.estimate(agent_of(data, always.behavior), data, **QUICK)
    assert "limit" in kinds(found)
    assert "ends" not in kinds(found)
    told = dataclasses.replace(chain(), limit=4).dataset(200, 0)
    assert told.terminated.sum() >= 8
    assert not {"limit", "ends"} & kinds(orl.estimate(agent_of(told, always.behavior), told, **QUICK))


def test_what_time_limits_cut_off_is_said():
    data = ring().dataset(40, 0)
    result = orl.estimate(agent_of(data, [0.0, 0.0, 0.0]), data, **QUICK)
    assert "cut" in kinds(result)
    assert result.undiscounted is None


def test_critics_that_diverge_are_named():
    problem = ring()
    data = problem.dataset(40, 0)
    settings = {**QUICK, "updates": 400, "hidden_dims": [], "target_rate": 1.0, "learning_rate": 100.0}
    result = orl.estimate(agent_of(data, problem.behavior + 3), data, **settings)
    assert result.verdict == "not known"
    assert "diverged" in kinds(result)


def test_a_value_that_nobody_can_know_is_called_so():
    """Each time the critics' spread is small; broken by trusting it."""
    cut = ring().dataset(40, 0)
    endless = orl.estimate(agent_of(cut, ring().behavior), cut, **{**QUICK, "discount": 1.0})
    data = hazard().dataset(40, 0)
    short = orl.estimate(agent_of(data, hazard().behavior), data, **{**QUICK, "updates": 1})
    alone = chain().dataset(1, 0)
    one = orl.estimate(agent_of(alone, chain().behavior), alone, **QUICK)
    for result, kind in ((endless, "endless"), (short, "updates"), (one, "alone")):
        assert kind in kinds(result)
        assert result.verdict == "not known"
    assert (one.value.agent.low, one.value.difference.low, one.curve[-1].low) == (None, None, None)
    assert ValueEstimate.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_too_few_episodes_are_a_verdict():
    """Their value is not wrong, but its interval is too narrow; leaving the data is graver."""
    few, many = (Flag(kind, "") for kind in ("episodes", "cut"))
    assert verdict_of([few, many]) == "too few episodes"
    assert verdict_of([few, Flag("support", "")]) == "extrapolation"
    assert verdict_of([few, Flag("ends", "")]) == "not known"
    for count, said in ((FEW_EPISODES - 1, True), (FEW_EPISODES, False)):
        data = hazard().dataset(count, 0)
        assert ("episodes" in kinds(orl.estimate(agent_of(data, hazard().behavior), data, **QUICK))) == said


def test_the_undiscounted_value_is_judged_by_itself():
    """Its critics may need more updates than those of the discounted value, and diverge alone."""
    problem = dataclasses.replace(chain(), limit=400)
    data = problem.dataset(40, 0)
    agent = agent_of(data, problem.behavior)
    few = orl.estimate(agent, data, **{**QUICK, "discount": 0.5, "target_rate": 0.1})
    assert "updates" not in kinds(few)
    assert "undiscounted" in kinds(few)
    enough = orl.estimate(agent, data, **{**QUICK, "discount": 0.5, "target_rate": 1.0})
    assert "undiscounted" not in kinds(enough)


def test_what_lies_beyond_time_limits_is_no_disagreement():
    data = ring().dataset(40, 0)
    log = Log(PackedRows.of(data, agent_of(data, [0.0] * 3).preprocessing))
    low, high = Interval(1.0, 0.9, 1.1), Interval(9.0, 8.9, 9.1)
    value = Comparison(0.9, high, low, high, (9.0, 9.0))
    assert _disagree(log, value, Importance(low, high, 30.0, 40)) is None
    assert _disagree(log, value, Importance(low, low, 30.0, 40)).kind == "disagree"
    complete = Log(PackedRows.of(hazard().dataset(40, 0), agent_of(hazard().dataset(1, 0), [0.0] * 2).preprocessing))
    assert _disagree(complete, value, Importance(low, high, 30.0, 40)).kind == "disagree"


@pytest.mark.parametrize("lengths", [[1, 1, 1], [2], [1, 9]])
def test_episodes_of_a_row_or_two_are_estimated(lengths):
    result = orl.estimate(algorithm_of("bc", {"hidden_dims": [4]}, 4, 2), episodic_dataset(lengths), **QUICK)
    assert result.support.states == sum(lengths)


def test_possible_values_are_those_of_the_best_and_the_worst_reward():
    data = ring().dataset(4, 0)
    log = Log(PackedRows.of(data, agent_of(data, [0.0, 0.0, 0.0]).preprocessing))
    low, high = possible_values(log, 0.9)
    assert (low, high) == pytest.approx((data.rewards.min() * 10, data.rewards.max() * 10))


def test_what_cannot_be_estimated_is_refused():
    data = chain().dataset(5, 0)
    with pytest.raises(AgentError, match="has one row"):
        orl.estimate(algorithm_of("bc", {}, 4, 2), episodic_dataset([1]))
    with pytest.raises(AgentError, match="past steps"):
        orl.estimate(algorithm_of("dt", {"width": 8, "layers": 1}, 4, 1, learning=False), data)
    with pytest.raises(AgentError, match="has 4 observations and 1 actions, the agent has 3 and 1"):
        orl.estimate(agent_of(ring().dataset(5, 0), [0.0] * 3), data)
    with pytest.raises(AgentError, match="no way to explore"):
        orl.estimate(algorithm_of("bc", {}, 4, 1), data, noise=True)
    with pytest.raises(AgentError, match="unknown option 'update'"):
        orl.estimate(agent_of(data, [0.0] * 4), data, update=3)


def test_a_stopped_estimate_given_again_leaves_the_same_bytes(tmp_path, monkeypatch):
    data = hazard().dataset(30, 0)
    agent = agent_of(data, [0.1, 0.0])
    orl.estimate(agent, data, **QUICK, out=tmp_path / "whole")
    keep, kept = Saved.keep, []

    def stop(self, *arguments):
        keep(self, *arguments)
        kept.append(self.path)
        if len(kept) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Saved, "keep", stop)
    with pytest.raises(KeyboardInterrupt):
        orl.estimate(agent, data, **QUICK, out=tmp_path / "parted")
    assert [path.suffix for path in (tmp_path / "parted").iterdir()] == [".safetensors"]
    orl.estimate(agent, data, **QUICK, out=tmp_path / "parted")
    (whole,), (parted,) = (list((tmp_path / name).iterdir()) for name in ("whole", "parted"))
    assert whole.name == parted.name
    assert whole.read_bytes() == parted.read_bytes()
    (result,) = results_in(tmp_path / "whole").values()
    assert orl.estimate(agent, data, **QUICK, out=tmp_path / "whole") == result
    other = orl.estimate(agent, data, **{**QUICK, "seed": 1}, out=tmp_path / "whole")
    assert other != result
    parted.write_bytes(parted.read_bytes().replace(b'"rows"', b'"rowz"', 1))
    with pytest.raises(RunError, match="damaged"):
        read_result(parted)


def test_a_stopped_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Saved, "keep", stop)
    orl.export_dataset(chain().dataset(30, 0), tmp_path / "mine.hdf5")
    algorithm_of("bc", {"hidden_dims": [4]}, 4, 1).save(tmp_path / "agent")
    quick = ["--dataset", str(tmp_path / "mine.hdf5"), "--out", str(tmp_path / "kept"), "--members", "2"]
    assert main(["estimate", str(tmp_path / "agent"), *quick, "--updates", "20", "--hidden_dims", "4"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_a_damaged_state_is_refused(tmp_path, monkeypatch):
    """Also where the number of updates alone was changed, from which the rest would go on."""
    data = hazard().dataset(30, 0)
    agent = agent_of(data, [0.1, 0.0])
    monkeypatch.setattr(Saved, "finish", lambda self, result: None)
    orl.estimate(agent, data, **QUICK, out=tmp_path)
    (state,) = tmp_path.iterdir()
    whole = state.read_bytes()
    for damaged in (whole.replace(b'\\"update\\": 80', b'\\"update\\": 40'), whole[:-3] + b"xyz", whole[:100]):
        assert damaged != whole
        state.write_bytes(damaged)
        with pytest.raises(RunError, match="damaged"):
            orl.estimate(agent, data, **QUICK, out=tmp_path)


def test_the_same_estimate_whatever_was_computed_before():
    data = chain().dataset(20, 0)
    agent = agent_of(data, [0.1] * 4)
    assert orl.estimate(agent, data, **QUICK) == orl.estimate(agent, data, **QUICK)


def test_options_have_limits():
    with pytest.raises(AgentError, match="members is 1; it must be at least 2"):
        EstimateOptions(members=1)


def test_the_command_prints_a_row_for_each_agent_and_keeps_the_results(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = chain().dataset(30, 0)
    orl.export_dataset(data, "mine.hdf5")
    for seed in (0, 1):
        algorithm_of("bc", {"hidden_dims": [4]}, 4, 1, seed=seed).save(tmp_path / f"run/agents/seed-{seed}")
    (tmp_path / "run" / "config.json").write_text("{}")
    quick = ["--updates", "20", "--members", "2", "--hidden_dims", "4", "--discount", "0.9"]
    assert main(["estimate", "run", "--dataset", "mine.hdf5", *quick]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("seed 0") == text.count("seed 1")
    assert "the data's own policy" in text
    assert len(results_in(tmp_path / "run" / "estimates")) == 2
    (picture,) = (tmp_path / "run" / "estimates").glob("curve-*.png")
    assert picture.stat().st_size > 1000
    assert text.endswith("next  offline-rl datasets mine.hdf5 --check\n")
    assert main(["estimate", "run", "--dataset", "mine.hdf5", *quick, "--seed", "7"]) == 0
    assert len([*picture.parent.glob("curve-*.png")]) == 2  # other options overwrite nothing
    assert picture.exists()
    capsys.readouterr()
    assert kept_estimates(["run"]).count("verdict") == 1
    assert main(["estimate", "run/agents/seed-1", "--dataset", "mine.hdf5", "--json", *quick]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["value"]["discount"] == 0.9


def test_the_next_command_exports_the_first_agent_that_can_be_believed():
    data = hazard().dataset(40, 0)
    one = orl.estimate(agent_of(data, hazard().behavior), data, **QUICK)
    good, bad = (dataclasses.replace(one, verdict=verdict) for verdict in ("estimate", "extrapolation"))
    assert next_command("a run", "d.csv", [3, 4], [bad, good]) == "offline-rl export 'a run' --seed 4 --out policy.onnx"
    assert next_command("agent", "d.csv", [], [good]) == "offline-rl export agent --out policy.onnx"
    assert next_command("agent", "d.csv", [], [bad]) == "offline-rl datasets d.csv --check"


def test_a_file_in_the_place_of_the_folder_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    quick = ["--dataset", "no such data.csv", "--out", str(tmp_path / "taken" / "deeper")]
    assert main(["estimate", "no such agent", *quick]) == 2
    assert "taken is no folder; choose another --out" in capsys.readouterr().err
    with pytest.raises(RunError, match="taken is no folder"):
        orl.estimate("no such agent", "no such data", out=tmp_path / "taken")


def test_a_quiet_estimate_logs_nothing(caplog):
    data = hazard().dataset(30, 0)
    agent = agent_of(data, hazard().behavior)
    with caplog.at_level("INFO", "offline_rl"):
        orl.estimate(agent, data, **QUICK, quiet=True)
        assert not caplog.records
        orl.estimate(agent, data, **QUICK)
        assert caplog.records
