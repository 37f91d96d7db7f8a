"""Settings inside others on the command line, in files, in sweeps, in suites, and for each seed."""

import json

import pytest
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.agent import load_agent
from offline_rl.arguments import UsageError, train_settings
from offline_rl.benchmark import read_suite
from offline_rl.cli.main import main
from offline_rl.errors import AgentError, OfflineRLError
from offline_rl.files import sealed, write_json
from offline_rl.sweep.file import read_sweep
from offline_rl.training.run import Run

REWARDS = {"reward_hidden_dims": [8], "reward_epochs": 1, "head_size": 4}
PARL = {**REWARDS, "num_labels": 20, "segment_length": 5, "rounds": 1, "round_steps": 5, "upper_steps": 1}
RUN = {**TINY, "steps": 20, "eval_every": 0, "final_episodes": 0, "log_every": 10}
MOVED = ("discount", "target_rate", "actor_learning_rate", "critic_learning_rate")
IQLS = {"expectile": 0.7, "beta": 3.0, "weight_limit": 100.0, "deterministic": False, "value_learning_rate": 3e-4}
TD3_BCS = ("alpha", "policy_noise", "noise_clip", "policy_delay")


def test_they_are_read_from_a_command_line():
    name, _, settings = train_settings(["parl", "--lower", "td3_bc", "--lower.alpha", "4", "--lower.noise-clip=0.25"])
    assert (name, settings) == ("parl", {"lower": "td3_bc", "lower.alpha": 4.0, "lower.noise_clip": 0.25})


def test_they_are_read_from_a_file(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("lower: td3_bc\nlower.alpha: 4\n")
    assert train_settings(["parl", "--config", str(file)])[2] == {"lower": "td3_bc", "lower.alpha": 4.0}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["parl", "--alpha", "4"], UsageError, "unknown option --alpha; write --lower.alpha$"),
        (["parl", "--lower.alhpa", "4"], UsageError, "did you mean --lower.alpha"),
        (["parl", "--lower.alpha", "4"], AgentError, "lower.alpha has no meaning on iql; .* choose --lower td3_bc"),
        (["parl", "--lower.beta", "-1"], AgentError, "lower.beta is -1.0; it must be at least 0"),
        (["famo2o", "--base", "cql", "--expectile", "0.9"], AgentError, "expectile has no meaning with base cql"),
        (["famo2o", "--base", "cql", "--num_actions", "0"], AgentError, "num_actions is 0; it must be at least 1"),
    ],
)
def test_a_wrong_one_is_refused_with_what_to_write(arguments, error, message):
    with pytest.raises(error, match=message):
        train_settings(arguments)


def test_in_python_an_old_name_is_refused_with_the_new_one(tmp_path):
    with pytest.raises(OfflineRLError, match=r"unknown setting .alpha. for parl; write lower\.alpha"):
        orl.train("parl", "hopper-demo", alpha=4.0, out=str(tmp_path / "run"))


def test_help_and_the_list_of_settings_show_limits(capsys):
    with pytest.raises(SystemExit):
        main(["train", "parl", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--lower.beta NUMBER" in text and "(default: 3.0; at least 0)" in text
    assert "(default: 1000000; at least 0)" in text
    assert main(["algos", "famo2o"]) == 0
    listed = capsys.readouterr().out
    assert "Hyperparameters with base iql" in listed and "Hyperparameters with base cql" in listed
    assert "  weight_limit = 100.0   (above 0)\n" in listed


def test_a_sweep_searches_them(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "method: random\nrun_cap: 2\nmetric: {name: score}\nparameters:\n  lower: {value: td3_bc}\n"
        "  lower.alpha: {min: 1.0, max: 4.0}\ncommand: [offline-rl, train, parl, --dataset=hopper-demo, '${args}']\n"
    )
    sweep = read_sweep(file)
    assert sweep.settings({"lower.alpha": 2.0})[1] == {"lower": "td3_bc", "lower.alpha": 2.0}
    file.write_text(file.read_text().replace("min: 1.0", "min: -1.0"))
    with pytest.raises(OfflineRLError, match=r"lower\.alpha is -1\.0; it must be at least 0"):
        read_sweep(file)


def test_a_suite_names_them(tmp_path):
    file = tmp_path / "suite.yaml"
    method = "{algorithm: parl, lower: td3_bc, lower.alpha: ALPHA}"
    for alpha, message in (("3", None), ("-3", "lower.alpha is -3.0; it must be at least 0")):
        file.write_text(f"datasets: [hopper-demo]\nmethods: {{a: {method.replace('ALPHA', alpha)}}}\n")
        if message is None:
            assert read_suite(file).methods["a"]["lower.alpha"] == 3
            continue
        with pytest.raises(OfflineRLError, match=message):
            read_suite(file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Give a run of PARL whose two agents differ in a setting of their lower level."""
    out = tmp_path_factory.mktemp("nested") / "run"
    each = {"lower.beta": [1.0, 2.0]}
    return orl.train("parl", "hopper-demo", seeds=[0, 1], each=each, out=str(out), **RUN, **PARL)


def test_agents_of_one_run_may_differ_in_them(trained):
    assert [agent.config.lower.beta for agent in trained.agents.values()] == [1.0, 2.0]
    assert trained.config["config"]["lower"] == "iql"
    assert trained.config["config"]["lower.discount"] == 0.99


def test_a_run_with_settings_side_by_side_is_read_resumed_and_repeated(trained):
    """What older versions wrote: the names in the record, in `each` and in the agents are the old ones."""
    path, expected = trained.path, trained.config
    record = json.loads((path / "config.json").read_text())
    shared = {name: record["config"][f"lower.{name}"] for name in MOVED}
    own = {name: value for name, value in record["config"].items() if not name.startswith("lower.")}
    flat = {**own, **shared, **IQLS, "alpha": 2.5, "policy_noise": 0.2, "noise_clip": 0.5, "policy_delay": 2}
    old = {**record, "config": flat, "options": {**record["options"], "each": {"beta": [1.0, 2.0]}}}
    old.pop("checksum")
    write_json(path / "config.json", sealed(old))
    run = Run(path)
    assert run.config["config"] == expected["config"] and run.config["options"] == expected["options"]
    assert train_settings(["parl", "--config", str(path / "config.json")])[1].each == {"lower.beta": [1.0, 2.0]}
    again = orl.train(
        "parl", "hopper-demo", seeds=[0, 1], each={"lower.beta": [1.0, 2.0]}, resume=True, out=str(path), **RUN, **PARL
    )
    assert again.rows == trained.rows
    assert load_agent(path / "agents" / "seed-1").config.lower.beta == 2.0
