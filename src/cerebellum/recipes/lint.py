"""What may go wrong when a recipe or an override file meets a model: every finding with its line and its tensor."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cerebellum.domain import Model, Tensor
from cerebellum.errors import OverrideError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.overrides import Hit, Override, parse_overrides, resolve
from cerebellum.gguf.patterns import compiled_pattern
from cerebellum.gguf.types import FTYPES, NEEDS_IMATRIX, TYPES, fallback_type, needs_imatrix

#: Tensors outside the blocks whose names are found in others' names too.
OUTSIDE = ("output.weight", "token_embd.weight")
#: Tensors that a finding about many of them names.
_NAMED = 3


class Level(enum.StrEnum):
    """An *error* is refused by ``apply``; a *warning* is shown and goes on; a *note* only says what is so."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """``code`` names the kind of fault; ``line`` is 0 where no line is to blame, ``tensor`` empty where none is."""

    level: Level
    code: str
    message: str
    line: int = 0
    tensor: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One override and the line of the file that it is on. ``tensor``: the one that a recipe names; empty for a pattern of an override
    file."""

    number: int
    override: Override
    tensor: str = ""

    @property
    def told(self) -> str:
        """The line as its author wrote it."""
        return f"{self.tensor} = {self.override.type}" if self.tensor else str(self.override)


def read_lines(text: str) -> tuple[tuple[Line, ...], tuple[Finding, ...]]:
    """The overrides of a file with their lines, and a finding for every word that isn't one."""
    lines, findings = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        for word in line.split():
            try:
                lines += [Line(number, override) for override in parse_overrides(word)]
            except OverrideError as error:
                findings.append(Finding(Level.ERROR, "malformed", str(error).removeprefix("line 1: "), number))
                if word.startswith(("#", "//")):
                    break  # one finding for a comment, not one for each of its words
    return tuple(lines), tuple(findings)


@dataclass(frozen=True, slots=True)
class LintSubject:
    """What a recipe is tried on. ``important``: tensors with an entry in the importance matrix, None where none was given."""

    model: Model
    base: str
    important: Collection[str] | None = None
    complete: bool = False


def lint_lines(lines: Sequence[Line], subject: LintSubject) -> list[Finding]:
    """Everything that can be seen without llama.cpp, in the order of the lines; what is about the whole comes last."""
    hits = resolve([line.override for line in lines], subject.model, strict=False)
    findings: list[Finding] = []
    for i, (line, hit) in enumerate(zip(lines, hits, strict=True)):
        findings += _pattern(line, hit, lines[:i], subject.model)
        findings += _types(line, hit, subject)
    return [*findings, *_whole(hits, subject)]


def _pattern(line: Line, hit: Hit, earlier: Sequence[Line], model: Model) -> list[Finding]:
    """Patterns that hit nothing, or more than they say."""
    number, name = line.number, line.tensor or line.override.pattern
    if not hit.matched:
        return [Finding(Level.ERROR, "hits-nothing", f"{line.told} hits no tensor of {model.path.name}", number, name)]
    if not hit.tensors:
        taken = next((e for e in earlier if compiled_pattern(e.override.pattern).search(hit.matched[0])), None)
        why = f"line {taken.number} ({taken.told}) takes it first" if taken else "llama.cpp never quantizes it"
        return [Finding(Level.ERROR, "changes-nothing", f"{line.told} changes nothing: {why}", number, hit.matched[0])]
    if len(hit.matched) == 1:
        return []
    return _too_many(line, hit)


def _too_many(line: Line, hit: Hit) -> list[Finding]:
    """Several hits: surely not meant where the pattern is the whole name of one tensor, hardly where a block number goes on."""
    pattern = line.override.pattern
    more = [name for name in hit.matched if name != pattern]
    if pattern in hit.matched or pattern in OUTSIDE:
        only = f"^{pattern.replace('.', chr(92) + '.')}$"
        text = (
            f"{line.told} reads as the tensor {pattern}, but also hits {_list(more)}: a pattern is searched for anywhere in a name; "
            f"write {only}"
        )
        return [Finding(Level.ERROR, "hits-more", text, line.number, more[0])]
    if pattern[-1].isdigit() and (longer := [n for n in hit.matched if _goes_on(pattern, n)]):
        text = f"{line.told} ends in a number and also hits {_list(longer)}: end it with a dot"
        return [Finding(Level.WARNING, "hits-more", text, line.number, longer[0])]
    return []


def _goes_on(pattern: str, name: str) -> bool:
    """Whether the first match ends in the middle of a number."""
    match = compiled_pattern(pattern).search(name)
    return match is not None and name[match.end() : match.end() + 1].isdigit()


def _types(line: Line, hit: Hit, subject: LintSubject) -> list[Finding]:
    """Types that a row can't hold, and types that need an importance matrix."""
    kind, findings = TYPES[line.override.type], []
    tensors = {t.name: t for t in subject.model.tensors}
    for name in hit.tensors:
        row = tensors[name].row_length
        if not kind.fits(row):
            stored = fallback_type(kind.name, row).name
            text = f"{name} has rows of {row}, which {kind.name} (blocks of {kind.block_size}) can't hold: llama.cpp stores {stored}"
            findings.append(Finding(Level.ERROR, "row-cannot-hold", text, line.number, name))
    needy = [n for n in hit.tensors if needs_imatrix(kind.name, n)]
    if lacking := [n for n in needy if subject.important is None or n not in subject.important]:
        why = "none was given" if subject.important is None else f"the one given has no entry for {_list(lacking)}"
        text = f"{kind.name} needs an importance matrix, and {why}"
        findings.append(Finding(Level.ERROR, "needs-imatrix", text, line.number, lacking[0]))
    return findings


def _whole(hits: Sequence[Hit], subject: LintSubject) -> list[Finding]:
    """What no single line is to blame for."""
    model, findings = subject.model, []
    default = TYPES[FTYPES[subject.base][1]]
    if hits and not default.quantized:
        text = f"the base {subject.base} is not a quantized one: llama.cpp ignores all {len(hits)} overrides"
        findings.append(
            Finding(Level.ERROR, "base-not-quantized", text, 0, hits[0].matched[0] if hits[0].matched else "")
        )
    if default.name in NEEDS_IMATRIX and subject.important is None:
        findings.append(
            Finding(
                Level.ERROR, "needs-imatrix", f"the base {subject.base} needs an importance matrix, and none was given"
            )
        )
    quantized = [t.name for t in model.tensors if TYPES[t.type].quantized]
    if quantized:
        text = f"{model.path.name} is quantized already ({len(quantized)} tensors, {_list(quantized)}): they would be quantized twice"
        findings.append(Finding(Level.WARNING, "requantized", text, 0, quantized[0]))
    named = {name for hit in hits for name in hit.tensors}
    free = [t for t in quantizable_tensors(model) if t.name not in named]
    falling = [t for t in free if default.quantized and not default.fits(t.row_length)]
    for kind in sorted({fallback_type(default.name, t.row_length).name for t in falling}):
        those = [t for t in falling if fallback_type(default.name, t.row_length).name == kind]
        size = sum(t.bytes_as(TYPES[kind]) for t in those)
        text = (
            f"rows of {_list([t.name for t in those])} can't hold the base's {default.name}: llama.cpp stores {kind} without a word "
            f"({size:,} bytes)"
        )
        findings.append(Finding(Level.WARNING, "falls-back", text, 0, those[0].name))
    return [*findings, *_uncovered(free, subject)]


def _uncovered(free: Sequence[Tensor], subject: LintSubject) -> list[Finding]:
    """Bytes that the lines say nothing about."""
    if not free:
        return []
    share = sum(t.n_elements for t in free) / subject.model.n_weights
    largest = max(free, key=lambda t: t.n_elements)
    text = (
        f"{len(free)} tensors with {share:.0%} of the weights are not named, the largest {largest.name}: the base {subject.base} "
        "decides them"
    )
    if subject.complete:
        return [Finding(Level.WARNING, "not-covered", f"the recipe calls itself complete, but {text}", 0, largest.name)]
    return [Finding(Level.NOTE, "not-covered", text, 0, largest.name)]


def lint_shifts(
    hits: Sequence[Hit], base: Mapping[str, str], realized: Mapping[str, str], numbers: Mapping[str, int]
) -> list[Finding]:
    """What a dry run of llama.cpp shows: tensors that nobody named and that get another type (``base`` → ``realized``), and named ones
    that don't get theirs. ``numbers``: tensor → line that names it."""
    asked = {name: hit.override.type for hit in hits for name in hit.tensors}
    findings = []
    for name, kind in realized.items():
        if name in asked:
            if kind != asked[name]:
                text = f"{name} is asked for as {asked[name]}, llama.cpp would store {kind}"
                findings.append(Finding(Level.ERROR, "not-stored", text, numbers.get(name, 0), name))
        elif kind != base.get(name, kind):
            text = (
                f"{name} is not named and shifts from {base[name]} to {kind}: llama.cpp's mix counts tensors, and named ones don't count. "
                "`recipe apply` and `recipe export` add a line that holds it"
            )
            findings.append(Finding(Level.WARNING, "shifts", text, 0, name))
    return findings


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
