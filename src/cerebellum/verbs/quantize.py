"""One file to another type, some tensors as overrides say: proven beforehand, whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cerebellum.domain import Model
from cerebellum.gguf import model_file
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.mix import MixOptions
from cerebellum.gguf.override_file import read_overrides
from cerebellum.gguf.overrides import Hit, Overrides, check_acts, check_realized, pairs, resolve
from cerebellum.gguf.split_file import SplitLimit
from cerebellum.gguf.types import FTYPES, ftype_name, quant_type
from cerebellum.llamacpp.protocol import Backend
from cerebellum.progress import Progress, Silent
from cerebellum.quoting import printable, shell_file
from cerebellum.verbs.base_mix import EVERY, mix_of, write_mix
from cerebellum.verbs.inputs import check_imatrix_fits
from cerebellum.verbs.splitting import publish_model, refuse_output, split, unproven


@dataclass(frozen=True, slots=True)
class Quantized:
    """What was written. ``fallbacks``: tensors whose rows can't hold what the file type or an override asks for, with what was stored.
    ``left_out``: tensors that stay as the source has them, with the reason."""

    model: Model
    source: Model
    ftype: str
    sha256: str
    hits: tuple[Hit, ...]
    fallbacks: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "path": str(self.model.path),
            "files": [path.name for path in self.model.files],
            "source": str(self.source.path),
            "file_type": self.ftype,
            "file_bytes": self.model.file_bytes,
            "bits_per_weight": round(self.model.bits_per_weight, 4),
            "sha256": self.sha256,
            "quantized_twice": self.source.is_quantized,
            "types": dict(Counter(t.type for t in self.model.tensors).most_common()),
            "overrides": {str(hit.override): list(hit.tensors) for hit in self.hits},
            "fallbacks": self.fallbacks,
            "left_out": self.left_out,
        }

    def summary(self) -> str:
        """A few lines for people."""
        types = ", ".join(f"{kind} ×{n}" for kind, n in Counter(t.type for t in self.model.tensors).most_common())
        n_files = len(self.model.files)
        lines = [
            f"{self.model.path}: {self.ftype}, {self.model.file_bytes / 1e6:,.1f} MB, "
            f"{self.model.bits_per_weight:.2f} bits a weight, sha256 {self.sha256[:16]}…{f', in {n_files} files' if n_files > 1 else ''}",
            f"types: {types}",
        ]
        for hit in self.hits:
            names = ", ".join(hit.tensors[:3]) + (" …" if len(hit.tensors) > 3 else "")
            lines.append(
                f"override {hit.override}: {len(hit.tensors)} {'tensor' if len(hit.tensors) == 1 else 'tensors'} ({names})"
            )
        for kind, n in Counter(self.fallbacks.values()).most_common():
            first = next(name for name, stored in self.fallbacks.items() if stored == kind)
            lines.append(
                f"fallback: {n} of {len(self.model.tensors)} tensors can't hold what {self.ftype} or an override asks for and are "
                f"{kind} ({first}{', …' if n > 1 else ''})"
            )
        stored = self.model.types
        lines += [f"left out: {name} stays {stored[name]}: {why}" for name, why in self.left_out.items()]
        if self.source.is_quantized:
            lines.append(f"note: {self.source.path.name} was quantized before, so its weights are quantized twice")
        share = 100.0 * self.model.file_bytes / max(self.source.file_bytes, 1)
        lines.append(
            f"size: {share:.0f} % of {self.source.path.name}; not measured. Next: cerebellum measure {shell_file(self.model.path.name)} "
            f"--reference {shell_file(self.source.path.name)} --text FILE"
        )
        return "\n".join(map(printable, lines))


def quantize_model(
    backend: Backend,
    model: Path,
    ftype: str,
    out: Path,
    overrides: Path | None = None,
    imatrix: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    mix: MixOptions | None = None,
    limit: SplitLimit | None = None,
) -> Quantized:
    """Write ``model`` as ``ftype``, in several files where ``limit`` says so. Every override line must hit a tensor. A tensor that can't be
    stored as the file type has it stays as it is, which the result says.

    Raises `OverrideError`, `TypeChoiceError`, `OutputError` (``out`` exists and not ``force``) or `EngineError`.
    """
    progress = progress or Silent()
    source = model_file.read_model(model)
    name = ftype_name(ftype)
    refuse_output(out, (model, overrides, imatrix, mix.overrides if mix else None), force, limit)
    asked = read_overrides(overrides) if overrides else ()
    made = mix_of(replace(mix or MixOptions(), overrides=overrides), source, name)
    lines = made.lines
    hits = resolve([line for line in lines if line.pattern != EVERY], source)
    if hits:
        check_acts(name)
    if imatrix:
        check_imatrix_fits(load_imatrix(imatrix), imatrix, source)
    if hits:
        check_realized(hits, backend.types(model, name, pairs(lines), imatrix), source)
    told_hits = tuple(hit for hit in hits if hit.override in asked)
    progress.note(f"quantizing {model.name} to {name}")
    with unproven(out) as path:
        made = write_mix(backend, source, path if limit else out, name, made, imatrix, asked)
        if limit:
            out = publish_model(split(path, limit), out)
    written = model_file.read_model(out)
    fallbacks = fallbacks_of(source, name, hits, written, made.left_out)
    return Quantized(written, source, name, model_file.sha256_model(out), told_hits, fallbacks, dict(made.left_out))


def quantize_lines(
    backend: Backend, source: Model, ftype: str, out: Path, lines: Overrides, imatrix: Path | None
) -> Quantized:
    """Write ``source`` as ``ftype`` with the overrides ``lines``. Raises `OverrideError`, `OutputError` or `EngineError`."""
    hits = resolve(lines, source) if lines else ()
    backend.quantize(source.path, out, ftype, pairs(lines), imatrix)
    written = model_file.read_model(out)
    return Quantized(
        written, source, ftype, model_file.sha256_model(out), hits, fallbacks_of(source, ftype, hits, written, {})
    )


def fallbacks_of(
    source: Model, ftype: str, hits: tuple[Hit, ...], written: Model, left_out: Mapping[str, str]
) -> dict[str, str]:
    """Tensors whose rows can't hold the type that the file type or an override asks for → the type they have."""
    types, default = written.types, FTYPES[ftype][1]
    asked = {t.name: default for t in quantizable_tensors(source) if not quant_type(default).fits(t.row_length)}
    asked |= {tensor: hit.override.type for hit in hits for tensor in hit.tensors}
    lengths = {t.name: t.row_length for t in written.tensors}
    return {n: types[n] for n, kind in asked.items() if n not in left_out and not quant_type(kind).fits(lengths[n])}
