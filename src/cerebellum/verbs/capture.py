"""The reference's rows: where they are kept, and keeping those that are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import disk_usage
from typing import Any

from cerebellum.domain import ChunkScore, Corpus
from cerebellum.errors import EngineError, OutputError
from cerebellum.files import FileState
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import DECODING_VERSION, Engine, Settings
from cerebellum.progress import Progress
from cerebellum.scoring.metrics import METRIC_VERSION
from cerebellum.scoring.reference import EXACT_BITS, ReferenceStore, default_k
from cerebellum.stats.intervals import fault_of
from cerebellum.study.runner import Split
from cerebellum.study.store import Study


def reference_facts(sha256: str, n_vocab: int, exact: bool = False) -> dict[str, Any]:
    """What identifies the reference's rows: the file's hash and how much of each row is kept; ``exact``: all words, of large
    vocabularies at 16 bits."""
    k = default_k(n_vocab)
    return {"sha256": sha256, "k": None, "bits": EXACT_BITS} if exact and k else {"sha256": sha256, "k": k}


def store_for(
    out: Path,
    corpus: Corpus,
    reference: Mapping[str, Any],
    settings: Settings,
    build: str,
    watched: tuple[FileState, ...] = (),
) -> ReferenceStore:
    """The store in the folder ``out`` of a reference (`reference_facts`) on a text, under these settings and this build.

    No row is kept after one of the files ``watched`` has changed.
    """
    versions = {"metric_version": METRIC_VERSION, "decoding_version": DECODING_VERSION}
    facts = {"tokens": corpus.tokens_sha256, "bos": corpus.bos, **versions, **reference}
    key = content_key("reference", {**facts, "settings": settings.as_key(), "build": build})
    folder = out / "reference" / key.partition(":")[2][:16]
    return ReferenceStore(folder, reference["k"], reference.get("bits", 32), watched)


def capture_rows(engine: Engine, wanted: Sequence[tuple[Split, ReferenceStore]], what: str, progress: Progress) -> None:
    """Keep the rows of the reference that ``engine`` has opened, on the chunks where they are missing.

    Raises `EngineError`, naming the chunk, where a row is no measurement (NaN, say): without a reference there is nothing to measure.
    """
    missing = [(split, store, [c for c in split.chunks if not store.has(c)]) for split, store in wanted]
    total = sum(len(chunks) for *_, chunks in missing)
    if not total:
        return
    for split, store, chunks in missing:
        if store.bits == EXACT_BITS and chunks:
            check_room(store.folder, exact_bytes(split.corpus, chunks, engine.n_vocab), progress)
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


def exact_bytes(corpus: Corpus, chunks: Sequence[int], n_vocab: int) -> int:
    """What all words of the scored tokens of ``chunks`` take on disk."""
    return sum(int(chunk.wanted().sum()) for chunk in corpus.chunks(chunks)) * n_vocab * EXACT_BITS // 8


def check_room(folder: Path, n_bytes: int, progress: Progress) -> None:
    """Say what the exact reference takes. Raises `OutputError` where the disk has no room for it."""
    progress.note(f"--exact-reference: all words of the reference's rows take {n_bytes / 1e9:,.2f} GB of disk")
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if (free := disk_usage(there).free) < n_bytes:
        raise OutputError(
            f"the exact reference takes {n_bytes / 1e9:,.2f} GB and {there} has {free / 1e9:,.2f} GB left: fewer --chunks, another --out, "
            "or no --exact-reference (2 kB a scored token)"
        )


#: Trials of an older metric version that are named, at most.
_NAMED = 8


def note_older(study: Study, progress: Progress) -> None:
    """Name what a study holds of older versions of the metric alone: those measurements stay, but are made anew where they are wanted."""
    older = study.older_trials(METRIC_VERSION)
    if not older:
        return
    labels = list(dict.fromkeys(label for label, _ in older))
    versions = " and ".join(str(version) for version in sorted({version for _, version in older}))
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    progress.note(
        f"measured with version {versions} of the metric (now it is {METRIC_VERSION}): {', '.join(labels[:_NAMED])}{more}. "
        "Their KL divergence was too low on large vocabularies there, so they are measured anew where they are wanted"
    )
