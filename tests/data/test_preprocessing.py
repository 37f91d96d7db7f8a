"""The scale of observations: the data's own, and D4RL's for D4RL's tasks."""

import json

import numpy as np
import pytest

import offline_rl as orl
from offline_rl.data import Dataset, load_dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import DatasetError, RunError
from offline_rl.files import sealed, write_json
from offline_rl.training.finetune import _begin
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan
from offline_rl.training.run import Run

ROWS = 400


def scaled(scale, offset=0.0, **options):
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((ROWS, len(np.atleast_1d(scale)))) * scale + offset
    ends = np.arange(ROWS) % 50 == 49
    return Dataset.from_arrays(observations, rng.uniform(-1, 1, (ROWS, 1)), rng.standard_normal(ROWS), ends, **options)


@pytest.mark.parametrize("unit", [1e-11, 1e-6, 1e-5, 1.0, 1e5, 1e10])
def test_own_data_of_any_scale_has_the_same_spread(unit):
    dataset = scaled([unit, 3 * unit])
    seen = Preprocessing.fit(dataset, normalize=True).normalized(dataset.observations)
    assert seen.std(0) == pytest.approx([1, 1], rel=1e-5)
    assert abs(seen.mean(0)).max() < 1e-5


@pytest.mark.parametrize("value", [0.0, 1e-20, 1e-3, 25.0, -1e6, 1e11])
def test_a_constant_entry_becomes_0_and_stays_harmless(value):
    jitter = np.float32(value) + np.spacing(np.float32(value)) * np.array([0, 1])
    for entry in (np.full(ROWS, value), np.resize(jitter if value else 0, ROWS)):
        observations = np.stack([entry, np.random.default_rng(0).standard_normal(ROWS)], axis=1).astype(np.float32)
        dataset = Dataset.from_arrays(observations, np.zeros((ROWS, 1)), np.zeros(ROWS), np.arange(ROWS) % 50 == 49)
        fitted = Preprocessing.fit(dataset, normalize=True)
        assert abs(fitted.normalized(dataset.observations)[:, 0]).max() <= 1
        assert fitted.observation_std[0] >= 1
        assert np.isfinite(PackedRows.pack(dataset, fitted)["matrix"]).all()


@pytest.mark.parametrize("task", ["hopper", "Hopper-v4", "hopper-medium-v2"])
def test_d4rls_tasks_keep_their_scale_to_the_bit(task):
    dataset = scaled([1e-5, 1.0], task=task)
    fitted = Preprocessing.fit(dataset, normalize=True)
    expected = (dataset.observations.astype(np.float64).std(0) + 1e-3).astype(np.float32)
    assert np.array_equal(fitted.observation_std, expected)
    own = Preprocessing.fit(dataset, normalize=True, d4rl=False)
    assert own.observation_std[0] < 2e-5
    assert np.array_equal(Preprocessing.fit(scaled([1e-5, 1.0]), normalize=True, d4rl=True).observation_std, expected)


def test_the_demo_keeps_its_scale_to_the_bit():
    demo = load_dataset("hopper-demo")
    expected = (demo.observations.astype(np.float64).std(0) + 1e-3).astype(np.float32)
    assert np.array_equal(Preprocessing.fit(demo, normalize=True).observation_std, expected)


def test_an_agent_keeps_the_scale_that_it_was_trained_with():
    for fitted in (Preprocessing.fit(scaled([1e-9, 1e9]), normalize=True, d4rl=d4rl) for d4rl in (True, False)):
        again = Preprocessing.from_json(json.loads(json.dumps(fitted.to_json())))
        assert again.to_json() == fitted.to_json()


def test_what_no_scale_can_hold_is_named_before_training():
    with pytest.raises(DatasetError, match=r"observation entry 1 varies by 9.96e-15 only"):
        Preprocessing.fit(scaled([1.0, 1e-14]), normalize=True)
    dataset = scaled([1e-9, 1.0])
    following = dataset.observations.copy()
    following[7, 0] = 1e6
    far = Dataset.from_arrays(
        dataset.observations, dataset.actions, dataset.rewards, dataset.terminated, None, following
    )
    with pytest.raises(DatasetError, match=r"next observation entry 0 is 1e\+06 in row 7"):
        Preprocessing.fit(far, normalize=True)


def test_no_data_that_is_taken_fails_in_terms_of_the_inside():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size, offset = 10.0 ** rng.uniform(-30, 12, 2)
        try:
            dataset = scaled([size, 1.0], offset=[offset * rng.choice([-1, 0, 1]), 0])
            fitted = Preprocessing.fit(dataset, normalize=True)
        except DatasetError as error:
            assert "observation" in str(error)
            assert "_mean" not in str(error)
            assert "_std" not in str(error)
        else:
            assert np.isfinite(PackedRows.pack(dataset, fitted)["matrix"]).all()


def test_a_run_says_how_it_scaled_and_is_not_resumed_by_another_rule(tmp_path, tiny):
    dataset, out = scaled([1e-5, 1.0]), tmp_path / "run"
    settings = {**tiny, "steps": 4, "eval_every": 0, "final_episodes": 0, "out": str(out)}
    agent = orl.train("td3_bc", dataset, **settings).agents[0]
    assert agent.preprocessing.observation_std[0] < 2e-5
    config = json.loads((out / "config.json").read_text())
    assert (config["dataset"]["normalisation"], config["dataset"]["ends"]) == ("std", "as recorded")
    del config["dataset"]["normalisation"]  # as a run of an earlier version
    write_json(out / "config.json", sealed(config))
    with pytest.raises(RunError, match=r"normalisation was 'std \+ 1e-3', now 'std'"):
        orl.train("td3_bc", dataset, **settings, resume=True)
    with pytest.raises(RunError, match=r"divided observations by std \+ 1e-3"):
        _begun(out, dataset)


def _begun(out, dataset):
    """Go on with a finished run, as ``finetune`` does for a task that can be played."""
    plan = Plan.make("td3_bc", dataset, TrainOptions(eval_every=0, final_episodes=0), {})
    _begin(Run(out), out.with_name("online"), plan)


def test_small_rewards_have_a_scale_of_their_own_in_doc():
    from offline_rl.algos.doc.agent import Config, DoC

    scales = []
    for unit in (1e-6, 1.0):
        dataset = scaled([1.0, 1.0])
        rewards = dataset.rewards * np.float32(unit)
        rows = Dataset.from_arrays(dataset.observations, dataset.actions, rewards, dataset.terminated)
        agent = DoC(Config(hidden_dims=[8], width=8, layers=1, candidates=5, latent_size=2), 2, 1)
        agent.prepare(PackedRows.of(rows, Preprocessing.fit(rows, normalize=True)))
        scales.append(float(agent.model.reward_std) / unit)
    assert scales[0] == pytest.approx(scales[1], rel=1e-2)
