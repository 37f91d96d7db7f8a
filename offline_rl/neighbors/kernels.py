"""The compiled kernels of the exact nearest-neighbour search, and what they read.

**What is exact.** The distance of a query q to a key k is `Σ (q_c - k_c)²`, summed in float64 over the columns from the
first to the last, on the original float32 keys (`key_distance`). Candidates are ordered by (distance, row). Every path
computes this number with the same roundings, so every path returns the same row; LLVM fuses no multiply-add unless
`fastmath` permits it, and these functions do not.

**What is fast.** The tree holds boxes around the keys, centred, rotated onto their principal axes and rounded to
float32, and in each leaf the points' places in its box, a byte for each column. Distances to boxes and places only
decide what need not be looked at. Write p for the rotated key k in float32, y for the rotated query, t for the float32
value of the squared distance of y to a box that contains p, u = 2⁻²⁴.

1. Rounding the rotated vectors moves each by at most u of its norm; the float64 work before adds far less than u. With
   e = 2u, |‖p - y‖ - ‖Rᵀ(k - q)‖| ≤ e (‖p‖ + ‖y‖).
2. ‖Rᵀv‖ ≤ σ ‖v‖ with σ² ≤ 1 + ‖RᵀR - I‖ (the eigenvectors are orthonormal only up to rounding).
3. Each of the D squared differences carries at most three roundings' worth of (1 + u) and the sum, in any order and
   with or without fused operations, at most D - 1 more: t ≤ ‖p - y‖² (1 + (D + 8) 2u), for a box is no farther than the
   points inside it.
4. A byte c stands for the place p̂ = l + s c, where l is the box's lower corner. Let t be the float32 value of ‖p̂ - y‖².
   ‖p̂ - p‖ is known. Rounding y - l and s c adds at most u (‖y‖ + ‖l‖ + ‖255 s‖) to the distance; the rest is as in 3.

Together t ≤ (growth · ‖q - k‖ + slack + error)² with growth = σ √(1 + (D + 8) 2u) and slack = e (‖p‖ + 2 ‖y‖); error is
0 for boxes, and for places the largest √(1 + (D + 8) 2u) (‖p̂ - p‖ + e (‖l‖ + ‖255 s‖)) of a leaf. So a key may be left
out if t exceeds the right side at the best distance known (`_squared`, rounded up). `TINY` covers what underflows. The
factor 2 in e pays for the second-order terms. `LIMIT` on the size of a key keeps float32 squares finite.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic as _intrinsic
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Entries = NDArray[np.void]

LIMIT = 1e15
"""Largest magnitude of a key or a query that the float32 squares allow."""

TINY = 1e-18
"""Absolute allowance for values that underflow in float32, with or without flushing of denormals."""

EPSILON = 2.0**-23
"""Twice the unit roundoff of float32."""

DOUBLE_MARGIN = 1.0 + 1e-12
"""Covers the roundings of one float64 sum of squares of up to a thousand columns."""

LIST_ENTRY = np.dtype([("row", "<i4"), ("bound", "<f4")])
"""One neighbour in a candidate list: its row and a lower bound on its state distance."""

_STEPS = 255
"""Steps into which a leaf's box is divided along each axis."""

_LARGEST = float(np.finfo(np.float32).max)

WIDTH = 16
"""Numbers in a vector; what is measured at once is a multiple of it, so that nothing is left over."""

_STACK = 8 * WIDTH
"""Waiting nodes: all children of a node on each level of the tree at most, and the levels are fewer than eight."""

intrinsic: Callable[[Callable[..., Any]], Any] = _intrinsic
cgutils: Any = _cgutils

_FAST = ("contract", "reassoc", "nsz", "nnan")
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INTEGERS = ir.VectorType(ir.IntType(32), WIDTH)
_CODES = ir.VectorType(ir.IntType(8), WIDTH)
_MASK = ir.IntType(WIDTH)

_Difference = Callable[[Any, list[Any], Any, Any], Any]
"""Makes the code for a vector of differences from a builder, the arrays, the column, and the vector's place."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled() -> Callable[[_Function], _Function]:
    """Numba's `njit` with this module's options."""
    return cast(Callable[[_Function], _Function], numba.njit(nogil=True, cache=True))


class Tree(NamedTuple):
    """A tree with tight boxes whose nodes have 16 children, only the root fewer; its leaves are all on one level.

    Node n has the children 16 n + shift + lane; the root, 0, lacks the first lanes. From ``len(lower)`` on, a node is a
    leaf.

    Args:
        codes: (leaves, D, L) places of the rotated keys in their leaf's box, one column after the other, in steps from
            its lower corner.
        corners: (leaves, D) lower corners of the leaves' boxes.
        steps: (leaves, D) lengths of the steps.
        errors: (leaves,) how much longer than to its key a distance to a code may be, apart from the slack.
        rows: (leaves, L) dataset rows of the codes, -1 in unused places.
        counts: (leaves,) places in use.
        lower: (nodes, D, 16) lower corners of the boxes of a node's children, infinite where there is none.
        upper: (nodes, D, 16) upper corners.
        shift: see above.
        center: (D,) subtracted before the rotation.
        rotation: (D, D) principal axes as columns, the widest first.
        reach: largest norm of a rotated key.
        growth: how much longer than the true distance a float32 distance may be, apart from the slack.
    """

    codes: Bytes
    corners: Float32
    steps: Float32
    errors: Float64
    rows: Int32
    counts: Int32
    lower: Float32
    upper: Float32
    shift: int
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
def encode(points: Float32, lower: Float32, upper: Float32, steps: Float32, codes: Bytes) -> float:
    """Fill the box (D,) of a leaf's points (M, D), its steps (D,) and the points' codes (D, L); return its error."""
    count, columns = points.shape
    apart = np.zeros(count)
    size = 0.0
    for column in range(columns):
        lower[column] = points[:, column].min()
        upper[column] = points[:, column].max()
        start = np.float64(lower[column])
        steps[column] = (np.float64(upper[column]) - start) / _STEPS
        step = np.float64(steps[column])
        size += start * start + (_STEPS * step) ** 2
        for member in range(count):
            place = np.float64(points[member, column]) - start
            code = min(np.rint(place / step), _STEPS) if step > 0 else 0
            codes[column, member] = np.uint8(code)
            apart[member] += (place - step * code) ** 2
    # √(‖l‖² + ‖255 s‖²) is at least the sum of the norms divided by √2.
    longest = math.sqrt(apart.max()) * DOUBLE_MARGIN + EPSILON * math.sqrt(2.0 * size)
    error: float = longest * (1.0 + (columns + 8) * EPSILON)
    return error


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


# Numba's loops keep sums in memory and take a minimum one by one. Here LLVM is handed vectors, which it fits to
# whatever the processor has; that is four times as fast.


@intrinsic
def code_distances(  # noqa: PLR0917 (Numba's functions know no keywords)
    context: Any, point: Any, lower: Any, step: Any, codes: Any, limit: Any, distances: Any
) -> Any:
    """Write the squared distances (L,) of a point (D,) to lower (D,) + step (D,) · codes (D, L).

    All are float32 but for the codes, which are uint8. Operations may be fused and sums taken in any order.

    Returns:
        Whether one of the distances is at most ``limit``.
    """

    def difference(builder: Any, arrays: list[Any], column: Any, place: Any) -> Any:
        start, corner, scale = (_entry(builder, array, column) for array in arrays[:3])
        codes = builder.load(_vector(builder, arrays[3], place, _CODES), align=1)
        offset = builder.sitofp(builder.zext(codes, _INTEGERS), _FLOATS)
        offset = builder.fmul(_spread(builder, scale), offset, flags=_FAST)
        return builder.fsub(_spread(builder, builder.fsub(start, corner, flags=_FAST)), offset, flags=_FAST)

    return _signature(point, lower, step, codes, limit, distances), _sums(difference)


@intrinsic
def box_distances(  # noqa: PLR0917
    context: Any, point: Any, lower: Any, upper: Any, limit: Any, distances: Any
) -> Any:
    """Write the squared distances (L,) of a point (D,) to boxes with these corners (D, L).

    Returns:
        Whether one of the distances is at most ``limit``.
    """

    def difference(builder: Any, arrays: list[Any], column: Any, place: Any) -> Any:
        value = _spread(builder, _entry(builder, arrays[0], column))
        low, high = (builder.load(_vector(builder, array, place, _FLOATS), align=4) for array in arrays[1:3])
        below, above = builder.fsub(low, value, flags=_FAST), builder.fsub(value, high, flags=_FAST)
        return _larger(builder, _larger(builder, below, above), _FLOATS([0.0] * WIDTH))

    return _signature(point, lower, upper, limit, distances), _sums(difference)


def _signature(*arguments: Any) -> Any:
    """Return that of a function which says yes or no; refuse what the code would read wrongly."""
    for kind in arguments:
        numbers = kind.dtype if isinstance(kind, types.Array) else kind
        if numbers not in (types.float32, types.uint8) or getattr(kind, "layout", "C") != "C":
            raise TypingError(f"distances are measured of contiguous float32 and uint8 arrays, not of {kind}")
    return types.boolean(*arguments)


def _sums(difference: _Difference) -> Any:
    """Return the generator of a function of a point, a box, maybe codes, ``limit`` and ``distances``."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        *given, _, result = zip(signature.args, values, strict=True)
        arrays = [target.make_array(kind)(target, builder, value) for kind, value in (*given, result)]
        columns, size = cgutils.unpack_tuple(builder, arrays[-2].shape, 2)
        total = cgutils.alloca_once(builder, _FLOATS)
        near = cgutils.alloca_once_value(builder, _MASK(0))
        with cgutils.for_range_slice(builder, size.type(0), size, size.type(WIDTH)) as (first, _):
            builder.store(_FLOATS([0.0] * WIDTH), total)
            with cgutils.for_range(builder, columns) as column:
                place = builder.add(builder.mul(column.index, size), first)
                apart = difference(builder, arrays, column.index, place)
                square = builder.fmul(apart, apart, flags=_FAST)
                builder.store(builder.fadd(builder.load(total), square, flags=_FAST), total)
            builder.store(builder.load(total), _vector(builder, arrays[-1], first, _FLOATS), align=4)
            within = builder.fcmp_ordered("<=", builder.load(total), _spread(builder, values[-2]))
            builder.store(builder.or_(builder.load(near), builder.bitcast(within, _MASK)), near)
        return builder.icmp_unsigned("!=", builder.load(near), _MASK(0))

    return generate


def _entry(builder: Any, array: Any, place: Any) -> Any:
    """Load one entry of an array."""
    return builder.load(builder.gep(array.data, [place]))


def _vector(builder: Any, array: Any, place: Any, kind: Any) -> Any:
    """Return the address of ``WIDTH`` entries of an array."""
    return builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())


def _spread(builder: Any, value: Any) -> Any:
    """Return a vector that holds one value everywhere."""
    nothing = _FLOATS(ir.Undefined)
    first = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, nothing, _INTEGERS([0] * WIDTH))


def _larger(builder: Any, one: Any, other: Any) -> Any:
    """Return the larger of two vectors, entry by entry."""
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


@_compiled()
def _norm(vector: Float32) -> float:
    """Euclidean norm in float64, with room for its rounding."""
    total = 0.0
    for column in range(len(vector)):
        total += np.float64(vector[column]) * np.float64(vector[column])
    return math.sqrt(total) * (1.0 + 1e-6)


@_compiled()
def _radius(distance: float, growth: float, slack: float) -> float:
    """Largest distance, but for a leaf's error, at which a key of this squared float64 distance can appear."""
    radius: float = growth * math.sqrt(distance * DOUBLE_MARGIN) + slack
    return radius


@_compiled()
def _squared(radius: float) -> np.float32:
    """Square a distance in float32, rounded up; finite, so that it leaves out boxes of nothing."""
    return np.float32(min(radius * radius * (1.0 + 2.0 * EPSILON), _LARGEST))


@_compiled()
def _push_near(first: int, distances: Float32, limit: np.float32, nodes: Int64, bounds: Float32) -> int:
    """Put those of the 16 nodes from ``first`` on that are near enough on two stacks, the nearest last; count them."""
    count = 0
    for lane in range(WIDTH):
        bound = distances[lane]
        if bound <= limit:
            place = count
            while place > 0 and bounds[place - 1] < bound:
                nodes[place] = nodes[place - 1]
                bounds[place] = bounds[place - 1]
                place -= 1
            nodes[place] = first + lane
            bounds[place] = bound
            count += 1
    return count


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
    first_leaf = len(tree.lower)
    nodes = np.zeros(_STACK, np.int64)
    bounds = np.zeros(_STACK, np.float32)
    distances = np.empty(max(tree.codes.shape[2], WIDTH), np.float32)
    slack = EPSILON * (tree.reach + 2.0 * _norm(point)) + TINY
    radius = _radius(best.distances[-1], tree.growth, slack)
    limit = _squared(radius)
    waiting = 1
    while waiting > 0:
        waiting -= 1
        node = nodes[waiting]
        if bounds[waiting] > limit:
            continue
        if node < first_leaf:
            if box_distances(point, tree.lower[node], tree.upper[node], limit, distances):
                children = WIDTH * node + tree.shift
                waiting += _push_near(children, distances, limit, nodes[waiting:], bounds[waiting:])
            continue
        leaf = node - first_leaf
        near = _squared(radius + tree.errors[leaf])
        if not code_distances(point, tree.corners[leaf], tree.steps[leaf], tree.codes[leaf], near, distances):
            continue
        for member in range(tree.counts[leaf]):
            if distances[member] <= near:
                row = tree.rows[leaf, member]
                _offer(key_distance(query, keys[row]), row, best)
                radius = _radius(best.distances[-1], tree.growth, slack)
                near = _squared(radius + tree.errors[leaf])
        limit = _squared(radius)


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
def fill_lists(tree: Tree, first_leaf: int, last_leaf: int, states: Float32, entries: Entries) -> None:
    """Fill the lists of the rows in some leaves of the tree of all states.

    Args:
        tree: of the unscaled states.
        first_leaf: first leaf whose rows are done.
        last_leaf: one after the last leaf.
        states: (N, O) the unscaled states.
        entries: (N, K) of `LIST_ENTRY`, receives each row's K nearest states in ascending order of `bound`.
    """
    size = entries.shape[1]
    best = Found(np.empty(size), np.empty(size, np.int64))
    for leaf in range(first_leaf, last_leaf):
        for member in range(tree.counts[leaf]):
            own = tree.rows[leaf, member]
            point = rotate(states[own : own + 1], tree.center, tree.rotation)
            best.distances[:] = np.inf
            best.rows[:] = -1
            _search_tree(tree, point[0], states[own], states, best)
            for position in range(size):
                bound = math.sqrt(best.distances[position]) * (1.0 - EPSILON)
                entries[own, position].row = best.rows[position]
                entries[own, position].bound = np.float32(max(bound - TINY, 0.0))
