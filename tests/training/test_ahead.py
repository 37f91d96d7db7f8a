"""A worker that is started before anything else is known of a run."""

import contextlib
import subprocess
import sys

import pytest

import offline_rl as orl
from offline_rl.cli import train as command
from offline_rl.cli.main import main
from offline_rl.training import requests, workers
from offline_rl.training.requests import Ahead
from offline_rl.training.workers import WorkerPool


class Started:
    """Stands for a child process; nothing is started."""

    made: list["Started"]

    def __init__(self, module, name, threads=1):
        self.name, self.threads, self.alive = name, threads, True
        type(self).made.append(self)

    def close(self):
        self.alive = False


@pytest.fixture
def started(monkeypatch):
    Started.made = []
    for module in (requests, workers):
        monkeypatch.setattr(module, "RemoteWorker", Started)
    return Started.made


def test_the_first_who_trains_takes_it(started):
    with contextlib.closing(WorkerPool(Ahead())) as pool:
        assert len(started) == 1
        player = pool.take("plays")
        assert player is not started[0]
        trainer, other = pool.take_trainer("trains", 1), pool.take_trainer("trains, too", 1)
        assert trainer is started[0]
        assert trainer.name == "trains"
        assert other is not trainer


def test_one_that_nobody_can_use_is_ended(started):
    with contextlib.closing(WorkerPool(Ahead())) as pool:
        assert pool.take_trainer("trains", 2) is not started[0]
        assert not started[0].alive
    with contextlib.closing(WorkerPool(Ahead())):
        pass
    assert not started[-1].alive


def test_a_command_that_is_refused_leaves_no_process(started, capsys):
    assert main(["train", "td3_bc", "--dataset", "no-such-data"]) == 2
    assert len(started) == 1
    assert not started[0].alive
    with pytest.raises(orl.OfflineRLError):
        orl.train("td3_bc", "no-such-data")
    assert len(started) == 2
    assert not started[1].alive


@pytest.mark.parametrize("more", [["--help"], ["--workers", "0"], ["--workers=0"], ["--threads", "2"]])
def test_a_command_that_needs_none_starts_none(monkeypatch, started, more):
    seen = []
    monkeypatch.setattr(command, "_train", lambda arguments, ahead: seen.append(ahead) or 0)
    assert command.train_command(["td3_bc", *more]) == 0
    assert seen == [None]
    assert started == []
    assert command.train_command(["td3_bc", "--dataset", "hopper-demo"]) == 0
    assert isinstance(seen[1], Ahead)
    assert not started[0].alive


def test_a_worker_can_be_started_before_pytorch_is_loaded():
    """Broken by an import that makes the worker wait until its parent has loaded PyTorch."""
    code = (
        "import sys\nimport offline_rl.cli.main, offline_rl.training.requests\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
