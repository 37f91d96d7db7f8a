"""D4RL's AntMaze, Adroit and Kitchen: generated files of the same layout, read by their ids."""

import numpy as np
import pytest
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.data import d4rl, load_dataset
from offline_rl.errors import TaskError

SIZES = {
    "antmaze-umaze-v0": (29, 8, 700),
    "antmaze-large-diverse-v2": (29, 8, 1000),
    "pen-human-v0": (45, 24, 100),
    "hammer-cloned-v1": (46, 26, 200),
    "kitchen-partial-v0": (60, 9, 280),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    (tmp_path / "d4rl").mkdir()
    return tmp_path / "d4rl"


def recorded(sizes, rows, timeouts=False):
    """Rows as D4RL's files have them: float32, rewards 1 at sparse ends, terminals of bools."""
    generator = np.random.default_rng(0)
    rewards = (generator.random(rows) < 0.0005).astype(np.float32)
    arrays = {
        "observations": generator.normal(size=(rows, sizes[0])).astype(np.float32),
        "actions": generator.uniform(-1, 1, (rows, sizes[1])).astype(np.float32),
        "rewards": rewards,
        "terminals": rewards > 0,
        "infos/goal": generator.normal(size=(rows, 2)),
    }
    return arrays | ({"timeouts": generator.random(rows) < 0.01} if timeouts else {})


def expected_rows(arrays, limit):
    """Say which rows D4RL's qlearning_dataset yields, by its description, one row after the other."""
    kept, step = [], 0
    for row in range(len(arrays["rewards"]) - 1):
        final = arrays["timeouts"][row] if "timeouts" in arrays else step == limit - 1
        if final:
            step = 0
            continue
        if arrays["terminals"][row]:
            step = 0
        kept.append(row)
        step += 1
    return kept


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("timeouts", [False, True])
def test_rows_are_those_of_d4rl_with_the_tasks_own_limit(name, timeouts, write, cache):
    observation_size, action_size, limit = SIZES[name]
    arrays = recorded((observation_size, action_size), 2500, timeouts)
    write(arrays).rename(cache / d4rl.DATASETS[name].rpartition("/")[2])
    dataset = load_dataset(name)
    rows = expected_rows(arrays, limit)
    assert np.array_equal(dataset.observations, arrays["observations"][rows])
    assert np.array_equal(dataset.next_observations, arrays["observations"][np.array(rows) + 1])
    assert np.array_equal(dataset.rewards, arrays["rewards"][rows])
    assert np.array_equal(dataset.terminated, arrays["terminals"][rows])
    assert (dataset.task, dataset.metadata["mode"]) == (name, "d4rl")
    if not timeouts:
        assert dataset.ends == f"counted, every {limit:,} steps"


def test_an_agent_of_the_kitchen_trains_without_evaluation_only(write, cache, tmp_path):
    write(recorded((60, 9), 600)).rename(cache / "kitchen_microwave_kettle_light_slider-v0.hdf5")
    settings = {**TINY, "steps": 3, "out": str(tmp_path / "run"), "workers": 0}
    with pytest.raises(TaskError, match=r"kitchen has no normalised score: .*; train without evaluation"):
        orl.train("bc", "kitchen-partial-v0", **settings)
    assert orl.train("bc", "kitchen-partial-v0", eval_every=0, final_episodes=0, **settings).agents


def test_an_agent_of_antmaze_takes_the_authors_settings_and_is_scored_by_its_successes(write, cache, tmp_path):
    write(recorded((29, 8), 2500)).rename(cache / d4rl.DATASETS["antmaze-umaze-v2"].rpartition("/")[2])
    settings = {**TINY, "steps": 3, "out": str(tmp_path / "run"), "workers": 0, "eval_every": 0, "final_episodes": 1}
    run = orl.train("iql", "antmaze-umaze-v2", **settings)
    config = run.config["config"]
    assert run.config["preset"] == ["antmaze-*"]
    assert (config["expectile"], config["beta"], config["reward_shift"]) == (0.9, 10.0, -1.0)
    assert not config["scale_rewards"]
    (final,) = [row for row in run.rows if row["kind"] == "final"]
    assert final["score"] == 100 * final["return"] == 100 * final["success"]
    assert final["goal_distance"] > 0
    assert (final["length"], run.config["dynamics"]) == (700, "d4rl")
    reference = run.config["dataset"]["reference"]
    assert (reference["score_0"], reference["score_100"]) == (0, 1)
    assert "not compared with D4RL's" in reference["returns"]


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("prdc", {"alpha": 7.5, "beta": 7.5, "reward_scale": 10_000.0, "reward_shift": -1.0}),
        ("famo2o", {"beta_low": 8.0, "beta_high": 14.0, "balance_every": 1, "expectile": 0.9, "reward_shift": -1.0}),
    ],
)
def test_presets_hold_for_every_maze(algorithm, settings):
    from offline_rl.agent import find_algorithm
    from offline_rl.training.preset import named_preset

    for name in ("antmaze-*", "antmaze-medium-play-v2", "antmaze-umaze-diverse-v0"):
        assert settings.items() <= named_preset(find_algorithm(algorithm), name).settings.items()
