"""Pairs hold the dataset's own rows and the teacher's labels; each test names the mistake that breaks it."""

import numpy as np
import pytest
from helpers.datasets import episodic_dataset

from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import DatasetError
from offline_rl.preferences.pairs import Pairs, agreement, relabelled, scripted_pairs
from offline_rl.preferences.teacher import Teacher

LENGTHS = [3, 20, 12, 50, 5]
LENGTH = 6
FIELDS = ("observation", "action", "label", "probability", "rows")


@pytest.fixture
def dataset():
    return episodic_dataset(LENGTHS, action_limit=2)


@pytest.fixture
def preprocessing(dataset):
    return Preprocessing.fit(dataset, normalize=True)


@pytest.fixture
def rows(dataset, preprocessing):
    return PackedRows.of(dataset, preprocessing)


def assert_same(first, second):
    for field in FIELDS:
        assert np.array_equal(getattr(first, field), getattr(second, field), equal_nan=field == "probability"), field


def test_pairs_are_the_datasets_rows_as_networks_see_them(dataset, preprocessing, rows):
    """Broken by raw observations, by environment actions, or by rows of another segment."""
    pairs = scripted_pairs(rows, Teacher(), 300, LENGTH, seed=0)
    assert len(pairs) == 300
    assert pairs.observation.shape == (300, 2, LENGTH, 4)
    assert pairs.observation.dtype == pairs.action.dtype == np.float32
    assert pairs.label.dtype == pairs.probability.dtype == np.float64
    assert np.array_equal(pairs.observation, preprocessing.normalized(dataset.observations)[pairs.rows])
    assert np.array_equal(pairs.action, preprocessing.to_network(dataset.actions)[pairs.rows])
    assert np.abs(pairs.action).max() <= 1


def test_labels_say_which_returns_are_larger_and_segments_stay_in_their_episodes(dataset, rows):
    pairs = scripted_pairs(rows, Teacher(), 300, LENGTH, seed=0)
    returns = dataset.rewards.astype(np.float64)[pairs.rows].sum(2)
    assert np.array_equal(pairs.label, (returns[:, 1] > returns[:, 0]).astype(float))
    episode = np.searchsorted(dataset.episode_bounds, pairs.rows, side="right")
    assert (episode == episode[:, :, :1]).all()


def test_pairs_are_functions_of_the_seed(rows):
    teacher = Teacher(beta=1.0)
    assert_same(scripted_pairs(rows, teacher, 50, LENGTH, seed=1), scripted_pairs(rows, teacher, 50, LENGTH, seed=1))
    other = scripted_pairs(rows, teacher, 50, LENGTH, seed=2)
    assert not np.array_equal(scripted_pairs(rows, teacher, 50, LENGTH, seed=1).rows, other.rows)


def test_pairs_that_are_skipped_are_replaced(dataset, rows):
    """Broken by fewer pairs than asked for, or by keeping what the teacher skips."""
    teacher, mean = Teacher(skip=1.0), float(dataset.rewards.astype(np.float64).mean())
    pairs = scripted_pairs(rows, teacher, 200, LENGTH, seed=0)
    assert len(pairs) == 200
    assert (dataset.rewards.astype(np.float64)[pairs.rows].sum(2).max(1) > LENGTH * mean).all()
    every = scripted_pairs(rows, Teacher(), 200, LENGTH, seed=0)
    kept = teacher.answers(dataset.rewards[every.rows], mean)
    assert 0 < kept.sum() < 200
    assert np.array_equal(pairs.rows[: kept.sum()], every.rows[kept])


def test_a_teacher_who_skips_everything_is_refused(rows):
    with pytest.raises(DatasetError, match=r"answers 0 of 500 pairs drawn .* lower the teacher's skip"):
        scripted_pairs(rows, Teacher(skip=1000.0), 5, LENGTH, seed=0)
    with pytest.raises(DatasetError, match="number of pairs is 0"):
        scripted_pairs(rows, Teacher(), 0, LENGTH, seed=0)
    with pytest.raises(DatasetError, match="the longest has 50"):
        scripted_pairs(rows, Teacher(), 5, 51, seed=0)


def test_true_rewards_do_not_come_with_the_labels(dataset, preprocessing, rows):
    """What a learner gets is the same after the rewards are gone, and has no place for them."""
    pairs = scripted_pairs(rows, Teacher(beta=1.0), 50, LENGTH, seed=0)
    before = {field: getattr(pairs, field).copy() for field in FIELDS}
    rows.columns().reward[:] = float("nan")
    for field in FIELDS:
        assert np.array_equal(getattr(pairs, field), before[field]), field
        assert not np.isnan(getattr(pairs, field)).any(), field
    assert tuple(vars(pairs)) == FIELDS


def test_the_hold_out_is_random_and_apart(rows):
    """Broken by holding out the last pairs, or pairs that are trained on too."""
    pairs = scripted_pairs(rows, Teacher(), 200, LENGTH, seed=0)
    numbered = Pairs(**{**vars(pairs), "label": np.arange(200.0)})
    training, held_out = numbered.split(0.1, seed=0)
    assert (len(training), len(held_out)) == (180, 20)
    assert sorted([*training.label, *held_out.label]) == list(range(200))
    assert held_out.label.min() < 100 < held_out.label.max()
    assert np.array_equal(held_out.rows, pairs.rows[held_out.label.astype(int)])
    assert_same(held_out, numbered.split(0.1, seed=0)[1])
    assert not np.array_equal(held_out.label, numbered.split(0.1, seed=1)[1].label)


def test_a_hold_out_has_a_pair_at_least_and_leaves_one(rows):
    pairs = scripted_pairs(rows, Teacher(), 3, LENGTH, seed=0)
    assert [len(part) for part in pairs.split(0.1, seed=0)] == [2, 1]
    assert [len(part) for part in pairs.split(0.0, seed=0)] == [3, 0]
    for share in (1.0, 1.5, -1.0):
        with pytest.raises(DatasetError, match="cannot be held out"):
            pairs.split(share, seed=0)


def test_swapping_exchanges_segments_and_labels(rows):
    pairs = scripted_pairs(rows, Teacher(beta=1.0), 50, LENGTH, seed=0)
    swapped = pairs.swapped()
    assert np.array_equal(swapped.observation[:, 0], pairs.observation[:, 1])
    assert np.array_equal(swapped.action[:, 1], pairs.action[:, 0])
    assert np.array_equal(swapped.rows[:, 0], pairs.rows[:, 1])
    assert np.array_equal(swapped.label, 1 - pairs.label)
    assert np.array_equal(swapped.probability, 1 - pairs.probability)
    again = swapped.swapped()
    assert np.array_equal(again.observation, pairs.observation)
    assert np.allclose(again.probability, pairs.probability)


def test_shuffled_labels_are_the_same_labels_elsewhere(rows):
    """Broken by moving the segments along with their labels, or labels without their probabilities."""
    pairs = scripted_pairs(rows, Teacher(beta=1.0), 200, LENGTH, seed=0)
    shuffled = pairs.shuffled(seed=0)
    assert np.array_equal(shuffled.observation, pairs.observation)
    assert not np.array_equal(shuffled.label, pairs.label)
    before, after = (sorted(zip(part.label, part.probability, strict=True)) for part in (pairs, shuffled))
    assert before == after
    assert abs(agreement(pairs, shuffled) - 0.5) < 4 * 0.5 / np.sqrt(200)


def test_pairs_are_matched_by_their_rows_and_not_by_their_places(rows):
    pairs = scripted_pairs(rows, Teacher(beta=1.0), 100, LENGTH, seed=0)
    order = np.random.default_rng(0).permutation(100)
    others = relabelled(pairs.part(order), rows, Teacher(), seed=0)
    aligned = others.aligned_to(pairs)
    assert np.array_equal(aligned.rows, pairs.rows)
    assert np.array_equal(aligned.observation, pairs.observation)
    assert np.array_equal(aligned.label, relabelled(pairs, rows, Teacher(), seed=0).label)
    with pytest.raises(DatasetError, match="same order first"):
        agreement(pairs, others)


def test_pairs_that_are_not_the_same_are_not_matched(rows):
    pairs = scripted_pairs(rows, Teacher(), 20, LENGTH, seed=0)
    without_rows = Pairs(**{**vars(pairs), "rows": None})
    for other in (scripted_pairs(rows, Teacher(), 20, LENGTH, seed=1), pairs.part(np.arange(19)), pairs.swapped()):
        with pytest.raises(DatasetError, match="not the same segments"):
            other.aligned_to(pairs)
    with pytest.raises(DatasetError, match="matched only by their rows"):
        pairs.aligned_to(without_rows)
    with pytest.raises(DatasetError, match="has no rows"):
        relabelled(without_rows, rows, Teacher(), seed=0)


def test_agreement_counts_pairs_that_both_decide(rows):
    pairs = scripted_pairs(rows, Teacher(), 4, LENGTH, seed=0)
    first = Pairs(**{**vars(pairs), "label": np.array([0, 1, 0.5, 0.5])})
    second = Pairs(**{**vars(pairs), "label": np.array([0, 0, 0.5, 1])})
    assert agreement(first, second) == 1 / 2
    assert agreement(first, second, strict=False) == 2 / 4
    undecided = Pairs(**{**vars(pairs), "label": np.full(4, 0.5)})
    assert np.isnan(agreement(first, undecided))
