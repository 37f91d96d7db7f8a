"""Tables of one's own: frames, CSV and Parquet files."""

import numpy as np
import pandas
import pytest

import offline_rl as orl
from offline_rl.cli import main
from offline_rl.data import Dataset, load_dataset
from offline_rl.errors import DatasetError


def frame(**changes):
    """Seven steps: an episode that ends for good, one that is cut, and the beginning of a third."""
    columns = {
        "observation_0": [0.0, 1, 2, 3, 4, 5, 6],
        "observation_1": [0, 10, 20, 30, 40, 50, 60],
        "action_0": [-1.0, 0, 3, 0, 0, 1, 2],
        "reward": [1, 2, 3, 4, 5, 6, 7],
        "terminated": [False, False, True, False, False, False, False],
        "truncated": [0, 0, 0, 0, 1, 0, 0],
        **changes,
    }
    return pandas.DataFrame({name: column for name, column in columns.items() if column is not None})


def test_a_frame_is_what_its_arrays_are():
    table = frame()
    dataset = Dataset.from_table(table, name="mine")
    arrays = Dataset.from_arrays(
        table[["observation_0", "observation_1"]].to_numpy(),
        table[["action_0"]].to_numpy(),
        table["reward"].to_numpy(),
        table["terminated"].to_numpy(),
        table["truncated"].to_numpy(),
        action_bounds=(-1, 3),
    )
    assert dataset.fingerprint == arrays.fingerprint
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 3, 5]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 2, 4, 6]
    assert [bound.tolist() for bound in dataset.action_bounds] == [[-1], [3]]
    assert Dataset.from_table(table.to_dict("list")).fingerprint == dataset.fingerprint


def test_an_episode_column_says_where_episodes_end():
    numbered = frame(truncated=None, episode=["a", "a", "a", "b", "b", "c", "c"])
    assert (
        Dataset.from_table(numbered).fingerprint
        == Dataset.from_table(frame(truncated=[0, 0, 0, 0, 1, 0, 1])).fingerprint
    )
    alone = Dataset.from_table(frame(truncated=None, terminated=None, episode=[0, 0, 0, 1, 1, 1, 1]))
    assert not alone.terminated.any()
    assert alone.observations[:, 0].tolist() == [0, 1, 3, 4, 5]


def test_next_observations_keep_every_row_whatever_the_order_of_columns():
    following = {"next_observation_1": np.arange(7) + 0.5, "next_observation_0": np.arange(7) - 0.5}
    dataset = Dataset.from_table(frame(**following))
    assert len(dataset) == 7
    assert dataset.next_observations[:, 1].tolist() == following["next_observation_1"].tolist()
    assert dataset.truncated.tolist() == [False] * 4 + [True, False, False]


def test_numbers_are_ordered_as_numbers_and_names_as_in_the_table():
    many = {f"observation_{number}": np.full(3, number) for number in sorted(range(12), key=str)}
    rest = {"action": [0, 1, 0], "reward": [0, 0, 0], "truncated": [0, 0, 0]}
    assert Dataset.from_table({**many, **rest}).observations[0].tolist() == list(range(12))
    named = {"observation_z": [1, 1, 1], "time": ["8:00", "8:01", "8:02"], "observation_a": [2, 2, 2]}
    assert Dataset.from_table({**named, **rest}).observations[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "mine has no column 'reward'; its columns are observation_0"),
        ({"reward": None, "rewards": [0] * 7}, "unknown column 'rewards'; did you mean 'reward'"),
        ({"terminated": None, "terminals": [0] * 7}, "column 'terminals' does not say whether"),
        ({"done": [0] * 7}, "column 'done' does not say whether the episode ended or was cut"),
        ({"terminated": None, "truncated": None}, "no column that says where episodes end"),
        ({"observation_0": None, "observation_1": None}, "no column 'observation_0'"),
        ({"observation_1": None, "observation_2": [0] * 7}, "no column 'observation_1', but 'observation_2'"),
        ({"next_observation_0": [0] * 7}, "no column 'next_observation_1'; give the next of all"),
        ({"observation_1": [0, 1, 2, np.nan, 4, 5, 6]}, "column 'observation_1' has no value in row 3"),
        ({"reward": [0, 1, 2, 3, np.inf, 5, 6]}, "column 'reward' has an infinite number in row 4"),
        ({"action_0": [0, 1, "shut", 3, 4, 5, 6]}, "column 'action_0' has 'shut' in row 2; numbers are needed"),
        ({"terminated": [0, 0, 2, 0, 0, 0, 0]}, "column 'terminated' has 2 in row 2; only 0 and 1"),
        ({"terminated": ["no"] * 7}, "column 'terminated' has 'no' in row 0"),
        ({"episode": [1, 1, 2, 2, 1, 1, 1]}, "column 'episode' has 1 again in row 4; sort the rows"),
        ({"action_0": [1] * 7}, "column 'action_0' is constant; leave it out, or give action_bounds"),
    ],
)
def test_mistakes_name_the_column(changes, message):
    with pytest.raises(DatasetError, match=message) as caught:
        Dataset.from_table(frame(**changes), name="mine")
    assert "\n" not in str(caught.value)


def test_files_hold_the_same(tmp_path, capsys):
    own, csv, parquet = frame(), tmp_path / "own.csv", tmp_path / "own.parquet"
    own.to_csv(csv, index=False)
    own.to_parquet(parquet)
    expected = Dataset.from_table(own)
    for path in (csv, parquet):
        dataset = load_dataset(path)
        assert (dataset.fingerprint, dataset.name) == (expected.fingerprint, "own")
    csv.write_text("observation_0\n1,2\n1,2,3\n")
    with pytest.raises(DatasetError, match=r"own\.csv cannot be read as a table"):
        load_dataset(csv)
    parquet.write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(DatasetError, match=r"own\.parquet cannot be read as a table"):
        load_dataset(parquet)
    with pytest.raises(DatasetError, match="mode 'd4rl' is for files in D4RL's layout"):
        load_dataset(csv, mode="d4rl")
    with pytest.raises(DatasetError, match=f"did you mean '{csv}'"):
        load_dataset(tmp_path / "onw.csv")


def test_joined_tables_have_the_widest_actions_found(tmp_path):
    one, two = Dataset.from_table(frame()), Dataset.from_table(frame(action_0=[0, 1, 2, 3, 4, 5, 6]))
    assert [bound.tolist() for bound in (one + two + one).action_bounds] == [[-1], [6]]
    stated = Dataset.from_table(frame(), action_bounds=(-5, 5))
    assert [bound.tolist() for bound in (stated + one).action_bounds] == [[-5], [5]]
    with pytest.raises(DatasetError, match="action bounds differ"):
        stated + two


def test_the_command_line_takes_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame().to_csv("own.csv", index=False)
    assert main(["datasets", "own.csv"]) == 0
    assert "5 (mode exact)" in capsys.readouterr().out
    flags = ["--steps=5", "--eval_every=0", "--final_episodes=0", "--hidden_dims=[8]", "--quiet"]
    assert main(["train", "td3_bc", "--dataset", "own.csv", *flags]) == 0
    agent = orl.load_agent("runs/td3_bc-own/agents/seed-0")
    assert -1 <= agent.act(np.array([1.0, 10.0]))[0] <= 3
