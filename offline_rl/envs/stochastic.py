"""Luck for the robots, which have none of their own: a lottery in the rewards, and noise on the actions.

D4RL's simulators are deterministic, so nothing in their data tells skill from luck. Both disturbances here do: a method
that conditions on a return imitates the winners of the lottery, one that separates what it controls does not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.draws import Stream
from offline_rl.envs.dynamics import Dynamics, make_env
from offline_rl.envs.tasks import Task

TICKET = 0.001
"""Probability of a prize in each step."""
SHARE = 0.2
"""Mean winnings of a whole episode, as a share of the median return."""
CORRELATION = 0.9
"""Of the action noise from one step to the next."""


def prize_of(returns: NDArray[np.float64], steps: int = 1000) -> float:
    """Return the prize with which an episode of so many steps wins, on average, a fifth of the median return."""
    return float(SHARE * np.median(returns) / (TICKET * steps))


def with_lottery(rewards: NDArray[np.float32], prize: float, seed: int) -> NDArray[np.float32]:
    """Return rewards (N,) to which the prize is added in one of a thousand steps, drawn from the seed."""
    wins = Stream(seed, "lottery").at(0).random(len(rewards)) < TICKET
    return (rewards + prize * wins).astype(np.float32)


class NoisyPolicy:
    """A policy whose actions are disturbed on their way to the robot, without its knowing.

    ε_t = 0.9 ε_{t-1} + √(1 - 0.9²) σ ξ_t with ξ_t from N(0, 1) is added, and the sum is cut to [-1, 1]; ε_0 = σ ξ_0, so
    that every ε_t has the standard deviation σ. An episode's noise depends on its seed alone.

    Args:
        policy: What acts, called with whatever this is called with.
        std: σ.
        seeds: One for each of the E episodes.
    """

    def __init__(self, policy: Callable[..., NDArray[np.float32]], std: float, seeds: Sequence[int]) -> None:
        self._policy = policy
        self._noise = [_noise(seed, std) for seed in seeds]

    def __call__(self, *given: Any) -> NDArray[np.float32]:
        """Return the disturbed actions (E, A)."""
        intended = self._policy(*given)
        noise = np.stack([following(intended.shape[1]) for following in self._noise])
        return np.asarray(np.clip(intended + noise, -1.0, 1.0), np.float32)


def _noise(seed: int, std: float) -> Callable[[int], NDArray[np.float64]]:
    """Return what gives the noise (A,) of one step of an episode after the other."""
    stream, time, last = Stream(seed, "action noise"), 0, np.zeros(0)

    def following(size: int) -> NDArray[np.float64]:
        nonlocal time, last
        fresh = std * stream.at(time).standard_normal(size)
        last = CORRELATION * last + np.sqrt(1 - CORRELATION**2) * fresh if time else fresh
        time += 1
        return last

    return following


def record(
    policy: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    task: Task,
    dynamics: Dynamics,
    seeds: Sequence[int],
    std: float,
) -> dict[str, NDArray[Any]]:
    """Play one episode per seed with disturbed actions and return what `Dataset.from_arrays` takes.

    The recorded actions are those the policy wanted; what the robot was made to do is nowhere to be seen.

    Args:
        policy: Observations (1, O) to actions (1, A), such as an agent's `act`.
        task: The robot.
        dynamics: See `offline_rl.envs.make_env`.
        seeds: One non-negative seed per episode, for the first state and the noise.
        std: σ.
    """
    environment = make_env(task, dynamics)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "terminated", "truncated", "next_observations")
    }
    for seed in seeds:
        observation, _ = environment.reset(seed=int(seed))
        noise, ended = _noise(seed, std), False
        while not ended:
            action = np.clip(policy(np.asarray(observation, np.float32)[None])[0], -1.0, 1.0)
            disturbed = np.clip(action + noise(len(action)), -1.0, 1.0).astype(np.float32)
            next_observation, reward, terminated, truncated, _ = environment.step(disturbed)
            row = observation, action, float(reward), terminated, truncated and not terminated, next_observation
            for column, value in zip(rows.values(), row, strict=True):
                column.append(value)
            observation, ended = next_observation, terminated or truncated
    return {name: np.array(column) for name, column in rows.items()}
