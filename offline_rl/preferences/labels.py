"""Files of preferences that others have published, read safely and checked for themselves.

Two layouts. *Contents*: an ``.npz`` holds observations and actions of both segments of each pair (Inverse Preference
Learning). *Indices*: three pickles hold the rows at which the segments start, and the labels (Preference Transformer,
Uni-RLHF). The indices count the rows of D4RL's ``qlearning_dataset``: load the dataset in the mode "d4rl".

The first was checked against real files. Of the second, the names of files and the meaning of codes are those of the
public repositories (csmile-1006/PreferenceTransformer, pickxiguapi/Clean-Offline-RLHF), but no real file was read.

Everywhere here a label is the preference for the second segment: 1 for the second, 0 for the first, 1/2 for neither.
"""

import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from offline_rl.errors import DatasetError, brief
from offline_rl.preferences import unpickle

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CONTENT_FIELDS = ("obs_1", "obs_2", "action_1", "action_2", "label")

LENGTHS = {"label_human": 100, "human_label": 200, "fake_label": 200}
"""How label files' names begin, and the steps of their segments unless names say otherwise (``_len_200``, ``_q100``).

The first is Preference Transformer's, the other two Uni-RLHF's, of people and of a script.
"""

SIZE_LIMIT = 2 << 30
"""Bytes that all arrays of an ``.npz`` may have together, in single precision at least."""
RATIO_LIMIT, RATIO_BASE = 200, 64 << 20
"""They may have so many times the file's bytes, and so many more: real observations hardly shrink to a half."""


@dataclass(frozen=True, eq=False)
class Contents:
    """Labelled pairs of which the file holds everything.

    Attributes:
        observation: ``(N, 2, L, O)``, raw.
        action: ``(N, 2, L, A)``, as the environment knows them.
        label: ``(N,)``.
    """

    observation: FloatArray
    action: FloatArray
    label: DoubleArray


@dataclass(frozen=True, eq=False)
class Starts:
    """Labelled pairs of segments of a dataset.

    Attributes:
        start: ``(N, 2)``, first rows of both segments.
        label: ``(N,)``.
        length: L, or None where no file's name tells.
        usual_length: L where nothing else is known.
        files: Of first rows and of labels, for error messages.
    """

    start: IntArray
    label: DoubleArray
    length: int | None
    usual_length: int
    files: tuple[Path, Path, Path]


def read(path: Path) -> Contents | Starts:
    """Read a file of contents, or a folder with label and index files (or the label file in it).

    Raises:
        DatasetError: A file is missing, damaged or unsafe, or what it holds is not labelled pairs.
    """
    if path.is_dir():
        return read_starts(_label_file(path))
    if not path.is_file():
        raise DatasetError(f"there are no labels at {path}; give an .npz file, or a folder with labels and indices")
    return read_contents(path) if path.suffix == ".npz" else read_starts(path)


def read_contents(path: Path) -> Contents:
    """Read pairs from an ``.npz`` in the layout of Inverse Preference Learning.

    It holds ``obs_1``, ``obs_2`` ``(N, L, O)``, ``action_1``, ``action_2`` ``(N, L, A)`` and ``label`` ``(N,)``.

    Raises:
        DatasetError: The file is damaged, or a field is missing, misshapen, not numeric, not finite, or no label.
    """
    try:
        with zipfile.ZipFile(path) as file:
            _check_sizes(path, file)
            array = {field: _member(path, file, field) for field in CONTENT_FIELDS}
    except DatasetError:
        raise
    except Exception as error:  # damaged bytes can fail in any way
        raise DatasetError(f"{path} is damaged or no .npz file ({type(error).__name__}); {unpickle.REMEDY}") from error
    label = array["label"].reshape(-1).astype(np.float64)
    for field, other in (("obs_1", "obs_2"), ("action_1", "action_2")):
        shape = array[field].shape
        if len(shape) != 3 or array[other].shape != shape or shape[:2] != array["obs_1"].shape[:2]:
            raise DatasetError(
                f"{path}: '{field}' has shape {shape} and '{other}' has {array[other].shape}; "
                "both need the same pairs, steps and columns"
            )
    pairs, steps = array["obs_1"].shape[:2]
    if steps == 0:
        raise DatasetError(f"{path}: 'obs_1' has no steps; {unpickle.REMEDY}")
    if len(label) != pairs:
        raise DatasetError(f"{path}: 'label' has {len(label)} labels for {pairs} pairs; {unpickle.REMEDY}")
    _require_pairs(path, label)
    _require_labels(path, label, np.isin(label, (0, 0.5, 1)), "0 (first), 1 (second) and 0.5 (equal)")
    return Contents(
        observation=np.stack([array["obs_1"], array["obs_2"]], 1),
        action=np.stack([array["action_1"], array["action_2"]], 1),
        label=label,
    )


def read_starts(label_file: Path) -> Starts:
    """Read pairs from a label file and the two index files beside it.

    Labels are codes ``(N,)``, -1 for equal, or probabilities ``(N, 2)`` of both segments. There may be more indices
    than labels: the labels are those of the first ones.

    Raises:
        DatasetError: A file is missing, damaged or unsafe, or does not hold labels or indices.
    """
    kind = _kind(label_file)
    if kind is None:
        raise DatasetError(
            f"{label_file} is no label file; their names begin with {', '.join(LENGTHS)}, or end in .npz"
        )
    files = (_index_file(label_file, kind, "1"), _index_file(label_file, kind, "2"), label_file)
    label = _labels(label_file)
    indices = [_indices(file, len(label)) for file in files[:2]]
    return Starts(
        start=np.stack(indices, 1),
        label=label,
        length=_length_in_names([file.name for file in files]),
        usual_length=LENGTHS[kind],
        files=files,
    )


def _check_sizes(path: Path, file: zipfile.ZipFile) -> None:
    """Refuse an archive whose arrays are no numbers, or out of all proportion, before one is read."""
    limit, together = min(SIZE_LIMIT, RATIO_LIMIT * path.stat().st_size + RATIO_BASE), 0
    for field in CONTENT_FIELDS:
        try:
            info = file.getinfo(f"{field}.npy")
        except KeyError:
            raise DatasetError(f"{path} has no '{field}'; it needs {', '.join(CONTENT_FIELDS)}") from None
        with file.open(info) as member:
            shape, dtype = _header(member)
        if dtype.kind not in "biuf":
            raise DatasetError(f"{path}: '{field}' holds no numbers but {brief(dtype, 100)}; {unpickle.REMEDY}")
        count = math.prod(shape)
        if min(shape, default=0) < 0 or count * dtype.itemsize > info.file_size:
            declared = brief(count * dtype.itemsize, 30)
            raise DatasetError(f"{path}: '{field}' declares {declared} bytes, more than it has; {unpickle.REMEDY}")
        together += count * max(dtype.itemsize, 4)
        if together > limit:
            raise DatasetError(
                f"{path}: '{field}' declares so much that all arrays come to {together:,} bytes, more than the"
                f" {limit:,} that a file of this size can hold; {unpickle.REMEDY}"
            )


def _member(path: Path, file: zipfile.ZipFile, field: str) -> FloatArray:
    """Read one array of numbers of an archive that :func:`_check_sizes` has seen."""
    with file.open(f"{field}.npy") as member, np.errstate(over="ignore"):  # infinite is refused just below
        numbers = np.lib.format.read_array(member, allow_pickle=False).astype(np.float32)
    if not np.isfinite(numbers).all():
        pair = int(np.argwhere(~np.isfinite(numbers))[0][0])
        raise DatasetError(f"{path}: '{field}' has a number that is not finite in pair {pair}; leave the pair out")
    return numbers


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = read_header[version](member)
    return shape, dtype


def _labels(path: Path) -> DoubleArray:
    codes = unpickle.as_array(unpickle.load(path))
    if codes is None or codes.ndim not in (1, 2) or (codes.ndim == 2 and codes.shape[1] not in (1, 2)):
        raise DatasetError(f"{path} holds no labels: neither codes (N,) nor probabilities (N, 2); {unpickle.REMEDY}")
    label = codes.astype(np.float64)
    _require_pairs(path, label)
    if label.ndim == 2 and label.shape[1] == 2:
        legal = (label >= 0).all(1) & (np.abs(label.sum(1) - 1) <= 1e-6)
        _require_labels(path, label, legal, "two probabilities that add up to 1")
        return label[:, 1]
    label = label.reshape(-1)
    _require_labels(path, label, np.isin(label, (0, 1, -1)), "0 (first), 1 (second) and -1 (equal)")
    return np.where(label == -1, 0.5, label)


def _indices(path: Path, count: int) -> IntArray:
    index = unpickle.as_array(unpickle.load(path))
    if index is None or index.dtype.kind not in "iu":
        raise DatasetError(f"{path} holds no whole numbers, of rows at which segments start; {unpickle.REMEDY}")
    index = index.reshape(-1)
    if len(index) < count:
        raise DatasetError(f"{path} has {len(index)} indices for {count} labels; {unpickle.REMEDY}")
    return index[:count].clip(-1, np.iinfo(np.int64).max).astype(np.int64)


def _require_pairs(path: Path, label: DoubleArray) -> None:
    if len(label) == 0:
        raise DatasetError(f"{path} has no labels; at least one pair is needed")


def _require_labels(path: Path, label: DoubleArray, legal: npt.NDArray[np.bool_], known: str) -> None:
    if not legal.all():
        pair = int(np.argmin(legal))
        raise DatasetError(f"{path}: the label of pair {pair} is {label[pair]}; known are {known}")


def _kind(path: Path) -> str | None:
    return next((kind for kind in LENGTHS if path.name.startswith(kind)), None)


def _label_file(folder: Path) -> Path:
    found = sorted(file for file in folder.iterdir() if _kind(file))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DatasetError(
            f"{folder} needs one label file, whose name begins with {', '.join(LENGTHS)}, but has {names}; "
            "give the path of one"
        )
    return found[0]


def _index_file(label_file: Path, kind: str, segment: str) -> Path:
    """Find the indices that belong to a label file: of the same name, but for its beginning, or the only ones."""
    other = label_file.with_name(label_file.name.replace(kind, f"indices_{segment}", 1))
    if other.is_file():
        return other
    beginnings = ("indices_1", "indices_num") if segment == "1" else ("indices_2",)
    found = sorted(file for file in label_file.parent.iterdir() if file.name.startswith(beginnings))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DatasetError(
            f"{label_file} needs one file of indices beside it, named {' or '.join(beginnings)}..., but there are "
            f"{names}; put each set of labels and its indices into a folder of its own"
        )
    return found[0]


def _length_in_names(names: Sequence[str]) -> int | None:
    found = [match for name in names if (match := re.search(r"_(?:len_|q)(\d{1,6})(?!\d)", name))]
    return int(found[0][1]) if found else None
