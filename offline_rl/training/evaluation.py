"""What an agent is worth: episodes in the simulator, as a pure function of (weights, seed, step)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from offline_rl.agent import Agent
from offline_rl.draws import derived_seed
from offline_rl.envs.dynamics import Dynamics
from offline_rl.envs.tasks import find_task, normalized_score
from offline_rl.errors import AgentError

BLOCK = 10
"""Episodes that are stepped together. Fixed, because a policy's last bits can depend on the size of its batch."""


@dataclass(frozen=True)
class Evaluation:
    """The returns of some episodes of one agent, and their normalised scores, each ``(E,)``."""

    returns: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray


def blocks(seed: int, step: int, episodes: int) -> list[list[int]]:
    """Return the reset seeds of the episodes of (seed, step), in blocks that may be played anywhere in any order."""
    seeds = [derived_seed(seed, f"evaluation/{episode}", step) for episode in range(episodes)]
    return [seeds[start : start + BLOCK] for start in range(0, episodes, BLOCK)]


def play(agent: Agent, task: str, dynamics: Dynamics, seeds: Sequence[int]) -> tuple[list[float], list[int]]:
    """Play one block of episodes; return their returns and lengths."""
    from offline_rl.envs.vector import rollout

    result = rollout(agent.act, find_task(task), dynamics, seeds)
    return result.returns.tolist(), result.lengths.tolist()


def trace(agent: Agent, task: str, *, dynamics: Dynamics = "d4rl", seed: int = 0) -> dict[str, list[float]]:
    """Play the first episode of :func:`evaluate` and record what the policy decided on the way to its actions.

    Returns:
        For each of the agent's signals, see :meth:`offline_rl.agent.Agent.signals`, its value at each step.

    Raises:
        TaskError: As :func:`evaluate`.
        AgentError: The agent has no signals.
    """
    from offline_rl.envs.vector import rollout

    values: dict[str, list[float]] = {}

    def act(observation: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(agent.preprocessing.normalized(observation)).to(agent.device, agent.dtype)
        with torch.inference_mode():
            for name, value in agent.signals(rows).items():
                values.setdefault(name, []).append(float(value))
        return agent.act(observation)

    rollout(act, find_task(task), dynamics, blocks(seed, 0, 1)[0])
    if not values:
        raise AgentError(f"{agent.name} decides nothing but actions, so there is nothing to draw")
    return values


def evaluate(agent: Agent, task: str, *, dynamics: Dynamics = "d4rl", episodes: int = 100, seed: int = 0) -> Evaluation:
    """Score an agent in this process.

    Args:
        agent: Whom to score.
        task: A task's name, see :func:`offline_rl.envs.find_task`.
        dynamics: ``"d4rl"`` or ``"plain"``.
        episodes: How many episodes to play.
        seed: Decides the initial states.

    Raises:
        TaskError: The task is unknown or cannot be scored.
        AgentError: There is no episode, or the agent's actions are not finite.
    """
    if episodes < 1:
        raise AgentError(f"episodes is {episodes}; it must be at least 1")
    played = [play(agent, task, dynamics, block) for block in blocks(seed, 0, episodes)]
    returns = np.array([value for block, _ in played for value in block])
    lengths = np.array([value for _, block in played for value in block])
    return Evaluation(returns, lengths, np.asarray(normalized_score(task, returns)))
