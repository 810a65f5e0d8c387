"""Overrides: the `pattern=type` lines of ``llama-quantize --tensor-type-file``, read as llama.cpp reads them and written with proof.

llama.cpp's rules (tools/quantize/quantize.cpp, src/llama-quant.cpp): lines are whitespace-separated and know no comments; the
pattern is lower-cased and searched for anywhere in the name; the first line that matches wins; only tensors that llama.cpp would
quantize react. So `output.weight` also hits `blk.0.attn_output.weight`: a generated line is plain only where it hits one tensor.

An overridden tensor is skipped by llama.cpp's mix **and by its counters** (how many `attn_v` and `ffn_down` came before), so under
`Q3_K_M`, `Q4_K_M`, … later tensors that nobody named can get another type. `pin` finds them and adds lines that hold them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cerebellum.domain import Model, TensorTypes, block_of, role_of, tensor_types_of
from cerebellum.errors import OverrideError, TypeChoiceError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.patterns import compiled_pattern, lowered, names_with
from cerebellum.gguf.types import FTYPES, TYPES, fallback_type, quant_type

_SPACE = re.compile(r"[ \t\n\v\f\r]+")  # what C++ streams skip between words

#: Rounds of `pin` that hold only what has shifted; after them all later tensors of a shifting role are held at once.
PATIENT_ROUNDS = 3

Pairs = tuple[tuple[str, str], ...]
#: A dry run of llama.cpp: (pattern, type) pairs → the type every tensor would be stored in.
Realized = Callable[[Pairs], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Override:
    """One line. ``why`` is empty for what was asked for, and says why a pin is there."""

    pattern: str
    type: str
    why: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.pattern}={self.type}"


Overrides = tuple[Override, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """What one line does to a model: ``tensors`` get its type; ``matched`` are all names that its pattern is found in."""

    override: Override
    tensors: tuple[str, ...]
    matched: tuple[str, ...]


def parse_overrides(text: str) -> Overrides:
    """The overrides in an override file's ``text``, none for an empty one. Raises `OverrideError` with the line number."""
    numbered = enumerate(text.split("\n"), start=1)
    return tuple(_parse_word(word, number) for number, line in numbered for word in override_words(line))


def override_words(line: str) -> tuple[str, ...]:
    """The words of a line as C++ streams split it: a no-break space is part of a word."""
    return tuple(word for word in _SPACE.split(line) if word)


def _parse_word(word: str, line: int) -> Override:
    pattern, equals, kind = word.partition("=")
    if not equals or not pattern or not kind or kind != kind.strip():
        hint = (
            "llama.cpp knows no comments here" if word.startswith(("#", "//")) else "write pattern=type without spaces"
        )
        raise OverrideError(f"line {line}: {word!r} is not an override; {hint}")
    try:
        override = Override(lowered(pattern), quant_type(kind).name)
        compiled_pattern(override.pattern)
    except (TypeChoiceError, OverrideError) as error:
        raise OverrideError(f"line {line}: {word!r}: {error}") from error
    return override


def format_overrides(overrides: Iterable[Override]) -> str:
    """The override file for stock ``llama-quantize --tensor-type-file``: one line each; empty for none."""
    return "".join(f"{override}\n" for override in overrides)


def pairs(overrides: Iterable[Override]) -> Pairs:
    """(pattern, type) pairs, as `cerebellum.llamacpp.protocol.Backend` takes them."""
    return tuple((o.pattern, o.type) for o in overrides)


def resolve(overrides: Sequence[Override], model: Model, *, strict: bool = True) -> tuple[Hit, ...]:
    """Which tensors each override hits, first match first. With ``strict``, one that hits none raises `OverrideError`."""
    can_change = {t.name for t in quantizable_tensors(model)}
    taken: dict[str, Override] = {}
    hits, names = [], [t.name for t in model.tensors]
    for override in overrides:
        matched = names_with(override.pattern, names)
        new = tuple(name for name in matched if name in can_change and name not in taken)
        if strict and not new:
            raise OverrideError(f"the override {override} {_why_none(matched, taken, model)}")
        taken |= dict.fromkeys(new, override)
        hits.append(Hit(override, new, matched))
    return tuple(hits)


def _why_none(matched: tuple[str, ...], taken: Mapping[str, Override], model: Model) -> str:
    if not matched:
        return f"hits no tensor of {model.path.name}; `cerebellum inspect` lists them"
    earlier = next((taken[name] for name in matched if name in taken), None)
    if earlier:
        return f"changes nothing: {earlier} comes first and takes {matched[0]}; drop one of them or put this one first"
    return f"hits only tensors that llama.cpp never quantizes ({', '.join(matched[:3])}); drop it"


def check_acts(ftype: str) -> None:
    """Raises `OverrideError` where llama.cpp takes no overrides: under a file type that isn't a quantized one it ignores them."""
    if not TYPES[FTYPES[ftype][1]].quantized:
        raise OverrideError(
            f"under the file type {ftype} llama.cpp stores every tensor as {FTYPES[ftype][1]} and ignores overrides; take a quantized file "
            "type, Q8_0 for example"
        )


def check_realized(hits: Iterable[Hit], types: Mapping[str, str], model: Model) -> None:
    """Every tensor that a line hits has, among the ``types`` of a dry run, what the line says, or what stands in for it where a row can't
    hold that. Raises `OverrideError` naming the first that hasn't."""
    for name, kind in requested_types(hits).items():
        tensor = model.tensor(name)
        assert tensor is not None
        wanted = fallback_type(kind, tensor.row_length).name
        if types.get(name) != wanted:
            raise OverrideError(f"llama.cpp would store {name} as {types.get(name)} where an override says {kind}")


def requested_types(hits: Iterable[Hit]) -> dict[str, str]:
    """Tensor name → the type asked for; what is stored can still fall back where a row can't hold it."""
    return {name: hit.override.type for hit in hits for name in hit.tensors}


def overrides_for(tensor_types: TensorTypes, model: Model) -> Overrides:
    """One override per swap, in the order of blocks: the plain name where it hits only that tensor, else anchored and escaped.

    Raises `OverrideError` for a tensor the model lacks, that llama.cpp never quantizes, or that no pattern can single out.
    """
    ordered = sorted(tensor_types, key=lambda swap: _file_order(swap.tensor))
    overrides = tuple(Override(_pattern_for(swap.tensor, model), swap.type) for swap in ordered)
    prove(overrides, model)
    return overrides


def prove(overrides: Sequence[Override], model: Model) -> tuple[Hit, ...]:
    """The proof table: every line beside the one tensor it hits. Raises `OverrideError` where a line hits another number."""
    hits = resolve(overrides, model)
    for hit in hits:
        if len(hit.matched) != 1:
            raise OverrideError(f"{hit.override} hits {len(hit.matched)} tensors: {', '.join(hit.matched[:4])}")
    return hits


def _file_order(name: str) -> tuple[int, str]:
    block = block_of(name)
    return (-1 if block is None else block, name)


def _pattern_for(name: str, model: Model) -> str:
    """A pattern whose only match in the model is ``name``: llama-quantize lower-cases it, so capitals become ``.``."""
    if model.tensor(name) is None:
        raise OverrideError(f"{model.path.name} has no tensor {name}; `cerebellum inspect` lists them")
    anchored = "".join("." if c.isupper() or not c.isascii() else re.escape(c) for c in name)
    for pattern in (name, f"^{anchored}$"):
        if pattern == lowered(pattern) and "=" not in pattern and _hits_only(pattern, name, model):
            return pattern
    raise OverrideError(
        f"no override can name {name} alone in {model.path.name}: its letter case or signs are in the way"
    )


def _hits_only(pattern: str, name: str, model: Model) -> bool:
    try:
        return names_with(pattern, [t.name for t in model.tensors]) == (name,)
    except OverrideError:
        return False


def pin(tensor_types: TensorTypes, base_types: Mapping[str, str], realized: Realized, model: Model) -> Overrides:
    """Overrides under which llama.cpp stores exactly ``base_types`` with ``tensor_types``: the swaps' own, then pins, marked with why.

    Each round is one dry run; every round holds at least one more tensor or ends, so it always ends. Raises `OverrideError`
    where llama.cpp won't store a tensor as wanted (a row that falls back, a tensor it never quantizes).
    """
    wanted = {**base_types, **{swap.tensor: swap.type for swap in tensor_types}}
    asked, pins = overrides_for(tensor_types, model), dict[str, str]()
    named = {swap.tensor for swap in tensor_types}
    rounds = 0
    while True:
        overrides = asked + _pin_lines(pins, wanted, model)
        got = realized(pairs(overrides))
        shifted = [name for name in wanted if got.get(name) != wanted[name]]
        if not shifted:
            return overrides
        if stuck := next((name for name in shifted if name in named or name in pins), None):
            raise OverrideError(f"llama.cpp stores {stuck} as {got.get(stuck)} where {wanted[stuck]} was asked for")
        rounds += 1
        held = shifted if rounds <= PATIENT_ROUNDS else _later_too(shifted, wanted, named | set(pins), model)
        pins |= {name: _why(got.get(name), wanted[name]) for name in held}


def _why(got: str | None, wanted: str) -> str:
    if got == wanted:
        return (
            f"holds the base's {wanted}: llama.cpp's mix counts blocks, and the lines above put its count out of step"
        )
    return f"holds the base's {wanted}: next to the lines above llama.cpp's mix would store {got}"


def _pin_lines(pins: Mapping[str, str], wanted: Mapping[str, str], model: Model) -> Overrides:
    lines = overrides_for(tensor_types_of({name: wanted[name] for name in pins}), model)
    tensors = sorted(pins, key=_file_order)
    return tuple(Override(line.pattern, line.type, pins[name]) for line, name in zip(lines, tensors, strict=True))


def _later_too(shifted: list[str], wanted: Mapping[str, str], taken: set[str], model: Model) -> list[str]:
    """``shifted`` and every free tensor of the same role in a later block: what a counter that is out of step reaches."""
    first = {role_of(name): _file_order(name) for name in sorted(shifted, key=_file_order, reverse=True)}
    later = [
        t.name
        for t in quantizable_tensors(model)
        if t.role in first and _file_order(t.name) > first[t.role] and t.name in wanted and t.name not in taken
    ]
    return sorted({*shifted, *later}, key=_file_order)
