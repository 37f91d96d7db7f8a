"""Thousands of faulty inputs: each is refused in one sentence, or taken for what it means.

A bad one is printed with the command that tries it alone. More than these: `python -m benchmarks.robustness`.
"""

import csv
import io
import os
import random

import numpy as np
import pytest

import offline_rl as orl
from benchmarks.robustness import __main__ as robustness
from benchmarks.robustness.bases import base
from benchmarks.robustness.cases import OUTCOMES, RIGHT, Case, verdict_of
from benchmarks.robustness.classes import CLASSES
from benchmarks.robustness.damage import damaged
from benchmarks.robustness.kills import COMMANDS
from benchmarks.robustness.pool import fuzz
from benchmarks.robustness.recordings import arrays_meaning
from benchmarks.robustness.table import tables
from benchmarks.robustness.tables import csv_meaning
from offline_rl.errors import DatasetError
from offline_rl.files import read_sealed

OF_A_RUN = ("result", "run", "checkpoint", "flip")
"""Classes that need a run to damage, which takes seconds to make."""
QUICK = [name for name, kind in CLASSES.items() if kind.share and name not in OF_A_RUN]


def check(counts, seed):
    tallies = fuzz(counts, seed, workers=2)
    bad = [robustness.complaint(bad, seed) for tally in tallies.values() for bad in tally.bad]
    assert not bad, "\n".join([f"{len(bad)} kinds of bad inputs:", *bad])
    assert {name: tally.outcomes.total() for name, tally in tallies.items()} == counts


@pytest.mark.timeout(200)
def test_some_hundred_inputs():
    check(robustness.counts_of(300, QUICK), seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_inputs_of_all_classes():
    base()
    check(robustness.counts_of(int(os.environ.get("OFFLINE_RL_FUZZ_INPUTS", "1000"))), seed=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_flipped_bit_of_checkpoints_and_agents_is_noticed():
    base()
    check({"flip": int(os.environ.get("OFFLINE_RL_FLIPS", "200"))}, seed=3)


# The oracle, and the verdicts: what they must not miss.

HEADER = "observation_0,observation_1,action_0,reward,terminated"
ROWS = [f"{i / 10},{i % 7},{i % 11 / 11},{i % 3},{int(i % 10 == 9)}" for i in range(40)]


def meaning(*rows, header=HEADER):
    return csv_meaning("\n".join([header, *rows]).encode(), ".csv")


def test_the_oracle_takes_a_valid_table_and_gives_its_transitions():
    found = meaning(*ROWS)
    assert found.must == "accept"
    assert len(found.data.rewards) == 40
    assert found.data.actions[12] == [1 / 11]
    assert found.data.following[8] == [0.9, 2.0]
    assert found.data.following[9] is None


@pytest.mark.parametrize(
    ("row", "text", "what"),
    [
        (3, "0.3,3,0.3,0,-1", "a flag is neither 0 nor 1"),
        (3, "0.3,3,0.3,0,0.5", "a flag is neither 0 nor 1"),
        (3, "0.3,3,0.3,0,yes", "a cell is no number"),
        (4, "0.4,,0.3,0,0", "a value is missing"),
        (4, "0.4,nan,0.3,0,0", "a value is missing"),
        (5, "0.5,1_000,0.3,0,0", "a cell is no number"),
        (5, '0.5,"0,5",0.3,0,0', "a cell is no number"),
        (5, "0.5,2024-01-31,0.3,0,0", "a cell is no number"),
        (5, "0.5,1e39,0.3,0,0", "a number is too large for single precision"),
        (6, "0.6,6,0.3,0,0,", "a row has too many fields"),
    ],
)
def test_the_oracle_finds_what_is_wrong_with_a_row(row, text, what):
    found = meaning(*ROWS[:row], text, *ROWS[row + 1 :])
    assert [(fault.what, fault.row) for fault in found.faults] == [(what, row)]


@pytest.mark.parametrize(
    ("header", "must"),
    [
        (HEADER.replace("observation_1", "observation_0"), "refuse"),
        (HEADER.replace("reward", "Reward"), "refuse"),
        (HEADER.replace("terminated", "done"), "refuse"),
        (HEADER.replace("observation_1", "obervation_1"), "refuse"),
        (HEADER.replace("observation_1", " observation_1"), "refuse"),
        (HEADER.replace("observation_1", "wind"), "accept"),
        (HEADER.replace(",", ";"), "refuse"),
    ],
)
def test_the_oracle_reads_the_header(header, must):
    assert meaning(*ROWS, header=header).must == must


def test_the_oracle_sees_an_episode_that_goes_on_after_its_end():
    header = f"{HEADER},episode"
    assert meaning(*(f"{row},{number // 10}" for number, row in enumerate(ROWS)), header=header).must == "accept"
    found = meaning(*(f"{row},{number // 20}" for number, row in enumerate(ROWS)), header=header)
    assert {fault.what for fault in found.faults} == {"an episode goes on after its end"}
    assert [fault.row for fault in found.faults] == [9, 29]


def test_the_oracle_of_arrays_agrees_with_that_of_tables():
    table = list(csv.DictReader(io.StringIO("\n".join([HEADER, *ROWS]))))
    fields = {
        "observations": np.array([[float(row["observation_0"]), float(row["observation_1"])] for row in table]),
        "actions": np.array([[float(row["action_0"])] for row in table]),
        "rewards": np.array([float(row["reward"]) for row in table]),
        "terminated": np.array([float(row["terminated"]) for row in table]),
    }
    found, other = arrays_meaning(fields, (-1, 1)), meaning(*ROWS)
    assert found.must == "accept"
    assert vars(found.data) == vars(other.data)
    fields["terminated"][9] = -1
    assert [(fault.column, fault.row) for fault in arrays_meaning(fields, (-1, 1)).faults] == [("terminated", 9)]


def raises(error):
    def load():
        raise error

    return load


@pytest.mark.parametrize(
    ("load", "must", "outcome"),
    [
        (raises(DatasetError("x.csv: column 'reward' has no value in row 7; repair it")), "refuse", "refused"),
        (raises(DatasetError("x.csv: column 'reward' has no value in row 7; repair it")), "either", "refused"),
        (raises(DatasetError("x.csv: column 'reward' has no value in row 7; repair it")), "accept", "wrong"),
        (raises(DatasetError("x.csv: column 'reward' has no value in row 70; repair it")), "refuse", "unclear"),
        (raises(DatasetError("column 'reward' has no value in row 7")), "refuse", "unclear"),
        (raises(DatasetError("x.csv: 'reward' in\nrow 7")), "refuse", "unclear"),
        (raises(DatasetError(f"x.csv: 'reward' in row 7 {'x' * 500}")), "refuse", "unclear"),
        (raises(KeyError("reward")), "refuse", "traceback"),
        (raises(MemoryError()), "refuse", "memory"),
        (lambda: 1, "refuse", "wrong"),
        (lambda: 2, "accept", "wrong"),
        (lambda: 2, "either", "wrong"),
        (lambda: 1, "accept", "accepted"),
        (lambda: "x" + 1, "accept", "traceback"),
    ],
)
def test_verdicts(load, must, outcome):
    names = (r"x\.csv", "reward", r"row (?:7|8|9)\b")
    case = Case("kind", load, 1, must, names, lambda value: None if value == 1 else "another value")
    assert verdict_of(case, "/nowhere").outcome == outcome


@pytest.mark.timeout(200)
def test_an_input_is_the_same_each_time(tmp_path):
    """Broken by what is drawn without the generator, such as a time in a file; then no failure could be tried again."""
    for name in QUICK:
        made = []
        for folder in (tmp_path / f"{name}-1", tmp_path / f"{name}-2"):
            folder.mkdir()
            case = CLASSES[name].make(random.Random(f"{name}/0/5"), folder)
            made.append(
                (
                    case.kind,
                    case.must,
                    case.size,
                    {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()},
                )
            )
        assert made[0] == made[1], name


def test_damage_is_the_same_each_time_and_of_all_kinds():
    content = bytes(range(200))
    found = [damaged(content, random.Random(seed)) for seed in range(100)]
    assert found == [damaged(content, random.Random(seed)) for seed in range(100)]
    assert len({kind for _, kind in found}) == 7
    assert sum(damage == content for damage, _ in found) < 5


def test_the_page_shows_the_recorded_counts_and_no_failure():
    """What is published is what was recorded, and what was recorded is that nothing went wrong."""
    result = read_sealed(robustness.RESULT)
    assert tables(result) in robustness.PAGE.read_text()
    assert set(result["fuzz"]["classes"]) == set(CLASSES) - {"flip"}
    for counts in [*result["fuzz"]["classes"].values(), result["flips"]]:
        assert {name: counts[name] for name in OUTCOMES if name not in RIGHT and counts[name]} == {}
    races, killed = result["races"]["kinds"].values(), result["kills"]["commands"]
    assert sum(counts["tried"] for counts in result["fuzz"]["classes"].values()) >= 100_000
    assert sum(counts["pairs"] for counts in races) >= 200
    assert {*killed} == {*COMMANDS}
    assert {counts["kills"] + counts["ended before"] for counts in killed.values()} == {20}
    assert {counts["failures"] for counts in (*races, *killed.values())} == {0}


def test_what_is_loaded_is_compared_with_what_is_meant(tmp_path):
    """Fails if the judge takes any dataset."""
    path = tmp_path / "table.csv"
    path.write_text("\n".join([HEADER, *ROWS]))
    dataset = orl.load_dataset(path)
    from benchmarks.robustness.meaning import differs

    assert differs(dataset, meaning(*ROWS).data) is None
    shifted = meaning(*ROWS[:20], ROWS[21], *ROWS[21:]).data
    assert differs(dataset, shifted) is not None
