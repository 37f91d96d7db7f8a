"""Sweep files: what is read from them, and that nothing in them is ignored in silence."""

import time
import tracemalloc
from pathlib import Path

import pytest
import yaml

from offline_rl.errors import SweepError
from offline_rl.sweep.file import algorithm_of, read_sweep
from offline_rl.sweep.space import read_parameters

FOLDER = Path(__file__).parent.parent.parent / "benchmarks" / "sweeps"
COMMAND = ["${env}", "offline-rl", "train", "td3_bc", "--dataset=hopper-demo", "--steps", "300", "${args}"]
SWEEP = {
    "program": "offline-rl",
    "name": "a name",
    "project": "p",
    "method": "random",
    "run_cap": 4,
    "metric": {"name": "score", "goal": "maximize"},
    "command": COMMAND,
    "parameters": {"alpha": {"min": 1.0, "max": 5.0}, "hidden_dims": {"values": [[8], [16, 16]]}},
}


@pytest.fixture
def sweep_file(tmp_path):
    def write(**changes):
        values = {name: value for name, value in {**SWEEP, **changes}.items() if value is not ...}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def test_the_command_names_the_algorithm_and_fixed_options(sweep_file):
    sweep = read_sweep(sweep_file())
    assert sweep.algorithm == algorithm_of(sweep_file()) == "td3_bc"
    assert sweep.constants == {"dataset": "hopper-demo", "steps": "300"}
    assert list(sweep.parameters) == ["alpha", "hidden_dims"]
    assert sweep.cap == 4


def test_what_is_there_for_wandbs_agents_is_left_to_them(sweep_file):
    sweep = read_sweep(sweep_file(command=[*COMMAND, "--wandb=True", "--quiet"]))
    assert sweep.constants == {"dataset": "hopper-demo", "steps": "300"}
    assert read_sweep(sweep_file(), {"wandb": "True"}).constants["wandb"] == "True"


def test_a_trial_is_spelled_as_an_agent_of_wandbs_spells_it(sweep_file):
    sweep = read_sweep(sweep_file())
    arguments = sweep.arguments({"alpha": 2.5, "hidden_dims": [16, 16]})
    assert arguments == ["td3_bc", "--dataset=hopper-demo", "--steps=300", "--alpha=2.5", "--hidden_dims=[16, 16]"]
    options, settings = sweep.settings({"alpha": 2.5, "hidden_dims": [16, 16]})
    assert (options.dataset, options.steps) == ("hopper-demo", 300)
    assert settings == {"alpha": 2.5, "hidden_dims": [16, 16]}


def test_truth_values_lists_and_none_reach_the_trial(sweep_file):
    parameters = {"normalize": {"values": [True, False]}, "seeds": {"values": [[0], [1, 2]]}, "task": {"value": None}}
    sweep = read_sweep(sweep_file(parameters=parameters))
    options, settings = sweep.settings({"normalize": False, "seeds": [1, 2]})
    assert (options.seeds, options.task, settings["normalize"]) == ([1, 2], None, False)


def test_typed_options_take_the_place_of_the_files(sweep_file):
    sweep = read_sweep(sweep_file(), {"steps": "50", "alpha": "3.0"}, run_cap=7)
    assert list(sweep.parameters) == ["hidden_dims"]
    assert sweep.settings({"hidden_dims": [8]})[0].steps == 50
    assert sweep.settings({"hidden_dims": [8]})[1]["alpha"] == 3.0
    assert sweep.cap == 7


def test_a_grid_ends_with_its_last_point(sweep_file):
    parameters = {"alpha": {"values": [1.0, 2.0, 3.0]}, "g": {"parameters": {"policy_delay": {"min": 1, "max": 2}}}}
    assert read_sweep(sweep_file(method="grid", run_cap=..., parameters=parameters)).cap == 6
    assert read_sweep(sweep_file(method="grid", run_cap=4, parameters=parameters)).cap == 4
    assert read_sweep(sweep_file(method="grid", run_cap=40, parameters=parameters)).cap == 6


def test_two_trials_are_the_same_if_their_settings_are(sweep_file):
    parameters = {"alpha": {"values": [2, 2.0, 3.0]}}
    sweep = read_sweep(sweep_file(parameters=parameters))
    assert sweep.identity({"alpha": 2}) == sweep.identity({"alpha": 2.0})
    assert sweep.identity({"alpha": 2}) != sweep.identity({"alpha": 3.0})
    assert sweep.identity({"alpha": 2}) != read_sweep(sweep_file(), {"steps": "299"}).identity({"alpha": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methd": "grid"}, "the sweep: 'methd' is not supported; did you mean method?"),
        ({"controller": {"type": "local"}}, "the sweep: 'controller' is not supported; known are "),
        ({"method": "bohb"}, "method is 'bohb'; it must be grid, random or bayes"),
        ({"method": "bayes", "metric": ...}, "method bayes needs a metric"),
        ({"run_cap": ...}, "method random never ends by itself; give run_cap"),
        ({"run_cap": 0}, "run_cap is 0; it must be at least 1"),
        ({"run_cap": 1.5}, "run_cap is 1.5; it must be a whole number"),
        ({"metric": {"name": "score", "goal": "max"}}, "metric.goal is 'max'; it must be minimize or maximize"),
        ({"metric": {"nme": "score"}}, "metric: 'nme' is not supported; did you mean name?"),
        ({"metric": {"name": "loss"}}, "metric.name is 'loss'; it must be score, score_mean_10, or a name such as"),
        ({"metric": {"name": "score", "impute": "best"}}, "metric: 'impute' is not supported"),
        ({"command": ...}, "command must name the algorithm, for instance command: [offline-rl, train, prdc"),
        ({"command": COMMAND[:-1]}, "command lacks ${args}"),
        ({"command": ["offline-rl", "evaluate", "${args}"]}, "command must hold 'train' and the algorithm's name"),
        ({"command": ["docker", *COMMAND[1:]]}, "command runs 'docker offline-rl'; only offline-rl train"),
        ({"command": [*COMMAND, "${args_append_hydra}"]}, "${args_append_hydra} is not supported; write ${args}"),
        ({"command": [*COMMAND[:3], "td3bc", "${args}"]}, "unknown algorithm 'td3bc'; did you mean 'td3_bc'?"),
        ({"command": [*COMMAND, "--stps=3"]}, "unknown option --stps; did you mean --steps?"),
        ({"parameters": {}}, "parameters holds no parameters"),
        ({"parameters": {"alfa": {"min": 1.0, "max": 2.0}}}, "unknown option --alfa; did you mean --alpha?"),
        ({"parameters": {"alfa": {"value": 1.0}}}, "unknown option --alfa; did you mean --alpha?"),
        ({"parameters": {"alpha": {"values": [1.0, "x"]}}}, "alpha"),
        ({"parameters": {"batch_size": {"min": -3, "max": 3}}}, "batch_size is 0; it must be at least 1"),
        ({"parameters": {"out": {"value": "x"}, **SWEEP["parameters"]}}, "out is decided by the sweep itself"),
        (
            {"method": "bayes", "parameters": {"alpha": {"values": [1.0, 2.0], "probabilities": [0.5, 0.5]}}},
            "parameters.alpha.probabilities have no meaning for method bayes; remove them",
        ),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 2}, "command": [*COMMAND, "--eval_every=0"]},
            "early_terminate compares evaluations along the way, but eval_every is 0",
        ),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate.type is 'envelope'; only hyperband is supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(sweep_file, changes, message):
    path = sweep_file(**changes)
    with pytest.raises(SweepError) as raised:
        read_sweep(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_sweep_is_refused(tmp_path):
    path = tmp_path / "sweep.yaml"
    for content in ("", "- 1", "a: [", "\x00"):
        path.write_text(content)
        with pytest.raises(SweepError, match=r"sweep\.yaml"):
            read_sweep(path)
    with pytest.raises(SweepError, match="cannot be read"):
        read_sweep(tmp_path / "none.yaml")
    path.write_text("command: !!python/object/apply:os.system ['touch /tmp/harm']")
    with pytest.raises(SweepError, match="cannot be read"):
        read_sweep(path)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_in_the_repository_run_here_as_they_are(path):
    sweep = read_sweep(path, run_cap=12)
    assert sweep.algorithm == path.stem
    assert sweep.cap == 12 or sweep.method == "grid"
    assert "wandb" not in sweep.constants
    assert sweep.metric.maximize


def test_trials_begin_with_a_preset_and_what_is_searched_goes_over_it(sweep_file):
    """Broken by a preset that no trial hears of, or that takes the place of what is searched."""
    command = ["offline-rl", "train", "a2pr", "--dataset=hopper-demo", "--preset=hopper-medium-v2", "${args}"]
    sweep = read_sweep(sweep_file(command=command, parameters={"discount": {"min": 0.9, "max": 0.99}}))
    options, settings = sweep.settings({"discount": 0.95})
    assert (options.preset, settings) == ("hopper-medium-v2", {"discount": 0.95})
    searched = read_sweep(sweep_file(parameters={"preset": {"values": ["none", "halfcheetah-medium-v2"]}}, command=[
        "offline-rl", "train", "prdc", "--dataset=hopper-demo", "${args}",
    ]))  # fmt: skip
    assert searched.settings({"preset": "none"})[0].preset == "none"
    typed = read_sweep(sweep_file(command=command, parameters={"alpha": {"value": 1.0}}), {"preset": "none"})
    assert typed.settings({})[0].preset == "none"


def test_a_preset_that_is_not_there_stops_a_sweep_before_its_first_trial(sweep_file):
    """Broken by trials that fail one after the other."""
    parameters = {"preset": {"values": ["none", "hopper-medum-v2"]}}
    command = ["offline-rl", "train", "a2pr", "--dataset=hopper-demo", "${args}"]
    with pytest.raises(SweepError, match="unknown preset 'hopper-medum-v2'; did you mean hopper-medium-v2"):
        read_sweep(sweep_file(method="grid", run_cap=..., parameters=parameters, command=command))


def test_presets_tell_trials_apart_and_older_trials_keep_their_names(sweep_file):
    """Broken by two presets in one folder, or by another folder for a trial that names none."""
    sweep = read_sweep(sweep_file())
    assert "preset" not in sweep.identity({"alpha": 2.5})["options"]
    command = ["offline-rl", "train", "a2pr", "--dataset=hopper-demo", "--preset=hopper-medium-v2", "${args}"]
    named = read_sweep(sweep_file(command=command))
    assert named.identity({"alpha": 2.5})["options"]["preset"] == "hopper-medium-v2"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": {"name": 5}}, "metric.name is 5; it must be a text"),
        ({"metric": [1]}, "metric is"),
        ({"parameters": {"alpha": {"distribution": ["a"]}}}, "distribution is ['a']; it must be a text"),
        ({"parameters": {"alpha": {"min": 1, "max": 10**30}}}, "max is 1000"),
        ({"parameters": {"alpha": {"distribution": "log_uniform", "min": 0, "max": 800}}}, "numbers beyond all bounds"),
        ({"parameters": {"alpha": {"distribution": "normal", "mu": 1e299, "sigma": 1e300}}}, "it must be at least 0"),
        ({"parameters": {"alpha": {"values": list(range(20_000))}}}, "20,000 values, of which a sweep takes at most"),
        ({"parameters": {"x": "y" * 9000}}, "is 'yyy"),
        ({"parameters": {"alpha": {"distribution": "q_uniform", "min": 1, "max": 1e300, "q": 1e-12}}}, "too small"),
        ({"method": ["x"] * 1000}, "method is ['x', 'x'"),
        ({"run_cap": 10**40}, "run_cap is"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 10**15, "s": 10**9}}, "s is 1,000,000,000; it must be"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 1e300}}, "eta is 1e+300"),
        ({"command": ["x" * 5000, "train", "bc", "${args}"]}, "command runs 'xxx"),
    ],
)
def test_what_would_be_spread_or_shown_at_any_length_is_refused_shortly(sweep_file, changes, said):
    with pytest.raises(SweepError) as caught:
        read_sweep(sweep_file(**changes))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("entry", "method"),
    [
        ({"min": 1, "max": 10**12}, "random"),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 1e-12}, "bayes"),
        ({"values": [number / 7 for number in range(9000)]}, "random"),
    ],
)
def test_many_values_cost_no_time_and_no_memory(sweep_file, entry, method):
    """Broken by a list of the range, by comparing each value with all others, or by parsing each on a command line."""
    file = sweep_file(parameters={"alpha": entry}, method=method)
    read_sweep(sweep_file(method=method))
    began = time.process_time()
    tracemalloc.start()
    sweep = read_sweep(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - began < 10
    assert peak < 50 << 20
    assert 0 <= sweep.parameters["alpha"].at(0.5) <= 10**12


def test_a_value_among_many_that_no_trial_could_have_is_still_refused(sweep_file):
    values = [1.0] + [number + 0.5 for number in range(500)] + [-1.0]
    with pytest.raises(SweepError, match="alpha is -1"):
        read_sweep(sweep_file(parameters={"alpha": {"values": values}}))


def test_a_grid_of_a_range_without_end_is_refused(sweep_file):
    with pytest.raises(SweepError, match=r"1,000,000,000,000 values, of which a sweep takes at most 10,000"):
        read_sweep(sweep_file(method="grid", parameters={"steps": {"min": 1, "max": 10**12}}))


@pytest.mark.parametrize("low_high", [(0.0001, 0.001), (1e-5, 10), (16, 256), (0.2, 0.9)])
@pytest.mark.parametrize("kind", ["log_uniform", "inv_log_uniform", "q_log_uniform"])
def test_exponents_that_look_like_values_are_warned_of(kind, low_high):
    entry = {"distribution": kind, "min": low_high[0], "max": low_high[1]}
    with pytest.warns(UserWarning, match=rf"x: {kind}'s limits are exponents of e: .* did you mean {kind}_values"):
        read_parameters({"x": entry}, "random")


@pytest.mark.parametrize("low_high", [(-9, -5), (-2, 3), (0, 5), (1, 6), (-11.5, 0)])
@pytest.mark.filterwarnings("error")
def test_exponents_that_are_meant_so_are_not_warned_of(low_high):
    read_parameters({"x": {"distribution": "log_uniform", "min": low_high[0], "max": low_high[1]}}, "random")
