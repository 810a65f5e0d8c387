"""Which engines of a cluster measure as one for a study: those of its own build, and others that agree with it bit for bit.

The rest measure chunks of their own, each trial beside their own base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cerebellum.domain import Chunk, ChunkScore, TensorTypes
from cerebellum.errors import EngineError
from cerebellum.fleet.remote import RemoteEngine
from cerebellum.llamacpp.one_stream import closing
from cerebellum.llamacpp.protocol import Engine
from cerebellum.progress import Progress

#: What was decided of another build: (build, 'admitted' or 'pooled', why).
Decided = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class Canary:
    """What two builds are compared by: the base on ``chunks``, and tensors at other types: their bytes, and the sums of a trial of them."""

    chunks: tuple[Chunk, ...]
    tensor_types: TensorTypes

    def sing(self, engine: Engine) -> tuple[dict[str, str], list[ChunkScore]]:
        """(hashes of bytes, sums of the base and of the trial) by an engine."""
        sums: list[ChunkScore] = []
        for tensor_types in ((), self.tensor_types):
            with closing(engine.score(tensor_types, self.chunks, label="comparing builds")) as scores:
                sums += scores
        return dict(engine.quantized_sha256(self.tensor_types)), sums


def admitted(
    engines: Sequence[RemoteEngine],
    build: str,
    canary: Canary,
    open_own: Callable[[], Engine],
    *,
    same_build_only: bool,
    progress: Progress,
    note: Decided,
) -> tuple[list[RemoteEngine], list[RemoteEngine]]:
    """(The engines that are one, those that differ.) ``open_own`` opens an engine of ``build`` here, where there is no other of it. Raises
    `EngineError` where one of another build is there and ``same_build_only``."""
    strangers = [engine for engine in engines if engine.build != build]
    if not strangers:
        return list(engines), []
    if same_build_only:
        odd = strangers[0]
        raise EngineError(
            f"node {odd.node} has another build ({odd.build}; here it is {build}), and --same-build-only allows none: install the same "
            "llama-cpp-python, numpy and numba on a processor of the same kind, or leave that node out"
        )
    natives = [engine for engine in engines if engine.build == build]
    if natives:
        known = canary.sing(natives[0])
    else:
        here = open_own()
        try:
            known = canary.sing(here)
        finally:
            here.close()
    differing: list[RemoteEngine] = []
    for engine in strangers:
        hashes, sums = canary.sing(engine)
        told = f"node {engine.node} has another build, processor or device ({engine.build}; here it is {build})"
        if (hashes, sums) == known:
            why = f"{len(hashes)} quantized tensors and {len(sums)} sums of chunks are equal"
            progress.note(f"{told}; {why}, bit for bit: taken for the same")
            note(engine.build, "admitted", why)
            natives.append(engine)
        else:
            what = "quantized bytes" if hashes != known[0] else "sums of chunks"
            progress.note(
                f"warning: {told} and its {what} differ: it gets chunks of its own, each trial beside its own base"
            )
            note(engine.build, "pooled", f"the {what} of the trials that both measured differ")
            differing.append(engine)
    return natives, differing
