import gc
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numba
import numpy as np
import pytest
from scipy.spatial import cKDTree

from offline_rl.errors import AgentError, DatasetError
from offline_rl.neighbors import kernels
from offline_rl.neighbors.index import METHODS, NeighborIndex
from offline_rl.neighbors.tree import build_tree

BETAS = (0.0, 0.1, 2.0, 1e4)


def smooth(size=700):
    generator = np.random.default_rng(1)
    states = np.cumsum(generator.standard_normal((size, 5)), 0) * 0.1
    return states.astype(np.float32), generator.uniform(-1, 1, (size, 2)).astype(np.float32)


def grid(size=700):
    """Few values: states, actions and whole rows repeat, and many different rows are equally far."""
    generator = np.random.default_rng(2)
    return (
        generator.integers(0, 3, (size, 3)).astype(np.float32) / 2,
        generator.integers(-2, 3, (size, 2)).astype(np.float32) / 2,
    )


def copies(size=700):
    states, actions = smooth(1)
    return np.repeat(states, size, 0), np.repeat(actions, size, 0)


def near_ties(size=700):
    """Neighbours closer to each other than float32 resolves after the rotation; a far outlier stretches the tree."""
    generator = np.random.default_rng(3)
    direction = generator.standard_normal(6)
    states = 100 * direction + 3e-5 * generator.standard_normal((size, 6))
    states[0] = -1000 * direction
    return states.astype(np.float32), (1e-5 * generator.standard_normal((size, 2))).astype(np.float32)


def rounded(size=700):
    """States a few units in the last place apart: beta times them, in float32, is off by as much as they differ."""
    generator = np.random.default_rng(4)
    states = np.float32(1000) + generator.integers(0, 4, (size, 6)).astype(np.float32) * np.spacing(np.float32(1000))
    return states, (3e-6 * generator.standard_normal((size, 2))).astype(np.float32)


DATA = {"rounded": rounded, "smooth": smooth, "grid": grid, "copies": copies, "near_ties": near_ties}


def draw(actions, batch=64, seed=0, scale=0.3):
    """Rows, and actions of which some are the row's own, some near it, some far."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(len(actions), size=batch)
    moved = actions[rows] + scale * generator.standard_normal((batch, actions.shape[1])) * actions.std()
    moved[::4] = actions[rows[::4]]
    moved[1::4] = generator.uniform(-1, 1, moved[1::4].shape)
    return rows, moved.astype(np.float32)


def reference(states, actions, beta, rows, queries):
    """All rows by distance, the lowest first among equals (B, N), and the distances in that order."""
    keys = np.concatenate([np.float32(beta) * states, actions], 1).astype(np.float64)
    asked = np.concatenate([np.float32(beta) * states[rows], queries], 1).astype(np.float64)
    squared = np.zeros((len(rows), len(keys)))
    for column in range(keys.shape[1]):
        squared += (asked[:, column, None] - keys[None, :, column]) ** 2
    order = np.argsort(squared, 1, kind="stable")
    return order, np.sqrt(np.take_along_axis(squared, order, 1))


def index_of(states, actions, beta, method="lists", lists=16, **options):
    if method == "faiss_flat":
        pytest.importorskip("faiss")
    index = NeighborIndex(states, actions, beta, method=method, lists=lists, **options)
    index.build_lists()
    return index


def kept(folder):
    """List what is in the cache, besides locks."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", DATA)
def test_every_method_equals_sorting_all_distances(data, method, beta):
    states, actions = DATA[data]()
    rows, queries = draw(actions)
    order, distances = reference(states, actions, beta, rows, queries)
    index = index_of(states, actions, beta, method)
    for k in (1, 2, 5):
        found = index.search(rows, queries, k)
        np.testing.assert_array_equal(found.index, order[:, k - 1])
        np.testing.assert_array_equal(found.distance, distances[:, k - 1])


def test_faiss_is_believed_only_where_it_is_proven():
    faiss = pytest.importorskip("faiss")
    threshold = faiss.cvar.distance_compute_blas_threshold
    states, actions = near_ties()
    rows, queries = draw(actions)
    order, _ = reference(states, actions, 2.0, rows, queries)
    try:
        faiss.cvar.distance_compute_blas_threshold = 1  # |q|² + |k|² - 2 q·k, which here has no correct digit
        found = index_of(states, actions, 2.0, "faiss_flat").search(rows, queries)
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold
    np.testing.assert_array_equal(found.index, order[:, 0])
    assert found.certified < 1
    assert index_of(*smooth(), 2.0, "faiss_flat").search(rows, queries).certified == 1


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 65, 129])
@pytest.mark.parametrize("method", METHODS)
def test_few_rows(method, size):
    states, actions = grid(size)
    rows, queries = draw(actions)
    order, distances = reference(states, actions, 2.0, rows, queries)
    index = index_of(states, actions, 2.0, method, lists=64)
    for k in {1, min(2, size), size}:
        found = index.search(rows, queries, k)
        np.testing.assert_array_equal(found.index, order[:, k - 1])
        np.testing.assert_array_equal(found.distance, distances[:, k - 1])


def test_lists_prove_answers_near_the_data_and_all_if_they_hold_every_row():
    states, actions = smooth()
    rows = np.arange(200)
    near = actions[rows] + np.float32(0.01)
    assert index_of(states, actions, 2.0).search(rows, near).certified > 0.9
    assert index_of(states, actions, 2.0, lists=1000).search(*draw(actions), 5).certified == 1.0
    assert index_of(states, actions, 2.0, "tree").search(rows, near).certified == 0.0


@pytest.mark.parametrize("data", DATA)
def test_list_bounds_hold_inside_and_outside(data):
    states, _ = DATA[data]()
    tree = build_tree(states)
    entries = np.empty((len(states), 16), kernels.LIST_ENTRY)
    kernels.fill_lists(tree, 0, len(tree.counts), states, entries)
    exact = np.linalg.norm(states[:, None].astype(np.float64) - states[None], axis=2)
    assert (np.diff(entries["bound"], axis=1) >= 0).all()
    assert (entries["bound"] <= np.take_along_axis(exact, entries["row"].astype(np.int64), 1)).all()
    np.put_along_axis(exact, entries["row"].astype(np.int64), np.inf, 1)
    assert (entries["bound"][:, -1:] <= exact).all()
    assert all(len(set(row)) == 16 for row in entries["row"])


@numba.njit
def measured(tree, point):
    """Distances to the codes of all leaves (leaves, L), and to the boxes of the children of all nodes (nodes, 16)."""
    codes = np.empty((len(tree.counts), tree.codes.shape[2]), np.float32)
    boxes = np.empty((len(tree.lower), kernels.WIDTH), np.float32)
    for leaf in range(len(codes)):
        box = tree.corners[leaf], tree.steps[leaf]
        kernels.code_distances(point, box[0], box[1], tree.codes[leaf], np.float32(0), codes[leaf])
    for node in range(len(boxes)):
        kernels.box_distances(point, tree.lower[node], tree.upper[node], np.float32(0), boxes[node])
    return codes, boxes


def radii_of_children(tree, radii):
    """The smallest radius of the rows below each child of each node (nodes, 16); infinite where there is none."""
    first_leaf = len(tree.lower)
    below = np.concatenate([np.full(first_leaf, np.inf), np.where(tree.rows >= 0, radii, np.inf).min(1)])
    children = kernels.WIDTH * np.arange(first_leaf)[:, None] + tree.shift + np.arange(kernels.WIDTH)
    for node in range(first_leaf - 1, -1, -1):
        below[node] = below[children[node][children[node] > node]].min()
    return np.where(children > np.arange(first_leaf)[:, None], below[children], np.inf)


@pytest.mark.parametrize("data", [*DATA.values(), lambda: smooth(20000)])
def test_tree_distances_stay_below_their_limits(data):
    states, _ = data()
    tree = build_tree(states)
    for query in range(0, len(states), max(len(states) // 40, 1)):
        point = kernels.rotate(states[query : query + 1], tree.center, tree.rotation)[0]
        slack = kernels.EPSILON * (tree.reach + 2 * kernels._norm(point)) + kernels.TINY
        exact = ((states.astype(np.float64) - states[query]) ** 2).sum(1)
        radii = np.array([kernels._radius(distance, tree.growth, slack) for distance in exact])[tree.rows]
        codes, boxes = measured(tree, point)
        limits = (radii + tree.errors[:, None]) ** 2 * (1 + 2 * kernels.EPSILON)
        assert (codes <= limits)[tree.rows >= 0].all()
        assert (boxes <= radii_of_children(tree, radii) ** 2 * (1 + 2 * kernels.EPSILON)).all()


def test_boxes_of_nothing_are_out_of_reach():
    assert np.isfinite(kernels._squared(np.inf))


@pytest.mark.parametrize("size", [1, 50, 1100, 5000, 20000])
def test_trees_with_one_level_and_with_many_find_the_same(size):
    states, actions = smooth(size)
    rows, queries = draw(actions)
    tree, brute = (index_of(states, actions, 2.0, method).search(rows, queries) for method in ("tree", "brute"))
    np.testing.assert_array_equal(tree.index, brute.index)
    np.testing.assert_array_equal(tree.distance, brute.distance)


def test_never_farther_than_the_own_row():
    states, actions = smooth()
    rows, queries = draw(actions)
    for beta in BETAS:
        found = index_of(states, actions, beta).search(rows, queries)
        own = np.linalg.norm(queries.astype(np.float64) - actions[rows], axis=1)
        winner = np.linalg.norm(queries.astype(np.float64) - actions[found.index], axis=1)
        assert (winner <= own * (1 + 1e-12)).all()
        assert (found.distance <= own * (1 + 1e-12)).all()


def test_a_huge_beta_finds_the_own_row():
    states, actions = smooth()
    rows, queries = draw(actions)
    found = index_of(states, actions, 1e4).search(rows, queries)
    np.testing.assert_array_equal(found.index, rows)


def test_beta_zero_ignores_the_states():
    states, actions = smooth()
    rows, queries = draw(actions)
    found = index_of(states, actions, 0.0).search(rows, queries)
    shuffled = index_of(np.random.default_rng(0).permutation(states), actions, 0.0).search(rows, queries)
    nearest = ((queries[:, None].astype(np.float64) - actions) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(found.index, nearest)
    np.testing.assert_array_equal(shuffled.index, nearest)


def test_a_larger_beta_trades_action_distance_for_state_distance():
    states, actions = smooth()
    rows, queries = draw(actions, batch=300)
    of_states, of_actions = [], []
    for beta in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 50.0):
        winner = index_of(states, actions, beta).search(rows, queries).index
        of_states.append(np.linalg.norm(states[rows].astype(np.float64) - states[winner], axis=1))
        of_actions.append(np.linalg.norm(queries.astype(np.float64) - actions[winner], axis=1))
    assert (np.diff(of_states, axis=0) <= 1e-6).all()
    assert (np.diff(of_actions, axis=0) >= -1e-6).all()
    assert np.ptp(of_states, axis=0).max() > 0.1


def test_an_action_of_the_data_is_found_at_distance_zero():
    states, actions = smooth()
    rows = np.arange(len(states))
    found = index_of(states, actions, 2.0).search(rows, actions)
    np.testing.assert_array_equal(found.index, rows)
    assert (found.distance == 0).all()


def test_the_kth_neighbour_walks_through_all_rows():
    states, actions = grid(40)
    rows, queries = draw(actions, batch=8)
    index = index_of(states, actions, 2.0)
    found = [index.search(rows, queries, k) for k in range(1, 41)]
    assert (np.diff([one.distance for one in found], axis=0) >= 0).all()
    np.testing.assert_array_equal(np.sort([one.index for one in found], axis=0), np.tile(np.arange(40)[:, None], 8))


def test_the_own_row_as_upper_bound_changes_nothing():
    states, actions = smooth()
    rows, queries = draw(actions)
    asked = np.concatenate([np.float32(2) * states[rows], queries], 1)
    bound = np.linalg.norm(queries - actions[rows], axis=1).max() * (1 + 1e-6) + 1e-9
    tree = cKDTree(np.concatenate([np.float32(2) * states, actions], 1))
    distances, nearest = tree.query(asked, distance_upper_bound=bound)
    found = index_of(states, actions, 2.0, "tree").search(rows, queries)
    np.testing.assert_array_equal(found.index, nearest)
    np.testing.assert_allclose(found.distance, distances, rtol=1e-12)


def test_the_order_of_the_rows_does_not_matter():
    states, actions = smooth()
    rows, queries = draw(actions)
    moved = np.random.default_rng(5).permutation(len(states))
    place = np.argsort(moved)
    found = index_of(states, actions, 2.0).search(rows, queries)
    again = index_of(states[moved], actions[moved], 2.0).search(place[rows], queries)
    np.testing.assert_array_equal(moved[again.index], found.index)
    np.testing.assert_array_equal(again.distance, found.distance)


def test_threads_change_neither_lists_nor_answers():
    states, actions = grid(3000)
    rows, queries = draw(actions, batch=101)
    one = index_of(states, actions, 2.0)
    three = index_of(states, actions, 2.0, threads=3)
    np.testing.assert_array_equal(one._lists._content[0], three._lists._content[0])
    for k in (1, 3):
        found, same = one.search(rows, queries, k), three.search(rows, queries, k)
        np.testing.assert_array_equal(found.index, same.index)
        np.testing.assert_array_equal(found.distance, same.distance)
        assert found.certified == same.certified
    assert len(three.search(rows[:0], queries[:0]).index) == 0


class Gate:
    """Stands before `fill_lists`: lets a number of tasks through, then holds the builder until it is opened."""

    def __init__(self, monkeypatch, tasks):
        self.calls, self.reached, self.open = 0, threading.Event(), threading.Event()
        fill = kernels.fill_lists

        def guarded(*arguments):
            if self.calls == tasks:
                self.reached.set()
                assert self.open.wait(30)
            self.calls += 1
            fill(*arguments)

        monkeypatch.setattr(kernels, "fill_lists", guarded)


def test_answers_are_the_same_while_the_lists_are_built(monkeypatch):
    states, actions = smooth(5000)
    gate = Gate(monkeypatch, tasks=3)
    rows, queries = draw(actions, batch=300, scale=0.1)
    index = NeighborIndex(states, actions, 2.0, lists=16)
    before = index.search(rows, queries)
    index.build_lists(background=True)
    assert gate.reached.wait(30)
    assert 0 < index.listed < 1
    during = index.search(rows, queries)
    gate.open.set()
    index.wait_for_lists()
    assert index.listed == 1
    after = index.search(rows, queries)
    assert before.certified == 0 < during.certified < after.certified
    order, distances = reference(states, actions, 2.0, rows, queries)
    for found in (before, during, after):
        np.testing.assert_array_equal(found.index, order[:, 0])
        np.testing.assert_array_equal(found.distance, distances[:, 0])


def test_a_cancelled_build_goes_on_where_it_stopped(monkeypatch, tmp_path):
    states, actions = smooth(5000)
    gate = Gate(monkeypatch, tasks=3)
    index = NeighborIndex(states, actions, 2.0, lists=16, cache_dir=tmp_path)
    index.build_lists(background=True)
    assert gate.reached.wait(30)
    stopper = threading.Thread(target=index.cancel_lists)
    stopper.start()
    index._lists._stop.wait(30)
    gate.open.set()
    stopper.join()
    assert gate.calls == 4
    assert 0 < index.listed < 1
    assert not kept(tmp_path)
    index.build_lists()
    assert index.listed == 1
    assert gate.calls == 7
    whole = index_of(states, actions, 2.0)
    assert gate.calls == 14
    np.testing.assert_array_equal(index._lists._content[0], whole._lists._content[0])


def test_dropping_the_index_ends_the_build(monkeypatch):
    gate = Gate(monkeypatch, tasks=1)
    index = NeighborIndex(*smooth(5000), 2.0, lists=16)
    index.build_lists(background=True)
    assert gate.reached.wait(30)
    builder = index._lists._builder
    threading.Timer(0.1, gate.open.set).start()
    del index
    gc.collect()
    assert not builder.is_alive()
    assert gate.calls == 2


def test_a_process_ends_in_the_middle_of_a_build():
    code = (
        "import numpy as np; from offline_rl.neighbors.index import NeighborIndex\n"
        "r = np.random.default_rng(0); s = r.standard_normal((200_000, 17), np.float32)\n"
        "NeighborIndex(s, s[:, :6], 2.0).build_lists(background=True)\n"
        "i = NeighborIndex(s, s[:, :6], 2.0); i.build_lists(background=True); print(i.listed < 1)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failed_build_warns_and_the_search_goes_on(monkeypatch, threads):
    def fail(*_):
        raise MemoryError("too much")

    monkeypatch.setattr(kernels, "fill_lists", fail)
    states, actions = smooth(5000)
    index = NeighborIndex(states, actions, 2.0, threads=threads)
    with pytest.warns(UserWarning, match="goes on without: too much"), pytest.raises(MemoryError):
        index.build_lists()
    rows, queries = draw(actions)
    order, _ = reference(states, actions, 2.0, rows, queries)
    np.testing.assert_array_equal(index.search(rows, queries).index, order[:, 0])


def forbid_building(monkeypatch):
    def fail(*_):
        raise AssertionError("rebuilt")

    monkeypatch.setattr(kernels, "fill_lists", fail)


def test_finished_lists_are_kept_for_every_beta(monkeypatch, tmp_path):
    states, actions = smooth()
    folder = tmp_path / "new" / "folder"
    first = index_of(states, actions, 2.0, cache_dir=folder, key="walker")
    assert len(kept(folder)) == 1
    forbid_building(monkeypatch)
    rows, queries = draw(actions)
    again = index_of(states, actions, 2.0, cache_dir=folder, key="walker").search(rows, queries)
    assert again.certified == first.search(rows, queries).certified > 0
    order, _ = reference(states, actions, 5.0, rows, queries)
    other = index_of(states, actions, 5.0, cache_dir=folder, key="walker").search(rows, queries)
    np.testing.assert_array_equal(other.index, order[:, 0])


@pytest.mark.parametrize("change", ["states", "key", "lists"])
def test_lists_of_something_else_are_not_used(tmp_path, change):
    states, actions = smooth()
    options = {"cache_dir": tmp_path, "key": "a", "lists": 16}
    index_of(states, actions, 2.0, **options)
    if change == "states":
        states = states + np.float32(1)
    else:
        options[change] = {"key": "b", "lists": 17}[change]
    index_of(states, actions, 2.0, **options)
    assert len(kept(tmp_path)) == 2


def flip(content):
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-100], lambda content: b"", flip, lambda content: bytes(len(content) - 1) + b"x"],
)
def test_damaged_lists_are_built_anew(tmp_path, damage):
    states, actions = smooth()
    good = index_of(states, actions, 2.0, cache_dir=tmp_path)
    (file,) = kept(tmp_path)
    content = file.read_bytes()
    file.write_bytes(damage(content))
    again = index_of(states, actions, 2.0, cache_dir=tmp_path)
    np.testing.assert_array_equal(again._lists._content[0], good._lists._content[0])
    assert file.read_bytes() == content
    assert kept(tmp_path) == [file]


def test_a_full_disk_leaves_nothing_behind(monkeypatch, tmp_path):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="could not be kept in .*: disk full"):
        index_of(*smooth(), 2.0, cache_dir=tmp_path)
    assert not kept(tmp_path)


def test_a_folder_that_cannot_be_written_is_only_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be kept"):
        index = index_of(*smooth(), 2.0, cache_dir=tmp_path / "file")
    assert index.listed == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beta": -1.0}, "beta must be zero or a positive number, not -1.0"),
        ({"beta": float("nan")}, "beta must be zero or a positive number, not nan"),
        ({"beta": 1e30}, "choose a smaller beta"),
        ({"method": "hnsw"}, "Unknown search method 'hnsw': choose lists, tree, brute, faiss_flat"),
        ({"lists": 0}, "at least one entry"),
        ({"threads": 0}, "at least one thread"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(AgentError, match=sentence):
        NeighborIndex(*smooth(20), **({"beta": 2.0} | settings))


def test_impossible_data_is_refused():
    states, actions = smooth(20)
    broken = states.copy()
    broken[7, 2] = np.nan
    with pytest.raises(DatasetError, match="states of a neighbour index hold NaN or a huge value in row 7"):
        NeighborIndex(broken, actions, 2.0)
    with pytest.raises(DatasetError, match="20 states but 19 actions"):
        NeighborIndex(states, actions[:19], 2.0)
    with pytest.raises(DatasetError, match=r"actions .* must have shape \(N, width\), not \(20,\)"):
        NeighborIndex(states, actions[:, 0], 2.0)
    with pytest.raises(DatasetError, match=r"not \(0, 5\)"):
        NeighborIndex(states[:0], actions[:0], 2.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 0}, "no neighbour number 0 among 20 rows; choose k from 1 to 20"),
        ({"k": 21}, "no neighbour number 21 among 20 rows"),
        ({"rows": np.array([0, 20])}, "outside 0 to 19"),
        ({"rows": np.array([0, -1])}, "outside 0 to 19"),
        ({"rows": np.array([0.0, 1.0])}, "integers of shape"),
        ({"rows": np.array([0, 1, 2])}, r"must have shape \(3, 2\), not \(2, 2\)"),
        ({"actions": np.full((2, 2), np.nan)}, "NaN"),
        ({"actions": np.full((2, 2), np.inf)}, "huge"),
        ({"actions": np.zeros((2, 3))}, r"must have shape \(2, 2\), not \(2, 3\)"),
    ],
)
def test_impossible_queries_are_refused(change, sentence):
    index = NeighborIndex(*smooth(20), 2.0)
    with pytest.raises(AgentError, match=sentence):
        index.search(**({"rows": np.array([0, 1]), "actions": np.zeros((2, 2)), "k": 1} | change))


def test_without_faiss_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(AgentError, match="pip install faiss-cpu"):
        NeighborIndex(*smooth(20), 2.0, method="faiss_flat")


def test_the_import_is_light():
    code = "import sys, offline_rl.neighbors.index; print([m for m in ('numba', 'faiss') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_walker2d_row_for_row(data_folder):
    """Brute force, two seconds a batch, sees every fourth of each kind; tree and lists are compared on all."""
    with h5py.File(data_folder / "walker2d_medium_replay.hdf5") as file:
        states, actions = file["observations"][:], file["actions"][:]
    states = ((states - states.mean(0)) / (states.std(0) + 1e-3)).astype(np.float32)
    generator = np.random.default_rng(0)
    indexes = [index_of(states, actions, 2.0, method, lists=64) for method in ("brute", "tree", "lists")]
    for deviation in (0.1, 0.3, 0.6, None):
        for number in range(12):
            rows = generator.integers(len(states), size=256)
            if deviation is None:
                queries = generator.uniform(-1, 1, (256, actions.shape[1]))
            else:
                queries = np.clip(actions[rows] + deviation * generator.standard_normal((256, actions.shape[1])), -1, 1)
            first, *others = [index.search(rows, queries) for index in indexes[number % 4 > 0 :]]
            for found in others:
                np.testing.assert_array_equal(found.index, first.index)
                np.testing.assert_array_equal(found.distance, first.distance)
