"""Sweeps with several workers, here and on clusters, one of which is lost in the middle."""

import json
import subprocess
import sys

import psutil
import pytest
from helpers.clusters import kill_node, query, wait_for
from helpers.sweeps import write_sweep

import offline_rl as orl
from offline_rl.processes.interpreter import child_environment
from offline_rl.training.checkpoint import Checkpoint

STEPS = 6_000


@pytest.fixture
def sweep_file(tmp_path):
    options = {"steps": STEPS, "eval_every": 0, "log_every": 500}
    return write_sweep(tmp_path / "sweep.yaml", "bc", options, parameters={"learning_rate": {"min": 1e-4, "max": 1e-3}})


def start(file, *more, **environment):
    command = [sys.executable, "-P", "-m", "offline_rl", "sweep", str(file), f"--out={file.parent / 'out'}", *more]
    log = (file.parent / "launcher.log").open("w")
    env = child_environment(**environment)
    return subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=file.parent)


def training(out):
    """Return the runs that have a checkpoint and have not finished."""
    found = {path.parent.parent: Checkpoint.load(path.parent.parent) for path in out.glob("runs/*/checkpoint/*.safe*")}
    return [path for path, checkpoint in found.items() if checkpoint and not checkpoint.finished]


def check_that_all_is_done(process, out, seconds=300):
    """Assert that every trial has finished, and that the lost one went on from its checkpoint, missing no update."""
    code = process.wait(timeout=seconds)
    said = "".join(path.read_text() for path in (out / "workers").rglob("*") if path.suffix in (".log", ".out", ".err"))
    assert code == 0, (out.parent / "launcher.log").read_text() + said
    trials = json.loads((out / "summary.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 4
    assert len(list((out / "runs").iterdir())) == 4
    for trial in trials:
        rows = orl.Run(out / trial["run"]).rows
        assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(500, STEPS + 1, 500))
    assert "resumed at step" in said
    return said


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_lost_workers_trial_is_taken_up_by_another(sweep_file):
    out = sweep_file.parent / "out"
    process = start(sweep_file, "--workers=2", "--concurrent_trials=1")
    wait_for(lambda: len(training(out)) == 2, process=process, seconds=240)
    workers = [child for child in psutil.Process(process.pid).children() if "--concurrent_trials=1" in child.cmdline()]
    assert len(workers) == 2
    workers[0].kill()
    check_that_all_is_done(process, out)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_ray_cluster_that_loses_a_node_completes_the_sweep(sweep_file, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    out = sweep_file.parent / "out"
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        place = f"--launcher_options=address={cluster.address}"
        process = start(sweep_file, "--launcher=ray", "--workers=2", place)
        wait_for(lambda: len(training(out)) == 2, process=process, seconds=240)
        cluster.remove_node(nodes[0], allow_graceful=False)
        check_that_all_is_done(process, out)
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_slurm_cluster_that_loses_a_node_completes_the_sweep(sweep_file, slurm):
    pytest.importorskip("submitit")
    out = sweep_file.parent / "out"
    process = start(sweep_file, "--launcher=slurm", "--workers=2", "--concurrent_trials=1", **slurm)
    wait_for(lambda: len(training(out)) == 2, process=process, seconds=240)
    kill_node("n1", slurm)
    check_that_all_is_done(process, out)
    assert query(slurm, "squeue", "-h", "-t", "running") == ""
