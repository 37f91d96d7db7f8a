"""A-PARL beside a plain float64 restatement of both levels, update by update, rounds of feedback included.

What is drawn is given to both sides, by the same names; the lower level's restatement is that of SAC's test.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from parity.harness import make_batches, relative
from parity.test_cql import cql_weights, critic_of
from parity.test_parl import RewardLayers
from parity.test_sac import PlainSAC

from offline_rl.algos.parl_online.agent import Config, PARLOnline
from offline_rl.data.packed import PackedRows
from offline_rl.data.replay import Replay
from offline_rl.draws import Stream, derived_seed

SMALL = {
    "hidden_dims": [6],
    "batch_size": 16,
    "reward_hidden_dims": [9, 7],
    "reward_epochs": 3,
    "reward_batch": 5,
    "num_labels": 12,
    "labels_per_round": 4,
    "feedback_every": 4,
    "segment_length": 5,
    "random_steps": 0,
    "search_steps": 3,
    "reset_updates": 0,
    "upper_steps": 2,
    "reward_learning_rate": 3e-3,
    "queries": "uniform",
}
CASES = {
    "decoupled": {"hyper_mode": "none"},
    "onestep": {"hyper_mode": "onestep", "mixture": 0.7, "reward_scale": 2.0},
    "cg": {"hyper_mode": "cg", "cg_iterations": 400, "distribution_limit": 30.0},
    "noisy": {"hyper_mode": "onestep", "teacher": "noisy", "distribution_limit": 0.02},
    "zero": {"rewards": "zero"},
    "oracle": {"rewards": "oracle"},
}
LENGTHS = [12, 4, 9, 15]
"""Steps of the episodes in play, the second shorter than a segment."""


def experience(seed=0):
    """Return packed rows of episodes: two that end truly, two by a time limit."""
    luck, rows = np.random.default_rng(seed), []
    for number, length in enumerate(LENGTHS):
        observation = luck.standard_normal((length + 1, 3))
        action = np.tanh(luck.standard_normal((length, 2)))
        reward = luck.standard_normal(length)
        terminated = np.arange(length) == length - 1 if number % 2 else np.zeros(length)
        rows.append(np.column_stack([observation[:-1], action, reward, terminated, observation[1:]]))
    return np.concatenate(rows).astype(np.float32)


class PlainOnline(PlainSAC):
    """Both levels, from the equations of the page."""

    def __init__(self, agent, rows):
        super().__init__(agent)
        self.seed = agent.seed
        rows = torch.from_numpy(rows).double()
        self.observation, self.action, self.true = rows[:, :3], rows[:, 3:5], rows[:, 5].numpy()
        self.members = [
            RewardLayers([layer[k].detach() for layer in agent.reward.layers], None, 0.01, True) for k in range(3)
        ]
        self.pairs, self.distances, self.rounds, self.fitted, self.fresh = [], [], 0, False, None

    def update(self, b, step):
        since = step - self.c.search_steps
        self.fresh = None
        if self.c.rewards != "oracle" and since > 0 and (since - 1) % self.c.feedback_every == 0:
            self.round()
        return super().update(dataclasses.replace(b, reward=self.reward(b)), step)

    def reward(self, b):
        """Undo the scale and the shift that the restatement of SAC applies."""
        c = self.c
        if c.rewards == "oracle":
            r = b.reward
        elif not self.fitted:
            r = self.novelty(b.observation)
        elif c.rewards == "zero":
            r = torch.full_like(b.reward, c.reward_shift)
        else:
            r = c.reward_scale * self.mean(b.observation, b.action) + c.reward_shift
        return ((r - c.reward_shift) / c.reward_scale).detach()

    def novelty(self, observation):
        every = [sorted(float((one - other).norm()) for other in self.observation)[5] for one in observation]
        self.distances += every
        return torch.tensor(every, dtype=torch.float64) / np.std(self.distances)

    def outputs(self, observation, action):
        x = torch.cat([observation, torch.clip(action, -0.999, 0.999)], 1)
        return [member(x) for member in self.members]

    def mean(self, observation, action):
        return sum(self.outputs(observation, action)) / 3

    def round(self):
        first, self.fitted = not self.fitted, True
        if self.c.rewards == "learned" and len(self.pairs) < self.c.num_labels:
            self.ask()
            self.fit()
            if not first and self.c.hyper_mode != "none":
                self.follow()
            self.rounds += 1
        if first:
            self.fresh = True  # the critics begin anew; their weights are given

    def ask(self):
        bounds = np.cumsum([0, *LENGTHS])
        episodes = [(a, b) for a, b in itertools.pairwise(bounds) if b - a >= 5]
        chance = Stream(self.seed, "queries").at(2 * self.rounds).random((40, 2, 2))[:4]
        drawn, differences = [], []
        for pair in chance:
            start = []
            for which, where in pair:
                a, b = episodes[int(which * len(episodes))]
                start.append(a + int(where * (b - a - 4)))
            returns = [self.true[s : s + 5].sum() for s in start]
            drawn.append(start)
            differences.append(returns[1] - returns[0])
        spread = np.std(differences)
        luck = Stream(derived_seed(self.seed, "teacher", self.rounds), "teacher/answer").at(0).random(4)
        for start, difference, u in zip(drawn, differences, luck, strict=True):
            noisy = 1 / (1 + math.exp(-difference / spread))
            p = noisy if self.c.teacher == "noisy" else float(difference > 0)
            self.pairs.append((start, float(u < p), p))

    def difference(self, member, start):
        returns = []
        for s in start:
            x = torch.cat([self.observation[s : s + 5], torch.clip(self.action[s : s + 5], -0.999, 0.999)], 1)
            returns.append(member(x).sum())
        return returns[1] - returns[0]

    def likelihood(self, d, y):
        return y * torch.log(torch.sigmoid(d)) + (1 - y) * torch.log(torch.sigmoid(-d))

    def loss(self, member, chosen):
        every = [self.likelihood(self.difference(member, self.pairs[i][0]), self.pairs[i][1]) for i in chosen]
        return -sum(every) / len(every)

    def fit(self):
        for epoch in range(self.c.reward_epochs):
            luck = Stream(self.seed, "fit").at(self.rounds * 10_000 + epoch)
            order, right, seen = luck.random((3, len(self.pairs))).argsort(1), 0, 0
            for first in range(0, len(self.pairs), 5):
                for member, own in zip(self.members, order, strict=True):
                    chosen = own[first : first + 5]
                    for i in chosen:
                        right += bool(self.difference(member, self.pairs[i][0]) > 0) == (self.pairs[i][1] > 0.5)
                        seen += 1
                    loss = self.loss(member, chosen)
                    member.adam(torch.autograd.grad(loss, member.tensors), self.c.reward_learning_rate)
            if right / seen > self.c.reward_accuracy:
                break

    def follow(self):
        newest = self.pairs[-4:]
        for step in range(self.c.upper_steps):
            luck = Stream(self.seed, "upper").at(self.rounds * 10_000 + step)
            chosen = (luck.random(5) * len(self.pairs)).astype(int)
            noise = torch.from_numpy(luck.standard_normal((4, 2, 5, 2), np.float32)).double()
            direct = [torch.autograd.grad(self.loss(member, chosen), member.tensors) for member in self.members]
            rows, weights = self.distribution(newest, noise)
            surrogate = (weights * self.mean(*rows)).sum()
            moved = [torch.autograd.grad(-surrogate, m.tensors, retain_graph=True) for m in self.members]
            one, other = (math.sqrt(sum(float((g**2).sum()) for own in all_ for g in own)) for all_ in (direct, moved))
            share = self.c.mixture * min(1.0, self.c.distribution_limit * one / other)
            for member, d, g in zip(self.members, direct, moved, strict=True):
                member.adam([a + share * b for a, b in zip(d, g, strict=True)], self.c.reward_learning_rate)

    def distribution(self, newest, noise):
        """Return rows and weights whose weighted sum of rewards has the distribution term for its gradient."""
        e = []
        for start, y, p in newest:
            d = sum(self.difference(member, start) for member in self.members).detach() / 3
            entropy = -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
            e.append(float(self.likelihood(d, y)) + entropy)
        pull = [(own - (sum(e) - own) / 3) / 4 for own in e]
        temperature = float(torch.exp(self.log_temperature.tensors[0]).detach())
        states = torch.stack([self.observation[s : s + 5] for pair in newest for s in pair[0]])  # (8, 5, 3)
        actions = torch.stack([self.action[s : s + 5] for pair in newest for s in pair[0]])
        pulls = torch.tensor([own for own in pull for _ in range(2)], dtype=torch.float64)
        flat = states.reshape(-1, 3), actions.reshape(-1, 2)
        if self.c.hyper_mode == "onestep":
            with torch.no_grad():
                own = self.policy(flat[0], noise.reshape(-1, 2))[0]
            weight = self.c.reward_scale / temperature * pulls.repeat_interleave(5)
            return (torch.cat([flat[0], flat[0]]), torch.cat([flat[1], own])), torch.cat([weight, -weight])
        score, fisher = self.scores(*flat)
        gamma = torch.tensor([self.c.discount**h for h in range(5)] * 8, dtype=torch.float64)
        matrix = temperature * (gamma[:, None, None] * fisher).sum(0) / 8
        signs = torch.tensor([1.0, -1.0] * (len(matrix) // 2 + 1), dtype=torch.float64)[: len(matrix)]
        shift = self.c.cg_damping * float(signs @ matrix @ signs) / len(matrix)
        q = (pulls.repeat_interleave(5)[:, None] * score).sum(0)
        v = torch.linalg.solve(matrix + shift * torch.eye(len(matrix), dtype=torch.float64), q)
        so_far = (score @ v).reshape(8, 5).cumsum(1).reshape(-1)
        return flat, self.c.reward_scale * gamma * so_far / 8

    def scores(self, observation, action):
        """Return ∇ log π ``(N, P)`` and the Fisher information ``(N, P, P)``, row by row."""
        scores, matrices = [], []
        for s, a in zip(observation, action, strict=True):
            output = self.policy.net(s[None])[0]
            log_std = self.policy.line.tensors[0] * output[2:] + self.policy.line.tensors[1]
            u = torch.atanh(torch.clip(a, -1 + 1e-6, 1 - 1e-6))
            log_pi = torch.distributions.Normal(output[:2], torch.exp(log_std)).log_prob(u).sum()
            scores.append(self.gradient(log_pi))
            rows = [self.gradient(x) for x in (*output[:2], *log_std)]
            weight = [*torch.exp(-2 * log_std).detach(), 2.0, 2.0]
            matrices.append(sum(w * torch.outer(row, row) for w, row in zip(weight, rows, strict=True)))
        return torch.stack(scores), torch.stack(matrices)

    def gradient(self, value):
        found = torch.autograd.grad(value, self.policy.tensors, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(t) if g is None else g for g, t in zip(found, self.policy.tensors, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts])


def prepared(case):
    agent = PARLOnline(Config(**{**SMALL, **CASES[case]}), 3, 2, steps=0, online_steps=100, dtype=torch.float64)
    agent.prepare(PackedRows.empty(3, 2))
    replay = Replay(agent._replay.offline, 100)
    rows = experience()
    replay.append(rows)
    agent.go_online(replay)
    return agent, PlainOnline(agent, rows)


@pytest.mark.parametrize("case", CASES)
def test_both_levels_in_float64(case):
    agent, plain = prepared(case)
    for step, batch in enumerate(make_batches(agent), start=1):
        metrics = agent.update(batch, step)
        if plain.fresh is None and agent.feedback.fitted and not plain.fitted:
            critics = agent.fresh_copy(dtype=torch.float64).critic
            critics.initialize(Stream(agent.seed, "init/critic").at(1))
            plain.critics, plain.target_critics = ([critic_of(critics, k) for k in range(2)] for _ in range(2))
        losses, _ = plain.update(batch, step)
        for name, loss in losses.items():
            assert relative(metrics[f"{name}_loss"], loss) < 1e-8, (step, name)
        for name, (ours, theirs) in cql_weights(agent, plain).items():
            for one, other in zip(ours, theirs, strict=True):
                assert torch.allclose(one, other, rtol=0, atol=1e-9), (step, name)
        for k, member in enumerate(plain.members):
            for one, other in zip(agent.reward.layers, member.tensors, strict=True):
                assert torch.allclose(one[k], other, rtol=0, atol=1e-9), (step, k)
    learned = plain.c.rewards == "learned"
    assert len(plain.pairs) == len(agent.feedback.label) == (12 if learned else 0)
    assert [pair[1] for pair in plain.pairs] == agent.feedback.label.tolist()


def test_the_cases_reach_what_they_name():
    """The distribution term is cut in one case and not in another, and rounds come before the last update."""
    shares = {}
    for case in ("cg", "noisy"):
        agent, _ = prepared(case)
        batches = make_batches(agent)
        shares[case] = [
            float(metrics["distribution_share"])
            for step, batch in enumerate(batches, start=1)
            if "distribution_share" in (metrics := agent.update(batch, step))
        ]
    assert len(shares["noisy"]) == len(shares["cg"]) == 2
    assert max(shares["noisy"]) == pytest.approx(0.01, rel=1e-6)  # m χ
    assert min(shares["cg"]) < 15  # m χ is not reached in every round
