"""Workers elsewhere: local processes, Slurm and Ray complete a suite of four runs, also when one of them is lost."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers.clusters import kill_node, query, wait_for

import offline_rl as orl
from offline_rl.benchmark import missing, read_suite, result_paths
from offline_rl.processes.cluster import launch, read_options
from offline_rl.processes.interpreter import child_environment
from offline_rl.training.checkpoint import Checkpoint

SUITE = """
datasets: [hopper-demo]
options:
  {seeds: [0], steps: STEPS, log_every: 1000, eval_every: 0, final_episodes: 1, checkpoint_seconds: 0.2, workers: 0}
methods:
  one: {algorithm: bc, hidden_dims: [8]}
  two: {algorithm: bc, hidden_dims: [9]}
  three: {algorithm: bc, hidden_dims: [10]}
  four: {algorithm: bc, hidden_dims: [11]}
"""


def write_suite(folder, steps):
    path = folder / "suite.yaml"
    path.write_text(SUITE.replace("STEPS", str(steps)))
    return path


def command(suite, *more):
    folders = ["--results", str(suite.parent / "results"), "--runs", str(suite.parent / "runs")]
    return [sys.executable, "-P", "-m", "offline_rl", "benchmark", str(suite), *folders, *more]


def start(suite, *more, **environment):
    log = (suite.parent / "launcher.log").open("w")
    env = child_environment(**environment)
    return subprocess.Popen(command(suite, *more), stdout=log, stderr=log, env=env, cwd=suite.parent)


def finish(process, suite, seconds=200):
    """Wait for the launcher; return what every worker said."""
    code = process.wait(timeout=seconds)
    logs = "".join(
        path.read_text()
        for path in (suite.parent / "runs" / "suite" / "workers").rglob("*")
        if path.is_file() and path.suffix in (".log", ".out", ".err")
    )
    assert code == 0, (suite.parent / "launcher.log").read_text() + logs
    assert missing(read_suite(suite), suite.parent / "results") == []
    return logs


def trained(suite):
    """Return the runs that have a checkpoint and have not finished."""
    found = {}
    for path in (suite.parent / "runs" / "suite").glob("hopper-demo-*"):
        checkpoint = Checkpoint.load(path)
        if checkpoint and not checkpoint.finished:
            found[path.name] = checkpoint.step
    return found


def test_two_local_workers_share_the_runs(tmp_path):
    """Each run is trained once; broken by a claim that is not exclusive, or by workers that do not look."""
    suite = write_suite(tmp_path, 300)
    logs = finish(start(suite, "--workers", "2"), suite)
    assert [logs.count(f"hopper-demo, {method}\n") for method in ("one", "two", "three", "four")] == [1] * 4
    assert len(list((tmp_path / "runs" / "suite" / "workers").glob("worker-*.log"))) == 2
    assert (tmp_path / "results" / "table.md").read_text() in (tmp_path / "launcher.log").read_text()


@pytest.mark.slow
def test_workers_stop_with_their_launcher_and_what_they_did_is_kept(tmp_path):
    """Broken by workers without a leash: they would go on, and hold the runs."""
    suite = write_suite(tmp_path, 10_000)
    process = start(suite, "--workers", "2")
    wait_for(lambda: len(trained(suite)) == 2, process=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(
        lambda: not any(str(tmp_path) in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    )
    steps = trained(suite)
    assert len(steps) == 2
    write_suite(tmp_path, 10_000)
    logs = finish(start(suite, "--workers", "2"), suite)
    assert all(f"resumed at step {step}\n" in logs for step in steps.values())


def test_a_mistake_ends_the_launcher_with_a_sentence(tmp_path):
    suite = write_suite(tmp_path, 300)
    suite.write_text(suite.read_text().replace("hopper-demo", "missing.hdf5"))
    process = start(suite, "--workers", "2")
    assert process.wait(timeout=100) == 2
    message = (tmp_path / "launcher.log").read_text()
    assert "\nerror: all 2 workers have ended, with 2, 2, and work is left; their messages are in " in message
    assert "missing.hdf5" in (tmp_path / "runs" / "suite" / "workers" / "worker-0.log").read_text()


def test_launcher_options_are_read_as_numbers_and_words():
    assert read_options("timeout_min=600 slurm_partition=gpu exclusive=true comment='a b'") == {
        "timeout_min": 600,
        "slurm_partition": "gpu",
        "exclusive": True,
        "comment": "a b",
    }
    with pytest.raises(orl.RunError, match="has no value"):
        read_options("gpu")
    with pytest.raises(orl.RunError, match="local launcher has no option 'gpu'"):
        launch([], launcher="local", workers=1, folder=Path("x"), options={"gpu": 1}, done=lambda: True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_ray_cluster_that_loses_a_node_completes_the_suite(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    suite = write_suite(tmp_path, 15_000)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = start(
            suite, "--launcher", "ray", "--workers", "2", "--launcher_options", f"address={cluster.address}"
        )
        wait_for(lambda: len(trained(suite)) == 2, process=process)
        cluster.remove_node(nodes[0], allow_graceful=False)
        logs = finish(process, suite, 300)
    finally:
        cluster.shutdown()
    assert_all_done(suite, logs)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_slurm_cluster_that_loses_a_node_completes_the_suite(tmp_path, slurm):
    pytest.importorskip("submitit")
    suite = write_suite(tmp_path, 15_000)
    process = start(suite, "--launcher", "slurm", "--workers", "2", **slurm)
    wait_for(lambda: len(trained(suite)) == 2, process=process)
    kill_node("n1", slurm)
    assert_all_done(suite, finish(process, suite, 300))
    assert query(slurm, "squeue", "-h", "-t", "running") == ""


def assert_all_done(suite, logs):
    """Assert that all results are there, that a run was resumed and not started over, and that no update is missing."""
    assert re.search(r"resumed at step \d+\n", logs)
    for method in ("one", "two", "three", "four"):
        (path,) = result_paths(read_suite(suite), "hopper-demo", method, suite.parent / "results")
        assert json.loads(path.read_text())["final"]["step"] == 15_000
    for path in (suite.parent / "runs" / "suite").glob("hopper-demo-*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.open()]
        assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1000, 15_001, 1000))
