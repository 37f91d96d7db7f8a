"""Labelled pairs of segments, from scripted teachers and from published files.

No reward is in them: what a learner sees of the true reward is the labels.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.rules import ACTION_TOLERANCE
from offline_rl.draws import Stream
from offline_rl.errors import DatasetError
from offline_rl.preferences import labels
from offline_rl.preferences.segments import Segments, segment_rows
from offline_rl.preferences.teacher import Teacher

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ROUNDS = 100
"""How many times as many pairs as needed are drawn, at most, for a teacher who skips some."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """N labelled pairs of segments of L steps.

    Attributes:
        observation: ``(N, 2, L, O)`` float32, as networks see them: normalised like the rows.
        action: ``(N, 2, L, A)`` float32 in [-1, 1].
        label: ``(N,)`` float64, preference for the second: 1, 0 for the first, 1/2 for neither, or between.
        probability: ``(N,)`` float64, with which the teacher gives the label 1 (1/2 where it finds both equal), NaN
            where that is not known.
        rows: ``(N, 2, L)`` int64, the segments' rows in the dataset; None where they are not known.
    """

    observation: FloatArray
    action: FloatArray
    label: DoubleArray
    probability: DoubleArray
    rows: IntArray | None

    def __len__(self) -> int:
        return len(self.label)

    def part(self, index: npt.NDArray[np.integer | np.bool_]) -> "Pairs":
        """Return the pairs at ``index`` ``(M,)``, in its order."""
        return Pairs(
            observation=self.observation[index],
            action=self.action[index],
            label=self.label[index],
            probability=self.probability[index],
            rows=None if self.rows is None else self.rows[index],
        )

    def swapped(self) -> "Pairs":
        """Return the same pairs with first and second exchanged."""
        return Pairs(
            observation=self.observation[:, ::-1].copy(),
            action=self.action[:, ::-1].copy(),
            label=1 - self.label,
            probability=1 - self.probability,
            rows=None if self.rows is None else self.rows[:, ::-1].copy(),
        )

    def split(self, share: float, seed: int) -> tuple["Pairs", "Pairs"]:
        """Split at random into pairs to train on and pairs held out, none of which is in both.

        Args:
            share: Of the pairs to hold out, rounded, but at least one pair; 0 for none.
            seed: Which pairs these are.

        Raises:
            DatasetError: No pair is left to train on, or the share is negative.
        """
        count = max(1, round(share * len(self))) if share else 0
        if share < 0 or count >= len(self):
            raise DatasetError(
                f"a share of {share:g} of {len(self)} pairs cannot be held out; some must be left to train on"
            )
        held_out = np.zeros(len(self), bool)
        held_out[Stream(seed, "pairs/held out").at(0).permutation(len(self))[:count]] = True
        return self.part(~held_out), self.part(held_out)

    def shuffled(self, seed: int) -> "Pairs":
        """Return the pairs with each other's labels: a baseline from which nothing can be learned."""
        order = Stream(seed, "pairs/shuffled").at(0).permutation(len(self))
        return replace(self, label=self.label[order], probability=self.probability[order])

    def aligned_to(self, other: "Pairs") -> "Pairs":
        """Return these pairs in the order of ``other``, which holds the same segments with labels of its own.

        Pairs are matched by the rows at which their segments start; two files may hold the same pairs in different
        orders.

        Raises:
            DatasetError: The rows are not known, or not the same pairs are in both.
        """
        if self.rows is None or other.rows is None:
            raise DatasetError("pairs can be matched only by their rows, but a file of contents has none; give indices")
        mine, theirs = self.rows[:, :, 0], other.rows[:, :, 0]
        order, goal = np.lexsort(mine.T[::-1]), np.lexsort(theirs.T[::-1])
        if self.rows.shape != other.rows.shape or not np.array_equal(mine[order], theirs[goal]):
            raise DatasetError(
                f"{len(self)} pairs of {self.rows.shape[2]} steps and {len(other)} of {other.rows.shape[2]} are not "
                "the same segments; compare labels of the same pairs only"
            )
        index = np.empty(len(self), np.int64)
        index[goal] = order
        return self.part(index)


def scripted_pairs(rows: PackedRows, teacher: Teacher, count: int, length: int, seed: int) -> Pairs:
    """Draw pairs of segments and let a scripted teacher label them by the rows' rewards.

    In place of pairs that the teacher skips others are drawn.

    Args:
        rows: The dataset.
        teacher: Who labels.
        count: N.
        length: L.
        seed: Of segments and labels.

    Raises:
        DatasetError: No episode is long enough, the teacher skips almost everything, or its thresholds make no sense
            for these rewards.
    """
    if count < 1:
        raise DatasetError(f"the number of pairs is {count}; it must be at least 1")
    segments, stream = Segments.of(rows.episode_bounds, length), Stream(seed, "pairs/segments")
    reward, mean_reward = _rewards(rows)
    kept: list[IntArray] = []
    missing = count
    for step in range(ROUNDS):
        drawn = segments.draw(count, stream, step)
        kept.append(drawn[teacher.answers(reward[drawn], mean_reward)][:missing])
        missing -= len(kept[-1])
        if not missing:
            break
    else:
        raise DatasetError(
            f"the teacher answers {count - missing} of {ROUNDS * count} pairs drawn and skips the others, but {count} "
            "are needed; lower the teacher's skip, or take longer segments"
        )
    index = np.concatenate(kept)
    unlabelled = np.full(count, np.nan)
    return relabelled(_pairs_of(rows, index, unlabelled), rows, teacher, seed)


def relabelled(pairs: Pairs, rows: PackedRows, teacher: Teacher, seed: int) -> Pairs:
    """Return the same pairs with the labels that a scripted teacher gives them; it skips none.

    Raises:
        DatasetError: The pairs' rows are not known, or the teacher's thresholds make no sense for these rewards.
    """
    if pairs.rows is None:
        raise DatasetError("a teacher needs the pairs' rewards, but a file of contents has no rows; give indices")
    reward, mean_reward = _rewards(rows)
    label, probability = teacher.labels(reward[pairs.rows], mean_reward, seed)
    return replace(pairs, label=label, probability=probability)


def read_pairs(
    path: str | os.PathLike[str], rows: PackedRows, preprocessing: Preprocessing, length: int | None = None
) -> Pairs:
    """Read pairs labelled by people or scripts; see :mod:`offline_rl.preferences.labels` for the layouts.

    Pairs of index files come in the order of their rows, whatever the order in the files.

    Args:
        path: An ``.npz`` file with contents, a folder with index and label files, or the label file in one.
        rows: The dataset; for index files, the one that was labelled, in the mode "d4rl".
        preprocessing: That of the rows.
        length: L, where the file does not tell it; by default 100 for files of Preference Transformer, 200 for
            Uni-RLHF's.

    Raises:
        DatasetError: A file cannot be read safely, does not hold labelled pairs, or does not fit the dataset.
    """
    source = Path(path).expanduser()
    found = labels.read(source)
    own_length = found.length if isinstance(found, labels.Starts) else found.observation.shape[2]
    if length is not None and own_length not in (None, length):
        raise DatasetError(f"{source} has segments of {own_length} steps, not {length}; leave the length out")
    if isinstance(found, labels.Contents):
        return _pairs_from(source, found, rows, preprocessing)
    length = own_length or length or found.usual_length
    _check_starts(found, rows, length)
    order = np.lexsort((found.label, found.start[:, 1], found.start[:, 0]))
    return _pairs_of(rows, segment_rows(found.start[order], length), found.label[order])


def agreement(first: Pairs, second: Pairs, *, strict: bool = True) -> float:
    """Return the share of pairs that have the same label in both, which hold the same pairs in the same order.

    Args:
        first: N pairs.
        second: The same, see :meth:`Pairs.aligned_to`, with other labels.
        strict: Leave out pairs that one of the two calls equal; otherwise equal and not equal disagree. NaN if no pair
            is left.

    Raises:
        DatasetError: The segments are not the same.
    """
    if not (np.array_equal(first.observation, second.observation) and np.array_equal(first.action, second.action)):
        raise DatasetError("labels of different segments cannot agree; bring the pairs into the same order first")
    counted = (first.label != 0.5) & (second.label != 0.5) if strict else np.ones(len(first), bool)
    same = first.label[counted] == second.label[counted]
    return float(same.mean()) if counted.any() else float("nan")


def _rewards(rows: PackedRows) -> tuple[DoubleArray, float]:
    reward = rows.columns().reward.double().cpu().numpy()
    return reward, float(reward.mean())


def _pairs_of(rows: PackedRows, index: IntArray, label: DoubleArray) -> Pairs:
    """Cut the segments of the rows ``index`` ``(N, 2, L)`` out of the dataset."""
    columns, flat = rows.columns(), torch.from_numpy(index.reshape(-1)).to(rows.device)
    observation, action = (
        column.index_select(0, flat).view(*index.shape, -1).cpu().numpy()
        for column in (columns.observation, columns.action)
    )
    return Pairs(observation, action.clip(-1, 1), label, np.full(len(label), np.nan), index)


def _pairs_from(source: Path, found: labels.Contents, rows: PackedRows, preprocessing: Preprocessing) -> Pairs:
    columns = rows.columns()
    for field, array, size in (
        ("obs_1", found.observation, columns.observation.shape[1]),
        ("action_1", found.action, columns.action.shape[1]),
    ):
        if array.shape[3] != size:
            raise DatasetError(
                f"{source}: '{field}' has {array.shape[3]} columns but the dataset has {size}; "
                "take labels of the dataset's own task"
            )
    action = preprocessing.to_network(found.action)
    outside = np.abs(action) > 1 + ACTION_TOLERANCE
    if outside.any():
        pair, segment, step, column = np.argwhere(outside)[0]
        raise DatasetError(
            f"{source}: 'action_{segment + 1}' has {found.action[pair, segment, step, column]:.6g} in pair {pair}, "
            "outside the dataset's action bounds; rescale the actions to these bounds"
        )
    observation = preprocessing.normalized(found.observation)
    return Pairs(observation, action.clip(-1, 1), found.label, np.full(len(found.label), np.nan), None)


def _check_starts(found: labels.Starts, rows: PackedRows, length: int) -> None:
    remedy = "load the dataset that was labelled, in the mode 'd4rl'"
    for file, start in zip(found.files[:2], found.start.T, strict=True):
        outside = (start < 0) | (start >= len(rows))
        if outside.any():
            pair = int(np.argmax(outside))
            raise DatasetError(
                f"{file}: pair {pair} starts at row {start[pair]}, but the dataset has {len(rows)}; {remedy}"
            )
        end = rows.episode_bounds[np.searchsorted(rows.episode_bounds, start, side="right")]
        crosses = start + length > end
        if crosses.any():
            pair = int(np.argmax(crosses))
            raise DatasetError(
                f"{file}: {length} steps from row {start[pair]} (pair {pair}) run into the next episode, which begins "
                f"at row {end[pair]}; {remedy}, or give the segments' true length"
            )
