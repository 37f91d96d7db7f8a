"""Runs in the competitors' environment: TD3+BC and IQL as a JAX program, compiled, eight updates a call.

Sampling, losses, gradients and Adam are one program: ``jax.jit`` around ``jax.lax.scan``, with the rows as one matrix
in memory and the state's memory given back to the program (donated). It was written from the papers' formulas for this
comparison. One update from equal weights, rows and noise is ours to rounding (tests/test_peer_programs.py). Rewards are
taken as they are.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from benchmarks import peer_serving as given

CALL = 8
"""Updates that one call of the compiled program makes."""
Layers = list[tuple[Array, Array]]
"""Weights ``(in, out)`` and biases ``(out,)`` of an MLP."""


class Rows(NamedTuple):
    """Rows of a batch: ``(B, O)``, ``(B, A)``, ``(B,)``, ``(B,)`` and ``(B, O)``."""

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    following: Array


class State(NamedTuple):
    """All that updates change: networks and targets by name, and of each network Adam's moments and step count."""

    networks: dict[str, Any]
    targets: dict[str, Any]
    moments: dict[str, Any]


def begin(networks: dict[str, Any], targets: Sequence[str]) -> State:
    """Return the state before the first update."""
    moments = {}
    for name, network in networks.items():
        moments[name] = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, network), jax.tree.map(jnp.zeros_like, network))
    return State(networks, {name: jax.tree.map(jnp.copy, networks[name]) for name in targets}, moments)


def forward(layers: Layers, x: Array) -> Array:
    """Apply linear layers with ReLU between them."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def values(critics: Sequence[Layers], observation: Array, action: Array) -> list[Array]:
    """Return what both critics say ``(B,)`` of observations and actions."""
    pair = jnp.concatenate([observation, action], 1)
    return [forward(critic, pair)[:, 0] for critic in critics]


def step(state: State, name: str, loss: Callable[[Any], Array], rate: Array | float = given.LEARNING_RATE) -> State:
    """Take one step of Adam (β 0.9 and 0.999, ε 1e-8) with one network along its loss."""
    network, (count, mean, square) = state.networks[name], state.moments[name]
    gradient, count = jax.grad(loss)(network), count + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, gradient)
    size, scale = rate / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
    network = jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) / scale + 1e-8), network, mean, square)
    moments = {**state.moments, name: (count, mean, square)}
    return State({**state.networks, name: network}, state.targets, moments)


def track(state: State) -> State:
    """Move all targets a little towards their networks."""
    rate = given.TARGET_RATE
    targets = {
        name: jax.tree.map(lambda t, p: rate * p + (1 - rate) * t, target, state.networks[name])
        for name, target in state.targets.items()
    }
    return State(state.networks, targets, state.moments)


def td3_bc(state: State, rows: Rows, noise: Array, number: int) -> State:
    """Make update ``number`` of TD3+BC (arXiv 2106.06860, equations 4 and 5); ``noise`` ``(B, A)`` is from N(0, 1)."""
    bounded = jnp.clip(noise * given.POLICY_NOISE, -given.NOISE_CLIP, given.NOISE_CLIP)
    action = jnp.clip(jnp.tanh(forward(state.targets["actor"], rows.following)) + bounded, -1, 1)
    best = jnp.minimum(*values(state.targets["critics"], rows.following, action))
    target = rows.reward + given.DISCOUNT * (1 - rows.terminated) * best
    state = step(state, "critics", functools.partial(critic_loss, rows=rows, target=target))
    if number % given.POLICY_DELAY:
        return state

    def loss(actor: Layers) -> Array:
        chosen = jnp.tanh(forward(actor, rows.observation))
        q = values(state.networks["critics"][:1], rows.observation, chosen)[0]
        weight = given.ALPHA / jax.lax.stop_gradient(jnp.abs(q).mean())
        return -weight * q.mean() + ((chosen - rows.action) ** 2).mean()

    return track(step(state, "actor", loss))


def critic_loss(critics: Sequence[Layers], rows: Rows, target: Array) -> Array:
    """Return the sum of both critics' mean squared errors."""
    return sum(((q - target) ** 2).mean() for q in values(critics, rows.observation, rows.action))


def iql(state: State, rows: Rows, noise: Array, number: int) -> State:
    """Make an update of IQL (arXiv 2110.06169, equations 5 to 7); it takes no noise, and all updates are alike."""
    q = jnp.minimum(*values(state.targets["critics"], rows.observation, rows.action))

    def value_loss(value: Layers) -> Array:
        error = q - forward(value, rows.observation)[:, 0]
        return (jnp.abs(given.EXPECTILE - (error < 0)) * error**2).mean()

    state = step(state, "value", value_loss)
    advantage = q - forward(state.networks["value"], rows.observation)[:, 0]
    following = forward(state.networks["value"], rows.following)[:, 0]
    weight = jnp.minimum(jnp.exp(given.BETA * advantage), given.WEIGHT_LIMIT)

    def actor_loss(actor: dict[str, Any]) -> Array:
        log_std = jnp.clip(actor["log_std"], *given.LOG_STD_BOUNDS)
        mean = jnp.tanh(forward(actor["mean"], rows.observation))
        density = jax.scipy.stats.norm.logpdf(rows.action, mean, jnp.exp(log_std)).sum(1)
        return -(weight * density).mean()

    taken = state.moments["actor"][0]
    falling = given.LEARNING_RATE / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(taken / given.STEPS, 1)))
    state = step(state, "actor", actor_loss, falling)
    target = rows.reward + given.DISCOUNT * (1 - rows.terminated) * following
    return track(step(state, "critics", functools.partial(critic_loss, rows=rows, target=target)))


UPDATES = {"td3_bc": (td3_bc, given.POLICY_DELAY, ("actor", "critics")), "iql": (iql, 1, ("critics",))}
"""Of each algorithm its update, after how many it does the same again, and which networks have targets."""


def drawn_networks(algorithm: str, observation_size: int, action_size: int, widths: Sequence[int]) -> dict[str, Any]:
    """Return networks with random weights, U(-1/√in, 1/√in)."""
    generator = np.random.default_rng(0)

    def mlp(inputs: int, outputs: int) -> Layers:
        sizes = [inputs, *widths, outputs]
        bounds = [(a, b, a**-0.5) for a, b in itertools.pairwise(sizes)]
        return [
            tuple(jnp.asarray(generator.uniform(-r, r, shape), jnp.float32) for shape in ((a, b), (b,)))
            for a, b, r in bounds
        ]

    critics = [mlp(observation_size + action_size, 1) for _ in range(2)]
    actor = mlp(observation_size, action_size)
    if algorithm == "td3_bc":
        return {"actor": actor, "critics": critics}
    spread = {"mean": actor, "log_std": jnp.zeros(action_size)}
    return {"actor": spread, "critics": critics, "value": mlp(observation_size, 1)}


def program(algorithm: str, sizes: tuple[int, int], batch_size: int) -> Callable[[State, Array, Array], Any]:
    """Return the compiled program that makes :data:`CALL` updates of a state with rows ``(N, 2 O + A + 2)``."""
    update, cycle, _ = UPDATES[algorithm]
    o, a = sizes

    @functools.partial(jax.jit, donate_argnums=0)
    def call(state: State, key: Array, matrix: Array) -> tuple[State, Array]:
        def cycle_of_updates(carry: tuple[State, Array], _: None) -> tuple[tuple[State, Array], None]:
            state, key = carry
            for number in range(1, cycle + 1):
                key, first, second = jax.random.split(key, 3)
                row = matrix[jax.random.randint(first, (batch_size,), 0, len(matrix))]
                rows = Rows(row[:, :o], row[:, o : o + a], row[:, o + a], row[:, o + a + 1], row[:, o + a + 2 :])
                state = update(state, rows, jax.random.normal(second, (batch_size, a)), number)
            return (state, key), None

        return jax.lax.scan(cycle_of_updates, (state, key), None, CALL // cycle)[0]

    return call


def build(algorithm: str, data: str, batch_size: int, hidden_dims: Sequence[int]) -> given.Window:
    """Make a learner, and return what makes its updates."""
    observation, action, reward, terminated, following = given.rows_of(data)
    columns = [observation, action, reward[:, None], terminated[:, None], following]
    matrix, sizes = jnp.asarray(np.concatenate(columns, axis=1)), (observation.shape[1], action.shape[1])
    state = begin(drawn_networks(algorithm, *sizes, hidden_dims), UPDATES[algorithm][2])
    call, held = program(algorithm, sizes, batch_size), [state, jax.random.key(0)]

    def make() -> int:
        held[:] = call(*held, matrix)
        jax.block_until_ready(held)
        return CALL

    make()  # compiles
    return functools.partial(given.timed, make)


if __name__ == "__main__":
    given.serve(build, jax.__version__)
