"""How the base differs from the stock file of its type: excluded tensors, its own overrides, one type for all tensors, and tensors that
can't be stored at their type of the mix.

All of these are override lines of the base, so the file, its dry runs and the recipe's pins agree about them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cerebellum.domain import Model, Tensor, TensorType, tensor_types_of
from cerebellum.errors import InputError, OverrideError, TensorStoreError
from cerebellum.gguf import model_file
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.mix import Mix, MixOptions
from cerebellum.gguf.override_file import read_overrides
from cerebellum.gguf.overrides import Override, Overrides, check_acts, overrides_for, pairs, requested_types, resolve
from cerebellum.gguf.patterns import compiled_pattern, lowered
from cerebellum.gguf.types import FTYPES, needs_imatrix
from cerebellum.llamacpp.protocol import Backend
from cerebellum.verbs.imatrix_entries import entry_fits

#: Tensors that turn out not to hold what they should, before it is the file that is wrong.
MOST_LEFT_OUT = 32
EXCLUDED = "excluded"
#: A pattern that is found in every name.
EVERY = "."


def excluded(patterns: Sequence[str], source: Model) -> tuple[Tensor, ...]:
    """The tensors that ``patterns`` are found in, in the order of the file. Raises `OverrideError` for one that is found in none."""
    names: set[str] = set()
    for pattern in patterns:
        if not pattern.strip():
            raise OverrideError(
                "exclude (--exclude) is empty, which would leave every tensor out: name a part of a tensor's name"
            )
        search = compiled_pattern(lowered(pattern)).search
        hits = {tensor.name for tensor in quantizable_tensors(source) if search(tensor.name)}
        if not hits:
            raise OverrideError(f"--exclude {pattern} is found in no tensor of {source.path.name} that is quantized")
        names |= hits
    return tuple(tensor for tensor in quantizable_tensors(source) if tensor.name in names)


def mix_of(options: MixOptions, source: Model, ftype: str) -> Mix:
    """The lines that ``options`` ask for: kept tensors first, then the file's, then one for all others. Raises `OverrideError`."""
    if not options.shapes_base:
        return Mix()
    check_acts(ftype)
    kept = excluded(options.exclude, source)
    lines = list(overrides_for(tensor_types_of((t.name, t.type) for t in kept), source))
    if options.overrides is not None:
        named = read_overrides(options.overrides)
        try:
            resolve(named, source)
        except OverrideError as error:
            raise OverrideError(f"{options.overrides.name}: {error}") from error
        lines += named
    if options.pure:
        lines.append(Override(EVERY, FTYPES[ftype][1]))
    return Mix(tuple(lines), {t.name: EXCLUDED for t in kept})


def without_entries(mix: Mix, types: Mapping[str, str], source: Model, ftype: str, imatrix: model_file.Imatrix) -> Mix:
    """``mix``, and tensors left out that would be stored (``types``: a dry run's) as a type that needs an entry of the importance matrix,
    which hasn't one."""
    for tensor in quantizable_tensors(source):
        kind = types[tensor.name]
        if kind != tensor.type and needs_imatrix(kind, tensor.name, ftype) and not entry_fits(imatrix, tensor):
            mix = mix.leaving_out(
                tensor, kind, f"the importance matrix has no entry for it, which {kind} needs", source
            )
    return mix


def write_mix(
    backend: Backend, source: Model, out: Path, ftype: str, mix: Mix, imatrix: Path | None, asked: Overrides = ()
) -> Mix:
    """Write ``source`` as ``ftype`` with the lines of ``mix``; tensors that can't be stored so are left out, which the returned mix says.

    ``asked`` are lines that the user wrote: a tensor that one of them is about is not left out. Raises as `Backend.quantize` does.
    """
    named = requested_types(resolve(asked, source, strict=False))
    if imatrix is not None and (ftype.startswith("IQ") or ftype == "Q2_K_S" or mix.lines):
        types = backend.types(source.path, ftype, pairs(mix.lines), imatrix)
        mix = without_entries(mix, types, source, ftype, model_file.load_imatrix(imatrix))
    while True:
        if wrong := next((name for name in mix.left_out if name in named), None):
            raise InputError(f"{wrong} can't be {named[wrong]} as an override says: {mix.left_out[wrong]}")
        try:
            backend.quantize(source.path, out, ftype, pairs(mix.lines), imatrix)
        except TensorStoreError as error:
            tensor = source.tensor(error.tensor)
            if tensor is None or tensor.name in mix.left_out or len(mix.cannot) >= MOST_LEFT_OUT:
                raise
            why = str(error).rpartition(": ")[2]
            mix = mix.leaving_out(tensor, error.kind, f"{why} for {error.kind}", source)
        else:
            return mix


def plain(mix: Mix) -> dict[str, Any]:
    """``mix`` as JSON holds it."""
    return {
        "lines": [list(pair) for pair in pairs(mix.lines)],
        "left_out": dict(mix.left_out),
        "cannot": [[swap.tensor, swap.type, why] for swap, why in mix.cannot.items()],
    }


def from_plain(data: Mapping[str, Any]) -> Mix:
    """What `plain` made."""
    lines = tuple(Override(pattern, kind) for pattern, kind in data["lines"])
    return Mix(lines, dict(data["left_out"]), {TensorType(tensor, kind): why for tensor, kind, why in data["cannot"]})


def barrier(
    mix: Mix, source: Model, imatrix: model_file.Imatrix | None, cannot_have: Mapping[str, frozenset[str]] | None = None
) -> Callable[[TensorType], str]:
    """Why a swap isn't tried, as a function of it, "" where it is: the tensor is excluded, or known not to hold the type.

    ``cannot_have``: tensor → types that the importance matrix's gaps forbid it.
    """
    forbidden = cannot_have or {}
    tensors = {tensor.name: tensor for tensor in source.tensors}

    def barred(swap: TensorType) -> str:
        if mix.left_out.get(swap.tensor) == EXCLUDED:
            return "is excluded"
        if swap in mix.cannot:
            return f"can't be {swap.type}: {mix.cannot[swap]}"
        if imatrix and needs_imatrix(swap.type, swap.tensor) and not entry_fits(imatrix, tensors[swap.tensor]):
            return f"has no entry in the importance matrix, which {swap.type} needs"
        if swap.type in forbidden.get(swap.tensor, ()):
            return f"can't be {swap.type}: the importance matrix says too little of its inputs"
        return ""

    return barred


def told(mix: Mix, source: Model) -> list[str]:
    """What is said of tensors that were left out for a reason that nobody asked for."""
    types = source.types
    return [
        f"{name} stays {types[name]}: {why}. Another type for it can be named with an override"
        for name, why in mix.left_out.items()
        if why != EXCLUDED
    ]
