"""O-PARL beside a plain float64 restatement, update by update, rounds of the upper level included.

The lower levels' own restatements are those of their tests. Drawn indices and noise are given to both sides.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset
from parity.harness import Layers, make_batches, relative
from parity.test_iql import PlainIQL, iql_weights
from parity.test_td3_bc import PlainTD3BC, td3_bc_weights

from offline_rl.agent import Batch
from offline_rl.algos.parl.agent import PARL, Config
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.draws import Stream

SMALL = {
    "hidden_dims": [24, 16],
    "batch_size": 32,
    "reward_hidden_dims": [20, 12],
    "reward_epochs": 3,
    "num_labels": 50,
    "segment_length": 6,
    "rounds": 4,
    "round_steps": 1,
    "ramp_rounds": 2,
    "upper_steps": 2,
    "upper_batch": 12,
    "head_size": 8,
    "teacher": "noisy",
}
STEPS = 24
CASES = {
    "iql none": {"hyper_mode": "none"},
    "iql reweight": {"hyper_mode": "reweight", "teacher": "equal"},
    "iql onestep": {"hyper_mode": "onestep", "kappa": 0.2, "upper_learning_rate": 3e-3},
    "iql onestep, deterministic": {"hyper_mode": "onestep", "lower.deterministic": True, "reward_model": "pt_mr"},
    "iql sf": {"hyper_mode": "sf", "shift": "pt", "head_learning_rate": 1e-2},
    "iql sf, unbounded": {"hyper_mode": "sf", "distribution_limit": 50.0, "kappa": 0.3, "head_learning_rate": 0.3},
    "iql sf, cross-entropy": {"hyper_mode": "sf", "upper_loss": "ce", "reward_model": "pt_mr", "scale_rewards": False},
    "iql cg": {"hyper_mode": "cg", "distribution_limit": 20.0, "upper_learning_rate": 1e-3},
    "td3_bc none": {"lower": "td3_bc", "hyper_mode": "none"},
    "td3_bc reweight": {"lower": "td3_bc", "hyper_mode": "reweight", "ess_share": 0.5},
    "td3_bc unroll": {"lower": "td3_bc", "hyper_mode": "unroll", "distribution_limit": 20.0},
    "td3_bc unroll, twice": {"lower": "td3_bc", "hyper_mode": "unroll", "unroll_steps": 2, "kappa": 0.4},
}


class RewardLayers(Layers):
    """One network of a reward model."""

    def __init__(self, views, group, slope, squashed):
        super().__init__(views, group)
        self.slope, self.squashed = slope, squashed

    def hidden(self, x):
        for weight, bias in zip(self.tensors[:-2:2], self.tensors[1:-2:2], strict=True):
            x = x @ weight.T + bias
            x = torch.where(x > 0, x, self.slope * x)
        return x

    def __call__(self, x):
        r = (self.hidden(x) @ self.tensors[-2].T + self.tensors[-1])[:, 0]
        return torch.tanh(r) if self.squashed else r


class PlainPARL:
    """The algorithm of section 5.6, with the lower level's restatement."""

    def __init__(self, agent):
        self.agent, self.c = agent, agent.config
        self.mode, c = agent.config.mode, agent.config
        self.lower = (PlainIQL if c.lower.kind == "iql" else PlainTD3BC)(agent.lower)
        self.single = c.reward_model == "pt_mr"
        model, warm = agent.networks.model, agent.upper.warm
        style = (0.0, False) if self.single else (0.01, True)
        members = range(1 if self.single else 3)
        self.members = [
            RewardLayers([layer[k].detach() for layer in model.layers], agent.groups["reward"], *style) for k in members
        ]
        self.warm = [RewardLayers([layer[k].detach() for layer in warm.layers], None, *style) for k in members]
        if self.mode == "sf":
            self.head = Layers([agent.networks.head.weight], agent.groups["head"])
            self.psi, self.psi_value = (
                Layers([layer[0].detach() for layer in getattr(agent, name).layers], agent.groups[name])
                for name in ("successor", "successor_value")
            )
            self.target_psi_value = Layers([layer[0].detach() for layer in agent.target_successor_value.layers])
        columns = agent.test_rows.columns()
        self.rows = {name: getattr(columns, name).double() for name in columns._fields}
        self.training, self.held_out = agent.test_pairs.split(0.1, agent.seed)
        self.fitted, self.spread = agent.upper.fitted, None
        self.rises, self.last_loss = 0, None
        if self.fitted:
            self.rises, self.last_loss = (float(agent.upper.state()[f"upper.{n}"]) for n in ("rises", "last_loss"))
            self.spread = None if c.lower.kind == "iql" else float(agent.lower.spread)
            self.look()
            self.relabel()

    # Rewards.

    def inputs(self, observation, action):
        preprocessing = self.agent.test_preprocessing
        mean, std = (
            torch.from_numpy(v).double() for v in (preprocessing.observation_mean, preprocessing.observation_std)
        )
        raw = observation * std + mean
        return torch.cat([raw, torch.clip(action, -0.999, 0.999)], 1)

    def look(self):
        """Find the affine map and the features from the frozen model."""
        with torch.no_grad():
            x = self.inputs(self.rows["observation"], self.rows["action"])
            self.warm_rewards = [member(x) for member in self.warm]
            mean = sum(self.warm_rewards) / len(self.warm)
            bounds = self.agent.test_rows.episode_bounds
            returns = [float(mean[i:j].sum()) for i, j in itertools.pairwise(bounds)]
            self.scale = 1000 / (max(returns) - min(returns)) if self.c.scale_rewards else 1.0
            if self.mode == "sf":
                hidden = torch.cat([member.hidden(x) for member in self.warm], 1)
                self.hidden_mean, self.hidden_std = hidden.mean(0), hidden.std(0, correction=0)
                normal = (
                    Stream(self.agent.seed, "projection").at(0).standard_normal((hidden.shape[1], self.c.head_size))
                )
                q, r = np.linalg.qr(normal)
                self.directions = torch.from_numpy(q * np.sign(np.diag(r)))
                self.row_features = self.features(self.rows["observation"], self.rows["action"])

    def features(self, observation, action):
        with torch.no_grad():
            x = self.inputs(observation, action)
            hidden = torch.cat([member.hidden(x) for member in self.warm], 1)
            return ((hidden - self.hidden_mean) / self.hidden_std) @ self.directions / math.sqrt(self.c.head_size)

    def correction(self, features):
        return torch.clip(features @ self.head.tensors[0], -1, 1) if self.mode == "sf" else 0.0

    def reward(self, observation, action):
        """r̂ of the networks alone."""
        x = self.inputs(observation, action)
        return self.scale * sum(member(x) for member in self.members) / len(self.members) + self.shift

    @property
    def shift(self):
        return 0.5 if self.c.shift == "pt" else 0.0

    def relabel(self):
        with torch.no_grad():
            self.table = self.reward(self.rows["observation"], self.rows["action"])
            if self.mode == "sf":
                self.table = self.table + self.scale * self.correction(self.row_features)

    # Pairs.

    def segment(self, pairs, i, which):
        return (torch.from_numpy(array[i, which].astype(np.float64)) for array in (pairs.observation, pairs.action))

    def differences(self, pairs, index, members):
        """D of each member for the pairs at ``index``, one list entry a pair."""
        rows = []
        for i in index:
            sides = []
            for which in (0, 1):
                observation, action = self.segment(pairs, i, which)
                x = self.inputs(observation, action)
                extra = (
                    self.correction(self.features(observation, action)) if self.mode == "sf" and self.fitted else 0.0
                )
                r = torch.stack([member(x) + extra for member in members])
                sides.append(r.mean(1) if self.single else r.sum(1))
            rows.append(sides[1] - sides[0])
        return torch.stack(rows, 1)

    def log_likelihood(self, d, y):
        return -y * torch.log1p(torch.exp(-d)) - (1 - y) * torch.log1p(torch.exp(d))

    def excess(self, d, pairs, index):
        """e of the mean model for member differences ``d`` (K, n)."""
        values = []
        for place, i in enumerate(index):
            y, p = float(pairs.label[i]), float(pairs.probability[i])
            if math.isnan(p):
                p = y if 0 < y < 1 else float(torch.sigmoid(d[:, place]).mean())
            h = -sum(x * math.log(x) for x in (p, 1 - p) if x > 0)
            value = self.log_likelihood(d[:, place].mean(), y)
            values.append(value if self.c.upper_loss == "ce" else value + h)
        return torch.stack(values).detach()

    def fit(self):
        n, batch = len(self.training), 256 if self.single else 64
        stream = Stream(self.agent.seed, "fit")
        best, kept = -math.inf, None
        for epoch in range(self.c.reward_epochs):
            order = stream.at(epoch).random((len(self.members), n)).argsort(1)
            right = total = 0
            for first in range(0, n, batch):
                for member, own in zip(self.members, order[:, first : first + batch], strict=True):
                    d = self.differences(self.training, own, [member])[0]
                    y = torch.from_numpy(self.training.label[own])
                    loss = -self.log_likelihood(d, y).mean()
                    member.adam(torch.autograd.grad(loss, member.tensors), 3e-4)
                    right += int((((d > 0) == (y > 0.5)) & (y != 0.5)).sum())
                    total += int((y != 0.5).sum())
            if self.single:
                d = self.differences(self.held_out, range(len(self.held_out)), self.members)
                quality = float(self.log_likelihood(d.detach(), torch.from_numpy(self.held_out.label)).mean())
                if quality > best:
                    best, kept = quality, [[t.detach().clone() for t in member.tensors] for member in self.members]
            elif right / total > 0.968:
                break
        for k, member in enumerate(self.members):
            for place, tensor in enumerate(member.tensors):
                if self.single:
                    tensor.data.copy_(kept[k][place])
                self.warm[k].tensors[place].data.copy_(tensor.data)
            member.count = 0
            for moment in (*member.first, *member.second):
                moment.zero_()
        self.look()
        self.fitted = True
        self.relabel()
        d = self.differences(self.held_out, range(len(self.held_out)), self.members)
        self.last_loss = -float(self.excess(d, self.held_out, range(len(self.held_out))).mean())

    # The policy.

    def advantage(self, observation, action):
        with torch.no_grad():
            x = torch.cat([observation, torch.clip(action, -1 + 1e-5, 1 - 1e-5)], 1)
            q = torch.minimum(*(critic(x)[:, 0] for critic in self.lower.target_critics))
            return q - self.lower.value(observation)[:, 0]

    def log_ratio(self, observation, action):
        if self.c.lower.kind == "iql":
            c = 5 / self.c.lower.beta
            return self.c.lower.beta * torch.clip(self.advantage(observation, action), -c, c).sum()
        residual = ((torch.tanh(self.lower.actor(observation)) - action) ** 2).sum(1)
        return -residual.sum() / (2 * self.spread * action.shape[1])

    def drift(self, observation, action):
        with torch.no_grad():
            return (self.psi(torch.cat([observation, action], 1)) - self.psi_value(observation)).sum(0)

    def over(self, pairs, function):
        return torch.stack(
            [sum(function(*self.segment(pairs, i, which)) for which in (0, 1)) for i in range(len(pairs))]
        ).detach()

    def sampled(self, observation, noise):
        with torch.no_grad():
            mean = torch.tanh(self.lower.actor(observation))
            if self.c.lower.deterministic:
                return mean
            return torch.clip(mean + torch.exp(torch.clip(self.lower.log_std.tensors[0], -5, 2)) * noise, -1, 1)

    # An update.

    def update(self, b, step):
        if not self.fitted:
            self.fit()
        b = Batch(**{**vars(b), "reward": self.table[b.index]})
        weight = None
        if self.mode == "sf" and step % 2 == 0:
            old_target = [t.clone() for critic in self.lower.target_critics for t in critic.tensors]
        losses, _ = self.lower.update(b, step)
        if self.mode == "sf" and step % 2 == 0:
            weight = self.weights_of_the_update(b, old_target)
            x = torch.cat([b.observation, b.action], 1)
            y = self.row_features[b.index] + self.c.lower.discount * (1 - b.terminated)[
                :, None
            ] * self.target_psi_value(b.next_observation)
            losses["successor"] = ((self.psi(x) - y.detach()) ** 2).sum(1).mean()
            apart = ((self.psi_value(b.observation) - self.psi(x).detach()) ** 2).sum(1)
            losses["successor_value"] = (weight * apart).mean()
            gradients = [
                torch.autograd.grad(losses[name], net.tensors)
                for name, net in (("successor", self.psi), ("successor_value", self.psi_value))
            ]
            self.psi.adam(gradients[0], 3e-4)
            self.psi_value.adam(gradients[1], 3e-4)
            self.target_psi_value.follow(self.psi_value, self.c.lower.target_rate)
        first, last = round(0.2 * STEPS), STEPS - round(0.1 * STEPS)
        ends = [first + j * (last - first) // self.c.rounds for j in range(1, self.c.rounds + 1)]
        self.measured = self.round(ends.index(step) + 1) if step in ends else {}
        return losses

    def weights_of_the_update(self, b, old_target):
        """min(exp(β A), 100) with the new V and the targets as they were."""
        now = [t.clone() for critic in self.lower.target_critics for t in critic.tensors]
        tensors = [t for critic in self.lower.target_critics for t in critic.tensors]
        with torch.no_grad():
            for tensor, value in zip(tensors, old_target, strict=True):
                tensor.copy_(value)
            weight = torch.clip(torch.exp(self.c.lower.beta * self.advantage(b.observation, b.action)), max=100)
            for tensor, value in zip(tensors, now, strict=True):
                tensor.copy_(value)
        return weight

    def round(self, number):
        n, c = len(self.training), self.c
        if c.lower.kind == "td3_bc" and number == 1:
            residuals = []
            for pairs in (self.training, self.held_out):
                for i in range(len(pairs)):
                    for which in (0, 1):
                        o, a = self.segment(pairs, i, which)
                        residuals.append(((torch.tanh(self.lower.actor(o)) - a) ** 2).mean(1).detach())
            self.spread = float(torch.cat(residuals).median())
        z, z_held_out = self.over(self.training, self.log_ratio), self.over(self.held_out, self.log_ratio)
        kappa = largest_kappa(z, c.ess_share) if c.kappa is None else c.kappa
        omega = torch.softmax(kappa * z, 0)
        m = c.mixture * min(1, (number - 1) / c.ramp_rounds)
        measured = {}
        if self.mode != "none" and self.rises < c.patience:
            drift = self.over(self.training, self.drift) if self.mode == "sf" else None
            for u in range(c.upper_steps):
                measured = self.upper_step((number - 1) * c.upper_steps + u, m, kappa, omega, drift)
            self.relabel()
        d = {
            name: self.differences(getattr(self, name), range(len(getattr(self, name))), self.members).detach()
            for name in ("training", "held_out")
        }
        loss = -float(self.excess(d["held_out"], self.held_out, range(len(self.held_out))).mean())
        self.rises = self.rises + 1 if loss > self.last_loss else 0
        self.last_loss = loss
        for name, own in (("training", omega), ("held_out", torch.softmax(kappa * z_held_out, 0))):
            y = torch.from_numpy(getattr(self, name).label)
            right, counted = ((d[name].mean(0) > 0) == (y > 0.5)).double(), (y != 0.5).double()
            measured[f"{name}_accuracy"] = (right * counted).sum() / counted.sum()
            measured[f"{name}_weighted_accuracy"] = (right * counted * own).sum() / (counted * own).sum()
        true = self.rows["reward"]
        correlation = np.corrcoef(self.table.numpy(), true.numpy())[0, 1]
        return measured | {
            "held_out_loss": loss,
            "kappa": kappa,
            "ess_share": 1 / float((omega**2).sum()) / n,
            "mixture": m,
            "reward_correlation": correlation,
            "round": number,
        }

    def upper_step(self, counter, m, kappa, omega, drift):
        c, n = self.c, len(self.training)
        u = Stream(self.agent.seed, "upper/pairs").at(counter).random((2, c.upper_batch))
        uniform = (u[0] * n).astype(int)
        weighted = np.searchsorted(np.cumsum(omega.numpy()), u[1] * float(omega.sum())) if m else []
        d = self.differences(self.training, [*uniform, *weighted], self.members)
        y = torch.from_numpy(self.training.label[[*uniform, *weighted]])
        ell = self.log_likelihood(d, y)
        direct = (1 - m) * ell[:, : c.upper_batch].mean()
        if m:
            direct = direct + m * ell[:, c.upper_batch :].mean()
        tensors = [t for member in self.members for t in member.tensors]
        head = self.head.tensors if self.mode == "sf" else []
        g_direct = torch.autograd.grad(direct, tensors + head, retain_graph=True)
        g_dist = [torch.zeros_like(t) for t in (head or tensors)]
        if m and self.mode != "reweight":
            e = self.excess(d[:, c.upper_batch :].detach(), self.training, weighted)
            coefficient = m * kappa * (e - e.mean()) / c.upper_batch
            if self.mode == "sf":
                total = sum(own * drift[i] for own, i in zip(coefficient, weighted, strict=True))
                g_dist = [self.scale * c.lower.beta * total]
            else:
                follow = getattr(self, f"follow_{self.mode}")(counter, coefficient, weighted)
                g_dist = torch.autograd.grad(follow, tensors)
        g_penalty = torch.autograd.grad(self.penalty(counter, tensors + head), tensors + head)
        norm = lambda parts: math.sqrt(sum(float((p**2).sum()) for p in parts))  # noqa: E731
        seen = g_direct[len(tensors) :] if head else g_direct
        lengths = norm(seen), norm(g_dist)
        shortened = min(1.0, c.distribution_limit * lengths[0] / lengths[1]) if lengths[1] > 0 else 1.0
        ascent = [own - penalty for own, penalty in zip(g_direct, g_penalty, strict=True)]
        offset = len(tensors) if head else 0
        for place, own in enumerate(g_dist):
            ascent[offset + place] = ascent[offset + place] + shortened * own
        per_member = len(self.members[0].tensors)
        for part, nets, rate in (
            (ascent[: len(tensors)], self.members, c.upper_learning_rate),
            (ascent[len(tensors) :], [self.head] if head else [], c.head_learning_rate),
        ):
            factor = min(1.0, 1 / max(norm(part), 1e-300)) if part else 1.0
            for k, net in enumerate(nets):
                net.adam([-factor * g for g in part[k * per_member : (k + 1) * per_member]], rate)
        return {"direct_norm": lengths[0], "distribution_norm": lengths[1], "upper_likelihood": direct.detach()}

    def penalty(self, counter, tensors):
        index = (Stream(self.agent.seed, "upper/anchor").at(counter).random((1024,)) * len(self.table)).astype(int)
        x = self.inputs(self.rows["observation"][index], self.rows["action"][index])
        extra = self.correction(self.row_features[index]) if self.mode == "sf" else 0.0
        apart = sum(
            ((member(x) + extra - start[index]) ** 2).mean()
            for member, start in zip(self.members, self.warm_rewards, strict=True)
        )
        squares = sum((t**2).sum() for t in tensors)
        return self.c.anchor_weight * apart / len(self.members) + self.c.parameter_weight * squares

    def noise(self, counter, count, size):
        shape = (count, size, self.agent.action_size)
        return torch.from_numpy(Stream(self.agent.seed, "upper/noise").at(counter).standard_normal(shape))

    def follow_onestep(self, counter, coefficient, weighted):
        length = self.training.action.shape[2]
        noise = self.noise(counter, 1, 2 * len(weighted) * length)[0].reshape(len(weighted), 2, length, -1)
        total = 0.0
        for place, i in enumerate(weighted):
            for which in (0, 1):
                o, a = self.segment(self.training, i, which)
                other = self.sampled(o, noise[place, which])
                total = total + coefficient[place] * (self.reward(o, a) - self.reward(o, other)).sum()
        return self.c.lower.beta * total

    def last_layer(self, observation):
        h = observation
        tensors = self.lower.actor.tensors
        for weight, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
            h = torch.relu(h @ weight.T + bias)
        return torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], 1).detach()

    def follow_cg(self, counter, coefficient, weighted):
        """Scores by autograd; the Gauss-Newton Hessian row by row."""
        theta = torch.cat([self.lower.actor.tensors[-2], self.lower.actor.tensors[-1][:, None]], 1).detach()
        theta.requires_grad_()
        sigma = torch.exp(torch.clip(self.lower.log_std.tensors[0].detach(), -5, 2))

        def log_prob(o, a):
            return torch.distributions.Normal(torch.tanh(self.last_layer(o) @ theta.T), sigma).log_prob(a).sum(1)

        z = sum(
            own * log_prob(*self.segment(self.training, i, which)).sum()
            for own, i in zip(coefficient, weighted, strict=True)
            for which in (0, 1)
        )
        (q,) = torch.autograd.grad(z, theta)
        index = (Stream(self.agent.seed, "upper/rows").at(counter).random((1, 1024)) * len(self.table)).astype(int)[0]
        o, a = self.rows["observation"][index], self.rows["action"][index]
        advantage = self.advantage(o, a)
        w = torch.clip(torch.exp(self.c.lower.beta * advantage), max=100)
        h = self.last_layer(o)
        slope = 1 - torch.tanh(h @ theta.T).detach() ** 2
        v = []
        for j in range(a.shape[1]):
            outer = torch.einsum("bi,bk->bik", h, h)
            hessian = ((w * (slope[:, j] / sigma[j]) ** 2)[:, None, None] * outer).mean(0)
            damping = 1e-3 * float(torch.trace(hessian)) / len(hessian) + 1e-12
            v.append(torch.linalg.solve(hessian + damping * torch.eye(len(hessian), dtype=h.dtype), q[j]))
        v = torch.stack(v)
        # d/dc of v' d/dθ Σ_b c_b log π_b is v' ∇ log π_b, for each row b.
        c = torch.ones(len(o), dtype=h.dtype, requires_grad=True)
        (slope_of_sum,) = torch.autograd.grad((c * log_prob(o, a)).sum(), theta, create_graph=True)
        (slopes,) = torch.autograd.grad((slope_of_sum * v).sum(), c)
        gradient_of_w = self.c.lower.beta * w * (w < 100)
        other = self.sampled(o, self.noise(counter, 1, 1024)[0])
        return (slopes * gradient_of_w * (self.reward(o, a) - self.reward(o, other))).mean()

    def follow_unroll(self, counter, coefficient, weighted):
        c, size = self.c, self.c.batch_size
        stream = Stream(self.agent.seed, "upper/rows")
        index = (stream.at(counter).random((c.unroll_steps, size)) * len(self.table)).astype(int)
        noise = self.noise(counter, c.unroll_steps, size)
        critics = [[t.detach().requires_grad_() for t in critic.tensors] for critic in self.lower.critics]
        actor = [t.detach().requires_grad_() for t in self.lower.actor.tensors]

        def apply(tensors, x):
            for place in range(0, len(tensors), 2):
                x = x @ tensors[place].T + tensors[place + 1]
                x = torch.relu(x) if place < len(tensors) - 2 else x
            return x

        def moved(tensors, net, loss, rate):
            gradients = torch.autograd.grad(loss, tensors, create_graph=True)
            spread = [(v / (1 - 0.999**net.count)).sqrt() + 1e-8 for v in net.second]
            return [t - rate * g / s for t, g, s in zip(tensors, gradients, spread, strict=True)]

        for k in range(c.unroll_steps):
            b = {name: values[index[k]] for name, values in self.rows.items()}
            with torch.no_grad():
                cut = torch.clip(noise[k] * 0.2, -0.5, 0.5)
                action = torch.clip(torch.tanh(self.lower.target_actor(b["next_observation"])) + cut, -1, 1)
                x = torch.cat([b["next_observation"], action], 1)
                later = torch.minimum(*(critic(x)[:, 0] for critic in self.lower.target_critics))
            y = self.reward(b["observation"], b["action"]) + 0.99 * (1 - b["terminated"]) * later
            x = torch.cat([b["observation"], b["action"]], 1)
            critics = [
                moved(tensors, net, ((apply(tensors, x)[:, 0] - y) ** 2).mean(), 3e-4)
                for tensors, net in zip(critics, self.lower.critics, strict=True)
            ]
            action = torch.tanh(apply(actor, b["observation"]))
            q = apply(critics[0], torch.cat([b["observation"], action], 1))[:, 0]
            loss = ((action - b["action"]) ** 2).mean() - 2.5 / q.abs().mean().detach() * q.mean()
            actor = moved(actor, self.lower.actor, loss, 3e-4)
        total = 0.0
        for own, i in zip(coefficient, weighted, strict=True):
            for which in (0, 1):
                o, a = self.segment(self.training, i, which)
                residual = ((torch.tanh(apply(actor, o)) - a) ** 2).mean(1)
                total = total - own * residual.sum() / (2 * self.spread)
        return total


def largest_kappa(z, share):
    """Largest κ in [0, 1] whose weights have an effective size of ``share`` or more."""
    size = lambda kappa: 1 / float((torch.softmax(kappa * z, 0) ** 2).sum()) / len(z)  # noqa: E731
    if size(1.0) >= share:
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-16 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if size(middle) >= share else (low, middle)
    return low


def parl_weights(agent, plain):
    stacked = lambda nets: [torch.stack(parts) for parts in zip(*(net.tensors for net in nets), strict=True)]  # noqa: E731
    pairs = (iql_weights if agent.config.lower.kind == "iql" else td3_bc_weights)(agent.lower, plain.lower)
    pairs["reward"] = agent.networks.model.parameters(), stacked(plain.members)
    pairs["warm-up"] = agent.upper.warm.parameters(), stacked(plain.warm)
    if plain.mode == "sf":
        pairs["head"] = [agent.networks.head.weight], plain.head.tensors
        for name, net in (("successor", plain.psi), ("successor_value", plain.psi_value)):
            pairs[name] = getattr(agent, name).layers, [t[None] for t in net.tensors]
    return pairs


def prepared(case, dtype):
    dataset = random_dataset(rows=400)
    terminated = dataset.terminated | (np.arange(400) == 399)
    arrays = {name: getattr(dataset, name) for name in ("observations", "actions", "next_observations")}
    # Rewards that are functions of what is seen, positive on average for the teacher who knows ties.
    rewards = 1 + np.tanh(dataset.observations[:, 0] + dataset.actions[:, 0])
    dataset = Dataset.from_arrays(**arrays, rewards=rewards, terminated=terminated)
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    config = Config.of({**SMALL, **CASES[case]})
    agent = PARL(config, 5, 2, steps=STEPS, seed=3, preprocessing=preprocessing, dtype=dtype)
    agent.test_rows, agent.test_preprocessing = PackedRows.of(dataset, preprocessing), preprocessing
    agent.test_pairs = agent.pairs(agent.test_rows)
    agent.prepare(agent.test_rows)
    return agent, make_batches(agent, STEPS)


@pytest.mark.parametrize("case", CASES)
def test_parl_in_float64(case):
    agent, batches = prepared(case, torch.float64)
    plain, rounds = PlainPARL(agent), 0
    for step, batch in enumerate(batches, start=1):
        metrics = agent.update(batch, step)
        for name, loss in plain.update(batch, step).items():
            assert relative(metrics[f"{name}_loss"], loss) < 1e-10, (step, name)
        for name, value in plain.measured.items():
            assert relative(metrics[name], torch.as_tensor(value, dtype=torch.float64)) < 1e-10, (step, name)
        rounds += "round" in plain.measured
        assert (agent.upper.rewards - plain.table).abs().max() < 1e-10 * plain.table.abs().max(), step
        for name, (ours, theirs) in parl_weights(agent, plain).items():
            for own, other in zip(ours, theirs, strict=True):
                assert (own - other.view_as(own)).abs().max() < 1e-10, (step, name)
    assert rounds == SMALL["rounds"]


@pytest.mark.parametrize("case", CASES)
def test_parl_in_float32(case):
    """From equal weights, losses agree to 1e-5, also those of the upper level after a round's steps."""
    agent, batches = prepared(case, torch.float32)
    agent.update(batches[0], 1)
    for step, batch in enumerate(batches[1:], start=2):
        plain = PlainPARL(agent)
        metrics = agent.update(batch, step)
        double = Batch(**{name: double_of(value) for name, value in vars(batch).items()})
        for name, loss in plain.update(double, step).items():
            assert relative(metrics[f"{name}_loss"], loss) < 1e-5, (step, name)
        for name in ("upper_likelihood", "held_out_loss"):
            if name in plain.measured:
                assert relative(metrics[name], torch.as_tensor(plain.measured[name], dtype=torch.float64)) < 1e-5, (
                    step,
                    name,
                )


def double_of(value):
    if isinstance(value, dict):
        return {name: double_of(entry) for name, entry in value.items()}
    return value.double() if value.is_floating_point() else value
