"""The files of the tutorial "From a log to a controller": the tank of ``own_data.py``, and what its logger writes.

``log FILE`` writes 300 days of the old controller. The logger has a fault: it marks the end of each day as
terminated. ``month FILE`` writes 30 later days; ``--agent RUN`` lets an agent control them, and ``--offset 8`` makes
the thermometer show 8 °C too much. ``truth RUN...`` plays the agents of runs on the true tank, which nobody who has
only a log can do.
"""

import argparse

import numpy as np
from own_data import Tanks, operators, record, write_log

import offline_rl as orl

DISCOUNT = 0.95
HORIZON = 400
"""Steps that are played to know a discounted return; the rest is below 0.95^400, about a billionth, of the whole."""


def write_faulty_log(path):
    """Write what the old controller did; mark the last step of each day as terminated, which is the fault."""
    days = record(operators(days=300))
    for day in days:
        day[-1][-1] = 1
    write_log(path, days)


def write_month(path, agent=None, offset=0.0):
    """Write 30 new days of the old controller, or of an agent; the thermometer may show too much."""
    policy = operators(days=30, seed=3) if agent is None else orl.load_agent(f"{agent}/agents/seed-0").act
    error = np.array([0, offset, 0])
    days = record(lambda seen: policy(seen + error), days=30, seed=4)
    for row in (row for day in days for row in day):
        row[2] += offset
    write_log(path, days)


def true_value(policy, count=2000):
    """Return the mean discounted return `(2,)` from starts like those of the log, and its standard error."""
    tanks, total, running = Tanks(count, seed=5), np.zeros(count), np.ones(count, bool)
    for step in range(HORIZON):
        reward, ended = tanks.step(policy(tanks.state))
        total += running * reward * DISCOUNT**step
        running &= ~ended
    return total.mean(), total.std() / np.sqrt(count)


def print_truth(runs):
    """Print what the first agent of each run, and the old controller, are worth on the true tank."""
    policies = {run: orl.load_agent(f"{run}/agents/seed-0").act for run in runs}
    policies["the old controller"] = operators(days=2000, seed=6)
    for name, policy in policies.items():
        print("{:20} true value {:.2f} ± {:.2f}".format(name, *true_value(policy)))


def main():
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("log").add_argument("file")
    month = commands.add_parser("month")
    month.add_argument("file")
    month.add_argument("--agent", help="run whose agent controls the tank; without it the old controller does")
    month.add_argument("--offset", type=float, default=0.0, help="error of the thermometer, in °C")
    commands.add_parser("truth").add_argument("runs", nargs="+")
    given = parser.parse_args()
    if given.command == "log":
        write_faulty_log(given.file)
    elif given.command == "month":
        write_month(given.file, given.agent, given.offset)
    else:
        print_truth(given.runs)


if __name__ == "__main__":
    main()
