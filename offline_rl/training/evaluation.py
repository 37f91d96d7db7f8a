"""What an agent is worth: episodes in the simulator, as a pure function of (weights, seed, step)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from offline_rl.agent import Agent, AgentConfig
from offline_rl.draws import derived_seed
from offline_rl.envs.dynamics import Dynamics, dynamics_of
from offline_rl.envs.tasks import Task, find_task, normalized_score
from offline_rl.errors import AgentError

if TYPE_CHECKING:
    from offline_rl.envs.vector import Watcher

BLOCK = 10
"""Episodes that are stepped together. Fixed, because a policy's last bits can depend on the size of its batch."""


@dataclass(frozen=True)
class Evaluation:
    """Some episodes of one agent.

    Attributes:
        returns: ``(E,)``.
        lengths: ``(E,)``, in steps.
        scores: ``(E,)``, the normalised returns.
        by_condition: The same under each of the agent's conditions, of which the first is this one; empty for an agent
            that knows one way to act.
    """

    returns: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray
    by_condition: Mapping[str, "Evaluation"] = field(default_factory=dict)


def blocks(seed: int, step: int, episodes: int) -> list[list[int]]:
    """Return the reset seeds of the episodes of (seed, step), in blocks that may be played anywhere in any order."""
    seeds = [derived_seed(seed, f"evaluation/{episode}", step) for episode in range(episodes)]
    return [seeds[start : start + BLOCK] for start in range(0, episodes, BLOCK)]


def play(
    agent: Agent, task: Task, dynamics: Dynamics, seeds: Sequence[int], watcher: "Watcher | None" = None
) -> tuple[list[list[float]], list[list[int]]]:
    """Play one block of episodes under each of the agent's conditions, all together, the first condition's first.

    Returns:
        For each episode, its returns, one for each condition; and its lengths likewise.
    """
    from offline_rl.envs.vector import rollout

    count = len(agent.conditions(agent.config))
    agent.reset(condition=np.arange(count).repeat(len(seeds)))
    result = rollout(agent.act, task, dynamics, [*seeds] * count, tell_rewards=True, watcher=watcher)
    shape = count, len(seeds)
    return result.returns.reshape(shape).T.tolist(), result.lengths.reshape(shape).T.tolist()


def by_condition(agent: type[Agent], config: AgentConfig, values: Sequence[object]) -> dict[str, np.ndarray]:
    """Return what :func:`play` gave for E episodes as one array ``(E,)`` for each condition; of NaN after a failure."""
    names = agent.conditions(config)
    columns = np.asarray(values, np.float64).reshape(len(values), -1)
    return {name: columns[:, min(place, columns.shape[1] - 1)] for place, name in enumerate(names)}


def trace(agent: Agent, task: str | Task, *, dynamics: Dynamics | None = None, seed: int = 0) -> dict[str, list[float]]:
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

    played = find_task(task)
    rollout(act, played, dynamics_of(played, dynamics), blocks(seed, 0, 1)[0])
    if not values:
        raise AgentError(f"{agent.name} decides nothing but actions, so there is nothing to draw")
    return values


def evaluate(
    agent: Agent,
    task: str | Task,
    *,
    dynamics: Dynamics | None = None,
    episodes: int = 100,
    seed: int = 0,
    video: str | Path | None = None,
    video_episodes: int = 1,
) -> Evaluation:
    """Score an agent in this process.

    Args:
        agent: Whom to score.
        task: A task or its name, see :func:`offline_rl.envs.find_task`.
        dynamics: ``"d4rl"`` or ``"plain"``; by default those that the task's data was recorded with.
        episodes: How many episodes to play.
        seed: Decides the initial states.
        video: MP4 or GIF file for a film of the first episodes, those that are scored, under the first condition.
        video_episodes: How many to film.

    Raises:
        TaskError: The task is unknown or cannot be scored.
        AgentError: There is no episode, or the agent's actions are not finite.
        VideoError: The film cannot be made; most reasons are found before anything is played.
    """
    if episodes < 1:
        raise AgentError(f"episodes is {episodes}; it must be at least 1")
    found_task = find_task(task)
    chosen = dynamics_of(found_task, dynamics)
    film = None
    if video is not None:
        from offline_rl.envs.film import Film

        about = {"task": found_task.name, "dynamics": chosen, "seed": seed}
        film = Film(video, min(episodes, video_episodes), about=about)
    played = []
    for number, block in enumerate(blocks(seed, 0, episodes)):
        # In the block of the score, because another size of the batch can change a policy's last bits.
        watcher = film.watcher(range(number * BLOCK, number * BLOCK + len(block))) if film else None
        played.append(play(agent, found_task, chosen, block, watcher))
    if film:
        film.write()
    returns, lengths = (
        by_condition(type(agent), agent.config, [value for part in played for value in part[which]]) for which in (0, 1)
    )
    found = {
        name: Evaluation(own, lengths[name].astype(np.int64), np.asarray(normalized_score(found_task, own)))
        for name, own in returns.items()
    }
    first = next(iter(found.values()))
    return replace(first, by_condition=found) if len(found) > 1 else first
