"""DoC beside a second implementation, which reads one window at a time and pads nothing.

It is given what a batch is made of: the steps of each window, which of them exist, and the random numbers. Dropout's
masks are hashed from the keys again, by the plain code that the Decision Transformer's parity test has.

Each of these, done to the algorithm, broke the float64 test in the first updates. Of E_f: the sign of β, its ramp one
step late, the true outcome among the others or not in the sum over all, the logarithm of their number dropped, places
in the padding, the terminal step's next state kept or the end left out, features that are no constants or come before
the action, one step of f instead of two, or f's step after the main one. Of the rest: either KL turned round, KLs
averaged over z's entries, z moved by V or by the prior's loss, κ without q's gradient, the policy's mean over padding
or of windows, V's heads averaged, returns or rewards not scaled, the reward of an action told before it, q read in the
padding, p told the action, other bounds of log-stds, border actions not kept off the border, no clip, decay and warm-
up, other dropout.
"""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parity.harness import UPDATES, Kinks, Layers, check_float32, check_float64, relative
from parity.test_dt import Masks

from offline_rl.agent import Batch, WindowBatch
from offline_rl.algos.doc.agent import Config, DoC
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.windows import RecordedSteps
from offline_rl.training.updates.sampler import Sampler

SMALL = {
    "hidden_dims": [12, 10],
    "batch_size": 5,
    "past": 4,
    "future": 3,
    "latent_size": 3,
    "width": 8,
    "layers": 1,
    "heads": 2,
    "dropout": 0.0,
    "negatives": 5,
    "energy_places": 4,
    "energy_learning_rate": 2e-4,
    "learning_rate": 1e-3,
    "warmup": 6 / 40,
    "beta_ramp": 12 / 40,
    "weight_decay": 5.0,
    "gradient_clip": 35.0,
}
SETTINGS = [
    {**SMALL, "encoder": "mlp", "energy_steps": 2, "value_heads": 2, "standard_weight": 0.3},
    {**SMALL, "encoder": "mlp", "discrete": True, "beta": -0.75, "future": 4},
    {**SMALL, "gradient_clip": 60.0, "discrete": True, "beta": 2.0, "value_heads": 1},
    {**SMALL, "gradient_clip": 60.0, "dropout": 0.2, "layers": 2, "standard_weight": 0.1},
]
STEPS, WARMUP_STEPS, RAMP_STEPS = 40, 6, 12
OLDEST, TIMES = 996, 1000
"""How old episodes are made, so that some steps are older than the last entry of the table of times."""


class PlainDoC:
    """One window, one situation and one head at a time, as the paper states the objective; nothing is ever padded."""

    def __init__(self, agent, dataset):
        self.agent, self.c, self.past = agent, agent.config, agent.windows.history
        self.model = Layers(list(agent.model.parameters()), agent.groups["model"])
        self.energy = Layers(list(agent.energy.parameters()), agent.groups["energy"])
        names = [name for name, _ in agent.model.named_parameters()]
        self.w = dict(zip(names, self.model.tensors, strict=True))
        rewards = dataset.rewards.astype(float)
        self.reward_mean, self.reward_std = rewards.mean(), rewards.std() + 1e-3
        self.return_scale = max(abs(part.sum()) for part in np.split(rewards, dataset.episode_bounds[1:-1]))
        self.norms = []

    # Networks.

    def mlp(self, name, x, member=0):
        count = sum(other.startswith(f"{name}.layers.") for other in self.w)
        return mlp([self.w[f"{name}.layers.{place}"][member] for place in range(count)], x)

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def layer_norm(self, name, x):
        centred = x - x.mean(1, keepdim=True)
        normed = centred / ((centred**2).mean(1, keepdim=True) + 1e-5) ** 0.5
        return normed * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, name, x, kept):
        size = self.c.width // self.c.heads
        x = self.linear(f"{name}.attention_in", self.layer_norm(f"{name}.attention_norm", x))
        # The projection holds all heads' queries, then all their keys, then all their values.
        query, key, value = x.view(len(x), 3, self.c.heads, size).unbind(1)
        read = []
        for head in range(self.c.heads):
            scores = torch.tril(torch.exp(query[:, head] @ key[:, head].T / math.sqrt(size)))
            read.append(kept[head] * scores / scores.sum(1, keepdim=True) @ value[:, head])
        return self.linear(f"{name}.attention_out", torch.cat(read, 1))

    def feed_forward(self, name, x):
        hidden = self.linear(f"{name}.hidden_in", self.layer_norm(f"{name}.hidden_norm", x))
        return self.linear(f"{name}.hidden_out", Kinks.relu(hidden))

    def embedded(self, name, tokens, time):
        """Return all tokens in their order, those of a step one after the other."""
        added = self.w[f"encoder.{name}.time.weight"][torch.clip(time, max=TIMES - 1)]
        each = [self.linear(f"encoder.{name}.embeddings.{place}", x) + added for place, x in enumerate(tokens)]
        return self.layer_norm(f"encoder.{name}.norm", torch.stack(each, 1).flatten(0, 1))

    def transformer(self, name, x, drop, padded, length):
        """Map tokens to features; the agent's masks are for ``length`` steps, of which ``padded`` come before these."""
        own = slice(3 * padded, 3 * padded + len(x))
        dropped = lambda x: x * drop(3 * length, self.c.width)[own]  # noqa: E731
        x = dropped(x)
        for layer in range(self.c.layers):
            block = f"encoder.{name}.blocks.{layer}"
            kept = drop(self.c.heads, 3 * length, 3 * length)[:, own, own]
            x = x + dropped(self.attention(block, x, kept))
            x = x + dropped(self.feed_forward(block, x))
        return self.layer_norm(f"encoder.{name}.last_norm", x)

    # One window.

    def read(self, draws, row):
        """Return the steps from the present on, what is known before and after their actions, q's and p's numbers."""
        place, mask = self.past - 1, draws["mask"][row]
        first, last = place - int(mask[:place].sum()), place + int(mask[place:].sum())
        now = place - first
        past = SimpleNamespace(**{f.name: draws[f.name][row, first:last] for f in dataclasses.fields(RecordedSteps)})
        past.reward, past.previous_reward = (
            (reward - self.reward_mean) / self.reward_std for reward in (past.reward, past.previous_reward)
        )
        future = SimpleNamespace(**{name: values[now:] for name, values in vars(past).items()})
        before = [past.previous_reward[:, None], past.observation, past.action]
        after = [future.observation, future.action, future.reward[:, None]]
        if self.c.encoder == "mlp":
            future.before = future.after = future.observation
            passed = Kinks.relu(self.mlp("encoder.step", torch.cat(after, 1)))
            q = self.mlp("encoder.posterior_head", passed.sum(0) / len(passed))
            p = self.mlp("encoder.prior_head", past.observation[now])
        else:
            drop, length = Masks(self.c.dropout, draws["dropout"][row]), self.c.past + self.c.future - 1
            features = self.transformer("past", self.embedded("past", before, past.time), drop, first, length)
            future.before, future.after = features[3 * now + 1 :: 3], features[3 * now + 2 :: 3]
            x = self.embedded("future", after, future.time)
            q = self.linear("encoder.posterior_head", self.transformer("future", x, drop, 0, self.c.future)[-1])
            # The prior knows everything up to the present's state, which stands before its action.
            x = self.embedded("prior_past", before, past.time)[: 3 * now + 2]
            p = self.linear("encoder.prior_head", self.transformer("prior_past", x, drop, first, self.c.past)[-1])
        future.q, future.p = normal(q), normal(p)
        future.latent = future.q[0] + future.q[1] * draws["latent"][row]
        return future

    def outcomes(self, windows, draws):
        """Return of each step that is compared its window's number, its situation but for z, and its outcome."""
        found = []
        for row, window in enumerate(windows):
            for uniform in draws["place"][row]:
                i = int(uniform * len(window.action))
                ongoing = 1 - window.terminated[i : i + 1]
                situation = torch.cat((window.after[i].detach(), window.observation[i], window.action[i]))
                outcome = torch.cat((window.reward[i : i + 1], ongoing * window.next_observation[i], ongoing))
                found.append((row, situation, outcome))
        return found

    # Losses.

    def information(self, compared, latents, draws):
        """Return the mean of f(true outcome) - log mean exp f(all), with f one MLP of all that it reads."""
        situation, shift, outcome, other_shift, *rest = (tensor[0] for tensor in self.energy.tensors)
        layers = [torch.cat((situation, outcome), 1), shift + other_shift, *rest]
        uniforms, terms = draws["negative"].reshape(len(compared), self.c.negatives), []
        for i, (row, x, true) in enumerate(compared):
            others = [*compared[i + 1 :], *compared[:i]]
            drawn = [others[int(uniform * len(others))][2] for uniform in uniforms[i]]
            inputs = torch.stack([torch.cat((x, latents[row], outcome)) for outcome in (true, *drawn)])
            f = mlp(layers, inputs)[:, 0]
            terms.append(f[0] - torch.log(torch.exp(f).mean()))
        return sum(terms) / len(terms)

    def log_likelihood(self, window):
        """Return log π of the actions of a window, summed over them."""
        latent = window.latent.repeat(len(window.action), 1)
        output = self.mlp("policy", torch.cat((window.before, latent), 1))
        if self.c.discrete:
            odds = torch.exp(output)
            return torch.log((odds * window.action).sum(1) / odds.sum(1)).sum()
        std = torch.exp(torch.clip(self.w["log_std"], -5, 2))
        distance = torch.clip(window.action, -1 + 1e-5, 1 - 1e-5) - torch.tanh(output)
        density = torch.exp(-(distance**2) / (2 * std**2)) / torch.sqrt(2 * math.pi * std**2)
        return torch.log(density).sum()

    def value_error(self, window):
        x = torch.cat((window.before[0], window.latent.detach()))
        values = [self.mlp("value", x, member)[0] for member in range(self.c.value_heads)]
        return sum((value - window.return_to_go[0] / self.return_scale) ** 2 for value in values)

    def terms(self, windows, compared, draws):
        count = len(windows)
        standard = torch.zeros(self.c.latent_size), torch.ones(self.c.latent_size)
        constant = [tuple(x.detach() for x in window.q) for window in windows]
        return {
            "policy_loss": -sum(map(self.log_likelihood, windows)) / sum(len(window.action) for window in windows),
            "information": self.information(compared, [window.latent for window in windows], draws),
            "value_loss": sum(map(self.value_error, windows)) / count,
            "prior_loss": sum(divergence(q, window.p) for q, window in zip(constant, windows, strict=True)) / count,
            "standard_divergence": sum(divergence(window.q, standard) for window in windows) / count,
        }

    def update(self, batch, step):
        draws = batch.draws
        windows = [self.read(draws, row) for row in range(self.c.batch_size)]
        compared = self.outcomes(windows, draws)
        constants = [window.latent.detach() for window in windows]
        for _ in range(self.c.energy_steps):
            energy_loss = -self.information(compared, constants, draws)
            energy_gradients = torch.autograd.grad(energy_loss, self.energy.tensors)
            self.energy.adam(energy_gradients, self.c.energy_learning_rate)
        terms = self.terms(windows, compared, draws)
        if self.agent.dtype == torch.float64:
            for name, term in terms.items():
                assert relative(self.agent.metrics[name], term) < 1e-10, (step, name)
        weights = {
            "information": self.c.beta * min(step / RAMP_STEPS, 1),
            "standard_divergence": self.c.standard_weight,
        }
        loss = sum(weights.get(name, 1) * term for name, term in terms.items())
        gradients = self.clipped(torch.autograd.grad(loss, self.model.tensors))
        rate = self.c.learning_rate * min(step / WARMUP_STEPS, 1)
        with torch.no_grad():
            for tensor in self.model.tensors:
                tensor.mul_(1 - rate * self.c.weight_decay)
        self.model.adam(gradients, rate)
        return {"energy": energy_loss, "model": loss}, {"energy": energy_gradients, "model": gradients}

    def clipped(self, gradients):
        self.norms.append(math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients)))
        return [gradient * min(self.c.gradient_clip / self.norms[-1], 1) for gradient in gradients]


def mlp(layers, x):
    *hidden, last = zip(layers[0::2], layers[1::2], strict=True)
    for weight, bias in hidden:
        x = Kinks.relu(x @ weight.T + bias)
    return x @ last[0].T + last[1]


def normal(numbers):
    """Return mean and standard deviation."""
    mean, log_std = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    return mean, torch.exp(torch.clip(log_std, -5, 2))


def divergence(left, right):
    """KL of two normal distributions with independent entries."""
    (mean, std), (other_mean, other_std) = left, right
    squares = std**2 + (mean - other_mean) ** 2
    return (torch.log(other_std / std) + squares / (2 * other_std**2) - 0.5).sum()


class Windowed(DoC):
    """Finds its windows among the draws, where the harness turns them into float64; keeps its metrics."""

    def update(self, batch, step):
        steps = RecordedSteps(**{field.name: batch.draws[field.name] for field in dataclasses.fields(RecordedSteps)})
        self.metrics = super().update(WindowBatch(**vars(batch), steps=steps, place=self.windows.history - 1), step)
        return self.metrics


def episodes(discrete):
    """Make episodes of one to eight steps, ended by a terminal or a limit, the last by the end of the recording."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, 60)
    size, last = lengths.sum(), np.cumsum(lengths) - 1
    actions = np.eye(3)[generator.integers(3, size=size)] if discrete else generator.uniform(-1.3, 1.3, (size, 3))
    return Dataset.from_arrays(
        observations=generator.standard_normal((size, 5)) * 2 + 1,
        actions=actions.clip(-1, 1),
        rewards=generator.standard_normal(size) + 0.5,
        terminated=np.isin(np.arange(size), last[:-1:2]),
        truncated=np.isin(np.arange(size), last[1:-1:2]),
        next_observations=generator.standard_normal((size, 5)) * 2 + 1,
    )


def prepared(settings, dtype):
    """Return an agent, the maker of its second implementation, and batches of windows."""
    config = Config(**settings)
    dataset = episodes(config.discrete)
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    agent = Windowed(config, 5, 3, steps=STEPS, dtype=dtype)
    agent.prepare(rows)
    # Away from the almost linear beginning, and to where some standard deviations are cut.
    agent.groups["energy"].flat.mul_(4)
    for weight in agent.model.encoder.parameters():
        if config.encoder == "transformer" and weight.ndim == 2:
            weight.data.mul_(6)
    *_, bias = agent.model.encoder.posterior_head.parameters()
    bias.data.view(-1)[-3:] = torch.tensor([2.0, -5.0, 0.0])
    if not config.discrete:
        agent.model.log_std.data.copy_(torch.tensor([2.5, 0.5, -1.0]))
    sampler = Sampler(agent, rows)
    batches = [sampler.batch(step) for step in range(1, UPDATES + 1)]
    masks = torch.cat([batch.steps.mask for batch in batches])
    assert not masks[:, -1].all()
    assert config.encoder == "mlp" or not masks[:, 0].all()
    assert any(batch.future.terminated[batch.future.mask].any() for batch in batches)
    return agent, lambda agent: PlainDoC(agent, dataset), [with_windows(batch) for batch in batches]


def with_windows(batch):
    own = {field.name: vars(batch)[field.name] for field in dataclasses.fields(Batch)}
    steps = {**vars(batch.steps), "time": batch.steps.time + OLDEST}
    return Batch(**{**own, "draws": {**batch.draws, **steps}})


def weights(agent, plain):
    """Pair both sides' tensors, of the tables of times only the rows that are used.

    No loss depends on the keys' biases and on f's last one. Their gradients are rounding, of which Adam makes whole
    steps in float32, so there they are left out.
    """
    exact = agent.dtype == torch.float64
    named = zip(agent.model.named_parameters(), plain.model.tensors, strict=True)
    model = [
        (ours[OLDEST:], theirs[OLDEST:]) if ".time." in name else (ours, theirs)
        for (name, ours), theirs in named
        if exact or not name.endswith("attention_in.bias")
    ]
    energy = list(zip(agent.energy.parameters(), plain.energy.tensors, strict=True))[: None if exact else -1]
    return {"model": zip(*model, strict=True), "energy": zip(*energy, strict=True)}


@pytest.mark.parametrize("settings", SETTINGS)
def test_doc_in_float64(settings):
    agent, make, batches = prepared(settings, torch.float64)
    plain = make(agent)
    check_float64(agent, lambda _: plain, weights, batches)
    assert min(plain.norms) < agent.config.gradient_clip < max(plain.norms)


@pytest.mark.parametrize("settings", SETTINGS)
def test_doc_in_float32(settings):
    agent, make, batches = prepared(settings, torch.float32)
    check_float32(agent, make, weights, batches)
