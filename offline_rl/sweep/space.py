"""What a sweep searches: parameters in W&B's notation, each a function from a number in [0, 1) to a value."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from offline_rl.errors import SweepError, suggestion

Entry = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A value out of a list.

    Attributes:
        values: The list; no value stands in it twice.
        weights: How probable each value is; they sum to 1.
    """

    values: list[Any]
    weights: list[float]

    def at(self, number: float) -> Any:
        """Return the value whose part of [0, 1) holds ``number``."""
        for value, weight in zip(self.values, self.weights, strict=True):
            if number < weight:
                return value
            number -= weight
        return self.values[-1]


@dataclass(frozen=True)
class Range:
    """A number of some distribution.

    Attributes:
        at: The distribution's quantile function.
        points: All values there are, if they can be counted.
    """

    at: Callable[[float], float]
    points: list[float] | None = None


Parameter = Choice | Range


def read_parameters(entries: Any, method: str) -> tuple[dict[str, Any], dict[str, Parameter]]:
    """Read the ``parameters`` of a sweep file.

    The command line has flat names. A group of nested ``parameters`` is therefore no more than a heading: what stands
    in it goes by its own name.

    Args:
        entries: The part of the file.
        method: ``"grid"``, for which all parameters become choices, ``"random"`` or ``"bayes"``.

    Returns:
        Constants, and parameters to search, by name.

    Raises:
        SweepError: Something is unknown, contradictory or not supported.
    """
    constants: dict[str, Any] = {}
    searched: dict[str, Parameter] = {}
    for name, where, entry in _flat(entries, "parameters"):
        if name in constants or name in searched:
            raise SweepError(f"{where}: there is another parameter of this name; remove one")
        parameter = _read(where, entry)
        if method != "random" and "probabilities" in entry:
            raise SweepError(f"{where}.probabilities have no meaning for method {method}; remove them")
        if isinstance(parameter, Range) and method == "grid":
            if parameter.points is None:
                raise SweepError(f"{where}: a grid needs values that can be counted; give values, or another method")
            parameter = Choice(parameter.points, [1 / len(parameter.points)] * len(parameter.points))
        if isinstance(parameter, Choice) and len(parameter.values) == 1:
            constants[name] = parameter.values[0]
        else:
            searched[name] = parameter
    return constants, searched


def check_keys(where: str, entry: Any, known: Sequence[str]) -> None:
    """Refuse what is no mapping, and keys that are not known.

    Raises:
        SweepError: Names the key and the nearest known one.
    """
    if not isinstance(entry, dict):
        raise SweepError(f"{where} is {entry!r}; it must hold 'name: value' lines")
    for key in entry:
        if key not in known:
            near = suggestion(str(key), known) or f"; known are {', '.join(known)}"
            raise SweepError(f"{where}: {str(key)!r} is not supported{near}")


def number(where: str, value: Any, *, integer: bool = False) -> Any:
    """Return a number that stands in the file.

    Raises:
        SweepError: It is none; ``1e-3``, which YAML reads as text, is explained.
    """
    refuse_text_of_a_number(where, value)
    kind = int if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        raise SweepError(f"{where} is {value!r}; it must be a {'whole' if integer else 'finite'} number")
    return value


def refuse_text_of_a_number(where: str, value: Any) -> None:
    """Refuse ``1e-3``, which YAML reads as text."""
    if isinstance(value, str) and (match := re.fullmatch(r"([+-]?\d+)[eE]([+-]?\d+)", value)):
        raise SweepError(f"{where}: YAML reads {value} as text; write {match[1]}.0e{int(match[2]):+d}")


def _flat(entries: Any, where: str) -> list[tuple[str, str, Entry]]:
    if not isinstance(entries, dict) or not entries:
        raise SweepError(f"{where} holds no parameters; write one 'name: {{values: [...]}}' a line")
    found: list[tuple[str, str, Entry]] = []
    for name, entry in entries.items():
        place = f"{where}.{name}"
        if isinstance(entry, dict) and "parameters" in entry:
            check_keys(place, entry, ("parameters",))
            found += _flat(entry["parameters"], f"{place}.parameters")
        else:
            found.append((str(name).replace("-", "_"), place, entry))
    return found


def _read(where: str, entry: Any) -> Parameter:
    known = ("value", "values", "probabilities", "distribution", "min", "max", "mu", "sigma", "q")
    check_keys(where, entry, known)
    kind = entry.get("distribution") or _guessed(where, entry)
    if kind in ("constant", "categorical", "categorical_w_probabilities"):
        return _choice(where, kind, entry)
    if kind not in DISTRIBUTIONS:
        names = ["constant", "categorical", *DISTRIBUTIONS]
        near = suggestion(str(kind), names) or f"; supported are {', '.join(names)}"
        raise SweepError(f"{where}: distribution {kind!r} is not supported{near}")
    return _range(where, kind, entry)


def _guessed(where: str, entry: Entry) -> str:
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical"
    if "min" in entry and "max" in entry:
        whole = all(isinstance(entry[end], int) and not isinstance(entry[end], bool) for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise SweepError(f"{where} says not what to try; give value, values, or min and max")


def _choice(where: str, kind: str, entry: Entry) -> Choice:
    if kind == "constant":
        _refuse_others(where, kind, entry, ("value",))
        refuse_text_of_a_number(f"{where}.value", entry["value"])
        return Choice([entry["value"]], [1.0])
    _refuse_others(where, kind, entry, ("values",), ("probabilities",))
    values = entry["values"]
    if not isinstance(values, list) or not values:
        raise SweepError(f"{where}.values is {values!r}; it must be a list of at least one value")
    for place, value in enumerate(values):
        refuse_text_of_a_number(f"{where}.values", value)
        if spelled(value) in map(spelled, values[:place]):
            raise SweepError(f"{where}.values holds {value!r} twice; remove one")
    return Choice(values, _weights(where, entry.get("probabilities"), len(values)))


def _weights(where: str, given: Any, count: int) -> list[float]:
    if given is None:
        return [1 / count] * count
    if not isinstance(given, list) or len(given) != count:
        raise SweepError(f"{where}.probabilities must be a list of {count} numbers, one for each value")
    weights = [float(number(f"{where}.probabilities", weight)) for weight in given]
    if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise SweepError(f"{where}.probabilities are {given}; they must not be negative, and sum to 1")
    return weights


def spelled(value: Any) -> str:
    """Return a value as text that tells 1, 1.0 and True apart."""
    return json.dumps(value, sort_keys=True, default=str)


def _refuse_others(where: str, kind: str, entry: Entry, needed: Sequence[str], also: Sequence[str] = ()) -> None:
    for name in needed:
        if name not in entry:
            raise SweepError(f"{where}: distribution {kind} needs {' and '.join(needed)}; {name} is missing")
    for name in entry:
        if name not in ("distribution", *needed, *also):
            raise SweepError(f"{where}: {name} has no meaning for distribution {kind}; remove it")


def _between(low: float, high: float) -> Callable[[float], float]:
    return lambda u: low + u * (high - low)


def _exponential(low: float, high: float) -> Callable[[float], float]:
    """Return the quantiles of a number whose logarithm is uniform between ``low`` and ``high``."""
    return lambda u: math.exp(low + u * (high - low))


def _log_between(low: float, high: float) -> Callable[[float], float]:
    spread = _exponential(math.log(low), math.log(high))
    # Rounding must not leave the range: an option may refuse what lies outside.
    return lambda u: min(max(spread(u), low), high)


def _normal(mu: float, sigma: float) -> Callable[[float], float]:
    return lambda u: NormalDist(mu, sigma).inv_cdf(min(max(u, 1e-9), 1 - 1e-9))


def _log_normal(mu: float, sigma: float) -> Callable[[float], float]:
    normal = _normal(mu, sigma)
    return lambda u: math.exp(normal(u))


DISTRIBUTIONS: dict[str, Callable[[float, float], Callable[[float], float]]] = {
    "int_uniform": lambda low, high: lambda u: min(low + math.floor(u * (high - low + 1)), high),
    "uniform": _between,
    "q_uniform": _between,
    "log_uniform": _exponential,
    "q_log_uniform": _exponential,
    "inv_log_uniform": lambda low, high: _exponential(-high, -low),
    "log_uniform_values": _log_between,
    "q_log_uniform_values": _log_between,
    "inv_log_uniform_values": _log_between,
    "normal": _normal,
    "q_normal": _normal,
    "log_normal": _log_normal,
    "q_log_normal": _log_normal,
}
"""Quantile functions by W&B's names of distributions; their two numbers are min and max, or mu and sigma. Those that
begin with ``q_`` are rounded to multiples of ``q`` afterwards. ``log_uniform`` takes exponents of e,
``log_uniform_values`` the values themselves; the inverse of a number that is log-uniform between 1/max and 1/min, which
is ``inv_log_uniform_values``, is log-uniform between min and max."""


def _range(where: str, kind: str, entry: Entry) -> Range:
    names = ("mu", "sigma") if kind.endswith("normal") else ("min", "max")
    needed = () if names[0] == "mu" else names
    rounded = kind.startswith("q_")
    _refuse_others(where, kind, entry, needed, (*names, "q") if rounded else names)
    values = {"mu": 0.0, "sigma": 1.0, **entry}
    low, high = (number(f"{where}.{name}", values[name], integer=kind == "int_uniform") for name in names)
    if names[0] == "mu" and high <= 0:
        raise SweepError(f"{where}.sigma is {high}; it must be above 0")
    if names[0] == "min" and high <= low:
        raise SweepError(f"{where}: max is {high}, min is {low}; max must be above min")
    if kind.endswith("_values") and low <= 0:
        raise SweepError(f"{where}.min is {low}; distribution {kind} needs numbers above 0")
    quantile = DISTRIBUTIONS[kind](low, high)
    if kind == "int_uniform":
        return Range(quantile, list(range(low, high + 1)))
    if not rounded:
        return Range(quantile)
    q = number(f"{where}.q", entry.get("q", 1.0))
    if q <= 0:
        raise SweepError(f"{where}.q is {q}; it must be above 0")
    points = None
    if kind == "q_uniform":
        points = [_multiple(q, count) for count in range(round(low / q), round(high / q) + 1)]
    return Range(lambda u: _multiple(q, round(quantile(u) / q)), points)


def _multiple(q: float, count: int) -> float:
    """Return ``count * q``, without the last bits' noise of a decimal fraction such as 0.1."""
    return count * q if isinstance(q, int) else float(f"{count * q:.12g}")
