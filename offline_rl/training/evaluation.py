"""What an agent is worth: episodes in the simulator, as a pure function of (weights, seed, step)."""

import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from offline_rl.agent import Agent, AgentConfig, SequenceAgent, load_agent, target_labels
from offline_rl.draws import Stream, derived_seed
from offline_rl.envs.dynamics import Dynamics, dynamics_of
from offline_rl.envs.foreign import checked_environment, play_episode, registered
from offline_rl.envs.registry import D4RL, SCORE_NAMES
from offline_rl.envs.tasks import Task, find_task, normalized_score
from offline_rl.errors import AgentError, TaskError

if TYPE_CHECKING:
    import gymnasium

    from offline_rl.envs.vector import RewardedPolicy, StepCallback

BLOCK = 10
"""Episodes that are stepped together. Fixed, because a policy's last bits can depend on the size of its batch."""

RAW_RETURNS = "raw returns, no score"
"""What to call the scores of an environment that is no task: there are none."""


@dataclass(frozen=True)
class Evaluation:
    """Some episodes of one agent.

    Attributes:
        returns: ``(E,)``.
        lengths: ``(E,)``, in steps.
        scores: ``(E,)``, the normalised returns; None where nothing says which returns score 0 and 100.
        by_target_return: The same for each of the agent's target returns, of which the first is this one; empty for an
            agent that has one or none.
        task: What was played: a task, or a Gymnasium environment.
        dynamics: A task's; None for a Gymnasium environment that is no task.
        score_name: What the scores are, in words, or that there are none.
        outcomes: ``success`` ``(E,)``, 1 if the episode reached its goal, else 0, and ``goal_distance`` ``(E,)`` at its
            end; only where the environment tells them.
    """

    returns: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray | None
    by_target_return: Mapping[str, "Evaluation"] = field(default_factory=dict)
    task: str = ""
    dynamics: Dynamics | None = None
    score_name: str = SCORE_NAMES[D4RL]
    outcomes: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def success_rate(self) -> float | None:
        """Share of episodes that reached their goal; None where the environment does not tell."""
        return float(self.outcomes["success"].mean()) if "success" in self.outcomes else None

    @property
    def by_condition(self) -> Mapping[str, "Evaluation"]:
        """The earlier name of ``by_target_return``."""
        warnings.warn("Evaluation.by_condition is now by_target_return", DeprecationWarning, stacklevel=2)
        return self.by_target_return


def blocks(seed: int, step: int, episodes: int) -> list[list[int]]:
    """Return the reset seeds of the episodes of (seed, step), in blocks that may be played anywhere in any order."""
    seeds = [derived_seed(seed, f"evaluation/{episode}", step) for episode in range(episodes)]
    return [seeds[start : start + BLOCK] for start in range(0, episodes, BLOCK)]


def play(
    agent: Agent, task: Task, dynamics: Dynamics, seeds: Sequence[int], on_step: "StepCallback | None" = None
) -> tuple[list[list[float]], list[list[int]], dict[str, list[list[float]]]]:
    """Play one block of episodes for each of the agent's target returns, all together, those of the first one first.

    Returns:
        For each episode, its returns, one for each target return; its lengths likewise; and so what the environment
        says of goals, by its name.
    """
    from offline_rl.envs.vector import rollout

    count = len(target_labels(type(agent), agent.config))
    _reset(agent, np.arange(count).repeat(len(seeds)))
    every = [*seeds] * count
    result = rollout(_acting(agent, every), task, dynamics, every, tell_rewards=True, on_step=on_step)
    shape = count, len(seeds)
    outcomes = {name: values.reshape(shape).T.tolist() for name, values in result.outcomes.items()}
    return result.returns.reshape(shape).T.tolist(), result.lengths.reshape(shape).T.tolist(), outcomes


def _acting(agent: Agent, seeds: Sequence[int]) -> "RewardedPolicy":
    """Return how an agent plays the episodes of these seeds; a random policy's noise is a function of seed and step."""
    if not agent.stochastic:
        return agent.act
    streams, steps = [Stream(seed, "acting") for seed in seeds], itertools.count()

    def act(observation: np.ndarray, reward: np.ndarray) -> np.ndarray:
        step = next(steps)
        noise = [stream.at(step).standard_normal(agent.action_size, np.float32) for stream in streams]
        return agent.act_with_noise(observation, np.stack(noise))

    return act


def _reset(agent: Agent, target: np.ndarray) -> None:
    """Begin new episodes, which ask for the target returns of these indices if the agent has any."""
    if isinstance(agent, SequenceAgent):
        agent.reset(target=target)
    else:
        agent.reset()


def by_target_return(agent: type[Agent], config: AgentConfig, values: Sequence[object]) -> dict[str, np.ndarray]:
    """Return what :func:`play` gave for E episodes as an array ``(E,)`` for each target return; NaN after a failure."""
    names = target_labels(agent, config)
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


def task_of(agent: Agent, task: str | Task | None = None) -> Task:
    """Return the task that is named, by default the one that an agent was trained for.

    Raises:
        TaskError: The task is unknown.
        AgentError: None is named, and the agent was trained without one.
    """
    trained_for, recovered = (agent.provenance.get(key) for key in ("task", "recovered_task"))
    if task is None and trained_for is None:
        raise AgentError(f"{agent!r} was trained without a task; give one, for instance --task hopper or task='hopper'")
    if recovered is not None and task in (None, trained_for):
        return Task.from_json(recovered)
    return find_task(str(trained_for) if task is None else task)


def evaluate(
    agent: Agent | str | os.PathLike[str],
    task: "str | Task | gymnasium.Env[Any, Any] | None" = None,
    *,
    dynamics: Dynamics | None = None,
    episodes: int = 100,
    seed: int = 0,
    video: str | Path | None = None,
    video_episodes: int = 1,
) -> Evaluation:
    """Score an agent in this process.

    Args:
        agent: Whom to score: an agent, or what :func:`offline_rl.load_agent` takes.
        task: A task or its name, see :func:`offline_rl.envs.find_task`; by default the one the agent was trained for.
            Or any Gymnasium environment with boxes, also nested ones, or its id: then there are returns, but no scores.
        dynamics: ``"d4rl"`` or ``"plain"``; by default, where the task is left out, those of the agent's training,
            else those that the task's data was recorded with.
        episodes: How many episodes to play.
        seed: Decides the initial states.
        video: MP4 or GIF file for a video of the first episodes, those that are scored, for the first target return.
        video_episodes: How many of them it shows.

    Raises:
        TaskError: The task is unknown or cannot be scored, or an environment is not one for such agents.
        AgentError: There is no episode, no task, or no such agent; or the agent's actions are not finite.
        VideoError: The video cannot be made; most reasons are found before anything is played.
    """
    agent = agent if isinstance(agent, Agent) else load_agent(agent)
    if episodes < 1:
        raise AgentError(f"episodes is {episodes}; it must be at least 1")
    found = _task_or_environment(agent, task)
    if not isinstance(found, Task):
        if dynamics is not None or video is not None:
            name = "dynamics" if dynamics is not None else "video"
            raise TaskError(f"{name} is for tasks, not for a Gymnasium environment of one's own; leave it out")
        try:
            return _raw_returns(agent, found, episodes, seed)
        finally:
            if found is not task:
                found.close()
    trained_with = agent.provenance.get("dynamics")
    if task is None and dynamics is None and trained_with in get_args(Dynamics):
        dynamics = trained_with
    return _scores(agent, found, dynamics_of(found, dynamics), episodes, seed, video, video_episodes)


def _task_or_environment(agent: Agent, task: Any) -> "Task | gymnasium.Env[Any, Any]":
    """Return the task, or else the environment, that is meant."""
    if task is not None and not isinstance(task, (str, Task)):
        return task  # type: ignore[no-any-return]
    try:
        return task_of(agent, task)
    except TaskError:
        environment = registered(task) if isinstance(task, str) else None
        if environment is None:
            raise
    return environment


def _raw_returns(agent: Agent, environment: "gymnasium.Env[Any, Any]", episodes: int, seed: int) -> Evaluation:
    """Play one episode after the other, for each target return the same ones."""
    from offline_rl.envs.vector import collected

    bounds = agent.preprocessing.action_low, agent.preprocessing.action_high
    name = checked_environment(environment, agent.observation_size, bounds)
    seeds = [reset for block in blocks(seed, 0, episodes) for reset in block]
    found: dict[str, Evaluation] = {}
    for index, label in enumerate(target_labels(type(agent), agent.config)):
        played = []
        for reset in seeds:
            _reset(agent, np.array([index]))
            played.append(play_episode(environment, _acting(agent, [reset]), reset))
        returns, lengths, outcomes = zip(*played, strict=True)
        found[label] = Evaluation(
            *(np.array(returns), np.array(lengths), None),
            task=name,
            score_name=RAW_RETURNS,
            outcomes=collected(outcomes),
        )
    return _with_target_returns(found)


def _with_target_returns(found: Mapping[str, Evaluation]) -> Evaluation:
    first = next(iter(found.values()))
    return replace(first, by_target_return=found) if len(found) > 1 else first


def _scores(  # noqa: PLR0917 (as evaluate)
    agent: Agent,
    task: Task,
    dynamics: Dynamics,
    episodes: int,
    seed: int,
    video: str | Path | None,
    video_episodes: int,
) -> Evaluation:
    """Play a task in blocks of episodes."""
    normalized_score(task, 0.0)  # refuses, before anything is played, what cannot be scored
    recorder = None
    if video is not None:
        from offline_rl.envs.video import VideoRecorder

        about = {"task": task.name, "dynamics": dynamics, "seed": seed}
        recorder = VideoRecorder(video, min(episodes, video_episodes), about=about)
    played = []
    for number, block in enumerate(blocks(seed, 0, episodes)):
        # In the block of the score, because another size of the batch can change a policy's last bits.
        on_step = recorder.on_step(range(number * BLOCK, number * BLOCK + len(block))) if recorder else None
        played.append(play(agent, task, dynamics, block, on_step))
    if recorder:
        recorder.write()
    returns, lengths = (
        by_target_return(type(agent), agent.config, [value for part in played for value in part[which]])
        for which in (0, 1)
    )
    outcomes = {
        kind: by_target_return(type(agent), agent.config, [value for part in played for value in part[2][kind]])
        for kind in played[0][2]
    }
    return _with_target_returns(
        {
            name: Evaluation(
                own,
                lengths[name].astype(np.int64),
                np.asarray(normalized_score(task, own)),
                task=task.name,
                dynamics=dynamics,
                score_name=task.robot.score_name,
                outcomes={kind: values[name] for kind, values in outcomes.items()},
            )
            for name, own in returns.items()
        }
    )
