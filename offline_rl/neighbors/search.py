"""Nearest rows for tensors: what PRDC asks for at every actor update, whatever the device."""

import itertools
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from offline_rl.data.packed import Columns, PackedRows
from offline_rl.data.replay import Replay
from offline_rl.files import cache_folder
from offline_rl.neighbors.index import NeighborIndex

TILE = 32_768
"""Rows in one product of a search on a GPU."""
MEASURED = ("search_ms", "certified")
"""Metrics of a search on the host."""
RENEWAL = 4096
"""Rows collected online between two structures made of them."""


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


@dataclass(frozen=True)
class Query:
    """States and actions whose neighbours are asked for.

    Attributes:
        index: ``(B,)`` rows whose states these are; a number beyond the dataset's rows says that they are of no row.
        observation: ``(B, O)`` the states, normalised.
        action: ``(B, A)`` the actions.
    """

    index: Tensor
    observation: Tensor
    action: Tensor


class Search(Protocol):
    """A way to search.

    Attributes:
        traceable: Whether it is made of PyTorch's operations alone.
    """

    traceable: bool

    def wait(self) -> None:
        """See :meth:`NearestRows.wait`."""

    def find(self, query: Query, rank: int) -> Nearest:
        """See :meth:`NearestRows.find`."""
        ...


class NearestRows:
    """Finds the row whose (β state, action) is the k-th nearest to a state, mostly a row's, with another action.

    Agents on the same rows share one structure; searching changes nothing in it.

    Args:
        rows: The dataset.
        beta: Weight β of normalised states against actions.
        method: On a CPU one of :data:`offline_rl.neighbors.index.METHODS`; a GPU compares with every row.
        list_length: Candidates kept for each row by the method "lists".
    """

    def __init__(self, rows: PackedRows, beta: float, method: str, list_length: int) -> None:
        def make() -> Search:
            if rows.device.type != "cpu":
                return ProductSearch(rows.columns(), beta)
            return HostSearch(rows.columns(), beta, method, list_length)

        self._search = rows.shared(("neighbors", beta, method, list_length), make)
        self._begun: Tensor | None = None
        self._beta = beta
        self._number = len(_asked)
        _asked.append(weakref.ref(self))

    def include(self, replay: Replay) -> None:
        """Search among rows collected online from now on, too."""
        self._search = GrowingSearch(self._search, replay, self._beta)

    def wait(self) -> None:
        """Wait until the search is as fast as it gets."""
        self._search.wait()

    def begin(self, query: Query, rank: int) -> None:
        """Begin a search beside other work; the next :meth:`find` waits for its end and returns what it found."""
        if not self._search.traceable:
            state = query.index, query.observation, query.action.detach()
            self._begun = torch.ops.offline_rl.begin_search(*state, self._number, rank)

    def find(self, query: Query, rank: int, after: Tensor | None = None) -> Nearest:
        """Return the k-th nearest rows.

        Args:
            query: Whose.
            rank: k; 1 is the nearest.
            after: What to have before a search that was begun is waited for: a compiled program knows no other order.
        """
        if self._search.traceable:
            return self._search.find(query, rank)
        if self._begun is None:
            self.begin(query, rank)
        begun, self._begun = self._begun, None
        rows, distance, *measured = torch.ops.offline_rl.end_search(begun, query.index, after)
        return Nearest(rows, distance, dict(zip(MEASURED, measured, strict=True)))

    def submit(self, query: Query, rank: int) -> "Future[Nearest]":
        """Search in this process's thread for searches."""
        return _thread().submit(self._search.find, query, rank)


class HostSearch:
    """Search on the CPU, by :class:`offline_rl.neighbors.index.NeighborIndex`."""

    traceable = False

    def __init__(self, columns: Columns, beta: float, method: str, list_length: int) -> None:
        self._count = len(columns.observation)
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

    def find(self, query: Query, rank: int) -> Nearest:
        """See :meth:`NearestRows.find`."""
        begin = time.perf_counter()
        own = torch.where(query.index < self._count, query.index, -1).numpy()
        found = self._index.search(
            own, query.action.detach().float().numpy(), rank, states=query.observation.float().numpy()
        )
        milliseconds = 1e3 * (time.perf_counter() - begin)
        metrics = dict(zip(MEASURED, map(torch.tensor, (milliseconds, found.certified)), strict=True))
        return Nearest(torch.from_numpy(found.index), torch.from_numpy(found.distance), metrics)


class ProductSearch:
    """Search on a GPU: the product of the queries with all rows, tile by tile, never waiting for the device.

    The product, in float64, picks ``rank`` candidates of each tile; direct float64 differences of the float32 keys
    then decide, so the answer is that of :class:`HostSearch`. Only of rows whose keys differ by less than the product's
    rounding, 1e-13, another one may win; where keys are equal, so is the action.
    """

    traceable = True

    def __init__(self, columns: Columns, beta: float, tile: int = TILE) -> None:
        self._scale = torch.tensor(beta, dtype=torch.float32, device=columns.observation.device)
        self._keys = torch.cat((self._scale * columns.observation, columns.action), 1)
        # Centered, because a product loses what the keys have in common.
        self._center = self._keys.double().mean(0)
        self._tiles = [part.double() - self._center for part in torch.split(self._keys, tile)]
        self._norms = [part.square().sum(1) for part in self._tiles]

    def wait(self) -> None:
        """Return at once: nothing is built."""

    def find(self, query: Query, rank: int) -> Nearest:
        """See :meth:`NearestRows.find`."""
        keys = torch.cat((self._scale * query.observation.float(), query.action.detach().float()), 1)
        candidates = self._candidates(keys.double() - self._center, rank)
        squared = torch.zeros(candidates.shape, dtype=torch.float64, device=keys.device)
        # Column after column, as the host's search adds: then equal distances are equal on both.
        for column in range(keys.shape[1]):
            squared = squared + (keys[:, column, None].double() - self._keys[candidates, column].double()).square()
        candidates, order = candidates.sort(dim=1)
        squared, order = squared.gather(1, order).sort(dim=1, stable=True)
        place = order[:, rank - 1, None]
        return Nearest(candidates.gather(1, place)[:, 0], squared[:, rank - 1].sqrt(), {})

    def _candidates(self, query: Tensor, rank: int) -> Tensor:
        """Return ``(B, C)`` rows, among them the ``rank`` nearest of every tile."""
        found, first = [], 0
        for tile, norms in zip(self._tiles, self._norms, strict=True):
            distances = torch.addmm(norms, query, tile.t(), alpha=-2)
            if rank == 1:  # many times as fast as sorting
                found.append(first + distances.argmin(1, keepdim=True))
            else:
                found.append(first + distances.topk(min(rank, len(tile)), dim=1, largest=False).indices)
            first += len(tile)
        return torch.cat(found, 1)


class GrowingSearch:
    """Search among the dataset's rows and those of a replay that grows.

    The replay's rows are searched by a structure that is rebuilt every ``RENEWAL`` rows, the latest by another one,
    made for each search. What is found depends on neither.

    Args:
        offline: The search among the dataset's rows.
        replay: What grows.
        beta: As in :class:`NearestRows`.
    """

    traceable = False

    def __init__(self, offline: Search, replay: Replay, beta: float) -> None:
        self._offline, self._replay, self._beta = offline, replay, beta
        self._count = 0
        self._settled: Search | None = None

    def wait(self) -> None:
        """See :meth:`NearestRows.wait`."""
        self._offline.wait()

    def find(self, query: Query, rank: int) -> Nearest:
        """See :meth:`NearestRows.find`."""
        parts = [_ranks(self._offline, query, rank, 0), *self._online_parts(query, rank)]
        rows, distance = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("rows", "distance"))
        # Stable, and rows are in order: of rows at equal distance the lowest is the nearer.
        place = distance.argsort(dim=1, stable=True)[:, rank - 1, None]
        return Nearest(rows.gather(1, place)[:, 0], distance.gather(1, place)[:, 0], parts[0].metrics)

    def _online_parts(self, query: Query, rank: int) -> Iterator[Nearest]:
        size = len(self._replay.offline)
        online = self._replay.offline.split(self._replay.online())
        total = len(online.observation)
        if total - self._count >= RENEWAL:
            self._count = total // RENEWAL * RENEWAL
            self._settled = self._search(Columns(*(column[: self._count] for column in online)), "tree")
        # To a search among other rows the queries' states are of no row.
        foreign = Query(torch.full_like(query.index, total), query.observation, query.action)
        if self._settled is not None:
            yield _ranks(self._settled, foreign, min(rank, self._count), size)
        if total > self._count:
            latest = self._search(Columns(*(column[self._count :] for column in online)), "brute")
            yield _ranks(latest, foreign, min(rank, total - self._count), size + self._count)

    def _search(self, columns: Columns, method: str) -> Search:
        if columns.observation.device.type != "cpu":
            return ProductSearch(columns, self._beta)
        return HostSearch(columns, self._beta, method, 1)


def _ranks(search: Search, query: Query, count: int, first: int) -> Nearest:
    """Return the ``count`` nearest rows ``(B, count)``, numbered from ``first`` on."""
    found = [search.find(query, rank) for rank in range(1, count + 1)]
    rows, distance = (torch.stack([getattr(part, name) for part in found], 1) for name in ("rows", "distance"))
    return Nearest(first + rows, distance, found[0].metrics)


_asked: list["weakref.ref[NearestRows]"] = []
"""By number, those that searches are asked of: an operation of PyTorch's knows them by a number only."""
_searches: dict[int, "Future[Nearest]"] = {}
_tickets = itertools.count()


def _begin(index: Tensor, observation: Tensor, action: Tensor, asked: int, rank: int) -> Tensor:
    """Return a ticket, with which the search's end is waited for."""
    nearest, ticket = _asked[asked](), next(_tickets)
    assert nearest is not None
    _searches[ticket] = nearest.submit(Query(index, observation, action), rank)
    return torch.tensor(ticket)


def _end(ticket: Tensor, index: Tensor, after: Tensor | None) -> tuple[Tensor, ...]:
    found = _searches.pop(int(ticket)).result()
    return found.rows, found.distance, *(found.metrics[name] for name in MEASURED)


def _end_like(ticket: Tensor, index: Tensor, after: Tensor | None) -> tuple[Tensor, ...]:
    """Return tensors of the result's shapes, for tracing."""
    numbers = (index.new_empty((), dtype=torch.float32) for _ in MEASURED)
    return torch.empty_like(index), index.new_empty(index.shape, dtype=torch.float64), *numbers


# As operations of PyTorch's a search can stand in a program that is traced and compiled.
_operations: Any = torch.library.Library("offline_rl", "FRAGMENT")  # type: ignore[no-untyped-call]
_operations.define("begin_search(Tensor index, Tensor observation, Tensor action, int asked, int rank) -> Tensor")
_operations.define("end_search(Tensor ticket, Tensor index, Tensor? after) -> (Tensor, Tensor, Tensor, Tensor)")
_operations.impl("begin_search", _begin, "CPU")
_operations.impl("end_search", _end, "CPU")
_operations.impl("begin_search", lambda index, *_: index.new_empty((), dtype=torch.int64), "Meta")
_operations.impl("end_search", _end_like, "Meta")


def _thread() -> ThreadPoolExecutor:
    """Return this process's one thread for searches."""
    global _pool  # noqa: PLW0603 (a process has one)
    if _pool is None:
        _pool = ThreadPoolExecutor(1, thread_name_prefix="nearest-rows")
    return _pool


_pool: ThreadPoolExecutor | None = None
