import math

import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset
from parity.harness import check_float64

from offline_rl.algos.dt import DT, Config
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.training.updates.sampler import Sampler

SMALL = {"batch_size": 4, "length": 3, "width": 8, "layers": 2, "heads": 2, "gradient_clip": 0.55}
SETTINGS = [
    {**SMALL, "dropout": 0.0, "gradient_clip": 0.8},
    {**SMALL, "dropout": 0.3},
    {**SMALL, "dropout": 0.1, "heads": 1, "layers": 1, "weight_decay": 5.0, "return_scale": 0.3},
    {**SMALL, "encoder": "mlp", "hidden_dims": [8, 8], "return_scale": 1.0},
]
WARMUP_STEPS = 5
UPDATES = 10


class PlainDT:
    """The Decision Transformer, one piece of an episode, one token and one head at a time; nothing is ever padded."""

    def __init__(self, agent):
        self.c = agent.config
        self.w = {name: weight.detach().clone().requires_grad_() for name, weight in agent.model.named_parameters()}
        self.first, self.second = ({name: torch.zeros_like(w) for name, w in self.w.items()} for _ in range(2))
        self.count = 0
        self.norms = []

    def linear(self, name, x):
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def layer_norm(self, name, x):
        centred = x - x.mean()
        return centred / ((centred**2).mean() + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, name, tokens, kept):
        size = self.c.width // self.c.heads
        vectors = [self.linear(f"{name}.attention_in", self.layer_norm(f"{name}.attention_norm", x)) for x in tokens]
        # The projection holds all heads' queries, then all their keys, then all their values.
        part = lambda token, which, head: vectors[token].view(3, self.c.heads, size)[which, head]  # noqa: E731
        outputs = []
        for i in range(len(tokens)):
            read = []
            for head in range(self.c.heads):
                scores = [part(i, 0, head) @ part(j, 1, head) / math.sqrt(size) for j in range(i + 1)]
                total = sum(score.exp() for score in scores)
                read.append(
                    sum(kept[head, i, j] * score.exp() / total * part(j, 2, head) for j, score in enumerate(scores))
                )
            outputs.append(self.linear(f"{name}.attention_out", torch.cat(read)))
        return outputs

    def feed_forward(self, name, x):
        hidden = self.linear(f"{name}.hidden_in", self.layer_norm(f"{name}.hidden_norm", x))
        return self.linear(f"{name}.hidden_out", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))

    def actions(self, wishes, states, actions, times, drop):
        """Return the action of each of the n steps of one piece of an episode."""
        length = 3 * self.c.length
        tokens = []
        for wish, state, action, time in zip(wishes, states, actions, times, strict=True):
            for place, value in enumerate((self.c.return_scale * wish[None], state, action)):
                x = self.linear(f"transformer.embeddings.{place}", value) + self.w["transformer.time.weight"][time]
                tokens.append(self.layer_norm("transformer.norm", x))
        kept = drop(length, self.c.width)
        tokens = [x * kept[i] for i, x in enumerate(tokens)]
        for layer in range(self.c.layers):
            name = f"transformer.blocks.{layer}"
            added = self.attention(name, tokens, drop(self.c.heads, length, length))
            kept = drop(length, self.c.width)
            tokens = [x + kept[i] * added[i] for i, x in enumerate(tokens)]
            kept = drop(length, self.c.width)
            tokens = [x + kept[i] * self.feed_forward(name, x) for i, x in enumerate(tokens)]
        return [torch.tanh(self.linear("head", self.layer_norm("transformer.last_norm", x))) for x in tokens[1::3]]

    def mlp(self, wish, state):
        x = torch.cat((state, self.c.return_scale * wish[None]))
        layers = [self.w[f"mlp.layers.{i}"][0] for i in range(6)]
        for weight, bias in zip(layers[0::2], layers[1::2], strict=True):
            x = weight @ x + bias
            x = torch.tanh(x) if weight is layers[-2] else torch.relu(x)
        return x

    def loss(self, batch):
        steps, total = batch.steps, 0.0
        for row, mask in enumerate(steps.mask):
            n = int(mask.sum())
            wishes, states, actions, times = (
                vars(steps)[name][row, :n] for name in ("return_to_go", "observation", "action", "time")
            )
            if self.c.encoder == "mlp":
                found = [self.mlp(wish, state) for wish, state in zip(wishes, states, strict=True)]
            else:
                found = self.actions(wishes, states, actions, times, Masks(self.c.dropout, batch.draws["dropout"][row]))
            total = total + sum(((ours - theirs) ** 2).sum() for ours, theirs in zip(found, actions, strict=True))
        return total / steps.action.numel()

    def update(self, batch, step):
        loss = self.loss(batch)
        gradients = torch.autograd.grad(loss, list(self.w.values()))
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        self.norms.append(norm)
        if norm > self.c.gradient_clip:
            gradients = [gradient * self.c.gradient_clip / norm for gradient in gradients]
        self.adamw(gradients, self.c.learning_rate * min(step / WARMUP_STEPS, 1))
        return {"model": loss}, {"model": gradients}

    def adamw(self, gradients, rate):
        """Loshchilov & Hutter 2019, algorithm 2, with the decay multiplied by the learning rate."""
        self.count += 1
        with torch.no_grad():
            for (name, w), gradient in zip(self.w.items(), gradients, strict=True):
                m, v = self.first[name], self.second[name]
                w.mul_(1 - rate * self.c.weight_decay)
                m.mul_(0.9).add_(gradient, alpha=0.1)
                v.mul_(0.999).add_(gradient * gradient, alpha=0.001)
                w.sub_(rate * (m / (1 - 0.9**self.count)) / ((v / (1 - 0.999**self.count)).sqrt() + 1e-8))


class Masks:
    """Dropout masks from a row's key, by numpy's unsigned arithmetic."""

    def __init__(self, rate, key):
        first, second = (np.uint32(float(number) * 2**24) for number in key)
        self.rate = rate
        self.key = mixed(mixed(np.array([first])) ^ second)
        self.calls = 0

    def __call__(self, *shape):
        self.calls += 1
        if self.rate == 0:
            return torch.ones(shape, dtype=torch.float64)
        size = math.prod(shape)
        words = np.arange(-(-size // 2), dtype=np.uint32) * np.uint32(0x9E3779B1)
        words ^= np.uint32(0x7FEB352D * self.calls % 2**32)
        halves = mixed(words ^ self.key).view(np.int16)[:size].astype(int)
        kept = halves + 2**15 >= round(self.rate * 2**16)
        return torch.from_numpy(kept.reshape(shape) / (1 - self.rate))


def mixed(word):
    word = word ^ (word >> np.uint32(16))
    word = word * np.uint32(0x85EBCA6B)
    word = word ^ (word >> np.uint32(13))
    word = word * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))


@pytest.mark.parametrize("settings", SETTINGS)
def test_float64_agrees_step_by_step(settings):
    """Broken by any other mask, norm, mean, clip, decay or warm-up; the pieces of episodes differ in length."""
    dataset = random_dataset()
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    config = Config(**settings, learning_rate=0.01, warmup=WARMUP_STEPS / 100)
    agent = DT(config, 5, 2, steps=100, dtype=torch.float64)
    agent.prepare(rows)
    sampler = Sampler(agent, rows)
    batches = [sampler.batch(step) for step in range(1, UPDATES + 1)]
    assert len({int(n) for batch in batches for n in batch.steps.mask.sum(1)}) == agent.windows.length
    made = []

    def reference(of):
        made.append(PlainDT(of))
        return made[-1]

    check_float64(
        agent, reference, lambda agent, plain: {"model": (agent.model.parameters(), plain.w.values())}, batches
    )
    assert min(made[0].norms) < config.gradient_clip < max(made[0].norms)
