"""Gymnasium-Robotics, imported only if one of its environments is asked for.

Its version 1.4.2 takes MuJoCo's joint types for numbers, with which MuJoCo 4 no longer compares them when they stand on
the left, so FrankaKitchen cannot be made. Here its module is given them as numbers.
"""

import importlib
import io
import logging
from contextlib import redirect_stderr
from types import SimpleNamespace
from typing import Any

from offline_rl.errors import TaskError

logger = logging.getLogger(__name__)

ROBOTICS = ("AntMaze_", "PointMaze_", "FrankaKitchen-", "AdroitHand", "Fetch", "HandReach", "HandManipulate")
"""How the ids of Gymnasium-Robotics begin; nothing else is imported because a name asks for it."""
JOINTS = ("mjJNT_FREE", "mjJNT_BALL", "mjJNT_SLIDE", "mjJNT_HINGE")


def with_robotics(env_id: str) -> None:
    """Have Gymnasium-Robotics register its environments, if an id is one of them.

    Raises:
        TaskError: It is, and the package is not installed.
    """
    if not env_id.startswith(ROBOTICS):
        return
    import gymnasium

    if env_id in gymnasium.registry:
        return
    said = io.StringIO()  # it prints notices, also of environments that nobody has asked for
    try:
        with redirect_stderr(said):
            importlib.import_module("gymnasium_robotics")
            tools = importlib.import_module("gymnasium_robotics.utils.mujoco_utils")
    except ImportError:
        raise TaskError(
            f"environment {env_id} needs gymnasium-robotics, not installed here; run: pip install"
            " 'offline-rl-suite[robotics]', or train without evaluation by --eval_every 0 --final_episodes 0"
        ) from None
    logger.debug("gymnasium_robotics: %s", said.getvalue().strip())
    tools.mujoco = _WithNumbers(tools.mujoco)  # type: ignore[attr-defined]


class _WithNumbers:
    """A module of MuJoCo whose joint types are numbers.

    Args:
        mujoco: The module.
    """

    def __init__(self, mujoco: Any) -> None:
        self._mujoco = mujoco
        self.mjtJoint = SimpleNamespace(**{name: int(getattr(mujoco.mjtJoint, name)) for name in JOINTS})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mujoco, name)
