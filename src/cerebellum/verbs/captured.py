"""Everything that a session needs of the reference (rows, noise floor, tokens), so that it is opened once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError
from cerebellum.gguf import model_file
from cerebellum.llamacpp.protocol import Sources
from cerebellum.study.runner import Split, series_facts
from cerebellum.verbs.capture import capture_rows, reference_facts
from cerebellum.verbs.inputs import Inputs
from cerebellum.verbs.noise import NoiseContext, measure_reference
from cerebellum.verbs.splits import make_splits
from cerebellum.verbs.tokenization import check_cut_alike, cut_plainly
from cerebellum.verbs.warned import tell
from cerebellum.verbs.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CapturedReference:
    """The reference on a job's texts: ``search`` chooses, ``report`` reports, ``facts`` identify its rows. ``noise``: what harmless changes
    do to it, nats a token by change, and ``noise_context`` is what that was measured on. ``warnings``: llama.cpp's of the files."""

    search: Split
    report: Split
    facts: dict[str, Any]
    noise_context: NoiseContext
    noise: Mapping[str, float]
    warnings: tuple[str, ...] = ()


def capture_reference(
    workspace: Workspace, inputs: Inputs, subject: Mapping[str, Any], *, reports: bool = True
) -> CapturedReference:
    """The texts cut, the reference's rows kept, its share of the noise floor. Not ``reports``: no rows of the report text.

    Where the reference isn't the model itself, the model cuts the texts. Raises `InputError`, `TextError` or `EngineError`.
    """
    backend, settings, progress = workspace.backend, workspace.settings, workspace.progress
    path, source = inputs.reference_path, inputs.source.path
    warnings: list[str] = []
    with contextlib.ExitStack() as opened:
        engine = backend.open(source, settings, Sources(source))
        opened.callback(engine.close)
        sha256 = workspace.sha256(path)  # before it is opened: what changes from now on is noticed
        tell(engine.warnings, progress, warnings)
        search, report = make_splits(engine, inputs.texts, settings.n_ctx, progress)
        if not inputs.is_own_reference:
            n_vocab, cuts = engine.n_vocab, [cut_plainly(engine, text) for text in inputs.texts.given]
            opened.close()
            engine = backend.open(path, settings, Sources(path))
            opened.callback(engine.close)
            tell(engine.warnings, progress, warnings)
            check_vocabulary(path, engine.n_vocab, n_vocab)
            for cut, text in zip(cuts, inputs.texts.given, strict=True):
                check_cut_alike(cut, source, cut_plainly(engine, text), path)
        facts = reference_facts(sha256, engine.n_vocab, settings.exact_reference)
        splits = (search, report) if reports else (search,)
        wanted = [(split, workspace.reference_store(split.corpus, facts)) for split in splits]
        capture_rows(engine, wanted, f"reference {path.name}", progress)
        series = series_facts(subject, search, settings, workspace.build, facts)
        context = NoiseContext(workspace.study, search, series, wanted[0][1], settings, progress)
        noise = measure_reference(context, engine, model_file.read_model(path))
    return CapturedReference(search, report, facts, context, noise, tuple(warnings))


def check_vocabulary(reference: Path, n_reference: int, n_vocab: int) -> None:
    """Raises `InputError` where the reference has another number of tokens than the model."""
    if n_reference != n_vocab:
        raise InputError(f"{reference.name} has {n_reference} tokens, the model {n_vocab}: not a reference for it")
