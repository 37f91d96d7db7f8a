"""Two processes that begin the same thing at the same moment: one does it, the other says so, nothing is lost."""

import os
from pathlib import Path

import pytest

from benchmarks.robustness import races


def check(pairs, seed):
    found = races.race(pairs, seed)
    assert [fault for kind in found.values() for fault in kind.failures] == []
    assert sum(kind.pairs for kind in found.values()) == pairs
    return found


@pytest.mark.timeout(200)
def test_two_pairs_have_one_winner_each():
    check(2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pairs_have_one_winner_each():
    """Some must really meet: a loser that only comes when all is over would prove nothing."""
    found = check(int(os.environ.get("OFFLINE_RL_RACES", "12")), seed=0)
    assert sum(kind.met for kind in found.values()) > 0


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ([{"error": "run is in use by another process"}, {"error": "run cannot be written"}], "0 winners"),
        ([{"out": "run"}, {"out": "run"}], "2 winners"),
        ([{"out": "run"}, {"trace": "FileNotFoundError: config.json"}], "FileNotFoundError"),
        ([{"out": "run"}, {"error": "two\nlines"}], "a bad sentence"),
        ([{"out": "run"}, {"error": "run exists"}], "cannot be read"),
    ],
)
def test_a_race_that_ends_badly_is_seen(answers, fault, tmp_path):
    """Fails if the look at what is left cannot fail; here nothing is left at all."""
    assert any(fault in found for found in races._faults("run", Path(tmp_path), answers))
