"""Scripted teachers: made-up people who compare segments by their true rewards, with the faults that people have.

The rules are those of B-Pref (Lee et al., 2021, "B-Pref: Benchmarking Preference-Based Reinforcement Learning"), which
sets its thresholds by the returns of the last training episodes. Offline there are none: the mean reward of the dataset
takes their place, and the temperature is measured in standard deviations of the pairs' return differences, since raw
returns differ by tens to hundreds.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from offline_rl.draws import Stream
from offline_rl.errors import DatasetError, suggestion
from offline_rl.settings import Above, AtLeast, AtMost, Fraction, NonNegative, conform

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Teacher:
    """How a teacher answers; the values given here by default make no mistakes.

    The rules, in this order, for a pair of segments of L steps: it is *skipped* if neither return exceeds the skip
    threshold; the segment with the larger discounted return is preferred, or the second one with the probability
    ``sigmoid(beta * difference / scale)``; by *mistake* the answer is the opposite one; and segments of about *equal*
    returns are given the label 1/2, whatever was answered. Thresholds are shares of L times the mean reward of the
    dataset, each used once; they compare undiscounted returns.
    """

    beta: float = -1.0
    """Inverse temperature of the answers; 0 or less for one who always prefers the larger return."""

    beta_scale: Literal["std", "none"] = "std"
    """Unit of the return differences that ``beta`` multiplies: their standard deviation over the pairs, or none."""

    myopia: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Discount going back from the last step, which has the weight 1; 1 for one who remembers all steps equally."""

    mistake: Fraction = 0.0
    """Probability of giving the opposite answer."""

    skip: NonNegative = 0.0
    """Pairs without a return above this share of the mean are not answered; 0 to answer all."""

    equal: NonNegative = 0.0
    """Returns that differ by less than this share of the mean return are called equal."""

    equal_difference: Annotated[float | None, AtLeast(0)] = None
    """Returns that differ by at most this are called equal, as in Uni-RLHF (10 for 200 steps); instead of ``equal``."""

    def __post_init__(self) -> None:
        conform(self, DatasetError)
        if self.equal and self.equal_difference is not None:
            raise DatasetError("a teacher has both equal and equal_difference; give one of them")

    def answers(self, rewards: npt.ArrayLike, mean_reward: float) -> BoolArray:
        """Say which pairs ``(N,)`` are answered rather than skipped.

        Args:
            rewards: ``(N, 2, L)`` true rewards of the pairs' segments.
            mean_reward: Of all rows of the dataset.

        Raises:
            DatasetError: The mean reward is not positive, and a threshold is to be a share of it.
        """
        reward = np.asarray(rewards, np.float64)
        if not self.skip:
            return np.ones(len(reward), np.bool_)
        return np.asarray(reward.sum(2).max(1) > self._threshold(self.skip, reward.shape[2], mean_reward))

    def labels(self, rewards: npt.ArrayLike, mean_reward: float, seed: int) -> tuple[FloatArray, FloatArray]:
        """Label pairs, answered or not.

        Args:
            rewards: ``(N, 2, L)`` true rewards of the pairs' segments.
            mean_reward: Of all rows of the dataset.
            seed: Of the answers and mistakes.

        Returns:
            Labels ``(N,)``: 1 where the second is preferred, 0 where the first, 1/2 where they are equal; and the
            probabilities ``(N,)`` of the label 1, mistakes included, 1/2 where they are equal.

        Raises:
            DatasetError: The mean reward is not positive, and a threshold is to be a share of it.
        """
        reward = np.asarray(rewards, np.float64)
        returns = (reward * self.weights(reward.shape[2])).sum(2)
        second = self._prefers_second(returns)
        probability = (1 - self.mistake) * second + self.mistake * (1 - second)
        answer = Stream(seed, "teacher/answer").at(0).random(len(reward)) < second
        mistaken = Stream(seed, "teacher/mistake").at(0).random(len(reward)) < self.mistake
        equal = self._equal(reward.sum(2), reward.shape[2], mean_reward)
        return np.where(equal, 0.5, answer != mistaken), np.where(equal, 0.5, probability)

    def weights(self, length: int) -> FloatArray:
        """Return the weights ``(L,)`` of a segment's steps."""
        return np.asarray(self.myopia ** np.arange(length - 1, -1, -1.0))

    def _prefers_second(self, returns: FloatArray) -> FloatArray:
        """Probability ``(N,)`` with which the second of each pair is preferred, mistakes apart."""
        if self.beta <= 0:
            return (returns[:, 0] < returns[:, 1]).astype(np.float64)
        difference = returns[:, 1] - returns[:, 0]
        scale = difference.std() if self.beta_scale == "std" else 1.0
        # The same as a sigmoid, without overflow; of pairs that all differ alike, nothing is known of the scale.
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * self.beta * difference / (scale or 1.0)))

    def _equal(self, returns: FloatArray, length: int, mean_reward: float) -> BoolArray:
        difference = np.abs(returns[:, 1] - returns[:, 0])
        if self.equal_difference is not None:
            return np.asarray(difference <= self.equal_difference)
        if not self.equal:
            return np.zeros(len(returns), np.bool_)
        return np.asarray(difference < self._threshold(self.equal, length, mean_reward))

    @staticmethod
    def _threshold(share: float, length: int, mean_reward: float) -> float:
        if not mean_reward > 0:
            raise DatasetError(
                f"the dataset's mean reward is {mean_reward:.6g}, of which no share makes a threshold; "
                "take a teacher without skip and equal, or give equal_difference"
            )
        return share * length * mean_reward


TEACHERS = {
    "oracle": Teacher(),
    "mistake": Teacher(mistake=0.1),
    "noisy": Teacher(beta=1.0),
    "skip": Teacher(skip=0.1),
    "myopic-0.9": Teacher(myopia=0.9),
    "myopic-0.99": Teacher(myopia=0.99),
    "equal": Teacher(equal=0.1),
}
"""B-Pref's standard teachers. Of a long segment, 0.9 sees only about the last ten steps; 0.99 is ours."""


def standard_teacher(name: str) -> Teacher:
    """Return a standard teacher by its name.

    Raises:
        DatasetError: There is none of that name.
    """
    if name not in TEACHERS:
        near = suggestion(name, TEACHERS)
        raise DatasetError(f"unknown teacher '{name}'{near}; the teachers are {', '.join(TEACHERS)}")
    return TEACHERS[name]
