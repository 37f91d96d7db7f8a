"""Nearest rows for tensors: what PRDC asks for at every actor update, whatever the device."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from offline_rl.data.neighbors import NeighborIndex
from offline_rl.data.packed import PackedRows
from offline_rl.files import cache_folder

TILE = 16_384
"""Rows in one product of a search on a GPU."""


@dataclass(frozen=True)
class Nearest:
    """What a search found.

    Attributes:
        rows: ``(B,)`` the rows.
        distance: ``(B,)`` their distances from the queries, float64.
        metrics: What the search measured of itself.
    """

    rows: Tensor
    distance: Tensor
    metrics: dict[str, Tensor]


class Search(Protocol):
    """A way to search."""

    def wait(self) -> None:
        """See :meth:`NearestRows.wait`."""

    def find(self, index: Tensor, action: Tensor, rank: int) -> Nearest:
        """See :meth:`NearestRows.find`."""
        ...


class NearestRows:
    """Finds the row whose (β state, action) is the k-th nearest to that of a row's state with another action.

    Agents on the same rows share one structure; searching changes nothing in it.

    Args:
        rows: The dataset.
        beta: Weight β of normalised states against actions.
        method: On a CPU one of :data:`offline_rl.data.neighbors.METHODS`; a GPU compares with every row.
        list_length: Candidates kept for each row by the method "lists".
    """

    def __init__(self, rows: PackedRows, beta: float, method: str, list_length: int) -> None:
        def make() -> Search:
            if rows.device.type != "cpu":
                return ProductSearch(rows, beta)
            return HostSearch(rows, beta, method, list_length)

        self._search = rows.shared(("neighbors", beta, method, list_length), make)
        self._begun: Future[Nearest] | None = None

    def wait(self) -> None:
        """Wait until the search is as fast as it gets."""
        self._search.wait()

    def begin(self, index: Tensor, action: Tensor, rank: int) -> None:
        """Begin a search beside other work; the next :meth:`find` waits for its end and returns what it found."""
        if index.device.type == "cpu":
            self._begun = _thread().submit(self._search.find, index, action, rank)

    def find(self, index: Tensor, action: Tensor, rank: int) -> Nearest:
        """Return the k-th nearest rows.

        Args:
            index: ``(B,)`` rows whose states are the queries' states.
            action: ``(B, A)`` the queries' actions.
            rank: k; 1 is the nearest.
        """
        if self._begun is None:
            return self._search.find(index, action, rank)
        begun, self._begun = self._begun, None
        return begun.result()


class HostSearch:
    """Search on the CPU, by :class:`offline_rl.data.neighbors.NeighborIndex`."""

    def __init__(self, rows: PackedRows, beta: float, method: str, list_length: int) -> None:
        columns = rows.columns()
        self._index = NeighborIndex(
            columns.observation.numpy(),
            columns.action.numpy(),
            beta,
            method=method,
            lists=list_length,
            cache_dir=cache_folder(),
        )
        # Training begins on the tree; as lists get done the answers stay the same and come faster.
        self._index.build_lists(background=True)

    def wait(self) -> None:
        """Wait for the candidate lists."""
        self._index.wait_for_lists()

    def find(self, index: Tensor, action: Tensor, rank: int) -> Nearest:
        """See :meth:`NearestRows.find`."""
        begin = time.perf_counter()
        found = self._index.search(index.numpy(), action.detach().float().numpy(), rank)
        milliseconds = 1e3 * (time.perf_counter() - begin)
        metrics = {"search_ms": torch.tensor(milliseconds), "certified": torch.tensor(found.certified)}
        return Nearest(torch.from_numpy(found.index), torch.from_numpy(found.distance), metrics)


class ProductSearch:
    """Search on a GPU: the product of the queries with all rows, tile by tile, never waiting for the device.

    The product, in float64, picks ``rank`` candidates of each tile; direct float64 differences of the float32 keys
    then decide, so the answer is that of :class:`HostSearch`. Only of rows whose keys differ by less than the product's
    rounding, 1e-13, another one may win; where keys are equal, so is the action.
    """

    def __init__(self, rows: PackedRows, beta: float, tile: int = TILE) -> None:
        columns = rows.columns()
        scale = torch.tensor(beta, dtype=torch.float32, device=rows.device)
        self._state_keys = scale * columns.observation
        self._keys = torch.cat((self._state_keys, columns.action), 1)
        # Centered, because a product loses what the keys have in common.
        self._center = self._keys.double().mean(0)
        self._tiles = [part.double() - self._center for part in torch.split(self._keys, tile)]
        self._norms = [part.square().sum(1) for part in self._tiles]

    def wait(self) -> None:
        """Return at once: nothing is built."""

    def find(self, index: Tensor, action: Tensor, rank: int) -> Nearest:
        """See :meth:`NearestRows.find`."""
        query = torch.cat((self._state_keys[index], action.detach().float()), 1)
        candidates = self._candidates(query.double() - self._center, rank)
        squared = torch.zeros(candidates.shape, dtype=torch.float64, device=query.device)
        # Column after column, as the host's search adds: then equal distances are equal on both.
        for column in range(query.shape[1]):
            squared += (query[:, column, None].double() - self._keys[candidates, column].double()).square()
        candidates, order = candidates.sort(dim=1)
        squared, order = squared.gather(1, order).sort(dim=1, stable=True)
        place = order[:, rank - 1, None]
        return Nearest(candidates.gather(1, place)[:, 0], squared[:, rank - 1].sqrt(), {})

    def _candidates(self, query: Tensor, rank: int) -> Tensor:
        """Return ``(B, C)`` rows, among them the ``rank`` nearest of every tile."""
        found, first = [], 0
        for tile, norms in zip(self._tiles, self._norms, strict=True):
            distances = torch.addmm(norms, query, tile.t(), alpha=-2)
            found.append(first + distances.topk(min(rank, len(tile)), dim=1, largest=False).indices)
            first += len(tile)
        return torch.cat(found, 1)


def _thread() -> ThreadPoolExecutor:
    """Return this process's one thread for searches."""
    global _pool  # noqa: PLW0603 (a process has one)
    if _pool is None:
        _pool = ThreadPoolExecutor(1, thread_name_prefix="nearest-rows")
    return _pool


_pool: ThreadPoolExecutor | None = None
