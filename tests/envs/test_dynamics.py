"""The simulator against recorded data, and the environments as Gymnasium's."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple, get_args
from xml.etree import ElementTree

import gymnasium
import h5py
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers.needs import RECORDINGS, needs_recordings
from numpy.typing import NDArray

from offline_rl.envs import ROBOTS, make_env
from offline_rl.envs.dynamics import Dynamics, _without_total_mass_notice, d4rl_model_xml
from offline_rl.errors import TaskError

LOCOMOTION = ("hopper", "halfcheetah", "walker2d")
CLIPPED_VELOCITY = 10.0


class Transitions(NamedTuple):
    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    next_observation: NDArray[np.float32]
    reward: NDArray[np.float32]
    terminal: NDArray[np.bool_]


def recorded(file_name: str, robot: str, count: int, suffix: str = "") -> Transitions:
    """Reads randomly chosen transitions whose states are fully known: those with no velocity clipped."""
    names = ("observations", "actions", "next_observations", "rewards" + suffix, "terminals" + suffix)
    with h5py.File(Path(RECORDINGS) / file_name) as file:
        everything = Transitions(*(file[name][:] for name in names))
    known = np.ones(len(everything.reward), bool)
    if robot != "halfcheetah":
        for observation in (everything.observation, everything.next_observation):
            velocity = observation[:, position_count(robot) - 1 :]
            known &= (np.abs(velocity) != CLIPPED_VELOCITY).all(axis=1)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(known))[:count]
    assert len(rows) == count
    return Transitions(*(column[rows] for column in everything))


def position_count(robot: str) -> int:
    """Number of joint positions, one more than an observation shows: the place along the track is left out."""
    return (ROBOTS[robot].observation_size + 1) // 2


def stepped_again(robot: str, dynamics: Dynamics, data: Transitions) -> Transitions:
    """Steps from the recorded states; the place along the track changes nothing and is set to 0."""
    simulator: Any = make_env(robot, dynamics).unwrapped
    positions = position_count(robot)
    results = []
    for observation, action in zip(data.observation.astype(np.float64), data.action, strict=True):
        simulator.set_state(np.array([0.0, *observation[: positions - 1]]), observation[positions - 1 :])
        results.append(simulator.step(action)[:3])
    next_observation, reward, terminal = (np.array(column) for column in zip(*results, strict=True))
    return Transitions(data.observation, data.action, next_observation, reward, terminal)


def observation_errors(robot: str, dynamics: Dynamics) -> NDArray[np.float64]:
    data = recorded(f"real/{robot}-medium-expert-v2_segments.hdf5", robot, 8000, "_recomputed")
    errors: NDArray[np.float64] = np.abs(
        stepped_again(robot, dynamics, data).next_observation - data.next_observation
    ).max(axis=1)
    return errors


@needs_recordings
@pytest.mark.parametrize("robot", ["hopper", "walker2d"])
def test_d4rl_dynamics_reproduce_recorded_d4rl_data(robot: str) -> None:
    errors = observation_errors(robot, "d4rl")
    assert np.median(errors) < 1e-6
    assert np.quantile(errors, 0.99) < 1e-3


@needs_recordings
@pytest.mark.parametrize("robot", ["hopper", "walker2d"])
def test_plain_dynamics_do_not(robot: str) -> None:
    assert np.median(observation_errors(robot, "plain")) > 1e-3


@needs_recordings
@pytest.mark.parametrize("kind", ["random", "medium", "medium_replay", "expert"])
@pytest.mark.parametrize("robot", LOCOMOTION)
def test_rewards_and_terminals_of_the_stand_in_data(robot: str, kind: str) -> None:
    data = recorded(f"{robot}_{kind}.hdf5", robot, 300)
    again = stepped_again(robot, "d4rl", data)
    assert np.quantile(np.abs(again.reward - data.reward), 0.99) < 1e-5
    np.testing.assert_array_equal(again.terminal, data.terminal)


def weighed_as_cylinders(robot: str) -> NDArray[np.float64]:
    """Each body's mass at density 1000 if a capsule weighs as a cylinder of length 2L + r, from Gymnasium's file."""
    simulator: Any = make_env(robot, "plain").unwrapped
    model = simulator.model
    masses = np.zeros(model.nbody)
    for body, kind, (radius, half_length, _) in zip(model.geom_bodyid, model.geom_type, model.geom_size, strict=True):
        if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
            masses[body] += 1000 * np.pi * radius**2 * (2 * half_length + radius)
    return masses


@pytest.mark.parametrize("robot", LOCOMOTION)
def test_capsules_weigh_as_in_mujoco_2(robot: str) -> None:
    simulator: Any = make_env(robot).unwrapped
    expected = weighed_as_cylinders(robot)
    if robot == "halfcheetah":
        expected *= 14 / expected.sum()
    np.testing.assert_allclose(simulator.model.body_mass, expected, rtol=1e-12)


def test_margins_are_halved_only_where_they_are_added() -> None:
    xml = '<mujoco><default><geom margin="0.001"/></default><worldbody/></mujoco>'
    for added, expected in ((True, "0.0005"), (False, "0.001")):
        geom = ElementTree.fromstring(d4rl_model_xml(xml, margins_are_added=added)).find("default/geom")
        assert geom is not None
        assert geom.get("margin") == expected


@pytest.mark.filterwarnings("ignore:.*A Box observation space m")
@pytest.mark.parametrize("dynamics", get_args(Dynamics))
@pytest.mark.parametrize("robot", LOCOMOTION)
def test_it_is_a_gymnasium_environment(
    robot: str, dynamics: Dynamics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the check makes the plain environment by itself, for which MuJoCo writes a log file
    environment = make_env(robot, dynamics)
    assert isinstance(environment, gymnasium.Env)
    check_env(environment.unwrapped, skip_render_check=True)


@pytest.mark.parametrize(("robot", "dynamics"), [*((robot, "d4rl") for robot in LOCOMOTION), ("ant", "plain")])
def test_spaces_are_those_of_the_table(robot: str, dynamics: Dynamics) -> None:
    environment = make_env(robot, dynamics)
    assert environment.observation_space.shape == (ROBOTS[robot].observation_size,)
    assert environment.action_space == gymnasium.spaces.Box(-1.0, 1.0, (ROBOTS[robot].action_size,), np.float32)
    observation, _ = environment.reset(seed=0)
    assert environment.observation_space.contains(observation)


def test_an_episode_is_cut_after_1000_steps() -> None:
    environment = make_env("halfcheetah-random-v2")
    environment.reset(seed=0)
    flags = [environment.step(np.zeros(6, np.float32))[2:4] for _ in range(1000)]
    assert flags == [(False, False)] * 999 + [(False, True)]


def test_seeds_reproduce() -> None:
    def observations(seed: int) -> NDArray[np.float64]:
        environment = make_env("walker2d")
        start, _ = environment.reset(seed=seed)
        return np.array([start, *(environment.step(np.full(6, 0.5, np.float32))[0] for _ in range(10))])

    np.testing.assert_array_equal(observations(3), observations(3))
    assert (observations(3) != observations(4)).any()


def test_options_reach_the_environment() -> None:
    environment: Any = make_env("hopper", reset_noise_scale=0.0)
    observation, _ = environment.reset(seed=0)
    np.testing.assert_array_equal(observation, [1.25, *[0.0] * 10])


@pytest.mark.parametrize("dynamics", get_args(Dynamics))
@pytest.mark.parametrize("robot", LOCOMOTION)
def test_making_one_prints_and_writes_nothing(
    robot: str, dynamics: Dynamics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        environment = make_env(robot, dynamics)
        if dynamics == "d4rl":
            assert environment.spec is not None
            gymnasium.make(environment.spec)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_other_warnings_of_mujoco_are_passed_on() -> None:
    handler = mujoco.get_mju_user_warning()
    with pytest.warns(RuntimeWarning, match="inertia is odd"), _without_total_mass_notice():
        mujoco.get_mju_user_warning()("inertia is odd")
    assert mujoco.get_mju_user_warning() is handler


def test_unknown_dynamics_are_refused() -> None:
    with pytest.raises(TaskError, match="unknown dynamics 'exact'; there are 'd4rl' and 'plain'"):
        make_env("hopper", "exact")  # type: ignore[arg-type]


def test_ant_has_no_d4rl_dynamics() -> None:
    with pytest.raises(TaskError, match="have not been verified"):
        make_env("ant-medium-v2")


@pytest.mark.parametrize("module", ["mujoco", "gymnasium"])
def test_a_missing_simulator_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TaskError, match=rf"need {module}.*pip install"):
        make_env("hopper")


def test_the_recompiled_model_is_drawn_as_the_plain_one() -> None:
    """In a process of its own, because MuJoCo chooses its graphics when it is imported."""
    program = """if True:
        import sys
        try:
            import mujoco
            mujoco.GLContext(64, 64).free()
        except Exception as error:
            sys.exit(f"no graphics: {error}")
        from offline_rl.envs import make_env
        pictures = []
        for dynamics in ("d4rl", "plain"):
            environment = make_env("hopper", dynamics, render_mode="rgb_array", width=64, height=64)
            environment.reset(seed=0)
            pictures.append(environment.render())
        assert pictures[0].shape == (64, 64, 3) and pictures[0].std() > 0, "an empty picture"
        assert (pictures[0] == pictures[1]).all(), "the pictures differ"
    """
    environment = {"MUJOCO_GL": "egl", **os.environ}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    if "no graphics" in finished.stderr:
        pytest.skip(f"this machine cannot draw off screen: {finished.stderr.strip().splitlines()[-1]}")
    assert finished.returncode == 0, finished.stderr
