"""Eight float64 values side by side, as a type that compiled functions (numba) can hold, and its arithmetic.

A vector unit adds in lanes; which value goes to which lane decides how a sum rounds. Here the lanes are part of the program: eight of
them whatever the processor has, each operation rounded as IEEE 754 says (`fma` once), none regrouped. So a result does not depend on
the width of the vector unit, nor on what a compiler finds worth vectorizing.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

intrinsic: Any = extending.intrinsic

#: Values in a `Lanes`.
WIDTH = 8

_DOUBLE, _LONG, _INT = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
_DOUBLES, _LONGS = ir.VectorType(_DOUBLE, WIDTH), ir.VectorType(_LONG, WIDTH)
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)


class Lanes(types.Type):
    """The type of eight float64 values, inside compiled functions only."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


LANES = Lanes()


@extending.register_model(Lanes)
class _LanesModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _DOUBLES)


@intrinsic
def load(context: Any, row: Any, first: Any) -> Any:
    """``row[first:first + 8]`` of a contiguous float32 array, widened."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), _FLOATS.as_pointer())
        return builder.fpext(builder.load(pointer, align=4), _DOUBLES)

    return LANES(row, types.intp), generate


@intrinsic
def splat(context: Any, value: Any) -> Any:
    """One value in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), args[0], _INT(0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, WIDTH), [0] * WIDTH))

    return LANES(types.float64), generate


@intrinsic(prefer_literal=True)
def lane(context: Any, values: Any, place: Any) -> Any:
    """The value of one lane; ``place`` is a literal."""
    index = place.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], _INT(index))

    return types.float64(LANES, place), generate


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a × b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_DOUBLES, [_DOUBLES] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f64"), args)

    return LANES(LANES, LANES, LANES), generate


@intrinsic
def where_less(context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """``yes`` in the lanes where a < b, else ``no``; a NaN is never less."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return LANES(LANES, LANES, LANES, LANES), generate


@intrinsic
def times_power_of_two(context: Any, values: Any, power: Any) -> Any:
    """``values`` × 2^k, where ``power`` holds the integer k in the last bits of its mantissa, by adding k to the exponents."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits, power = (builder.bitcast(each, _LONGS) for each in args)
        exponent = builder.shl(power, ir.Constant(_LONGS, [52] * WIDTH))
        return builder.bitcast(builder.add(bits, exponent), _DOUBLES)

    return LANES(LANES, LANES), generate


def _arithmetic(instruction: str) -> Any:
    @intrinsic
    def operation(context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return LANES(LANES, LANES), generate

    def implementation(a: Any, b: Any) -> Any:
        return operation(a, b)

    def overloaded(a: Any, b: Any) -> Any:
        return implementation if isinstance(a, Lanes) and isinstance(b, Lanes) else None

    return overloaded


for _operator, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    extending.overload(_operator)(_arithmetic(_instruction))
