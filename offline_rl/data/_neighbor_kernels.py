"""A balanced tree in float32 and the compiled kernels of the exact nearest-neighbour search.

**What is exact.** The distance of a query q to a key k is `Σ (q_c - k_c)²`, summed in float64 over the columns from the
first to the last, on the original float32 keys (`key_distance`). Candidates are ordered by (distance, row). Every path
computes this number with the same roundings, so every path returns the same row; LLVM fuses no multiply-add unless
`fastmath` permits it, and these functions do not.

**What is fast.** The tree holds the keys centred, rotated onto their principal axes and rounded to float32; its
distances only decide what need not be looked at. Write p for the stored point of k, y for the rotated query, t for the
float32 value of ‖p - y‖² (or of the squared distance of y to a box that contains p), u = 2⁻²⁴.

1. Rounding the rotated vectors moves each by at most u of its norm; the float64 work before adds far less than u. With
   e = 2u, |‖p - y‖ - ‖Rᵀ(k - q)‖| ≤ e (‖p‖ + ‖y‖) =: slack.
2. ‖Rᵀv‖ ≤ σ ‖v‖ with σ² ≤ 1 + ‖RᵀR - I‖ (the eigenvectors are orthonormal only up to rounding).
3. Each of the D squared differences carries at most three roundings' worth of (1 + u) and the sum, in any order and
   with or without fused operations, at most D - 1 more: t ≤ ‖p - y‖² (1 + (D + 8) 2u). A box is no farther than the
   points inside it, and its distance has the same bound.

Together t ≤ (growth · ‖q - k‖ + slack)² with growth = σ √(1 + (D + 8) 2u). So a key may be left out if t exceeds the
value of the right side at the best distance known (`_prune_limit`, rounded up), and a key whose t is known is at least
(√t - slack) / growth away (`fill_lists`, rounded down). `TINY` covers what underflows. The factor 2 in e pays for the
second-order terms. `LIMIT` on the size of a key keeps float32 squares finite.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Entries = NDArray[np.void]

LIMIT = 1e15
"""Largest magnitude of a key or a query that the float32 squares allow."""

TINY = 1e-18
"""Absolute allowance for values that underflow in float32, with or without flushing of denormals."""

EPSILON = 2.0**-23
"""Twice the unit roundoff of float32."""

DOUBLE_MARGIN = 1.0 + 1e-12
"""Covers the roundings of one float64 sum of squares of up to a thousand columns."""

LEAF_SIZE = 64
"""Points per leaf, at most; on 17 + 6 columns anything from 32 to 128 searches about as fast."""

LIST_ENTRY = np.dtype([("row", "<i4"), ("bound", "<f4")])
"""One neighbour in a candidate list: its row and a lower bound on its state distance."""

_STACK = 64
"""Waiting nodes: one per level of the tree at most."""

_VECTOR = 16
"""Leaves hold a multiple of this many points, so that no part of them is left over for scalar code."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(*, fast: bool = False) -> Callable[[_Function], _Function]:
    """Numba's `njit` with this module's options; `fast` is for distances that only prune."""
    fastmath = {"reassoc", "contract", "nsz", "nnan"} if fast else False
    decorator = numba.njit(nogil=True, cache=True, fastmath=fastmath)
    return cast(Callable[[_Function], _Function], decorator)


class Tree(NamedTuple):
    """A perfect binary tree with tight boxes; nodes in heap order, leaves last.

    Args:
        points: (leaves, D, L) rotated keys, one column after the other; unused places repeat the leaf's first point.
        rows: (leaves, L) dataset rows of the points, -1 in unused places.
        counts: (leaves,) points in use.
        lower: (2 leaves - 1, D) lower corners of the boxes.
        upper: (2 leaves - 1, D) upper corners.
        center: (D,) subtracted before the rotation.
        rotation: (D, D) principal axes as columns, the widest first.
        reach: largest norm of a point.
        growth: how much longer than the true distance a float32 distance may be, apart from the slack.
    """

    points: Float32
    rows: Int32
    counts: Int32
    lower: Float32
    upper: Float32
    center: Float64
    rotation: Float64
    reach: float
    growth: float


class Data(NamedTuple):
    """What is searched.

    Args:
        keys: (N, O + A) float32 keys [beta s ; a].
        actions: (N, A) their last columns once more, packed.
        beta: the scale of the states, as float32 holds it.
    """

    keys: Float32
    actions: Float32
    beta: float


class Lists(NamedTuple):
    """Each row's nearest states.

    Args:
        entries: (N, K) of `LIST_ENTRY`, in ascending order of `bound`.
        listed: (B,) whether the list of a query's row is filled.
    """

    entries: Entries
    listed: Bool


class Queries(NamedTuple):
    """A batch of queries [beta states[rows] ; actions].

    Args:
        rows: (B,) dataset rows whose states are the queries' states, -1 for a state of no row.
        states: (B, O) the queries' states times beta, read where there is no row; (0, 0) if that is nowhere.
        actions: (B, A) the queries' actions.
        k: which neighbour is asked for, 1 is the nearest.
    """

    rows: Int64
    states: Float32
    actions: Float32
    k: int


class Found(NamedTuple):
    """Keys by (distance, row): the best k so far of one query, or the answers (B,) to a batch.

    Args:
        distances: infinite where nothing is known; squared while a query is searched.
        rows: -1 where nothing is known.
    """

    distances: Float64
    rows: Int64


def build_tree(keys: Float32, leaf_size: int = LEAF_SIZE) -> Tree:
    """Build the tree of `keys` (N, D); the same keys give the same tree whatever the number of threads."""
    center, rotation, stretch = _principal_axes(keys)
    rotated = rotate(keys, center, rotation)
    order, edges = _split(rotated, leaf_size)
    leaves, columns = len(edges) - 1, keys.shape[1]
    counts = np.diff(edges).astype(np.int32)
    points = np.zeros((leaves, columns, int(edges[1])), np.float32)
    rows = np.full((leaves, points.shape[2]), -1, np.int32)
    lower = np.full((2 * leaves - 1, columns), np.inf, np.float32)
    upper = -lower
    for leaf in range(np.count_nonzero(counts)):
        members = order[edges[leaf] : edges[leaf + 1]]
        block = rotated[members]
        points[leaf, :, : len(members)] = block.T
        points[leaf, :, len(members) :] = block[:1].T
        rows[leaf, : len(members)] = members
        lower[leaves - 1 + leaf] = block.min(0)
        upper[leaves - 1 + leaf] = block.max(0)
    for node in range(leaves - 2, -1, -1):
        np.minimum(lower[2 * node + 1], lower[2 * node + 2], out=lower[node])
        np.maximum(upper[2 * node + 1], upper[2 * node + 2], out=upper[node])
    reach = float(np.sqrt(np.einsum("nd,nd->n", rotated, rotated, dtype=np.float64).max())) * (1 + 1e-6)
    growth = stretch * float(np.sqrt(1.0 + (columns + 8) * EPSILON))
    return Tree(points, rows, counts, lower, upper, center, rotation, reach, growth)


def _principal_axes(keys: Float32, sample: int = 65536) -> tuple[Float64, Float64, float]:
    """Center (D,), axes (D, D) and a bound on how much the axes lengthen a vector.

    Any orthonormal axes are correct; these make the boxes tight. An evenly spaced sample and `einsum` (no BLAS, whose
    sums depend on the number of threads) keep them reproducible.
    """
    chosen = keys[:: -(-len(keys) // sample)].astype(np.float64)
    center = chosen.mean(0)
    chosen -= center
    _, axes = np.linalg.eigh(np.einsum("ni,nj->ij", chosen, chosen))
    axes = np.ascontiguousarray(axes[:, ::-1])
    defect = float(np.linalg.norm(np.einsum("ij,ik->jk", axes, axes) - np.eye(len(axes))))
    return center, axes, float(np.sqrt(1.0 + defect + 1e-12))


def _split(rotated: Float32, leaf_size: int) -> tuple[Int64, Int64]:
    """Split the rows, at about the median of their widest axis, until every part is a leaf.

    The leaves are a power of two in number and all but the last are full, to a multiple of the vector width; with an
    unlucky N some at the end stay empty.

    Returns:
        The rows in leaf order (N,), and the edges (leaves + 1,) of the leaves in it.
    """
    order = np.arange(len(rotated), dtype=np.int64)
    leaves = 1 << max(0, (-(-len(rotated) // leaf_size) - 1).bit_length())
    capacity = -(-len(rotated) // (leaves * _VECTOR)) * _VECTOR
    edges = np.minimum(np.arange(leaves + 1) * capacity, len(rotated))
    step = leaves
    while step > 1:
        for first in range(0, leaves, step):
            start, middle, stop = edges[first], edges[first + step // 2], edges[first + step]
            if middle < stop:
                part = order[start:stop]
                widest = int(rotated[part[:: -(-len(part) // 4096)]].var(0).argmax())
                order[start:stop] = part[np.argpartition(rotated[part, widest], middle - start)]
        step //= 2
    return order, edges


@_compiled()
def rotate(keys: Float32, center: Float64, rotation: Float64) -> Float32:
    """`(keys - center) @ rotation`, computed in float64 in a fixed order and rounded to float32: (N, D)."""
    columns = keys.shape[1]
    rotated = np.empty(keys.shape, np.float32)
    total = np.empty(columns)
    for row in range(len(keys)):
        total[:] = 0.0
        for axis in range(columns):
            offset = keys[row, axis] - center[axis]
            for column in range(columns):
                total[column] += offset * rotation[axis, column]
        for column in range(columns):
            rotated[row, column] = total[column]
    return rotated


@_compiled()
def key_distance(query: Float32, key: Float32) -> float:
    """Compute the distance that decides: squared, in float64, column after column."""
    total = 0.0
    for column in range(len(query)):
        difference = np.float64(query[column]) - np.float64(key[column])
        total += difference * difference
    return total


@_compiled()
def _offer(distance: float, row: int, best: Found) -> None:
    """Insert (distance, row) into the sorted best k, unless it is there or too far."""
    distances, rows = best
    slot = len(rows) - 1
    if distance > distances[slot] or (distance == distances[slot] and row >= rows[slot]):
        return
    while slot > 0 and (distance < distances[slot - 1] or (distance == distances[slot - 1] and row < rows[slot - 1])):
        slot -= 1
    if slot > 0 and distance == distances[slot - 1] and row == rows[slot - 1]:
        return
    for later in range(len(rows) - 1, slot, -1):
        distances[later] = distances[later - 1]
        rows[later] = rows[later - 1]
    distances[slot] = distance
    rows[slot] = row


@_compiled(fast=True)
def _box_distance(point: Float32, lower: Float32, upper: Float32) -> np.float32:
    """Squared float32 distance of a point to a box."""
    total: np.float32 = np.float32(0)
    for column in range(len(point)):
        outside = max(lower[column] - point[column], point[column] - upper[column], np.float32(0))
        total += outside * outside
    return total


@_compiled(fast=True)
def _leaf_distances(point: Float32, leaf: Float32, distances: Float32) -> np.float32:
    """Squared float32 distances of a point to the points of a leaf (D, L); returns the smallest."""
    distances[:] = np.float32(0)
    for column in range(len(point)):
        value = point[column]
        for member in range(leaf.shape[1]):
            difference = value - leaf[column, member]
            distances[member] += difference * difference
    smallest: np.float32 = distances[0]
    for member in range(leaf.shape[1]):
        smallest = min(smallest, distances[member])
    return smallest


@_compiled()
def _norm(vector: Float32) -> float:
    """Euclidean norm in float64, with room for its rounding."""
    total = 0.0
    for column in range(len(vector)):
        total += np.float64(vector[column]) * np.float64(vector[column])
    return math.sqrt(total) * (1.0 + 1e-6)


@_compiled()
def _prune_limit(distance: float, growth: float, slack: float) -> np.float32:
    """Largest float32 squared distance at which a key of this squared float64 distance can appear in the tree."""
    limit = growth * np.sqrt(distance * DOUBLE_MARGIN) + slack
    return np.float32(limit * limit * (1.0 + 2.0 * EPSILON))


@_compiled()
def _nearer_child(tree: Tree, point: Float32, node: int, nodes: Int64, bounds: Float32) -> tuple[int, np.float32]:
    """Return the nearer child of a node and the distance of its box; push those of the other to two stacks."""
    near = 2 * node + 1
    far = near + 1
    near_bound = _box_distance(point, tree.lower[near], tree.upper[near])
    far_bound = _box_distance(point, tree.lower[far], tree.upper[far])
    if far_bound < near_bound:
        near, far = far, near
        near_bound, far_bound = far_bound, near_bound
    nodes[0] = far
    bounds[0] = far_bound
    return near, near_bound


@_compiled()
def _search_tree(tree: Tree, point: Float32, query: Float32, keys: Float32, best: Found) -> None:
    """Improve the sorted best k until no key outside them can belong there.

    Args:
        tree: of `keys`.
        point: (D,) the rotated query.
        query: (D,) the query.
        keys: (N, D) the original keys.
        best: the k nearest so far.
    """
    first_leaf = len(tree.counts) - 1
    nodes = np.empty(_STACK, np.int64)
    bounds = np.empty(_STACK, np.float32)
    leaf_distances = np.empty(tree.points.shape[2], np.float32)
    slack = EPSILON * (tree.reach + _norm(point)) + TINY
    limit = _prune_limit(best.distances[-1], tree.growth, slack)
    nodes[0] = 0
    bounds[0] = np.float32(0)
    waiting = 1
    while waiting > 0:
        waiting -= 1
        node = nodes[waiting]
        bound = bounds[waiting]
        while bound <= limit and node < first_leaf:
            node, bound = _nearer_child(tree, point, node, nodes[waiting:], bounds[waiting:])
            waiting += bounds[waiting] <= limit
        leaf = node - first_leaf
        if bound > limit or _leaf_distances(point, tree.points[leaf], leaf_distances) > limit:
            continue
        for member in range(tree.counts[leaf]):
            if leaf_distances[member] <= limit:
                row = tree.rows[leaf, member]
                _offer(key_distance(query, keys[row]), row, best)
                limit = _prune_limit(best.distances[-1], tree.growth, slack)


@_compiled()
def _scan_list(entries: Entries, data: Data, query: Float32, best: Found) -> bool:
    """Improve the sorted best k from a list of nearest states; True if nothing outside the list can belong there.

    The entries come in ascending order of `bound` ≤ ‖s - s'‖, and no row outside the list is nearer than the last
    bound. Keys hold float32 products: |fl(βs) - βs| ≤ u β|s| per coordinate, so the states of two keys are at least
    β ‖s - s'‖ - u β (‖s‖ + ‖s'‖) ≥ (1 - u) β ‖s - s'‖ - 2u β ‖s‖ apart.

    Args:
        entries: (K,) of `LIST_ENTRY`.
        data: the keys.
        query: (O + A,) the query, its states those of the row that owns the list.
        best: the k nearest so far.
    """
    keys, actions, beta = data
    states = keys.shape[1] - actions.shape[1]
    shrink = beta * (1.0 - EPSILON)
    slack = EPSILON * _norm(query[:states]) + TINY
    limit = best.distances[-1] * DOUBLE_MARGIN
    bound = 0.0
    for position in range(len(entries)):
        bound = max(shrink * entries[position].bound - slack, 0.0) ** 2
        # Strict: a lower row at exactly the best distance may still come.
        if bound > limit:
            return True
        row = entries[position].row
        # The action part alone costs one cache line and excludes nearly all.
        if bound + key_distance(query[states:], actions[row]) <= limit:
            _offer(key_distance(query, keys[row]), row, best)
            limit = best.distances[-1] * DOUBLE_MARGIN
    return bound > limit or len(entries) == len(keys)


@_compiled()
def search_batch(data: Data, tree: Tree, lists: Lists, queries: Queries, answers: Found) -> int:
    """Find the k-th nearest key of each query: by its list where there is one, then by the tree.

    Returns:
        How many queries their list alone has answered.
    """
    keys = data.keys
    states = keys.shape[1] - data.actions.shape[1]
    query = np.empty((1, keys.shape[1]), np.float32)
    best = Found(np.empty(queries.k), np.empty(queries.k, np.int64))
    certified = 0
    for position in range(len(queries.rows)):
        own = queries.rows[position]
        query[0, :states] = keys[own, :states] if own >= 0 else queries.states[position]
        query[0, states:] = queries.actions[position]
        best.distances[:] = np.inf
        best.rows[:] = -1
        if own >= 0:
            _offer(key_distance(query[0], keys[own]), own, best)
        if lists.listed[position] and _scan_list(lists.entries[own], data, query[0], best):
            certified += 1
        else:
            point = rotate(query, tree.center, tree.rotation)
            _search_tree(tree, point[0], query[0], keys, best)
        answers.rows[position] = best.rows[-1]
        answers.distances[position] = np.sqrt(best.distances[-1])
    return certified


@_compiled()
def brute_force(columns: Float32, queries: Queries, answers: Found) -> None:
    """`search_batch` without any shortcut, on the transposed keys `columns` (O + A, N)."""
    width, size = columns.shape
    states = width - queries.actions.shape[1]
    query = np.empty(width)
    block = np.empty(1024)
    best = Found(np.empty(queries.k), np.empty(queries.k, np.int64))
    for position in range(len(queries.rows)):
        own = queries.rows[position]
        if own >= 0:
            query[:states] = columns[:states, own]
        else:
            query[:states] = queries.states[position]
        query[states:] = queries.actions[position]
        best.distances[:] = np.inf
        best.rows[:] = -1
        for start in range(0, size, len(block)):
            stop = min(start + len(block), size)
            _block_distances(query, columns[:, start:stop], block)
            for member in range(stop - start):
                if block[member] <= best.distances[-1]:
                    _offer(block[member], start + member, best)
        answers.rows[position] = best.rows[-1]
        answers.distances[position] = np.sqrt(best.distances[-1])


@_compiled()
def _block_distances(query: Float64, columns: Float32, distances: Float64) -> None:
    """`key_distance` of many keys at once, in the same order of additions: columns (D, ·) to distances."""
    distances[:] = 0.0
    for column in range(len(query)):
        value = query[column]
        part = columns[column]
        for member in range(len(part)):
            difference = value - np.float64(part[member])
            distances[member] += difference * difference


@_compiled()
def _replace_farthest(distance: np.float32, row: int, distances: Float32, rows: Int32) -> None:
    """Replace the root of a max-heap."""
    hole = 0
    child = 1
    size = len(distances)
    while child < size:
        if child + 1 < size and distances[child + 1] > distances[child]:
            child += 1
        if distances[child] <= distance:
            break
        distances[hole] = distances[child]
        rows[hole] = rows[child]
        hole = child
        child = 2 * hole + 1
    distances[hole] = distance
    rows[hole] = row


@_compiled()
def _nearest_points(tree: Tree, point: Float32, distances: Float32, rows: Int32) -> None:
    """Fill a max-heap with the points of smallest float32 distance."""
    first_leaf = len(tree.counts) - 1
    nodes = np.empty(_STACK, np.int64)
    bounds = np.empty(_STACK, np.float32)
    leaf_distances = np.empty(tree.points.shape[2], np.float32)
    distances[:] = np.inf
    nodes[0] = 0
    bounds[0] = np.float32(0)
    waiting = 1
    while waiting > 0:
        waiting -= 1
        node = nodes[waiting]
        bound = bounds[waiting]
        while bound < distances[0] and node < first_leaf:
            node, bound = _nearer_child(tree, point, node, nodes[waiting:], bounds[waiting:])
            waiting += bounds[waiting] < distances[0]
        leaf = node - first_leaf
        if bound >= distances[0] or _leaf_distances(point, tree.points[leaf], leaf_distances) >= distances[0]:
            continue
        for member in range(tree.counts[leaf]):
            if leaf_distances[member] < distances[0]:
                _replace_farthest(leaf_distances[member], tree.rows[leaf, member], distances, rows)


@_compiled()
def fill_lists(tree: Tree, first_leaf: int, last_leaf: int, entries: Entries) -> None:
    """Fill the lists of the rows in some leaves of the tree of all states.

    Whatever a list leaves out was compared, as a point or as part of a box, with a farthest entry no nearer than the
    final one. So the bound of the last entry holds for all rows outside the list, though float32 ranks near-ties as it
    likes.

    Args:
        tree: of the unscaled states.
        first_leaf: first leaf whose rows are done.
        last_leaf: one after the last leaf.
        entries: (N, K) of `LIST_ENTRY`, receives each row's K nearest states in ascending order of `bound`.
    """
    size = entries.shape[1]
    distances = np.empty(size, np.float32)
    rows = np.empty(size, np.int32)
    for leaf in range(first_leaf, last_leaf):
        for member in range(tree.counts[leaf]):
            point = np.ascontiguousarray(tree.points[leaf, :, member])
            slack = EPSILON * (tree.reach + _norm(point)) + TINY
            _nearest_points(tree, point, distances, rows)
            own = tree.rows[leaf, member]
            order = np.argsort(distances)
            for position in range(size):
                entry = order[position]
                bound = (np.sqrt(np.float64(distances[entry])) - slack) / tree.growth
                entries[own, position].row = rows[entry]
                entries[own, position].bound = np.float32(max(bound * (1.0 - EPSILON), 0.0))
