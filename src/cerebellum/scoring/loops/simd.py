"""Values side by side, as types that compiled functions (numba) can hold: eight float64 with arithmetic, sixteen float32 to compare.

A vector unit adds in lanes; which value goes to which lane decides how a sum rounds. Here the lanes are part of the program: eight of
them whatever the processor has, each operation rounded as IEEE 754 says (`fma` once), none regrouped. So a result does not depend on
the width of the vector unit, nor on what a compiler finds worth vectorizing.
"""

from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import extending
from numba.core import cgutils, codegen, config, types

intrinsic: Any = extending.intrinsic

#: Values in `LANES`.
WIDTH = 8

_FLOAT, _DOUBLE, _LONG, _INT = ir.FloatType(), ir.DoubleType(), ir.IntType(64), ir.IntType(32)
_DOUBLES, _LONGS = ir.VectorType(_DOUBLE, WIDTH), ir.VectorType(_LONG, WIDTH)


class Lanes(types.Type):
    """The type of ``n`` values of one kind, inside compiled functions only."""

    def __init__(self, kind: Any, n: int) -> None:
        super().__init__(name=f"Lanes({kind}, {n})")
        self.vector = ir.VectorType(kind, n)


LANES, FLOATS = Lanes(_DOUBLE, WIDTH), Lanes(_FLOAT, 2 * WIDTH)


@extending.register_model(Lanes)
class _LanesModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.vector)


def _pointer(context: Any, builder: Any, signature: Any, args: Any, kind: Any) -> Any:
    """To something of ``kind`` at the place of an array, the first two of an intrinsic's ``args``."""
    array, index = args[:2]
    data = context.make_array(signature.args[0])(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


@intrinsic
def load(context: Any, row: Any, first: Any) -> Any:
    """``row[first:first + 8]`` of a contiguous array, float64, or float32 and widened."""
    kind, align = (_DOUBLE, 8) if row.dtype == types.float64 else (_FLOAT, 4)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args, ir.VectorType(kind, WIDTH))
        values = builder.load(pointer, align=align)
        return values if kind is _DOUBLE else builder.fpext(values, _DOUBLES)

    return LANES(row, types.intp), generate


@intrinsic
def load_floats(context: Any, row: Any, first: Any) -> Any:
    """``row[first:first + 16]`` of a contiguous float32 array, as it is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, args, FLOATS.vector), align=4)

    return FLOATS(row, types.intp), generate


@intrinsic
def prefetch(context: Any, row: Any, index: Any) -> Any:
    """Bring ``row[place]``, which need not be there, into the second cache."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args, ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _INT(0), _INT(2), _INT(1)])
        return context.get_dummy_value()

    return types.void(row, types.intp), generate


@intrinsic(prefer_literal=True)
def half(context: Any, floats: Any, which: Any) -> Any:
    """The first (``which`` 0, a literal) or the last eight of sixteen, widened."""
    first = WIDTH * which.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = ir.Constant(ir.VectorType(_INT, WIDTH), list(range(first, first + WIDTH)))
        return builder.fpext(builder.shuffle_vector(args[0], args[0], places), _DOUBLES)

    return LANES(FLOATS, which), generate


@intrinsic
def store(context: Any, row: Any, first: Any, values: Any) -> Any:
    """``row[first:first + 8] = values`` of a contiguous float64 array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, signature, args, _DOUBLES), align=8)
        return context.get_dummy_value()

    return types.void(row, types.intp, LANES), generate


@intrinsic
def splat(context: Any, value: Any) -> Any:
    """One value in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), args[0], _INT(0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, WIDTH), [0] * WIDTH))

    return LANES(types.float64), generate


@intrinsic(prefer_literal=True)
def lane(context: Any, values: Any, number: Any) -> Any:
    """The value of one lane; ``number`` is a literal."""
    index = number.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], _INT(index))

    return types.float64(LANES, number), generate


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

    return yes(a, a, yes, yes), generate


@intrinsic
def look_up(context: Any, table: Any, packed: Any) -> Any:
    """``table[n % 16]`` in each lane, of 16 float64; ``packed`` holds the integer n in the last bits of its mantissa."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = builder.bitcast(args[1], _LONGS)
        find = _permuted if _has_wide_permutation() else _gathered
        return find(builder, _pointer(context, builder, signature, (args[0], _LONG(0)), _DOUBLES), places)

    return LANES(table, LANES), generate


def _has_wide_permutation() -> bool:
    """Whether what numba compiles for has it, which its settings can make less than this processor."""
    features = codegen.get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return llvm.get_process_triple().startswith("x86_64") and "+avx512f" in features.split(",")


def _permuted(builder: Any, table: Any, places: Any) -> Any:
    """Sixteen values in two registers, and one instruction, which looks at the last four bits of each place."""
    first, second = (builder.load(builder.gep(table, [_INT(i)]), align=8) for i in (0, 1))
    kind = ir.FunctionType(_DOUBLES, [_DOUBLES, _LONGS, _DOUBLES])
    name = "llvm.x86.avx512.vpermi2var.pd.512"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [first, places, second])


def _gathered(builder: Any, table: Any, places: Any) -> Any:
    """One value after another, from memory."""
    first = builder.bitcast(table, _DOUBLE.as_pointer())
    places = builder.and_(places, ir.Constant(_LONGS, [15] * WIDTH))
    out = ir.Constant(_DOUBLES, ir.Undefined)
    for i in range(WIDTH):
        value = builder.load(builder.gep(first, [builder.extract_element(places, _INT(i))]))
        out = builder.insert_element(out, value, _INT(i))
    return out


@intrinsic
def with_sixteenths(context: Any, values: Any, power: Any) -> Any:
    """n added to the bits of ``values`` from the 16ths of their exponents on; ``power`` holds the integer n in its mantissa's last bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits, power = (builder.bitcast(each, _LONGS) for each in args)
        sixteenths = builder.shl(power, ir.Constant(_LONGS, [48] * WIDTH))
        return builder.bitcast(builder.add(bits, sixteenths), _DOUBLES)

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
