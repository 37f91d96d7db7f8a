"""What a file may say of how an environment is made: the arguments that are taken from it, and their bounds.

A dataset or an agent is opened without running code from it, but its environment is made of what it says. So it may
name only arguments that change rewards, ends and observations, by numbers and truth values; never a path, which would
be opened, and nothing whose size is time or memory.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from offline_rl.errors import TaskError

LONGEST_EPISODE = 100_000
"""Steps that a described episode may have at most; D4RL's and Minari's have at most 1,000."""
LARGEST_MAZE = 30
"""Rows, and columns, of a described maze; those of D4RL and Minari have at most 12."""
WITHOUT = "train without evaluation by --eval_every 0 --final_episodes 0"


class _Kind(Protocol):
    """What an argument may be."""

    def takes(self, value: Any) -> bool:
        """Say whether a value is one."""

    def __str__(self) -> str:
        """Say what it must be."""


@dataclass(frozen=True)
class _Number:
    """A finite number within bounds."""

    low: float
    high: float

    def takes(self, value: Any) -> bool:
        """Say whether a value is one; NaN is none."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        """Say what it must be."""
        return f"a number from {self.low:g} to {self.high:g}"


class _Whole(_Number):
    """A whole number within bounds."""

    def takes(self, value: Any) -> bool:
        """Say whether a value is one."""
        return isinstance(value, int) and super().takes(value)

    def __str__(self) -> str:
        """Say what it must be."""
        return f"a whole number from {self.low:,} to {self.high:,}"


class _Flag:
    """A truth value."""

    def takes(self, value: Any) -> bool:
        """Say whether a value is one."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        """Say what it must be."""
        return "true or false"


class _Range:
    """Two numbers, the smaller one first; each may be infinite."""

    def takes(self, value: Any) -> bool:
        """Say whether a value is one."""
        if not (isinstance(value, list | tuple) and len(value) == 2):
            return False
        number = _Number(-math.inf, math.inf)
        return all(number.takes(end) and (abs(end) <= 1e6 or math.isinf(end)) for end in value) and value[0] < value[1]

    def __str__(self) -> str:
        """Say what it must be."""
        return "two numbers, the smaller one first"


@dataclass(frozen=True)
class _Choice:
    """One of some words."""

    words: tuple[str, ...]

    def takes(self, value: Any) -> bool:
        """Say whether a value is one."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        """Say what it must be."""
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class _Choices(_Choice):
    """Some of some words, each once, at least one."""

    def takes(self, value: Any) -> bool:
        """Say whether a value is a list of them."""
        if not (isinstance(value, list | tuple) and 0 < len(value) <= len(self.words)):
            return False
        return all(super(_Choices, self).takes(word) for word in value) and len(set(value)) == len(value)

    def __str__(self) -> str:
        """Say what it must be."""
        return f"a list of different ones of {', '.join(self.words)}"


class _Maze:
    """Rows of cells: 1 is a wall, 0 is free; r, g and c are where episodes may begin, end, and both."""

    def takes(self, value: Any) -> bool:
        """Say whether a value is one that walls surround, with room to begin and to end elsewhere."""
        if not (isinstance(value, list | tuple) and 3 <= len(value) <= LARGEST_MAZE):
            return False
        if not all(isinstance(row, list | tuple) and 3 <= len(row) <= LARGEST_MAZE for row in value):
            return False
        cells = [cell for row in value for cell in row]
        if len({len(row) for row in value}) > 1 or not all(type(cell) in (int, str) for cell in cells):
            return False
        return all(cell in (0, 1, "r", "g", "c") for cell in cells) and _has_room(value)

    def __str__(self) -> str:
        """Say what it must be."""
        return (
            f"3 to {LARGEST_MAZE} rows of as many cells, each 0, 1, r, g or c, with walls (1) around, and for each goal"
            " another cell where episodes can begin"
        )


def _has_room(maze: Any) -> bool:
    """Say whether walls surround a maze, and each goal has another place to begin, or a reset would never end."""
    border = [*maze[0], *maze[-1], *(row[0] for row in maze), *(row[-1] for row in maze)]
    if any(cell != 1 for cell in border):
        return False
    places: dict[Any, list[tuple[int, int]]] = {}
    for row, cells in enumerate(maze):
        for column, cell in enumerate(cells):
            places.setdefault(cell, []).append((row, column))
    free, both = places.get(0, []), places.get("c", [])
    begin, end = places.get("r", []) + both, places.get("g", []) + both
    begin, end = begin or free, end or free
    return bool(end) and all(any(start != goal for start in begin) for goal in end)


_WEIGHT, _NOISE, _FLAG, _RANGE = _Number(-1e6, 1e6), _Number(0, 10), _Flag(), _Range()
_STEPS = _Whole(1, LONGEST_EPISODE)
_MOVES: dict[str, _Kind] = {
    "forward_reward_weight": _WEIGHT,
    "ctrl_cost_weight": _WEIGHT,
    "reset_noise_scale": _NOISE,
    "exclude_current_positions_from_observation": _FLAG,
    "frame_skip": _Whole(1, 100),
}
_STANDS: dict[str, _Kind] = {
    **_MOVES,
    "healthy_reward": _WEIGHT,
    "terminate_when_unhealthy": _FLAG,
    "healthy_z_range": _RANGE,
}
_BODY: dict[str, _Kind] = {
    f"include_{name}_in_observation": _FLAG for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
}
_REACHES: dict[str, _Kind] = {
    "reward_dist_weight": _WEIGHT,
    "reward_control_weight": _WEIGHT,
    "frame_skip": _MOVES["frame_skip"],
}
_LANDS: dict[str, _Kind] = {
    "continuous": _FLAG,
    "gravity": _Number(-11.9, -0.1),
    "enable_wind": _FLAG,
    "wind_power": _Number(0, 20),
    "turbulence_power": _Number(0, 2),
}
_MAZES: dict[str, _Kind] = {
    "maze_map": _Maze(),
    "reward_type": _Choice(("sparse", "dense")),
    "continuing_task": _FLAG,
    "reset_target": _FLAG,
}
_KITCHENS: dict[str, _Kind] = {
    "tasks_to_complete": _Choices(
        ("bottom burner", "top burner", "light switch", "slide cabinet", "hinge cabinet", "microwave", "kettle")
    ),
    "terminate_on_tasks_completed": _FLAG,
    "remove_task_when_completed": _FLAG,
    "object_noise_ratio": _NOISE,
}
_ROBOTICS: dict[str, Mapping[str, _Kind]] = {
    **{
        f"{robot}Maze_{size}{places}{reward}": _MAZES
        for robot in ("Ant", "Point")
        for size in ("UMaze", "Medium", "Large", "Open")
        for places in ("", "_Diverse_G", "_Diverse_GR")
        if size != "UMaze" or not places
        for reward in ("", "Dense")
    },
    **{
        f"AdroitHand{task}{suffix}": {"reward_type": _MAZES["reward_type"]}
        for task in ("Door", "Hammer", "Pen", "Relocate")
        for suffix in ("", "Sparse")
    },
    "FrankaKitchen": _KITCHENS,
}
ARGUMENTS: Mapping[str, Mapping[str, _Kind]] = {
    **_ROBOTICS,
    "Ant": {
        **_STANDS,
        "contact_cost_weight": _WEIGHT,
        "contact_force_range": _RANGE,
        "use_contact_forces": _FLAG,
        "include_cfrc_ext_in_observation": _FLAG,
    },
    "HalfCheetah": _MOVES,
    "Hopper": {**_STANDS, "healthy_state_range": _RANGE, "healthy_angle_range": _RANGE},
    "Walker2d": {**_STANDS, "healthy_angle_range": _RANGE},
    "Humanoid": {**_STANDS, **_BODY, "contact_cost_weight": _WEIGHT, "contact_cost_range": _RANGE},
    "HumanoidStandup": {
        **{name: kind for name, kind in _MOVES.items() if name != "forward_reward_weight"},
        **_BODY,
        "uph_cost_weight": _WEIGHT,
        "impact_cost_weight": _WEIGHT,
        "impact_cost_range": _RANGE,
    },
    "Swimmer": _MOVES,
    "Reacher": _REACHES,
    "Pusher": {**_REACHES, "reward_near_weight": _WEIGHT},
    "InvertedPendulum": {"reset_noise_scale": _NOISE, "frame_skip": _MOVES["frame_skip"]},
    "InvertedDoublePendulum": {
        "healthy_reward": _WEIGHT,
        "reset_noise_scale": _NOISE,
        "frame_skip": _MOVES["frame_skip"],
    },
    "Pendulum": {"g": _Number(-100, 100)},
    "MountainCarContinuous": {"goal_velocity": _Number(0, 0.07)},
    "LunarLander": _LANDS,
    "LunarLanderContinuous": _LANDS,
    "BipedalWalker": {"hardcore": _FLAG},
}
"""What environments of Gymnasium and Gymnasium-Robotics, by their names without version, may be made with; any other
with nothing."""


def check_described(env_id: str, kwargs: Any, max_episode_steps: Any) -> None:
    """Refuse to make an environment as a file describes it, unless all that it says is harmless.

    Args:
        env_id: Gymnasium's id.
        kwargs: Arguments of its constructor.
        max_episode_steps: Where its episodes are cut.

    Raises:
        TaskError: An argument is not on the list of the environment, or out of its bounds; the message names it.
    """
    said = f"the file's own description of {reprlib.repr(env_id)}"
    if ":" in env_id:
        raise TaskError(f"{said} names a module to import, which is never done; {WITHOUT}")
    if not _STEPS.takes(max_episode_steps):
        shown = reprlib.repr(max_episode_steps)
        raise TaskError(f"{said} has max_episode_steps {shown}; it must be {_STEPS}, or {WITHOUT}")
    if not isinstance(kwargs, Mapping):
        raise TaskError(f"{said} has no names for its arguments; {WITHOUT}")
    name, _, _ = env_id.rpartition("-v")
    known = ARGUMENTS.get(name, {})
    for argument, value in kwargs.items():
        if argument not in known:
            taken = f"only {', '.join(known)} are" if known else "none is"
            raise TaskError(
                f"{said} has the argument {reprlib.repr(argument)}, which is not taken from a file ({taken}); {WITHOUT}"
            )
        if not known[argument].takes(value):
            shown = reprlib.repr(value)
            raise TaskError(f"{said} has {argument} {shown}; it must be {known[argument]}, or {WITHOUT}")
