"""Exact nearest neighbours of state-action pairs among the rows of a dataset, as PRDC needs them at every actor step.

The keys are [β s ; a] of every row, the query is [β s ; π(s)] for a state s that *is* a row's state (Ran et al., 2023,
"Policy Regularization with Dataset Constraint for Offline Reinforcement Learning", arXiv 2306.06569). Hence the row
itself is a candidate at distance ‖π(s) - a‖, and only rows whose states are nearer than that, divided by β, can win. A
list of each row's nearest states, built once per dataset and independent of β, proves most answers after a look at a
few entries; an exact tree answers the rest, and everything until the lists are there. All methods return the same rows.
"""

import hashlib
import json
import tempfile
import threading
import warnings
import weakref
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offline_rl.errors import AgentError, DatasetError

if TYPE_CHECKING:
    from offline_rl.neighbors.kernels import (
        Bool,
        Data,
        Entries,
        Float32,
        Float64,
        Found,
        Int64,
        Lists,
        Queries,
        Tree,
    )

METHODS = ("lists", "tree", "brute", "faiss_flat")
"""Candidate lists and tree; the tree alone; every key, in float64; faiss with its answers verified in float64."""

_FORMAT = 1
_LEAVES_PER_TASK = 16
_FAISS_CANDIDATES = 32


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        index: (B,) the dataset row of each query's k-th nearest key.
        distance: (B,) its Euclidean distance.
        certified: the share of queries whose candidates (list or faiss) were proven to hold the answer.
    """

    index: "Int64"
    distance: "Float64"
    certified: float


class NeighborIndex:
    """Finds the k-th nearest of the keys [β s ; a] of a dataset, exactly.

    Distances are Euclidean and compared in float64 on float32 keys; of rows at equal distance the lowest is the
    nearer. The answer depends neither on the method nor on the number of threads. Packed float32 arrays are not copied:
    they must stay as they are.

    Args:
        states: (N, O) normalised states.
        actions: (N, A) actions as they are.
        beta: scale of the states against the actions; 0 ignores the states.
        method: one of `METHODS`.
        lists: length of the candidate lists, 8 bytes per entry and row; they exist once `build_lists` has made them.
        cache_dir: folder where finished lists are kept and looked for.
        key: what the states are (dataset, normalisation); part of the cache's name, beside a digest of the states.
        threads: how many threads share a batch, and the building of the lists.
    """

    def __init__(
        self,
        states: ArrayLike,
        actions: ArrayLike,
        beta: float,
        *,
        method: str = "lists",
        lists: int = 64,
        cache_dir: Path | None = None,
        key: str = "",
        threads: int = 1,
    ) -> None:
        _check_settings(beta, method, lists, threads)
        states, actions = _check_data(states, actions)
        self._data = _scale(states, actions, np.float32(beta))
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._tree: Tree | None = None
        self._columns: Float32 | None = None
        self._flat: _FaissFlat | None = None
        self._lists: _CandidateLists | None = None
        if method in ("lists", "tree"):
            from offline_rl.neighbors.tree import build_tree

            self._tree = build_tree(self._data.keys)
        else:
            self._columns = np.ascontiguousarray(self._data.keys.T)
        if method == "faiss_flat":
            self._flat = _FaissFlat(self._data.keys)
        if method == "lists":
            self._lists = _CandidateLists(states, min(lists, len(states)), cache_dir, key, threads)
            # Runs when the index is dropped and when the interpreter ends, whichever is first.
            weakref.finalize(self, self._lists.cancel)

    @property
    def listed(self) -> float:
        """The share of rows that have their candidate list."""
        return self._lists.share() if self._lists else 0.0

    def build_lists(self, *, background: bool = False) -> None:
        """Load or build the candidate lists; continue where a cancelled build has stopped.

        Args:
            background: return at once. Meanwhile `search` uses the lists that are done and the tree for the rest.
        """
        if self._lists:
            self._lists.start()
            if not background:
                self._lists.wait()

    def wait_for_lists(self) -> None:
        """Wait for the end of a build in the background; raise what went wrong in it."""
        if self._lists:
            self._lists.wait()

    def cancel_lists(self) -> None:
        """Stop a build in the background; the lists that are done stay in use."""
        if self._lists:
            self._lists.cancel()

    def search(self, rows: ArrayLike, actions: ArrayLike, k: int = 1, states: ArrayLike | None = None) -> SearchResult:
        """Find the k-th nearest key of [β states[rows] ; actions]: the k-th alone, not the k nearest.

        Args:
            rows: (B,) dataset rows whose states are the queries' states; -1 for a state of no row.
            actions: (B, A) the queries' actions.
            k: which neighbour, 1 is the nearest.
            states: (B, O) the queries' states, needed only where there is no row.

        Returns:
            The rows found, their distances, and the share proven by candidates alone.
        """
        from offline_rl.neighbors.kernels import Found

        queries = self._check_query(rows, actions, k, states)
        size = len(queries.rows)
        answers = Found(np.empty(size), np.empty(size, np.int64))
        if self._flat is not None:
            proven = self._search_flat(self._flat, queries, answers)
        elif self._pool is None:
            proven = self._search_part(queries, answers)
        else:
            edges = np.linspace(0, size, self._threads + 1).astype(int)
            parts = [slice(*edge) for edge in pairwise(edges)]
            proven = sum(self._pool.map(lambda part: self._search_part(*_cut(part, queries, answers)), parts))
        return SearchResult(answers.rows, answers.distances, proven / max(size, 1))

    def _search_part(self, queries: "Queries", answers: "Found") -> int:
        """Fill the answers; return how many of them their lists have proven."""
        from offline_rl.neighbors import kernels

        if self._tree is None:
            assert self._columns is not None
            kernels.brute_force(self._columns, queries, answers)
            return 0
        lists = self._lists.of(queries.rows) if self._lists else _no_lists(queries.rows)
        return kernels.search_batch(self._data, self._tree, lists, queries, answers)

    def _search_flat(self, flat: "_FaissFlat", queries: "Queries", answers: "Found") -> int:
        """Take faiss' answers where they are proven and look at every key where they are not."""
        states = self._data.keys[queries.rows, : -queries.actions.shape[1]]
        if len(queries.states):
            states = np.where(queries.rows[:, None] >= 0, states, queries.states)
        proven = flat.search(np.concatenate([states, queries.actions], axis=1), queries.k, answers)
        rest = np.flatnonzero(~proven)
        unproven, found = _cut(rest, queries, answers)
        self._search_part(unproven, found)
        answers.distances[rest], answers.rows[rest] = found
        return int(proven.sum())

    def _check_query(self, rows: ArrayLike, actions: ArrayLike, k: int, states: ArrayLike | None) -> "Queries":
        """Check the queries and pack them as the kernels, which check nothing, need them."""
        from offline_rl.neighbors.kernels import LIMIT, Queries

        rows, actions = np.asarray(rows), np.ascontiguousarray(actions, np.float32)
        size, width = self._data.actions.shape
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise AgentError(f"The rows of a neighbour search must be integers of shape (B,), not {_describe(rows)}.")
        if actions.shape != (len(rows), width):
            raise AgentError(
                f"The actions of a neighbour search must have shape {(len(rows), width)}, not {actions.shape}."
            )
        if not 1 <= k <= size:
            raise AgentError(f"There is no neighbour number {k} among {size} rows; choose k from 1 to {size}.")
        if len(rows) and (rows.min() < (0 if states is None else -1) or rows.max() >= size):
            raise AgentError(f"A neighbour search names a row outside 0 to {size - 1}.")
        if not (np.abs(actions) <= LIMIT).all():
            raise AgentError("The actions of a neighbour search hold NaN or huge values; the policy has diverged.")
        known = states is None or not len(rows) or rows.min() >= 0
        scaled = np.empty((0, 0), np.float32) if known else self._scaled(states, len(rows))
        return Queries(np.ascontiguousarray(rows, np.int64), scaled, actions, k)

    def _scaled(self, states: ArrayLike | None, size: int) -> "Float32":
        """Check the states (B, O) of queries and give them the keys' scale."""
        from offline_rl.neighbors.kernels import LIMIT

        shape = size, self._data.keys.shape[1] - self._data.actions.shape[1]
        scaled: Float32 = np.float32(self._data.beta) * np.ascontiguousarray(states, np.float32)
        if scaled.shape != shape or not (np.abs(scaled) <= LIMIT).all():
            raise AgentError(f"The states of a neighbour search must be finite numbers of shape {shape}.")
        return scaled


class _CandidateLists:
    """The nearest states of every row, each with a lower bound on its distance; built by threads of its own.

    The distance is that of the states without β: one set of lists, and one file, serves all β.

    Args:
        states: (N, O) normalised states.
        size: entries per row, K.
        cache_dir: folder of the finished lists.
        key: what the states are.
        threads: how many threads build.
    """

    def __init__(self, states: "Float32", size: int, cache_dir: Path | None, key: str, threads: int) -> None:
        self._states = states
        self._size = size
        self._path = cache_dir / _cache_name(states, size, key) if cache_dir else None
        self._threads = threads
        self._content: tuple[Entries, Bool] | None = None
        self._stop = threading.Event()
        self._builder: threading.Thread | None = None
        self._error: Exception | None = None

    def of(self, rows: "Int64") -> "Lists":
        """Return the lists, and which of `rows` (B,) have theirs."""
        from offline_rl.neighbors.kernels import Lists

        if self._content is None:
            return _no_lists(rows)
        entries, filled = self._content
        # Read under the interpreter's lock, as it was set: whoever sees True here sees the entries, too.
        return Lists(entries, filled[rows] & (rows >= 0))

    def share(self) -> float:
        """Return the share of rows that have their list."""
        return 0.0 if self._content is None else float(self._content[1].mean())

    def start(self) -> None:
        """Start the builder, unless it runs or has nothing left to do."""
        if (self._builder and self._builder.is_alive()) or self.share() == 1.0:
            return
        self._stop.clear()
        self._error = None
        self._builder = threading.Thread(target=self._run, name="neighbor-lists", daemon=True)
        self._builder.start()

    def wait(self) -> None:
        """Wait for the builder and raise its error, if there was one."""
        if self._builder:
            self._builder.join()
        if self._error:
            raise self._error

    def cancel(self) -> None:
        """Stop the builder and wait until it has."""
        self._stop.set()
        if self._builder:
            self._builder.join()

    def _run(self) -> None:
        """Load, or build and save."""
        try:
            if self._path is None:
                self._build()
            else:
                self._load_or_build(self._path)
        except Exception as error:
            self._fail(error)

    def _load_or_build(self, path: Path) -> None:
        """Take finished lists from the disk; else build them, one process at a time: the others then load them."""
        for _ in _locked(path.with_suffix(".lock"), self._stop):
            cached = _load_lists(path, len(self._states), self._size)
            if cached is not None:
                self._content = cached, np.ones(len(cached), np.bool_)
                return
            self._build()
            if self.share() == 1.0:
                assert self._content is not None
                _save_lists(path, self._content[0])

    def _fail(self, error: Exception) -> None:
        """Keep an error of a builder thread for `wait`, and end the build."""
        self._error = error
        self._stop.set()
        warnings.warn(f"The candidate lists were not built, the search goes on without: {error}", stacklevel=1)

    def _build(self) -> None:
        """Fill the lists of all rows that have none, with `threads` threads."""
        from offline_rl.neighbors.kernels import LIST_ENTRY
        from offline_rl.neighbors.tree import build_tree

        if self._content is None:
            shape = len(self._states), self._size
            self._content = np.empty(shape, LIST_ENTRY), np.zeros(len(self._states), np.bool_)
        entries, filled = self._content
        tree = build_tree(self._states)
        tasks = iter(range(0, len(tree.counts), _LEAVES_PER_TASK))
        lock = threading.Lock()
        helpers = [
            threading.Thread(target=self._work, args=(tree, tasks, lock, entries, filled), daemon=True)
            for _ in range(self._threads - 1)
        ]
        for helper in helpers:
            helper.start()
        self._work(tree, tasks, lock, entries, filled)
        for helper in helpers:
            helper.join()

    def _work(self, tree: "Tree", tasks: Iterator[int], lock: Any, entries: "Entries", filled: "Bool") -> None:
        """Take one group of leaves after the other: neighbours in the tree share what they read."""
        from offline_rl.neighbors.kernels import fill_lists

        while not self._stop.is_set():
            with lock:
                first = next(tasks, None)
            if first is None:
                return
            last = min(first + _LEAVES_PER_TASK, len(tree.counts))
            rows = tree.rows[first:last]
            rows = rows[rows >= 0]
            if filled[rows].all():
                continue
            try:
                fill_lists(tree, first, last, self._states, entries)
            except Exception as error:
                self._fail(error)
                return
            filled[rows] = True


def _locked(path: Path, stop: threading.Event) -> Iterator[None]:
    """Yield once while holding a file lock, or without it where none can be had; not at all if asked to stop before."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    while not stop.is_set():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0.2)
        except Timeout:
            continue
        except OSError:
            yield
            return
        try:
            yield
        finally:
            lock.release()
        return


def _cache_name(states: "Float32", size: int, key: str) -> str:
    """Name a file after everything that changes the lists."""
    content = hashlib.sha256(states.data).hexdigest()
    identity = json.dumps([_FORMAT, key, states.shape, size, content])
    return f"neighbors-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.lists"


def _load_lists(path: Path, rows: int, size: int) -> "Entries | None":
    """Map a file that `_save_lists` wrote, shared by all processes that do; None if it is missing or damaged.

    A mapping keeps the lists out of each process's own memory. The checksum is verified first: a wrong bound would be a
    wrong answer, and a wrong row a read outside the data.
    """
    from offline_rl.neighbors.kernels import LIST_ENTRY

    try:
        length = rows * size * LIST_ENTRY.itemsize
        if path.stat().st_size != length + 4:
            return None
        entries: Entries = np.asarray(np.memmap(path, LIST_ENTRY, "c", shape=(rows, size)))
        checksum = np.fromfile(path, "<u4", 1, offset=length)[0]
    except OSError:
        return None
    intact = zlib.crc32(entries.view(np.uint8).data) == checksum
    return entries if intact and entries["row"].min() >= 0 and entries["row"].max() < rows else None


def _save_lists(path: Path, entries: "Entries") -> None:
    """Write the entries and their checksum under a temporary name, then rename; a full disk is not an error."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(entries.data)
            file.write(zlib.crc32(entries.view(np.uint8).data).to_bytes(4, "little"))
        temporary.replace(path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        warnings.warn(f"The candidate lists could not be kept in {path.parent}: {error}", stacklevel=1)


class _FaissFlat:
    """faiss' exhaustive float32 search; its candidates are measured again in float64 and proven complete, or refused.

    Args:
        keys: (N, D) the keys.
    """

    def __init__(self, keys: "Float32") -> None:
        try:
            import faiss
        except ImportError as error:
            raise AgentError("The method 'faiss_flat' needs faiss: pip install faiss-cpu.") from error
        self._keys = keys
        self._center = keys.mean(0, dtype=np.float64)
        centered = self._centered(keys)
        self._reach = float(np.linalg.norm(centered.astype(np.float64), axis=1).max())
        self._index = faiss.IndexFlatL2(keys.shape[1])
        self._index.add(centered)

    def search(self, queries: "Float32", k: int, answers: "Found") -> "Bool":
        """Fill the answers to queries (B, D); return which of them (B,) are proven.

        Keys that faiss leaves out are no nearer to it than its last candidate. Its ‖q‖² + ‖k‖² - 2 q·k is wrong by at
        most (D + 8) 2u (‖q‖ + ‖k‖)², the rounding of the centered vectors by 2u (‖q‖ + ‖k‖), with u = 2⁻²⁴.
        """
        from offline_rl.neighbors.kernels import EPSILON, TINY

        size, columns = self._keys.shape
        count = min(k + _FAISS_CANDIDATES, size)
        centered = self._centered(queries)
        estimates, candidates = self._index.search(centered, count)
        squared = np.zeros(candidates.shape)
        for column in range(columns):
            difference = queries[:, column, None].astype(np.float64) - self._keys[candidates, column]
            squared += difference * difference
        order = np.lexsort((candidates, squared))[:, k - 1, None]
        answers.rows[:] = np.take_along_axis(candidates, order, 1)[:, 0]
        answers.distances[:] = np.sqrt(np.take_along_axis(squared, order, 1)[:, 0])
        reach = self._reach + np.linalg.norm(centered.astype(np.float64), axis=1)
        outside = np.maximum(estimates[:, -1] - (columns + 8) * EPSILON * reach**2, 0.0)
        proven: Bool = np.sqrt(outside) - EPSILON * reach - TINY > answers.distances * (1 + 1e-9)
        return proven if count < size else np.ones_like(proven)

    def _centered(self, keys: "Float32") -> "Float32":
        centered: Float32 = (keys - self._center).astype(np.float32)
        return centered


def _scale(states: "Float32", actions: "Float32", beta: np.float32) -> "Data":
    """Make the keys [β s ; a] (N, O + A); β times float32 stays float32."""
    from offline_rl.neighbors.kernels import LIMIT, Data

    with np.errstate(over="ignore"):
        keys = np.concatenate([beta * states, actions], axis=1)
    if not (np.abs(keys) <= LIMIT).all():
        raise AgentError(f"beta = {beta} times the states exceeds {LIMIT:g}; choose a smaller beta.")
    return Data(keys, actions, float(beta))


def _no_lists(rows: "Int64") -> "Lists":
    """Stand in for lists where there are none."""
    from offline_rl.neighbors.kernels import LIST_ENTRY, Lists

    return Lists(np.empty((0, 0), LIST_ENTRY), np.zeros(len(rows), np.bool_))


def _cut(part: "slice | Int64", queries: "Queries", answers: "Found") -> "tuple[Queries, Found]":
    """Cut a part out of a batch."""
    from offline_rl.neighbors.kernels import Found, Queries

    states = queries.states[part] if len(queries.states) else queries.states
    return (
        Queries(queries.rows[part], states, queries.actions[part], queries.k),
        Found(answers.distances[part], answers.rows[part]),
    )


def _check_settings(beta: float, method: str, lists: int, threads: int) -> None:
    """Refuse settings that have no exact meaning."""
    if method not in METHODS:
        raise AgentError(f"Unknown search method {method!r}: choose {', '.join(METHODS)}, which are all exact.")
    if not (np.isfinite(beta) and beta >= 0):
        raise AgentError(f"beta must be zero or a positive number, not {beta}.")
    if lists < 1:
        raise AgentError(
            f"The candidate lists need at least one entry, not {lists}; without lists choose method 'tree'."
        )
    if threads < 1:
        raise AgentError(f"The neighbour search needs at least one thread, not {threads}.")


def _check_data(states: ArrayLike, actions: ArrayLike) -> "tuple[Float32, Float32]":
    """Check states (N, O) and actions (N, A) and pack them as float32."""
    from offline_rl.neighbors.kernels import LIMIT

    checked = []
    for name, values in (("states", states), ("actions", actions)):
        array = np.ascontiguousarray(values, np.float32)
        if array.ndim != 2 or not array.size:
            raise DatasetError(f"The {name} of a neighbour index must have shape (N, width), not {array.shape}.")
        if not (np.abs(array) <= LIMIT).all():
            row = int(np.flatnonzero(~(np.abs(array) <= LIMIT).all(1))[0])
            raise DatasetError(f"The {name} of a neighbour index hold NaN or a huge value in row {row}.")
        checked.append(array)
    if len(checked[0]) != len(checked[1]):
        raise DatasetError(f"A neighbour index got {len(checked[0])} states but {len(checked[1])} actions.")
    return checked[0], checked[1]


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
