"""What may go wrong when a recipe or an override file meets a model: every finding with its line and its tensor."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cerebellum.domain import Model, Tensor
from cerebellum.errors import OverrideError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.overrides import Hit, Override, override_words, parse_overrides, resolve
from cerebellum.gguf.types import FTYPES, NEEDS_IMATRIX, STORED, TYPES, fallback_type, needs_imatrix
from cerebellum.recipes.misread import listed, misread
from cerebellum.recipes.toml_form import BOM


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
    if text.startswith(BOM):
        why = "the file begins with a byte order mark, which llama.cpp takes for a part of the first pattern; save it without"
        findings.append(Finding(Level.ERROR, "malformed", why, 1))
    for number, line in enumerate(text.removeprefix(BOM).split("\n"), start=1):
        for word in override_words(line):
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
    tensors = {t.name: t for t in quantizable_tensors(subject.model)}
    takers: dict[str, Line] = {}
    findings: list[Finding] = []
    for line, hit in zip(lines, hits, strict=True):
        findings += _pattern(line, hit, takers, subject.model)
        findings += _types(line, hit, tensors, subject.important)
        takers |= dict.fromkeys(hit.tensors, line)
    return [*findings, *_whole(hits, subject)]


def lint_patterns(lines: Sequence[Line], model: Model) -> list[Finding]:
    """Lines that hit other tensors than they seem to say."""
    hits = resolve([line.override for line in lines], model, strict=False)
    return [f for line, hit in zip(lines, hits, strict=True) if hit.tensors for f in _misread(line, hit)]


def _pattern(line: Line, hit: Hit, takers: Mapping[str, Line], model: Model) -> list[Finding]:
    """Patterns that hit nothing, or more than they say. ``takers``: tensor → the earlier line that it follows."""
    number, name = line.number, line.tensor or line.override.pattern
    if not hit.matched or (line.tensor and line.tensor not in hit.matched):
        return [Finding(Level.ERROR, "hits-nothing", f"{line.told} hits no tensor of {model.path.name}", number, name)]
    if not hit.tensors:
        taken = next((name for name in hit.matched if name in takers), "")
        earlier = takers.get(taken)
        why = f"line {earlier.number} ({earlier.told}) takes it first" if earlier else "llama.cpp never quantizes it"
        text = f"{line.told} changes nothing: {why}"
        return [Finding(Level.ERROR, "changes-nothing", text, number, taken or hit.matched[0])]
    return _misread(line, hit) + _taken(line, hit, takers)


def _taken(line: Line, hit: Hit, takers: Mapping[str, Line]) -> list[Finding]:
    """Tensors that an earlier line keeps from this one."""
    taken = [name for name in hit.matched if name in takers]
    if not taken:
        return []
    earlier = takers[taken[0]]
    text = f"{line.told} doesn't reach {listed(taken)}: line {earlier.number} ({earlier.told}) comes first"
    return [Finding(Level.NOTE, "taken-before", text, line.number, taken[0])]


def _misread(line: Line, hit: Hit) -> list[Finding]:
    """A pattern of an override file that doesn't mean what it seems to say."""
    fault = None if line.tensor else misread(line.override.pattern, hit.tensors)
    if fault is None:
        return []
    level = Level.ERROR if fault.surely else Level.WARNING
    return [Finding(level, "hits-more", f"{line.told} {fault.text}", line.number, fault.tensor)]


def _types(line: Line, hit: Hit, tensors: Mapping[str, Tensor], important: Collection[str] | None) -> list[Finding]:
    """Types that a row can't hold, and types that need an importance matrix."""
    kind, findings = TYPES[line.override.type], []
    for name in hit.tensors:
        row = tensors[name].row_length
        if not kind.fits(row):
            stored = fallback_type(kind.name, row).name
            text = f"{name} has rows of {row}, which {kind.name} (blocks of {kind.block_size}) can't hold: llama.cpp stores {stored}"
            findings.append(Finding(Level.ERROR, "row-cannot-hold", text, line.number, name))
    needy = [n for n in hit.tensors if needs_imatrix(kind.name, n)]
    if lacking := [n for n in needy if important is None or n not in important]:
        why = "none was given" if important is None else f"the one given has no entry for {listed(lacking)}"
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
    quantized = [t.name for t in model.tensors if STORED[t.type].quantized]
    if quantized:
        text = f"{model.path.name} is quantized already ({len(quantized)} tensors, {listed(quantized)}): they would be quantized twice"
        findings.append(Finding(Level.WARNING, "requantized", text, 0, quantized[0]))
    named = {name for hit in hits for name in hit.tensors}
    free = [t for t in quantizable_tensors(model) if t.name not in named]
    falling = [t for t in free if default.quantized and not default.fits(t.row_length)]
    for kind in sorted({fallback_type(default.name, t.row_length).name for t in falling}):
        those = [t for t in falling if fallback_type(default.name, t.row_length).name == kind]
        size = sum(t.bytes_as(TYPES[kind]) for t in those)
        text = (
            f"rows of {listed([t.name for t in those])} can't hold the base's {default.name}: llama.cpp stores {kind} without a word "
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
