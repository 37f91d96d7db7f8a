"""Episodes in any Gymnasium environment with boxes: it is no task here, so returns are raw, and there is no score."""

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.envs.layout import Layout
from offline_rl.envs.vector import Outcome, vector_of
from offline_rl.errors import TaskError

if TYPE_CHECKING:
    import gymnasium

LONGEST = 1_000_000
"""Steps after which an episode counts as one that never ends."""

Bounds = tuple[NDArray[np.float32], NDArray[np.float32]]


def registered(name: str) -> "gymnasium.Env[Any, Any] | None":
    """Make the environment that Gymnasium knows by this id; None if it knows none.

    An id that names a module to import beside is not one that it knows.

    Raises:
        TaskError: The environment cannot be made.
    """
    try:
        import gymnasium
    except ImportError:
        return None
    if name not in gymnasium.registry:
        return None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*is out of date")  # it is the version that was asked for
            return gymnasium.make(name)
    except Exception as error:  # what a class raises where something is not installed is its own choice
        reason = " ".join(str(error).split())[:200]
        raise TaskError(f"environment {name} cannot be made ({reason}); install what it needs") from None


def checked_environment(environment: Any, observation_size: int, action_bounds: Bounds) -> str:
    """Return what to call an environment in which an agent can play.

    Args:
        environment: Gymnasium's environment.
        observation_size: O of the agent.
        action_bounds: The agent's lowest and highest actions, ``(A,)`` each.

    Raises:
        TaskError: It is no environment of Gymnasium's, or its observations or actions are no boxes of these sizes.
    """
    try:
        import gymnasium
    except ImportError:
        raise TaskError("environments need gymnasium, not installed here; run: pip install gymnasium") from None
    if not isinstance(environment, gymnasium.Env):
        raise TaskError(
            f"task is {type(environment).__name__!r}; give a task's name such as 'hopper', the id of a Gymnasium "
            "environment, or such an environment itself"
        )
    name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
    actions: Any = environment.action_space
    _check_size(name, "observations", environment.observation_space, observation_size)
    if not isinstance(actions, gymnasium.spaces.Box):
        form = " ".join(str(actions).split())[:100]
        raise TaskError(f"{name} has actions of the form {form}; agents here play with boxes of numbers (Box) only")
    _check_size(name, "actions", actions, len(action_bounds[0]))
    if not np.issubdtype(actions.dtype, np.floating):
        raise TaskError(f"{name} has whole numbers ({actions.dtype}) for actions; agents here give any numbers")
    low, high = actions.low.reshape(-1), actions.high.reshape(-1)
    if (action_bounds[0] < low - 1e-4).any() or (action_bounds[1] > high + 1e-4).any():
        warnings.warn(f"the agent's actions go beyond those of {name}; they are cut to its range", stacklevel=3)
    return str(name)


def _check_size(name: str, what: str, space: Any, size: int) -> None:
    """Refuse a space that holds something else than so many numbers."""
    if type(space).__name__ == "Box":
        if math.prod(space.shape) != size:
            raise TaskError(f"{name} has {what} of shape {space.shape}; this agent has {size} numbers there")
        return
    try:
        layout = Layout.of_space(space)
    except ValueError as error:
        raise TaskError(f"{name} has {what} with {error}; agents here play with boxes of numbers (Box) only") from None
    if layout is not None and layout.size != size:
        raise TaskError(f"{name} has {what} of {layout.size} numbers; this agent has {size} there")


def play_episode(
    environment: "gymnasium.Env[Any, Any]",
    act: Callable[[NDArray[np.float32], NDArray[np.float64]], NDArray[np.float32]],
    seed: int,
) -> tuple[float, int, Outcome]:
    """Play from reset to the end that the environment itself sets.

    Args:
        environment: As :func:`checked_environment` takes it.
        act: Maps observations ``(1, O)`` and what the last action earned ``(1,)`` to actions ``(1, A)``.
        seed: Of the reset.

    Returns:
        The undiscounted return, the number of steps, and what the environment said of goals.

    Raises:
        TaskError: A reward is not finite, or the episode does not end.
    """
    space: Any = environment.action_space
    seen: Any = environment.observation_space
    layout = None if type(seen).__name__ == "Box" else Layout.of_space(seen)
    observation, _ = environment.reset(seed=seed)
    total, earned, outcome = 0.0, 0.0, Outcome()
    for length in range(1, LONGEST + 1):
        vector = vector_of(layout, observation, "the environment")
        action = act(vector.astype(np.float32).reshape(1, -1), np.array([earned]))
        action = action.reshape(space.shape).clip(space.low, space.high).astype(space.dtype)
        observation, reward, terminated, truncated, info = environment.step(action)
        outcome.see(observation, info)
        earned = float(reward)
        if not math.isfinite(earned):
            raise TaskError(f"the environment gave {earned} as reward in step {length}; mend its reward")
        total += earned
        if terminated or truncated:
            return total, length, outcome
    raise TaskError(
        f"an episode has not ended after {LONGEST:,} steps; put gymnasium.wrappers.TimeLimit around the environment"
    )
