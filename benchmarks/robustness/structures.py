"""Nested values, as JSON and YAML hold them, with one thing changed."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[Any, ...]
Check = Callable[[Any], bool]
DEEP = "deep nesting, put in afterwards"
"""Stands for 50,000 lists within each other, which no writer writes."""
GONE = "left out"
HUGE = int("9" * 400)
ODD: list[Any] = [
    *(None, True, 5, -1, 0, 1.5, 1e308, HUGE, "", "abc", "9", "x" * 100_000, "a\nb", "\u2028", [], {}, [1], [None]),
    *([[1, 2]], {"a": 1}, {"": None}, float("nan"), float("inf"), list(range(3000)), DEEP, GONE, "<b>", "../../x"),
]
"""Values to put in the place of any other."""


def is_text(value: Any) -> bool:
    """Say whether it is text, of a line and no book."""
    return isinstance(value, str) and len(value) < 1000


def is_count(value: Any) -> bool:
    """Say whether it is a whole number that counts something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """Say whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def is_mapping(value: Any) -> bool:
    """Say whether it is a mapping."""
    return isinstance(value, dict)


def optional(check: Check) -> Check:
    """Let a value be None, too."""
    return lambda value: value is None or check(value)


def paths(value: Any, prefix: Path = ()) -> Iterator[Path]:
    """Yield the paths of everything in a value."""
    if prefix:
        yield prefix
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from paths(child, (*prefix, name))


def replaced(value: Any, path: Path, new: Any) -> Any:
    """Return a copy with something else at a path, or without it."""
    changed = copy.deepcopy(value)
    place = changed
    for name in path[:-1]:
        place = place[name]
    if new is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return changed


def described(path: Path, new: Any) -> str:
    """Say in a few words what was changed."""
    if isinstance(new, str) and new in {DEEP, GONE}:
        what = new.partition(",")[0]
    elif isinstance(new, int) and not isinstance(new, bool) and abs(new) > 1e9:
        what = "a number of 400 digits"
    else:
        what = repr(new) if len(repr(new)) < 20 else f"a long {type(new).__name__}"
    # An entry of a list is called by the list's name: places in lists are many.
    return f"{'.'.join('*' if isinstance(name, int) else str(name) for name in path)}: {what}"


def as_json(value: Any, **options: Any) -> bytes:
    """Return JSON, with the numbers and the nesting that Python's own writer refuses."""
    text = json.dumps(value, **options)
    return text.replace(json.dumps(DEEP), "[" * 50_000 + "]" * 50_000).encode()


def odd(rng: random.Random, old: Any) -> Any:
    """Return something to put in the place of a value."""
    while True:
        new = rng.choice(ODD)
        if type(new) is not type(old) or new != old:
            return new
