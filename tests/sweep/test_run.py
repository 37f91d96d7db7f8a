"""Whole sweeps with real training: started, killed, stopped, gone on with."""

import json
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from helpers.settings import without_timings
from helpers.sweeps import TINY, write_sweep

import offline_rl as orl
from offline_rl.cli.main import main
from offline_rl.processes.interpreter import child_environment, python_module
from offline_rl.sweep.file import read_sweep
from offline_rl.sweep.search import Search

PRDC = Path(__file__).parent.parent.parent / "benchmarks" / "sweeps" / "prdc.yaml"


def start(file, out, *more):
    command = [*python_module("offline_rl"), "sweep", str(file), f"--out={out}", "--launcher=local", *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=child_environment(), stdout=pipe, stderr=pipe, text=True)


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def wait_until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def reproduce(command, out):
    """Run a printed command, but with the seed of the trials and into another folder."""
    words = [word for word in shlex.split(command)[1:] if not word.startswith("--out=")]
    assert words[-5:] == ["--seeds", "10", "11", "12", "13"]
    assert main([*words[:-5], "--seeds=0", f"--out={out}", "--workers=0"]) == 0
    return orl.Run(out)


def test_a_sweep_runs_its_trials_and_says_how_the_best_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "try.yaml")
    assert main(["sweep", "try.yaml", "--run_cap=3", "--steps", "100"]) == 0
    printed = capsys.readouterr()
    summary = summary_of(tmp_path / "sweeps" / "try")
    trials, best = summary["trials"], summary["best"]
    assert [trial["state"] for trial in trials] == ["finished"] * 3
    assert best["value"] == max(trial["value"] for trial in trials)
    for trial in trials:
        run = orl.Run(tmp_path / "sweeps" / "try" / trial["run"])
        assert run.scores == {0: trial["value"]}
        assert run.config["config"]["alpha"] == trial["parameters"]["alpha"]
        assert run.config["options"]["steps"] == 100
        assert run.config["dataset"]["source"] == "hopper-demo"
    assert best["command"] in printed.out
    assert "optimistic: it is the highest of 3 trials, on seed 0, on which it was chosen" in printed.out
    assert summary["caution"] in printed.out
    assert "importance: not computed from 3 finished trials; it needs 10" in printed.out
    assert "trial 3/3  finished  score " in printed.err
    assert (tmp_path / "sweeps" / "try" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    again = reproduce(best["command"], tmp_path / "again")
    assert again.scores == {0: best["value"]}
    assert without_timings(again.rows) == without_timings(orl.Run(tmp_path / "sweeps" / "try" / best["run"]).rows)


def test_the_same_command_does_nothing_twice_and_a_larger_cap_adds(tmp_path):
    file, out = write_sweep(tmp_path / "sweep.yaml", run_cap=1), tmp_path / "out"
    assert main(["sweep", str(file), f"--out={out}"]) == 0
    (first,) = (out / "runs").iterdir()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert main(["sweep", str(file), f"--out={out}", "--run-cap", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert len(list((out / "runs").iterdir())) == 2


def test_another_sweeps_folder_is_refused(tmp_path, capsys):
    file, out = write_sweep(tmp_path / "sweep.yaml", run_cap=1), tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert main(["sweep", str(file), f"--out={tmp_path / 'full'}"]) == 2
    assert "full exists and is no sweep's folder; choose another --out" in capsys.readouterr().err
    assert main(["sweep", str(file), f"--out={out}", "--stps=3"]) == 2
    assert "unknown option --stps; did you mean --steps?" in capsys.readouterr().err
    assert main(["sweep", str(file), f"--out={out}", "--members=3"]) == 2
    assert "--members is now --concurrent_trials" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "sweep.json").write_text('{"format": 1, "file": {"method": "grid"}, "overrides": {}, "run_cap": null}')
    assert main(["sweep", str(file), f"--out={out}"]) == 2
    assert "holds a sweep made from another file or options" in capsys.readouterr().err


def test_a_trial_that_fails_is_named_and_the_others_go_on(tmp_path, capsys):
    parameters = {"dataset": {"values": ["hopper-demo", "no-such-file.hdf5"]}}
    file = write_sweep(tmp_path / "sweep.yaml", method="grid", parameters=parameters)
    assert main(["sweep", str(file), f"--out={tmp_path / 'out'}"]) == 0
    assert [trial["state"] for trial in summary_of(tmp_path / "out")["trials"]] == ["finished", "failed"]
    assert "trial 2 failed: there is no file 'no-such-file.hdf5'" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_makes_checkpoints_and_the_same_command_goes_on(tmp_path, number):
    """Ctrl-C reaches the command alone, Slurm's SIGTERM all its processes; neither may count as a trial's failure."""
    file = write_sweep(tmp_path / "sweep.yaml", options={"steps": 10_000, "eval_every": 5000}, run_cap=2)
    process = start(file, tmp_path / "out")
    wait_until(lambda: len(list((tmp_path / "out").glob("runs/*/checkpoint/*.safetensors"))) == 2)
    family = psutil.Process(process.pid).children(recursive=True) if number == signal.SIGTERM else []
    for child in family:
        child.send_signal(number)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "stopped; the same command goes on from there" in error
    assert "Traceback" not in error
    states = {trial.state for trial in Search(read_sweep(file), tmp_path / "out").trials()}
    assert "running" in states
    assert "failed" not in states
    process = start(file, tmp_path / "out")
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert re.search(r"trial [12]: resumed at step \d+\n", error)
    assert [trial["state"] for trial in summary_of(tmp_path / "out")["trials"]] == ["finished"] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_sweep_runs_only_what_is_missing(tmp_path):
    out = tmp_path / "out"
    short = {name: str(value) for name, value in {**TINY, "steps": 300, "eval_every": 100, "seeds": [0]}.items()}
    command = PRDC, out, "--run_cap=12", *(f"--{name}={value}" for name, value in short.items())
    process = start(*command)
    wait_until(lambda: len(list(out.glob("runs/*/curve.png"))) >= 5)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert family
    trials = Search(read_sweep(PRDC, short, 12), out).trials()
    finished = {trial.number for trial in trials if trial.state == "finished"}
    assert 4 <= len(finished) < 12
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/curve.png")}

    process = start(*command)
    output, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    assert {path: path.stat().st_mtime_ns for path in before} == before
    summary = summary_of(out)
    assert [trial["state"] for trial in summary["trials"]] == ["finished"] * 12
    assert len(list((out / "runs").iterdir())) == len({trial["run"] for trial in summary["trials"]}) == 12
    assert summary["best"]["command"] in output
    again = reproduce(summary["best"]["command"], tmp_path / "again")
    assert again.scores == {0: summary["best"]["value"]}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("goal", "name"), [("maximize", "evaluation/score"), ("minimize", "train/actor_loss")])
def test_hyperband_stops_a_third_of_sixteen_trials(tmp_path, goal, name):
    file = write_sweep(
        tmp_path / "sweep.yaml",
        options={"steps": 500, "eval_every": 50, "log_every": 50},
        metric={"name": name, "goal": goal},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 3},
        run_cap=16,
        parameters={"actor_learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-6, "max": 1.0e-2}},
    )
    assert main(["sweep", str(file), f"--out={tmp_path / 'out'}"]) == 0
    trials = summary_of(tmp_path / "out")["trials"]
    stopped = [trial for trial in trials if trial["state"] == "stopped early"]
    assert len(trials) == 16
    assert 6 <= len(stopped) <= 15
    runs = [tmp_path / "out" / trial["run"] for trial in stopped]
    assert not any((run / "agents").exists() for run in runs)
    # A run that takes a second may have made its last update when it is told.
    assert sum(max(row["step"] for row in orl.Run(run).rows) < 500 for run in runs) >= 6


def test_the_help_of_sweep_says_what_each_option_is_for(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    assert "Number of trials; by default what the file says." in " ".join(capsys.readouterr().out.split())
