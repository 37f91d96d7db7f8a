"""No sound data is accused: made-up logs of many kinds, recordings, and what was played."""

import numpy as np
import pytest
from checks.worlds import dataset, grid, large, no_ends, roll, time_limit_as_end, with_column, without_next
from helpers.needs import NO_RECORDINGS, RECORDINGS

import offline_rl as orl
from offline_rl.data import Dataset

RNG = np.random.default_rng


def sparse(log):
    near = (log["next_observations"][:, :2] ** 2).sum(1) < 0.02
    return {**log, "rewards": near.astype(float)}


def relay(state, time):
    return np.where(state[:, :2] > 0, -1.0, 1.0)


def quantised(log):
    grain = {"observations": 0.1, "next_observations": 0.1, "actions": 0.25}
    return {
        name: np.rint(values / grain[name]) * grain[name] if name in grain else values for name, values in log.items()
    }


def whole_doses(log):
    """Return a world whose action is a dose in whole units, and whose effect grows with it."""
    dose = np.rint(10 * (1 + log["actions"][:, :1]))
    return {**log, "actions": dose, "rewards": log["rewards"] - 0.05 * dose[:, 0]}


def with_clock(log):
    part = log["time"] / log["time"].max()
    return {
        **time_limit_as_end(with_column(log, part, part + 1 / log["time"].max())),
        "rewards": log["rewards"] + np.sin(6 * part),
    }


def bandit():
    rng = RNG(8)
    context, action = rng.normal(0, 1, (3000, 4)), rng.uniform(-1, 1, (3000, 2))
    action = np.clip(0.5 * action + 0.5 * np.tanh(context[:, :2]), -1, 1)
    reward = (context[:, 2:] * action).sum(1)
    return Dataset.from_arrays(context, action, reward, np.ones(3000, bool), name="bandit")


def batch():
    """Return a log of batches that heat up, and are done when the tank is full: after 40 steps, as the level shows."""
    rng = RNG(9)
    rows = []
    for _ in range(80):
        heat, mass = rng.normal(20, 3), rng.normal(1, 0.1)
        for step in range(40):
            power = np.clip(0.5 + 0.02 * (60 - heat) + rng.normal(0, 0.2), 0, 1)
            after = heat + 3 * power / mass - 0.02 * (heat - 15) + rng.normal(0, 0.1)
            rows.append(([heat, mass, step / 40], [power], 1 - abs(after - 60) / 60, step == 39))
            heat = after
    states, actions, rewards, ends = (np.array(values, float) for values in zip(*rows, strict=True))
    return Dataset.from_arrays(states, actions, rewards, ends.astype(bool), name="batch", action_bounds=(0, 1))


def per_episode(log):
    """Return a log in which each episode has a setting of its own, and a switch that is thrown inside."""
    value = RNG(10).normal(0, 1, log["episode"].max() + 1)[log["episode"]]
    when = RNG(13).integers(5, 55, log["episode"].max() + 1)[log["episode"]]
    thrown, then = (log["time"] > when).astype(float), (log["time"] + 1 > when).astype(float)
    return with_column(with_column(log, value, value), thrown, then)


def with_prices(log):
    """Return a log with a bonus at real ends, and a fixed price for what rarely happens."""
    rare = RNG(11).random(len(log["rewards"])) < 1e-3
    return {**log, "rewards": log["rewards"] + 100.0 * log["terminated"] - 50.0 * rare}


def joined():
    good = dataset(roll(50, explore=0.1, gain=2.0))
    poor = dataset(roll(50, explore=0.8, gain=0.5, falls=1.5))
    return good + poor


def stops():
    """Return a log of shifts of many lengths, which are cut regardless of the state."""
    return dataset(without_next(roll(51, lengths=RNG(12).integers(20, 90, 60), steps=90)))


ACCEPTED = {
    "random policy": {"ignored_observations"},
    "one long recording": {"few_episodes", "no_ends"},
    "relay": {"action_codes", "saturated_actions"},
    "whole doses": {"action_codes"},
    "grid": {"ignored_observations", "saturated_actions"},
    "batches": {"time_limit_as_end"},
    "with a clock": {"time_limit_as_end"},
    "few long episodes": {"few_episodes"},
}
"""Notes that are true of sound data, by its name; no other may appear."""
SOUND = {
    "hopper-demo": lambda: orl.load_dataset("hopper-demo"),
    "cut at a limit": lambda: dataset(roll(60)),
    "cut, without next observations": lambda: dataset(without_next(large(61))),
    "falls": lambda: dataset(roll(62, falls=1.5)),
    "falls and limits": lambda: dataset(large(63, falls=1.8)),
    "shifts of many lengths": stops,
    "sparse rewards": lambda: dataset(sparse(roll(64, episodes=150))),
    "deterministic policy": lambda: dataset(roll(65, explore=0.0)),
    "deterministic world and policy": lambda: dataset(roll(66, explore=0.0, noise=0.0)),
    "relay": lambda: dataset(roll(67, policy=relay, explore=0.0)),
    "quantised": lambda: dataset(quantised(large(68))),
    "whole doses": lambda: dataset(whole_doses(roll(69)), action_bounds=(0, 20)),
    "random policy": lambda: dataset(roll(70, policy=lambda state, time: np.zeros((60, 2)), explore=0.6)),
    "with a clock": lambda: dataset(with_clock(roll(71, steps=60))),
    "bandit": bandit,
    "grid": lambda: dataset(grid(episodes=100)),
    "batches": batch,
    "settings and switches": lambda: dataset(per_episode(roll(72))),
    "bonus and prices": lambda: dataset(with_prices(large(73, falls=1.7))),
    "joined": joined,
    "one long recording": lambda: dataset(no_ends(roll(74, episodes=1, steps=20_000, pace=0.2, gain=0.3))),
    "few long episodes": lambda: dataset(large(75, episodes=12, steps=400)),
    "many columns": lambda: dataset(roll(76, size=17, action_size=6)),
    "costs only": lambda: dataset({**(log := roll(77, falls=1.2)), "rewards": -np.ones(len(log["rewards"]))}),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sound_data_is_not_accused(name):
    found = orl.check(SOUND[name]())
    assert [finding for finding in found if finding.severity == "warning"] == []
    assert {finding.check for finding in found} <= ACCEPTED.get(name, set())


def test_there_are_twenty_sound_ones():
    assert len(SOUND) >= 20


KINDS = ("random", "medium", "medium_replay", "expert")
FILES = [f"{robot}_{kind}" for robot in ("hopper", "walker2d", "halfcheetah") for kind in KINDS]
QUICK = ("hopper_random", "halfcheetah_expert")
"""Those that are checked each time; the others take a minute together."""


@pytest.mark.skipif(RECORDINGS is None, reason=NO_RECORDINGS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FILES]
)
def test_recordings_are_not_accused(name, data_folder):
    found = orl.check(data_folder / f"{name}.hdf5")
    assert {finding.check for finding in found} == ({"ignored_observations"} if "random" in name else set())
    assert {finding.severity for finding in found} <= {"note"}


def test_a_played_dataset_is_not_accused(tmp_path):
    orl.collect("random", task="hopper", steps=3000, out=str(tmp_path / "hopper.hdf5"), quiet=True)
    found = orl.check(tmp_path / "hopper.hdf5")
    assert {finding.check for finding in found} <= {"ignored_observations"}
    assert {finding.severity for finding in found} <= {"note"}
