"""Learn to control a heated tank from the log of a simpler controller; the plant is made up.

Water flows out of a tank as it is needed, which nobody controls. A valve lets cold water in, a heater warms it. The
level should stay at 1 m and the water at 60 °C. What is there to learn from is a log: a CSV file that a proportional
controller has written, with gains that its operators set differently each day.
"""

import csv

import numpy as np

import offline_rl as orl

STEPS = 100
COLUMNS = ["episode", "observation_level", "observation_heat", "observation_demand", "action_valve", "action_heater"]


class Tanks:
    """Some tanks at once; observations (N, 3) are level, temperature and demand, actions (N, 2) valve and heater."""

    def __init__(self, count, seed):
        """Fill the tanks."""
        self.rng = np.random.default_rng(seed)
        low, high = [0.6, 40, 0.3], [1.4, 70, 0.7]
        self.state = self.rng.uniform(low, high, (count, 3))

    def step(self, actions):
        """Return what each tank earned, and whether it ran over or dry, which ends its episode for good."""
        level, heat, demand = self.state.T
        valve, heater = np.clip(actions, 0, 1).T
        heat = heat + (4.0 * heater - 0.1 * valve * (heat - 15)) / level
        level = level + 0.2 * (valve - demand)
        demand = np.clip(demand + 0.05 * self.rng.standard_normal(len(level)), 0.2, 0.8)
        self.state = np.stack([np.clip(level, 0.1, 2), heat, demand], axis=1)
        # A good step earns 1. If all rewards were losses, an early end would be worth learning.
        reward = 1 - np.minimum(4 * np.abs(level - 1) + np.abs(heat - 60) / 10, 1)
        return reward, (level < 0.3) | (level > 1.7)


def controller(observations, level_gain=1.0, heat_gain=0.05):
    """Open the valve when the level is low, heat when the water is cold; know nothing of the demand."""
    level, heat, _ = observations.T
    return np.clip(np.stack([0.5 + level_gain * (1 - level), 0.5 + heat_gain * (60 - heat)], axis=1), 0, 1)


def operators(days, seed=0):
    """Return the controller as its operators run it, with other gains each day, and as valves are, not exact."""
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0.3, 2.0, days), rng.uniform(0.02, 0.2, days)
    return lambda seen: np.clip(controller(seen, *gains) + rng.normal(0, 0.15, (days, 2)), 0, 1)


def record(policy, days=300, seed=1):
    """Let a policy control a tank for each day; return the rows of each day, a row for each step."""
    tanks, rows, running = Tanks(days, seed), [[] for _ in range(days)], np.ones(days, bool)
    for _ in range(STEPS):
        seen = tanks.state
        actions = policy(seen)
        reward, ended = tanks.step(actions)
        for day in np.flatnonzero(running):
            rows[day].append([day, *seen[day], *actions[day], reward[day], int(ended[day])])
        running &= ~ended
    return rows


def write_log(path, days):
    """Write the rows of some days as a CSV file."""
    with open(path, "w", newline="") as file:  # noqa: PTH123
        csv.writer(file).writerows([[*COLUMNS, "reward", "terminated"], *(row for day in days for row in day)])


def mean_return(policy, count=200):
    """Let a policy control tanks that are in no log; return what they earn on average."""
    tanks, total, running = Tanks(count, seed=2), 0.0, np.ones(count, bool)
    for _ in range(STEPS):
        reward, ended = tanks.step(policy(tanks.state))
        total += reward[running].sum()
        running &= ~ended
    return total / count


def main():
    """Log, learn, compare."""
    write_log("tank.csv", record(operators(days=300)))
    dataset = orl.load_dataset("tank.csv")
    print(dataset)
    run = orl.train(
        "td3_bc", dataset, steps=3000, discount=0.95, alpha=2.5, hidden_dims=[64, 64],
        eval_every=0, final_episodes=0, quiet=True, out="runs/tank",
    )  # fmt: skip
    days = dataset.episode_returns
    print(f"days in the log earned {days.mean():.1f} on average, the best {days.max():.1f}, of {STEPS} possible")
    print(f"the controller earns {mean_return(controller):.1f} on average on new days")
    print(f"the agent earns {mean_return(run.agents[0].act):.1f} on the same days")


if __name__ == "__main__":
    main()
