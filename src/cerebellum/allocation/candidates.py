"""Which types each tensor may take: those that its rows hold, that llama.cpp accepts and that the user allows."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cerebellum.domain import Model, Tensor
from cerebellum.errors import TensorChoiceError, TypeChoiceError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.types import FTYPES, TYPES, fallback_type, needs_imatrix, quant_type
from cerebellum.quoting import did_you_mean

#: Types that may be taken where the user names none. The last line: only with an importance matrix.
DEFAULT_TYPES = (
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ3_S", "IQ4_NL", "IQ4_XS",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS",
)  # fmt: skip
#: Without an importance matrix llama.cpp takes these for embeddings alone. ggml makes their tables in each process, for 20 s of CPU time.
SLOW_TABLES = frozenset({"IQ1_M", "IQ2_S"})


@dataclass(frozen=True, slots=True)
class TypeRules:
    """What the user allows. ``types``, ``never``: names or patterns of types (``IQ*``); ``only``: roles, names or patterns of tensors
    that may change (none: all); ``keep``: (role, name or pattern of tensors, the one type that they get);
    ``same_type``: roles whose tensors in a block get one type together, for backends that join them into one matrix."""

    types: tuple[str, ...] = DEFAULT_TYPES
    never: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    keep: tuple[tuple[str, str], ...] = ()
    same_type: tuple[tuple[str, ...], ...] = ()


def allowed_types(rules: TypeRules) -> tuple[str, ...]:
    """The types that the rules name, in the order of the table of types. Raises `TypeChoiceError` where a pattern names none."""
    asked, forbidden = _named(rules.types), _named(rules.never)
    types = tuple(name for name in TYPES if name in asked and name not in forbidden)
    if not types:
        raise TypeChoiceError("--types and --never leave no type; allow one, Q4_K for example")
    return types


def _named(patterns: Sequence[str]) -> set[str]:
    types: set[str] = set()
    for pattern in patterns:
        names = fnmatch.filter(TYPES, pattern.strip().upper())
        if not names:
            raise TypeChoiceError(
                f"no type is called {pattern!r}{_type_meant(pattern)}; the types are {', '.join(TYPES)}"
            )
        types.update(names)
    return types


def _type_meant(pattern: str) -> str:
    """What was meant by a pattern that no type has: a file type, which is a mix of types, or a type with a name near it."""
    upper = pattern.strip().upper()
    if upper in FTYPES:
        return f" ({upper} is a file type, a mix of types: its most common one is {FTYPES[upper][1]})"
    return did_you_mean(upper, TYPES)


def candidate_types(
    source: Model,
    base_types: Mapping[str, str],
    rules: TypeRules,
    importance: Iterable[str] = (),
    unused: Iterable[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Tensor → the types it may be stored in, smallest first; only tensors whose type may change.

    Types are realized ones: what a row can't hold is replaced by what llama.cpp stores instead. The source's own type is among them (it
    costs no error) unless it is F32 or forbidden. ``importance``: tensors that the importance matrix has; without any `SLOW_TABLES` are
    left out, unless the user names types. ``unused``: tensors that no forward pass reads, which stay. Raises `TensorChoiceError` or
    `TypeChoiceError`.
    """
    tensors = [t for t in quantizable_tensors(source) if t.name not in set(unused)]
    kept = kept_types(tensors, rules)
    named = chosen_tensors(tensors, rules.only)
    types, forbidden, known = allowed_types(rules), _named(rules.never), frozenset(importance)
    if not known and rules.types == DEFAULT_TYPES:
        types = tuple(kind for kind in types if kind not in SLOW_TABLES)
    candidates: dict[str, tuple[str, ...]] = {}
    for tensor in tensors:
        if tensor.name in kept:
            candidates[tensor.name] = (kept[tensor.name],)
        elif tensor.name in named:
            candidates[tensor.name] = _types_of(tensor, types, forbidden, known) or (base_types[tensor.name],)
    if not candidates:
        raise TensorChoiceError(f"{source.path.name} has no tensor whose type could change")
    return candidates


def _types_of(tensor: Tensor, types: Sequence[str], forbidden: set[str], known: frozenset[str]) -> tuple[str, ...]:
    realized = {fallback_type(kind, tensor.row_length).name for kind in types} - forbidden
    if tensor.type != "F32" and tensor.type not in forbidden:
        realized.add(tensor.type)
    fits = [
        kind for kind in realized if tensor.type == kind or not needs_imatrix(kind, tensor.name) or tensor.name in known
    ]
    return tuple(sorted(fits, key=lambda kind: (tensor.bytes_as(TYPES[kind]), kind)))


def kept_types(tensors: Sequence[Tensor], rules: TypeRules) -> dict[str, str]:
    """Tensor → the one realized type that ``--keep`` gives it. Raises `TensorChoiceError` where a rule names no tensor."""
    kept: dict[str, str] = {}
    for pattern, kind in rules.keep:
        wanted = quant_type(kind).name
        names = chosen_tensors(tensors, (pattern,))
        kept |= {t.name: fallback_type(wanted, t.row_length).name for t in tensors if t.name in names}
    return kept


def chosen_tensors(tensors: Sequence[Tensor], patterns: Sequence[str]) -> set[str]:
    """Names of the tensors that some pattern names by role or name. Raises `TensorChoiceError`."""
    if not patterns:
        return {t.name for t in tensors}
    chosen: set[str] = set()
    for pattern in patterns:
        names = {t.name for t in tensors if any(fnmatch.fnmatchcase(n, pattern) for n in (t.role, t.name))}
        if not names:
            roles = sorted({t.role for t in tensors})
            raise TensorChoiceError(
                f"no tensor that can change is called {pattern!r}{did_you_mean(pattern, roles)}; the roles are {', '.join(roles)}"
            )
        chosen |= names
    return chosen


def undominated(types: Sequence[str], n_bytes: Mapping[str, int], errors: Mapping[str, float]) -> tuple[str, ...]:
    """``types`` without those that another one beats: no more bytes and no more error; smallest first, errors falling."""
    best: list[str] = []
    for kind in sorted(types, key=lambda k: (n_bytes[k], errors[k], k)):
        if not best or errors[kind] < errors[best[-1]]:
            best.append(kind)
    return tuple(best)
