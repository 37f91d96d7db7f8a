import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import offline_rl
from helpers.records import made
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.arguments import CommandLine, UsageError
from offline_rl.cli import main as cli
from offline_rl.cli.main import main
from offline_rl.files import sealed, write_json
from offline_rl.training.evaluation import evaluate, trace

ROOT = Path(__file__).parent.parent.parent


def process(*arguments, cwd=None):
    command = [sys.executable, "-m", "offline_rl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_misspelt_dataset_is_one_line_and_writes_nothing(tmp_path):
    done = process("train", "td3_bc", "--dataset", "hoper-medium-v2", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown dataset 'hoper-medium-v2'; did you mean 'hopper-medium-v2'?\n"
    assert not list(tmp_path.iterdir())


DEMO = ["train", "bc", "--dataset", "hopper-demo"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train?"),
        (["train", "td3bc"], "did you mean 'td3_bc'?"),
        (["train", "TD3_BC"], "did you mean 'td3_bc'?"),
        (["train", "--dataset", "hopper-demo"], "name the algorithm first"),
        (["train", "bc"], "no dataset; give --dataset"),
        (["train", "bc", "--dataset", "hopper-demo", "--task", "hoper"], "did you mean 'hopper'?"),
        (["train", "bc", "--dataset", "hopper-demo", "--task", "maze2d-umaze-v1"], "not supported yet"),
        (["train", "bc", "--dataset", "hopper-demo", "--task", "walker2d"], "17"),
        (["train", "bc", "--dataset", "hopper-demo", "--top-fracton", "1"], "did you mean --top_fraction?"),
        (["train", "bc", "--dataset", "hopper-demo", "--top_fraction=2"], "top_fraction is 2.0"),
        (["train", "bc", "--dataset", "hopper-demo", "--steps"], "--steps needs a value"),
        (["train", "bc", "--dataset", "hopper-demo", "--steps=many"], "--steps"),
        (["train", "bc", "hopper-demo"], "unexpected argument 'hopper-demo'"),
        (["train", "bc", "--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["train", "bc", "--dataset", "nowhere.hdf5"], "nowhere.hdf5"),
        (["evaluate"], "missing argument PATH"),
        (["evaluate", "nowhere"], "there is no folder nowhere"),
        (["export"], "missing argument PATH"),
        (["export", "nowhere"], "there is no folder nowhere"),
        (["export", "nowhere", "--out", "policy.onxn"], "must end with .onnx or .pt2"),
        (["export", "nowhere", "--seed", "0"], "leave out --seed"),
        (["algos", "ppo"], "unknown algorithm 'ppo'"),
        (["datasets", "hopper-medum-v2"], "did you mean 'hopper-medium-v2'?"),
        (["datasets", "download"], "missing argument NAMES"),
        (["datasets", "Download"], "unknown dataset 'Download'"),
        (["Train"], "did you mean train?"),
        ([*DEMO, "--steps", "abc"], "--steps: 'abc' is not a whole number"),
        ([*DEMO, "--learning_rate", "fast"], "--learning_rate: 'fast' is not a number"),
        ([*DEMO, "--hidden_dims", "64", "x"], "--hidden_dims: 'x' is not a whole number"),
        ([*DEMO, "--normalize=maybe"], "--normalize: 'maybe' is not True or False"),
        ([*DEMO, "--mode", "quick"], "--mode: 'quick' is not one of auto, eager, compile, cudagraph"),
        ([*DEMO, "--bs", "1"], "did you mean --batch_size?"),
        (
            ["train", "td3_bc", "--dataset", "hopper-demo", "--lr", "1"],
            "did you mean --actor_learning_rate or --critic_learning_rate?",
        ),
        (["train", "bc", "--dataset", "/"], "'/' is a folder"),
        (["collect", "random", "--task", "hopper", "--out", "x.txt"], "let its name end with .hdf5"),
        (["datasets", "download", "hoper-medium-v2"], "did you mean hopper-medium-v2?"),
        ([*DEMO, "--resume"], "name its folder with --out"),
        (
            ["train", "bc", "--resume", "--out", "nowhere"],
            "no dataset; offline-rl resume nowhere takes that of the run",
        ),
        (["resume"], "missing argument RUN"),
        (["resume", "nowhere"], "there is no folder nowhere"),
        (["resume", "nowhere", "--alpha", "3"], "unknown option --alpha"),
        ([*DEMO, "--device", "mps"], "is not supported; use cpu, cuda or auto"),
        ([*DEMO, "--device", "cuda:99"], "is not there"),
        ([*DEMO, "--batch_size", "0"], "batch_size is 0; it must be at least 1"),
        ([*DEMO, "--learning_rate", "nan"], "learning_rate is nan; it must be a finite number"),
        ([*DEMO, "--learning_rate", "0"], "must be above 0"),
        ([*DEMO, "--hidden_dims", "16", "0"], "hidden_dims is [16, 0]"),
        ([*DEMO, "--checkpoint_seconds", "-1"], "checkpoint_seconds is -1.0"),
        ([*DEMO, "--out", "/dev/null"], "/dev/null is no folder"),
        ([*DEMO, "--out", "/dev/null/x"], "cannot be written"),
        (["train", "td3_bc", "--dataset", "hopper-demo", "--policy_delay", "0"], "policy_delay is 0"),
        (["train", "prdc", "--dataset", "hopper-demo", "--neighbors", "hnsw"], "--neighbors"),
    ],
)
def test_mistakes_are_one_sentence_with_a_remedy(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not list(tmp_path.iterdir())


TYPES = {"seeds": list[int], "hidden_dims": list[int], "alpha": float, "resume": bool, "task": str | None, "out": str}


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["--seeds", "0", "1", "2"], {"seeds": "[0, 1, 2]"}),
        (["--seeds=[0, 1]"], {"seeds": "[0, 1]"}),
        (["--seeds=0,1"], {"seeds": "[0, 1]"}),
        (["--seeds", "[0, 1]", "--alpha", "3"], {"seeds": "[0, 1]", "alpha": "3"}),
        (["--hidden-dims", "64", "64", "--resume"], {"hidden_dims": "[64, 64]", "resume": "True"}),
        (["--resume=False", "--alpha=-1e-3"], {"resume": "False", "alpha": "-1e-3"}),
        (["--alpha", "-1"], {"alpha": "-1"}),
        (["--out=a=b"], {"out": "a=b"}),
        (["--resume", "--out", "x"], {"resume": "True", "out": "x"}),
        (["--resume", "False", "--out", "x"], {"resume": "False", "out": "x"}),
    ],
)
def test_spellings_of_people_and_of_sweep_agents(typed, given):
    assert CommandLine(typed, TYPES).given == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normalize: maybe", "--normalize"),
        ("dynamics: foo", "--dynamics"),
        ("steps: many", "--steps"),
        ("alhpa: 1", "unknown option 'alhpa'; did you mean alpha"),
        ("1: 2", "unknown option '1'"),
        ("- a", "holds no options"),
        ("dataset: {}", "is no whole config.json"),
        ("a: [", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_mistakes_in_a_config_file_are_one_sentence(text, message, tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    arguments = ["train", "td3_bc", "--config", str(file), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--dataset", "hopper-demo"] if "dataset" not in text else arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_two_values_for_one_option_are_refused():
    with pytest.raises(UsageError, match="unexpected argument '4'"):
        CommandLine(["--alpha", "3", "4"], TYPES)


@pytest.mark.parametrize(
    "command",
    [
        *([], ["--help"], ["train", "--help"], ["evaluate", "--help"], ["datasets", "--help"]),
        *(["finetune", "--help"], ["collect", "--help"]),
        ["datasets", "download", "--help"],
    ],
)
def test_help_is_everywhere(command):
    done = offline_rl(*command)
    assert done.returncode == 0
    assert "usage" in done.stdout or "offline-rl train ALGO" in done.stdout


@pytest.mark.parametrize(
    ("command", "places"),
    [("benchmark", "SUITE"), ("report", "PLACES"), ("compare", "FIRST SECOND"), ("algos", "[NAME]")],
)
def test_help_shows_by_place_what_is_given_by_place(command, places, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert f" {places}" in usage
    assert f"--{places.lower()}" not in rest


def test_help_shows_what_is_typed(capsys):
    """Broken by a parser that spells options as Python's types."""
    with pytest.raises(SystemExit):
        main(["train", "td3_bc", "--help"])
    text = capsys.readouterr().out
    for shown in ("--wandb [True|False]", "--seeds INT [INT ...]", "--out TEXT", "--data_mode {d4rl,exact}"):
        assert shown in text
    words = " ".join(text.replace("│", " ").split())
    assert "One independent agent is trained for each seed. (default: 0; at least 0)" in words
    assert "(default: 256 256; at least 1)" in words
    assert "by default runs/ALGORITHM-DATASET" in words
    assert "{None}" not in text


@pytest.mark.parametrize("command", [["sweep", "--help"], ["datasets", "download", "--help"], ["benchmark", "--help"]])
def test_help_fits_the_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(command)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "options"),
    [("train", ["--dataset", "--eval_every"]), ("finetune", ["--steps", "--eval_every"]), ("collect", ["--task"])],
)
def test_help_lists_what_is_common_before_anything_is_named(command, options, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in options)
    assert not re.search(r"default: (None|\)|'')", text)


@pytest.mark.parametrize("command", [[], ["algos"], ["algos", "iql"]])
def test_what_is_listed_fits_the_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(command) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_config_of_another_algorithms_run_is_known_as_such(trained, capsys):
    folder, _ = trained
    assert main(["train", "td3_bc", "--config", str(folder / "run" / "config.json"), "--out", str(folder / "no")]) == 2
    said = capsys.readouterr().err
    assert "config.json of a run of bc, whose 'top_fraction' is no option here" in said
    assert "offline-rl train bc" in said


def test_what_is_given_by_place_may_be_named(capsys):
    """Broken by a name that leaves its place open."""
    for arguments in (["--suite", "none.yaml"], ["none.yaml"]):
        assert main(["benchmark", *arguments]) == 2
        assert capsys.readouterr().err.startswith("error: none.yaml cannot be read")
    assert main(["compare", "--second", "a"]) == 2
    assert capsys.readouterr().err == "error: missing argument FIRST; see --help\n"


def test_help_of_an_algorithm_has_a_sentence_for_each_setting():
    text = " ".join(offline_rl("train", "td3_bc", "--help").stdout.replace("│", " ").split())
    assert "Weight of the Q term against the behaviour-cloning term." in text
    assert "Updates of each agent on the dataset." in text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "settings.yaml").write_text(
        "hidden_dims: [16]\nbatch_size: 16\ntop_fraction: 0.5\nsteps: 30\nlearning_rate: 1e-3\ndata_mode: d4rl\n"
    )
    done = process(
        *["train", "bc", "--dataset", "hopper-demo", "--config", "settings.yaml", "--top-fraction=0.25"],
        *["--eval_every", "0", "--final-episodes", "2", "--seeds", "0", "1", "--out", "run", "--workers", "1"],
        cwd=folder,
    )
    return folder, done


def test_training_prints_a_table(trained):
    _, done = trained
    assert done.returncode == 0, done.stderr
    assert "bc on hopper-demo, 30 updates" in done.stdout
    for line in ("seed 0, 2 episodes", "seed 1, 2 episodes", "mean of 2 seeds", "mean of the data"):
        assert line in done.stdout
    assert "step 30/30" in done.stderr


def test_flags_beat_the_config_file_and_it_beats_the_defaults(trained):
    folder, _ = trained
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["config"] == {
        "hidden_dims": [16], "batch_size": 16, "normalize": True, "top_fraction": 0.25, "learning_rate": 1e-3,
    }  # fmt: skip
    assert config["options"]["steps"] == 30
    assert config["dataset"]["mode"] == "d4rl"


def test_a_runs_own_config_repeats_it(trained):
    folder, _ = trained
    words = ["train", "bc", "--config", "run/config.json", "--out", "again", "--quiet", "--workers=0"]
    done = offline_rl(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    names = [f"agents/seed-{seed}/weights.safetensors" for seed in (0, 1)]
    assert all((folder / "run" / name).read_bytes() == (folder / "again" / name).read_bytes() for name in names)


def test_evaluate_scores_a_run_and_an_agent(trained):
    folder, _ = trained
    all_of_them = json.loads(process("evaluate", "run", "--episodes", "3", "--json", cwd=folder).stdout)
    one = json.loads(offline_rl("evaluate", "--json", "run/agents/seed-1", "--episodes=3", cwd=folder).stdout)
    assert [result["agent"] for result in all_of_them] == ["run/agents/seed-0", "run/agents/seed-1"]
    assert one[0]["score"] == all_of_them[1]["score"]
    assert "D4RL" in offline_rl("evaluate", "--help").stdout


def test_evaluate_says_how_far_the_mean_over_seeds_can_be_trusted(trained, capsys):
    folder, _ = trained
    assert main(["evaluate", str(folder / "run"), "--episodes", "2"]) == 0
    title, _, *agents, mean, deviation, interval = capsys.readouterr().out.splitlines()
    scores = [evaluate(folder / "run" / "agents" / f"seed-{seed}", episodes=2).scores.mean() for seed in (0, 1)]
    half = 12.706 * np.std(scores, ddof=1) / np.sqrt(2)  # t of one degree of freedom
    assert title == f"{folder / 'run'} on Hopper-v4, d4rl dynamics, 2 episodes for each agent"
    assert mean.startswith("  mean of 2 seeds  ")
    assert mean.endswith(f"  {np.mean(scores):.1f} ± {half:.1f}")
    assert [line.split()[:2] for line in agents] == [["seed", "0"], ["seed", "1"]]
    assert deviation.endswith("standard deviation over its episodes")
    assert "95 % t interval" in interval
    assert main(["evaluate", str(folder / "run" / "agents" / "seed-1"), "--episodes", "1"]) == 0
    assert "mean of" not in capsys.readouterr().out


def test_export_writes_one_agents_policy(trained, capsys):
    folder, _ = trained
    done = process("export", "run", "--seed", "1", "--out", "policy.pt2", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = r"policy.pt2: bc of run/agents/seed-1; its actions differ from the agent's by at most \d\.\de[-+]\d\d\n"
    assert re.fullmatch(said, done.stdout)
    assert done.stderr == ""
    module = torch.export.load(folder / "policy.pt2").module()
    observation = torch.linspace(-1, 1, 33).view(3, 11)
    expected = orl.load_agent(folder / "run" / "agents" / "seed-1").act(observation.numpy())
    assert np.allclose(module(observation=observation), expected, atol=1e-5)
    again = ["export", str(folder / "run"), "--seed", "0", "--out", str(folder / "policy.pt2")]
    before = (folder / "policy.pt2").read_bytes()
    assert main(again) == 2
    assert "policy.pt2 exists; choose another --out, or replace it with --overwrite" in capsys.readouterr().err
    assert (folder / "policy.pt2").read_bytes() == before
    assert main([*again, "--overwrite"]) == 0
    assert (folder / "policy.pt2").read_bytes() != before
    assert main(["export", str(folder / "run")]) == 2
    assert "has agents of the seeds 0, 1; choose one with --seed" in capsys.readouterr().err


def test_algos_and_datasets_describe(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    (tmp_path / "hopper_medium-v2.hdf5").write_bytes(bytes(500_000))
    assert main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert main(["algos"]) == 0
    listed = capsys.readouterr().out
    rates = [int(rate) for rate in re.findall(r"^  \w+ +(\d+)/s ", listed, re.MULTILINE)]
    assert len(rates) > 5
    assert rates == sorted(rates, reverse=True)
    assert "Use it first: it is simple" in listed
    assert max(map(len, listed.splitlines())) <= 80
    assert main(["algos", "td3_bc"]) == 0
    described = capsys.readouterr().out
    assert "arXiv 2106.06860" in described
    assert "  alpha = 2.5   (at least 0)\n      Weight of the Q term against the behaviour-cloning term.\n" in described
    assert "  batch_size = 256   (at least 1)\n      Rows in a batch" in described
    assert main(["datasets"]) == 0
    listed = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert listed["walker2d-full-replay-v2"] == ["not", "here"]
    assert listed["hopper-medium-v2"] == ["0.5", "MB"]
    assert listed["hopper-demo"][1] == "MB"
    assert listed["ant-medium-v2"][-2:] == ["no", "score"]
    assert main(["datasets", "hopper-demo"]) == 0
    assert "episode ends      as recorded" in capsys.readouterr().out
    assert main(["datasets", "hopper-demo"]) == 0
    assert "normalised score" in capsys.readouterr().out


def test_evaluate_draws_what_an_agent_decides(tmp_path):
    settings = {**TINY, "steps": 20, "eval_every": 0, "final_episodes": 0}
    trained = orl.train("famo2o", "hopper-demo", out=str(tmp_path / "run"), **settings)
    figure = tmp_path / "balance.png"
    done = offline_rl("evaluate", trained.path, "--episodes", "1", "--figure", figure)
    assert done.returncode == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    agent = trained.agents[0]
    values = trace(agent, "hopper")["balance"]
    assert len(values) == int(evaluate(agent, "hopper", episodes=1).lengths[0])
    assert all(1 <= value <= 5 for value in values)
    assert len(set(values)) > 1
    missing = offline_rl("evaluate", trained.path, "--figure", tmp_path / "no" / "x.png")
    assert missing.returncode == 2
    assert "choose another --figure" in missing.stderr


def test_evaluate_and_the_report_tell_of_every_target(tmp_path):
    """Broken by a report of the first target alone."""
    small = {**TINY, "steps": 20, "eval_every": 0, "final_episodes": 2, "width": 8, "layers": 1, "length": 3}
    flags = [f"--{name}={value}" for name, value in small.items() if name != "quiet"]
    path = tmp_path / "run"
    trained = offline_rl(
        "train", "dt", "--dataset", "hopper-demo", "--out", str(path), *flags, "--target_returns", "300", "90"
    )
    assert trained.returncode == 0, trained.stderr
    assert "asked for 90 " in trained.stdout
    agent = path / "agents" / "seed-0"
    played = evaluate(orl.load_agent(agent), "hopper", episodes=3)
    told = offline_rl("evaluate", agent, "--episodes", "3").stdout.splitlines()
    assert [line.split("  ")[1] for line in told[2:4]] == ["agent, asked for 300", "agent, asked for 90"]
    found = json.loads(offline_rl("evaluate", agent, "--episodes", "3", "--json").stdout)[0]
    assert found["return"] == found["asked_for"]["300"]["return"] == played.returns.mean()
    assert found["asked_for"]["90"]["return"] == played.by_target_return["90"].returns.mean()


def test_what_nobody_has_foreseen_ends_in_one_sentence(monkeypatch, capsys):
    def fails(_):
        raise KeyError("inner\nname")

    monkeypatch.setitem(cli.COMMANDS, "algos", fails)
    monkeypatch.delenv("OFFLINE_RL_TRACEBACK", raising=False)
    assert cli.main(["algos"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: KeyError: ")
    assert "this is a fault of offline-rl: run it again with OFFLINE_RL_TRACEBACK=1" in said
    assert len(said.splitlines()) == 1
    monkeypatch.setenv("OFFLINE_RL_TRACEBACK", "1")
    with pytest.raises(KeyError):
        cli.main(["algos"])


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("x" * 9000), OSError(28, "No space left", "a.txt")])
def test_no_error_is_shown_at_any_length(monkeypatch, capsys, error):
    def fails(_):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "algos", fails)
    monkeypatch.delenv("OFFLINE_RL_TRACEBACK", raising=False)
    assert cli.main(["algos"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert len(said) < 600


def ascii_only(*arguments, cwd):
    code = "from offline_rl.cli.main import main; raise SystemExit(main())"
    bare = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **bare}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def test_files_are_utf_8_whatever_the_locale(tmp_path):
    (tmp_path / "results").mkdir()
    write_json(tmp_path / "results" / "0.json", sealed({**made()[0], "method": "β", "note": "±"}))
    out = ascii_only("report", "results", "--out", "r", cwd=tmp_path)
    assert out.returncode == 0, out.stderr.decode()
    assert "±" in (tmp_path / "r" / "table.md").read_text(encoding="utf-8")
    assert b"\\xb1" in out.stdout


def test_a_suite_in_utf_8_is_read_in_an_ascii_locale(tmp_path):
    (tmp_path / "s.yaml").write_text("datasets: [niché]\nmethods: {α: {algorithm: bc}}", encoding="utf-8")
    done = ascii_only("benchmark", "s.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert b"fault" not in done.stderr
    assert b"nich\\xe9" in done.stderr


def test_who_reads_no_further_hears_no_complaint(tmp_path):
    code = "from offline_rl.cli.main import main; raise SystemExit(main())"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} algos | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode in (0, 141)
    assert done.stderr == b""


def test_a_run_without_an_agents_folder_is_told_so(tmp_path, capsys):
    (tmp_path / "agents" / "seed-x").mkdir(parents=True)
    for command in (["evaluate", str(tmp_path), "--episodes", "1"], ["export", str(tmp_path)]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "holds no agent.json, so it is no agent folder; give one of the folders in its agents/" in said
