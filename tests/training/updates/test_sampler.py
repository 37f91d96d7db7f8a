import numpy as np
import pytest
import torch

from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.draws import Stream, derived_seed
from offline_rl.training.updates.sampler import Sampler


@pytest.fixture(scope="module")
def dataset():
    generator = np.random.default_rng(0)
    n = 500
    return Dataset.from_arrays(
        observations=generator.standard_normal((n, 5)) * 3 + 1,
        actions=generator.uniform(-1, 1, (n, 2)),
        rewards=np.arange(n, dtype=float),
        terminated=generator.random(n) < 0.05,
        next_observations=generator.standard_normal((n, 5)),
    )


def make(dataset, seed=0, block=64, batch_size=32):
    agent = TD3BC(Config(hidden_dims=[8], batch_size=batch_size), 5, 2, seed=seed)
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    return Sampler(agent, rows, block)


def equal(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("observation", "action", "reward", "index")
    ) and torch.equal(a.draws["target"], b.draws["target"])


def test_a_batch_depends_on_its_step_alone(dataset):
    straight = make(dataset)
    batches = {step: straight.batch(step) for step in range(1, 200)}
    for block in (1, 7, 64):
        jumping = make(dataset, block=block)
        assert all(equal(batches[step], jumping.batch(step)) for step in (150, 3, 64, 65, 199, 1))


def test_seeds_and_steps_differ(dataset):
    sampler = make(dataset)
    assert not equal(sampler.batch(1), sampler.batch(2))
    assert not equal(sampler.batch(1), make(dataset, seed=1).batch(1))


def test_rows_are_the_datasets(dataset):
    batch = make(dataset).batch(5)
    index = batch.index.numpy()
    assert np.array_equal(batch.reward.numpy(), dataset.rewards[index])
    assert np.array_equal(batch.action.numpy(), dataset.actions[index])
    assert np.array_equal(batch.terminated.numpy() > 0, dataset.terminated[index])
    mean, std = dataset.observations.mean(0), dataset.observations.std(0)
    assert np.allclose(batch.observation.numpy(), (dataset.observations[index] - mean) / std, atol=1e-5)
    assert np.allclose(batch.next_observation.numpy(), (dataset.next_observations[index] - mean) / std, atol=1e-5)


def test_draws_are_uniform_and_normal(dataset):
    sampler = make(dataset, batch_size=256)
    batches = [sampler.batch(step) for step in range(1, 201)]
    counts = np.bincount(torch.cat([b.index for b in batches]).numpy(), minlength=500)
    expected = 200 * 256 / 500
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 380 < chi_square < 640  # 499 degrees of freedom: far beyond four standard deviations either way
    noise = torch.cat([b.draws["target"] for b in batches]).numpy().reshape(-1)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_a_subset_confines_the_rows(dataset):
    agent = TD3BC(Config(hidden_dims=[8], batch_size=32), 5, 2)
    agent.rows = torch.tensor([3, 77, 400])
    sampler = Sampler(agent, PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=False)))
    drawn = {int(i) for step in range(1, 20) for i in sampler.batch(step).index}
    assert drawn == {3, 77, 400}


def test_streams_have_no_state():
    stream = Stream(3, "x")
    first = stream.at(9).standard_normal(4)
    stream.at(2).random(1000)
    assert np.array_equal(stream.at(9).standard_normal(4), first)
    assert not np.array_equal(Stream(3, "y").at(9).standard_normal(4), first)
    assert not np.array_equal(Stream(4, "x").at(9).standard_normal(4), first)
    # 32-bit values leave half a word behind; the next step must not start with it.
    stream.at(1).random(1, dtype=np.float32)
    assert np.array_equal(stream.at(9).random(3, dtype=np.float32), Stream(3, "x").at(9).random(3, dtype=np.float32))
    assert derived_seed(0, "e", 1) != derived_seed(1, "e", 0)
    assert Stream(2**80, "x").at(1).random() != Stream(2**80 + 1, "x").at(1).random()
