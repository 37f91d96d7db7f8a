"""Rules that hold whoever brings the data: the same fault has the same fate in every loader."""

import json
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest

from offline_rl.cli.main import main
from offline_rl.data import Dataset, load_dataset
from offline_rl.errors import DatasetError

ROWS = 40
LABELS = {"rewards": "reward", "terminated": "terminated", "truncated": "truncated"}
HDF5_KEYS = {"terminated": "terminals", "truncated": "timeouts"}


def fields(**changes):
    """Four episodes of ten steps, the second and fourth cut."""
    rng, row = np.random.default_rng(0), np.arange(ROWS)
    return {
        "observations": rng.normal(size=(ROWS, 2)),
        "actions": rng.uniform(-1, 1, (ROWS, 2)),
        "rewards": rng.normal(size=ROWS),
        "terminated": (row % 20 == 9).astype(float),
        "truncated": (row % 20 == 19).astype(float),
        **changes,
    }


def changed(field, row, value, **others):
    given = fields(**others)
    column = np.array(given[field], np.float64)
    column[(row, 1) if column.ndim == 2 else row] = value
    return {**given, field: column}


def frame_of(given):
    columns = {}
    for field, word in (
        ("observations", "observation"),
        ("actions", "action"),
        ("next_observations", "next_observation"),
    ):
        columns |= {
            f"{word}_{entry}": column for entry, column in enumerate(np.transpose(given.get(field, np.zeros((0, 0)))))
        }
    columns |= {LABELS[field]: given[field] for field in LABELS if field in given}
    return pandas.DataFrame(columns)


def from_arrays(given, folder):
    return Dataset.from_arrays(**given)


def from_frame(given, folder):
    return Dataset.from_table(frame_of(given))


def from_csv(given, folder):
    frame_of(given).to_csv(folder / "x.csv", index=False)
    return load_dataset(folder / "x.csv")


def from_parquet(given, folder):
    frame_of(given).to_parquet(folder / "x.parquet")
    return load_dataset(folder / "x.parquet")


def from_hdf5(given, folder):
    with h5py.File(folder / "x.hdf5", "w") as file:
        for field, values in given.items():
            file[HDF5_KEYS.get(field, field)] = values
    return load_dataset(folder / "x.hdf5", "exact")


def from_minari(given, folder):
    import minari
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    following = given.get("next_observations", given["observations"])
    episodes = []
    for start in range(0, ROWS, 10):
        own = slice(start, start + 10)
        seen = np.concatenate([given["observations"][own], following[start + 9 : start + 10]])
        episodes.append(
            EpisodeBuffer(
                observations=seen,
                actions=given["actions"][own],
                rewards=given["rewards"][own],
                terminations=np.asarray(given["terminated"][own]),
                truncations=np.asarray(given["truncated"][own]),
                infos={},
            )
        )
    box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "test/rules/x-v0", episodes, observation_space=box, action_space=spaces.Box(-1, 1, (2,), np.float64)
        )
    return load_dataset("test/rules/x-v0")


FLAT = [from_arrays, from_frame, from_csv, from_parquet, from_hdf5]
LOADERS = [*FLAT, from_minari]


@pytest.fixture
def load(request, tmp_path, monkeypatch):
    """Loads fields by the loader that the test is given."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return lambda given: request.param(given, tmp_path)


def loaders(which=LOADERS):
    return pytest.mark.parametrize("load", which, indirect=True, ids=lambda loader: loader.__name__)


def refusal(load, given):
    with pytest.raises(DatasetError) as caught:
        load(given)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert ";" in sentence, "a remedy follows the semicolon"
    return sentence


@loaders()
def test_the_same_fields_are_the_same_transitions(load):
    given = fields()
    dataset = load(given)
    assert np.array_equal(dataset.observations[:9], given["observations"][:9].astype(np.float32))
    assert dataset.terminated.sum() == 2
    assert dataset.ends == "as recorded"


# End flags


@loaders()
@pytest.mark.parametrize("value", [-1, 2, 0.5])
@pytest.mark.parametrize("field", ["terminated", "truncated"])
def test_an_end_flag_is_0_or_1(load, field, value):
    sentence = refusal(load, changed(field, 5, value))
    assert f"has {value:g} in row 5; only 0 and 1" in sentence
    assert field[:7] in sentence or HDF5_KEYS[field] in sentence


@loaders()
def test_flags_of_minus_one_and_one_are_refused(load):
    assert "has -1 in row 0" in refusal(load, fields(terminated=np.where(np.arange(ROWS) % 10 == 9, 1, -1)))


@loaders()
@pytest.mark.parametrize("field", ["observations", "rewards", "terminated"])
def test_a_missing_number_is_named_by_row(load, field):
    assert "in row 12" in refusal(load, changed(field, 12, np.nan))


@pytest.mark.parametrize("field", ["terminated", "truncated"])
def test_an_episode_that_goes_on_after_its_end_is_refused(field):
    table = frame_of(changed(field, 5, 1)).assign(episode=np.arange(ROWS) // 10)
    with pytest.raises(DatasetError, match=f"'{field}' is 1 in row 5, but the same episode goes on in row 6"):
        Dataset.from_table(table)


@loaders([from_minari])
def test_an_episode_of_minaris_that_goes_on_after_its_end_is_refused(load):
    assert "is 1 in row 5, but the same episode goes on in row 6" in refusal(load, changed("terminated", 5, 1))


@loaders(FLAT)
def test_rows_without_any_end_are_announced_and_recorded(load):
    given = fields(terminated=np.zeros(ROWS), truncated=np.zeros(ROWS))
    with pytest.warns(UserWarning, match="marks no row as the end of an episode, so its 40 rows count as one"):
        dataset = load(given)
    assert dataset.ends == "none marked, all rows are one episode"
    assert (dataset + load(fields())).ends == "none marked, all rows are one episode + as recorded"


@loaders([from_arrays, from_frame, from_csv, from_hdf5])
def test_episodes_of_one_step_need_an_end_that_is_marked(load):
    sentence = refusal(load, fields(terminated=np.zeros(ROWS), truncated=np.ones(ROWS)))
    assert "one-step episodes need terminated = 1, or next observations" in sentence


# Next observations


@loaders()
def test_no_next_observation_is_needed_after_an_end(load):
    given = fields()
    following = np.concatenate([given["observations"][1:], given["observations"][:1]])
    ends = given["terminated"] == 1
    following[ends, 1] = np.nan
    dataset = load({**given, "next_observations": following})
    assert len(dataset) == ROWS
    assert np.array_equal(dataset.next_observations[ends], dataset.observations[ends])
    assert np.array_equal(dataset.next_observations[~ends][:9], following[~ends][:9].astype(np.float32))


@loaders(FLAT)
def test_a_next_observation_is_needed_elsewhere(load):
    following = np.array(fields()["observations"])
    following[[8, 9], 1] = np.nan
    assert "in row 8" in refusal(load, {**fields(), "next_observations": following})


# Size


@loaders()
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rewards", 1e25, "has 1e+25 in row 7"),
        ("rewards", -1e13, "has -1e+13 in row 7"),
        ("observations", 1e20, "has 1e+20 in row 7"),
        ("observations", 1e300, "has 1e+300 in row 7"),
        ("observations", np.inf, "has an infinite number in row 7"),
    ],
)
def test_numbers_beyond_single_precision_are_named_before_training(load, field, value, message):
    assert message in refusal(load, changed(field, 7, value))


@loaders()
def test_all_rewards_too_large_are_refused(load):
    assert "beyond the 1e+12" in refusal(load, fields(rewards=fields()["rewards"] * 1e25))


@loaders()
def test_rewards_whose_squares_vanish_are_refused(load):
    assert "its square is 0 in single precision" in refusal(load, fields(rewards=fields()["rewards"] * 1e-25))


def test_faint_rewards_are_announced():
    with pytest.warns(UserWarning, match="'rewards' is .* at most in size"):
        Dataset.from_arrays(**fields(rewards=fields()["rewards"] * 1e-9))


@loaders()
@pytest.mark.parametrize("step", [1, 0.01])
def test_a_clock_whose_ticks_single_precision_cannot_hold_is_refused(load, step):
    seen = np.stack([np.zeros(ROWS), 1.7e9 + step * np.arange(ROWS)], axis=1)
    assert "one number in single precision; subtract" in refusal(load, fields(observations=seen))


@loaders(FLAT)
def test_rounding_of_double_precision_is_no_reason_to_refuse(load):
    seen = np.stack([1 + 1e-15 * np.arange(ROWS), 20 + np.random.default_rng(1).normal(size=ROWS)], axis=1)
    assert len(load(fields(observations=seen))) > 30


# Actions


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((1, -1), "action entry 0 has the lowest action 1, above the highest, -1"),
        (([-1, 0], [1, 0]), "action entry 1 has the bounds 0 and 0, between which there is nothing"),
        (([-1, 1], [1, 1 + 1e-9]), "action entry 1 has the bounds 1 and 1"),
        ((-np.inf, np.inf), "action_bounds are -inf and inf for action entry 0; give finite numbers"),
        ((-1, np.nan), "action_bounds are -1 and nan"),
        ((-1, 1e300), "action_bounds are -1 and inf"),
        ((-1,), "action_bounds do not fit"),
        ("ab", "action_bounds do not fit"),
    ],
)
@pytest.mark.parametrize("from_table", [False, True])
def test_bounds_leave_something_to_choose(bounds, message, from_table):
    given = fields(actions=np.stack([np.linspace(-1, 1, ROWS), np.zeros(ROWS)], axis=1))
    message = (
        message.replace("action entry 0", "column 'action_0'") if "entry 0 has" in message and from_table else message
    )
    message = message.replace("action entry 1", "column 'action_1'") if from_table else message
    with pytest.raises(DatasetError, match=message):
        Dataset.from_table(frame_of(given), action_bounds=bounds) if from_table else Dataset.from_arrays(
            **given, action_bounds=bounds
        )


def test_bounds_in_a_file_leave_something_to_choose(write, arrays):
    for bounds in ([1.0, -1.0], [[-1.0, 0.5], [1.0, 0.5]], "wide", 3):
        with pytest.raises(DatasetError, match=r"above the highest|nothing to choose|do not fit"):
            load_dataset(write(arrays, action_bounds=bounds))


@loaders([from_frame, from_csv, from_parquet])
@pytest.mark.parametrize("tick", [0, 1e-9, 1e-45])
def test_actions_that_are_constant_in_single_precision_are_refused(load, tick):
    moved = np.stack([np.linspace(-1, 1, ROWS), 1 + np.arange(ROWS) % 2 * tick], axis=1)
    assert "'action_1'" in refusal(load, fields(actions=moved))


@loaders(FLAT)
def test_actions_that_rounding_makes_constant_are_refused_beside_zero(load):
    moved = np.stack([np.linspace(-1, 1, ROWS), np.arange(ROWS) % 2 * 1e-45], axis=1)
    if load(fields()).action_bounds[0][0] == -1:  # stated bounds are wider than these actions
        assert load(fields(actions=moved)).action_size == 2
    else:
        assert "'action_1'" in refusal(load, fields(actions=moved))


def test_rounding_at_the_bounds_is_judged_by_their_distance():
    tiny = fields(actions=np.full((ROWS, 2), 5e-5))
    with pytest.raises(DatasetError, match="outside"):
        Dataset.from_arrays(**tiny, action_bounds=(-1e-5, 1e-5))
    within = fields(actions=np.full((ROWS, 2), 1e-5 * 1.00009))
    assert len(Dataset.from_arrays(**within, action_bounds=(-1e-5, 1e-5))) > 30


def test_actions_out_of_bounds_name_what_to_give():
    with pytest.raises(DatasetError, match=r"outside \[-1, 1\]; rescale .* or give action_bounds"):
        Dataset.from_arrays(**fields(actions=3 * fields()["actions"]))


@loaders([from_arrays, from_frame, from_csv, from_hdf5])
def test_codes_of_discrete_actions_are_announced_once(load):
    codes = np.stack([np.linspace(-1, 1, ROWS), np.arange(ROWS) % 3 - 1], axis=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(fields(actions=codes))
        load(fields())
    said = [str(each.message) for each in caught]
    assert len(said) == 1
    assert "holds whole numbers only, -1 to 1; actions are continuous here" in said[0]


def test_one_action_a_step_has_a_column_of_its_own():
    with pytest.raises(DatasetError, match=r"shape \(40,\).*\(40, 1\) for a single one; codes of discrete actions"):
        Dataset.from_arrays(**fields(actions=np.arange(ROWS)))


def test_masked_numbers_are_missing():
    for field in ("rewards", "terminated", "observations"):
        masked = np.ma.masked_array(fields()[field], np.zeros_like(fields()[field], bool))
        masked[3] = np.ma.masked
        with pytest.raises(DatasetError, match="has NaN in row 3"):
            Dataset.from_arrays(**fields(**{field: masked}))


# Ends that a file does not tell


def recorded(make_arrays, rows, ends=()):
    arrays = make_arrays(np.random.default_rng(0), rows, timeouts=False)
    return {**arrays, "terminals": np.isin(np.arange(rows), ends)}


@pytest.mark.parametrize("mode", [None, "exact"])
def test_ends_of_an_unknown_task_are_asked_for(make_arrays, write, mode):
    path = write(recorded(make_arrays, 2500, [99]))
    with pytest.raises(
        DatasetError, match=r"marks no end for 2,400 rows from row 100 on, .* or ask for the mode 'd4rl'"
    ):
        load_dataset(path, mode)


@pytest.mark.parametrize("told", [{"mode": "d4rl"}, {"env_id": "Hopper-v4"}, {"dataset": "hopper-medium-v2"}])
def test_counted_ends_are_announced_and_recorded(make_arrays, write, told):
    mode = told.pop("mode", None)
    path = write(recorded(make_arrays, 2500), **told)
    with pytest.warns(UserWarning, match="has no 'timeouts', so episodes are taken to be cut every 1,000 steps"):
        dataset = load_dataset(path, mode)
    assert dataset.ends == dataset.metadata["ends"] == "counted, every 1,000 steps"
    assert dataset.episode_lengths.tolist() == [1000, 1000, 500]


@pytest.mark.filterwarnings("error")
def test_a_file_whose_episodes_all_end_needs_no_count(make_arrays, write):
    dataset = load_dataset(write(recorded(make_arrays, 2500, range(249, 2500, 250))))
    assert dataset.ends == "as recorded"
    assert dataset.episode_lengths.tolist() == [250] * 10


@pytest.mark.filterwarnings("error")
def test_d4rls_own_data_is_counted_without_a_word_but_recorded(make_arrays, write):
    dataset = load_dataset(write(recorded(make_arrays, 2500), "hopper_medium.hdf5"))
    assert (dataset.task, dataset.ends) == ("hopper-medium-v0", "counted, every 1,000 steps")


def test_the_command_line_announces_counted_ends_and_a_run_records_them(
    make_arrays, write, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = write(recorded(make_arrays, 1500))
    assert main(["datasets", str(path)]) == 2
    assert "ask for the mode 'd4rl'" in capsys.readouterr().err
    assert main(["datasets", str(path), "--mode", "d4rl"]) == 0
    said = capsys.readouterr()
    assert "episode ends      counted, every 1,000 steps" in said.out
    assert "warning: " in said.err
    assert "taken to be cut every 1,000 steps" in said.err
    flags = ["--steps=2", "--eval_every=0", "--final_episodes=0", "--hidden_dims=[8]", "--batch_size=8", "--workers=0"]
    other = write(recorded(make_arrays, 1500), "other.hdf5")  # Python says the same warning once
    assert main(["train", "bc", "--dataset", str(other), "--data_mode", "d4rl", "--out", "run", *flags]) == 0
    assert "taken to be cut every 1,000 steps" in capsys.readouterr().err
    assert json.loads(Path("run/config.json").read_text())["dataset"]["ends"] == "counted, every 1,000 steps"
