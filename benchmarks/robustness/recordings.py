"""Arrays in memory, and HDF5 files in D4RL's layout."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import offline_rl as orl
from benchmarks.robustness.cases import Case
from benchmarks.robustness.damage import damaged
from benchmarks.robustness.forked import second_opinion
from benchmarks.robustness.meaning import FLOAT32_MAX, SAFE, Expected, Meaning, dataset_case, transitions

Fields = dict[str, Any]
MATRICES = ("observations", "actions", "next_observations")
NEEDED = ("observations", "actions", "rewards", "terminated")
FLAGS = ("terminated", "truncated")
TOLERANCE = 1e-4
"""By how much actions may lie outside their bounds; documented."""


def valid_fields(rng: random.Random) -> Fields:
    """Make arrays of a few episodes with nothing wrong in them."""
    generator = np.random.default_rng(rng.randrange(2**32))
    rows, size, actions = rng.randint(8, 40), rng.randint(1, 4), rng.randint(1, 3)
    ends = generator.random(rows) < 0.15
    ends[-1] = True
    cut = generator.random(rows) < 0.3
    kind = rng.choice(["f4", "f8", "f8", "f2"])
    fields: Fields = {
        "observations": generator.normal(0, rng.choice([1, 100]), (rows, size)).astype(kind),
        "actions": generator.uniform(-1, 1, (rows, actions)).astype(kind),
        "rewards": generator.normal(size=rows).astype(kind),
        "terminated": (ends & ~cut).astype(rng.choice(["bool", "u1", "i8", "f4"])),
    }
    if rng.random() < 0.7:
        fields["truncated"] = ends & cut
    if rng.random() < 0.4:
        fields["next_observations"] = generator.normal(size=(rows, size)).astype(kind)
    return fields


def _put(field: str, what: str, *values: float) -> Callable[[random.Random, Fields], str]:
    """Put one of some values in one place of an array."""

    def mutate(rng: random.Random, fields: Fields) -> str:
        name = rng.choice([known for known in fields if re.fullmatch(field, known)] or ["rewards"])
        array = np.array(fields[name], np.float64)
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(values)
        fields[name] = array
        return what

    return mutate


def _changed(field: str, what: str, *changes: Callable[[Any], Any]) -> Callable[[random.Random, Fields], str]:
    """Replace a whole array."""

    def mutate(rng: random.Random, fields: Fields) -> str:
        name = rng.choice([known for known in fields if re.fullmatch(field, known)] or ["rewards"])
        fields[name] = rng.choice(changes)(fields[name])
        return what

    return mutate


def _left_out(rng: random.Random, fields: Fields) -> str:
    del fields[rng.choice(list(fields))]
    return "a field left out"


def _after_an_end(rng: random.Random, fields: Fields) -> str:
    ends = np.flatnonzero(fields["terminated"])
    if not len(ends):
        return "nothing"
    seen = np.array(fields.get("next_observations", fields["observations"]), np.float64)
    seen[ends] = rng.choice([np.nan, np.nan, 0.0])
    fields["next_observations"] = seen
    return "no next observation after an end"


def _masked(rng: random.Random, fields: Fields) -> str:
    name = rng.choice(list(fields))
    array = np.asarray(fields[name])
    mask = np.zeros(array.shape, bool)
    mask.reshape(-1)[rng.randrange(mask.size)] = True
    fields[name] = np.ma.masked_array(array, mask)
    return "a value masked"


def _ragged(value: Any) -> Any:
    rows = np.asarray(value).tolist()
    rows[len(rows) // 2] = [0.0] * 9
    return rows


ANY = ".*"
NUMBERS = "observations|actions|rewards|next_observations"
PLAIN: list[Callable[[random.Random, Fields], str]] = [
    lambda rng, fields: "nothing",
    _put("terminated|truncated", "a flag of another value", -1, 2, 0.5, 255, 1e-9, 1e-46, 1 + 1e-12),
    _put("terminated|truncated", "a flag that is not finite", np.nan, np.inf),
    _changed("terminated|truncated", "flags of -1 and 1", lambda a: np.where(np.asarray(a) > 0, 1, -1)),
    _changed("terminated|truncated", "flags of 0 and 2", lambda a: 2 * np.asarray(a, int)),
    _changed("terminated|truncated", "discounts for flags", lambda a: 0.99 * np.asarray(a, float)),
    _put(NUMBERS, "a value missing", np.nan),
    _put(NUMBERS, "an infinite number", np.inf, -np.inf),
    _put(NUMBERS, "an absurd magnitude", 1e20, -3e38),
    _put(NUMBERS, "beyond single precision", 1e39, -1e300),
    _put(NUMBERS, "a tiny number", 1e-45, 1e-300),
    _put("actions", "an action out of bounds", 1.5, -1.001, 100),
    _changed("observations", "time stamps", lambda a: np.asarray(a, float) + 1.7e9),
    _changed("rewards", "rewards of 1e25", lambda a: np.asarray(a, float) * 1e25),
    _changed(
        ANY, "another shape", lambda a: np.asarray(a)[..., None], lambda a: np.asarray(a).T, lambda a: np.asarray(a)[1:]
    ),
    _changed(ANY, "flat, or one more axis", lambda a: np.asarray(a).ravel(), lambda a: np.asarray(a)[None]),
    _changed(ANY, "no rows", lambda a: np.asarray(a)[:0]),
    _changed(ANY, "a single number", lambda a: np.float64(0)),
    _changed(MATRICES[0], "no columns", lambda a: np.asarray(a)[:, :0]),
    _changed(ANY, "of another type", lambda a: np.asarray(a).astype("c8"), lambda a: np.asarray(a).astype("S3")),
    _changed(ANY, "words", lambda a: np.full(np.shape(a), b"yes")),
    _changed("rewards", "whole numbers", lambda a: np.arange(len(a))),
    _changed("rewards|observations", "large whole numbers", lambda a: np.full(np.shape(a), 2**62)),
    _left_out,
    _after_an_end,
    _after_an_end,
]
IN_MEMORY = [
    _changed(
        ANY,
        "times",
        lambda a: np.asarray(a).astype(int).astype("M8[s]"),
        lambda a: np.asarray(a).astype(int).astype("m8[s]"),
    ),
    _changed(ANY, "objects", lambda a: np.asarray(a).astype(object), lambda a: np.full(np.shape(a), None)),
    _changed(ANY, "words of numbers", lambda a: np.asarray(a).astype(str)),
    _changed(ANY, "lists", lambda a: np.asarray(a).tolist()),
    _changed(ANY, "ragged lists", _ragged),
    _changed(ANY, "no array", lambda a: "abc", lambda a: {}, lambda a: 5, lambda a: iter([1])),
    _masked,
    _masked,
]


def arrays_meaning(fields: Fields, bounds: tuple[Any, ...], *, mode: str = "exact") -> Meaning:
    """Say what arrays mean."""
    meaning = Meaning()
    arrays = {
        name: _array(meaning, name, fields[name]) for name in (*NEEDED, *FLAGS[1:], MATRICES[2]) if name in fields
    }
    for name in NEEDED:
        if name not in arrays:
            meaning.fault("a field is missing", name)
    if meaning.faults:
        return meaning
    rows = len(arrays["observations"])
    if any(len(array) != rows for array in arrays.values()) or rows == 0:
        meaning.fault("fields have other numbers of rows, or none")
    if "next_observations" in arrays and arrays["next_observations"].shape != arrays["observations"].shape:
        meaning.fault("next observations have another shape")
    if meaning.faults:
        return meaning
    ended = arrays["terminated"] == 1
    for name, array in arrays.items():
        _look_at_numbers(meaning, name, array, ended)
    _look_at_bounds(meaning, arrays["actions"], bounds)
    if meaning.faults:
        return meaning
    cut = arrays["truncated"] == 1 if "truncated" in arrays else np.zeros(rows, bool)
    meaning.lenient |= bool((ended & cut).any())
    meaning.data = _selected(arrays, ended, cut, mode)
    if not meaning.data.rewards:
        meaning.fault("no transition is left")
    return meaning


def _array(meaning: Meaning, name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        meaning.fault("it is no array", name)
        return np.zeros(0)
    if isinstance(value, np.ma.MaskedArray) and name == "next_observations":  # which may lack some
        array = value.astype(np.float64).filled(np.nan)
    elif isinstance(value, np.ma.MaskedArray) and value.mask.any():
        meaning.fault("a value is masked", name)
    if (
        array.dtype.kind == "O"
        and array.size
        and all(isinstance(v, (bool, int, float)) for v in array.reshape(-1).tolist())
    ):
        array, meaning.lenient = array.astype(np.float64), True
    if array.dtype.kind not in "biuf":
        meaning.fault("it holds no numbers", name)
        return np.zeros(0)
    if name not in MATRICES and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != (2 if name in MATRICES else 1) or (name in MATRICES and array.shape[1] == 0):
        meaning.fault("it has another shape", name)
        return np.zeros(0)
    meaning.lenient |= array.dtype.kind == "b" and name not in FLAGS
    return array.astype(np.float64)


def _look_at_numbers(meaning: Meaning, name: str, array: np.ndarray, ended: np.ndarray) -> None:
    for row, numbers in enumerate(array.reshape(len(array), -1)):
        if name == "next_observations" and ended[row]:
            # Means nothing: it may be empty, and whatever stands there may be refused if it is no number.
            meaning.lenient |= bool(np.isinf(numbers).any() or (np.abs(numbers) > FLOAT32_MAX).any())
            continue
        if not np.isfinite(numbers).all():
            meaning.fault("a number is not finite", name, row)
        elif (np.abs(numbers) > FLOAT32_MAX).any():
            meaning.fault("a number is too large for single precision", name, row)
        elif name in FLAGS and numbers[0] not in (0, 1):
            meaning.fault("a flag is neither 0 nor 1", name, row)
        meaning.lenient |= bool(((np.abs(numbers) > SAFE) | ((numbers != 0) & (np.abs(numbers) < 1e-30))).any())


def _look_at_bounds(meaning: Meaning, actions: np.ndarray, bounds: tuple[Any, ...]) -> None:
    try:
        with np.errstate(over="ignore"):
            low, high = (np.broadcast_to(np.asarray(bound, np.float32), actions.shape[1:]) for bound in bounds)
    except (TypeError, ValueError):
        meaning.fault("the bounds of actions do not fit")
        return
    if not (np.isfinite(low) & np.isfinite(high)).all() or not (low < high).all():
        meaning.fault("the bounds of actions leave no range")
        return
    for row, action in enumerate(actions):
        if ((action < low - TOLERANCE) | (action > high + TOLERANCE)).any():
            meaning.fault("an action is out of bounds", "actions", row)


def _selected(arrays: Fields, ended: np.ndarray, cut: np.ndarray, mode: str) -> Expected:
    seen = arrays.get("next_observations")
    following = None if seen is None or mode == "d4rl" else seen.tolist()
    given = arrays["observations"].tolist(), arrays["actions"].tolist(), arrays["rewards"].tolist()
    if mode == "exact":
        return transitions(*given, ended.tolist(), (cut & ~ended).tolist(), following)
    data = Expected([], [], [], [], [])
    for row in range(len(ended) - 1):
        if not cut[row]:
            for column, values in zip((data.observations, data.actions, data.rewards), given, strict=True):
                column.append(values[row])
            data.terminated.append(bool(ended[row]))
            data.following.append(None if ended[row] else given[0][row + 1])
    return data


def arrays_case(rng: random.Random, folder: Path) -> Case:
    """Make arrays in memory, with bounds of actions or without."""
    fields, bounds = valid_fields(rng), (-1.0, 1.0)
    kind = rng.choice([*PLAIN, *IN_MEMORY])(rng, fields)
    if kind == "nothing" and rng.random() < 0.8:
        bounds, what = _bounds(rng, fields["actions"])
        kind = f"action_bounds {what}"
    meaning = arrays_meaning(fields, bounds)
    size = sum(np.asarray(value).nbytes for value in fields.values() if isinstance(value, np.ndarray))
    missing = {name: fields.get(name) for name in NEEDED}
    rest = {name: value for name, value in fields.items() if name not in NEEDED}
    return dataset_case(
        "mine",
        kind,
        size,
        meaning,
        lambda: orl.Dataset.from_arrays(**missing, **rest, name="mine", action_bounds=bounds),
        {},
    )


def _bounds(rng: random.Random, actions: np.ndarray) -> tuple[Any, str]:
    low, high = np.full(actions.shape[1], -1.0), np.full(actions.shape[1], 1.0)
    same = high.copy()
    same[rng.randrange(len(same))] = -1.0
    return rng.choice(
        [
            ((low, high), "valid"),
            ((-2, 2), "valid"),
            ((actions.min(0) - 0.1, actions.max(0) + 0.1), "of the data"),
            ((1.0, -1.0), "reversed"),
            ((0.0, 0.0), "constant"),
            ((low, same), "constant in one entry"),
            ((1.0, 1.0 + 1e-9), "constant in single precision"),
            ((float("nan"), 1.0), "not finite"),
            ((-float("inf"), float("inf")), "not finite"),
            ((np.append(low, -1), np.append(high, 1)), "too many"),
            (("low", "high"), "words"),
            ((None, None), "missing"),
            ((-1.0,), "one number"),
            ((-1e300, 1e300), "beyond single precision"),
            ((low[None], high[None]), "of another shape"),
        ]
    )


# HDF5.

LABELS = {"terminated": "terminals", "truncated": "timeouts"}


def hdf5_case(rng: random.Random, folder: Path) -> Case:
    """Make an HDF5 file."""
    import h5py

    fields = valid_fields(rng)
    fields.setdefault("truncated", np.zeros(len(fields["rewards"]), bool))
    kind = rng.choice(PLAIN)(rng, fields)
    path = folder / f"recording{rng.choice(['.hdf5'] * 8 + ['.h5', '.HDF5'])}"
    options = {} if rng.random() < 0.6 else {"compression": "gzip", "chunks": True}
    bounds: Any = (-1.0, 1.0)
    with h5py.File(path, "w", libver=rng.choice(["earliest", "latest"])) as file:
        for name, value in fields.items():
            array = np.asarray(value)
            file.create_dataset(LABELS.get(name, name), data=array, **(options if array.ndim and array.size else {}))
        if kind == "nothing" and rng.random() < 0.5:
            bounds, what = rng.choice(
                [([1.0, -1.0], "reversed"), ([0.0, 0.0], "constant"), ("abc", "words"), ([-2.0, 2.0], "valid")]
            )
            file.attrs["action_bounds"] = bounds
            kind = f"action_bounds {what}"
    content = path.read_bytes()
    whole = rng.random() >= 0.35
    if not whole:
        content, kind = damaged(content, rng)
        path.write_bytes(content)
    mode = rng.choice(["d4rl", "exact", None])
    unused = {"next_observations"} if mode == "d4rl" else set()
    read = second_opinion(lambda: _read(path, unused), whole=whole)
    if isinstance(read, str):
        meaning = Meaning()
        meaning.fault(read)
    else:
        fields, attributes = read
        known = "exact" if mode == "exact" or (mode is None and "next_observations" in fields) else "d4rl"
        if known == "d4rl" and mode == "d4rl":
            fields.pop("next_observations", None)
        meaning = arrays_meaning(fields, attributes.get("action_bounds", (-1.0, 1.0)), mode=known)
        # Where no cuts are recorded they are guessed: not the same for all, but never silent.
        meaning.lenient |= "truncated" not in fields or len(attributes) > ("action_bounds" in attributes)
    return dataset_case(path.name, kind, len(content), meaning, lambda: orl.load_dataset(path, mode), LABELS)


def _read(path: Path, unused: set[str]) -> tuple[Fields, dict[str, Any]]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        keys = {name: LABELS.get(name, name) for name in (*NEEDED, "truncated", "next_observations")}
        found = {name: file[key][()] for name, key in keys.items() if name not in unused and key in file}
        attributes = {}
        for name in file.attrs:
            value = file.attrs[name]
            attributes[name] = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return found, attributes
