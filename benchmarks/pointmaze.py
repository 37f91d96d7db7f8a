"""Collects data of PointMaze by a waypoint controller with noise, as a dataset of Minari's.

    python -m benchmarks.pointmaze --steps 200000
    offline-rl benchmark benchmarks/minari.yaml

In each episode the ball begins and the goal lies in a random cell of the U-shaped maze. The controller goes from cell
to cell on the shortest way and pushes towards the next middle like a spring with friction. Each push has noise. In
three of four episodes the controller goes to another random cell instead of the goal, and comes by the goal at most by
chance. So the data knows all ways, but does not always take the one to the goal.

An episode ends at the goal, with reward 1, or is cut after 300 steps; all other rewards are 0.
"""

import argparse
import sys
import warnings
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.data.minari import library
from offline_rl.draws import Stream, derived_seed
from offline_rl.envs.robotics import with_robotics
from offline_rl.errors import OfflineRLError

DATASET = "offline-rl/pointmaze/umaze-v0"
ENVIRONMENT = "PointMaze_UMaze-v3"
SETTINGS = {"continuing_task": False, "reward_type": "sparse"}
STIFFNESS, FRICTION = 10.0, 1.0
"""Of the controller: force for each m from the waypoint, and for each m/s."""
NEAR = 0.2
"""Distance from the middle of a cell, in m, at which the controller turns to the next one."""

Cell = tuple[int, int]


def way(walls: NDArray[np.bool_], start: Cell, end: Cell) -> list[Cell]:
    """Return the cells of a shortest way, without the first; empty if start and end are the same.

    Args:
        walls: ``(rows, columns)``, True for a wall; the way exists.
        start: Row and column of the first cell.
        end: Of the last one.
    """
    before: dict[Cell, Cell] = {start: start}
    waiting = deque([start])
    while end not in before:
        row, column = waiting.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if not walls[cell] and cell not in before:
                before[cell] = row, column
                waiting.append(cell)
    found = [end]
    while found[-1] != start:
        found.append(before[found[-1]])
    return found[-2::-1]


class Controller:
    """Pushes the ball along the shortest way to a place.

    Args:
        maze: Gymnasium-Robotics' maze.
        target: Where to go, ``(2,)``.
    """

    def __init__(self, maze: Any, target: NDArray[np.float64]) -> None:
        self._maze, self._target = maze, target
        self._walls = np.array([[cell == 1 for cell in row] for row in maze.maze_map])
        self._way: list[Cell] | None = None

    def push(self, position: NDArray[np.float64], velocity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the force ``(2,)`` for the ball where it is."""
        if self._way is None:
            start, end = (tuple(self._maze.cell_xy_to_rowcol(place)) for place in (position, self._target))
            self._way = way(self._walls, start, end)
        while len(self._way) > 1 and np.linalg.norm(self._middle() - position) < NEAR:
            self._way.pop(0)
        waypoint = self._middle() if len(self._way) > 1 else self._target
        return STIFFNESS * (waypoint - position) - FRICTION * velocity

    def _middle(self) -> NDArray[np.float64]:
        assert self._way
        return np.asarray(self._maze.cell_rowcol_to_xy(np.array(self._way[0])))


def play(env: Any, seed: int, episode: int, noise: float, astray: float) -> dict[str, Any]:
    """Play one episode, a function of its number and the seed; return what Minari's EpisodeBuffer takes."""
    observation, _ = env.reset(seed=derived_seed(seed, "pointmaze", episode))
    draw = Stream(seed, "pointmaze controller").at(episode)
    maze = env.unwrapped.maze
    free = [(r, c) for r, row in enumerate(maze.maze_map) for c, cell in enumerate(row) if cell != 1]
    elsewhere = np.asarray(maze.cell_rowcol_to_xy(np.array(free[draw.integers(len(free))])))
    controller = Controller(maze, elsewhere if draw.random() < astray else observation["desired_goal"])
    seen, actions, rewards, ends = [observation], [], [], []
    while not (ends and any(ends[-1])):
        state = observation["observation"]
        push = controller.push(state[:2], state[2:]) + noise * draw.standard_normal(2)
        actions.append(push.clip(-1, 1).astype(np.float32))
        observation, reward, *flags, _ = env.step(actions[-1])
        seen, rewards, ends = [*seen, observation], [*rewards, float(reward)], [*ends, flags]
    flags = np.array(ends, bool)
    return {
        "observations": {key: np.array([each[key] for each in seen]) for key in observation},
        "actions": np.array(actions),
        "rewards": rewards,
        "terminations": flags[:, 0],
        "truncations": flags[:, 1],
        "infos": {},
    }


def collect(dataset_id: str, steps: int, *, seed: int = 0, noise: float = 0.5, astray: float = 0.75) -> None:
    """Collect episodes until they have so many steps, and write them as a dataset of Minari's.

    Args:
        dataset_id: What to call it.
        steps: Steps, at least; the last episode is played to its end.
        seed: Decides everything.
        noise: Standard deviation of the noise on each push.
        astray: Share of the episodes in which the controller goes elsewhere.

    Raises:
        OfflineRLError: Minari or Gymnasium-Robotics is not installed.
    """
    minari = library(dataset_id)
    with_robotics(ENVIRONMENT)
    import gymnasium
    from minari.data_collector.episode_buffer import EpisodeBuffer

    env = gymnasium.make(gymnasium.spec(ENVIRONMENT), disable_env_checker=True, **SETTINGS)
    buffers: list[Any] = []
    count = 0
    while count < steps:
        buffers.append(EpisodeBuffer(**play(env, seed, len(buffers), noise, astray)))
        count += len(buffers[-1].rewards)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of authors and links that are not given
        minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=env,
            algorithm_name=f"waypoint controller, noise {noise:g}, {astray:.0%} astray, seed {seed}",
            description="PointMaze by python -m benchmarks.pointmaze of offline-rl-suite",
        )
    env.close()
    reached = np.mean([max(buffer.rewards) > 0 for buffer in buffers])
    print(f"{dataset_id}: {count:,} steps, {len(buffers):,} episodes, {reached:.1%} reach the goal")


def main() -> int:
    """Collect; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default=DATASET)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--astray", type=float, default=0.75)
    options = parser.parse_args()
    try:
        collect(options.dataset, options.steps, seed=options.seed, noise=options.noise, astray=options.astray)
    except (OfflineRLError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
