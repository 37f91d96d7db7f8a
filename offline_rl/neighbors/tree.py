"""The tree that the exact nearest-neighbour search goes down; see :mod:`offline_rl.neighbors.kernels`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from offline_rl.neighbors.kernels import EPSILON, WIDTH, Float32, Float64, Int64, Tree, encode, rotate

LEAF_SIZE = 64
"""Points per leaf, at most; on 17 + 6 columns anything from 32 to 128 searches about as fast."""


def build_tree(keys: Float32, leaf_size: int = LEAF_SIZE) -> Tree:
    """Build the tree of `keys` (N, D); the same keys give the same tree whatever the number of threads."""
    center, rotation, stretch = _principal_axes(keys)
    rotated = rotate(keys, center, rotation)
    order, edges = _split(rotated, leaf_size)
    leaves, columns = len(edges) - 1, keys.shape[1]
    counts = np.diff(edges).astype(np.int32)
    codes = np.zeros((leaves, columns, -(-int(edges[1]) // WIDTH) * WIDTH), np.uint8)
    steps = np.zeros((leaves, columns), np.float32)
    errors = np.zeros(leaves)
    rows = np.full((leaves, codes.shape[2]), -1, np.int32)
    lower = np.full((leaves, columns), np.inf, np.float32)
    upper = -lower
    for leaf in range(np.count_nonzero(counts)):
        members = order[edges[leaf] : edges[leaf + 1]]
        block = rotated[members]
        rows[leaf, : len(members)] = members
        errors[leaf] = encode(block, lower[leaf], upper[leaf], steps[leaf], codes[leaf])
    (nodes_lower, root), (nodes_upper, _) = _nodes(lower, np.min, np.inf), _nodes(upper, np.max, -np.inf)
    reach = float(np.sqrt(np.einsum("nd,nd->n", rotated, rotated, dtype=np.float64).max())) * (1 + 1e-6)
    growth = stretch * float(np.sqrt(1.0 + (columns + 8) * EPSILON))
    nodes = nodes_lower, nodes_upper, root - WIDTH + 1
    return Tree(codes, lower, steps, errors, rows, counts, *nodes, center, rotation, reach, growth)


def _nodes(corners: Float32, reduce: Callable[..., Any], nothing: float) -> tuple[Float32, int]:
    """Return the corners (nodes, D, 16) of the children of all nodes above these leaves, and how many the root has."""
    levels, columns = [], corners.shape[1]
    while True:
        missing = np.full((-len(corners) % WIDTH, columns), nothing, np.float32)
        children = np.concatenate((missing, corners)).reshape(-1, WIDTH, columns)
        levels.append(children.transpose(0, 2, 1))
        if len(children) == 1:
            return np.ascontiguousarray(np.concatenate(levels[::-1])), len(corners)
        corners = reduce(children, axis=1)


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

    The leaves are a power of two in number and all but the last hold the same multiple of the vector width; with an
    unlucky N some at the end stay empty.

    Returns:
        The rows in leaf order (N,), and the edges (leaves + 1,) of the leaves in it.
    """
    order = np.arange(len(rotated), dtype=np.int64)
    leaves = 1 << max(0, (-(-len(rotated) // leaf_size) - 1).bit_length())
    capacity = -(-len(rotated) // (leaves * WIDTH)) * WIDTH
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
