"""The rules of B-Pref's scripted teachers, one by one; each test names the mistake that breaks it."""

import numpy as np
import pytest

from offline_rl.errors import DatasetError
from offline_rl.preferences.teacher import TEACHERS, Teacher, standard_teacher

LENGTH = 10
MEAN = 0.5
MARGIN = LENGTH * MEAN


def rewards_of(returns):
    """Rewards ``(N, 2, L)``, the same in each step, of given returns ``(N, 2)``."""
    return np.repeat(np.asarray(returns, float)[..., None] / LENGTH, LENGTH, axis=2)


def random_rewards(count=20_000, seed=0):
    return np.random.default_rng(seed).normal(MEAN, 1, (count, 2, LENGTH))


def test_an_oracle_prefers_the_larger_return():
    rewards = random_rewards()
    returns = rewards.sum(2)
    for beta in (-1.0, 0.0):
        label, probability = Teacher(beta=beta).labels(rewards, MEAN, 0)
        assert np.array_equal(label, (returns[:, 0] < returns[:, 1]).astype(float))
        assert np.array_equal(probability, label)
    assert Teacher().labels(rewards_of([[1, 1]]), MEAN, 0)[0].tolist() == [0]


def test_mistakes_flip_as_many_labels_as_they_should():
    """Broken by a mistake that is drawn with the answer's number, or forgotten in the probability."""
    rewards = random_rewards()
    right = Teacher().labels(rewards, MEAN, 0)[0]
    label, probability = Teacher(mistake=0.1).labels(rewards, MEAN, 0)
    assert abs((label != right).mean() - 0.1) < 3 * np.sqrt(0.1 * 0.9 / len(label))
    assert np.allclose(probability, np.where(right == 1, 0.9, 0.1))
    assert not np.array_equal(label, Teacher(mistake=0.1).labels(rewards, MEAN, 1)[0])


def test_the_last_step_has_the_weight_1():
    """Broken by discounting forwards, or by one power too many."""
    assert np.allclose(Teacher(myopia=0.9).weights(4), [0.9**3, 0.9**2, 0.9, 1])
    assert np.array_equal(Teacher().weights(4), np.ones(4))
    early_or_late = np.zeros((1, 2, LENGTH))
    early_or_late[0, 0, 0], early_or_late[0, 1, -1] = 2, 1
    assert Teacher(myopia=0.9).labels(early_or_late, MEAN, 0)[0].tolist() == [1]
    assert Teacher(myopia=0.99).labels(early_or_late, MEAN, 0)[0].tolist() == [0]


def test_skipping_uses_its_share_of_the_mean_once_and_drops_the_threshold_itself():
    """Broken by a share that is multiplied in twice (0.1 becomes 0.01), and by ``>=`` for ``>``."""
    threshold = 0.25 * MARGIN
    rewards = rewards_of([[0, threshold - 0.01], [threshold, 0], [threshold + 0.01, -9], [-9, 0.25 * threshold + 0.01]])
    teacher = Teacher(skip=0.25)
    for _ in range(2):  # a threshold that shrinks from call to call is the fault of the published code
        assert teacher.answers(rewards, MEAN).tolist() == [False, False, True, False]
    assert Teacher().answers(rewards, MEAN).all()


def test_equality_uses_its_share_of_the_mean_once_and_leaves_out_the_threshold_itself():
    threshold = 0.25 * MARGIN
    rewards = rewards_of([[0, threshold - 0.01], [threshold - 0.01, 0], [0, threshold], [0, 0.25 * threshold]])
    teacher = Teacher(equal=0.25)
    for _ in range(2):
        label, probability = teacher.labels(rewards, MEAN, 0)
        assert label.tolist() == [0.5, 0.5, 1, 0.5]
        assert probability.tolist() == [0.5, 0.5, 1, 0.5]


def test_equality_is_of_undiscounted_returns():
    """Broken by comparing the returns that a myopic teacher sees."""
    rewards = np.zeros((2, 2, LENGTH))
    rewards[0, 0, 0] = rewards[0, 1, -1] = 5.0  # the same returns, but the teacher has forgotten the first
    rewards[1, 0, 0] = 5.0  # different returns, of which the teacher sees 0.05 and 0
    label, _ = Teacher(myopia=0.6, equal=0.1).labels(rewards, MEAN, 0)
    assert label.tolist() == [0.5, 0]


def test_what_is_equal_stays_equal_whatever_is_answered_by_mistake():
    label, _ = Teacher(equal=0.1, mistake=1.0).labels(rewards_of([[1, 1], [0, 4]]), MEAN, 0)
    assert label.tolist() == [0.5, 0]


def test_an_absolute_difference_includes_itself():
    rewards = rewards_of([[0, 10], [0, 10.5], [10, 0]])
    label, _ = Teacher(equal_difference=10).labels(rewards, -1.0, 0)
    assert label.tolist() == [0.5, 1, 0.5]


@pytest.mark.parametrize("scale", ["std", "none"])
def test_answers_follow_the_logistic_function(scale):
    """Broken by a temperature in the wrong unit, or by the probability of the wrong segment."""
    differences, count = np.array([-3.0, -1.0, -0.2, 0.5, 2.0]), 20_000
    rewards = rewards_of(np.stack([np.zeros(5 * count), np.tile(differences, count)], 1))
    teacher = Teacher(beta=1.5, beta_scale=scale)
    label, probability = teacher.labels(rewards, MEAN, 0)
    unit = differences.std() if scale == "std" else 1.0
    expected = 1 / (1 + np.exp(-1.5 * differences / unit))
    assert np.allclose(probability[:5], expected)
    frequency = label.reshape(count, 5).mean(0)
    chi_squared = ((frequency - expected) ** 2 / (expected * (1 - expected) / count)).sum()
    assert chi_squared < 20.52  # the 99.9 % quantile for five frequencies


def test_mistakes_are_part_of_a_noisy_teachers_probability():
    label, probability = Teacher(beta=1.0, mistake=0.2).labels(random_rewards(), MEAN, 0)
    for low in (0.2, 0.4, 0.6):
        bin_ = (probability >= low) & (probability < low + 0.2)
        assert abs(label[bin_].mean() - probability[bin_].mean()) < 4 * 0.5 / np.sqrt(bin_.sum())
    assert probability.min() > 0.2
    assert probability.max() < 0.8


def test_great_differences_do_not_overflow():
    with np.errstate(all="raise"):
        _, probability = Teacher(beta=1e6, beta_scale="none").labels(rewards_of([[0, 1e6], [1e6, 0]]), MEAN, 0)
        _, of_equals = Teacher(beta=1.0).labels(rewards_of([[2, 2], [2, 2]]), MEAN, 0)
    assert probability.tolist() == [1, 0]
    assert of_equals.tolist() == [0.5, 0.5]


def test_labels_are_functions_of_the_seed_and_not_of_how_many_there_are():
    rewards = random_rewards(100)
    teacher = Teacher(beta=1.0, beta_scale="none", mistake=0.1)
    assert np.array_equal(teacher.labels(rewards, MEAN, 3)[0], teacher.labels(rewards, MEAN, 3)[0])
    assert np.array_equal(teacher.labels(rewards[:10], MEAN, 3)[0], teacher.labels(rewards, MEAN, 3)[0][:10])


def test_the_standard_teachers_are_those_of_b_pref():
    assert {name: standard_teacher(name) for name in TEACHERS} == {
        "oracle": Teacher(beta=-1, myopia=1, mistake=0, skip=0, equal=0),
        "mistake": Teacher(beta=-1, mistake=0.1),
        "noisy": Teacher(beta=1, beta_scale="std"),
        "skip": Teacher(beta=-1, skip=0.1),
        "myopic-0.9": Teacher(beta=-1, myopia=0.9),
        "myopic-0.99": Teacher(beta=-1, myopia=0.99),
        "equal": Teacher(beta=-1, equal=0.1),
    }
    with pytest.raises(DatasetError, match="unknown teacher 'orakle'; did you mean oracle"):
        standard_teacher("orakle")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mistake": 1.5}, "mistake is 1.5; it must be at most 1"),
        ({"skip": -0.1}, "skip is -0.1; it must be at least 0"),
        ({"myopia": 0}, "myopia is 0.0; it must be above 0"),
        ({"beta_scale": "raw"}, "beta_scale is 'raw'; it must be one of std, none"),
        ({"beta": float("nan")}, "beta is nan; it must be a finite number"),
        ({"equal": 0.1, "equal_difference": 10}, "both equal and equal_difference"),
    ],
)
def test_settings_without_meaning_are_refused(settings, complaint):
    with pytest.raises(DatasetError, match=complaint):
        Teacher(**settings)


@pytest.mark.parametrize("mean", [0.0, -2.0])
def test_no_threshold_is_made_of_a_mean_reward_that_is_not_positive(mean):
    """A negative threshold would skip nothing, and call nothing equal, without a word."""
    rewards = random_rewards(3)
    with pytest.raises(DatasetError, match="no share makes a threshold"):
        Teacher(skip=0.1).answers(rewards, mean)
    with pytest.raises(DatasetError, match="no share makes a threshold"):
        Teacher(equal=0.1).labels(rewards, mean, 0)
    Teacher().labels(rewards, mean, 0)
