"""What each option must be, told by its name before anything is opened.

The types are those that `cerebellum.keywords` and the functions of `cerebellum.api` spell out; the ranges are below, and the command line
takes them from here.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cerebellum.errors import InputError
from cerebellum.quoting import did_you_mean, printable

P = ParamSpec("P")
R = TypeVar("R")

#: The least and the most that each number may be. Above the upper bounds llama.cpp aborts, or no machine has the memory.
RANGES: dict[str, tuple[float, float]] = {
    "ctx": (8, 1 << 20), "ubatch_size": (1, 1 << 16), "chunks": (1, math.inf), "workers": (1, 256), "threads": (1, 512),
    "gpu_layers": (-1, 10_000), "gpus_per_worker": (1, 64),
    "allow": (0, math.inf), "max_growth": (0, math.inf), "n_random": (0, 10_000), "seed": (0, (1 << 63) - 1),
    "budget_tokens": (1, math.inf), "budget_minutes": (0, math.inf), "n_shuffled": (0, 10_000), "replay_bytes": (0, math.inf),
    "limit": (1, math.inf), "bench_limit": (1, math.inf), "margin": (0, 100), "bench_margin": (0, 100), "shots": (0, 1000),
    "bench_shots": (0, 1000), "samples": (1, 1000), "fit_ctx": (1, 1 << 27),
}  # fmt: skip
#: Options whose name on the command line isn't their own.
SPELLED = {"n_random": "--random", "n_shuffled": "--shuffled", "replay_bytes": "--replay-memory"}
#: What the command line takes without a name.
ARGUMENTS = frozenset({"model", "models", "map", "ftype", "sizes"})


def option_of(name: str) -> str:
    """The option ``name`` as a sentence names it: with what the command line calls it, unless it is an argument there."""
    return name if name in ARGUMENTS else f"{name} ({SPELLED.get(name, '--' + name.replace('_', '-'))})"


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which first looks at its arguments: of the types of its signature, and within `RANGES`. Raises `InputError`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check_ranges(check_types(function, args, kwargs))
        return function(*args, **kwargs)

    return call


def check_types(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name. Raises `InputError` for an argument of another type than ``function`` names, or an option that it hasn't."""
    hints = _hints(function)
    parameters = inspect.signature(function).parameters
    given = dict(zip(parameters, args, strict=False)) | dict(kwargs)
    for name, value in given.items():
        if value is None and name in parameters and parameters[name].default is not inspect.Parameter.empty:
            continue  # not given
        if name not in hints:
            if value is None:
                continue
            raise InputError(f"unknown option {name!r}{did_you_mean(name, hints)}; cerebellum.keywords lists them")
        if not _fits(value, hints[name]):
            raise InputError(f"{option_of(name)} is {printable(repr(value), 80)}; it must be {_wanted(hints[name])}")
    return given


def check_ranges(given: Mapping[str, Any]) -> None:
    """Raises `InputError` for a number that isn't finite or out of its range."""
    for name, (least, most) in RANGES.items():
        value = given.get(name)
        if value is None or isinstance(value, str):
            continue
        if not (math.isfinite(value) and least <= value <= most):
            bounds = f"of at least {least}" if math.isinf(most) else f"from {least} to {most}"
            raise InputError(f"{option_of(name)} is {value}; it must be a number {bounds}")


def blocks_of(value: str | Iterable[int]) -> tuple[int, ...]:
    """Numbers of blocks, or ``0-3,7`` → (0, 1, 2, 3, 7). Raises `InputError`."""
    if not isinstance(value, str):
        return tuple(dict.fromkeys(value))
    blocks: list[int] = []
    for word in value.split(","):
        first, dash, last = word.strip().partition("-")
        ends = [first, last] if dash else [first]
        if not all(n.isascii() and n.isdigit() and len(n) < 5 for n in ends):
            raise InputError(f"{word!r} is not a block or a range of blocks; write 0-3,7 for example")
        if last and int(last) < int(first):
            raise InputError(f"{word!r} is a range that ends before it begins; write {last}-{first}")
        blocks += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(blocks))


# -- types of values ---------------------------------------------------------------------------------------------------


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Option → its type: a function's parameters, and the keys of the typed dictionary that its keywords are."""
    from cerebellum.allocation.effects import Objective
    from cerebellum.stats.classes import Thresholds

    names = {"Objective": Objective, "Thresholds": Thresholds, "Iterable": collections.abc.Iterable, "Path": Path}
    hints = typing.get_type_hints(function, localns=names)
    hints.pop("return", None)
    options = hints.pop("options", None) or hints.pop("keywords", None)
    if options is not None:
        hints |= {
            name: hint | None
            for name, hint in typing.get_type_hints(typing.get_args(options)[0], localns=names).items()
        }
    return hints


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_is_one(value, kind) for kind in _kinds(hint))


def _is_one(value: Any, kind: Any) -> bool:
    """Whether a value is of one type. Of a type that isn't looked into (a protocol, an iterator's items) any value is."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if origin in (collections.abc.Sequence, collections.abc.Iterable):
        return _is_list(value, typing.get_args(kind)[0])
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    wanted = os.PathLike if kind is Path else kind
    is_class = isinstance(wanted, type) and not getattr(wanted, "_is_protocol", False)
    return isinstance(value, wanted) if is_class else True


def _is_list(value: Any, item: Any) -> bool:
    """Whether a value can be gone through, and is no text; where its items can be seen without using them up, each is an ``item``."""
    if isinstance(value, str | bytes) or not isinstance(value, collections.abc.Iterable):
        return False
    return not isinstance(value, list | tuple | set | frozenset | range) or all(_fits(each, item) for each in value)


def _wanted(hint: Any) -> str:
    """What a type is, in words."""
    kinds = [kind for kind in _kinds(hint) if kind is not type(None)]
    words = []
    if Path in kinds:
        words.append("a path")
    elif str in kinds:
        words.append("a text")
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal:
            words.append(" or ".join(map(repr, typing.get_args(kind))))
        elif typing.get_origin(kind) in (collections.abc.Sequence, collections.abc.Iterable):
            items = {int: "whole numbers", str: "texts"}.get(typing.get_args(kind)[0], "paths")
            words.append(f"a list of {items}")
        elif kind in (bool, int, float):
            words.append({bool: "True or False", int: "a whole number", float: "a number"}[kind])
        elif isinstance(kind, type) and kind not in (str, Path):
            words.append(f"of the class {kind.__name__}")
    return " or ".join(words)
