"""Workers elsewhere: local processes, Slurm and Ray complete a suite of four runs, also when one of them is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import offline_rl as orl
from offline_rl.benchmark import missing, read_suite, result_paths
from offline_rl.interpreter import child_environment
from offline_rl.launchers import launch, read_options
from offline_rl.training.checkpoint import Checkpoint

SUITE = """
datasets: [hopper-demo]
options: {seeds: [0], steps: STEPS, log_every: 1000, eval_every: 0, final_episodes: 1, checkpoint_seconds: 0.2}
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
    return [sys.executable, "-P", "-m", "offline_rl.cli", "benchmark", str(suite), *folders, *more]


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


def wait_for(condition, seconds=120, process=None):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        assert process is None or process.poll() is None, "the launcher has ended"
        time.sleep(0.05)


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
    suite = write_suite(tmp_path, 20_000)
    process = start(suite, "--workers", "2")
    wait_for(lambda: len(trained(suite)) == 2, process=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(
        lambda: not any(str(tmp_path) in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    )
    steps = trained(suite)
    assert len(steps) == 2
    write_suite(tmp_path, 20_000)
    logs = finish(start(suite, "--workers", "2"), suite)
    assert all(f"resumed at step {step}\n" in logs for step in steps.values())


def test_a_mistake_ends_the_launcher_with_a_sentence(tmp_path):
    suite = write_suite(tmp_path, 300)
    suite.write_text(suite.read_text().replace("hopper-demo", "missing.hdf5"))
    process = start(suite, "--workers", "2")
    assert process.wait(timeout=100) == 2
    message = (tmp_path / "launcher.log").read_text()
    assert message.startswith("error: all 2 workers have ended, with 2, 2, and work is left; their messages are in ")
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


# Ray, two nodes on this machine.


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


# Slurm, a controller and two node daemons on this machine.

SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=6
KillWait=2
ReturnToService=2
JobRequeue=1
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path_factory):
    """Start a cluster; give the path of its configuration."""
    if not shutil.which("slurmctld") or not shutil.which("munged") or os.geteuid() != 0:
        pytest.skip("needs Slurm and munge (Debian: slurm-wlm, munge), and to be root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    host = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    ports = dict(zip(("port", "first", "second"), range(16_817, 16_820), strict=True))
    config = folder / "slurm.conf"
    config.write_text(SLURM.format(folder=folder, host=host, **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    places = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
    munge = [f"--{what}={folder / name}" for what, name in places.items()]
    daemons = [subprocess.Popen(["munged", "--force", "--foreground", f"--key-file={key}", *munge])]
    wait_for((folder / "munge.socket").exists, 20)
    daemons += [subprocess.Popen(["slurmctld", "-D", "-f", config])]
    daemons += [subprocess.Popen(["slurmd", "-D", "-f", config, "-N", name]) for name in ("n1", "n2")]
    environment = {"SLURM_CONF": str(config)}
    try:
        wait_for(lambda: query(environment, "sinfo", "-h", "-o", "%t").split() == ["idle"], 40)
        yield environment
    finally:
        query(environment, "scancel", "-u", "root")
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait()


def query(environment, *line):
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    return done.stdout


def kill_node(name, environment):
    """Kill a node's daemon, its step daemons and all that runs under them, as a power cut would."""
    jobs = query(environment, "squeue", "-h", "-w", name, "-o", "%i").split()
    doomed = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            here = process.environ().get("SLURMD_NODENAME") == name
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if here or f"-N {name}" in line or any(f"slurmstepd: [{job}." in line for job in jobs):
            doomed.append(process)
    # The daemon first: it would report the end of the others.
    for process in sorted(doomed, key=lambda process: process.name() != "slurmd"):
        process.kill()
    assert len(doomed) > 3


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
    """Assert that all results are there, that a run was resumed and not begun anew, and that no update is missing."""
    assert re.search(r"resumed at step \d+\n", logs)
    for method in ("one", "two", "three", "four"):
        (path,) = result_paths(read_suite(suite), "hopper-demo", method, suite.parent / "results")
        assert json.loads(path.read_text())["final"]["step"] == 15_000
    for path in (suite.parent / "runs" / "suite").glob("hopper-demo-*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.open()]
        assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1000, 15_001, 1000))
