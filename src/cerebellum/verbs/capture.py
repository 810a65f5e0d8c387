"""The reference's rows: where they are kept, and keeping those that are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cerebellum.domain import Corpus
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import DECODING_VERSION, Engine, Settings
from cerebellum.progress import Progress
from cerebellum.scoring.metrics import METRIC_VERSION
from cerebellum.scoring.reference import ReferenceStore, default_k
from cerebellum.study.runner import Split


def reference_facts(sha256: str, n_vocab: int) -> dict[str, Any]:
    """What identifies the reference's rows: the file's hash and how much of each row is kept."""
    return {"sha256": sha256, "k": default_k(n_vocab)}


def store_for(
    out: Path, corpus: Corpus, reference: Mapping[str, Any], settings: Settings, build: str
) -> ReferenceStore:
    """The store in the folder ``out`` of a reference (`reference_facts`) on a text, under these settings and this build."""
    versions = {"metric_version": METRIC_VERSION, "decoding_version": DECODING_VERSION}
    facts = {"tokens": corpus.tokens_sha256, "bos": corpus.bos, **versions, **reference}
    key = content_key("reference", {**facts, "settings": settings.as_key(), "build": build})
    return ReferenceStore(out / "reference" / key.partition(":")[2][:16], reference["k"])


def capture_rows(engine: Engine, wanted: Sequence[tuple[Split, ReferenceStore]], what: str, progress: Progress) -> None:
    """Keep the rows of the reference that ``engine`` has opened, on the chunks where they are missing."""
    missing = [(split, store, [c for c in split.chunks if not store.has(c)]) for split, store in wanted]
    total = sum(len(chunks) for *_, chunks in missing)
    if not total:
        return
    progress.begin(what, total)
    try:
        for split, store, chunks in missing:
            for chunk in engine.capture(split.corpus.chunks(chunks), store):
                progress.step(f"{split.name} {chunk}")
    finally:
        progress.end()
