"""What recipes that differ in few tensors cost when each is made anew, and when each keeps what it has in common with the one before.

python -m benchmarks.recipes_in_a_row [MODEL] [--to Q3_K] [--recipes 7] [--ctx 256] [--chunks 4] [--rounds 3]

As refinement measures them: a recipe that gives every tensor another type, and others that differ from it in two tensors. One engine
measures both ways in alternation, with nothing cached in between. CPU time, so that a loaded machine says the same. The sums must be
equal, bit for bit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

from benchmarks.ratios import ratios, spread
from benchmarks.running import positive, show
from cerebellum import bundled
from cerebellum.domain import Chunk, ChunkScore, TensorType, Trial, TrialKind
from cerebellum.errors import CerebellumError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import fallback_type, quant_type
from cerebellum.llamacpp.protocol import ChunkScored, Settings, Sources
from cerebellum.llamacpp.trial.engine import LlamaEngine
from cerebellum.llamacpp.trial.weights import Weights

Sums = dict[tuple[int, int], ChunkScore]


def main() -> int:
    """Print the table; 1 where the two ways give other sums, or nothing can be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes_in_a_row",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, nargs="?", default=bundled.MODEL)
    parser.add_argument("--to", default="Q3_K", help="type of most tensors (default Q3_K)")
    parser.add_argument("--recipes", type=positive, default=7, help="default 7")
    parser.add_argument("--ctx", type=positive, default=256, help="default 256")
    parser.add_argument("--chunks", type=positive, default=4, help="default 4")
    parser.add_argument("--rounds", type=positive, default=3, help="default 3")
    options = parser.parse_args()
    try:
        engine = LlamaEngine(options.model, Settings(n_ctx=options.ctx, n_threads=1), Sources(options.model))
        text = bundled.SEARCH_TEXT.read_text(encoding="utf-8")
        chunks = engine.corpus("search.txt", text, options.ctx).chunks(range(options.chunks))
        trials = recipes(options.model, quant_type(options.to).name, options.recipes)
        alone: list[tuple[float, Sums]] = []
        together: list[tuple[float, Sums]] = []
        engine._weights._limit = 0  # what the cache would keep of a small model anyway
        for number in range(options.rounds):
            for keeps in (False, True) if number % 2 else (True, False):
                seconds, sums = timed(engine, trials, chunks, keeps)
                (together if keeps else alone).append((seconds, sums))
        engine.close()
    except CerebellumError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    anew, shared = ([seconds for seconds, _ in runs] for runs in (alone, together))
    rows = [
        ("each made anew, seconds of CPU", spread(anew).text(1)),
        ("what they share is kept, seconds of CPU", spread(shared).text(1)),
        ("kept ÷ anew", ratios(shared, anew).text(2)),
    ]
    title = f"{len(trials)} recipes of {options.model.name} on {len(chunks)} chunks of {options.ctx} tokens, one thread"
    show(title, ("", f"median of {options.rounds} rounds"), rows)
    return int(any(sums != alone[0][1] for _, sums in (*alone, *together)))


def recipes(model: Path, kind: str, n: int) -> list[Trial]:
    """One that gives each tensor ``kind`` (or what its rows hold instead), and n - 1 of which each gives two tensors Q8_0."""
    source = read_model(model)
    first = [TensorType(t.name, fallback_type(kind, t.row_length).name) for t in quantizable_tensors(source)]
    changed = ({(2 * i) % len(first), (2 * i + 1) % len(first)} if i else set() for i in range(n))
    return [
        Trial(f"recipe {i}", TrialKind.RECIPE, tuple(TensorType(t.tensor, "Q8_0") if j in two else t for j, t in enumerate(first)))
        for i, two in enumerate(changed)
    ]  # fmt: skip


def timed(engine: LlamaEngine, trials: Sequence[Trial], chunks: Sequence[Chunk], keeps: bool) -> tuple[float, Sums]:
    """Seconds of CPU and the sums."""
    with nullcontext() if keeps else forgetting():
        started = time.process_time()
        sums = {
            (event.trial, event.score.chunk): event.score
            for event in engine.sweep(trials, chunks)
            if isinstance(event, ChunkScored)
        }
        return time.process_time() - started, sums


@contextmanager
def forgetting() -> Iterator[None]:
    """Within it nothing stays when a swap ends."""
    trim = Weights.trim
    with mock.patch.object(Weights, "trim", lambda weights, limit, wanted=(): trim(weights, 0, ())):
        yield


if __name__ == "__main__":
    sys.exit(main())
