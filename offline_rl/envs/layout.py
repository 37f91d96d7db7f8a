"""How an observation that is a dictionary or a tuple becomes one vector, and how the vector's entries are called.

An environment with goals observes a dictionary, such as ``{"observation": (27,), "achieved_goal": (2,), "desired_goal":
(2,)}``. Networks, datasets and files here hold one vector. The order of the parts is the same everywhere:

1. ``achieved_goal``: where the agent is;
2. all other keys, by their names; the items of a tuple by their numbers;
3. ``desired_goal``: where it should be.

This holds at each level of a nested observation. So AntMaze (v3 and v4) is position, joints and velocities, goal: its
first 29 numbers are in the order of D4RL's AntMaze.

An entry is called by the keys that lead to it and its place: ``observation.3``, ``desired_goal.kettle.6``. The names
say all that is known here, so nothing else is stored with datasets and agents: see :meth:`Layout.of_names`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST, LAST = "achieved_goal", "desired_goal"
"""Keys that go before, and after, all others."""
MOST_ENTRIES = 100_000
"""Numbers that an observation may have."""
_NAME = re.compile(r"(.+)\.(0|[1-9]\d*)", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """One box of a nested observation.

    Attributes:
        path: The keys that lead to it, the outermost first; the number of a tuple's item is one, too.
        size: Its numbers.
    """

    path: tuple[str, ...]
    size: int

    @property
    def name(self) -> str:
        """The path as one text, with dots."""
        return ".".join(self.path)

    def of(self, observation: Any) -> Any:
        """Return this part of an observation.

        Raises:
            KeyError: A key is missing.
        """
        for key in self.path:
            if isinstance(observation, Mapping):
                observation = observation[key]
            elif isinstance(observation, tuple | list) and key.isdecimal() and int(key) < len(observation):
                observation = observation[int(key)]
            else:
                raise KeyError(self.name)
        return observation


@dataclass(frozen=True)
class Layout:
    """The parts of an observation, in the order in which they stand in its vector.

    Attributes:
        parts: At least one.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of_space(cls, space: Any) -> "Layout | None":
        """Return the layout of one of Gymnasium's spaces; None for a vector, which needs none.

        Raises:
            ValueError: It holds something else than vectors of numbers; the message says what.
        """
        if _is_vector(space):
            return None
        layout = cls(tuple(_parts_of(space, ())))
        if not layout.parts:
            raise ValueError("an empty observation")
        return layout

    @classmethod
    def of_names(cls, names: Sequence[str] | None) -> "Layout | None":
        """Return the layout whose entries have these names; None if they are not the names of a layout."""
        parts: list[Part] = []
        place = 0
        for name in names or ():
            found = _NAME.fullmatch(name)
            if found is None:
                return None
            path = tuple(found[1].split("."))
            if int(found[2]) == 0:
                parts.append(Part(path, 0))
                place = 0
            if not parts or parts[-1].path != path or int(found[2]) != place:
                return None
            place += 1
            parts[-1] = Part(path, place)
        unique = len({part.path for part in parts}) == len(parts)
        return cls(tuple(parts)) if parts and unique else None

    @property
    def names(self) -> tuple[str, ...]:
        """What the entries of the vector are called, ``(O,)``."""
        return tuple(f"{part.name}.{place}" for part in self.parts for place in range(part.size))

    @property
    def keys(self) -> tuple[str, ...]:
        """The outermost keys, in order."""
        return tuple(dict.fromkeys(part.path[0] for part in self.parts))

    @property
    def size(self) -> int:
        """O, the numbers in the vector."""
        return sum(part.size for part in self.parts)

    def matches(self, observation: Any) -> bool:
        """Say whether an observation is nested as this layout is, at its outermost level."""
        if isinstance(observation, Mapping):
            return not set(self.keys).isdisjoint(observation)
        numbered = all(key == str(place) for place, key in enumerate(self.keys))
        return isinstance(observation, tuple) and numbered and len(observation) == len(self.keys)

    def flat(self, observation: Any) -> NDArray[Any]:
        """Return nested observations ``{...: (..., n)}`` as vectors ``(..., O)``.

        Raises:
            ValueError: A part is missing, superfluous, or of another size; the message names it.
        """
        if isinstance(observation, Mapping) and (unknown := [key for key in observation if key not in self.keys]):
            raise ValueError(f"it has {unknown[0]!r}, which is not known; give {', '.join(self.keys)}")
        pieces = []
        for part in self.parts:
            try:
                piece = np.asarray(part.of(observation))
            except (KeyError, IndexError):
                raise ValueError(f"it has no {part.name!r}; give {', '.join(self.keys)}") from None
            if piece.ndim == 0 or piece.shape[-1] != part.size:
                raise ValueError(f"{part.name!r} has shape {piece.shape}; the last number must be {part.size}")
            pieces.append(piece)
        if len({piece.shape[:-1] for piece in pieces}) > 1:
            raise ValueError("its parts are of different lengths")
        return np.concatenate(pieces, axis=-1)

    def pieces(self, vectors: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the parts of vectors ``(..., O)`` by their names, in order, ``(..., n)`` each."""
        ends = np.cumsum([part.size for part in self.parts]).tolist()
        return {part.name: vectors[..., end - part.size : end] for part, end in zip(self.parts, ends, strict=True)}

    def nested(self, vectors: NDArray[Any]) -> dict[str, Any]:
        """Return vectors ``(..., O)`` as nested dictionaries; a tuple's items by their numbers."""
        nested: dict[str, Any] = {}
        for part, piece in zip(self.parts, self.pieces(vectors).values(), strict=True):
            node = nested
            for key in part.path[:-1]:
                node = node.setdefault(key, {})
            node[part.path[-1]] = piece
        return nested

    def space(self, low: float = -np.inf, high: float = np.inf) -> Any:
        """Return Gymnasium's space of the nested observations of :meth:`nested`, in float32."""
        from gymnasium import spaces

        def of(node: Any) -> Any:
            if isinstance(node, dict):
                return spaces.Dict({key: of(inner) for key, inner in node.items()})
            return spaces.Box(low, high, node.shape, np.float32)

        return of(self.nested(np.zeros(self.size)))


def flattened(layout: Layout | None, observation: Any) -> NDArray[Any]:
    """Return an observation as a vector: as the layout says, or as it is where there is none."""
    return np.asarray(observation) if layout is None else layout.flat(observation)


def goal_distance(observation: Any) -> float | None:
    """Return the distance between the achieved and the desired goal of one observation; None where it has none."""
    if not (isinstance(observation, Mapping) and {FIRST, LAST} <= set(observation)):
        return None
    achieved, desired = observation[FIRST], observation[LAST]
    if isinstance(achieved, Mapping):
        parts = [goal_distance({FIRST: achieved[key], LAST: desired[key]}) for key in achieved]
        return None if None in parts else float(np.linalg.norm(np.array(parts, np.float64)))
    return float(np.linalg.norm(np.asarray(achieved, np.float64) - np.asarray(desired, np.float64)))


def _is_vector(space: Any) -> bool:
    """Say whether a space is a box of numbers with one dimension."""
    return type(space).__name__ == "Box" and len(space.shape) == 1 and 0 < space.shape[0] <= MOST_ENTRIES


def _parts_of(space: Any, path: tuple[str, ...]) -> Iterator[Part]:
    """Yield the boxes of a space in order."""
    if _is_vector(space):
        yield Part(path, int(space.shape[0]))
        return
    kind = type(space).__name__
    inner: Mapping[str, Any]
    if kind == "Dict":
        inner = dict(space.spaces)
        if strange := [key for key in inner if not isinstance(key, str) or not key or "." in key]:
            raise ValueError(f"a key {strange[0]!r}, but keys must be texts without dots")
        order: Sequence[str] = sorted(inner, key=lambda key: ((key != FIRST) + (key == LAST), key))
    elif kind == "Tuple":
        inner = {str(place): part for place, part in enumerate(space.spaces)}
        order = list(inner)
    else:
        form = " ".join(str(space).split())[:100]
        where = f"{'.'.join(path)} of the form {form}" if path else f"the form {form}"
        raise ValueError(f"{where}{_what_it_is(space)}")
    for key in order:
        yield from _parts_of(inner[key], (*path, key))


def _what_it_is(space: Any) -> str:
    """Say, as a clause, what a space is that cannot be used."""
    if type(space).__name__ != "Box":
        return ""
    return " (images are not supported)" if len(space.shape) > 1 else " (a box with one dimension is needed)"
