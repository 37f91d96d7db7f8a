"""Small problems with finitely many states and actions, in which luck can be distinguished from skill, and their data.

* `bernoulli_bandit`: the better arm is rare in the data, and success says nothing about which arm it was.
* `lucky_arm`: a sure 1 against a rare 10.
* `two_step`: the luck is in the next state, not in the reward.
* `frozen_lake`: slippery steps, epsilon-greedy data.
* `shift_world`, `tie_world`: preferences in a rare good region, or in an easily predicted poor one.

States and actions are seen as one-hot vectors. An action may also be a distribution: what a policy answers is taken as
weights of the actions, negative ones as 0, and one action is drawn by them. So regression on one-hot actions, whose
best answer is the mean, acts as the data did.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.draws import Stream

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Policy = Callable[[NDArray[np.float32], FloatArray], NDArray[Any]]
"""Observations (E, S) and the last rewards (E,), 0 before the first action, to weights of actions (E, A)."""

LAKE = "SFFF", "FHFH", "FFFH", "HFFG"
"""Gymnasium's map of FrozenLake-v1: start, frozen, hole, goal."""
DIRECTIONS = (0, -1), (1, 0), (0, 1), (-1, 0)
"""Rows and columns of its four actions: left, down, right, up."""
STANDARD_CONTROL = 1 / 3
"""Probability of the intended direction on Gymnasium's slippery lake."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """E episodes of at most T steps.

    Attributes:
        state: (E, T); this and all others are 0 after the end.
        action: (E, T).
        reward: (E, T).
        next_state: (E, T).
        terminated: (E, T) bool.
        mask: (E, T) bool, True before it.
    """

    state: IntArray
    action: IntArray
    reward: FloatArray
    next_state: IntArray
    terminated: NDArray[np.bool_]
    mask: NDArray[np.bool_]

    @property
    def returns(self) -> FloatArray:
        """Undiscounted return of each episode (E,)."""
        total: FloatArray = self.reward.sum(1)
        return total


@dataclass(frozen=True, eq=False)
class FiniteProblem:
    """A problem with S states, A actions and at most K outcomes of each pair, and how its data is collected.

    Attributes:
        name: What to call it.
        start: (S,), probability of each first state.
        probability: (S, A, K), of the outcomes; they add up to 1.
        reward: (S, A, K).
        next_state: (S, A, K).
        terminated: (S, A, K) bool, the episode ends with this outcome.
        time_limit: T, steps after which an episode is cut.
        behavior: (S, A), probability of each action when data is collected.
    """

    name: str
    start: FloatArray
    probability: FloatArray
    reward: FloatArray
    next_state: IntArray
    terminated: NDArray[np.bool_]
    time_limit: int
    behavior: FloatArray

    @property
    def state_count(self) -> int:
        """S."""
        return int(self.probability.shape[0])

    @property
    def action_count(self) -> int:
        """A."""
        return int(self.probability.shape[1])

    def play(self, policy: Policy, episodes: int, seed: int) -> Episodes:
        """Play episodes in lock-step; what happens in one depends on the seed and its number, not on the others.

        Args:
            policy: Answers for all episodes at once, ended ones included.
            episodes: E.
            seed: Decides first states, actions and outcomes.
        """
        luck = Stream(seed, f"finite/{self.name}")
        shape = episodes, self.time_limit
        uniform = np.stack([luck.at(episode).random((self.time_limit + 1, 2)) for episode in range(episodes)], 1)
        state = _pick(np.broadcast_to(self.start, (episodes, self.state_count)), uniform[-1, :, 0])
        kinds: list[Any] = [np.int64, np.int64, np.float64, np.int64, np.bool_, np.bool_]
        columns: list[Any] = [np.zeros(shape, kind) for kind in kinds]
        running, reward = np.ones(episodes, bool), np.zeros(episodes)
        for time in range(self.time_limit):
            weights = np.asarray(policy(self.one_hot(state, self.state_count), reward), np.float64)
            action = _pick(weights, uniform[time, :, 0])
            outcome = _pick(self.probability[state, action], uniform[time, :, 1])
            chosen = state, action, outcome
            reward = np.where(running, self.reward[chosen], 0.0)
            now = state, action, reward, self.next_state[chosen], self.terminated[chosen], running
            for column, value in zip(columns, now, strict=True):
                column[running, time] = value[running]
            running = running & ~self.terminated[chosen]
            state = np.where(running, self.next_state[chosen], state)
            if not running.any():
                break
        return Episodes(*columns)

    def collect(self, episodes: int, seed: int) -> Episodes:
        """Play episodes as the data is collected."""
        return self.play(lambda observation, _: observation @ self.behavior, episodes, seed)

    def columns(self, episodes: Episodes) -> dict[str, NDArray[Any]]:
        """Return what `Dataset.from_arrays` takes: all steps, episode after episode, one-hot."""
        mask = episodes.mask
        last = np.zeros_like(mask)
        last[:, -1] = True
        return {
            "observations": self.one_hot(episodes.state[mask], self.state_count),
            "actions": self.one_hot(episodes.action[mask], self.action_count),
            "rewards": episodes.reward[mask],
            "terminated": episodes.terminated[mask],
            "truncated": (last & ~episodes.terminated)[mask],
            "next_observations": self.one_hot(episodes.next_state[mask], self.state_count),
        }

    def value(self, policy: FloatArray) -> float:
        """Return the exact expected return of a policy (S, A) within the time limit."""
        value = np.zeros(self.state_count)
        for _ in range(self.time_limit):
            value = (policy * self._values_of_actions(value, 1.0)).sum(1)
        return float(self.start @ value)

    def optimal(self, discount: float = 0.99, tolerance: float = 1e-12) -> FloatArray:
        """Return the best policy (S, A), deterministic, the first of equally good actions, by value iteration."""
        value, change = np.zeros(self.state_count), np.inf
        while change > tolerance:
            better = self._values_of_actions(value, discount).max(1)
            value, change = better, np.abs(better - value).max()
        # Rounded, so that the last bits do not decide between actions of equal value.
        best = self._values_of_actions(value, discount).round(9).argmax(1)
        policy: FloatArray = np.eye(self.action_count)[best]
        return policy

    def _values_of_actions(self, value: FloatArray, discount: float) -> FloatArray:
        onward = np.where(self.terminated, 0.0, discount * value[self.next_state])
        values: FloatArray = (self.probability * (self.reward + onward)).sum(2)
        return values

    @staticmethod
    def one_hot(number: IntArray, count: int) -> NDArray[np.float32]:
        """Return the vectors (..., count) of numbers (...)."""
        return np.eye(count, dtype=np.float32)[number]


def bernoulli_bandit(p: float) -> FiniteProblem:
    """Return two arms with one pull: arm 0 pays 1 with probability p, arm 1 with 1 - p; data pulls arm 1 with p.

    Then P(arm 1 | paid) = 1/2 for every p: imitation of successes learns nothing about the arms.
    """
    pays = np.array([p, 1 - p])
    return _one_pull(f"bernoulli-bandit-{p:g}", pays, np.ones(2), np.array([1 - p, p]))


def lucky_arm(p: float = 0.05, prize: float = 10.0, sure: float = 1.0) -> FiniteProblem:
    """Return two arms with one pull: arm 0 pays the prize with probability p, arm 1 always the sure sum."""
    return _one_pull(f"lucky-arm-{p:g}-{prize:g}", np.array([p, 1.0]), np.array([prize, sure]), np.full(2, 0.5))


def _one_pull(name: str, probability: FloatArray, pays: FloatArray, behavior: FloatArray) -> FiniteProblem:
    return FiniteProblem(
        name,
        start=np.ones(1),
        probability=np.stack([1 - probability, probability], 1)[None],
        reward=np.stack([np.zeros(2), pays], 1)[None],
        next_state=np.zeros((1, 2, 2), np.int64),
        terminated=np.ones((1, 2, 2), bool),
        time_limit=1,
        behavior=behavior[None],
    )


def two_step() -> FiniteProblem:
    """Return a problem whose luck shows in the next state only.

    In state 0, action 0 leads to the lucky state 1 (10 %) or to state 2, action 1 to state 3; this pays nothing. Then
    any action ends the episode and pays 10, 0 or 2, by the state. Data has both first actions evenly, then action 0.
    """
    probability, reward = np.zeros((4, 2, 2)), np.zeros((4, 2, 2))
    next_state, terminated = np.zeros((4, 2, 2), np.int64), np.ones((4, 2, 2), bool)
    probability[..., 0] = 1
    probability[0, 0] = 0.1, 0.9
    next_state[0] = [[1, 2], [3, 3]]
    terminated[0] = False
    next_state[1:] = np.arange(1, 4)[:, None, None]
    reward[1:] = np.array([10.0, 0.0, 2.0])[:, None, None]
    start, behavior = np.eye(4)[0], np.eye(2)[[0, 0, 0, 0]]
    behavior[0] = 0.5
    return FiniteProblem(
        "two-step", start, probability, reward, next_state, terminated, time_limit=2, behavior=behavior
    )


def frozen_lake(control: float = STANDARD_CONTROL, epsilon: float = 0.4) -> FiniteProblem:
    """Return Gymnasium's 4×4 lake with a chosen slip, and epsilon-greedy data.

    The greedy policy is the best one for the standard lake (discount 0.99), found by value iteration, whatever the
    slip: data of the same person on another lake.

    Args:
        control: Probability of moving where one wants; else one slips to either side, with equal probability.
        epsilon: Share of the data's actions that are drawn evenly.
    """
    lake = _lake(control, np.full((16, 4), 0.25), f"frozen-lake-{control:.3g}-{epsilon:g}")
    greedy = lake.optimal() if control == STANDARD_CONTROL else _lake(STANDARD_CONTROL, lake.behavior, "").optimal()
    return _lake(control, (1 - epsilon) * greedy + epsilon / 4, lake.name)


def _lake(control: float, behavior: FloatArray, name: str) -> FiniteProblem:
    tiles = "".join(LAKE)
    size = len(LAKE)
    next_state = np.zeros((len(tiles), 4, 3), np.int64)
    for state in range(len(tiles)):
        for action in range(4):
            for outcome, turn in enumerate((0, -1, 1)):
                step = DIRECTIONS[(action + turn) % 4]
                row, column = np.clip(np.array(divmod(state, size)) + step, 0, size - 1)
                next_state[state, action, outcome] = row * size + column
    tile = np.array(list(tiles))
    return FiniteProblem(
        name,
        start=(tile == "S").astype(float),
        probability=np.broadcast_to([control, (1 - control) / 2, (1 - control) / 2], next_state.shape).copy(),
        reward=(tile[next_state] == "G").astype(float),
        next_state=next_state,
        terminated=np.isin(tile[next_state], ["G", "H"]),
        time_limit=100,
        behavior=behavior,
    )


def shift_world() -> FiniteProblem:
    """Return two regions, entered at once and for good, of which the better one is rare in the data.

    In state 0 actions 0 and 1 lead to regions A and B, states 1 and 2, and pay nothing. There actions 0 and 1 are
    x = -1 and 1: A pays -x/2, B pays 0.6 + x/2. A reward that is one slope of x for both regions has to choose.
    """
    return _regions("shift-world", np.array([[0.5, -0.5], [0.1, 1.1]]), 0.15)


def tie_world() -> FiniteProblem:
    """Return the same with even regions: A pays -x, B pays 1.5 for either x, so that comparisons within B are ties."""
    return _regions("tie-world", np.array([[1.0, -1.0], [1.5, 1.5]]), 0.5)


def _regions(name: str, pays: FloatArray, second: float) -> FiniteProblem:
    """Two regions that pay (2, 2) by region and action, the second being this likely in the data."""
    return FiniteProblem(
        name,
        start=np.eye(3)[0],
        probability=np.ones((3, 2, 1)),
        reward=np.concatenate([np.zeros((1, 2)), pays])[:, :, None],
        next_state=np.array([[1, 2], [1, 1], [2, 2]])[:, :, None],
        terminated=np.zeros((3, 2, 1), bool),
        time_limit=6,
        behavior=np.array([[1 - second, second], [0.5, 0.5], [0.5, 0.5]]),
    )


def _pick(weights: NDArray[Any], uniform: FloatArray) -> IntArray:
    """Draw a column of each row of ``weights`` (E, N), as the numbers (E,) from U[0, 1) say; evenly if all are 0."""
    positive = np.clip(weights, 0.0, None)
    positive = np.where(positive.sum(1, keepdims=True) > 0, positive, 1.0)
    bounds = positive.cumsum(1)
    chosen = (bounds <= (uniform * bounds[:, -1])[:, None]).sum(1)
    return np.asarray(np.minimum(chosen, weights.shape[1] - 1), np.int64)
