import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.needs import RECORDINGS, needs_recordings

from offline_rl.data import Dataset, d4rl, dataset_names, load_dataset
from offline_rl.errors import DatasetError


def fields(rows=6, **changes):
    observations = np.arange(rows, dtype=np.float32)[:, None] * [1, 10]
    return {
        "observations": observations,
        "actions": np.full((rows, 1), 0.5),
        "rewards": np.arange(rows) + 1,
        "terminated": np.zeros(rows, bool),
        **changes,
    }


def flags(rows, *set_rows):
    return np.isin(np.arange(rows), set_rows)


# Rows and episodes


def test_next_row_is_the_successor_and_unknown_successors_are_dropped():
    dataset = Dataset.from_arrays(**fields(terminated=flags(6, 1), truncated=flags(6, 3)))
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 4]
    assert dataset.next_observations[:, 0].tolist() == [1, 1, 3, 5]
    assert dataset.terminated.tolist() == [False, True, False, False]
    assert not dataset.truncated.any()
    assert dataset.episode_bounds.tolist() == [0, 2, 3, 4]
    assert dataset.episode_returns.tolist() == [3, 7, 11]
    assert dataset.episode_lengths.tolist() == [2, 2, 2]
    assert dataset.episode_complete.tolist() == [True, True, False]
    assert dataset.mean_return == 5


def test_given_successors_keep_every_row():
    following = np.full((6, 2), 7.0)
    dataset = Dataset.from_arrays(
        **fields(terminated=flags(6, 1), truncated=flags(6, 1, 5)), next_observations=following
    )
    assert len(dataset) == 6
    assert np.array_equal(dataset.next_observations, following)
    assert dataset.terminated.tolist() == flags(6, 1).tolist()
    assert dataset.truncated.tolist() == flags(6, 5).tolist(), "both flags set means terminated"
    assert dataset.episode_bounds.tolist() == [0, 2, 6]
    assert dataset.episode_complete.all()


def test_an_episode_without_usable_rows_disappears():
    dataset = Dataset.from_arrays(**fields(truncated=flags(6, 1, 2, 5)))
    assert dataset.observations[:, 0].tolist() == [0, 3, 4]
    assert dataset.episode_bounds.tolist() == [0, 1, 3]
    assert dataset.episode_returns.tolist() == [3, 15]
    assert dataset.episode_lengths.tolist() == [2, 3]
    assert dataset.episode_complete.tolist() == [True, True]


def test_mean_return_of_fragments_only_is_a_number():
    assert Dataset.from_arrays(**fields()).mean_return == 21


def test_types_and_squeezing():
    dataset = Dataset.from_arrays(
        fields()["observations"].astype(np.int16).tolist(),
        np.zeros((6, 1), np.float64),
        np.ones((6, 1)),
        np.zeros((6, 1), np.uint8),
    )
    assert {dataset.observations.dtype, dataset.actions.dtype, dataset.rewards.dtype} == {np.dtype(np.float32)}
    assert (dataset.terminated.dtype, dataset.truncated.dtype) == (bool, bool)
    assert (dataset.rewards.shape, dataset.terminated.shape) == ((5,), (5,))
    assert (dataset.observation_size, dataset.action_size) == (2, 1)


def test_arrays_are_read_only_copies():
    given = {name: np.array(value, np.float32) for name, value in fields().items()}
    dataset = Dataset.from_arrays(**given, next_observations=given["observations"])
    before = dataset.fingerprint
    for value in given.values():
        value[:] = 0.25
    assert Dataset.from_arrays(**fields(), next_observations=fields()["observations"]).fingerprint == before
    with pytest.raises(ValueError, match="read-only"):
        dataset.rewards[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        dataset.episode_bounds[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": None}, "arrays has no 'observations'"),
        ({"rewards": np.ones(5)}, "'rewards' has 5 rows but 'observations' has 6"),
        ({"observations": np.ones(6)}, r"'observations' has shape \(6,\)"),
        ({"observations": np.ones((6, 2, 2))}, r"'observations' has shape \(6, 2, 2\)"),
        ({"observations": np.ones((6, 0))}, r"'observations' has shape \(6, 0\)"),
        ({"rewards": np.ones((6, 2))}, r"'rewards' has shape \(6, 2\)"),
        ({"rewards": 3.0}, r"'rewards' has shape \(\)"),
        ({"rewards": [0, 0, 0, np.nan, 0, np.nan]}, "'rewards' has NaN in row 3"),
        ({"observations": [[0, 0]] * 2 + [[0, np.inf]] * 4}, "'observations' has an infinite number in row 2"),
        ({"rewards": [0, 1e300, 0, 0, 0, 0]}, "'rewards' has 1e\\+300 in row 1, beyond the 1e\\+12"),
        ({"terminated": [0, 0, 0, 0, 0, np.nan]}, "'terminated' has NaN in row 5"),
        ({"truncated": np.zeros(7)}, "'truncated' has 7 rows"),
        ({"next_observations": np.ones((6, 3))}, r"'next_observations' has shape \(6, 3\)"),
        ({"actions": [[0]] * 4 + [[-1.01]] * 2}, r"'actions' has -1.01 in row 4, entry 0, outside \[-1, 1\]"),
        ({"actions": [["a"]] * 6}, "'actions' has type <U1"),
        ({"actions": [[1], [1, 2], [], [], [], []]}, "'actions' is not an array"),
        ({"actions": np.ones((6, 1), complex)}, "'actions' has type complex128"),
        ({"action_bounds": ([0, 0], [1, 1])}, "action_bounds do not fit 1 actions"),
        ({"truncated": np.ones(6)}, "no usable transition among its 6 rows"),
        (fields(0), "arrays has no rows"),
    ],
)
def test_bad_arrays_are_refused_with_one_line(changes, message):
    with pytest.raises(DatasetError, match=message) as caught:
        Dataset.from_arrays(**fields(**changes))
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value), "a remedy follows the semicolon"


def test_actions_within_the_tolerance_and_other_bounds():
    assert len(Dataset.from_arrays(**fields(actions=np.full((6, 1), 1.00009)))) == 5
    dataset = Dataset.from_arrays(**fields(actions=np.full((6, 2), [2, 0])), action_bounds=([0, -1], [2, 1]))
    low, high = dataset.action_bounds
    assert (low.tolist(), high.tolist()) == ([0, -1], [2, 1])
    low, high = Dataset.from_arrays(**fields(actions=np.zeros((6, 2)))).action_bounds
    assert (low.tolist(), high.tolist()) == ([-1, -1], [1, 1])


# Identity and composition


def test_fingerprint_depends_on_content_only():
    one = Dataset.from_arrays(**fields(), name="one", task="Hopper-v4")
    assert one.fingerprint == Dataset.from_arrays(**fields(), name="two").fingerprint
    assert len(one.fingerprint) == 64
    changes = [{"rewards": np.arange(6) + 1.5}, {"truncated": flags(6, 2)}, {"actions": np.full((6, 1), 0.25)}]
    others = {Dataset.from_arrays(**fields(**change)).fingerprint for change in changes}
    assert len(others | {one.fingerprint}) == 4


def test_joining_puts_rows_one_after_the_other():
    one = Dataset.from_arrays(**fields(terminated=flags(6, 1, 5)), name="one", task="hopper-medium-v2")
    two = Dataset.from_arrays(**fields(4), name="two", metadata={"env_id": "Hopper-v4"})
    both = one + two
    assert (both.name, both.task) == ("one+two", "hopper-medium-v2")
    assert len(both) == 9
    assert both.episode_bounds.tolist() == [0, 2, 6, 9]
    assert both.episode_complete.tolist() == [True, True, False]
    assert np.array_equal(both.observations[6:], two.observations)
    assert both.metadata["parts"] == [one.metadata, two.metadata]
    json.dumps(both.metadata, allow_nan=False)


def test_joining_keeps_the_only_task():
    named, nameless = Dataset.from_arrays(**fields(), task="Hopper-v4"), Dataset.from_arrays(**fields())
    assert (named + nameless).task == (nameless + named).task == "Hopper-v4"
    assert (nameless + nameless).task is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "Walker2d-v4"}, "their tasks are hopper-medium-v2 and Walker2d-v4"),
        ({"observations": np.ones((6, 3))}, "observation sizes are 2 and 3"),
        ({"actions": np.ones((6, 2))}, "action sizes are 1 and 2"),
        ({"action_bounds": (-2, 2)}, "action bounds differ"),
    ],
)
def test_joining_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(DatasetError, match=message):
        Dataset.from_arrays(**fields(), task="hopper-medium-v2") + Dataset.from_arrays(**fields(**changes))


# Names


def test_dataset_names():
    names = dataset_names()
    assert len(names) == len(set(names)) == 115
    assert {"hopper-demo", "hopper-medium-v2", "ant-random-expert-v0"} <= set(names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hoper-medium-v2", "^unknown dataset 'hoper-medium-v2'; did you mean 'hopper-medium-v2'\\?$"),
        ("nothing like it", "unknown dataset 'nothing like it'; give"),
        ("", "unknown dataset ''"),
        ("antmaze-umaze-v3", "did you mean 'antmaze-umaze-v"),
        ("carla-lane-v0", "'carla-lane-v0' is not supported yet"),
        ("maze2d-open-v0", "'maze2d-open-v0' is not supported yet"),
        ("hopper-half-v0", "unknown dataset 'hopper-half-v0'"),
        ("nowhere/file.hdf5", "there is no file 'nowhere/file.hdf5'; check the path"),
        ("hoper-medium-v2+hopper-demo", "unknown dataset 'hoper-medium-v2'"),
        ("+".join(["hoper-medium-v2"] * 100), "unknown dataset 'hoper-medium-v2'"),
        ("x" * 5000, "unknown dataset 'xxx"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def test_unknown_mode():
    with pytest.raises(DatasetError, match=r"unknown mode 'raw'; use 'd4rl' .* or 'exact'"):
        load_dataset("hopper-medium-v2", mode="raw")


def test_missing_file_suggests_its_neighbour(write, arrays):
    path = write(arrays, "hopper_medium.hdf5")
    with pytest.raises(DatasetError, match=f"did you mean '{path}'"):
        load_dataset(path.with_name("hoper_medium.hdf5"))


def test_files_are_joined_by_plus(write, arrays, make_arrays):
    one = write(arrays, "one.hdf5")
    two = write(make_arrays(np.random.default_rng(1), 20), "two.hdf5")
    both = load_dataset(f"{one}+{two}")
    assert (both.name, len(both)) == ("one+two", 80)


def test_a_plus_in_the_name_of_a_file(write, arrays):
    assert load_dataset(write(arrays, "one+two.hdf5")).name == "one+two"


def test_mode_and_task_of_a_file(write, arrays):
    own = load_dataset(write(arrays, "own.hdf5"))
    assert (own.metadata["mode"], own.task, len(own)) == ("exact", None, 60)
    without = load_dataset(write({**arrays, "next_observations": None}, "without.hdf5"))
    assert without.metadata["mode"] == "d4rl"
    d4rl = load_dataset(write(arrays, "walker_mixed.hdf5"))
    assert (d4rl.metadata["mode"], d4rl.task) == ("d4rl", "walker2d-medium-replay-v0")
    namesake = load_dataset(write(arrays, "hopper_medium.hdf5", env_id="Hopper-v4"))
    assert (namesake.metadata["mode"], namesake.task) == ("exact", "Hopper-v4")
    assert load_dataset(write(arrays, "x.hdf5", dataset="hopper-x")).task == "hopper-x"


# The demo


def test_demo():
    demo = load_dataset("hopper-demo")
    assert (demo.name, demo.task, demo.metadata["mode"]) == ("hopper-demo", "Hopper-v4", "exact")
    assert (len(demo), demo.observation_size, demo.action_size) == (75_000, 11, 3)
    assert demo.mean_return == pytest.approx(demo.metadata["return_mean"])
    assert len(demo.episode_returns) == demo.metadata["episodes"]
    assert not demo.episode_complete[-1]
    assert demo.episode_complete[:-1].all()
    inside = ~(demo.terminated | demo.truncated)[:-1]
    assert np.array_equal(demo.next_observations[:-1][inside], demo.observations[1:][inside])
    assert Path(demo.metadata["path"]).stat().st_size < 4_000_000


@needs_recordings
def test_demo_is_the_beginning_of_its_source_and_made_reproducibly(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "make_demo.py"
    source = Path(RECORDINGS, "hopper_medium.hdf5")
    made = tmp_path / "made.hdf5"
    subprocess.run(
        [sys.executable, script, source, made],
        check=True,
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
    )
    demo, whole = load_dataset("hopper-demo"), load_dataset(source)
    assert load_dataset(made).fingerprint == demo.fingerprint
    for field in ("observations", "actions", "rewards", "next_observations", "terminated"):
        assert np.array_equal(getattr(demo, field), getattr(whole, field)[: len(demo)])


@needs_recordings
def test_statistics_agree_with_those_in_the_files():
    dataset = load_dataset(Path(RECORDINGS, "halfcheetah_medium_replay.hdf5"))
    assert dataset.mean_return == pytest.approx(dataset.metadata["return_mean"], abs=1e-6)
    assert dataset.episode_lengths.mean() == 1000


def test_importing_the_package_is_light():
    code = "import sys, offline_rl.data; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "h5py", "pooch", "requests", "tqdm", "filelock", "pandas"} & set(loaded)


# D4RL's names


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Make the folder of the tests' files D4RL's cache."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["hopper-medium-v2", "Hopper-Medium-V2", "hopper_medium-v2", "HOPPER_MEDIUM_V2"])
def test_ids_in_any_spelling_are_the_same_data(name, write, arrays, cache):
    """Broken by a spelling that ``--task`` knows and ``--dataset`` does not."""
    write(arrays, "hopper_medium-v2.hdf5")
    found = load_dataset(name)
    assert (found.name, found.task, found.metadata["mode"]) == ("hopper-medium-v2", "hopper-medium-v2", "d4rl")


@pytest.mark.parametrize(
    ("file", "task"),
    [
        ("hopper_medium-v2.hdf5", "hopper-medium-v2"),
        ("HOPPER_MEDIUM-v2.hdf5", "hopper-medium-v2"),
        ("hopper-medium-v2.hdf5", "hopper-medium-v2"),
        ("hopper_medium_replay-v2.hdf5", "hopper-medium-replay-v2"),
        ("Walker2d_Medium_Expert-v1.hdf5", "walker2d-medium-expert-v1"),
        ("halfcheetah_random.hdf5", "halfcheetah-random-v0"),
        ("hopper_mixed.hdf5", "hopper-medium-replay-v0"),
    ],
)
def test_a_file_under_d4rls_own_name_is_what_its_id_is(file, task, write, arrays, cache):
    """Broken by a path that leads to other rows, or another task, than the id."""
    by_path = load_dataset(write(arrays, file))
    assert (by_path.task, by_path.metadata["mode"]) == (task, "d4rl")
    write(arrays, Path(d4rl.DATASETS[task]).name)
    by_id = load_dataset(task)
    assert by_id.fingerprint == by_path.fingerprint
    assert by_id.task == by_path.task


def test_a_file_that_only_bears_d4rls_name_says_so(write, arrays):
    """Broken by a silent second experiment under one name."""
    path = write(arrays, "hopper_medium-v2.hdf5", env_id="Hopper-v4")
    with pytest.warns(
        UserWarning,
        match=r"has the name of D4RL's hopper-medium-v2, but is not read as that: it states its environment, Hopper-v4",
    ):
        namesake = load_dataset(path)
    assert (namesake.task, namesake.metadata["mode"]) == ("Hopper-v4", "exact")
    with pytest.warns(UserWarning, match="an environment of its own"):
        load_dataset(write(arrays, "hopper_expert-v2.hdf5", environment="{}"))


def test_data_of_another_robot_in_d4rls_cache_is_refused(write, arrays, cache):
    """Broken by training on walker2d's rows as halfcheetah's, which have the same sizes."""
    write(arrays, "halfcheetah_medium-v2.hdf5", env_id="Walker2d-v4")
    with pytest.raises(
        DatasetError, match=r"says that it was recorded in Walker2d-v4, so it is not halfcheetah-medium-v2"
    ):
        load_dataset("halfcheetah-medium-v2")
    write(arrays, "halfcheetah_expert-v2.hdf5", env_id="HalfCheetah-v4")
    assert load_dataset("halfcheetah-expert-v2").task == "halfcheetah-expert-v2"
