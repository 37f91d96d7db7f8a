"""Nearest rows for tensors: what PRDC asks for at every actor update, whatever the device."""

import time

import torch
from torch import Tensor

from offline_rl.data.neighbors import NeighborIndex
from offline_rl.data.packed import PackedRows
from offline_rl.files import cache_folder


class NearestRows:
    """Finds the row whose (β state, action) is the k-th nearest to that of a row's state with another action.

    Agents on the same rows share one structure; searching changes nothing in it.

    Args:
        rows: The dataset.
        beta: Weight of normalised states against actions.
        method: One of :data:`offline_rl.data.neighbors.METHODS`.
        list_length: Candidates kept for each row by the method "lists".
    """

    def __init__(self, rows: PackedRows, beta: float, method: str, list_length: int) -> None:
        columns = rows.columns()
        self._index = rows.shared(
            ("neighbors", beta, method, list_length),
            lambda: NeighborIndex(
                columns.observation.cpu().numpy(),
                columns.action.cpu().numpy(),
                beta,
                method=method,
                lists=list_length,
                cache_dir=cache_folder(),
            ),
        )
        # Training begins on the tree; as lists get done the answers stay the same and come faster.
        self._index.build_lists(background=True)

    def find(self, index: Tensor, action: Tensor, rank: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows found ``(B,)``, and metrics of the search.

        Args:
            index: ``(B,)`` rows whose states are the queries' states.
            action: ``(B, A)`` the queries' actions.
            rank: k; 1 is the nearest.
        """
        begin = time.perf_counter()
        found = self._index.search(index.cpu().numpy(), action.detach().float().cpu().numpy(), rank)
        milliseconds = 1e3 * (time.perf_counter() - begin)
        return torch.from_numpy(found.index).to(index.device), {
            "neighbor_distance": torch.tensor(found.distance.mean()),
            "timing/search_ms": torch.tensor(milliseconds),
            "timing/certified": torch.tensor(found.certified),
        }
