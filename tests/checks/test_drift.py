"""New observations are compared with those that an agent learned from: false alarms, power, old agents."""

import dataclasses
import json

import numpy as np
import pandas
import pytest
from checks.worlds import dataset, kept, roll
from helpers.agents import as_format_1

import offline_rl as orl
from offline_rl.algos.bc import BC, Config
from offline_rl.checks.rows import correlation_time
from offline_rl.checks.summary import KEY, PARTS, Summary
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import AgentError

PER_DRAW = 8
LOG = roll(80, episodes=60 + 200 * PER_DRAW, steps=60)
"""One world; the first 60 episodes are learned from, the others are new, 8 for each of 200 draws."""
LEARNED = dataset(kept(LOG, LOG["episode"] < 60))


def new(draw, count=PER_DRAW):
    first = 60 + draw * PER_DRAW
    return LOG["observations"][(LOG["episode"] >= first) & (LOG["episode"] < first + count)]


def agent(*, summary=True, normalize=True):
    made = BC(Config(hidden_dims=[4]), 4, 2, preprocessing=Preprocessing.fit(LEARNED, normalize=normalize))
    made.provenance = {KEY: Summary.of(LEARNED).to_json()} if summary else {}
    return made


@pytest.mark.parametrize("summary", [True, False], ids=["quantiles", "mean and deviation"])
def test_two_hundred_draws_of_the_same_distribution_raise_at_most_one_false_alarm_in_a_hundred(summary):
    known = agent(summary=summary)
    answers = [orl.drift(known, new(draw)).answer for draw in range(200)]
    assert answers.count("drifted") <= 2
    if summary:  # mean and deviation alone need several times as many rows for an answer
        assert answers.count("unclear") <= 20


def shifted(rows):
    return rows + np.array([0, 1, 0, 0]) * LOG["observations"][:, 1].std()


def widened(rows):
    return (rows - rows.mean(0)) * [1, 1, 4, 1] + rows.mean(0)


def frozen(rows):
    return np.column_stack([np.full(len(rows), rows[0, 0]), rows[:, 1:]])


def in_centimetres(rows):
    return rows * [1, 1, 1, 100]


@pytest.mark.parametrize("summary", [True, False], ids=["quantiles", "mean and deviation"])
@pytest.mark.parametrize(
    ("change", "column"),
    [(shifted, 1), (widened, 2), (frozen, 0), (in_centimetres, 3)],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_changes_are_found_and_the_column_named(change, column, summary):
    known = agent(summary=summary)
    found = [orl.drift(known, change(new(draw * 8, 64))) for draw in range(8)]
    assert [each.answer for each in found] == ["drifted"] * 8
    assert {each.columns[0].name for each in found} == {f"observation_{column}"}
    assert all(f"'observation_{column}'" in each.sentence for each in found)


def test_swapped_columns_are_found():
    """Columns whose distributions differ are told apart by themselves, others by the neighbours of joint states."""
    rows = new(0, 80)
    scaled = LEARNED.observations * np.float32([1, 5, 1, 1])
    learned = dataset({**kept(LOG, LOG["episode"] < 60), "observations": scaled, "next_observations": scaled})
    known = BC(Config(hidden_dims=[4]), 4, 2)
    known.provenance = {KEY: Summary.of(learned).to_json()}
    found = orl.drift(known, (rows * [1, 5, 1, 1])[:, [1, 0, 2, 3]])
    assert {column.name for column in found.drifted} >= {"observation_0", "observation_1"}


def test_states_that_never_came_together_are_new_to_the_neighbours_alone():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 1, (4000, 1))
    states = np.column_stack([common, common + 0.05 * rng.normal(0, 1, (4000, 1))])
    ends = np.arange(4000) % 20 == 19
    data = orl.Dataset.from_arrays(states, np.zeros((4000, 1)) + rng.uniform(-1, 1, (4000, 1)), common[:, 0], ends)
    known = BC(Config(hidden_dims=[4]), 2, 1)
    today = np.column_stack([states[:1000, 0], rng.permutation(states[:1000, 1])])
    found = orl.drift(known, today, dataset=data)
    assert found.answer == "drifted"
    assert found.drifted == ()
    assert found.novelty > 0.3
    same = orl.drift(known, states[2000:3000], dataset=data)
    assert (same.answer, same.novelty < 0.05) == ("alike", True)


def test_few_rows_are_too_few_to_tell():
    found = orl.drift(agent(), new(0)[:5])
    assert found.answer == "unclear"
    assert "too few" in found.sentence


@pytest.mark.parametrize("count", [1, 5, 50, 300, 1000])
@pytest.mark.parametrize("summary", [True, False], ids=["quantiles", "mean and deviation"])
def test_a_piece_of_a_slow_process_is_not_judged(count, summary):
    """Its mean is elsewhere and its spread smaller than those of the whole, though nothing has changed."""
    time = np.arange(8000)[:, None]
    slow = np.sin(time / [500, 700, 900]) + 0.01 * np.random.default_rng(1).normal(size=(8000, 3))
    data = orl.Dataset.from_arrays(slow, np.cos(time), slow[:, 0], np.arange(8000) % 1000 == 999)
    known = BC(Config(hidden_dims=[4]), 3, 1, preprocessing=Preprocessing.fit(data, normalize=True))
    known.provenance = {KEY: Summary.of(data).to_json()} if summary else {}
    assert orl.drift(known, slow[3000 : 3000 + count]).answer == "unclear"


def test_a_dataset_of_other_columns_is_refused():
    named = {"observation_names": ("a", "b"), "action_names": ("u",)}
    rows = np.random.default_rng(0).uniform(-1, 1, (40, 3))
    data = orl.Dataset.from_arrays(rows[:, :2], rows[:, 2:], rows[:, 0], np.arange(40) % 10 == 9, **named)
    made = Preprocessing.fit(data, normalize=True)
    known = BC(Config(hidden_dims=[4]), 2, 1, preprocessing=dataclasses.replace(made, observation_names=("b", "a")))
    with pytest.raises(AgentError, match="columns \\('a', 'b'\\)"):
        orl.drift(known, rows[:, :2], dataset=data)


def test_a_dataset_that_is_given_is_what_is_compared_with_and_named():
    """An agent's own good days are another distribution than what it learned from; a change since then is seen."""
    change = np.float32([3 * LEARNED.observations[:, 0].std(), 0, 0, 0])
    reference = dataclasses.replace(LEARNED, name="good_days", observations=LEARNED.observations + change)
    days = new(0, 60) + change
    assert orl.drift(agent(), days).sentence.startswith("These observations are not like those that the agent learned")
    same = orl.drift(agent(), days, dataset=reference)
    assert same.answer == "alike"
    assert "differ from those of dataset good_days;" in same.sentence
    later = orl.drift(agent(), days - change, dataset=reference)
    assert later.sentence.startswith("These observations are not like those of dataset good_days: 1 of 4 columns")


def test_the_correlation_time_of_an_autoregression_is_the_known_one():
    """(1 + a) / (1 - a) for x' = a x + noise; 1 for noise alone."""
    rng = np.random.default_rng(1)
    column = np.zeros(60_000)
    for row in range(1, len(column)):
        column[row] = 0.8 * column[row - 1] + rng.normal()
    assert 7 < correlation_time(column) < 16
    assert correlation_time(rng.normal(0, 1, 60_000)) < 2
    assert correlation_time(np.ones(100)) == 1


def test_a_summary_is_that_of_the_definition_and_survives_json():
    summary = Summary.of(LEARNED)
    for entry, column in enumerate(LEARNED.observations.T.tolist()):
        ordered = sorted(column)
        for part, edge, share in zip(PARTS, summary.quantiles[entry], summary.shares[entry], strict=True):
            assert edge == pytest.approx(ordered[round(part * (len(ordered) - 1))], rel=1e-6)
            assert share == pytest.approx(
                sum(value <= edge + 1e-7 * abs(edge) for value in column) / len(column), abs=1e-6
            )
    again = Summary.from_json(json.loads(json.dumps(summary.to_json())), 4)
    assert np.array_equal(again.shares, summary.shares) and np.array_equal(again.quantiles, summary.quantiles)


def test_a_trained_agent_keeps_a_summary_and_an_older_one_loads_without(tmp_path, tiny):
    run = orl.train("bc", LEARNED, steps=20, eval_every=0, final_episodes=0, out=str(tmp_path / "run"), **tiny)
    folder = tmp_path / "run" / "agents" / "seed-0"
    assert orl.drift(run.agents[0], LEARNED).answer == "alike"
    assert orl.drift(tmp_path / "run", LEARNED).answer == "alike"
    assert orl.load_agent(folder).provenance[KEY] == Summary.of(LEARNED).to_json()
    description = json.loads((folder / "agent.json").read_text())
    del description["provenance"][KEY]
    as_format_1(folder, provenance=description["provenance"])
    found = orl.drift(folder, new(0))
    assert "mean and standard deviation alone" in found.sentence


def test_an_agent_that_keeps_nothing_asks_for_the_dataset():
    known = agent(summary=False, normalize=False)
    with pytest.raises(AgentError, match="give the dataset"):
        orl.drift(known, new(0))
    assert orl.drift(known, new(0, 40), dataset=LEARNED).answer == "alike"


@pytest.mark.parametrize(
    "damage", [{"rows": 0}, {"times": [1.0]}, {"quantiles": [[0.0]] * 4}, {"shares": "x"}, {"times": [0.0] * 4}]
)
def test_a_damaged_summary_is_refused(damage):
    known = agent()
    known.provenance = {KEY: {**Summary.of(LEARNED).to_json(), **damage}}
    with pytest.raises(AgentError, match="damaged"):
        orl.drift(known, new(0))


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 5)), np.zeros(4), [["a"] * 4], np.full((2, 4), np.nan), np.zeros((0, 4))]
)
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(AgentError, match="new_rows"):
        orl.drift(agent(), rows)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_table_of_observations_alone_is_compared_row_by_row(tmp_path, ending):
    """In the agent's order; all rows count, also the last ones, and what else is there does not."""
    known, rows = agent(), new(0)
    names = [f"observation_{place}" for place in (2, 0, 3, 1)]
    table = pandas.DataFrame(rows[:, [2, 0, 3, 1]], columns=names).assign(hour=range(len(rows)))
    write = table.to_parquet if ending == "parquet" else table.to_csv
    write(tmp_path / f"now.{ending}", index=False)
    found = orl.drift(known, tmp_path / f"now.{ending}")
    assert found == orl.drift(known, rows)
    assert found.rows == len(rows)


def test_a_table_with_rewards_or_actions_is_a_dataset_with_all_that_belongs_to_it(tmp_path):
    table = pandas.DataFrame(new(0), columns=[f"observation_{place}" for place in range(4)])
    for more, said in (("action_0", "no column 'reward'"), ("reward", "no column 'action_0'")):
        table.assign(**{more: 0.0}).to_csv(tmp_path / "part.csv", index=False)
        with pytest.raises(orl.DatasetError, match=said):
            orl.drift(agent(), tmp_path / "part.csv")
    table.rename(columns={"observation_1": "observatoin_1"}).to_csv(tmp_path / "part.csv", index=False)
    with pytest.raises(orl.DatasetError, match="observatoin_1"):
        orl.drift(agent(), tmp_path / "part.csv")
    table.drop(columns="observation_1").to_csv(tmp_path / "part.csv", index=False)
    with pytest.raises(AgentError, match="observation_1"):
        orl.drift(agent(), tmp_path / "part.csv")
