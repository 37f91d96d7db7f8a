"""A run says what it is before it begins."""

import logging
import re
from pathlib import Path

import pytest
from helpers.datasets import random_dataset
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.agent import algorithms, find_algorithm
from offline_rl.kernels.choice import kernel_in_words
from offline_rl.training.introduction import LABEL, introduction
from offline_rl.training.memory import Memory
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Compute, Plan


def introduced(
    algorithm, overrides=None, *, resumed=False, compute=None, dataset="hopper-demo", out="runs/x", **options
):
    """Return what a run says, by label."""
    plan = Plan.make(algorithm, dataset, TrainOptions(**{"device": "cpu", **options}), overrides or {})
    lines = introduction(plan, compute or plan.compute, Path(out), Memory.of(plan), resumed=resumed)
    assert all(len(line) <= 80 for line in lines)
    facts = {}
    for line in lines:
        label = line[:LABEL].strip() or label  # noqa: F821 (the first line has one)
        facts[label] = f"{facts.get(label, '')} {line[LABEL:]}".strip()
    return facts


def test_it_tells_all_that_decides_the_numbers():
    said = introduced("td3_bc", {"alpha": 3.0}, seeds=[0, 1], steps=10_000, eval_every=2500)
    assert said["algorithm"] == "td3_bc, TD3+BC: TD3 with a behaviour-cloning term"
    assert said["objective"].startswith("min_π  -λ E[Q₁(s, π(s))] + E[(π(s) - a)²]")
    assert said["dataset"].startswith("hopper-demo: 75,000 rows in 196 episodes, mode exact, mean score 38.5")
    assert said["preset"] == "none: td3_bc uses its defaults for all tasks"
    assert said["settings"] == "alpha 3.0 (default 2.5)"
    assert said["run"] == "seeds 0, 1; 10,000 updates each; evaluated every 2,500 updates"
    assert said["compute"].startswith(
        "cpu, eager updates (10,000 updates are too few to repay compiling: --mode compile), "
    )
    assert re.fullmatch(r"at least [\d.]+ MB needed(, [\d.]+ [MG]B free)?", said["memory"])
    assert said["folder"] == "runs/x"
    assert said["stop"] == "Ctrl-C; continue with: offline-rl resume runs/x"


def test_settings_of_the_preset_are_told_once():
    said = introduced("iql", {"target_rate": 0.01, "discount": 0.9}, preset="hopper-medium-v2")
    assert said["preset"].startswith("hopper-medium-v2 (asked for): ")
    assert "given by hand: target_rate 0.01" in said["preset"]
    assert said["settings"] == "discount 0.9 (default 0.99)"
    assert introduced("iql", preset="hopper-medium-v2")["settings"] == "the defaults for the rest"
    assert introduced("td3_bc", seeds=[0, 1], each={"alpha": [1, 2.5]})["settings"] == "alpha 1, 2.5 (by seed)"


def test_a_run_that_goes_on_computes_as_it_began():
    said = introduced("bc", resumed=True, compute=Compute("cpu", "default", "compile"), out="a b")
    assert said["compute"].startswith("cpu, compiled updates, PyTorch's kernels (")
    assert said["settings"] == "those in a b/config.json"
    assert said["stop"].endswith("offline-rl resume 'a b'")
    assert "preset" not in said


def test_a_mode_that_was_asked_for_has_no_reason():
    assert introduced("td3_bc", mode="eager")["compute"].startswith("cpu, eager updates, ")


def test_a_kernel_has_its_reason():
    assert kernel_in_words("default", 3).endswith("(the native kernel takes one thread, not 3)")
    assert "oneDNN" in kernel_in_words("native+onednn")
    assert kernel_in_words("bf16") == "bf16 matrix products"


@pytest.mark.parametrize("name", algorithms())
def test_every_algorithm_has_a_title_and_an_objective(name):
    plain = introduced(name, eval_every=0, final_episodes=0)
    assert plain["algorithm"].startswith(f"{find_algorithm(name).name}, ")
    assert len(plain["algorithm"]) > 20
    assert len(plain["objective"]) > 20


def test_it_is_logged_once_unless_the_run_is_quiet(tmp_path, caplog):
    caplog.set_level(logging.INFO, "offline_rl")
    settings = {**TINY, "steps": 5, "eval_every": 0, "final_episodes": 0}
    orl.train("bc", random_dataset(100), out=str(tmp_path / "quiet"), **settings)
    assert caplog.messages == []
    orl.train("bc", random_dataset(100), out=str(tmp_path / "run"), **{**settings, "quiet": False})
    labels = [message[:LABEL].strip() for message in caplog.messages if message[:LABEL].strip()]
    assert labels[:3] == ["algorithm", "objective", "dataset"]
    assert labels.count("folder") == 1


def test_a_run_without_data_is_introduced_without_checks_of_data():
    said = introduced("parl_online", dataset="none", task="hopper", online_steps=20)
    assert said["dataset"] == "none: the agents begin with what they collect"
    assert "check" not in said
