import torch
from helpers.datasets import random_dataset

from offline_rl.algos.bc import BC
from offline_rl.algos.bc import Config as BCConfig
from offline_rl.algos.dt import DT, Config
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.windows import Windows
from offline_rl.training.updates.sampler import Sampler


def test_window_batches_are_row_batches_with_neighbours():
    """Broken by other rows than a row batch of the same seed has, or by its own row at another place."""
    dataset = random_dataset()
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    agent = DT(Config(batch_size=16, width=8, layers=1), 5, 2)
    alone = BC(BCConfig(batch_size=16), 5, 2)
    plain = Sampler(alone, rows).batch(3).index
    agent.windows = Windows(history=4, future=3)
    batch = Sampler(agent, rows).batch(3)
    assert torch.equal(batch.index, plain)
    assert batch.history.mask.shape == (16, 4)
    assert batch.future.mask.shape == (16, 3)
    columns = rows.columns(batch.index)._asdict()
    for name, column in columns.items():
        for found in (getattr(batch, name), vars(batch.history)[name][:, -1], vars(batch.future)[name][:, 0]):
            assert torch.equal(found, column), name
    assert batch.history.mask[:, -1].all()


def test_agents_on_the_same_rows_share_their_windows():
    dataset = random_dataset()
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    first, second = (Sampler(DT(Config(batch_size=4, width=8, layers=1), 5, 2, seed=s), rows) for s in (0, 1))
    assert first._episodes is second._episodes
