"""Settings are frozen dataclasses whose values are what their fields declare, wherever the values come from.

A field declares its limits beside its type: ``alpha: Annotated[float, AtLeast(0)] = 2.5``, or ``alpha: NonNegative``
for the usual ones. Rules that need several fields are code in ``__post_init__``.
"""

import ast
import dataclasses
import inspect
import itertools
import math
import numbers
import operator
import os
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from offline_rl.documents import WHOLE_LIMIT
from offline_rl.errors import OfflineRLError, quoted


@dataclass(frozen=True)
class AtLeast:
    """Limit of a number, which may be the limit itself; on a list, of every number in it."""

    limit: float

    def allows(self, number: float) -> bool:
        """Say whether a number keeps to the limit."""
        return number >= self.limit

    def __str__(self) -> str:
        return f"at least {self.limit}"


@dataclass(frozen=True)
class Above:
    """Limit of a number that must be larger."""

    limit: float

    def allows(self, number: float) -> bool:
        """Say whether a number keeps to the limit."""
        return number > self.limit

    def __str__(self) -> str:
        return f"above {self.limit}"


@dataclass(frozen=True)
class AtMost:
    """Limit of a number that must not be larger."""

    limit: float

    def allows(self, number: float) -> bool:
        """Say whether a number keeps to the limit."""
        return number <= self.limit

    def __str__(self) -> str:
        return f"at most {self.limit}"


Limit = AtLeast | Above | AtMost
NonNegative = Annotated[float, AtLeast(0)]
Positive = Annotated[float, Above(0)]
Fraction = Annotated[float, AtLeast(0), AtMost(1)]
Count = Annotated[int, AtLeast(1)]


@dataclass(frozen=True)
class Setting:
    """What is known of a setting, for help and lists.

    Attributes:
        kind: Its type.
        default: What it is if nothing is given.
        limits: What a number must keep to.
        description: The sentence below its field.
    """

    kind: Any
    default: Any
    limits: tuple[Limit, ...]
    description: str

    @property
    def range(self) -> str:
        """The limits in words; empty if there are none."""
        return " and ".join(map(str, self.limits))


def table_of(kind: type, defaults: Any = None) -> dict[str, Setting]:
    """Return what is known of each field of a dataclass; an instance may hold other defaults than its own."""
    descriptions = dict[str, str]()
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            descriptions |= _field_docstrings(base)
    limits, types, fields = limits_of(kind), types_of(kind), dataclasses.fields(kind)
    values = {entry.name: _default(entry) if defaults is None else getattr(defaults, entry.name) for entry in fields}
    return {
        name: Setting(own, values[name], limits.get(name, ()), descriptions.get(name, ""))
        for name, own in types.items()
    }


def _default(entry: dataclasses.Field[Any]) -> Any:
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


def _field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings that stand below the fields of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for entry, below in itertools.pairwise(definition.body):
        said = below.value if isinstance(below, ast.Expr) else None
        if isinstance(entry, ast.AnnAssign) and isinstance(said, ast.Constant):
            found[ast.unparse(entry.target)] = " ".join(str(said.value).split())
    return found


def types_of(kind: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass, without its limits."""
    hints = typing.get_type_hints(kind)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(kind) if entry.init}


def limits_of(kind: type) -> dict[str, tuple[Limit, ...]]:
    """Return the limits that the fields of a dataclass declare, such as ``Annotated[float, AtLeast(0)]``."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        limits = tuple(entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Limit))
        if limits:
            found[name] = limits
    return found


def conform(settings: Any, error: type[OfflineRLError]) -> None:
    """Bring every field to its declared type, and refuse numbers outside its limits; for ``__post_init__``.

    Whole floats become integers and other sequences lists, so that equal settings compare equal however they were
    written down. None is within all limits.

    Raises:
        OfflineRLError: A value has no meaning for its field; of the class given.
    """
    limits = limits_of(type(settings))
    for name, kind in types_of(type(settings)).items():
        try:
            value = _conformed(getattr(settings, name), kind)
        except (TypeError, ValueError) as problem:
            raise error(f"{name} is {quoted(getattr(settings, name))}; it must be {problem}") from None
        check_limits(name, value, limits.get(name, ()), error)
        object.__setattr__(settings, name, value)


def check_limits(name: str, value: Any, limits: Iterable[Limit], error: type[OfflineRLError]) -> None:
    """Refuse a number, or a list that holds a number, outside limits.

    Raises:
        OfflineRLError: It names the setting and the limit; of the class given.
    """
    for number in value if isinstance(value, list) else [] if value is None else [value]:
        for limit in limits:
            if not limit.allows(number):
                raise error(f"{name} is {quoted(value)}; it must be {limit}")


def _conformed(value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"one of {', '.join(map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        if dataclasses.is_dataclass(arguments[0]):
            return _one_of(value, arguments)
        return None if value is None else _conformed(value, arguments[0])
    if origin is list:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError("a list")
        return [_conformed(entry, arguments[0]) for entry in value]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise TypeError("names with values, as in {'name': ...}")
        return {_text(name): _conformed(entry, arguments[1]) for name, entry in value.items()}
    return _SCALARS[kind](value)


def _one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"one of {', '.join(kind.__name__ for kind in kinds)}")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("True or False")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError("a whole number")
    if not -WHOLE_LIMIT < operator.index(value) < WHOLE_LIMIT:
        raise ValueError("a whole number of at most 18 digits")
    return operator.index(value)


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # of a whole number with hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise TypeError("a finite number")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError("a text")
    return os.fspath(value)


_SCALARS: dict[Any, Any] = {bool: _boolean, int: _integer, float: _number, str: _text}
