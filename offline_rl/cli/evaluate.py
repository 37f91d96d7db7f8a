"""``offline-rl evaluate``."""

import sys
import typing
from pathlib import Path
from typing import Any

from offline_rl.arguments import CommandLine, UsageError
from offline_rl.cli.common import DEVIATION, INTERVAL, Dynamics, goal_lines, print_json, score_line


def evaluate_command(arguments: list[str]) -> None:
    """Score saved agents."""

    def command(
        *,
        path: str,
        episodes: int = 100,
        task: str | None = None,
        dynamics: Dynamics | None = None,
        seed: int = 0,
        figure: str | None = None,
        video: str | None = None,
        video_episodes: int = 1,
        json: bool = False,
    ) -> dict[str, Any]:
        """Score a saved agent, or all agents of a run.

        Args:
            path: An agent folder, a run folder, or hf://user/name for an agent on the Hugging Face Hub.
            episodes: Episodes to play with each agent.
            task: Task to play; by default the one the agent was trained for; or a Gymnasium id, for returns alone.
            dynamics: Physics: D4RL's own, or Gymnasium's stock environments; by default as the agent was trained.
            seed: Decides the initial states.
            figure: PNG file for a picture of what the first agent decides in one episode, such as FamO2O's balance.
            video: MP4 or GIF file for a video of the first agent, of episodes that are scored.
            video_episodes: Episodes that the video shows.
            json: Print JSON.
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("path",))
    _evaluate(**line.parse(command, "offline-rl evaluate"))


def _evaluate(
    *,
    path: str,
    episodes: int,
    task: str | None,
    dynamics: Dynamics | None,
    seed: int,
    figure: str | None,
    video: str | None,
    video_episodes: int,
    json: bool,
) -> None:
    from offline_rl.agent import load_agent
    from offline_rl.agent.folder import agent_folders
    from offline_rl.envs.registry import D4RL, SCORE_NAMES
    from offline_rl.training.evaluation import evaluate

    seeds = agent_folders(path)
    agents: dict[str, str | Path] = {f"seed {number}": folder for number, folder in seeds.items()} or {"agent": path}
    first = next(iter(agents.values()))
    if figure:
        _draw_episode(first, task, dynamics, seed, Path(figure))
    results: list[dict[str, Any]] = []
    configs = []
    for name, folder in agents.items():
        agent = load_agent(folder)
        configs.append(agent.config)
        filming: dict[str, Any] = {"video": video, "video_episodes": video_episodes} if folder == first else {}
        result = evaluate(agent, task, dynamics=dynamics, episodes=episodes, seed=seed, **filming)
        played = {"task": result.task, "dynamics": result.dynamics, "episodes": episodes}
        results.append({"agent": str(folder), **played, **_means(result)})
        if result.score_name != SCORE_NAMES[D4RL]:
            results[-1]["score_is"] = result.score_name
        if result.by_target_return:
            results[-1]["asked_for"] = {asked: _means(played) for asked, played in result.by_target_return.items()}
        if not json:
            if folder == first:
                _print_head(path, result, len(agents))
            _print_agent(name, result)
    if json:
        print_json(results)
    else:
        mean = len(results) > 1 and all(config == configs[0] for config in configs)
        _print_end(results if mean else [], episodes)
    if video:
        print(f"video written to {video}", file=sys.stderr)


def _means(played: Any) -> dict[str, float]:
    return {
        "return": float(played.returns.mean()),
        "return_std": float(played.returns.std()),
        **({"score": float(played.scores.mean())} if played.scores is not None else {}),
        "length": float(played.lengths.mean()),
        **{name: float(values.mean()) for name, values in played.outcomes.items()},
    }


def _print_head(path: str, result: Any, agents: int) -> None:
    """Print what is played, and the columns' names."""
    episodes = len(result.returns)
    dynamics = f", {result.dynamics} dynamics" if result.dynamics else ""
    each = " for each agent" if agents > 1 else ""
    name, unscored = (result.score_name, "") if result.scores is not None else ("", f": {result.score_name}")
    print(f"{path} on {result.task}{dynamics}, {episodes} episode{'s' * (episodes > 1)}{each}{unscored}")
    print(score_line("", "return", name, "steps"))


def _print_agent(name: str, result: Any) -> None:
    """Print an agent's line, or one for each return that it is asked for."""
    parts = {f"{name}, asked for {asked}": played for asked, played in result.by_target_return.items()}
    for what, played in (parts or {name: result}).items():
        scores = _mean_and_deviation(played.scores) if played.scores is not None else ""
        print(score_line(what, _mean_and_deviation(played.returns), scores, f"{played.lengths.mean():.0f}"))
        for line in goal_lines({name: float(values.mean()) for name, values in played.outcomes.items()}):
            print(line)


def _mean_and_deviation(values: Any) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def _print_end(results: list[dict[str, Any]], episodes: int) -> None:
    """Print how far the mean of agents that differ in their seeds alone can be trusted, and what ± means."""
    from offline_rl.analysis.statistics import Estimate

    for asked in results[0].get("asked_for", {"": {}}) if results else ():
        means = [result.get("asked_for", {"": result})[asked] for result in results]
        what = f"mean, asked for {asked}" if asked else f"mean of {len(means)} seeds"
        scores = str(Estimate.of([own["score"] for own in means])) if "score" in means[0] else ""
        print(score_line(what, str(Estimate.of([own["return"] for own in means])), scores))
    if episodes > 1:
        print(f"  {DEVIATION}")
    if results:
        print(f"  {INTERVAL}")


def _draw_episode(folder: str | Path, task: str | None, dynamics: Dynamics | None, seed: int, figure: Path) -> None:
    from offline_rl.agent import load_agent
    from offline_rl.analysis.curves import draw_signals
    from offline_rl.training.evaluation import task_of, trace

    agent = load_agent(folder)
    name = task_of(agent, task)
    signals = trace(agent, name, dynamics=dynamics, seed=seed)
    try:
        draw_signals(signals, f"{agent.name}, {folder}, one episode of {name}", figure)
    except (OSError, ValueError) as error:
        raise UsageError(f"{figure} cannot be written ({error}); choose another --figure") from None
    print(f"drawn to {figure}", file=sys.stderr)
