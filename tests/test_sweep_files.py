"""The sweep files: what W&B's agent makes of each is read by the command line as it is meant."""

import dataclasses
import json
from pathlib import Path

import pytest

from offline_rl.agent import algorithms, find_algorithm, setting_types
from offline_rl.arguments import UsageError, train_settings
from offline_rl.training.options import TrainOptions

FILES = sorted((Path(__file__).parent.parent / "benchmarks" / "sweeps").glob("*.yaml"))
MACROS = ["args", "args_no_equals", "args_no_boolean_flags", "args_json", "args_json_file"]
REFUSED = ["args_no_hyphens", "args_append_hydra", "args_override_hydra"]
DISTRIBUTIONS = {None, "log_uniform_values"}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


# Whoever runs any test collects this file, and this part of W&B takes longer to import than PyTorch.


def as_w_and_b_reads(path):
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    return load_sweep_config(str(path))


def ends(parameter):
    """Return the values at both ends of a parameter's range."""
    if "value" in parameter:
        return [parameter["value"]]
    return parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]]


def points(sweep):
    """Return configurations that take every parameter to each of its values, or both ends of its range."""
    choices = {name: ends(parameter) for name, parameter in sweep["parameters"].items()}
    count = max(map(len, choices.values()))
    return [{name: values[min(i, len(values) - 1)] for name, values in choices.items()} for i in range(count)]


def command_of_agent(command, values, folder):
    """Return the command that W&B's agent starts, as ``wandb/wandb_agent.py`` puts it together."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    variables = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    file = folder / "config.json"
    file.write_text(variables["args_json"][0])
    variables |= {"args_json_file": [str(file)], "env": ["/usr/bin/env"], "program": ["offline-rl"]}
    parts = []
    for chunk in create_sweep_command(list(command)):
        parts += variables[chunk[2:-1]] if chunk.startswith("${") else [chunk]
    return parts


def read(command):
    """Return what the command line makes of a command: algorithm, and the values of all options."""
    assert command[:3] == ["/usr/bin/env", "offline-rl", "train"]
    algorithm, options, overrides = train_settings(command[3:])
    config = find_algorithm(algorithm, overrides).config_class.of(overrides)
    return algorithm, {**dataclasses.asdict(options), **config.settings()}, {*overrides}


def with_macro(command, macro):
    parts = ["--config", f"${{{macro}}}"] if "json" in macro else [f"${{{macro}}}"]
    return [*command[: command.index("${args}")], *parts]


def test_every_algorithm_has_a_sweep_file():
    assert {path.stem for path in FILES} == set(algorithms())


@each_file
def test_a_file_is_what_w_and_b_calls_a_sweep(path):
    sweep = as_w_and_b_reads(path)
    assert set(sweep) <= {"program", "command", "method", "metric", "early_terminate", "parameters", "run_cap"}
    assert sweep["program"] == "offline-rl"
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"] == {"name": "score", "goal": "maximize"}
    assert sweep.get("early_terminate", {"type": "hyperband"})["type"] == "hyperband"
    assert {"dataset", "steps", "seeds"} <= set(sweep["parameters"])
    for name, parameter in sweep["parameters"].items():
        assert set(parameter) in ({"value"}, {"values"}, {"min", "max"}, {"min", "max", "distribution"}), name
        assert parameter.get("distribution") in DISTRIBUTIONS
        numbers = [value for value in ends(parameter) if not isinstance(value, (bool, list))]
        strings = [value for value in numbers if isinstance(value, str)]
        assert not [text for text in strings if text[0].isdigit()], f"{name}: YAML reads 1e-3 as a text, write 1.0e-3"
        if sweep["method"] == "grid":
            assert "min" not in parameter, f"{name}: a grid needs values"
        if "min" in parameter:
            assert parameter["min"] < parameter["max"]


@each_file
def test_the_names_in_a_file_are_options(path):
    sweep = as_w_and_b_reads(path)
    settings = set(setting_types(path.stem))
    assert set(sweep["parameters"]) <= settings | {field.name for field in dataclasses.fields(TrainOptions)}
    own = set(sweep["parameters"]) & settings
    assert len([name for name in own if len(ends(sweep["parameters"][name])) > 1]) >= 2


@each_file
@pytest.mark.parametrize("macro", MACROS)
def test_what_an_agent_passes_is_read_as_it_is_meant(path, macro, tmp_path):
    sweep = as_w_and_b_reads(path)
    for values in points(sweep):
        command = command_of_agent(with_macro(sweep["command"], macro), values, tmp_path)
        algorithm, understood, _ = read(command)
        assert algorithm == path.stem
        assert understood["wandb"] is True
        for name, value in values.items():
            if macro == "args_no_boolean_flags" and value is False:
                continue  # that macro leaves it out, whatever the default
            assert understood[name] == value, name
            assert type(understood[name]) is type(value) or isinstance(value, int), name


@each_file
@pytest.mark.parametrize("macro", REFUSED)
def test_macros_for_other_command_lines_are_refused_with_a_hint(path, macro, tmp_path):
    sweep = as_w_and_b_reads(path)
    command = command_of_agent(with_macro(sweep["command"], macro), points(sweep)[0], tmp_path)
    with pytest.raises(UsageError, match=r"options begin with --, for instance --dataset=(hopper-demo|none)"):
        read(command)


VALUES = {
    "alpha": 2.5,
    "actor_learning_rate": 1e-05,
    "reward_shift": -1.0,
    "normalize": False,
    "hidden_dims": [256.0, 64],
    "seeds": [3, 1],
    "workers": None,
    "task": None,
    "steps": 10000.0,
    "policy_delay": 3.0,
    "dataset": "hopper-demo",
    "wandb_tags": ["a", "b c"],
    "quiet": True,
}


@pytest.mark.parametrize("macro", ["args", "args_no_equals", "args_json", "args_json_file"])
def test_every_kind_of_value_gets_through(macro, tmp_path):
    command = ["${env}", "offline-rl", "train", "td3_bc", "${args}"]
    _, understood, given = read(command_of_agent(with_macro(command, macro), VALUES, tmp_path))
    assert {name: understood[name] for name in VALUES} == VALUES
    assert given == {"alpha", "actor_learning_rate", "reward_shift", "normalize", "hidden_dims", "policy_delay"}


@pytest.mark.parametrize(
    ("typed", "name", "meant"),
    [
        ("--workers=null", "workers", None),
        ("--normalize=false", "normalize", False),
        ("--steps=1e6", "steps", 1_000_000),
        ("--hidden_dims=[64., 64]", "hidden_dims", [64, 64]),
        ('--wandb_tags=["x", "y"]', "wandb_tags", ["x", "y"]),
        ("--wandb_tags=x,y", "wandb_tags", ["x", "y"]),
        ("--seeds=7", "seeds", [7]),
    ],
)
def test_other_spellings_of_the_same(typed, name, meant):
    assert read(["/usr/bin/env", "offline-rl", "train", "td3_bc", typed])[1][name] == meant


@pytest.mark.parametrize(
    "typed", ["--steps=1.5", "--steps=many", "--steps=inf", "--hidden_dims=[1.5]", "--normalize=0"]
)
def test_what_is_no_value_of_an_option_is_refused(typed):
    with pytest.raises(UsageError, match=typed[2:].split("=")[0]):
        read(["/usr/bin/env", "offline-rl", "train", "td3_bc", typed])


def test_json_in_quotes_is_checked_like_a_file():
    for text, message in [('{"alhpa": 1}', "--config: unknown option 'alhpa'; did you mean alpha"), ("{", "cannot be")]:
        with pytest.raises(UsageError, match=message):
            read(["/usr/bin/env", "offline-rl", "train", "td3_bc", "--config", text])
    given = json.dumps({"alpha": 1.0, "steps": 5})
    understood = read(["/usr/bin/env", "offline-rl", "train", "td3_bc", "--config", given, "--alpha=2.0"])[1]
    assert (understood["alpha"], understood["steps"]) == (2.0, 5)


def test_a_nested_parameter_is_refused_by_name(tmp_path):
    command = command_of_agent(["${env}", "offline-rl", "train", "bc", "${args}"], {"net": {"depth": 3}}, tmp_path)
    with pytest.raises(UsageError, match="unknown option --net"):
        read(command)
