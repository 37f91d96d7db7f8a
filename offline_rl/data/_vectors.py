"""Squared distances of a point to many things at once, in the processor's vectors.

Numba's loops keep sums in memory and take a minimum one by one; here LLVM is handed vectors, which it fits to whatever
the processor has. That is four times as fast.

All arrays are float32 (codes are uint8) and contiguous. Operations may be fused and sums taken in any order.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic as _intrinsic

intrinsic: Callable[[Callable[..., Any]], Any] = _intrinsic
cgutils: Any = _cgutils

WIDTH = 16
"""Numbers in a vector; what is measured at once is a multiple of it, so that nothing is left over."""

_FAST = ("contract", "reassoc", "nsz", "nnan")
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INTEGERS = ir.VectorType(ir.IntType(32), WIDTH)
_CODES = ir.VectorType(ir.IntType(8), WIDTH)
_MASK = ir.IntType(WIDTH)

_Difference = Callable[[Any, list[Any], Any, Any], Any]
"""Makes the code for a vector of differences from a builder, the arrays, the column, and the vector's place."""


@intrinsic
def code_distances(  # noqa: PLR0917 (Numba's functions know no keywords)
    context: Any, point: Any, lower: Any, step: Any, codes: Any, limit: Any, distances: Any
) -> Any:
    """Write the squared distances (L,) of a point (D,) to lower (D,) + step (D,) · codes (D, L).

    Returns:
        Whether one of the distances is at most ``limit``.
    """

    def difference(builder: Any, arrays: list[Any], column: Any, place: Any) -> Any:
        start, corner, scale = (_entry(builder, array, column) for array in arrays[:3])
        codes = builder.load(_vector(builder, arrays[3], place, _CODES), align=1)
        offset = builder.sitofp(builder.zext(codes, _INTEGERS), _FLOATS)
        offset = builder.fmul(_spread(builder, scale), offset, flags=_FAST)
        return builder.fsub(_spread(builder, builder.fsub(start, corner, flags=_FAST)), offset, flags=_FAST)

    return _signature(point, lower, step, codes, limit, distances), _sums(difference)


@intrinsic
def box_distances(  # noqa: PLR0917
    context: Any, point: Any, lower: Any, upper: Any, limit: Any, distances: Any
) -> Any:
    """Write the squared distances (L,) of a point (D,) to boxes with these corners (D, L).

    Returns:
        Whether one of the distances is at most ``limit``.
    """

    def difference(builder: Any, arrays: list[Any], column: Any, place: Any) -> Any:
        value = _spread(builder, _entry(builder, arrays[0], column))
        low, high = (builder.load(_vector(builder, array, place, _FLOATS), align=4) for array in arrays[1:3])
        below, above = builder.fsub(low, value, flags=_FAST), builder.fsub(value, high, flags=_FAST)
        return _larger(builder, _larger(builder, below, above), _FLOATS([0.0] * WIDTH))

    return _signature(point, lower, upper, limit, distances), _sums(difference)


def _signature(*arguments: Any) -> Any:
    """Return that of a function which says yes or no; refuse arrays that are not contiguous."""
    if not all(kind.layout == "C" for kind in arguments if isinstance(kind, types.Array)):
        raise TypingError(f"distances are measured of contiguous arrays alone, not of {arguments}")
    return types.boolean(*arguments)


def _sums(difference: _Difference) -> Any:
    """Return the generator of a function of a point, a box, maybe codes, ``limit`` and ``distances``."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        *given, _, result = zip(signature.args, values, strict=True)
        arrays = [target.make_array(kind)(target, builder, value) for kind, value in (*given, result)]
        columns, size = cgutils.unpack_tuple(builder, arrays[-2].shape, 2)
        total = cgutils.alloca_once(builder, _FLOATS)
        near = cgutils.alloca_once_value(builder, _MASK(0))
        with cgutils.for_range_slice(builder, size.type(0), size, size.type(WIDTH)) as (first, _):
            builder.store(_FLOATS([0.0] * WIDTH), total)
            with cgutils.for_range(builder, columns) as column:
                place = builder.add(builder.mul(column.index, size), first)
                apart = difference(builder, arrays, column.index, place)
                square = builder.fmul(apart, apart, flags=_FAST)
                builder.store(builder.fadd(builder.load(total), square, flags=_FAST), total)
            builder.store(builder.load(total), _vector(builder, arrays[-1], first, _FLOATS), align=4)
            within = builder.fcmp_ordered("<=", builder.load(total), _spread(builder, values[-2]))
            builder.store(builder.or_(builder.load(near), builder.bitcast(within, _MASK)), near)
        return builder.icmp_unsigned("!=", builder.load(near), _MASK(0))

    return generate


def _entry(builder: Any, array: Any, place: Any) -> Any:
    """Load one entry of an array."""
    return builder.load(builder.gep(array.data, [place]))


def _vector(builder: Any, array: Any, place: Any, kind: Any) -> Any:
    """Return the address of ``WIDTH`` entries of an array."""
    return builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())


def _spread(builder: Any, value: Any) -> Any:
    """Return a vector that holds one value everywhere."""
    nothing = _FLOATS(ir.Undefined)
    first = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, nothing, _INTEGERS([0] * WIDTH))


def _larger(builder: Any, one: Any, other: Any) -> Any:
    """Return the larger of two vectors, entry by entry."""
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)
