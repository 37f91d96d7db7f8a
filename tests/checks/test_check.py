"""Every fault is named, twice of each kind in different worlds; see test_sound.py for data without any."""

import dataclasses

import numpy as np
import pytest
from checks.worlds import dataset, kept, large, no_ends, roll, time_limit_as_end, with_column, without_next

import offline_rl as orl
from offline_rl.checks.check import CHECKS
from offline_rl.checks.view import area
from offline_rl.data import Dataset

RNG = np.random.default_rng


def end_as_cut(log):
    return {**log, "truncated": log["terminated"] | log["truncated"], "terminated": np.zeros_like(log["truncated"])}


def missed(log, late):
    """Forget every eighth border, or mark all a row late."""
    ends = log["terminated"] | log["truncated"]
    if late:
        ends = np.append(False, ends[:-1])
    else:
        ends[np.flatnonzero(ends)[::8]] = False
    return {**without_next(log), "truncated": ends, "terminated": np.zeros_like(ends)}


def logged_twice(log):
    rows = np.arange(len(log["rewards"]))
    again = rows[(rows % 17 == 3) & ~(log["truncated"] | log["terminated"])]
    return without_next(kept(log, np.sort(np.concatenate([rows, again]))))


def copied(log):
    rows = np.arange(len(log["rewards"]))
    return kept(log, np.concatenate([rows, rows[log["episode"] < 10]]))


def column(make):
    """Return what adds a column that is a function of a generator and the rows."""
    return lambda log: with_column(log, make(RNG(1), len(log["rewards"]), log))


def resting(rng, rows, log):
    found = np.zeros(rows)
    found[rng.choice(rows, 3, replace=False)] = 1.0
    return found


def missing_values(log):
    found = {name: values.copy() for name, values in log.items()}
    found["observations"][RNG(2).choice(len(log["rewards"]), 8, replace=False), 1] = -999
    return without_next(found)


def spikes(log):
    """Return a log in which a sensor shows three hundred times its value now and then."""
    found = {name: values.copy() for name, values in log.items()}
    rows = RNG(3).choice(len(log["rewards"]), 12, replace=False)
    found["observations"][rows, 0] *= 300
    return without_next(found)


def coded(log, codes, to_action):
    """Return a world in which a code chooses by a table without order what happens."""
    rows = len(log["rewards"])
    rng = RNG(4)
    table = rng.permutation(np.linspace(-1, 1, codes))
    if to_action:
        code = rng.integers(0, codes, rows)
        moved = {**log, "actions": np.column_stack([log["actions"], code])}
        return {**moved, "rewards": log["rewards"] + table[code]}
    code = np.repeat(rng.integers(0, codes, rows), 5)[:rows]
    return {**with_column(log, code.astype(float)), "rewards": log["rewards"] + table[code]}


def shuffled(log):
    return {**log, "actions": log["actions"][RNG(5).permutation(len(log["rewards"]))]}


def scaled(log, reward):
    return {**log, "rewards": log["rewards"] * reward}


def glitch(log, count, size):
    rewards = log["rewards"].copy()
    rewards[RNG(6).choice(len(rewards), count, replace=False)] += size * RNG(7).normal(1, 0.2, count)
    return {**log, "rewards": rewards}


def odd_starts(log):
    """Return a log whose logger began two episodes before it had read the sensors."""
    starts = np.flatnonzero(np.append(True, log["episode"][1:] != log["episode"][:-1]))[[7, 20]]
    found = {name: values.copy() for name, values in log.items()}
    found["observations"] += 40
    found["next_observations"] += 40
    found["observations"][starts] = 0
    return without_next(found)


def clocked(log, kind):
    wave = np.sin(2 * np.pi * log["time"] / 25)
    if kind == "reward":
        return {**log, "rewards": log["rewards"] + wave}
    return {**log, "actions": np.clip(0.3 * log["actions"] + 0.6 * wave[:, None], -1, 1)}


FIXED = {"starts": lambda rng: np.tile(rng.normal(0, 1, 4), (60, 1))}
THREE = {"starts": lambda rng: rng.normal(0, 1, (3, 6))[np.arange(90) % 3]}
FAULTS = [
    ("time_limit_as_end", "warning", lambda: dataset(time_limit_as_end(roll(1)))),
    ("time_limit_as_end", "warning", lambda: dataset(time_limit_as_end(large(2, falls=1.6)))),
    ("end_as_cut", "warning", lambda: dataset(end_as_cut(roll(3, falls=1.4)))),
    ("end_as_cut", "warning", lambda: dataset(without_next(end_as_cut(large(4, falls=1.5))))),
    ("no_ends", "warning", lambda: dataset(no_ends(roll(5)))),
    ("no_ends", "warning", lambda: dataset(no_ends(large(6, falls=1.7)))),
    ("missed_border", "warning", lambda: dataset(missed(roll(7), late=False))),
    ("missed_border", "warning", lambda: dataset(missed(large(8), late=True))),
    ("duplicated_rows", "warning", lambda: dataset(logged_twice(roll(9)))),
    ("duplicated_rows", "warning", lambda: dataset(copied(large(10)))),
    ("few_episodes", "warning", lambda: dataset(roll(11, episodes=3))),
    ("few_episodes", "warning", lambda: dataset(large(12, episodes=1, steps=500))),
    ("start_states", "note", lambda: dataset(roll(13, **FIXED))),
    ("start_states", "note", lambda: dataset(large(14, **THREE))),
    ("start_states", "warning", lambda: dataset(odd_starts(roll(15)))),
    ("start_states", "warning", lambda: dataset(odd_starts(large(16)))),
    ("constant_column", "note", lambda: dataset(column(lambda rng, rows, log: np.full(rows, 7.3))(roll(17)))),
    ("constant_column", "note", lambda: dataset(column(lambda rng, rows, log: np.zeros(rows))(large(18)))),
    ("nearly_constant_column", "warning", lambda: dataset(column(resting)(roll(19)))),
    (
        "nearly_constant_column",
        "warning",
        lambda: dataset(column(lambda rng, rows, log: 1e5 + 0.15 * log["observations"][:, 0])(large(20))),
    ),
    ("column_outliers", "warning", lambda: dataset(missing_values(roll(21)))),
    ("column_outliers", "warning", lambda: dataset(spikes(large(22)))),
    ("observation_codes", "warning", lambda: dataset(coded(roll(23), 5, to_action=False))),
    ("observation_codes", "warning", lambda: dataset(coded(large(24), 8, to_action=False))),
    ("unused_column", "note", lambda: dataset(column(lambda rng, rows, log: rng.normal(3, 2, rows))(roll(25)))),
    ("unused_column", "note", lambda: dataset(column(lambda rng, rows, log: rng.random(rows) ** 3)(large(26)))),
    (
        "saturated_actions",
        "warning",
        lambda: dataset({**(log := roll(27)), "actions": np.clip(log["actions"], -0.5, 0.5)}),
    ),
    (
        "saturated_actions",
        "warning",
        lambda: dataset({**(log := large(28)), "actions": np.minimum(log["actions"], 0.3)}),
    ),
    ("narrow_actions", "warning", lambda: dataset({**(log := roll(29)), "actions": 0.01 * log["actions"]})),
    ("narrow_actions", "warning", lambda: Dataset.from_table(with_one_wrong_action(large(30)))),
    (
        "action_codes",
        "warning",
        lambda: dataset(coded(roll(31), 4, to_action=True), action_bounds=([-1, -1, 0], [1, 1, 3])),
    ),
    ("action_codes", "warning", lambda: dataset(coded(large(32), 7, to_action=True), action_bounds=([-1, 0], [1, 6]))),
    ("ignored_observations", "warning", lambda: dataset(shuffled(roll(33)))),
    ("ignored_observations", "warning", lambda: dataset(shuffled(large(34)))),
    ("constant_reward", "warning", lambda: dataset(scaled(roll(35), 0))),
    ("constant_reward", "warning", lambda: dataset({**(log := large(36)), "rewards": np.ones(len(log["rewards"]))})),
    ("reward_scale", "warning", lambda: dataset(scaled(roll(37), 1e5))),
    ("reward_scale", "warning", lambda: dataset(scaled(large(38), 1e-5))),
    ("reward_outliers", "warning", lambda: dataset(glitch(roll(39), 3, 1e4))),
    ("reward_outliers", "warning", lambda: dataset(glitch(large(40), 5, -200))),
    ("hidden_clock", "warning", lambda: dataset(clocked(roll(41), "reward"))),
    ("hidden_clock", "warning", lambda: dataset(clocked(large(42), "action"))),
]


def with_one_wrong_action(log):
    """Return the table of a log in which one action has been typed with a wrong point."""
    actions = log["actions"][:, 0].copy()
    actions[777] = 500.0
    columns = {f"observation_{place}": values for place, values in enumerate(log["observations"].T)}
    return {**columns, "action_0": actions, "reward": log["rewards"], "episode": log["episode"]}


@pytest.mark.parametrize(("name", "severity", "make"), FAULTS, ids=[f"{n}-{i % 2}" for i, (n, *_) in enumerate(FAULTS)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fault_is_named(name, severity, make):
    """Also no other fault is named with a warning, but those that the same fault explains."""
    found = orl.check(make())
    assert (name, severity) in {(finding.check, finding.severity) for finding in found}
    others = {finding.check for finding in found if finding.severity == "warning"} - {name}
    assert others <= EXPLAINED.get(name, set()), [finding for finding in found if finding.check in others]


EXPLAINED = {
    "no_ends": {"few_episodes"},
    "start_states": {"missed_border", "column_outliers"},
    "column_outliers": {"start_states"},
    "narrow_actions": {"saturated_actions"},
    "hidden_clock": {"ignored_observations"},
}


def test_all_kinds_of_faults_are_tried_twice():
    names = [name for name, _, _ in FAULTS]
    assert {each.__name__ for each in CHECKS} == set(names)
    assert all(names.count(name) >= 2 for name in names)
    assert len(FAULTS) >= 40


def test_the_same_data_gives_the_same_findings():
    data = dataset(shuffled(roll(33)))
    found = orl.check(data)
    assert found
    assert found == orl.check(data)


def test_findings_do_not_depend_on_units():
    """But for what is about units: rewards' scale, and single precision."""
    log = missed(roll(7), late=False)
    other = {**log, "observations": log["observations"] * [100, 1e-3, 7, 1]}
    before, after = (orl.check(dataset(each)) for each in (log, other))
    assert [finding.check for finding in before] == [finding.check for finding in after]


def test_a_tiny_dataset_is_checked_without_error():
    for rows in (1, 2, 3, 5):
        data = Dataset.from_arrays(np.zeros((rows, 1)), np.zeros((rows, 1)), np.zeros(rows), np.ones(rows, bool))
        assert all(isinstance(finding.evidence, str) for finding in orl.check(data))


def test_the_area_is_that_of_all_pairs():
    rng = RNG(0)
    high, low = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 25).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in high for b in low]
    assert area(high, low) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_a_finding_cannot_be_changed():
    (finding,) = (each for each in orl.check(dataset(scaled(roll(35), 0))) if each.check == "constant_reward")
    with pytest.raises(dataclasses.FrozenInstanceError):
        finding.check = "other"
