"""Settings are frozen dataclasses whose values are what their fields declare, wherever the values come from."""

import math
import numbers
import operator
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from offline_rl.documents import WHOLE_LIMIT
from offline_rl.errors import OfflineRLError, quoted


def conform(settings: Any, error: type[OfflineRLError]) -> None:
    """Bring every field to its declared type; for ``__post_init__``.

    Whole floats become integers and other sequences lists, so that equal settings compare equal however they were
    written down.

    Raises:
        OfflineRLError: A value has no meaning for its field; of the class given.
    """
    for name, kind in typing.get_type_hints(type(settings)).items():
        try:
            value = _conformed(getattr(settings, name), kind)
        except (TypeError, ValueError) as problem:
            raise error(f"{name} is {quoted(getattr(settings, name))}; it must be {problem}") from None
        object.__setattr__(settings, name, value)


def require(
    settings: Any,
    error: type[OfflineRLError],
    *names: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> None:
    """Refuse numbers, or lists that hold numbers, outside a range; None is in every range."""
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, list) else [] if value is None else [value]:
            if at_least is not None and number < at_least:
                raise error(f"{name} is {quoted(value)}; it must be at least {at_least}")
            if above is not None and number <= above:
                raise error(f"{name} is {quoted(value)}; it must be above {above}")
            if at_most is not None and number > at_most:
                raise error(f"{name} is {quoted(value)}; it must be at most {at_most}")


def _conformed(value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"one of {', '.join(map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
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
