"""Which published settings a run begins with, and that it says so; each test names the mistake that breaks it."""

import contextlib
import io
import json
from typing import ClassVar

import pytest
from helpers.datasets import random_dataset
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.algos.a2pr import A2PR
from offline_rl.algos.dt import DT
from offline_rl.algos.iql import IQL
from offline_rl.algos.prdc import PRDC
from offline_rl.algos.td3_bc import TD3BC
from offline_rl.arguments import train_settings
from offline_rl.cli.terminal import shown_on_terminal
from offline_rl.data import Dataset
from offline_rl.envs.tasks import find_task
from offline_rl.training.options import FinetuneOptions, TrainOptions
from offline_rl.training.plan import Plan, differences
from offline_rl.training.preset import find_preset, named_preset, near_preset, recorded_preset
from offline_rl.training.run import Run

NO_PLAY = {"eval_every": 0, "final_episodes": 0}


def data(name="mine", task="hopper", **metadata):
    """Make rows of hopper's size."""
    made = random_dataset(rows=60, observation_size=11, action_size=3)
    columns = ("observations", "actions", "rewards", "terminated", "next_observations")
    arrays = {column: getattr(made, column) for column in columns}
    return Dataset.from_arrays(**arrays, name=name, task=task, metadata=metadata)


def plan(algorithm, dataset, settings=None, **options):
    return Plan.make(algorithm, dataset, TrainOptions(**{**NO_PLAY, **options}), settings or {})


@pytest.mark.parametrize(
    ("algorithm", "task", "name", "entries"),
    [
        (IQL, "hopper-medium-v2", "x", ["hopper-medium-v2"]),
        (IQL, "Hopper_Medium-V2", "x", ["hopper-medium-v2"]),
        (IQL, "hopper-medium-v0", "x", []),
        (IQL, "hopper-medium", "hopper_medium", []),
        (IQL, "Hopper-v4", "hopper_medium", []),
        (A2PR, "HalfCheetah-v4", "halfcheetah_medium_replay", ["halfcheetah-*"]),
        (A2PR, "halfcheetah-expert-v1", "x", ["halfcheetah-*"]),
        (A2PR, "halfcheetah-medium-v2", "x", ["halfcheetah-*", "halfcheetah-medium-v2"]),
        (PRDC, "HalfCheetah-v2", "x", ["halfcheetah-*"]),
        (PRDC, "hopper-medium-v2", "x", []),
        (DT, "walker2d", "x", ["walker2d-*"]),
        (TD3BC, "hopper-medium-v2", "x", []),
    ],
)
def test_data_gets_the_preset_of_its_own_name_and_version_else_that_of_its_robot(algorithm, task, name, entries):
    """Broken by taking one version's preset for another's, or one file's for another of a like name."""
    found = find_preset(algorithm, None, find_task(task), data(name, task))
    assert list(found.entries) == entries
    assert bool(found.settings) == bool(entries)


@pytest.mark.parametrize(
    ("algorithm", "task", "name", "words"),
    [
        ("a2pr", "Hopper-v4", "hopper_medium", "--preset hopper-medium-v2 takes constraint_weight 0.4, discount 0.995"),
        ("a2pr", "hopper-medium-v0", "hopper-medium-v0", "--preset hopper-medium-v2 takes"),
        ("a2pr", "hopper", "mine", "--preset takes one of hopper-medium-v2, hopper-medium-replay-v2"),
        ("a2pr", "hopper", "walker2d_medium", "--preset takes one of hopper-medium-v2, hopper-medium-replay-v2"),
        ("iql", None, "mine", "dataset mine names no task; --preset takes one of halfcheetah-random-v2, "),
        ("iql", None, "mine", "and 15 more, which offline-rl algos iql lists"),
        ("prdc", "hopper", "mine", "no preset: nothing is published for prdc on task hopper and dataset mine"),
        ("td3_bc", "hopper-medium-v2", "mine", "no preset: td3_bc uses its defaults for all tasks"),
    ],
)
def test_a_run_without_a_preset_says_so_and_which_one_is_near(algorithm, task, name, words):
    """Broken by a silent run, or by offering another robot's settings."""
    (sentence, *_) = plan(algorithm, data(name, task)).sentences()
    assert sentence.startswith("no preset: ")
    assert words in sentence


def test_a_run_says_what_it_takes_and_what_was_given_instead():
    """Broken by listing settings that the run does not have."""
    taken = plan("a2pr", data(task="hopper-medium-v2"), {"discount": 0.9})
    assert taken.sentences() == [
        "preset hopper-medium-v2 (for the dataset): constraint_weight 0.4; given by hand: discount 0.9"
    ]
    record = taken.record()
    assert record["preset"] == ["hopper-medium-v2"]
    assert record["preset_settings"] == {"constraint_weight": 0.4}
    assert record["preset_reason"] == "for the dataset"
    assert (taken.config.constraint_weight, taken.config.discount) == (0.4, 0.9)


def test_agents_that_differ_go_over_the_preset():
    """Broken by recording as the preset's what each agent has of its own."""
    each = plan("a2pr", data(task="hopper-medium-v2"), seeds=[0, 1], each={"discount": [0.9, 0.8]})
    assert [each.config_of(seed).discount for seed in (0, 1)] == [0.9, 0.8]
    assert each.record()["preset_settings"] == {"constraint_weight": 0.4}
    assert "given by hand: discount for each agent" in each.sentences()[0]


def test_what_is_asked_for_does_not_depend_on_task_or_data():
    """Broken by a preset that also changes what agents are scored on, or that a task takes away."""
    for task in ("hopper", "Hopper-v4", "hopper-expert-v2"):
        asked = plan("a2pr", data(task="hopper-random-v2"), preset="hopper_medium-V2", task=task)
        assert asked.task == find_task(task)
        assert asked.preset.entries == ("hopper-medium-v2",)
        assert asked.config.constraint_weight == 0.4
    without = plan("a2pr", data(task="hopper-medium-v2"), preset="None")
    assert (without.config.constraint_weight, without.record()["preset"]) == (1.0, [])
    assert without.sentences() == ["no preset: the defaults, as asked for"]


def test_a_task_of_the_robot_alone_leaves_the_data_its_preset():
    """Broken by `--task hopper`, as for a file, which would then be another experiment than the id alone."""
    for task in ("hopper", "Hopper-v4", "hopper-medium"):
        assert plan("iql", data(task="hopper-medium-v2"), task=task).preset.entries == ("hopper-medium-v2",)
    named = plan("iql", data(task="hopper-medium-v2"), task="hopper-expert-v2")
    assert (named.preset.entries, named.preset.reason) == (("hopper-expert-v2",), "for the task")


def test_joined_data_gets_the_robots_preset_alone():
    """Broken by taking what was published for the first part."""
    for joined in (data(task="hopper-medium-v2") + data(task="hopper-expert-v2"),):
        assert plan("iql", joined).preset.entries == ()
        assert plan("iql", joined, task="hopper").preset.entries == ()
        assert plan("dt", joined).preset.entries == ("hopper-*",)


@pytest.mark.parametrize(
    ("algorithm", "name", "message"),
    [
        (A2PR, "hoper-medium-v2", "unknown preset 'hoper-medium-v2'; did you mean hopper-medium-v2?"),
        (A2PR, "hopper-medium", "a2pr has no preset for hopper-medium; did you mean hopper-medium-v2?"),
        (A2PR, "halfcheetah-medium-v0", "no preset for halfcheetah-medium-v0; did you mean halfcheetah-medium-v2?"),
        (A2PR, "hopper-expert-v2", "a2pr has no preset for hopper-expert-v2; published are halfcheetah-*, "),
        (IQL, "hopper", "iql has no preset for hopper; published are halfcheetah-random-v2, "),
        (PRDC, "walker2d-medium-v2", "prdc has no preset for walker2d-medium-v2; published are halfcheetah-*"),
        (TD3BC, "hopper-medium-v2", "preset 'hopper-medium-v2': td3_bc has one setting for all tasks; leave it out"),
        (IQL, "x" * 5000, "unknown preset"),
        (IQL, "", "unknown preset ''; published are "),
    ],
)
def test_a_preset_that_is_not_there_is_refused(algorithm, name, message):
    """Broken by a run at the defaults that was asked for something else."""
    with pytest.raises(orl.OfflineRLError) as caught:
        named_preset(algorithm, name)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


def test_presets_of_other_peoples_algorithms_may_bear_any_name():
    """Broken by asking D4RL's list of tasks alone."""

    class Own(TD3BC):
        PRESETS: ClassVar = {"Reactor-v1-*": {"alpha": 3.0}, "plant/north": {"alpha": 4.0}}

    assert named_preset(Own, "reactor-v1").settings == {"alpha": 3.0}
    assert named_preset(Own, "Reactor-v1-*").settings == {"alpha": 3.0}
    assert named_preset(Own, "plant/north").settings == {"alpha": 4.0}
    assert recorded_preset(Own, ["plant/north"]) == "plant/north"
    assert near_preset(Own, "hopper_medium") is None


@pytest.mark.parametrize("algorithm", [A2PR, DT, IQL, PRDC])
def test_every_entry_can_be_asked_for_and_again_from_its_record(algorithm):
    """Broken by a name that leads elsewhere: a run could not be repeated."""
    for entry in algorithm.PRESETS:
        found = named_preset(algorithm, entry)
        assert entry == found.entries[-1]
        assert named_preset(algorithm, recorded_preset(algorithm, found.entries)) == found
    assert recorded_preset(algorithm, []) == "none"
    assert recorded_preset(algorithm, None) is None
    assert recorded_preset(algorithm, ["gone-v9"]) is None


def test_rows_that_are_not_the_ids_own_are_told():
    """Broken by a silent second experiment: the same task, other rows."""
    exact = data(task="hopper-medium-v2", mode="exact")
    assert "data mode exact, 60 rows" in plan("iql", exact).sentences()[1]
    assert "--data_mode d4rl" in plan("iql", exact).sentences()[1]
    assert len(plan("iql", exact, data_mode="exact").sentences()) == 1
    assert len(plan("iql", data(task="hopper-medium-v2", mode="d4rl")).sentences()) == 1
    assert len(plan("iql", data(task="hopper", mode="exact")).sentences()) == 1


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """Give a run of IQL with a preset that its data would not get."""
    folder = tmp_path_factory.mktemp("weighted")
    settings = {"preset": "hopper-medium-expert-v2", "beta": 5.0}
    with contextlib.redirect_stderr(io.StringIO()) as said, shown_on_terminal():
        run = orl.train(
            "iql", data(), out=str(folder / "run"), steps=2, **settings, **NO_PLAY, **{**TINY, "quiet": False}
        )
    (folder / "said").write_text(said.getvalue())
    return run


def test_a_run_says_its_preset(weighted):
    """Broken by a run whose settings stand in a file alone."""
    said = " ".join((weighted.path.parent / "said").read_text().split())
    taken = "normalize True, scale_rewards False, expectile 0.5"
    assert f"preset hopper-medium-expert-v2 (asked for): {taken}; given by hand: beta 5.0 settings" in said


def test_a_run_is_repeated_from_its_config_with_its_preset(weighted):
    """Broken by repeating the settings and losing where they came from."""
    path = str(weighted.path / "config.json")
    name, options, settings = train_settings(["iql", "--config", path])
    again = Plan.make(name, data(), options, settings)
    assert again.record()["config"] == weighted.config["config"]
    for key in ("preset", "preset_settings"):
        assert again.record()[key] == weighted.config[key]
    assert weighted.config["preset_settings"] == {"normalize": True, "scale_rewards": False, "expectile": 0.5}


def test_a_preset_that_is_typed_goes_over_the_file(weighted, tmp_path):
    """Broken by settings of the file's own preset that stay when another one is asked for."""
    path = str(weighted.path / "config.json")
    _, options, settings = train_settings(["iql", "--config", path, "--preset", "hopper-medium-v2"])
    other = Plan.make("iql", data(), options, settings)
    assert (other.config.expectile, other.config.deterministic, other.config.beta) == (0.7, True, 5.0)
    _, options, settings = train_settings(["iql", "--config", path, "--preset", "none", "--expectile", "0.6"])
    none = Plan.make("iql", data(), options, settings)
    assert (none.config.expectile, none.config.normalize, none.config.beta) == (0.6, False, 5.0)
    plain = tmp_path / "options.json"
    plain.write_text(json.dumps({"preset": "hopper-medium-v2", "beta": 2.0}))
    _, options, settings = train_settings(["iql", "--config", str(plain)])
    assert (options.preset, settings) == ("hopper-medium-v2", {"beta": 2.0})


def test_how_settings_came_about_is_no_reason_not_to_resume(weighted):
    """Broken by comparing the preset: the same settings given by hand are the same run."""
    options = TrainOptions(steps=2, preset="none", **NO_PLAY, eval_episodes=TINY["eval_episodes"])
    assert not differences(weighted.config, Plan.make("iql", data(), options, weighted.config["config"]))
    changed = {**weighted.config["config"], "expectile": 0.6}
    assert differences(weighted.config, Plan.make("iql", data(), options, changed)) == ["expectile was 0.5, now 0.6"]


def test_going_on_online_keeps_the_preset(weighted, tmp_path):
    """Broken by looking the preset up again: the run's data would get none."""
    options = FinetuneOptions(steps=2, out=str(tmp_path / "online"), eval_every=0, final_episodes=0, workers=0)
    online = orl.finetune(weighted, options=options, dataset=data(), expectile=0.6)
    assert online.config["preset"] == ["hopper-medium-expert-v2"]
    assert online.config["preset_settings"] == {"normalize": True, "scale_rewards": False}
    assert Run(weighted.path).config["preset_settings"]["expectile"] == 0.5
