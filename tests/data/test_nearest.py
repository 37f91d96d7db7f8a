import threading

import pytest
import torch
from datasets import random_dataset

from offline_rl.data.nearest import HostSearch, NearestRows, ProductSearch
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def rows():
    dataset = random_dataset(rows=700, places=40)
    return PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))


@pytest.fixture
def queries():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(700, (256,), generator=generator), torch.rand(256, 2, generator=generator) * 2 - 1


@pytest.mark.parametrize("beta", [0.0, 0.1, 2.0, 1e4])
@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("tile", [64, 100, 1000])
def test_the_gpus_search_answers_as_the_cpus(rows, queries, beta, rank, tile):
    """The device's path is plain tensor operations, so a CPU can check its answers, though not its speed."""
    host = HostSearch(rows, beta, "brute", 64).find(*queries, rank)
    device = ProductSearch(rows, beta, tile).find(*queries, rank)
    assert torch.equal(host.rows, device.rows)
    assert torch.allclose(host.distance, device.distance, rtol=1e-15)  # the square roots of numpy and torch differ


def test_of_equal_keys_the_lowest_row_wins_on_both_paths(queries):
    dataset = random_dataset(rows=100)
    twice = dataset + dataset
    rows = PackedRows.of(twice, Preprocessing.fit(twice, normalize=True))
    index, action = queries[0] % 200, queries[1]
    host = HostSearch(rows, 2.0, "lists", 64).find(index, action, 1)
    device = ProductSearch(rows, 2.0, 100).find(index, action, 1)
    assert (host.rows < 100).all()
    assert torch.equal(host.rows, device.rows)


def test_a_search_that_was_begun_is_the_one_that_is_found(rows, queries):
    nearest = NearestRows(rows, 2.0, "tree", 64)
    index, action = queries
    expected = nearest.find(index, action, 1)
    seen = []
    find = nearest._search.find
    nearest._search.find = lambda *arguments: (seen.append(threading.current_thread()), find(*arguments))[1]
    nearest.begin(index, action, 1)
    assert torch.equal(nearest.find(index, action, 1).rows, expected.rows)
    assert seen[0] is not threading.current_thread()
    assert len(seen) == 1
    nearest.find(index, action, 1)
    assert seen[1] is threading.current_thread()
