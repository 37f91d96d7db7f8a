"""Values out of text that anybody may have written: JSON and YAML within bounds, and whether their shape is right.

A few lines can stand for more than any memory holds, by aliases, by depth or by digits; so a value is measured before
anything looks at it, compares it or shows it. All that is accepted are mappings with texts as names, lists, texts,
finite numbers, truth values and nothing.
"""

import collections
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from offline_rl.errors import OfflineRLError, brief, quoted

LENGTH_LIMIT = 4 << 20
"""Bytes that a file may have: hundreds of times what is written by hand, and some times the longest result."""
NODE_LIMIT = 100_000
"""Values within a value, each as often as aliases name it."""
DEPTH_LIMIT = 40
"""Values around a value."""
TEXT_LIMIT = 10_000
"""Signs of a text in YAML, and wherever a shape asks for a text."""
BIT_LIMIT = 256
"""Bits of a whole number."""
WHOLE_LIMIT = 2**63
"""What whole numbers must be below where a shape asks for one."""
LARGEST = 1e40
"""What numbers may be at most where a shape asks for one: just more than single precision holds."""


@dataclass(frozen=True)
class Least:
    """The shape of a number that must be at least ``low``; ``kind`` is int or float."""

    kind: type
    low: float


def check(value: Any, shape: Any, where: str = "") -> None:
    """Refuse a value that has not the shape.

    Args:
        value: What :func:`parse_json` or :func:`parse_yaml` returned.
        shape: ``str``, ``bool``, ``int``, ``float`` (a whole number will do), :class:`Least`, None, or ``object`` for
            anything; ``[shape]`` for a list of any length, ``[one, two]`` for one of two entries; ``{"name": shape,
            "other?": shape}`` for a mapping that has a name and may have another, beside names that are not looked at;
            ``{str: shape}`` for a mapping of any names; a tuple for one shape of several.
        where: The value's place, for the message.

    Raises:
        ValueError: Names the field, what it is and what it must be.
    """
    if isinstance(shape, tuple):
        _check_any(value, shape, where)
    elif isinstance(shape, dict):
        _check_mapping(value, shape, where)
    elif isinstance(shape, list):
        if not isinstance(value, list) or len(shape) not in (1, len(value)):
            _refuse(value, shape, where)
        for place, entry in enumerate(value):
            check(entry, shape[place if len(shape) > 1 else 0], f"{where}[{place}]")
    elif not _is_one(value, shape):
        _refuse(value, shape, where)


def _check_any(value: Any, shapes: tuple[Any, ...], where: str) -> None:
    """Try simple shapes; then check a mapping or list by the shape of its kind, so that errors say what is wrong."""
    if any(_is_one(value, shape) for shape in shapes if not isinstance(shape, (dict, list))):
        return
    kind = type(value)
    if within := [shape for shape in shapes if isinstance(shape, (dict, list)) and isinstance(shape, kind)]:
        check(value, within[0], where)
    else:
        _refuse(value, shapes, where)


def _check_mapping(value: Any, shape: dict[Any, Any], where: str) -> None:
    if not isinstance(value, dict):
        _refuse(value, shape, where)
    others = dict(value)
    for key, inner in shape.items():
        if key is str:
            continue
        name = key.removesuffix("?")
        if name in value:
            check(others.pop(name), inner, f"{where}.{name}" if where else name)
        elif not key.endswith("?"):
            raise ValueError(f"{where or 'it'} has no {name}")
    if str in shape:
        for name, inner in others.items():
            if not isinstance(name, str):
                raise ValueError(f"{where or 'it'} has the name {quoted(name)}; names must be texts")
            check(inner, shape[str], f"{where}.{brief(name, 50)}" if where else brief(name, 50))


def _is_one(value: Any, shape: Any) -> bool:
    """Say whether a value is what a simple shape names."""
    if shape is None or shape is object:
        return shape is object or value is None
    if isinstance(shape, Least):
        return _is_one(value, shape.kind) and bool(value >= shape.low)
    if shape is int:
        return type(value) is int and abs(value) < WHOLE_LIMIT
    if shape is float:
        return type(value) in (int, float) and abs(value) <= LARGEST  # which NaN is not
    return type(value) is shape and (shape is not str or len(value) <= TEXT_LIMIT)


def _refuse(value: Any, shape: Any, where: str) -> NoReturn:
    raise ValueError(f"{where or 'it'} is {quoted(value)}; it must be {_words(shape)}")


def _words(shape: Any) -> str:
    if isinstance(shape, tuple):
        return " or ".join(_words(one) for one in shape)
    if isinstance(shape, Least):
        return f"{_words(shape.kind)} of at least {shape.low:g}"
    if isinstance(shape, list):
        return "a list" if len(shape) == 1 else f"a list of {len(shape)} entries"
    if isinstance(shape, dict):
        return "names with values"
    words = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number", None: "nothing"}
    return words[shape]


def read_json(path: Path, error: type[OfflineRLError], remedy: str, shape: Any = object) -> Any:
    """Read a JSON file of the shape given.

    Raises:
        OfflineRLError: It cannot be read, is too large, or is of another shape; of the class given.
    """
    try:
        value = parse_json(read_bytes(path))
        check(value, shape)
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read ({said(problem)}); {remedy}") from None
    return value


def read_yaml(path: Path, error: type[OfflineRLError], remedy: str) -> Any:
    """Read a YAML file; see :func:`read_json`."""
    try:
        return parse_yaml(read_bytes(path))
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read ({said(problem)}); {remedy}") from None


def read_bytes(path: Path) -> bytes:
    """Return what is in a file, which must be one, and of a size that makes sense.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too large.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(LENGTH_LIMIT + 1)
    if len(content) > LENGTH_LIMIT:
        raise ValueError(f"it has over {LENGTH_LIMIT:,} bytes")
    return content


def said(problem: Exception) -> str:
    """Return what an error says about a file that the message names anyway."""
    return brief(problem.strerror if isinstance(problem, OSError) and problem.strerror else problem)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is none, names something twice, holds a number that is not finite, or is beyond all bounds.
    """
    try:
        value = json.loads(_decoded(text), parse_constant=_refuse_constant, object_pairs_hook=_named_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(_without_advice(error)) from None
    measure(value)
    return value


def _decoded(text: str | bytes) -> str:
    try:
        return text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no text in UTF-8") from None


def _without_advice(error: Exception) -> str:
    """Return what an error says; what Python advises programmers about long numbers helps nobody here."""
    text = brief(error)
    return "it holds a number of thousands of digits" if "integer string conversion" in text else text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = collections.Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it names {quoted(twice)} twice")
    return value


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text; what aliases name counts as often as they name it.

    Raises:
        ValueError: It is none, names something twice, holds what is no plain value, or is beyond all bounds.
    """
    import yaml

    # The same language, read a hundred times faster where libyaml is there.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = _decoded(text)
    try:
        _Measure().all(yaml.parse(text, loader))
        value = yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(_without_advice(error)) from None
    measure(value)
    return value


@dataclass
class _Open:
    """A list or mapping that has not ended yet."""

    anchor: str | None
    names: set[str] | None
    nodes: int = 1
    depth: int = 1
    entries: int = 0


@dataclass
class _Measure:
    """Counts the values of a YAML text from its events, before any is made."""

    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    around: list[_Open] = field(default_factory=list)

    def all(self, events: Iterable[Any]) -> None:
        """Refuse a text whose value would be too large or too deep, and names that stand twice in a mapping."""
        import yaml

        for event in events:
            if isinstance(event, yaml.AliasEvent):
                if any(one.anchor == event.anchor for one in self.around):
                    raise ValueError(f"the alias *{brief(event.anchor, 50)} stands within what it names")
                self._add(*self.known.get(str(event.anchor), (1, 1)), None)
            elif isinstance(event, yaml.ScalarEvent):
                if len(event.value) > TEXT_LIMIT:
                    raise ValueError(f"the text that begins {quoted(event.value[:20])} has over {TEXT_LIMIT:,} signs")
                self._end(event.anchor, 1, 1, event.value)
            elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self.around.append(_Open(event.anchor, set() if isinstance(event, yaml.MappingStartEvent) else None))
                self._check(0, len(self.around))
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                one = self.around.pop()
                self._end(one.anchor, one.nodes, one.depth, None)

    def _end(self, anchor: str | None, nodes: int, depth: int, text: str | None) -> None:
        if anchor is not None:
            self.known[anchor] = nodes, depth
        self._add(nodes, depth, text)

    def _add(self, nodes: int, depth: int, text: str | None) -> None:
        if not self.around:
            return
        one = self.around[-1]
        one.nodes, one.depth, one.entries = one.nodes + nodes, max(one.depth, depth + 1), one.entries + 1
        self._check(one.nodes, len(self.around) + depth)
        if one.names is not None and text is not None and one.entries % 2:
            if text in one.names:
                raise ValueError(f"it names {quoted(text)} twice")
            one.names.add(text)

    def _check(self, nodes: int, depth: int) -> None:
        if nodes > NODE_LIMIT:
            raise ValueError(f"it stands for over {NODE_LIMIT:,} values")
        if depth > DEPTH_LIMIT:
            raise ValueError("it is nested too deep")


def measure(value: Any) -> None:
    """Refuse a value that is too large or too deep, or holds anything but plain values.

    Raises:
        ValueError: Names the field.
    """
    waiting: list[tuple[Any, str, int]] = [(value, "", 1)]
    nodes = 0
    while waiting:
        value, where, depth = waiting.pop()
        nodes += 1
        if nodes > NODE_LIMIT:
            raise ValueError(f"it stands for over {NODE_LIMIT:,} values")
        if depth > DEPTH_LIMIT:
            raise ValueError("it is nested too deep")
        if type(value) is dict:
            if strange := [name for name in value if not isinstance(name, (str, int, float, bool, type(None)))]:
                raise ValueError(f"{where or 'it'} has the name {quoted(strange[0])}; names must be texts")
            waiting += [(inner, f"{where}.{name}" if where else str(name), depth + 1) for name, inner in value.items()]
        elif type(value) is list:
            waiting += [(inner, f"{where}[{place}]", depth + 1) for place, inner in enumerate(value)]
        else:
            _measure_one(value, where)


def _measure_one(value: Any, where: str) -> None:
    if type(value) is int and value.bit_length() > BIT_LIMIT:
        raise ValueError(f"{where or 'it'} is a number of over {BIT_LIMIT // 4} digits")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{where or 'it'} is {value}, which is no finite number")
    if type(value) not in (int, float, bool, str, type(None)):
        kind = type(value).__name__
        raise ValueError(f"{where or 'it'} is a {kind} to YAML, which nothing here takes; write a text, in quotes")
