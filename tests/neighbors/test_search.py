import threading

import pytest
import torch
from helpers.datasets import random_dataset

from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.replay import Replay
from offline_rl.neighbors import search as nearest
from offline_rl.neighbors.search import HostSearch, NearestRows, ProductSearch, Query


@pytest.fixture(scope="module")
def rows():
    dataset = random_dataset(rows=700, places=40)
    return PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))


def make_query(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(rows), (256,), generator=generator)
    return Query(index, rows.columns(index).observation, torch.rand(256, 2, generator=generator) * 2 - 1)


@pytest.fixture
def query(rows):
    return make_query(rows)


@pytest.mark.parametrize("beta", [0.0, 0.1, 2.0, 1e4])
@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("tile", [64, 100, 1000])
def test_the_gpus_search_answers_as_the_cpus(rows, query, beta, rank, tile):
    """The device's path is plain tensor operations, so a CPU can check its answers, though not its speed."""
    host = HostSearch(rows.columns(), beta, "brute", 64).find(query, rank)
    device = ProductSearch(rows.columns(), beta, tile).find(query, rank)
    assert torch.equal(host.rows, device.rows)
    assert torch.allclose(host.distance, device.distance, rtol=1e-15)  # the square roots of numpy and torch differ


def test_of_equal_keys_the_lowest_row_wins_on_both_paths():
    dataset = random_dataset(rows=100)
    twice = dataset + dataset
    rows = PackedRows.of(twice, Preprocessing.fit(twice, normalize=True))
    query = make_query(rows)
    host = HostSearch(rows.columns(), 2.0, "lists", 64).find(query, 1)
    device = ProductSearch(rows.columns(), 2.0, 100).find(query, 1)
    assert (host.rows < 100).all()
    assert torch.equal(host.rows, device.rows)


def test_a_search_that_was_begun_is_the_one_that_is_found(rows, query):
    search = NearestRows(rows, 2.0, "tree", 64)
    expected = search.find(query, 1)
    seen = []
    find = search._search.find
    search._search.find = lambda *arguments: (seen.append(threading.current_thread()), find(*arguments))[1]
    search.begin(query, 1)
    assert torch.equal(search.find(query, 1).rows, expected.rows)
    assert seen[0] is not threading.current_thread()
    assert len(seen) == 1
    search.find(query, 1)
    assert len(seen) == 2, "a search that was begun is found once"


@pytest.mark.parametrize("method", ["lists", "tree", "brute", "faiss_flat"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_state_of_no_row_is_searched_for_exactly(rows, query, method, rank):
    """Half of the queries have states that are in no row; broken by taking row -1's state, list or distance."""
    other = query.observation + 0.3 * torch.randn(256, 5, generator=torch.Generator().manual_seed(1))
    foreign = torch.arange(256) % 2 == 0
    index = torch.where(foreign, len(rows) + query.index, query.index)
    mixed = Query(index, torch.where(foreign[:, None], other, query.observation), query.action)
    search = HostSearch(rows.columns(), 2.0, method, 64)
    search._index.build_lists()
    found = search.find(mixed, rank)
    keys = torch.cat([2.0 * rows.columns().observation, rows.columns().action], 1).double()
    point = torch.cat([2.0 * mixed.observation, mixed.action], 1).double()
    distances = torch.cdist(point, keys, compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(found.rows, distances.argsort(1)[:, rank - 1])
    assert torch.allclose(found.distance, distances.gather(1, found.rows[:, None])[:, 0], rtol=1e-12)
    assert torch.equal(ProductSearch(rows.columns(), 2.0, 100).find(mixed, rank).rows, found.rows)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 99, 100, 250])
def test_rows_collected_online_are_found_too_where_wanted(rows, query, rank, count, monkeypatch):
    """As if they were the dataset's; broken by forgetting the settled or the latest rows, or by their numbering."""
    monkeypatch.setattr(nearest, "RENEWAL", 100)
    replay = Replay(rows, 1000)
    near = query.observation.repeat(2, 1) + 0.01, query.action.repeat(2, 1)
    online = torch.cat([*near, torch.zeros(512, 2), near[0]], 1)[:count].numpy()
    offline_only, both = (NearestRows(rows, 2.0, "tree", 64) for _ in range(2))
    both.include(replay)
    replay.append(online[: count // 2])
    both.find(query, rank)
    replay.append(online[count // 2 :])
    found = both.find(query, rank)
    columns = [rows.columns(), rows.split(torch.from_numpy(online))]
    keys = torch.cat([torch.cat([2.0 * part.observation, part.action], 1) for part in columns]).double()
    point = torch.cat([2.0 * query.observation, query.action], 1).double()
    order = torch.cdist(point, keys, compute_mode="donot_use_mm_for_euclid_dist").argsort(dim=1, stable=True)
    assert torch.equal(found.rows, order[:, rank - 1])
    assert (found.rows >= len(rows)).any() or rank > count
    assert (offline_only.find(query, rank).rows < len(rows)).all()
