"""D4RL's AntMaze: an ant with weak motors that walks to a goal in a maze.

Built of Gymnasium's ``ant.xml`` by the numbers of ``d4rl/locomotion`` in github.com/Farama-Foundation/D4RL: time step
0.02 s, 5 of them for each action, motors of 30 Nm, softer contacts, walls of 4 x 4 x 2 m, and the origin where episodes
begin. In Gymnasium-Robotics' AntMaze the ant is five times as strong and acts twice as often, and the maze is mirrored
and moved, so agents of D4RL's data do not walk there.

An episode ends at the goal (reward 1, else 0), whose place within its cell is drawn at each reset, as in D4RL's v2. The
goal lies in the simulator's ``userdata``, so that MuJoCo's state has all of an episode.

Not verified: no recorded transition of D4RL's AntMaze was at hand to compare with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray

CELL = 4.0
"""Edge of a cell of the maze, in m; walls are half as high."""
REACH = 0.5
"""Distance from the goal at which it is reached, in m."""
TIME_STEP, FRAMES = 0.02, 5
TORQUE = "30"
"""Of the motors at action 1, in Nm."""
CONTACT = {"solref": ".02 1", "solimp": ".8 .8 .01"}
START, GOAL, WALL = "RG1"
NOISE = 0.1
"""Size of the noise on the first positions (uniform) and velocities (normal)."""


class D4RLAntMaze(MujocoEnv):
    """Observes 15 positions and 14 velocities ``(29,)``, and not the goal; acts with 8 torques in [-1, 1].

    Args:
        maze: Rows of cells: :data:`WALL`, :data:`START`, :data:`GOAL`, or free.
        render_mode: As :func:`offline_rl.envs.make_env` takes it.
        rewrite: What makes D4RL's model of an XML, see :func:`offline_rl.envs.dynamics.d4rl_model_xml`; None for none.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's name and form)
        "render_modes": ["human", "rgb_array", "depth_array"],
        "render_fps": round(1 / TIME_STEP / FRAMES),
    }

    def __init__(self, maze: Sequence[str], render_mode: str | None = None, rewrite: Any = None) -> None:
        self._maze, self._rewrite = tuple(maze), rewrite
        space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)
        super().__init__("ant.xml", FRAMES, space, render_mode=render_mode)

    def _initialize_simulation(self) -> tuple[Any, Any]:
        """Compile the model; overrides ``MujocoEnv``."""
        xml = maze_xml(Path(self.fullpath).read_text(encoding="utf-8"), self._maze)
        model = mujoco.MjModel.from_xml_string(self._rewrite(xml) if self._rewrite else xml)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    @property
    def goal(self) -> NDArray[np.float64]:
        """Where the goal is, ``(2,)``."""
        goal: NDArray[np.float64] = self.data.userdata[:2]
        return goal

    def reset_model(self) -> NDArray[np.float64]:
        """Put the ant at the origin, and the goal into its cell; overrides ``MujocoEnv``."""
        draw = self.np_random
        corner = np.array(centre(self._maze, GOAL))
        goal = corner + draw.uniform(0, 0.25 * CELL, 2) + draw.uniform(0, 0.5, 2) * 0.25 * CELL
        positions = self.init_qpos + draw.uniform(-NOISE, NOISE, self.model.nq)
        velocities = self.init_qvel + NOISE * draw.standard_normal(self.model.nv)
        self.set_state(positions, velocities)  # type: ignore[no-untyped-call]
        self.data.userdata[:2] = np.maximum(goal, 0)
        return self._observation()

    def step(  # type: ignore[override]
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Act for a tenth of a second."""
        self.do_simulation(np.clip(action, -1, 1), self.frame_skip)
        distance = float(np.linalg.norm(self.data.qpos[:2] - self.goal))
        reached = distance <= REACH
        return self._observation(), float(reached), reached, False, {"success": reached, "goal_distance": distance}

    def _observation(self) -> NDArray[np.float64]:
        return np.concatenate([self.data.qpos, self.data.qvel])


def centre(maze: Sequence[str], what: str) -> tuple[float, float]:
    """Return the x and y of the middle of the one cell of a kind; the start is the origin, rows go up.

    Args:
        maze: Its rows.
        what: :data:`START` or :data:`GOAL`.
    """
    places = {cell: (row, column) for row, cells in enumerate(maze) for column, cell in enumerate(cells)}
    (row, column), (start_row, start_column) = places[what], places[START]
    return (column - start_column) * CELL, (row - start_row) * CELL


def maze_xml(xml: str, maze: Sequence[str]) -> str:
    """Return Gymnasium's model of the ant as D4RL's ant in a maze."""
    root = ElementTree.fromstring(xml)
    world, option, geoms = root.find("worldbody"), root.find("option"), root.find("default/geom")
    assert world is not None and option is not None and geoms is not None
    option.set("timestep", str(TIME_STEP))
    for name, value in CONTACT.items():
        geoms.set(name, value)
    for motor in root.iter("motor"):
        motor.set("gear", TORQUE)
    ElementTree.SubElement(root, "size", nuserdata="2")
    start_row, start_column = next((r, row.index(START)) for r, row in enumerate(maze) if START in row)
    for row, cells in enumerate(maze):
        for column, cell in enumerate(cells):
            if cell == WALL:
                x, y = (column - start_column) * CELL, (row - start_row) * CELL
                ElementTree.SubElement(
                    world,
                    "geom",
                    name=f"wall_{row}_{column}",
                    type="box",
                    pos=f"{x} {y} {CELL / 4}",
                    size=f"{CELL / 2} {CELL / 2} {CELL / 4}",
                    contype="1",
                    conaffinity="1",
                    rgba="0.7 0.5 0.3 1",
                )
    return ElementTree.tostring(root, encoding="unicode")
