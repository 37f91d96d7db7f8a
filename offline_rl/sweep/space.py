"""What a sweep searches: parameters in W&B's notation, each a function from a number in [0, 1) to a value."""

import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from offline_rl.errors import SweepError, quoted, suggestion

Entry = dict[str, Any]
VALUE_LIMIT = 10_000
"""Values of one parameter that are tried one by one."""
LARGEST_WHOLE = 10**15
"""What a whole number in a sweep may be: below it, a fraction of a range hits each one."""
LARGEST = 1e300
"""What another number may be."""


@dataclass(frozen=True)
class Choice:
    """A value out of a list.

    Attributes:
        values: The list; no value stands in it twice.
        weights: How probable each value is; they sum to 1.
    """

    values: Sequence[Any]
    weights: Sequence[float]

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
        count: How many values there are, if they can be counted.
        point: Returns one of them by its number, from 0.
        log: Whether it is the number's logarithm that the distribution spreads, so that axes are logarithmic.
    """

    at: Callable[[float], float]
    count: int | None = None
    point: Callable[[int], float] | None = None
    log: bool = False


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
            if parameter.count is None or parameter.point is None:
                raise SweepError(f"{where}: a grid needs values that can be counted; give values, or another method")
            _check_count(where, parameter.count)
            values = [parameter.point(number) for number in range(parameter.count)]
            parameter = Choice(values, [1 / len(values)] * len(values))
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
        raise SweepError(f"{where} is {quoted(entry)}; it must hold 'name: value' lines")
    for key in entry:
        if key not in known:
            near = suggestion(str(key), known) or f"; known are {', '.join(known)}"
            raise SweepError(f"{where}: {quoted(str(key))} is not supported{near}")


def number(where: str, value: Any, *, integer: bool = False) -> Any:
    """Return a number that stands in the file.

    Raises:
        SweepError: It is none; ``1e-3``, which YAML reads as text, is explained.
    """
    refuse_text_of_a_number(where, value)
    kind = int if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        raise SweepError(f"{where} is {quoted(value)}; it must be a {'whole' if integer else 'finite'} number")
    if abs(value) > (LARGEST_WHOLE if integer else LARGEST):
        bound = f"{LARGEST_WHOLE:,}" if integer else f"{LARGEST:g}"
        raise SweepError(f"{where} is {quoted(value)}; it must be within -{bound} and {bound}")
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
    if not isinstance(kind, str):
        raise SweepError(f"{where}.distribution is {quoted(kind)}; it must be a text")
    if kind in ("constant", "categorical", "categorical_w_probabilities"):
        return _choice(where, kind, entry)
    if kind not in DISTRIBUTIONS:
        names = ["constant", "categorical", *DISTRIBUTIONS]
        near = suggestion(str(kind), names) or f"; supported are {', '.join(names)}"
        raise SweepError(f"{where}: distribution {quoted(kind)} is not supported{near}")
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
        raise SweepError(f"{where}.values is {quoted(values)}; it must be a list of at least one value")
    _check_count(f"{where}.values", len(values))
    before: set[str] = set()
    for value in values:
        refuse_text_of_a_number(f"{where}.values", value)
        if spelled(value) in before:
            raise SweepError(f"{where}.values holds {quoted(value)} twice; remove one")
        before.add(spelled(value))
    return Choice(values, _weights(where, entry.get("probabilities"), len(values)))


def _check_count(where: str, count: int) -> None:
    if count > VALUE_LIMIT:
        many = f"{count:,}" if count < LARGEST_WHOLE else f"more than {LARGEST_WHOLE:,}"
        raise SweepError(
            f"{where} has {many} values, of which a sweep takes at most {VALUE_LIMIT:,}; give fewer, or min and max"
            " with method random or bayes"
        )


def _weights(where: str, given: Any, count: int) -> list[float]:
    if given is None:
        return [1 / count] * count
    if not isinstance(given, list) or len(given) != count:
        raise SweepError(f"{where}.probabilities must be a list of {count} numbers, one for each value")
    weights = [float(number(f"{where}.probabilities", weight)) for weight in given]
    if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise SweepError(f"{where}.probabilities are {quoted(given)}; they must not be negative, and sum to 1")
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
    _check_ends(where, kind, quantile, low, high)
    if kind == "int_uniform":
        return Range(quantile, high - low + 1, lambda number: low + number)
    if not rounded:
        return Range(quantile, log="log" in kind)
    q = number(f"{where}.q", entry.get("q", 1.0))
    if q <= 0:
        raise SweepError(f"{where}.q is {q}; it must be above 0")
    if not math.isfinite(max(abs(low), abs(high)) / q):
        raise SweepError(f"{where}.q is {q}; it is too small for numbers up to {max(abs(low), abs(high))}")
    if kind != "q_uniform":
        return Range(lambda u: _multiple(q, round(quantile(u) / q)), log="log" in kind)
    first, last = round(low / q), round(high / q)
    return Range(
        lambda u: _multiple(q, round(quantile(u) / q)), last - first + 1, lambda number: _multiple(q, first + number)
    )


def _check_ends(where: str, kind: str, quantile: Callable[[float], float], low: float, high: float) -> None:
    """Refuse what has no numbers, and warn of W&B's trap: exponents that look like the values themselves."""
    try:
        ends = quantile(1e-9), quantile(1 - 1e-9)
        if not all(math.isfinite(end) for end in ends):
            raise OverflowError
    except OverflowError:
        raise SweepError(
            f"{where}: {kind} of {low:g} and {high:g} has numbers beyond all bounds; give others"
        ) from None
    # Nobody searches within a factor of three, or up to 500 millions, or has a thousandth for an exponent.
    if kind.endswith("log_uniform") and low > 0 and (low < 0.1 or high - low < 1 or high > 20):
        warnings.warn(
            f"{where}: {kind}'s limits are exponents of e: it searches {ends[0]:.5g} to {ends[1]:.5g}; did you"
            f" mean {kind}_values?",
            stacklevel=2,
        )


def _multiple(q: float, count: int) -> float:
    """Return ``count * q``, without the last bits' noise of a decimal fraction such as 0.1."""
    return count * q if isinstance(q, int) else float(f"{count * q:.12g}")
