"""The journal: which points are tried, by how many processes and kills at once whatever."""

import math
import subprocess
import sys
import threading

import optuna
import pytest
from helpers.sweeps import write_sweep

from offline_rl.processes.interpreter import child_environment
from offline_rl.sweep.file import read_sweep
from offline_rl.sweep.search import Search
from offline_rl.sweep.space import spelled

NESTED = {
    "alpha": {"values": [1.0, 2.0, 3.0]},
    "more": {"parameters": {"policy_delay": {"min": 1, "max": 2}, "normalize": {"values": [True, False]}}},
}


@pytest.fixture
def begin(tmp_path):
    """Open a sweep, as each process does for itself."""

    def open_search(**changes):
        return Search(read_sweep(write_sweep(tmp_path / "sweep.yaml", **changes)), tmp_path / "sweep")

    return open_search


def work_off(search, value=lambda point: 0.0):
    points = []
    while (claim := search.claim()) is not None:
        search.finish(claim, value(claim.point))
        claim.lock.release()
        points.append(claim.point)
    return points


def test_a_nested_grid_visits_each_point_once(begin):
    points = work_off(begin(method="grid", run_cap=12, parameters=NESTED))
    assert len(points) == 12
    assert {spelled(point) for point in points} == {
        spelled({"alpha": alpha, "policy_delay": delay, "normalize": normalize})
        for alpha in (1.0, 2.0, 3.0)
        for delay in (1, 2)
        for normalize in (True, False)
    }


def test_a_grid_goes_on_where_it_was_left(begin):
    first = begin(method="grid", run_cap=5, parameters=NESTED)
    points = work_off(first) + work_off(begin(method="grid", run_cap=12, parameters=NESTED))
    assert len({spelled(point) for point in points}) == len(points) == 12


def test_random_points_do_not_depend_on_interruptions(begin, tmp_path):
    straight = work_off(begin(run_cap=6))
    (tmp_path / "sweep" / "journal.log").unlink()
    parted = work_off(begin(run_cap=2)) + work_off(begin(run_cap=6))
    assert parted == straight
    assert len({point["alpha"] for point in straight}) == 6


@pytest.mark.parametrize(("goal", "sign"), [("maximize", -1), ("minimize", 1)])
def test_bayes_comes_nearer_than_random_search(begin, tmp_path, goal, sign):
    metric = {"name": "score", "goal": goal}
    parameters = {"alpha": {"min": 1.0, "max": 5.0}, "discount": {"min": 0.5, "max": 0.99}}

    def distance(point):
        return sign * ((point["alpha"] - 4.2) ** 2 + 16 * (point["discount"] - 0.6) ** 2)

    near = {}
    for method in ("random", "bayes"):
        points = work_off(begin(method=method, run_cap=40, metric=metric, parameters=parameters), distance)
        near[method] = sum(abs(distance(point)) for point in points[20:]) / 20
        (tmp_path / "sweep" / "journal.log").unlink()
    assert near["bayes"] < near["random"] / 2


def test_threads_and_processes_never_run_one_trial_twice(begin):
    search, points = begin(method="grid", run_cap=12, parameters=NESTED), []
    threads = [threading.Thread(target=lambda: points.extend(work_off(search))) for _ in range(2)]
    threads += [
        threading.Thread(target=lambda: points.extend(work_off(begin(method="grid", run_cap=12, parameters=NESTED))))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({spelled(point) for point in points}) == len(points) == 12


def test_a_trial_of_a_live_process_is_left_alone_and_one_of_a_dead_process_is_taken_up(begin):
    search, other = begin(run_cap=1), begin(run_cap=1)
    claim = search.claim()
    search.report(claim, [1.0, 2.0])
    assert other.claim() is None
    assert not other.lost()
    claim.lock.release()  # what the system does when a process ends
    assert other.lost()
    again = other.claim()
    assert (again.number, again.point, again.history) == (claim.number, claim.point, [1.0, 2.0])


def test_a_trial_whose_point_was_being_written_is_completed(begin):
    parameters = {"alpha": {"min": 1.0, "max": 5.0}, "policy_delay": {"min": 1, "max": 4}}
    search = begin(run_cap=1, parameters=parameters)
    search.study.sampler = search._sampler(0)
    alpha = search.study.ask().suggest_float("alpha", 0.0, 1.0)
    claim = begin(run_cap=1, parameters=parameters).claim()
    assert claim.number == 0
    assert claim.point["alpha"] == 1.0 + 4.0 * alpha
    assert claim.point["policy_delay"] in (1, 2, 3, 4)


KILLED = """
import os, signal, sys
from pathlib import Path
from offline_rl.sweep.file import read_sweep
from offline_rl.sweep.search import Search
search = Search(read_sweep(Path(sys.argv[1])), Path(sys.argv[2]))
claim = search.claim()
search._storage._backend._lock.acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_of_a_write_delays_nobody_and_loses_nothing(begin, tmp_path):
    search = begin(run_cap=3)
    search.finish(search.claim(), 1.0)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "sweep.yaml"), str(tmp_path / "sweep")]
    assert subprocess.run(command, env=child_environment(), check=False).returncode == -9
    journal = tmp_path / "sweep" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])  # half a line, as a machine that fails may leave
    assert len(work_off(begin(run_cap=3))) == 2
    assert [trial.state for trial in begin(run_cap=3).trials()] == ["finished"] * 3


def test_what_becomes_of_trials_is_told_apart(begin):
    search = begin(run_cap=5)
    claims = [search.claim() for _ in range(5)]
    search.finish(claims[0], 3.0)
    search.finish(claims[1], math.nan)
    search.fail(claims[2], "no such file")
    search.report(claims[3], [1.0, 2.0, math.nan])
    search.stop(claims[3])
    states = [(trial.state, trial.value, trial.error) for trial in begin(run_cap=5).trials()]
    assert states == [
        ("finished", 3.0, None),
        ("diverged", None, None),
        ("failed", None, "no such file"),
        ("stopped early", 2.0, None),
        ("running", None, None),
    ]


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_hyperband_knows_the_histories_of_all_trials_of_all_processes(begin, goal):
    sign = 1 if goal == "maximize" else -1
    rule = {"metric": {"name": "score", "goal": goal}, "early_terminate": {"type": "hyperband", "min_iter": 2}}
    first = begin(run_cap=4, **rule)
    for value in (5.0, 6.0, 7.0):
        claim = first.claim()
        first.report(claim, [0.0, sign * value])
        first.finish(claim, sign * value)
    second = begin(run_cap=4, **rule)
    claim = second.claim()
    second.report(claim, [0.0])
    assert not second.stops(claim)
    second.report(claim, [0.0, sign * 5.5])
    assert second.stops(claim)


def test_the_journal_is_one_that_optuna_opens(begin, tmp_path):
    work_off(begin(run_cap=2))
    backend = optuna.storages.journal.JournalFileBackend(str((tmp_path / "sweep" / "journal.log").resolve()))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    assert len(study.trials) == 2
