"""Tables of one's own: frames, CSV and Parquet files."""

import time

import numpy as np
import pandas
import pytest

import offline_rl as orl
from offline_rl.cli.main import main
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


@pytest.mark.parametrize("sign", ["\x1f", "\N{EM SPACE}", "\x0b"])
def test_a_control_character_beside_a_number_is_damage(tmp_path, sign):
    """Broken by str.strip, which takes separators of files, groups and units for blanks."""
    path = tmp_path / "table.csv"
    rows = frame().astype({"reward": object})
    rows.loc[3, "reward"] = f"4{sign}"
    rows.to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"'reward'.* in row 3"):
        load_dataset(path)


def test_the_row_of_a_value_of_bytes_is_named():
    rows = {**frame().to_dict("list"), "reward": ["1", "2", b"3", "4", "5", "6", "7"]}
    with pytest.raises(DatasetError, match="'reward' has b'3' in row 2"):
        Dataset.from_table(rows, name="mine")


def test_files_hold_the_same(tmp_path, capsys):
    own, csv, parquet = frame(), tmp_path / "own.csv", tmp_path / "own.parquet"
    own.to_csv(csv, index=False)
    own.to_parquet(parquet)
    expected = Dataset.from_table(own)
    for path in (csv, parquet):
        dataset = load_dataset(path)
        assert (dataset.fingerprint, dataset.name) == (expected.fingerprint, "own")
    csv.write_text("observation_0\n1,2\n1,2,3\n")
    with pytest.raises(DatasetError, match=r"own\.csv has no column 'reward'"):
        load_dataset(csv)
    parquet.write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(DatasetError, match=r"own\.parquet cannot be read as a table"):
        load_dataset(parquet)
    with pytest.raises(DatasetError, match="mode 'd4rl' is for files in D4RL's layout"):
        load_dataset(csv, mode="d4rl")
    with pytest.raises(DatasetError, match=f"did you mean '{csv}'"):
        load_dataset(tmp_path / "onw.csv")


HEADER = "observation_0,action_0,reward,episode"
LINES = ["1,0.5,1,a", "2,1.5,2,a", "3,0.7,3,a", "4,0.9,4,b", "5,0.1,5,b"]


def refused(path, text, **options):
    path.write_text(text, encoding="utf-8", **options)
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert ";" in sentence
    return sentence


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("begin", ["", "\ufeff", "\n\n"])
def test_ends_of_lines_and_marks_do_not_matter(tmp_path, newline, begin):
    path = tmp_path / "own.csv"
    path.write_bytes((begin + "\n".join([HEADER, *LINES, ""])).replace("\n", newline).encode())
    assert load_dataset(path).observations[:, 0].tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("place", "line", "message"),
    [
        (0, "1,0.5,1,a,9", "has 5 fields in row 0 but 4 in its header"),
        (3, "4,0.9,4,b,", "has 5 fields in row 3 but 4 in its header"),
        (3, "4,0.9,4", "has 3 fields in row 3 but 4 in its header"),
        (2, "-1,0218,0.7,3,a", "has 5 fields in row 2 but 4 in its header"),
    ],
)
def test_a_row_has_a_field_for_each_column(tmp_path, place, line, message):
    lines = [*LINES]
    lines[place] = line
    assert message in refused(tmp_path / "own.csv", "\n".join([HEADER, *lines]))


def test_rows_that_are_all_too_long_do_not_shift_the_columns(tmp_path):
    header = "observation_0,observation_1,action_0,reward,terminated"
    rows = [f"{i / 10},{i % 7},{i % 11 / 11},{i % 3},{int(i % 10 == 9)},0" for i in range(40)]
    assert "has 6 fields in row 0 but 5" in refused(tmp_path / "own.csv", "\n".join([header, *rows]))


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (" ", "spaces")])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("quote", ["", '"'])
def test_another_separator_is_named(tmp_path, separator, word, decimal, quote):
    text = "\n".join(separator.join(f"{quote}{field}{quote}" for field in line.split(",")) for line in [HEADER, *LINES])
    sentence = refused(tmp_path / "own.csv", text.replace(".", decimal))
    assert f"is separated by {word}" in sentence
    assert "use Dataset.from_table" in sentence


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("1_000", "a number with an underscore"),
        ("0x1F", "a hexadecimal, octal or binary number"),
        ("-0X1f", "a hexadecimal"),
        ('"1,000"', "a number with commas between thousands"),
        ('"-1,0218"', "a number with a decimal comma"),
        ("1 000", "a number with gaps between thousands"),
        ("12%", "a percentage"),
        ("2024-01-31", "a date"),
        ("31.01.2024", "a date"),
        ("2024-01-31T10:00:00Z", "a date"),
        ("00:10:00", "a time of day or a duration"),
        ("10:30 pm", "a time of day or a duration"),
        ("yes", "a truth value that is not true or false"),
        ("१२", "has '१२'"),
        ("shut", "has 'shut'"),
        ("", "no value"),
        ("NA", "no value"),
        ("NaN", "no value"),
        ("inf", "an infinite number"),
        ("1e400", "an infinite number"),
    ],
)
@pytest.mark.parametrize("whole_column", [False, True])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_cell_that_is_no_plain_number_is_named_with_the_reason(tmp_path, cell, reason, whole_column, column):
    lines = [line.split(",") for line in LINES]
    for line in lines if whole_column else lines[2:3]:
        line[column] = cell
    sentence = refused(tmp_path / "own.csv", "\n".join([HEADER, *(",".join(line) for line in lines)]))
    assert f"column '{HEADER.split(',')[column]}' has " in sentence
    dated = whole_column and ("-01-" in cell or cell == "00:10:00")  # known by the column's type
    assert ("dates or times" if dated else reason) in sentence
    assert dated or f"in row {0 if whole_column else 2}" in sentence


def test_the_words_true_and_false_are_flags_and_numbers(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("observation_0,action_0,reward,terminated\nTrue,0.5,1,False\nfalse,1.5,2,TRUE\n1,0.7,3,1\n")
    dataset = load_dataset(path)
    assert dataset.observations[:, 0].tolist() == [1, 0, 1]
    assert dataset.terminated.tolist() == [False, True, True]


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
@pytest.mark.parametrize("nothing", [np.nan, None, "", " "])
def test_a_row_without_an_episode_is_refused(tmp_path, kind, nothing):
    table = frame(truncated=None, terminated=None, episode=["a", "a", "a", nothing, nothing, "b", "b"])
    path = tmp_path / f"own.{kind}"
    with pytest.raises(DatasetError, match="column 'episode' has no value in row 3"):
        if kind == "frame":
            Dataset.from_table(table)
        else:
            table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
            load_dataset(path)


@pytest.mark.parametrize("nothing", [np.nan, pandas.NA, pandas.NaT, None])
def test_a_missing_cell_of_any_sort_is_no_value(nothing):
    for column in ("episode", "reward", "terminated", "observation_0"):
        cells = [1, 1, nothing, 1, 1, 1, 1] if column != "terminated" else [0, 0, nothing, 0, 0, 0, 0]
        for dtype in (object, "Float64", "Int64"):
            table = frame(truncated=None, terminated=None, episode=[1] * 7)
            table[column] = pandas.Series(cells, dtype=object).where(lambda cell: ~cell.isna(), None).astype(dtype)
            with pytest.raises(DatasetError, match=f"column '{column}' has no value in row 2"):
                Dataset.from_table(table)


@pytest.mark.parametrize(
    "episodes",
    [
        pandas.to_datetime(["2024-01-01"] * 3 + ["2024-01-02"] * 4),
        pandas.to_timedelta([1] * 3 + [2] * 4, "s"),
        pandas.Categorical(["a"] * 3 + ["b"] * 4),
        np.array([True] * 3 + [False] * 4),
        [1.5] * 3 + [2.5] * 4,
    ],
)
def test_an_episode_may_have_any_name(tmp_path, episodes):
    table = frame(truncated=None, terminated=None, episode=episodes)
    table.to_parquet(tmp_path / "own.parquet")
    for dataset in (Dataset.from_table(table), load_dataset(tmp_path / "own.parquet")):
        assert dataset.observations[:, 0].tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("name", ["observation_0", "action_0", "reward", "terminated", "truncated", "unused"])
def test_a_name_that_stands_twice_in_the_header_is_refused(tmp_path, name):
    path = tmp_path / "own.csv"
    text = frame(unused=[1] * 7).to_csv(index=False)
    header, *lines = text.splitlines()
    refused(path, "\n".join([f"{header},{name}", *(f"{line},1" for line in lines)]))
    with pytest.raises(DatasetError, match=f"two columns '{name}'"):
        load_dataset(path)
    twice = pandas.concat([frame(unused=[1] * 7), frame(unused=[1] * 7)[[name]]], axis=1)
    with pytest.raises(DatasetError, match=f"two columns '{name}'"):
        Dataset.from_table(twice)


@pytest.mark.parametrize(
    "name",
    [
        *(" observation_2", "observation_2 ", "observation_\n", "observation_a\nb", "observation_", "Observation_2"),
        *("observations_2", "observation2", "observation-2", "obs_2", "obs2", "action1", "actions_1", "ACTION_1"),
        *("next_obs_0", "next_observations_0", "Reward", "reward ", " Terminated", "Done", "episode\n"),
    ],
)
def test_a_column_that_looks_like_one_that_is_used_does_not_vanish(tmp_path, name):
    table = frame(episode=[0] * 3 + [1] * 2 + [2] * 2, **{name: [1.0] * 7})
    with pytest.raises(DatasetError) as caught:
        Dataset.from_table(table)
    assert repr(name)[1:-1] in str(caught.value)
    assert "\n" not in str(caught.value)
    table.to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(DatasetError):
        load_dataset(tmp_path / "own.csv")


def test_other_columns_are_left_out():
    extra = {name: ["x"] * 7 for name in ("time", "activity", "observer", "rewarded by", "next", "actor", "obsolete")}
    assert Dataset.from_table(frame(**extra)).fingerprint == Dataset.from_table(frame()).fingerprint


@pytest.mark.parametrize(
    "values",
    [
        pandas.to_datetime(["2024-01-01"] * 7),
        pandas.to_datetime(["2024-01-01"] * 7).tz_localize("UTC"),
        pandas.to_timedelta(np.arange(7), "s"),
        [[1, 2], [3], [4], [5], [6], [7], [8]],
        [{"x": 1}] * 7,
        [b"1"] * 7,
    ],
)
def test_columns_of_other_types_are_refused(tmp_path, values):
    table = frame(observation_1=values)
    table.to_parquet(tmp_path / "own.parquet")
    for read in (lambda: load_dataset(tmp_path / "own.parquet"), lambda: Dataset.from_table(table)):
        with pytest.raises(DatasetError, match=r"column 'observation_1' has .*numbers are needed") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(DatasetError, match="column 'observation_0' has 7 rows but 'reward' has 6"):
        Dataset.from_table({**frame().to_dict("list"), "reward": [0] * 6})


def test_a_file_without_a_header_is_refused(tmp_path):
    assert "has numbers in its first line" in refused(tmp_path / "own.csv", "1,2,3\n4,5,6\n")


def test_many_columns_take_time_in_proportion(tmp_path):
    count = 8000
    header = ",".join([*(f"observation_{number}" for number in range(count)), "action_0", "reward", "episode"])
    (tmp_path / "own.csv").write_text("\n".join([header, *(f"{'1,' * count}{row},1,1" for row in (0.5, 1.5, 2.5))]))
    began = time.process_time()
    assert load_dataset(tmp_path / "own.csv").observation_size == count
    assert time.process_time() - began < 5


def test_bounds_may_be_an_array():
    dataset = Dataset.from_table(frame(), action_bounds=np.array([[-5.0], [5.0]]))
    assert [bound.tolist() for bound in dataset.action_bounds] == [[-5], [5]]


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
    flags = ["--steps=5", "--eval_every=0", "--final_episodes=0", "--hidden_dims=[8]", "--workers=0"]
    assert main(["train", "td3_bc", "--dataset", "own.csv", *flags]) == 0
    agent = orl.load_agent("runs/td3_bc-own/agents/seed-0")
    assert -1 <= agent.act(np.array([1.0, 10.0]))[0] <= 3
