"""How many kernels an update tells a GPU to run, counted on a CPU."""

import pytest
from helpers.members import CASES, STACKABLE, members

from benchmarks.kernels import kernels_of_update
from offline_rl.neighbors import search
from offline_rl.training.updates.cuda_graph import CapturedUpdates

FIRST = 13
"""Update from which on all of them repeat."""
MOST = {
    "a2pr": 253,
    "awac": 152,
    "bc": 35,
    "bc 0.5": 36,
    "cql": 245,
    "doc": 1295,
    "doc mlp": 469,
    "dt": 369,
    "edac": 247,
    "famo2o": 215,
    "famo2o cql": 508,
    "fql": 230,
    "iql": 174,
    "prdc": 125,
    "rebrac": 140,
    "sac": 188,
    "sac_n": 182,
    "spot": 242,
    "td3_bc": 80,
    "wpc": 127,
}
"""For each algorithm, and the settings that it is tested with; for PRDC on three tiles of rows."""


@pytest.mark.parametrize(("name", "more"), STACKABLE, ids=[" ".join((n, *map(str, m.values()))) for n, m in STACKABLE])
def test_an_update_takes_no_more_kernels_than_it_did(name, more, monkeypatch):
    """Broken by an operation more, or by networks that are worked off one after the other.

    Whoever needs more kernels raises the number here, and says why.
    """
    monkeypatch.setattr(search, "HostSearch", lambda columns, beta, *_: search.ProductSearch(columns, beta, tile=50))
    agents = members(name, more)
    cycle = agents[0].agent.cycle
    counts = kernels_of_update(CapturedUpdates(agents, stacked=True), cycle, FIRST)
    most = MOST[" ".join((name, *map(str, more.values())))]
    assert sum(counts.values()) / cycle <= most, counts.most_common()


def test_every_algorithm_that_is_stacked_is_counted():
    assert set(MOST) == {" ".join((name, *map(str, more.values()))) for name, more in STACKABLE}
    assert len(STACKABLE) < len(CASES)
