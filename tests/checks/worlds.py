"""Small made-up worlds and the logs of them, sound ones; faults are put in by the tests."""

import numpy as np

from offline_rl.data import Dataset


def roll(
    seed=0,
    episodes=60,
    steps=60,
    size=4,
    action_size=2,
    *,
    noise=0.15,
    explore=0.3,
    gain=1.0,
    pace=0.06,
    bent=False,
    falls=None,
    lengths=None,
    policy=None,
    starts=None,
):
    """Return the log of a plant: oscillators that actions push, as arrays by name, rows episode after episode.

    Args:
        noise: Of the state, a step.
        explore: Of the action, around what the policy wants.
        pace: How much of the dynamics happens in a step.
        bent: Whether the pull towards the middle is that of a pendulum.
        falls: Where the first entry of the state ends an episode for good, in size.
        lengths: `(episodes,)`, instead of `steps` for all.
        policy: What maps states (E, O) and the time to actions, instead of a random feedback.
        starts: What draws the first states from a generator.
    """
    rng = np.random.default_rng(seed)
    turn = rng.normal(0, 1, (size, size))
    turn = (turn - turn.T) / 2
    push = rng.normal(0, 1, (action_size, size))
    feedback = rng.normal(0, gain / np.sqrt(size), (size, action_size))
    wanted = policy or (lambda state, time: np.tanh(state @ feedback))
    state = rng.normal(0, 1, (episodes, size)) if starts is None else starts(rng)
    limit = np.full(episodes, steps) if lengths is None else np.asarray(lengths)
    running = np.ones(episodes, bool)
    parts = {
        name: [] for name in ("observations", "actions", "rewards", "terminated", "truncated", "next_observations")
    }
    owners, times = [], []
    for time in range(int(limit.max())):
        action = wanted(state, time) + explore * rng.normal(0, 1, (episodes, action_size))
        action = np.clip(action, -1, 1)
        pull = np.sin(1.5 * state) if bent else 0.6 * state
        following = state + pace * (state @ turn - pull + action @ push)
        following = following + np.sqrt(pace) * noise * rng.normal(0, 1, state.shape)
        reward = 1 - 0.3 * (state**2).mean(1) - 0.1 * (action**2).mean(1)
        ended = np.zeros(episodes, bool) if falls is None else np.abs(following[:, 0]) > falls
        cut = (time + 1 >= limit) & ~ended
        rows = (state, action, reward, ended, cut, following)
        for name, values in zip(parts, rows, strict=True):
            parts[name].append(values[running])
        owners.append(np.flatnonzero(running))
        times.append(np.full(running.sum(), time))
        running &= ~(ended | cut)
        state = following
    owner, time = np.concatenate(owners), np.concatenate(times)
    order = np.lexsort((time, owner))
    log = {name: np.concatenate(values)[order] for name, values in parts.items()}
    return {**log, "episode": owner[order], "time": time[order]}


def dataset(log, name="made", **options):
    """Return the dataset of a log."""
    fields = ("observations", "actions", "rewards", "terminated", "truncated", "next_observations")
    return Dataset.from_arrays(**{field: log[field] for field in fields if field in log}, name=name, **options)


def kept(log, rows):
    """Return a log with these rows alone."""
    return {name: values[rows] for name, values in log.items()}


def with_column(log, column, following=None):
    """Return a log with one more observation: `(N,)`, and what it is after the step; by default in the next row."""
    if following is None:
        following = np.append(column[1:], column[-1])
        ends = log["terminated"] | log["truncated"]
        following[ends] = column[ends]
    return {
        **log,
        "observations": np.column_stack([log["observations"], column]),
        "next_observations": np.column_stack([log["next_observations"], following]),
    }


def grid(seed=0, episodes=200, size=6):
    """Return the log of a walk to the corner of a grid: every step costs 1, the corner ends it."""
    rng = np.random.default_rng(seed)
    rows = []
    for episode in range(episodes):
        place = rng.integers(0, size, 2)
        for _ in range(100):
            action = rng.uniform(-1, 1, 2) if rng.random() < 0.3 else np.sign(size - 1 - place + 1e-3) * [1, 0.5]
            axis = int(np.abs(action[1]) > np.abs(action[0]))
            following = place.copy()
            following[axis] = np.clip(place[axis] + np.sign(action[axis]), 0, size - 1)
            ended = bool((following == size - 1).all())
            rows.append((place.copy(), action, -1.0, ended, False, following.copy(), episode))
            place = following
            if ended:
                break
        else:
            rows[-1] = (*rows[-1][:4], True, *rows[-1][5:])
    names = ("observations", "actions", "rewards", "terminated", "truncated", "next_observations", "episode")
    return {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def large(seed, **options):
    """Return the log of a second, larger and bent world."""
    return roll(seed, **{"episodes": 90, "steps": 50, "size": 6, "action_size": 1, "bent": True, **options})


def time_limit_as_end(log):
    return {**log, "terminated": log["terminated"] | log["truncated"], "truncated": np.zeros_like(log["truncated"])}


def no_ends(log):
    nothing = np.zeros(len(log["rewards"]), bool)
    found = {**log, "terminated": nothing, "truncated": nothing}
    found.pop("next_observations")
    return found


def without_next(log):
    return {name: values for name, values in log.items() if name != "next_observations"}
