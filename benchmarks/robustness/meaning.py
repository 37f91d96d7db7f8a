"""What tables and arrays mean, written a second time and plainly: the oracle that loaders are compared with.

Nothing here is shared with `offline_rl`. A number, a flag or a name either has one meaning, or none (a fault: the input
must be refused), or one that a careful loader may or may not take (`lenient`: refused or taken for just that).
"""

import datetime
import decimal
import difflib
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.robustness.cases import Case, row_pattern

FLOAT32_MAX = float(np.finfo(np.float32).max)
SAFE = 1e9
"""Up to here a magnitude is ordinary; between this and float32's limit a loader may call it absurd or take it."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MISSING_WORDS = {"", "na", "n/a", "nan", "-nan", "null", "none", "<na>", "#n/a", "#na", "#n/a n/a", "1.#ind", "-1.#ind"}
MISSING_WORDS |= {"1.#qnan", "-1.#qnan", "nat"}
FLAG_WORDS = {"true": 1.0, "false": 0.0}
KNOWN = ("reward", "terminated", "truncated", "episode")
PREFIXES = ("observation", "action", "next_observation")
AMBIGUOUS = ("done", "dones", "terminal", "terminals", "timeout", "timeouts", "end", "is_done")


@dataclass(frozen=True)
class Fault:
    """Why an input must be refused: what, and in which column and row if it is in one."""

    what: str
    column: str | None = None
    row: int | None = None


@dataclass
class Expected:
    """Transitions in plain lists; a next observation is None where it means nothing."""

    observations: list[list[float]]
    actions: list[list[float]]
    rewards: list[float]
    terminated: list[bool]
    following: list[list[float] | None]


@dataclass
class Meaning:
    """What an input means: its faults, whether a refusal is as good as the value, and the value.

    ``named`` says whether a refusal must name the fault's column and row.
    """

    faults: list[Fault] = field(default_factory=list)
    lenient: bool = False
    data: Expected | None = None
    named: bool = True

    @property
    def must(self) -> str:
        """What must become of it, as in :class:`~benchmarks.robustness.cases.Case`."""
        return "refuse" if self.faults else "either" if self.lenient else "accept"

    def fault(self, what: str, column: str | None = None, row: int | None = None) -> None:
        """Note a fault."""
        self.faults.append(Fault(what, column, row))


def dataset_case(  # noqa: PLR0917 (what a case is made of)
    file: str,
    kind: str,
    size: int,
    meaning: Meaning,
    load: Callable[[], Any],
    labels: Mapping[str, str] | None = None,
) -> Case:
    """Return the case of an input of this meaning.

    Args:
        file: What a refusal must name it.
        kind: What was done to it.
        size: Its bytes.
        meaning: What it means.
        load: Loads it.
        labels: The source's own words for fields.
    """
    names = [re.escape(file)]
    # What may be refused on other grounds, too, may name these.
    if len(meaning.faults) == 1 and meaning.named and not meaning.lenient and " and " not in kind:
        fault = meaning.faults[0]
        names += [re.escape((labels or {}).get(fault.column, fault.column))] if fault.column else []
        names += [row_pattern(fault.row)] if fault.row is not None else []
    why = "; ".join(dict.fromkeys(fault.what for fault in meaning.faults))[:300]
    return Case(kind, load, size, meaning.must, tuple(names), lambda value: differs(value, meaning.data), why)


def differs(dataset: Any, expected: Expected | None) -> str | None:
    """Say in what a dataset differs from what was meant; None if it does not."""
    if expected is None:
        return "it has no meaning"
    if len(dataset) != len(expected.rewards):
        return f"{len(dataset)} transitions instead of {len(expected.rewards)}"
    pairs = {
        "observations": (dataset.observations, expected.observations),
        "actions": (dataset.actions, expected.actions),
        "rewards": (dataset.rewards, expected.rewards),
        "terminated": (dataset.terminated, expected.terminated),
    }
    for name, (found, wanted) in pairs.items():
        if not _same(found, wanted):
            return f"{name} are others than in the input"
    known = [place for place, following in enumerate(expected.following) if following is not None]
    if known and not _same(dataset.next_observations[known], [expected.following[place] for place in known]):
        return "next_observations are others than in the input"
    if not np.isfinite(np.asarray(dataset.next_observations)).all():
        return "a next observation is not finite"
    low, high = dataset.action_bounds
    return None if (low < high).all() else "an action's lowest is its highest"


def _same(found: Any, wanted: Any) -> bool:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=3e-7, atol=1e-38)


# Cells.


@dataclass(frozen=True)
class Cell:
    """A cell: a number, or missing, or neither; lenient where not every loader would take it for the number."""

    number: float | None = None
    missing: bool = False
    lenient: bool = False


def text_cell(text: str) -> Cell:
    """Read a cell of a text file."""
    bare = text.strip(" \t")
    if bare.lower() in MISSING_WORDS:
        return Cell(missing=True, lenient=bare != text)
    if NUMBER.fullmatch(bare):
        return Cell(float(bare), lenient=bare != text)
    if bare.lower() in FLAG_WORDS:
        return Cell(FLAG_WORDS[bare.lower()], lenient=True)
    try:  # what Python takes for a number and few others do, such as the digits of other scripts
        return Cell() if "_" in bare else Cell(float(text), lenient=True) if math.isfinite(float(text)) else Cell()
    except ValueError:
        return Cell()


def value_cell(value: Any) -> Cell:  # noqa: PLR0911 (a case for each type)
    """Read a cell that is a Python or NumPy object."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return Cell(missing=True)
    if isinstance(value, (np.datetime64, np.timedelta64, datetime.date, datetime.timedelta, datetime.time)):
        return Cell()
    if isinstance(value, (bool, np.bool_)):
        return Cell(float(value))
    if isinstance(value, (numbers.Real, decimal.Decimal)) or (
        isinstance(value, np.generic) and value.dtype.kind in "iuf"
    ):
        try:
            number = float(value)
        except (OverflowError, ValueError):
            return Cell()
        plain = isinstance(value, (int, float, np.generic))
        return Cell(missing=True) if math.isnan(number) else Cell(number, lenient=not plain)
    if isinstance(value, str):
        cell = text_cell(value)
        return Cell(cell.number, cell.missing, lenient=True)
    return Cell()


# Tables.


def table_meaning(
    names: Sequence[str], rows: Mapping[str, Sequence[Cell]], ids: Mapping[str, Sequence[Any]]
) -> Meaning:
    """Say what a table means.

    Args:
        names: The columns' names, in order, twice where they stand twice.
        rows: The cells of each column.
        ids: The values of the column `episode`, to compare.
    """
    meaning = Meaning()
    _look_at_names(meaning, names)
    if meaning.faults:
        return meaning
    columns = {prefix: _vector(names, prefix) for prefix in PREFIXES}
    used = [*columns["observation"], *columns["action"], "reward", *(n for n in KNOWN[1:3] if n in names)]
    count = len(rows["reward"])
    values = {name: _numbers(meaning, name, rows[name], flags=name in KNOWN[1:3]) for name in used}
    _look_at_episodes(meaning, names, rows, ids)
    terminated = [value == 1 for value in values.get("terminated", [0.0] * count)]
    following = [f"next_{name}" for name in columns["observation"]] if columns["next_observation"] else None
    seen = _following(meaning, following, rows, terminated)
    if count == 0:
        meaning.fault("it has no rows")
    if meaning.faults:
        return meaning
    truncated = [value == 1 for value in values.get("truncated", [0.0] * count)]
    if any(one and other for one, other in zip(terminated, truncated, strict=True)):
        meaning.lenient = True
    if "episode" in names:
        truncated = _cuts(meaning, list(ids["episode"]), terminated, truncated)
    _look_at_range(meaning, columns["action"], values)
    if meaning.faults:
        return meaning
    observations = [[values[name][row] for name in columns["observation"]] for row in range(count)]
    actions = [[values[name][row] for name in columns["action"]] for row in range(count)]
    meaning.data = transitions(observations, actions, values["reward"], terminated, truncated, seen)
    if not meaning.data.rewards:
        meaning.fault("no transition is left")
    return meaning


def _cuts(meaning: Meaning, episodes: list[Any], terminated: list[bool], truncated: list[bool]) -> list[bool]:
    """Return where episodes are cut, by their ids and by flags; an end or a cut inside an episode is a fault."""
    cuts = []
    for row, (ended, cut) in enumerate(zip(terminated, truncated, strict=True)):
        last = row + 1 == len(episodes) or episodes[row + 1] != episodes[row]
        if not last and ended:
            meaning.fault("an episode goes on after its end", "terminated", row)
        if not last and cut:
            meaning.fault("an episode goes on after its cut", "truncated", row)
        cuts.append((cut or last) and not ended)
    return cuts


def transitions(  # noqa: PLR0917 (the columns of a recording)
    observations: list[list[float]],
    actions: list[list[float]],
    rewards: Sequence[float],
    terminated: Sequence[bool],
    truncated: Sequence[bool],
    seen: list[list[float] | None] | None,
) -> Expected:
    """Return every transition whose successor is known."""
    data = Expected([], [], [], [], [])
    for row, reward in enumerate(rewards):
        if seen is not None:
            following = seen[row]
        elif terminated[row]:
            following = None
        elif truncated[row] or row + 1 == len(rewards):
            continue
        else:
            following = observations[row + 1]
        data.observations.append(observations[row])
        data.actions.append(actions[row])
        data.rewards.append(reward)
        data.terminated.append(bool(terminated[row]))
        data.following.append(None if terminated[row] else following)
    return data


def _look_at_names(meaning: Meaning, names: Sequence[str]) -> None:
    for name in dict.fromkeys(names):
        bare = name.strip()
        if names.count(name) > 1 and is_ours(name):
            meaning.fault("a column stands there twice", name)
        meaning.lenient |= names.count(name) > 1
        if bare in AMBIGUOUS:
            meaning.fault("a column does not say how the episode ended", bare)
        elif not is_ours(name) and (near := _misspelt(name, names)):
            meaning.fault(f"a column's name looks like {near}")
        elif not is_ours(name) and bare.lower() in KNOWN:
            meaning.lenient = True  # the column itself is there, too
        elif not is_ours(name) and _similar(bare, [known for known in (*KNOWN, *PREFIXES) if known not in names]):
            meaning.lenient = True
    for what, found in {
        "observations": _vector(names, "observation"),
        "actions": _vector(names, "action"),
        "rewards": "reward" in names,
        "ends of episodes": set(KNOWN[1:]) & set(names),
    }.items():
        if not found:
            meaning.fault(f"no column holds {what}")
    _look_at_vectors(meaning, names)


def _look_at_vectors(meaning: Meaning, names: Sequence[str]) -> None:
    for prefix in PREFIXES:
        endings = [name.removeprefix(f"{prefix}_") for name in _vector(names, prefix)]
        numbered = [ending.isdecimal() for ending in endings]
        if all(numbered) and endings != [str(place) for place in range(len(endings))]:
            meaning.fault(f"a number is missing among the columns {prefix}_...")
        meaning.lenient |= any(numbered) and not all(numbered)
    following = {name.removeprefix("next_") for name in _vector(names, "next_observation")}
    if following and following != set(_vector(names, "observation")):
        meaning.fault("next observations are not those of the observations")


def is_ours(name: str) -> bool:
    """Say whether a column is one that a loader reads."""
    return name in KNOWN or any(name == prefix or name.startswith(f"{prefix}_") for prefix in PREFIXES)


def _misspelt(name: str, names: Sequence[str]) -> str | None:
    """Return the known name that a column's name is one letter, some spaces or capitals away from."""
    bare = "".join(name.split()).lower()
    for known in KNOWN:
        if known not in names and (bare == known or _one_apart(bare, known)):
            return known
    for prefix in PREFIXES:
        start, mark, _ = bare.partition("_")
        if prefix == "next_observation":
            start = "_".join(bare.split("_")[:2])
        if mark and (start == prefix or (_one_apart(start, prefix))):
            return f"{prefix}_"
    return None


def _one_apart(one: str, other: str) -> bool:
    """Say whether two words differ by one letter changed, put in, left out, or two exchanged."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    tails = one[start + 1 :], other[start + 1 :]
    swapped = one[start : start + 2] == other[start : start + 2][::-1] and one[start + 2 :] == other[start + 2 :]
    return tails[0] == tails[1] or one[start + 1 :] == other[start:] or one[start:] == other[start + 1 :] or swapped


def _vector(names: Sequence[str], prefix: str) -> list[str]:
    found = [name for name in names if name == prefix or re.fullmatch(rf"{prefix}_.+", name)]
    if all(name.removeprefix(f"{prefix}_").isdecimal() for name in found):
        return sorted(found, key=lambda name: int(name.removeprefix(f"{prefix}_")))
    return found


def _numbers(meaning: Meaning, name: str, cells: Sequence[Cell], *, flags: bool = False) -> list[float]:
    for row, cell in enumerate(cells):
        meaning.lenient |= cell.lenient
        if cell.missing:
            meaning.fault("a value is missing", name, row)
        elif cell.number is None:
            meaning.fault("a cell is no number", name, row)
        elif flags and cell.number not in (0, 1):
            meaning.fault("a flag is neither 0 nor 1", name, row)
        else:
            _look_at_size(meaning, name, row, cell.number)
    return [0.0 if cell.number is None else cell.number for cell in cells]


def _look_at_size(meaning: Meaning, name: str, row: int, number: float) -> None:
    if not abs(number) <= FLOAT32_MAX:
        meaning.fault("a number is too large for single precision", name, row)
    # Large numbers lose their differences in single precision, tiny ones their digits.
    meaning.lenient |= abs(number) > SAFE or 0 < abs(number) < 1e-30


def _look_at_episodes(
    meaning: Meaning, names: Sequence[str], rows: Mapping[str, Sequence[Cell]], ids: Mapping[str, Sequence[Any]]
) -> None:
    if "episode" not in names:
        return
    seen: list[Any] = []
    for row, (cell, value) in enumerate(zip(rows["episode"], ids["episode"], strict=True)):
        if cell.missing:
            meaning.fault("an episode's id is missing", "episode", row)
        elif not seen or value != seen[-1]:
            if value in seen:
                meaning.fault("an episode comes again", "episode", row)
            seen.append(value)
        meaning.lenient |= cell.lenient


def _following(
    meaning: Meaning, names: list[str] | None, rows: Mapping[str, Sequence[Cell]], terminated: Sequence[bool]
) -> list[list[float] | None] | None:
    """Return the next observations; what stands after an end means nothing, so it may be missing."""
    if names is None:
        return None
    seen: list[list[float] | None] = []
    for row, ended in enumerate(terminated):
        cells = [rows[name][row] for name in names]
        for name, cell in zip(names, cells, strict=True):
            meaning.lenient |= cell.lenient
            if ended and cell.missing:
                continue
            if ended and (cell.number is None or abs(cell.number) > FLOAT32_MAX):
                meaning.lenient = True
            elif cell.missing or cell.number is None:
                meaning.fault("a next observation is missing or no number", name, row)
            else:
                _look_at_size(meaning, name, row, cell.number)
        seen.append(None if ended else [0.0 if cell.number is None else cell.number for cell in cells])
    return seen


def _look_at_range(meaning: Meaning, names: Sequence[str], values: Mapping[str, Sequence[float]]) -> None:
    for name in names:
        with np.errstate(over="ignore"):
            low, high = np.float32(min(values[name])), np.float32(max(values[name]))
        if not low < high:
            meaning.fault("an action has no range", name)
        elif high - low < 1e-5 * max(abs(low), abs(high)) or high - low < 1e-30:
            meaning.lenient = True


def _similar(name: str, known: Sequence[str]) -> bool:
    """Say whether a loader may take a name for a misspelt one."""
    stem = name.lower().rstrip("0123456789_")
    return any(difflib.get_close_matches(word, known, n=1, cutoff=0.6) for word in (name.lower(), stem))
