"""The reference's rows: where they are kept, and keeping those that are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cerebellum.domain import ChunkScore, Corpus
from cerebellum.errors import EngineError
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import Engine, Settings
from cerebellum.progress import Progress
from cerebellum.scoring.metrics import METRIC_VERSION
from cerebellum.scoring.reference import ReferenceStore, default_k
from cerebellum.stats.intervals import fault_of
from cerebellum.study.runner import Split


def reference_facts(sha256: str, n_vocab: int) -> dict[str, Any]:
    """What identifies the reference's rows: the file's hash and how much of each row is kept."""
    return {"sha256": sha256, "k": default_k(n_vocab)}


def store_for(
    out: Path, corpus: Corpus, reference: Mapping[str, Any], settings: Settings, build: str
) -> ReferenceStore:
    """The store in the folder ``out`` of a reference (`reference_facts`) on a text, under these settings and this build."""
    facts = {"tokens": corpus.tokens_sha256, "bos": corpus.bos, "metric_version": METRIC_VERSION, **reference}
    key = content_key("reference", {**facts, "settings": settings.as_key(), "build": build})
    return ReferenceStore(out / "reference" / key.partition(":")[2][:16], reference["k"])


def capture_rows(engine: Engine, wanted: Sequence[tuple[Split, ReferenceStore]], what: str, progress: Progress) -> None:
    """Keep the rows of the reference that ``engine`` has opened, on the chunks where they are missing.

    Raises `EngineError`, naming the chunk, where a row is no measurement (NaN, say): without a reference there is nothing to measure.
    """
    missing = [(split, store, [c for c in split.chunks if not store.has(c)]) for split, store in wanted]
    total = sum(len(chunks) for *_, chunks in missing)
    if not total:
        return
    progress.begin(what, total)
    try:
        for split, store, chunks in missing:
            for chunk in engine.capture(split.corpus.chunks(chunks), store):
                check_kept(store, chunk, f"{what}, {split.name} text")
                progress.step(f"{split.name} {chunk}")
    finally:
        progress.end()


def check_kept(store: ReferenceStore, chunk: int, where: str) -> None:
    """The rows just kept are a measurement. Raises `EngineError` that names the chunk where they aren't, and keeps nothing of it."""
    total, n_tokens = store.nll(chunk)
    if fault := fault_of(ChunkScore(chunk, n_tokens, total, 0.0)):
        store.path(chunk).unlink(missing_ok=True)
        raise EngineError(f"{where}, chunk {chunk}: {fault}: the model is broken")
