"""Environments with the dynamics that D4RL was recorded with, on whatever MuJoCo is installed.

D4RL's locomotion data comes from MuJoCo 2.0. Gymnasium's v4 classes still have its rewards, terminations and resets,
but a newer MuJoCo compiles the same model file to another robot. Two rules changed, and both are put back here by
rewriting the model before it is compiled:

1. **Capsules weighed as much as a longer cylinder.** Up to MuJoCo 2.1.0 a capsule of radius r and half length L had
   the mass and inertia of a solid cylinder of the same axis and radius with length 2L + r; since then they are the
   capsule's exact ones (MuJoCo's changelog, version 2.1.1). The hopper became 3.6 % heavier. Every capsule is made
   massless and given an invisible cylinder that touches nothing.
2. **The contact margin of two geoms was the larger of theirs.** From MuJoCo 3.5.0 on the contacts behave as if it were
   their sum (measured; the changelog has no entry). Every margin is halved there. Only the hopper has any, and all its
   geoms have the same, so the two readings agree.

What was verified, on recorded D4RL v2 transitions of hopper and walker2d (medium-expert and medium-replay): one step
from a recorded state gives the recorded next state to float32 rounding (median error 2e-7 and 4e-7, 99 % below 3e-4),
identically with MuJoCo 2.3.3, 3.3.0 and 4.0.0, whereas the plain v4 classes are off by 1e-2 and 1e-1 (median). For
halfcheetah there is only indirect evidence: a public agent scores here what it scored in its own log, and not in the
plain class.

Overwriting masses and inertias in the compiled model is not a substitute: the compiler derives further constants from
them, and with MuJoCo 3.3.0 that changed the halfcheetah's contacts.
"""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args
from xml.etree import ElementTree

import numpy as np

from offline_rl.envs.registry import ANTMAZE, LOCOMOTION, NOWHERE, REGISTERED, Robot
from offline_rl.envs.robotics import with_robotics
from offline_rl.envs.tasks import Task, find_task
from offline_rl.errors import TaskError

if TYPE_CHECKING:
    import gymnasium

Dynamics = Literal["d4rl", "plain"]
"""`d4rl`: as D4RL's data was recorded. `plain`: what Gymnasium's class does with the installed MuJoCo."""

_FIRST_VERSION_ADDING_MARGINS = (3, 5)
_PLACEMENT = ("pos", "quat", "axisangle", "euler")


def dynamics_of(task: Task, dynamics: Dynamics | None = None) -> Dynamics:
    """Return the dynamics that were asked for, by default those that the task's data was recorded with."""
    return dynamics or ("d4rl" if task.robot.maker in (LOCOMOTION, ANTMAZE) else "plain")


def make_env(
    task: str | Task, dynamics: Dynamics | None = None, render_mode: str | None = None, **kwargs: Any
) -> "gymnasium.Env[Any, Any]":
    """Make the environment of a task, with its time limit.

    Args:
        task: a task, or any name that `find_task` knows.
        dynamics: `d4rl` for those D4RL's data was recorded with, `plain` for Gymnasium's own class; by default those
            the task's data was recorded with.
        render_mode: `human`, `rgb_array`, `depth_array` or None.
        **kwargs: handed to Gymnasium's class, for instance `width`, `height` or `reset_noise_scale`.

    Returns:
        A Gymnasium environment: observations float64 (O,), or nested as `offline_rl.envs.layout` says; actions float32
        (A,); `truncated` at the time limit, after 1000 steps on D4RL's robots that walk.

    Raises:
        TaskError: the task or the dynamics are unknown, the task's D4RL dynamics are not (ant), there is no environment
            of the task today, or what makes it is not installed.
    """
    robot = find_task(task).robot
    dynamics = dynamics_of(find_task(task), dynamics)
    _check_dynamics(robot, dynamics)
    _check_installed()
    if robot.maker == NOWHERE:
        raise TaskError(f"{robot.name} cannot be played: {robot.unscored}")
    if robot.maker == REGISTERED:
        return _registered(robot, render_mode, kwargs)
    if robot.maker == ANTMAZE:
        return _antmaze(robot, dynamics, render_mode)
    import gymnasium

    specification = _d4rl_specification(robot) if dynamics == "d4rl" else gymnasium.spec(robot.env_id)
    if robot.name == "ant":
        kwargs = {"use_contact_forces": True} | kwargs
    # For the plain class; D4RL's silences the notice itself, so also where Gymnasium makes or copies it without us.
    with _without_total_mass_notice():
        # Given a specification instead of an id, Gymnasium does not warn that v4 is not its latest version.
        return gymnasium.make(specification, disable_env_checker=True, render_mode=render_mode, **kwargs)


def _check_dynamics(robot: Robot, dynamics: str) -> None:
    if dynamics not in get_args(Dynamics):
        raise TaskError(f"unknown dynamics '{dynamics}'; there are 'd4rl' and 'plain'")
    if dynamics == "d4rl" and robot.maker not in (LOCOMOTION, ANTMAZE):
        why = "has no D4RL dynamics here" if robot.d4rl else "is not D4RL's and has no D4RL dynamics"
        raise TaskError(f"{robot.name} {why}; leave dynamics out, or use 'plain'")
    if dynamics == "d4rl" and robot.name == "ant":
        raise TaskError("D4RL's dynamics of ant have not been verified; use dynamics 'plain' for Gymnasium's Ant-v4")


def _registered(robot: Robot, render_mode: str | None, kwargs: dict[str, Any]) -> "gymnasium.Env[Any, Any]":
    """Make an environment by its id.

    Its class is what Gymnasium has registered under the id. A module that an id, or a dataset's own description of
    its environment, names beside is never imported.
    """
    import gymnasium

    if ":" in robot.env_id:
        raise TaskError(f"environment id '{robot.env_id}' names a module to import; use one that Gymnasium knows")
    with_robotics(robot.env_id)
    try:
        kwargs = json.loads(robot.env_kwargs) | kwargs
        with _without_total_mass_notice():
            return gymnasium.make(
                gymnasium.spec(robot.env_id),
                max_episode_steps=robot.max_episode_steps,
                disable_env_checker=True,
                render_mode=render_mode,
                **kwargs,
            )
    except Exception as error:  # what a class raises at arguments it does not know is its own choice
        raise TaskError(
            f"environment {robot.env_id} cannot be made ({' '.join(str(error).split())}); install what registers it, "
            "or train without evaluation by --eval_every 0 --final_episodes 0"
        ) from None


def _antmaze(robot: Robot, dynamics: Dynamics, render_mode: str | None) -> "gymnasium.Env[Any, Any]":
    """Make one of D4RL's ant mazes."""
    from gymnasium.wrappers import TimeLimit

    from offline_rl.envs.antmaze import D4RLAntMaze

    rewrite = _as_in_d4rl if dynamics == "d4rl" else None
    environment = D4RLAntMaze(json.loads(robot.env_kwargs)["maze"], render_mode, rewrite)
    return TimeLimit(environment, robot.max_episode_steps)


def _check_installed() -> None:
    missing = [module for module in ("gymnasium", "mujoco") if importlib.util.find_spec(module) is None]
    if missing:
        raise TaskError(
            f"environments need {' and '.join(missing)}, not installed here; run: pip install 'gymnasium[mujoco]'"
        )


@cache
def _d4rl_specification(robot: Robot) -> "gymnasium.envs.registration.EnvSpec":
    """Return how Gymnasium makes the robot's environment; nothing is added to its registry."""
    from gymnasium.envs.registration import EnvSpec

    return EnvSpec(
        id=f"D4RL/{robot.env_id.replace('-v4', '-v2')}",
        entry_point=cast(Any, _d4rl_class(robot)),
        max_episode_steps=robot.max_episode_steps,
    )


def _d4rl_class(robot: Robot) -> "type[gymnasium.Env[Any, Any]]":
    """Return Gymnasium's v4 class of the robot, with D4RL's model instead of its own."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    entry_point = cast(str, gymnasium.spec(robot.env_id).entry_point)
    plain_class = cast("type[gymnasium.Env[Any, Any]]", load_env_creator(entry_point))
    return type(f"D4RL{plain_class.__name__}", (_D4RLModel, plain_class), {"__doc__": _D4RLModel.__doc__})


class _D4RLModel:
    """Goes before a MuJoCo environment class of Gymnasium and has it simulate, and draw, D4RL's model."""

    fullpath: str
    width: int
    height: int

    def _initialize_simulation(self) -> tuple[Any, Any]:
        """Compiles the model; overrides `MujocoEnv`, which calls it before anything uses the model."""
        import mujoco

        xml = _as_in_d4rl(Path(self.fullpath).read_text(encoding="utf-8"))
        with _without_total_mass_notice():
            model = mujoco.MjModel.from_xml_string(xml)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)


def _as_in_d4rl(xml: str) -> str:
    """Rewrite a model for the MuJoCo that is installed."""
    import mujoco

    version = tuple(int(part) for part in mujoco.__version__.split(".")[:2])
    return d4rl_model_xml(xml, margins_are_added=version >= _FIRST_VERSION_ADDING_MARGINS)


def d4rl_model_xml(xml: str, *, margins_are_added: bool) -> str:
    """Rewrites a MuJoCo model so that today's compiler makes of it what MuJoCo 2.0 made of the original.

    Args:
        xml: a model whose capsules have no mass or density of their own, as Gymnasium's locomotion models.
        margins_are_added: whether the MuJoCo that will simulate it adds the margins of two geoms (from 3.5.0 on).

    Returns:
        The new model.
    """
    root = ElementTree.fromstring(xml)
    if margins_are_added:
        _halve_margins(root)
    for body in root.iter("body"):
        for capsule in [geom for geom in body.findall("geom") if geom.get("type") == "capsule"]:
            body.append(_cylinder_of_equal_weight(capsule))
            capsule.set("mass", "0")
    return ElementTree.tostring(root, encoding="unicode")


def _halve_margins(root: ElementTree.Element) -> None:
    for geom in root.iter("geom"):
        margin = geom.get("margin")
        if margin is not None:
            geom.set("margin", repr(float(margin) / 2))


def _cylinder_of_equal_weight(capsule: ElementTree.Element) -> ElementTree.Element:
    """Return the invisible, untouchable cylinder as which MuJoCo 2.0 weighed a capsule: length 2L + r for 2L."""
    cylinder = ElementTree.Element("geom", type="cylinder", contype="0", conaffinity="0", rgba="0 0 0 0")
    size = [float(number) for number in capsule.get("size", "").split()]
    ends = capsule.get("fromto")
    if ends is not None:
        radius = size[0]
        cylinder.set("fromto", _longer_segment(ends, by=radius))
        cylinder.set("size", repr(radius))
        return cylinder
    radius, half_length = size
    cylinder.set("size", f"{radius!r} {half_length + radius / 2!r}")
    for attribute in _PLACEMENT:
        if attribute in capsule.attrib:
            cylinder.set(attribute, capsule.attrib[attribute])
    return cylinder


def _longer_segment(ends: str, by: float) -> str:
    """Lengthens a segment, six numbers in text, about its middle."""
    start, end = np.array(ends.split(), dtype=np.float64).reshape(2, 3)
    half_addition = by / 2 * (end - start) / np.linalg.norm(end - start)
    return " ".join(repr(float(number)) for number in (*(start - half_addition), *(end + half_addition)))


@contextmanager
def _without_total_mass_notice() -> Iterator[None]:
    """Keep MuJoCo 4's notice about Gymnasium's halfcheetah model from the screen and from a log file beside it.

    The notice (the model's `settotalmass` is deprecated) is of no use to a user: the model is Gymnasium's, and the mass
    is set all the same. MuJoCo's other warnings are passed on as Python's.
    """
    import warnings

    import mujoco

    messages: list[str] = []
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)
    for message in messages:
        if "settotalmass" not in message:
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=4)
