"""Names of the entries of observations and actions: the columns they come from, and by which they can be given.

Data without names counts as if its columns were numbered: ``observation_0``, ``observation_1``, …
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from offline_rl.errors import OfflineRLError

Field = Literal["observation", "action"]
Names = tuple[str, ...]

FIELDS: tuple[Field, Field] = ("observation", "action")
SHOWN = 5
"""Names that a message quotes."""


def key_of(field: Field) -> str:
    """Return under which key the names of a field stand, wherever they are written."""
    return f"{field}_names"


def numbered(field: Field, size: int) -> Names:
    """Return the names that entries without names count as having."""
    return tuple(f"{field}_{place}" for place in range(size))


def checked_names(value: Any, field: Field, size: int, error: type[OfflineRLError], where: str = "") -> Names | None:
    """Return names that somebody gives, or None if there are none.

    Args:
        value: A list of different texts, one for each entry, or the JSON text of it; or None.
        field: What they are the names of.
        size: How many entries there are.
        error: The class of the error.
        where: What the message begins with.

    Raises:
        OfflineRLError: It is no such list.
    """
    if value is None:
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    names = [] if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) else list(value)
    if not names or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise error(f"{where}{key_of(field)} is no list of names; give a text for each of the {size} entries")
    if len(names) != size:
        raise error(f"{where}{key_of(field)} has {len(names)} names for {size} entries; give one for each")
    if twice := _twice(names):
        raise error(f"{where}{key_of(field)} has {quoted(twice)} twice; give each entry a name of its own")
    return tuple(str(name) for name in names)


def labels_of(value: Any) -> list[Any] | None:
    """Return by what labels numbers are given: keys, columns, or an index; None for what is given by place.

    Labels 0, 1, 2, … in their order, which a frame has where nobody gave others, are places.
    """
    if isinstance(value, (np.ndarray, np.void)):
        return list(value.dtype.names) if value.dtype.names else None
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        labels = list(value)
    else:
        # pandas' and polars' frames have columns, pandas' series an index; a list's and a tuple's index is a method.
        found = getattr(value, "columns", None)
        found = getattr(value, "index", None) if found is None or callable(found) else found
        if found is None or callable(found):
            return None
        labels = list(found)
    return None if labels == list(range(len(labels))) and labels else labels


def in_order(  # noqa: PLR0917 (the last two are words of a message)
    value: Any, names: Names, field: Field, error: type[OfflineRLError], what: str, whose: str
) -> Any:
    """Return what is given by name as an array ``(..., size)`` in the order of ``names``; the rest as it is.

    Args:
        value: A mapping of names to numbers or to columns, a frame, a series, a named tuple, a structured array; or
            an array.
        names: What is needed. A name may be given without ``observation_`` or ``action_`` before it.
        field: What it is.
        error: The class of the error.
        what: What the value is called in the message.
        whose: Whose names these are.

    Raises:
        OfflineRLError: A name is missing, unknown, or given twice.
        ValueError: Columns are of different lengths.
    """
    labels = labels_of(value)
    if labels is None:
        return value
    order = places(labels, names, field, error, what, whose)
    if isinstance(value, tuple):
        value = dict(zip(labels, value, strict=True))
    if isinstance(value, (Mapping, np.ndarray, np.void)):
        return np.stack([np.asarray(value[labels[place]]) for place in order], axis=-1)
    return np.asarray(value)[..., order]


def places(  # noqa: PLR0917 (the last two are words of a message)
    labels: Sequence[Any], names: Names, field: Field, error: type[OfflineRLError], what: str, whose: str
) -> list[int]:
    """Return the place among ``labels`` of each of ``names``; see :func:`in_order`."""
    known = set(names)
    full = [label if label in known else f"{field}_{label}" for label in map(_hashable, labels)]
    unknown = [str(label) for label, name in zip(labels, full, strict=True) if name not in known]
    given = set(full)
    missing = [name for name in names if name not in given]
    if missing or unknown:
        faults = [f"has no {quoted(missing)}"] if missing else []
        faults += [f"has {quoted(unknown)}, which {whose} does not have"] if unknown else []
        raise error(f"{what} {' and '.join(faults)}; give {quoted(names)}, or an array in that order")
    if twice := _twice(full):
        raise error(f"{what} has {quoted(twice)} twice; give each name once")
    place = {name: number for number, name in enumerate(full)}
    return [place[name] for name in names]


def quoted(names: Sequence[str]) -> str:
    """Return the first few names, each cut short, for a message."""
    shown = ", ".join(repr(name if len(name) <= 60 else f"{name[:60]}...") for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ... ({len(names)} in all)"


def _hashable(label: Any) -> Any:
    try:
        hash(label)
    except TypeError:
        return str(label)
    return label


def _twice(names: Iterable[Any]) -> list[str]:
    seen: set[Any] = set()
    twice = []
    for name in names:
        if name in seen:
            twice.append(str(name))
        seen.add(name)
    return twice
