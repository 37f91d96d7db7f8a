"""Properties of O-PARL that hold whatever the data; each names the mistake that breaks it."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from helpers.agents import snapshot
from helpers.datasets import random_dataset

import offline_rl as orl
from offline_rl.agent import load_agent
from offline_rl.algos import iql, td3_bc
from offline_rl.algos.parl.agent import MODES, PARL, Config, Schedule
from offline_rl.algos.parl.reward_learning import Comparisons, accuracy, differences, excess, log_likelihood
from offline_rl.algos.parl.upper import Weighted, choose_kappa, effective_size, weights
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import AgentError, OfflineRLError
from offline_rl.training.updates.sampler import Sampler

SMALL = {
    "hidden_dims": [16, 16],
    "batch_size": 16,
    "reward_hidden_dims": [12, 8],
    "reward_epochs": 2,
    "num_labels": 40,
    "segment_length": 5,
    "rounds": 3,
    "round_steps": 1,
    "ramp_rounds": 1,
    "upper_steps": 2,
    "upper_batch": 8,
    "head_size": 6,
}
STEPS = 20
ALL_MODES = [(lower, mode) for lower, modes in MODES.items() for mode in modes]


def make_dataset(reward=None):
    data = random_dataset(rows=300)
    rewards = 1 + np.tanh(data.observations[:, 0] + data.actions[:, 0]) if reward is None else reward
    arrays = {name: getattr(data, name) for name in ("observations", "actions", "next_observations")}
    return Dataset.from_arrays(**arrays, rewards=rewards, terminated=data.terminated | (np.arange(300) == 299))


DATASET = make_dataset()
PREPROCESSING = Preprocessing.fit(DATASET, normalize=True)
ROWS = PackedRows.of(DATASET, PREPROCESSING)


def make(settings=None, rows=ROWS, **options):
    options = {"steps": STEPS, "preprocessing": PREPROCESSING, **options}
    agent = PARL(Config.of({**SMALL, **(settings or {})}), 5, 2, **options)
    agent.prepare(rows)
    return agent


def run(agent, first=1, last=STEPS, rows=ROWS):
    sampler, metrics = Sampler(agent, rows), {}
    for step in range(first, last + 1):
        metrics |= agent.update(sampler.batch(step), step)
    return metrics


def assert_same(first, second):
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# Weights of pairs.


def test_equal_weights_without_temperature():
    """Broken by a softmax that adds anything to κ z."""
    z = torch.linspace(-3, 9, 50, dtype=torch.float64)
    assert torch.allclose(weights(z, 0.0), torch.full((50,), 1 / 50, dtype=torch.float64))


@pytest.mark.parametrize("share", [0.05, 0.25, 0.9])
@pytest.mark.parametrize("spread", [0.1, 3.0, 1000.0])
def test_kappa_is_the_largest_that_keeps_the_effective_size(share, spread):
    """Broken by a bisection that keeps the wrong end, or by a constraint on something else than 1 / Σ ω²."""
    z = torch.from_numpy(np.random.default_rng(0).standard_normal(80) * spread)
    kappa = choose_kappa(z, share)
    assert effective_size(weights(z, kappa)) >= share * 80 - 1e-9
    assert kappa == 1 or effective_size(weights(z, kappa * 1.0001)) < share * 80


def test_a_constant_in_all_log_ratios_changes_no_weight():
    """Broken by weights that are not normalised by themselves."""
    z = torch.linspace(-3, 9, 50, dtype=torch.float64)
    assert torch.allclose(weights(z + 123.0, 0.7), weights(z, 0.7), atol=1e-12)
    assert torch.allclose(choose_kappa(z + 123.0, 0.3), choose_kappa(z, 0.3), atol=1e-9)


def test_without_temperature_the_direct_term_is_that_of_plain_preferences():
    """Broken by weights in the direct term that are not (1 - m) / N + m ω."""
    settings = {"hyper_mode": "reweight", "anchor_weight": 0.0, "parameter_weight": 0.0, "reward_epochs": 1}
    agent = make(settings, dtype=torch.float64)
    run(agent, last=1)
    upper, model = agent.upper, agent.networks.model
    count = len(upper._training)
    uniform = torch.full((count,), 1 / count, dtype=torch.float64)
    weighted = Weighted(0.5, torch.zeros((), dtype=torch.float64), uniform, None)
    part = upper._training.part(upper._sampled_pairs(4, weighted))
    d = differences(part.per_pair(model(*part.rows())))
    loss = -log_likelihood(d, part.label).mean()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    expected = expected * (1 / expected.norm()).clamp(max=1)
    upper.step(4, weighted)
    assert torch.allclose(agent.groups["reward"].gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("lower", "mode"), [("iql", "sf"), ("iql", "reweight"), ("td3_bc", "unroll")])
def test_which_segment_comes_first_does_not_matter(lower, mode):
    """Broken by a label that is P(first preferred) somewhere, or by a weight of one segment only."""
    agents = []
    for swap in (False, True):
        agent = PARL(
            Config.of({**SMALL, "lower": lower, "hyper_mode": mode}),
            5,
            2,
            steps=STEPS,
            preprocessing=PREPROCESSING,
            dtype=torch.float64,
        )
        pairs = agent.pairs(ROWS).swapped() if swap else agent.pairs(ROWS)
        agent.pairs = lambda rows, pairs=pairs: pairs
        agent.prepare(ROWS)
        run(agent)
        agents.append(agent)
    assert agents[0].upper._training.label.unique().tolist() == [0, 1]
    for name, tensor in agents[0].training_state().items():
        assert torch.allclose(tensor, agents[1].training_state()[name], rtol=1e-8, atol=1e-10), name


def test_pairs_of_what_the_policy_does_count_more():
    """Broken by a log-ratio with the wrong sign."""
    agent = make({"lower": "td3_bc"})
    observation = ROWS.columns().observation
    own = agent.lower.policy(observation)
    assert (agent.lower.log_ratio(observation, own) == 0).all()
    assert (agent.lower.log_ratio(observation, own + 0.1) < 0).all()
    agent = make()
    run(agent)
    columns = ROWS.columns()
    advantage = agent.lower.advantage(columns.observation, columns.action)
    ratio = agent.lower.log_ratio(columns.observation, columns.action)
    assert torch.equal(ratio, (3 * advantage).clamp(-5, 5))


# The preferences' likelihood.


def comparisons(label, probability):
    rows = torch.zeros(len(label), 2, 3, 1)
    return Comparisons(rows, rows, torch.tensor(label), torch.tensor(probability))


def test_a_constant_in_all_rewards_changes_no_preference():
    """Broken by segments of unequal weight, or by a reward that is counted once only."""
    rewards = torch.randn(3, 10, 2, 7, dtype=torch.float64)
    for mean in (False, True):
        assert torch.allclose(differences(rewards + 3.7, mean=mean), differences(rewards, mean=mean), atol=1e-12)


def test_the_excess_is_what_a_better_reward_could_still_gain():
    """Broken by raw cross-entropy, which a policy raises by going where comparisons are easy."""
    known = comparisons([1.0, 0.0, 0.5], [0.8, 0.8, 0.5])
    perfect = torch.tensor([math.log(0.8 / 0.2)] * 2 + [0.0])
    e = excess(perfect, known, torch.full((3,), 0.3))
    assert 0.8 * e[0] + 0.2 * e[1] == pytest.approx(0, abs=1e-6)
    assert e[2] == pytest.approx(0, abs=1e-6)
    unknown = comparisons([1.0, 0.5, 0.3], [math.nan] * 3)
    entropy = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
    gained = excess(perfect, unknown, torch.full((3,), 0.3)) - log_likelihood(perfect, unknown.label)
    assert gained.tolist() == pytest.approx([entropy(0.3), math.log(2), entropy(0.3)])
    assert torch.equal(excess(perfect, known, known.label, raw=True), log_likelihood(perfect, known.label))


def test_ties_are_not_counted_as_right_or_wrong():
    """Broken by an accuracy over all pairs."""
    label = torch.tensor([0.0, 1.0, 0.5, 1.0])
    difference = torch.tensor([-1.0, 1.0, 5.0, -1.0])
    assert accuracy(difference, label) == pytest.approx(2 / 3)
    assert accuracy(difference, label, torch.tensor([0.0, 0.5, 0.3, 0.2])) == pytest.approx(0.5 / 0.7)


# What the lower level sees.


@pytest.mark.parametrize(("lower", "mode"), ALL_MODES)
def test_the_datasets_rewards_never_reach_the_learner(lower, mode):
    """Broken by a batch whose own rewards are used, or by rewards that are written into the rows."""
    settings = {"lower": lower, "hyper_mode": mode}
    clean = make(settings)
    run(clean)
    rows = PackedRows.of(DATASET, PREPROCESSING)
    blind = make(settings, rows)
    rows.columns().reward.fill_(math.nan)
    metrics = run(blind, rows=rows)
    assert_same(snapshot(clean), snapshot(blind))
    assert all(value.isfinite().all() for value in metrics.values())
    assert metrics["reward_correlation"] == 0


def with_rewards(rewards):
    return PackedRows.of(make_dataset(rewards), PREPROCESSING)


@pytest.mark.parametrize(("lower", "plain"), [("iql", iql), ("td3_bc", td3_bc)])
def test_the_decoupled_lower_level_is_the_plain_algorithm_on_relabelled_data(lower, plain):
    """Broken by any change to the lower level's update, draws, schedule or initial weights."""
    agent = make({"lower": lower, "hyper_mode": "none"}, seed=4)
    run(agent)
    settings = {"hidden_dims": [16, 16], "batch_size": 16}
    raw = {"scale_rewards": False, "normalize": True} if lower == "iql" else {}
    kind = plain.IQL if lower == "iql" else plain.TD3BC
    alone = kind(plain.Config(**settings, **raw), 5, 2, seed=4, steps=STEPS, preprocessing=PREPROCESSING)
    rows = with_rewards(agent.upper.rewards.numpy())
    alone.prepare(rows)
    run(alone, rows=rows)
    own = agent.lower.training_state()
    for name, tensor in alone.training_state().items():
        assert torch.equal(tensor, own[name]), name


@pytest.mark.parametrize(("lower", "mode"), ALL_MODES)
def test_without_rounds_every_mode_is_the_decoupled_baseline(lower, mode):
    """Broken by a mode that touches the lower level before its first round."""
    decoupled, other = (
        make({"lower": lower, **settings}) for settings in ({"hyper_mode": "none"}, {"hyper_mode": mode, "rounds": 0})
    )
    for agent in (decoupled, other):
        run(agent)
    assert torch.equal(decoupled.upper.rewards, other.upper.rewards)
    assert_same(decoupled.lower.training_state() if lower == "iql" else _no_spread(decoupled), _no_spread(other))


def _no_spread(agent):
    return {name: tensor for name, tensor in agent.lower.training_state().items() if name != "spread"}


@pytest.mark.parametrize(("lower", "mode"), [("iql", "sf"), ("iql", "onestep"), ("iql", "cg"), ("td3_bc", "unroll")])
def test_modes_differ_in_the_distribution_term_only(lower, mode):
    """Broken by a distribution term that is forgotten, or by one in the mode "reweight"."""
    lengths = {}
    for name in ("reweight", mode):
        lengths[name] = run(make({"lower": lower, "hyper_mode": name}))["distribution_norm"]
    assert lengths["reweight"] == 0
    assert lengths[mode] > 0


def test_the_oracle_is_iql_itself():
    """Broken by another affine map for the baselines than IQL's own preset."""
    agent = make({"rewards": "oracle"})
    alone = iql.IQL(
        iql.Config(hidden_dims=[16, 16], batch_size=16, normalize=True),
        5,
        2,
        steps=STEPS,
        preprocessing=PREPROCESSING,
    )
    alone.prepare(ROWS)
    for one in (agent, alone):
        run(one)
    for name, tensor in alone.training_state().items():
        assert torch.equal(tensor, agent.training_state()[name]), name


def test_baselines_and_learned_rewards_share_one_affine_map():
    """Broken by a shift that some of them get, or by a scale that is not the range of episode returns."""
    for shift, b in (("none", 0.0), ("pt", 0.5)):
        tables = {}
        for kind in ("oracle", "zero", "average", "learned"):
            agent = make({"rewards": kind, "shift": shift})
            if kind == "learned":
                run(agent, last=1)
            tables[kind] = agent.upper.rewards.double().numpy()
        assert (tables["zero"] == b).all()
        assert tables["average"] == pytest.approx(tables["oracle"].mean(), rel=1e-5)
        assert len(set(tables["average"])) == 1
        for kind in ("oracle", "learned"):
            bounds = ROWS.episode_bounds
            returns = [(tables[kind] - b)[i:j].sum() for i, j in itertools.pairwise(bounds)]
            assert max(returns) - min(returns) == pytest.approx(1000, rel=1e-4)


def test_the_map_stays_while_rewards_move():
    """Broken by a scale that is found again in every round: the lower level would see its rewards jump."""
    agent = make({"upper_learning_rate": 0.01})
    run(agent, last=1)
    before, scale = agent.upper.rewards.clone(), agent.upper.scale
    run(agent, first=2)
    assert agent.upper.scale == scale
    assert not torch.equal(agent.upper.rewards, before)


def test_shuffled_labels_teach_nothing():
    """Broken by shuffling the training labels only, or segments and labels alike."""
    settings = {"num_labels": 200, "reward_epochs": 40, "reward_hidden_dims": [32], "hyper_mode": "none"}
    told, untold = (run(make({**settings, "shuffle_labels": shuffle}), last=1) for shuffle in (False, True))
    assert told["held_out_accuracy"] > 0.75
    assert untold["held_out_accuracy"] < 0.75
    assert told["reward_correlation"] > untold["reward_correlation"]


# The upper level's pace.


@pytest.mark.parametrize("steps", [1, 2, 9, 50, 777, 20_000, 1_000_000])
@pytest.mark.parametrize("least", [1, 50])
def test_rounds_keep_their_shares_of_any_run(steps, least):
    """Broken by two rounds in one update, a round in warm-up or end, or a last round that never comes."""
    schedule = Schedule.of(steps, 0.2, 0.1, 140, least)
    ends = [schedule.end(number) for number in range(1, schedule.rounds + 1)]
    assert len(set(ends)) == schedule.rounds
    assert all(schedule.ending_at(end) == number for number, end in enumerate(ends, start=1))
    assert sum(schedule.ending_at(step) is not None for step in range(1, min(steps, 20_000) + 1)) in (
        schedule.rounds,
        sum(end <= 20_000 for end in ends),
    )
    if ends:
        assert ends[-1] == steps - round(0.1 * steps)
        assert min(np.diff([round(0.2 * steps), *ends])) >= least
    if steps == 1_000_000:
        assert ends[:2] == [205_000, 210_000]


def test_rewards_stop_moving_when_the_held_out_loss_keeps_rising():
    """Broken by counting rises that are not in a row, or by a stop that is not kept."""
    agent = make({"patience": 2, "rounds": 10})
    run(agent, last=1)
    losses = iter([5.0, 6.0, 7.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01])
    watch = agent.upper._count_rises
    agent.upper._count_rises = lambda loss: watch(torch.full_like(loss, next(losses)))
    tables = []
    for step in range(2, STEPS + 1):
        run(agent, first=step, last=step)
        if agent.schedule.ending_at(step):
            tables.append(agent.upper.rewards.clone())
    moves = [not torch.equal(*pair) for pair in itertools.pairwise(tables)]
    assert moves == [True] + 8 * [False]


def test_the_distribution_term_is_no_longer_than_allowed():
    """Broken by a limit on the sum, or on the direct term."""
    steps = {}
    for limit in (0.0, 1e-3, 1.0):
        agent = make({"distribution_limit": limit, "parameter_weight": 0.0, "anchor_weight": 0.0})
        run(agent, last=12)
        ratio = agent.update(Sampler(agent, ROWS).batch(13), 13)["distribution_ratio"]
        steps[limit] = agent.groups["head"].gradient.clone()
    assert ratio > 1e-3
    assert (steps[0.0] - steps[1e-3]).norm() <= 1.01e-3 * steps[0.0].norm() * 1.01
    assert not torch.equal(steps[0.0], steps[1e-3])


def test_the_warm_up_is_made_once_and_the_head_begins_at_zero():
    """Broken by fitting in every process that continues the run, or by a head that moves rewards before a round."""
    agent = make()
    first = run(agent, last=1)
    assert "held_out_loss" in first
    assert torch.equal(agent.networks.head.weight.data, torch.zeros(6))
    warm = agent.upper.warm(ROWS.columns().observation, ROWS.columns().action).mean(0) * agent.upper.scale
    assert torch.allclose(agent.upper.rewards, warm, rtol=1e-5)
    assert "held_out_loss" not in run(agent, first=2, last=2)


@pytest.mark.parametrize(("lower", "mode"), [*ALL_MODES, ("iql", "oracle")])
@pytest.mark.parametrize("stop", [0, 1, 11, 13])
def test_a_resumed_agent_goes_on_to_the_same_bytes(lower, mode, stop):
    """Broken by a number that is not in the training state, or a table that is not recomputed."""
    # The held-out loss rises with slow rewards and falls with quick ones: then both its numbers matter.
    settings = {"lower": lower, "patience": 1, "upper_learning_rate": 3e-5 if stop == 13 else 3e-3}
    settings |= {"rewards": mode} if mode == "oracle" else {"hyper_mode": mode}
    straight = make(settings)
    run(straight, last=stop)
    state = snapshot(straight)
    run(straight, first=stop + 1)
    resumed = make(settings)
    resumed.load_training_state(state)
    run(resumed, first=stop + 1)
    assert_same(snapshot(straight), snapshot(resumed))
    assert torch.equal(straight.upper.rewards, resumed.upper.rewards)


def test_only_the_policy_is_saved(tmp_path):
    """Broken by acting weights that hold the reward model."""
    agent = make()
    run(agent)
    agent.save(tmp_path / "agent")
    loaded = load_agent(tmp_path / "agent")
    assert all(name.startswith("actor.") for name in loaded.acting_weights())
    observation = DATASET.observations[:9]
    assert np.array_equal(loaded.act(observation), agent.act(observation))


# Settings.


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"lower": "td3_bc", "hyper_mode": "sf"}, "td3_bc"),
        ({"hyper_mode": "unroll"}, "iql"),
        ({"lower": "td3_bc", "lower.expectile": 0.9}, "lower.expectile has no meaning on td3_bc"),
        ({"alpha": 5.0}, "no setting 'alpha'"),
        ({"lower.alpha": 5.0}, "lower.alpha has no meaning on iql; leave it out, or choose --lower td3_bc"),
        ({"lower": "td3_bc", "lower.alpha": -1}, r"lower.alpha is -1.0; it must be at least 0"),
        ({"lower": "sac"}, "lower is 'sac'; it must be one of iql, td3_bc"),
        ({"lower.batch_size": 8}, "lower.batch_size"),
        ({"lower.scale_rewards": True}, "lower.scale_rewards"),
        ({"rewards": "zero", "hyper_mode": "sf"}, "hyper_mode"),
        ({"rewards": "oracle", "shuffle_labels": True}, "shuffle_labels"),
        ({"hyper_mode": "cg", "lower.deterministic": True}, "deterministic"),
        ({"num_labels": 5}, "num_labels"),
        ({"warmup_share": 0.8, "frozen_share": 0.3}, "warmup_share"),
        ({"kappa": 1.5}, "kappa"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, word):
    with pytest.raises(AgentError, match=word):
        Config.of(settings)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"segment_length": 1000}, "1000"),
        ({"labels": "/no/such/labels.npz"}, "no labels"),
        ({"teacher": "nobody"}, "nobody"),
    ],
)
def test_preferences_that_cannot_be_had_are_refused_before_any_update(settings, word):
    with pytest.raises(OfflineRLError, match=word):
        make(settings)


def labels_file(path, count):
    """Write scripted pairs in the layout of Inverse Preference Learning: raw observations, hard labels."""
    pairs = make({"num_labels": max(count, 10)}).pairs(ROWS).part(np.arange(count))
    raw = pairs.observation * PREPROCESSING.observation_std + PREPROCESSING.observation_mean
    columns = {
        f"{name}_{k + 1}": array[:, k] for name, array in (("obs", raw), ("action", pairs.action)) for k in (0, 1)
    }
    np.savez(path, label=pairs.label, **columns)
    return str(path)


def test_published_labels_teach_like_the_same_labels_from_a_teacher(tmp_path):
    """Broken by labels that mean the first segment, or by observations of another normalisation."""
    path = labels_file(tmp_path / "labels.npz", 40)
    # A teacher's probabilities are not in the file: raw likelihoods do not need them.
    settings = {"upper_loss": "ce", "segment_length": None}
    told, read = make({**settings, "segment_length": 5}), make({**settings, "labels": path})
    for agent in (told, read):
        run(agent)
    assert torch.allclose(told.upper.rewards, read.upper.rewards, rtol=1e-3, atol=1e-3)


def test_too_few_published_labels_are_refused(tmp_path):
    with pytest.raises(AgentError, match="9 labels; at least 10"):
        make({"labels": labels_file(tmp_path / "labels.npz", 9), "segment_length": None})


def test_a_single_episode_has_no_range_of_returns():
    data = random_dataset(rows=50)
    names = ("observations", "actions", "next_observations", "rewards")
    alone = Dataset.from_arrays(**{name: getattr(data, name) for name in names}, terminated=np.arange(50) == 49)
    rows = PackedRows.of(alone, PREPROCESSING)
    with pytest.raises(AgentError, match="scale_rewards"):
        make(rows=rows)
    run(make({"scale_rewards": False}, rows=rows), last=1, rows=rows)


@pytest.mark.parametrize(("name", "module"), [("iql", iql), ("td3_bc", td3_bc)])
def test_a_lower_level_has_its_own_settings_and_those_of_the_whole_agent(name, module):
    """Broken by a default that differs from the lower level's own, or by a batch of another size."""
    agent = make({"lower": name, "hidden_dims": [7], "batch_size": 5, "lower.discount": 0.5})
    assert agent.lower.config is agent.config.lower
    given = {"hidden_dims": [7], "batch_size": 5, "normalize": True, "discount": 0.5}
    decided = {"scale_rewards": False, "exploration_noise": 0.0} if name == "iql" else {"exploration_noise": 0.0}
    assert dataclasses.asdict(agent.lower.config) == {**dataclasses.asdict(module.Config()), **decided, **given}
    assert agent.config.settings()["lower.discount"] == 0.5


def test_it_trains_offline_only(tmp_path, tiny):
    with pytest.raises(OfflineRLError, match="online"):
        orl.train("parl", DATASET, task="hopper", online_steps=5, steps=5, out=tmp_path / "run", **tiny)
