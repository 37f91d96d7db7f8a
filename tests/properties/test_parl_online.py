"""What holds of A-PARL whatever the comparisons say, and whole runs that begin with nothing."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.settings import without_timings

import offline_rl as orl
from offline_rl.agent import Batch
from offline_rl.algos.parl_online.agent import Config, PARLOnline
from offline_rl.cli.main import main
from offline_rl.data.packed import PackedRows
from offline_rl.data.replay import Replay
from offline_rl.draws import Stream
from offline_rl.preferences.experience import Experience
from offline_rl.training.checkpoint import Checkpoint

SMALL = {
    "hidden_dims": [12],
    "batch_size": 8,
    "reward_hidden_dims": [10],
    "reward_epochs": 2,
    "num_labels": 12,
    "labels_per_round": 4,
    "segment_length": 5,
    "reset_updates": 2,
    "upper_steps": 2,
}
TIMES = {"random_steps": 3, "search_steps": 2, "feedback_every": 4}


def packed_rows(lengths, ends, seed=0):
    """Return rows of episodes of these lengths; ``ends`` says which end truly."""
    luck, rows = np.random.default_rng(seed), []
    for length, end in zip(lengths, ends, strict=True):
        observation = luck.standard_normal((length + 1, 3))
        rest = np.tanh(luck.standard_normal((length, 2))), luck.standard_normal(length)
        rows.append(
            np.column_stack([observation[:-1], *rest, end * (np.arange(length) == length - 1), observation[1:]])
        )
    return np.concatenate(rows).astype(np.float32)


def made(rows=None, **settings):
    """Return an agent that has collected ``rows``, and the rows' replay."""
    agent = PARLOnline(Config(**{**SMALL, **TIMES, **settings}), 3, 2, steps=0, online_steps=500)
    agent.prepare(PackedRows.empty(3, 2))
    replay = Replay(PackedRows.empty(3, 2), 500)
    replay.append(packed_rows([12, 4, 9, 15], [0, 1, 0, 1]) if rows is None else rows)
    agent.go_online(replay)
    return agent, replay


def batch(agent, replay, step):
    return dataclasses.replace(agent.batch_of(1000 + step))


def updated(agent, replay, steps=18):
    for step in range(agent.random_steps + 1, steps + 1):
        agent.update(batch(agent, replay, step), step)
    return agent


def weights(agent):
    return {name: tensor.clone() for name, tensor in agent.training_state().items()}


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_without_weight_the_distribution_term_leaves_the_alternation_to_the_byte():
    first, second, third = (
        weights(updated(*made(**own))) for own in ({"mixture": 0.0}, {"hyper_mode": "none"}, {"mixture": 0.5})
    )
    assert equal(first, second)
    assert not equal(first, third)


@pytest.mark.parametrize("hyper_mode", ["cg", "onestep"])
def test_true_rewards_reach_the_learner_through_labels_alone(hyper_mode):
    """After the last label they may be anything: what nobody asked about is never seen."""
    agent, replay = made(hyper_mode=hyper_mode)
    updated(agent, replay, 14)
    assert len(agent.feedback.label) == 12
    other, _ = made(hyper_mode=hyper_mode)
    other.load_training_state(agent.training_state())
    hidden = packed_rows([12, 4, 9, 15], [0, 1, 0, 1])
    hidden[:, 5] = np.nan
    blind = Replay(PackedRows.empty(3, 2), 500)
    blind.append(hidden)
    other.go_online(blind)
    for step in range(15, 30):
        agent.update(batch(agent, replay, step), step)
        other.update(batch(other, blind, step), step)
    assert equal(weights(agent), weights(other))
    assert all(tensor.isfinite().all() for tensor in other.training_state().values())


def test_an_agent_goes_on_from_its_state_to_the_same_bytes():
    agent, replay = made()
    updated(agent, replay, 11)
    state = weights(agent)
    other, _ = made()
    other.load_training_state(state)
    for step in range(12, 22):
        for own in (agent, other):
            own.update(batch(own, replay, step), step)
    assert equal(weights(agent), weights(other))
    assert agent.feedback.rounds == 3


def test_episodes_are_found_in_the_rows_and_the_one_in_play_is_left_out():
    rows = packed_rows([12, 4, 9, 15], [0, 1, 0, 1])
    replay = Replay(PackedRows.empty(3, 2), 500)
    replay.append(rows[:-1])
    experience = Experience.of(replay)
    assert experience.bounds.tolist() == [0, 12, 16, 25]
    replay.append(rows[-1:])
    assert Experience.of(replay).bounds.tolist() == [0, 12, 16, 25, 40]
    assert Experience.of(Replay(PackedRows.empty(3, 2), 5)).bounds.tolist() == [0]


def test_segments_stay_inside_the_last_episodes():
    _, replay = made()
    experience = Experience.of(replay)
    segments = experience.segments(5, 2)
    drawn = segments.draw(500, Stream(0, "test"))
    assert {int(row) for row in drawn.ravel()} == {*range(16, 40)}
    assert all((pair[0] < 25) == (pair[-1] < 25) for pairs in drawn for pair in pairs)
    assert experience.segments(16, 4) is None


def test_a_round_waits_until_an_episode_is_long_enough():
    agent, _ = made(packed_rows([3, 4, 2], [1, 1, 1]))
    assert agent.round() == {}
    assert agent.searching
    assert len(agent.feedback.label) == 0


def test_a_round_waits_until_the_teacher_answers():
    rows = packed_rows([12, 3], [0, 1])
    rows[:, 5] = [0.0] * 12 + [9.0] * 3  # what pays is in an episode that is too short to be shown
    agent, _ = made(rows, teacher="skip")
    assert agent.round() == {}
    assert agent.searching
    assert all(tensor.isfinite().all() for tensor in agent.training_state().values())


def test_labels_are_the_teachers_and_stop_at_the_budget():
    agent, replay = made(num_labels=10)
    updated(agent, replay, 40)
    feedback = agent.feedback
    assert (feedback.rounds, len(feedback.label), feedback.newest) == (3, 10, 2)
    rewards = Experience.of(replay).rewards(feedback.start[:, :, None] + np.arange(5)).sum(2)
    assert feedback.label.tolist() == (rewards[:, 0] < rewards[:, 1]).astype(float).tolist()


def test_disagreement_chooses_the_pairs_on_which_the_networks_differ():
    asked, even = made()[0], made(queries="uniform")[0]
    for agent in (asked, even):
        agent.round()
        agent.round()
    experience = Experience.of(asked._replay)
    spread = {}
    for name, own in (("asked", asked), ("even", even)):
        pairs = own.feedback.comparisons(experience).part(slice(4, 8))
        rewards = asked.reward(*pairs.rows()).view(3, 4, 2, 5).sum(-1)
        spread[name] = float((rewards[..., 1] - rewards[..., 0]).detach().sigmoid().std(0).mean())
    assert spread["asked"] > spread["even"]


def test_critics_begin_anew_when_rewards_begin():
    agent, _ = made(reset_updates=0)
    updated(agent, agent._replay, 5)
    before = agent.groups["critic"].flat.clone()
    agent.round()
    group = agent.groups["critic"]
    assert not torch.equal(before, group.flat)
    assert torch.equal(agent.targets["critic"].flat, group.flat)
    assert float(group.count) == 0
    assert not group.state()["mean"].any()


def test_what_zero_pays_is_the_shift_and_what_oracle_pays_is_the_tasks():
    given = torch.arange(8.0)
    for rewards, expected in (("zero", torch.full((8,), 0.5)), ("oracle", given)):
        agent, replay = made(rewards=rewards, reward_shift=0.5)
        updated(agent, replay, 8)
        one: Batch = dataclasses.replace(batch(agent, replay, 1), reward=given)
        assert torch.equal(agent.reward_of(one), expected)
        assert len(agent.feedback.label) == 0


def test_novelty_is_the_distance_to_the_fifth_neighbour_in_running_deviations():
    agent, replay = made()
    states = replay.columns(torch.arange(40)).observation
    first, second = states[:8] + 0.1, states[8:20] + 0.3
    assert agent.novelty(first).isfinite().all()
    ours = agent.novelty(second)
    distances = [np.sort(np.linalg.norm(states.numpy() - one, axis=1))[5] for one in torch.cat((first, second)).numpy()]
    assert np.allclose(ours.numpy(), np.array(distances[8:]) / np.std(distances), rtol=1e-5)


def test_a_person_s_file_takes_the_teachers_place(tmp_path):
    luck = np.random.default_rng(0)
    columns = {f"obs_{k}": luck.standard_normal((6, 5, 3)) for k in (1, 2)}
    columns |= {f"action_{k}": luck.uniform(-1, 1, (6, 5, 2)) for k in (1, 2)}
    np.savez(tmp_path / "pairs.npz", **columns, label=np.array([0, 1, 0.5, 1, 0, 0]))
    agent, replay = made(labels=str(tmp_path / "pairs.npz"), hyper_mode="none")
    updated(agent, replay, 20)
    assert agent.feedback.rounds == 1
    assert not agent.searching
    assert len(agent.feedback.comparisons(Experience.of(replay))) == 6


# Whole runs

RUN = {
    **SMALL,
    **{"task": "hopper", "online_steps": 160, "random_steps": 40, "search_steps": 30, "feedback_every": 30},
    **{"eval_every": 80, "eval_episodes": 1, "final_episodes": 1, "log_every": 10, "quiet": True},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Give a run of two seeds, with processes of their own."""
    return orl.train("parl_online", "none", out=str(tmp_path_factory.mktemp("parl") / "run"), seeds=[0, 1], **RUN)


def agents(folder):
    return [(folder / "agents" / f"seed-{seed}" / "weights.safetensors").read_bytes() for seed in (0, 1)]


def test_a_run_begins_with_nothing_and_leaves_agents(run):
    assert run.config["dataset"]["name"] == "none-hopper"
    assert run.config["options"]["steps"] == 0
    last = [row for row in run.rows if row["kind"] == "train"][-1]
    assert last["labels"] == 12.0
    assert 0 <= last["held_out_accuracy"] <= 1
    assert [row["step"] for row in run.rows if row["kind"] == "final"] == [160, 160]
    assert run.agents[1].act(np.zeros(11)).shape == (3,)
    assert (run.path / "curve.png").exists()


KILLED = """
import json, os, signal, sys
import offline_rl as orl
from offline_rl.training.checkpoint import Checkpoint

save = Checkpoint.save


def save_and_die(self, folder):
    save(self, folder)
    if self.step >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)


Checkpoint.save = save_and_die
orl.train("parl_online", "none", **json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_in_any_phase_it_goes_on_to_the_same_bytes(run, tmp_path):
    """Stopped while it acts at random, searches, has just fitted rewards, and follows them; then not at all."""
    settings = {**RUN, "out": str(tmp_path / "run"), "seeds": [0, 1], "checkpoint_seconds": 0, "workers": 0}
    for resume, step in enumerate((10, 50, 71, 110)):
        arguments = [sys.executable, "-c", KILLED, json.dumps({**settings, "resume": resume > 0}), str(step)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert step <= Checkpoint.load(tmp_path / "run").step < step + 20
    again = orl.train("parl_online", "none", **{**settings, "resume": True})
    assert agents(again.path) == agents(run.path)
    assert without_timings(again.rows) == without_timings(run.rows)


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("td3_bc", {"online_steps": 5}, "td3_bc learns from a dataset, and none is given; name one"),
        ("parl_online", {}, "with dataset none an agent learns online alone; give --online_steps"),
        ("parl_online", {"online_steps": 5}, "dataset none names no task"),
        ("parl_online", {"online_steps": 5, "task": "hoper"}, "did you mean 'hopper'"),
        ("parl_online", {"online_steps": 5, "task": "CartPole-v1"}, "needs observations and bounded actions"),
        ("parl_online", {"online_steps": 5, "task": "Pendulum-v1"}, "is no MuJoCo environment"),
        ("parl_online", {"online_steps": 5, "task": "hopper", "normalize": True}, "normalize needs a dataset"),
        ("parl_online", {"online_steps": 5, "task": "hopper", "rewards": "zero", "labels": "x.npz"}, "uses no labels"),
        ("parl_online", {"online_steps": 5, "task": "hopper", "labels": "x.npz"}, "add --hyper_mode none"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, algorithm, settings, message):
    with pytest.raises(orl.OfflineRLError, match=message):
        orl.train(algorithm, "none", out=str(tmp_path / "run"), **settings)


def test_another_environment_of_gymnasium_needs_no_name_of_ours(tmp_path):
    settings = {**RUN, "task": "Swimmer-v5", "online_steps": 45, "seeds": [0], "eval_every": 0}
    run = orl.train("parl_online", "none", out=str(tmp_path / "run"), **settings)
    assert run.config["dataset"]["reference"]["returns"] == "none, the score is the return itself"
    assert run.agents[0].act(np.zeros(8)).shape == (2,)


@pytest.mark.slow
def test_a_sweep_needs_no_dataset_either(tmp_path):
    small = {**RUN, "online_steps": 100, "eval_every": 50, "seeds": [0]}
    del small["quiet"]
    words = [word for name, value in small.items() for word in (f"--{name}", *map(str, np.atleast_1d(value)))]
    file = Path(__file__).parents[2] / "benchmarks" / "sweeps" / "parl_online.yaml"
    assert main(["sweep", str(file), "--out", str(tmp_path / "sweep"), "--run_cap", "2", *words]) == 0
    found = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"]
