"""The registry of tasks: for each robot, how it is made, scored and rewarded, and what data D4RL has of it.

One more task costs one more entry.

Sources: ids, files, time limits and reference returns are those of ``infos.py`` and of the ``register`` calls in
github.com/Farama-Foundation/D4RL. Not verified: the files of Adroit v1, of which only the ``expert`` ones were seen
named elsewhere; the others follow their pattern.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

QUALITIES = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
"""The kinds of data D4RL has for every robot of locomotion (`full-replay` from v1 on)."""

# What the returns are that score 0 and 100.
D4RL = "D4RL's reference returns"
UNCOMPARED = "the reference returns of D4RL, in an environment that was not compared with D4RL's"
STATED = "the reference returns that the dataset states"
MEASURED = "what random actions earn, and the mean return of the data"
SUCCESS = "no episode, and each episode, that reaches the goal"
RAW = "none, the score is the return itself"
SCORE_NAMES = {
    D4RL: "normalised score",
    UNCOMPARED: "score (unverified)",
    STATED: "score (set's own)",
    MEASURED: "score (data=100)",
    SUCCESS: "success rate (%)",
    RAW: "score (= return)",
}
"""What a score is called in a heading, by its references."""

LOCOMOTION, REGISTERED, ANTMAZE, NOWHERE = "locomotion", "registered", "antmaze", "nowhere"
"""Makers of environments: Gymnasium's v4 classes, with D4RL's dynamics or without; what is registered under the id;
D4RL's AntMaze, see `antmaze`; nothing today."""
DENSE, SPARSE = "dense", "sparse"
"""Rewards; a sparse one is 1 in each step at the goal, and else 0."""


@dataclass(frozen=True)
class Robot:
    """What is played: one of D4RL's robots, or another environment of Gymnasium's.

    Attributes:
        name: D4RL's name, with which its ids begin; Gymnasium's id for an environment that is not D4RL's.
        env_id: Gymnasium's id of the environment; its rewards, terminations and resets are those of the data.
        observation_size: O, entries of an observation.
        action_size: A, entries of an action.
        reference_min: return that scores 0 (a random policy's), undiscounted, one episode.
        reference_max: return that scores 100 (an expert's).
        max_episode_steps: the episode is cut after so many steps.
        scored: whether a return in today's environment can be compared with the reference returns.
        reference: what the two reference returns are, in words.
        d4rl: whether D4RL has data of it.
        env_kwargs: what Gymnasium makes the environment with, as JSON.
        maker: who makes the environment, see `LOCOMOTION` and the others.
        reward: `DENSE` or `SPARSE`.
        unscored: why it is not scored, as a clause; empty if it is.
    """

    name: str
    env_id: str
    observation_size: int
    action_size: int
    reference_min: float
    reference_max: float
    max_episode_steps: int = 1000
    scored: bool = True
    reference: str = D4RL
    d4rl: bool = True
    env_kwargs: str = "{}"
    maker: str = REGISTERED
    reward: str = DENSE
    unscored: str = ""

    @property
    def score_name(self) -> str:
        """What to call a score in a heading."""
        return SCORE_NAMES[self.reference]

    @property
    def family(self) -> str:
        """The first word of the ids of its data, such as "antmaze", for which settings are published."""
        if self.d4rl:
            return self.name.partition("-")[0]
        return "antmaze" if self.env_id.startswith("AntMaze_") else self.name


@dataclass(frozen=True)
class Entry:
    """A robot, and by which names it is known.

    Attributes:
        robot: The robot.
        files: D4RL's ids of its data, each with the path of the file below D4RL's address.
        names: Further names that lead to the robot.
    """

    robot: Robot
    files: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def _locomotion(name: str, env_id: str, *numbers: float, unscored: str = "") -> Entry:
    """Return the entry of a robot of Gymnasium's that walks; numbers are the two sizes and the two references."""
    observations, actions, low, high = numbers
    robot = Robot(
        *(name, env_id, int(observations), int(actions), low, high),
        maker=LOCOMOTION,
        scored=not unscored,
        unscored=unscored,
    )
    names = [name, f"{name}-demo", *(f"{env_id.partition('-')[0]}-v{version}" for version in (2, 3, 4))]
    for quality in QUALITIES:
        first = 1 if quality == "full-replay" else 0
        names += [f"{name}-{quality}", *(f"{name}-{quality}-v{version}" for version in range(first, 3))]
    return Entry(robot, dict(_locomotion_files(name)), tuple(names))


def _locomotion_files(name: str) -> Iterator[tuple[str, str]]:
    for version in (2, 1):
        for quality in QUALITIES:
            file = f"{name}_{quality.replace('-', '_')}-v{version}.hdf5"
            yield f"{name}-{quality}-v{version}", f"gym_mujoco_v{version}/{file}"
    for quality in ("random", "medium", "expert", "medium-expert"):
        yield f"{name}-{quality}-v0", f"gym_mujoco/{name}_{quality.replace('-', '_')}.hdf5"
    yield f"{name}-medium-replay-v0", f"gym_mujoco/{'walker' if name == 'walker2d' else name}_mixed.hdf5"
    if name == "ant":
        yield "ant-random-expert-v0", "gym_mujoco/ant_random_expert.hdf5"


# D4RL's mazes, in its own orientation: rows go up. R is where episodes begin, G the goal.
_MAZES = {
    "umaze": ("11111", "1R001", "11101", "1G001", "11111"),
    "medium": ("11111111", "1R011001", "10010001", "11000111", "10010001", "10100101", "100010G1", "11111111"),
    "large": (
        *("111111111111", "1R0001000001", "101101010101", "100000010001", "101111011101"),
        *("100101000001", "110101010111", "100100010G01", "111111111111"),
    ),
}
_MAZE_FILES = {"umaze": ("u-maze", "umaze"), "medium": ("big-maze", "medium"), "large": ("hardest-maze", "large")}


def _antmaze(size: str, kinds: tuple[str, ...], limit: int) -> Entry:
    """Return the entry of one of D4RL's ant mazes."""
    name = f"antmaze-{size}"
    robot = Robot(
        *(name, "Ant-v4", 29, 8, 0.0, 1.0),
        max_episode_steps=limit,
        reference=UNCOMPARED,
        env_kwargs=json.dumps({"maze": _MAZES[size]}),
        maker=ANTMAZE,
        reward=SPARSE,
    )
    old, new = _MAZE_FILES[size]
    folders = {2: ("ant_maze_v2", old, "_fixed"), 1: ("ant_maze_v1", new, ""), 0: ("ant_maze_new", old, "")}
    files = {}
    for version, (folder, maze, end) in folders.items():
        for kind in kinds:
            many = f"multistart_{kind != ''}_multigoal_{kind == '-diverse'}"
            files[f"{name}{kind}-v{version}"] = f"{folder}/Ant_maze_{maze}_noisy_{many}_sparse{end}.hdf5"
    return Entry(robot, files, (name,))


def _adroit(name: str, sizes: tuple[int, int], low: float, high: float, limit: int = 200) -> Entry:
    """Return the entry of a task of the Adroit hand."""
    robot = Robot(
        *(name, f"AdroitHand{name.capitalize()}-v1", *sizes, low, high),
        max_episode_steps=limit,
        reference=UNCOMPARED,
    )
    files = {f"{name}-{kind}-v1": f"hand_dapg_v1/{name}-{kind}-v1.hdf5" for kind in ("human", "cloned", "expert")}
    files[f"{name}-human-v0"] = f"hand_dapg/{name}-v0_demos_clipped.hdf5"
    files[f"{name}-cloned-v0"] = f"hand_dapg/{name}-demos-v0-bc-combined.hdf5"
    files[f"{name}-expert-v0"] = f"hand_dapg/{name}-v0_expert_clipped.hdf5"
    return Entry(robot, files, (name,))


_KITCHEN = Robot(
    *("kitchen", "FrankaKitchen-v1", 60, 9, 0.0, 4.0),
    max_episode_steps=280,
    maker=NOWHERE,
    scored=False,
    unscored="D4RL's kitchen observes 60 numbers, goals among them, and today's FrankaKitchen-v1 others, so no agent of"
    " D4RL's data can play there; Minari's D4RL/kitchen sets are of today's",
)

ENTRIES: tuple[Entry, ...] = (
    _locomotion("hopper", "Hopper-v4", 11, 3, -20.272305, 3234.3),
    _locomotion("halfcheetah", "HalfCheetah-v4", 17, 6, -280.178953, 12135.0),
    _locomotion("walker2d", "Walker2d-v4", 17, 6, 1.629008, 4592.3),
    _locomotion(
        *("ant", "Ant-v4", 111, 8, -325.6, 3879.7),
        unscored="D4RL's ant observations hold contact forces recorded by an old simulator that today's Ant-v4 does not"
        " reproduce, so a score would not be comparable",
    ),
    _antmaze("umaze", ("", "-diverse"), 700),
    _antmaze("medium", ("-play", "-diverse"), 1000),
    _antmaze("large", ("-play", "-diverse"), 1000),
    _adroit("pen", (45, 24), 96.262799, 3076.8331017826877, limit=100),
    _adroit("hammer", (46, 26), -274.856578, 12794.134825156867),
    _adroit("door", (39, 28), -56.512833, 2880.5693087298737),
    _adroit("relocate", (39, 30), -6.425911, 4233.877797728884),
    Entry(
        _KITCHEN,
        {
            "kitchen-complete-v0": "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
            "kitchen-partial-v0": "kitchen/kitchen_microwave_kettle_light_slider-v0.hdf5",
            "kitchen-mixed-v0": "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
        },
        ("kitchen",),
    ),
)
"""All entries."""

ROBOTS: dict[str, Robot] = {entry.robot.name: entry.robot for entry in ENTRIES}
"""The robots by name."""
WALKERS = tuple(name for name, robot in ROBOTS.items() if robot.maker == LOCOMOTION)
"""Names of the robots of D4RL's gym-mujoco data."""
FILES: dict[str, str] = {dataset: file for entry in ENTRIES for dataset, file in entry.files.items()}
"""The files of D4RL's datasets below its address, by their ids."""
