"""Real W&B in offline mode, in real processes: what it shows, and that no end of its own ends a run."""

import contextlib
import json
import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import wandb
from helpers.settings import TINY, without_timings
from wandb.proto import wandb_internal_pb2

import offline_rl as orl
from offline_rl.tracking import wandb as wandb_view
from offline_rl.tracking.wandb_process import SeedRun

SETTINGS = {**TINY, "steps": 200, "eval_every": 20, "log_every": 40, "final_episodes": 3, "wandb": True}
SLOW = {**SETTINGS, "workers": None, "steps": 2000, "eval_every": 500, "log_every": 50, "hidden_dims": [128, 128]}
"""Trains for some seconds, so that something can happen on the way."""


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Leave nothing of the user's W&B in reach."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC", raising=False)
    for kind in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.delenv(f"XDG_{kind}_HOME", raising=False)


def records(path):
    """Read W&B's file of an offline run, a LevelDB log of protobufs."""
    content, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        place += 7
        if kind == 0:
            break
        record += content[place : place + size]
        place += size
        if kind in (1, 4):
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def values_of(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


class Shown:
    """What W&B holds of an offline run."""

    def __init__(self, path):
        self.records = list(records(path))
        self.run = next(record.run for record in self.records if record.WhichOneof("record_type") == "run")
        self.config = values_of(self.run.config.update)
        self.history = [
            {name: value for name, value in values_of(record.history.item).items() if not name.startswith("_")}
            for record in self.records
            if record.WhichOneof("record_type") == "history"
        ]
        self.artifacts = [r.artifact for r in self.records if r.WhichOneof("record_type") == "artifact"]

    @property
    def rows(self):
        """The rows of the record that were logged."""
        rows = []
        for shown in self.history:
            kinds = {name.split("/")[0] for name in shown if "/" in name}
            if kinds:
                (kind,) = kinds
                values = {name.removeprefix(f"{kind}/"): value for name, value in shown.items()}
                rows.append({"kind": kind, "seed": self.config["seed"], **values})
        return rows

    def curve(self, name):
        return [(shown["step"], shown[name]) for shown in self.history if name in shown]


def shown_in(folder):
    """Read all offline runs in a folder, by seed; of several of one seed the newest."""
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    runs = [Shown(path) for path in paths]
    return {run.config["seed"]: run for run in runs}


def of_seed(rows, seed):
    return [row for row in rows if row["seed"] == seed]


def command(out, settings):
    flags = [f"--{name}={value}" for name, value in {**settings, "out": str(out)}.items()]
    return [sys.executable, "-P", "-m", "offline_rl", "train", "td3_bc", "--dataset=hopper-demo", *flags]


def test_an_offline_run_read_back_equals_the_record_and_shows_its_curve(tmp_path, caplog):
    caplog.set_level(logging.INFO, "offline_rl")
    out = tmp_path / "my run"
    settings = {
        **SETTINGS,
        "wandb_tags": ["a", "b"],
        "wandb_project": "p",
        "wandb_entity": "me",
        "wandb_artifact": True,
    }
    each = {"discount": [0.9, 0.8]}
    run = orl.train("td3_bc", "hopper-demo", seeds=[0, 3], alpha=1.5, each=each, out=str(out), **settings)
    shown = shown_in(out)
    assert set(shown) == {0, 3}
    for seed, view in shown.items():
        assert view.rows == of_seed(run.rows, seed)
        assert (view.run.project, view.run.entity, view.run.run_group) == ("p", "me", "my run")
        assert (view.run.display_name, sorted(view.run.tags)) == (f"my run-seed-{seed}", ["a", "b"])
        assert view.config["alpha"] == 1.5
        assert view.config["discount"] == {0: 0.9, 3: 0.8}[seed]
        assert view.config["steps"] == 200
        assert view.config["dataset"] == "hopper-demo"
        assert view.config["versions"] == run.config["versions"]
        assert [artifact.name for artifact in view.artifacts] == [f"my_run-seed-{seed}"]
        files = {entry.path for entry in view.artifacts[0].manifest.contents}
        assert files == {"agent.json", "weights.safetensors"}
        _check_curve(view, of_seed(run.rows, seed))
    assert caplog.text.count("W&B: no API key, offline; upload later with: wandb sync ") == 1


def _check_curve(view, rows):
    """Every W&B run shows its learning curve and two summary scores."""
    evaluations = [row for row in rows if row["kind"] != "train"]
    assert len(evaluations) == 11
    assert view.curve("score") == [(row["step"], row["score"]) for row in evaluations]
    last = sum(row["score"] for row in evaluations[-10:]) / 10
    assert view.curve("score_mean_10")[-1] == (200, pytest.approx(last))
    metrics = [r.metric for r in view.records if r.WhichOneof("record_type") == "metric"]
    assert ("*", "step") in [(metric.glob_name, metric.step_metric) for metric in metrics]


def test_in_a_sweep_the_first_run_is_the_trial_and_has_the_mean_of_all_seeds(tmp_path, monkeypatch):
    """W&B's agent names a file that would replace the config; the command line counts."""
    parameters = tmp_path / "config.yaml"
    parameters.write_text("wandb_version: 1\nalpha:\n  value: 77.0\n")
    agent = {"SWEEP_ID": "abcd1234", "SWEEP_PARAM_PATH": str(parameters), "RUN_ID": "trial123", "MODE": "offline"}
    for name, value in agent.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = orl.train("td3_bc", "hopper-demo", seeds=[4, 2], alpha=1.5, out=str(tmp_path / "run"), **SETTINGS)
    shown = shown_in(tmp_path / "run")
    assert (shown[4].run.run_id, shown[4].run.sweep_id) == ("trial123", "abcd1234")
    assert shown[2].run.run_id != "trial123"
    assert shown[2].run.sweep_id == ""
    assert shown[4].config["alpha"] == shown[2].config["alpha"] == 1.5
    by_seed = [[row for row in of_seed(run.rows, seed) if row["kind"] != "train"] for seed in (4, 2)]
    means = [(a["step"], pytest.approx((a["score"] + b["score"]) / 2)) for a, b in zip(*by_seed, strict=True)]
    assert shown[4].curve("score") == means
    assert shown[2].curve("score") == [(row["step"], row["score"]) for row in by_seed[1]]
    assert all(view.rows == of_seed(run.rows, seed) for seed, view in shown.items())


def test_a_run_of_a_w_and_b_agent_has_a_folder_of_its_own(tmp_path, monkeypatch):
    """Two agents of one sweep start at the same moment, in one place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
    monkeypatch.setenv("WANDB_RUN_ID", "trial123")
    settings = {**TINY, "steps": 10, "eval_every": 0, "final_episodes": 0}
    assert orl.train("bc", "hopper-demo", **settings).path == Path("runs/bc-hopper-demo-trial123")


@pytest.mark.slow
def test_a_resumed_run_is_whole_in_w_and_b(tmp_path):
    out = tmp_path / "run"
    settings = {**SLOW, "checkpoint_seconds": 0.2}
    process = start(out, settings)
    wait_until(lambda: len(rows_of(out)) > 5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    before = shown_in(out)[0]
    assert 0 < len(before.rows) < len(rows_of(out)) + 1
    rows = orl.train("td3_bc", "hopper-demo", out=str(out), resume=True, **{**settings, "workers": 0}).rows
    after = shown_in(out)[0]
    assert after.run.run_id != before.run.run_id
    assert after.rows == rows
    assert without_timings(before.rows) == without_timings(rows[: len(before.rows)])


def start(out, settings):
    return subprocess.Popen(command(out, settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def rows_of(out):
    return orl.Run(out).rows if (out / "metrics.jsonl").exists() else []


def processes_of(pid, what):
    return [child for child in psutil.Process(pid).children(recursive=True) if what in " ".join(child.cmdline())]


def kill(name):
    def fault(process, folder):
        (found,) = processes_of(process.pid, name)
        found.kill()

    return fault


def put_a_file_in_place(process, folder):
    # Asleep, so that W&B sees no moment without either.
    asleep = [*processes_of(process.pid, "wandb_process"), *processes_of(process.pid, "wandb-core")]
    for child in asleep:
        child.suspend()
    shutil.rmtree(folder / "wandb")
    (folder / "wandb").write_text("in the way")
    for child in asleep:
        child.resume()


@pytest.fixture
def small_disk(tmp_path):
    """Give a folder on a disk of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(process, folder):
    with pytest.raises(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def break_in_mid_run(out, folder, fault):
    """Train, break W&B once it has logged some rows, and see that the run ends well; return its warnings."""
    process = start(out, SLOW)
    wait_until(lambda: list(folder.glob("wandb/offline-run-*/*.wandb")) and len(rows_of(out)) > 3)
    fault(process, folder)
    assert process.poll() is None
    at = rows_of(out)[-1]["step"]
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert at < SLOW["steps"] // 2
    rows = rows_of(out)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(50, 2001, 50))
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == list(range(0, 2000, 500))
    assert [row["step"] for row in rows if row["kind"] == "final"] == [2000]
    assert orl.Run(out).agents[0].act([0.0] * 11).shape == (3,)
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("warning: ")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb_process", "wandb-core"])
def test_w_and_b_that_dies_is_started_again_and_shows_the_whole_run(tmp_path, name):
    out = tmp_path / "run"
    assert break_in_mid_run(out, out, kill(name)) == []
    # Their names begin with the time; what the first one has left may be no whole file.
    *_, last = sorted(out.glob("wandb/offline-run-*/*.wandb"))
    assert Shown(last).rows == orl.Run(out).rows


@pytest.mark.slow
def test_a_run_outlives_w_and_b_that_dies_again_and_again(tmp_path, monkeypatch):
    """What stands in for W&B's process never gets as far as W&B."""
    (tmp_path / "broken.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    started = []

    def module(name):
        started.append(name)
        return [sys.executable, str(tmp_path / "broken.py")]

    monkeypatch.setattr(wandb_view, "python_module", module)
    with pytest.warns(UserWarning) as warned:
        run = orl.train("bc", "hopper-demo", out=str(tmp_path / "run"), **SHORT)
    (message,) = [str(entry.message) for entry in warned]
    assert message == "WandbCallback failed (its process ended with status 3); training goes on without it"
    assert len(started) == 3
    assert [row["step"] for row in run.rows] == [10, 20]


@pytest.mark.slow
def test_a_run_outlives_a_file_in_the_place_of_w_and_bs_folder(tmp_path):
    out = tmp_path / "run"
    (warning,) = break_in_mid_run(out, out, put_a_file_in_place)
    assert "Not a directory" in warning


@pytest.mark.slow
def test_a_run_outlives_a_full_disk_under_w_and_b(tmp_path, small_disk, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(small_disk))
    (warning,) = break_in_mid_run(tmp_path / "run", small_disk, fill)
    assert "No space left on device" in warning


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb_process", "wandb-core"])
def test_a_run_waits_only_so_long_for_w_and_b_that_hangs(tmp_path, monkeypatch, name):
    monkeypatch.setattr(wandb_view, "CLOSE_SECONDS", 3.0)
    out, stopped = tmp_path / "run", []

    def hang():
        wait_until(lambda: list(out.glob("wandb/offline-run-*/*.wandb")) and len(rows_of(out)) > 3)
        (found,) = processes_of(os.getpid(), name)
        found.suspend()
        stopped.append((found, rows_of(out)[-1]["step"]))

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        with pytest.warns(UserWarning, match="W&B has not finished within 3 s"):
            run = orl.train("td3_bc", "hopper-demo", out=str(out), **SLOW)
    finally:
        thread.join()
        for process, _ in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert stopped[0][1] < SLOW["steps"]
    assert run.rows[-1]["kind"] == "final"


@pytest.mark.slow
def test_nothing_of_w_and_b_survives_a_run_that_is_killed(tmp_path):
    out = tmp_path / "run"
    process = start(out, SLOW)
    wait_until(lambda: list(out.glob("wandb/offline-run-*/*.wandb")) and len(rows_of(out)) > 3)
    family = psutil.Process(process.pid).children(recursive=True)
    assert processes_of(process.pid, "wandb-core")
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


SHORT = {**SETTINGS, "steps": 20, "eval_every": 0, "final_episodes": 0, "log_every": 10}


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WANDB_MODE": "online"}, "API key"),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "W&B has not finished within 2 s"),
        ({"WANDB_MODE": "nonsense"}, "nonsense"),
    ],
)
def test_w_and_b_that_cannot_begin_is_one_warning(tmp_path, monkeypatch, environment, reason):
    monkeypatch.setattr(wandb_view, "CLOSE_SECONDS", 30.0 if reason != "W&B has not finished within 2 s" else 2.0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning) as warned:
        run = orl.train("bc", "hopper-demo", out=str(tmp_path / "run"), **SHORT)
    (message,) = [str(entry.message) for entry in warned]
    assert reason in message
    assert message.endswith("training goes on without it")
    assert [row["step"] for row in run.rows] == [10, 20]


def test_w_and_b_is_off_unless_asked_for_and_can_be_disabled(tmp_path, monkeypatch):
    orl.train("bc", "hopper-demo", out=str(tmp_path / "off"), **{**SHORT, "wandb": False})
    assert not list((tmp_path / "off").glob("wandb*"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    orl.train("bc", "hopper-demo", out=str(tmp_path / "disabled"), **SHORT)
    assert not list((tmp_path / "disabled").glob("wandb/*run*"))


def test_rows_that_w_and_b_has_already_are_not_logged_again(tmp_path, monkeypatch):
    """What an online run does when it is resumed, with a run that has three rows."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    seed = {"kind": "train", "seed": 0}
    wandb_run = wandb.init(mode="offline", dir=str(tmp_path), config={"seed": 0}, reinit="create_new")
    first = SeedRun(wandb_run, [0])
    for step in (1, 2, 3):
        first.log({**seed, "step": step, "loss": 1.0})
    second = SeedRun(wandb_run, [0])
    for step in range(1, 6):
        second.log({**seed, "step": step, "loss": 2.0})
    wandb_run.finish()
    wandb.teardown()
    shown = shown_in(tmp_path)[0]
    assert [(row["step"], row["loss"]) for row in shown.rows] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0)]
