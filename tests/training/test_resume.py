"""A run goes on by its folder alone, to the bytes that it would have ended in."""

import json
import logging
import signal

import pytest
from helpers.datasets import random_dataset
from helpers.settings import TINY, without_timings

import offline_rl as orl
from offline_rl.cli.main import main
from offline_rl.errors import Interrupted
from offline_rl.kernels.choice import precision_of
from offline_rl.training.checkpoint import Checkpoint
from offline_rl.training.options import FREE_OPTIONS, RESULT_OPTIONS, TrainOptions

SETTINGS = {**TINY, "seeds": [3, 4], "steps": 60, "log_every": 10, "eval_every": 0, "final_episodes": 2, "alpha": 3.0}


def weights(path, seed=3):
    return (path / "agents" / f"seed-{seed}" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Give a run that was never stopped."""
    return orl.train("td3_bc", "hopper-demo", out=str(tmp_path_factory.mktemp("straight") / "run"), **SETTINGS)


def stopped(path, **more):
    """Stop a run on its way, as a signal would."""

    def stop_once(row):
        if row["kind"] == "train" and not seen:
            seen.append(row)
            signal.raise_signal(signal.SIGTERM)

    seen = []
    with pytest.raises(Interrupted) as stop:
        orl.train("td3_bc", "hopper-demo", out=str(path), callbacks=[stop_once], **{**SETTINGS, **more})
    return stop.value


def test_a_stopped_run_goes_on_by_its_folder_alone(straight, tmp_path, capsys):
    """Broken by an option of the run that is not taken up again."""
    path = tmp_path / "run"
    assert str(stopped(path)).endswith(f"offline-rl resume {path} goes on from there")
    assert 0 < Checkpoint.load(path).step < 60
    assert main(["resume", str(path), "--quiet", "--workers", "1"]) == 0
    assert "seed 4, 2 episodes" in capsys.readouterr().out
    assert [weights(path, seed) for seed in (3, 4)] == [weights(straight.path, seed) for seed in (3, 4)]
    assert without_timings(orl.Run(path).rows) == without_timings(straight.rows)


def test_agents_with_settings_of_their_own_go_on(tmp_path):
    path, each = tmp_path / "run", {"alpha": [1.0, 7.5]}
    settings = {name: value for name, value in SETTINGS.items() if name != "alpha"}
    run = orl.train("td3_bc", "hopper-demo", out=str(path), each=each, **settings)
    longer = orl.resume(run, steps=80, quiet=True, workers=0)
    assert longer.config["options"]["steps"] == 80
    assert [agent.config.alpha for agent in longer.agents.values()] == each["alpha"]


def test_a_run_of_a_dataset_in_memory_is_given_it_again(tmp_path):
    data, settings = random_dataset(200), {**TINY, "steps": 20, "eval_every": 0, "final_episodes": 0}
    run = orl.train("bc", data, out=str(tmp_path / "run"), **settings)
    with pytest.raises(orl.RunError, match="was trained on a dataset in memory; give it again with dataset="):
        orl.resume(run)
    orl.resume(run, dataset=data, steps=30, quiet=True, workers=0)
    assert Checkpoint.load(run.path).step == 30


def test_an_online_phase_goes_on_longer_by_its_own_steps(straight, tmp_path):
    settings = {"quiet": True, "workers": 0}
    online = orl.finetune(straight, steps=20, eval_every=0, final_episodes=1, out=str(tmp_path / "online"), **settings)
    longer = orl.resume(online, steps=30, **settings)
    assert Checkpoint.load(longer.path).step == 60 + 30
    assert longer.config["options"]["online_steps"] == 30
    assert "offline" in longer.config


def test_what_would_change_the_run_is_refused(straight):
    with pytest.raises(orl.RunError, match=r"eval_every is that of .* and cannot be changed when it goes on"):
        orl.resume(straight, eval_every=5)
    with pytest.raises(orl.RunError, match=r"unknown option 'step'.*did you mean steps"):
        orl.resume(straight, step=5)


def test_every_option_is_the_runs_or_free_or_of_how_it_computes():
    """Broken by a new option of which nobody has said whether a run that goes on may change it."""
    others = {"device", "mode", "precision", "out", "resume", "dataset", "task", "preset", "dynamics", "data_mode"}
    assert {*RESULT_OPTIONS, *FREE_OPTIONS} | others == set(TrainOptions.__dataclass_fields__)
    assert not {*RESULT_OPTIONS} & {*FREE_OPTIONS}
    assert [precision_of(kernel) for kernel in ("bf16", "native")] == ["bf16", "float32"]


def test_a_finished_run_is_left_as_it_is(straight, caplog):
    caplog.set_level(logging.INFO, "offline_rl")
    before = weights(straight.path)
    orl.resume(straight.path)
    assert caplog.messages == [f"{straight.path} is finished (60 updates); nothing to do"]
    assert weights(straight.path) == before


def test_a_run_records_when_and_by_which_command_it_began(straight, tmp_path):
    """And it is resumed by another command, later, all the same."""
    path = tmp_path / "a run"
    flags = [
        "--steps=20",
        "--eval_every=0",
        "--final_episodes=0",
        "--workers=0",
        "--hidden_dims",
        "8",
        "--batch_size=8",
    ]
    arguments = ["train", "bc", "--dataset", "hopper-demo", "--out", str(path), *flags]
    assert main(arguments) == 0
    before = json.loads((path / "config.json").read_text())
    assert before["command"] == f"offline-rl train bc --dataset hopper-demo --out '{path}' {' '.join(flags)}"
    assert before["started"].endswith("+00:00")
    assert main([*arguments, "--resume"]) == 0
    assert json.loads((path / "config.json").read_text()) == before
    assert straight.config["command"] is None


def test_a_folder_that_is_not_there_gets_the_nearest_name(tmp_path, capsys):
    (tmp_path / "bc-hopper-demo").mkdir()
    assert main(["resume", str(tmp_path / "bc-hopper-dem")]) == 2
    assert capsys.readouterr().err.endswith("; did you mean bc-hopper-demo?\n")
