"""Numbers out of pickles, whoever made them, without running anything.

A pickle is a program that may call any function. Here it can name what makes up NumPy's arrays of numbers only, and
even for that there are stand-ins of ours, which keep what they are given and check it: no function named by a file is
ever called.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from offline_rl.errors import DatasetError

SIZE_LIMIT = 8 << 20
"""Bytes a pickle may have."""

TYPES = re.compile(r"[<>=|]?([biuf])([1248])")
"""NumPy's words for the types of numbers that are read."""

REMEDY = "get the file anew from where it was published, or save its numbers as .npz"

Numbers = npt.NDArray[np.generic]


def load(path: Path) -> Any:
    """Read a pickle of plain containers, numbers, strings and NumPy arrays of numbers.

    Whatever a file asks for, this holds a small multiple of the file's size in memory.

    Raises:
        DatasetError: The file cannot be read, is not a whole pickle, or asks for anything else; it names what.
    """
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    if len(content) > SIZE_LIMIT:
        raise DatasetError(f"{path} is larger than {SIZE_LIMIT >> 20} MiB, which no label file is; {REMEDY}")
    try:
        _check_memo(content)
        return _Unpickler(path, io.BytesIO(content)).load()
    except DatasetError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DatasetError(f"{path} is damaged or no pickle of numbers ({type(error).__name__}); {REMEDY}") from error


def as_array(value: Any) -> Numbers | None:
    """Return an array or a flat list of numbers, or of rows of numbers, as an array; None for anything else."""
    if isinstance(value, _Array):
        return value.numbers
    if not isinstance(value, (list, tuple)):
        return None
    # Entries are looked at one by one: of lists inside lists, a short pickle can make more than any memory holds.
    entries = [_entry(entry) for entry in value]
    if any(entry is None or entry.shape != entries[0].shape for entry in entries):  # type: ignore[union-attr]
        return None
    return np.array(entries)


def _entry(value: Any) -> Numbers | None:
    if isinstance(value, _Array):
        return (
            value.numbers if value.numbers is not None and value.numbers.ndim < 2 and value.numbers.size <= 2 else None
        )
    row = value if isinstance(value, (list, tuple)) else [value]
    if len(row) > 2 or not all(isinstance(number, (bool, int, float)) and abs(number) < 2**63 for number in row):
        return None
    return np.array(value)


def _check_memo(content: bytes) -> None:
    """Refuse numbers of memory places that the file is too short to fill: all below them would be allocated."""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(content):
            raise ValueError("a place in memory beyond the file's size")


class _Type:
    """Stands in for ``numpy.dtype``."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not TYPES.fullmatch(code):
            raise ValueError("a type that is no number's")
        self.code = code.lstrip("<>=|")
        self.order = code[0] if code[0] in "<>" else "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("an unknown order of bytes")
        self.order = ">" if state[1] == ">" else "<"

    def read(self, content: bytes | bytearray, shape: tuple[int, ...], order: str) -> Numbers:
        if not isinstance(content, (bytes, bytearray)) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array without numbers")
        numbers = np.frombuffer(content, np.dtype(self.order + self.code))
        return numbers.reshape(shape, order="F" if order == "F" else "C")


class _Array:
    """Stands in for ``numpy.ndarray``."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Numbers | None = None) -> None:
        self.numbers = numbers

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.numbers = _number_type(kind).read(content, shape, "F" if fortran else "C")


class _Function:
    """A function that a pickle can call, but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("functions stay as they are")


def _number_type(kind: Any) -> _Type:
    if not isinstance(kind, _Type):
        raise ValueError("an array whose type is no type")
    return kind


def _empty_array(*_: Any) -> _Array:
    return _Array()


def _array_of(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(_number_type(kind).read(content, shape, order))


def _scalar(kind: Any, content: Any) -> Any:
    return _number_type(kind).read(content, (), "C").item()


def _bytes(text: Any, *_: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("bytes that are no text")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], _Function] = {
    ("numpy", "ndarray"): _Function(_empty_array),
    ("numpy", "dtype"): _Function(_Type),
    ("_codecs", "encode"): _Function(_bytes),  # how the oldest protocols write bytes
} | {
    (f"numpy.{core}.{module}", name): _Function(function)
    for core in ("core", "_core")  # NumPy 1 and 2
    for module, name, function in (
        ("multiarray", "_reconstruct", _empty_array),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _array_of),
    )
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, content: io.BytesIO) -> None:
        super().__init__(content)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is None:
            asked = ascii(f"{module}.{name}"[:80])
            raise DatasetError(f"{self._path} asks for {asked}, which labels have no need of; not run; {REMEDY}")
        return known
