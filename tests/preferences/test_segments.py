"""Segments stay inside episodes, and are drawn as documented; each test names the mistake that breaks it."""

import numpy as np
import pytest

from offline_rl.data import load_dataset
from offline_rl.draws import Stream
from offline_rl.errors import DatasetError
from offline_rl.preferences.segments import Segments, segment_rows

LENGTHS = [3, 9, 1, 4, 40, 2, 5]
LENGTH = 4


def bounds(lengths=LENGTHS):
    return np.concatenate([[0], np.cumsum(lengths)])


def drawn(count=20_000, seed=0, step=0, lengths=LENGTHS, length=LENGTH):
    return Segments.of(bounds(lengths), length).draw(count, Stream(seed, "test"), step)


def test_segments_never_cross_the_end_of_an_episode_and_reach_every_place():
    """Broken by one start too many or too few, or by rows counted from the wrong episode."""
    rows = drawn()
    assert rows.shape == (20_000, 2, LENGTH)
    assert (np.diff(rows, axis=2) == 1).all()
    episode = np.searchsorted(bounds(), rows, side="right") - 1
    assert (episode == episode[:, :, :1]).all()
    possible = [
        first + start for first, size in zip(bounds()[:-1], LENGTHS, strict=True) for start in range(size - LENGTH + 1)
    ]
    assert np.unique(rows[:, :, 0]).tolist() == possible


def test_episodes_are_equally_likely_and_so_are_the_starts_in_one():
    """Broken by drawing rows, or episodes with a chance that grows with their length."""
    start = drawn()[:, :, 0].reshape(-1)
    counts = np.histogram(start, bounds())[0][np.array(LENGTHS) >= LENGTH]
    expected = len(start) / 4
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected * 0.75)).all()
    inside = start[(start >= bounds()[4]) & (start < bounds()[5])] - bounds()[4]
    chance = 1 / 37
    deviation = np.sqrt(len(inside) * chance * (1 - chance))
    assert (np.abs(np.bincount(inside) - len(inside) * chance) < 4.5 * deviation).all()


def test_the_two_of_a_pair_are_independent():
    first, second = drawn()[:, :, 0].T
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(first))


def test_draws_are_functions_of_seed_and_step_and_not_of_the_count():
    assert np.array_equal(drawn(5), drawn(5))
    assert np.array_equal(drawn(5), drawn(50)[:5])
    assert not np.array_equal(drawn(5), drawn(5, seed=1))
    assert not np.array_equal(drawn(5), drawn(5, step=1))


def test_a_length_that_is_a_whole_episode_leaves_one_start():
    assert np.unique(drawn(100, length=40)[:, :, 0]).tolist() == [bounds()[4]]


def test_the_share_counts_rows_of_episodes_that_are_long_enough():
    assert Segments.of(bounds(), LENGTH).share == (9 + 4 + 40 + 5) / sum(LENGTHS)
    assert Segments.of(bounds(), 1).share == 1


def test_too_long_a_segment_names_the_longest_episode():
    with pytest.raises(DatasetError, match="no episode has 41 rows, the longest has 40"):
        Segments.of(bounds(), 41)
    with pytest.raises(DatasetError, match="must be at least 1"):
        Segments.of(bounds(), 0)


def test_rows_of_known_starts():
    assert segment_rows(np.array([[3, 7]]), 3).tolist() == [[[3, 4, 5], [7, 8, 9]]]


@pytest.mark.slow
def test_long_segments_show_less_of_recorded_data(data_folder):
    dataset = load_dataset(data_folder / "hopper_medium_replay.hdf5", "d4rl")
    short, long = (Segments.of(dataset.episode_bounds, length).share for length in (64, 200))
    lengths = np.diff(dataset.episode_bounds)
    assert long == lengths[lengths >= 200].sum() / len(dataset)
    assert long < 0.8 < short < 1
