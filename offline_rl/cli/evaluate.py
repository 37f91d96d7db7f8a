"""``offline-rl evaluate``."""

import sys
import typing
from pathlib import Path
from typing import Any

from offline_rl.arguments import CommandLine, UsageError
from offline_rl.cli.common import Dynamics, print_json, spread


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
    from offline_rl.envs.tasks import D4RL, SCORE_NAMES
    from offline_rl.training.evaluation import evaluate

    found: list[str | Path] = list(agent_folders(path).values()) or [path]
    if figure:
        _draw_episode(found[0], task, dynamics, seed, Path(figure))
    results: list[dict[str, Any]] = []
    configs = []
    for folder in found:
        agent = load_agent(folder)
        configs.append(agent.config)
        filming: dict[str, Any] = {"video": video, "video_episodes": video_episodes} if folder == found[0] else {}
        result = evaluate(agent, task, dynamics=dynamics, episodes=episodes, seed=seed, **filming)
        played = {"task": result.task, "dynamics": result.dynamics, "episodes": episodes}
        results.append({"agent": str(folder), **played, **_means(result)})
        if result.score_name != SCORE_NAMES[D4RL]:
            results[-1]["score_is"] = result.score_name
        if result.by_target_return:
            results[-1]["asked_for"] = {asked: _means(played) for asked, played in result.by_target_return.items()}
        if not json:
            _print_evaluation(results[-1])
    if json:
        print_json(results)
    elif len(results) > 1 and all(config == configs[0] for config in configs):
        _print_means_over_seeds(results)
    if video:
        print(f"video written to {video}", file=sys.stderr)


def _means(played: Any) -> dict[str, float]:
    return {
        "return": float(played.returns.mean()),
        "return_std": float(played.returns.std()),
        **({"score": float(played.scores.mean())} if played.scores is not None else {}),
        "length": float(played.lengths.mean()),
    }


def _print_evaluation(result: dict[str, Any]) -> None:
    asked_for = result.get("asked_for", {"": result})
    for asked, means in asked_for.items():
        who = f"{result['agent']}, asked for {asked}" if asked else result["agent"]
        score = result.get("score_is", "score") + (f" {means['score']:.1f}" if "score" in means else "")
        dynamics = f", {result['dynamics']} dynamics" if result["dynamics"] else ""
        plus_minus, episodes = spread({**means, "episodes": result["episodes"]}), result["episodes"]
        about = "; ± is their standard deviation" if episodes > 1 else ""
        played = f"{episodes} episode{'s' * (episodes > 1)} of {means['length']:.0f} steps on {result['task']}"
        print(f"{who}: return {means['return']:.1f} ± {plus_minus}, {score}  ({played}{dynamics}{about})")


def _print_means_over_seeds(results: list[dict[str, Any]]) -> None:
    """Print how far the mean of the agents of a run, which differ in their seeds alone, can be trusted."""
    from offline_rl.analysis.statistics import Estimate

    for asked in results[0].get("asked_for", {"": {}}):
        means = [result.get("asked_for", {"": result})[asked] for result in results]
        who = f"mean of {len(means)} seeds" + (f", asked for {asked}" if asked else "")
        score = f", score {Estimate.of([own['score'] for own in means])}" if "score" in means[0] else ""
        returns = Estimate.of([own["return"] for own in means])
        print(f"{who}: return {returns}{score}  (95 % Student-t interval over the seeds)")


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
