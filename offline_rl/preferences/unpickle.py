"""Numbers out of pickles, whoever made them, without running anything.

A pickle is a program that may call any function. Here it can name what makes up NumPy's arrays of numbers only, and
even for that there are stand-ins of ours, which keep what they are given and check it: no function named by a file is
ever called.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from offline_rl.errors import DatasetError

SIZE_LIMIT = 8 << 20
"""Bytes a pickle may have."""
STEP_LIMIT = 1_000_000
"""Steps that a pickle may have, which is a number each; the largest label files have some ten thousand."""
CALL_BYTES = 128
"""Memory that a call takes beside the bytes it returns."""
BUDGET_FACTOR, BUDGET_BASE = 16, 1 << 20
"""What calls may return together: so many times the file's size, and so many bytes more; one takes ten of the file."""

TYPES = re.compile(r"[<>=|]?([biuf])([1248])")
"""NumPy's words for the types of numbers that are read."""

REMEDY = "get the file again from where it was published, or save its numbers as .npz"

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
        _check_work(content)
        return _Unpickler(path, io.BytesIO(content), _Budget(BUDGET_FACTOR * len(content) + BUDGET_BASE)).load()
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
    # In one pass, by columns: of lists inside lists, a short pickle can make more than any memory holds.
    if all(type(entry) in (bool, int, float) for entry in value):
        return _of_numbers(value)
    rows = [_row(entry) for entry in value]
    if any(row is None or type(row) is not type(rows[0]) or len(row) != len(rows[0]) for row in rows):
        return None
    numbers = _of_numbers([number for row in rows for number in row or ()])
    return numbers if numbers is None or isinstance(rows[0], tuple) else numbers.reshape(len(rows), -1)


def _of_numbers(values: Sequence[Any]) -> Numbers | None:
    return np.array(values) if all(abs(number) < 2**63 for number in values) else None


def _row(value: Any) -> list[Any] | tuple[Any] | None:
    """Return a row of at most two numbers as a list, a single number as a tuple."""
    if isinstance(value, _Array) and value.numbers is not None and value.numbers.ndim < 2 and value.numbers.size <= 2:
        return value.numbers.tolist() if value.numbers.ndim else (value.numbers.item(),)
    if type(value) in (bool, int, float):
        return (value,)
    if isinstance(value, (list, tuple)) and len(value) <= 2 and all(type(one) in (bool, int, float) for one in value):
        return list(value)
    return None


def _check_work(content: bytes) -> None:
    """Refuse too many steps, and places in memory beyond the file's size: all below them would be allocated."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number > STEP_LIMIT:
            raise ValueError(f"over {STEP_LIMIT:,} steps")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(content):
            raise ValueError("a place in memory beyond the file's size")


class _Budget:
    """Bytes that may be made by calls, of which one can be asked for again and again by a few bytes of the file."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, value: Any) -> Any:
        """Count what a call returned."""
        self.left -= CALL_BYTES + (len(value) if isinstance(value, bytes) else 0)
        if self.left < 0:
            raise ValueError("it asks for far more memory than its own size")
        return value


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

    def within(self, budget: _Budget) -> "_Function":
        """Return the same function, whose returns are counted."""
        return _Function(lambda *arguments: budget.spend(self._function(*arguments)))

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


def _bytes(text: Any, encoding: Any = "") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes that are no text in latin1")
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
    def __init__(self, path: Path, content: io.BytesIO, budget: _Budget) -> None:
        super().__init__(content)
        self._path, self._budget = path, budget

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is None:
            asked = ascii(f"{module}.{name}"[:80])
            raise DatasetError(f"{self._path} asks for {asked}, which labels have no need of; not run; {REMEDY}")
        return known.within(self._budget)
