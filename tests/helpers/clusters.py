"""Real clusters on this machine, and how to break them."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from filelock import FileLock

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


def slurm_is_here():
    return shutil.which("slurmctld") and shutil.which("munged") and os.geteuid() == 0


@contextlib.contextmanager
def slurm_cluster(folder):
    """Start a controller and two node daemons; give the environment in which Slurm's commands find them."""
    # One at a time on this machine: ports are fixed, and killing a node finds its processes by the node's name.
    with FileLock(Path(tempfile.gettempdir()) / "offline-rl-slurm-test.lock"):
        yield from _slurm(folder)


def _slurm(folder):
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


def wait_for(condition, seconds=120, process=None):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        assert process is None or process.poll() is None, "the launcher has ended"
        time.sleep(0.05)
