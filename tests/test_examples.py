import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import offline_rl as orl
from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.envs import find_task
from offline_rl.envs.vector import rollout
from offline_rl.tracking.record import read_rows

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*arguments, cwd, **environment):
    """Run Python on one thread and return what it printed."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Give what runs an example in this process, its runs without workers, and returns what it printed.

    That a plain script may start workers is tested with the runs.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("train", "finetune"):
        monkeypatch.setattr(orl, name, functools.partial(getattr(orl, name), workers=0))

    def run(name):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_a_loop_of_your_own_learns_to_go_home(tmp_path, example):
    example("own_loop.py")
    agent = orl.load_agent(tmp_path / "runs" / "own-loop")
    corners = np.array([[0.8, 0.8], [-0.8, 0.8], [0.8, -0.8], [-0.8, -0.8]])
    assert (np.sign(agent.act(corners)) == -np.sign(corners)).all()


def test_what_is_learned_from_a_controllers_log_beats_the_controller_and_its_best_day(tmp_path, example):
    printed = example("own_data.py")
    _, best = map(float, re.search(r"earned (.*) on average, the best (.*), of", printed).groups())
    controller = float(re.search(r"the controller earns (\S+)", printed)[1])
    agent = float(re.search(r"the agent earns (\S+)", printed)[1])
    assert controller < best < agent
    dataset = orl.load_dataset(tmp_path / "tank.csv")
    assert 0 < dataset.terminated.sum() < len(dataset.episode_returns), "some days end early"
    with (tmp_path / "tank.csv").open() as file:
        rows = len(file.readlines()) - 1
    cut = len(dataset.episode_returns) - int(dataset.terminated.sum())
    assert len(dataset) == rows - cut, "the successor of a cut day's last row is in no row"


def test_an_agent_is_trained_and_acts(tmp_path, example):
    printed = example("train_and_act.py")
    earned, score = map(float, re.search(r"it earned (\S+), a score of (\S+)$", printed).groups())
    agent = orl.load_agent(tmp_path / "runs" / "td3_bc-hopper-demo" / "agents" / "seed-0")
    again = rollout(agent.act, find_task("hopper"), "d4rl", [0]).returns[0]
    assert earned == pytest.approx(again, abs=0.06)
    assert score == pytest.approx(orl.normalized_score("hopper", again), abs=0.06)


def test_a_callback_sees_every_evaluation(tmp_path, example):
    printed = example("callback.py")
    rows = [row for row in orl.Run(tmp_path / "runs" / "td3_bc-hopper-demo").rows if row["kind"] == "evaluation"]
    assert [row["step"] for row in rows] == [0, 100, 200, 300, 400]
    best = max(rows, key=lambda row: row["score"])
    shown = [f"step {row['step']}: score {row['score']:.1f}" for row in rows]
    assert printed.splitlines() == [*shown, f"best: {best['score']:.1f} at step {best['step']}"]


def test_a_run_goes_on_online(tmp_path, example):
    printed = example("finetune_online.py")
    name = "iql-hopper-demo"
    records = [read_rows(tmp_path / "runs" / folder / "metrics.jsonl") for folder in (name, f"{name}-online")]
    offline, online = ([row for row in rows if row["kind"] == "final"] for rows in records)
    assert [row["step"] for row in online] == [500, 1000]
    assert f"offline {offline[0]['score']:.1f}, online {online[1]['score']:.1f};" in printed


@pytest.mark.slow
def test_a_package_of_ones_own_adds_an_algorithm(tmp_path):
    source, installed = tmp_path / "plugin", tmp_path / "installed"
    shutil.copytree(EXAMPLES / "plugin", source)  # building leaves things beside the sources
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", installed]
    run("-m", *install, source, cwd=tmp_path)

    def command(*arguments):
        path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
        return run("-m", "offline_rl", *arguments, cwd=tmp_path, PYTHONPATH=path)

    assert re.search(r"^  weighted_bc +– Return-weighted behaviour cloning: imitates", command("algos"), re.MULTILINE)
    assert "temperature" in command("train", "weighted_bc", "--help")
    options = ["--temperature=0.5", "--steps=50", "--final_episodes=2", "--out=run", "--workers=0"]
    assert "normalised score" in command("train", "weighted_bc", "--dataset", "hopper-demo", *options)
    assert "score" in command("evaluate", "run", "--episodes", "1")


def test_an_exported_policy_is_served_without_torch(tmp_path):
    agent = TD3BC(Config(hidden_dims=[8]), 3, 2)
    agent.export_onnx(tmp_path / "policy.onnx")
    command = [sys.executable, str(EXAMPLES / "serve_onnx.py"), "policy.onnx", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as server:
        try:
            address = server.stdout.readline().split()[-1]
            origin = json.load(urllib.request.urlopen(address))
            question = {"observation": [[0.1, 0.2, 0.3], [1, 2, 3]]}
            answer = json.load(urllib.request.urlopen(address, json.dumps(question).encode()))
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(address, b'{"observation": [1, 2]}')
            libraries = Path(f"/proc/{server.pid}/maps").read_text()
        finally:
            server.kill()
    assert "onnxruntime" in libraries
    assert "libtorch" not in libraries
    assert origin["algorithm"] == "td3_bc"
    assert np.allclose(answer["action"], agent.act(question["observation"]), atol=1e-5)
