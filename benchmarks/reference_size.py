"""What a reference costs with a vocabulary of 262,144 words: disk, memory, and what KL divergence comes out.

python -m benchmarks.reference_size [--ctx 512] [--chunks 2] [--vocab 262144] [--keep 64 248 1024] [--exact] [--scratch FOLDER]

The vocabulary is synthetic: a llama of one narrow block with random weights and one token a character, its output scaled so that the
next token's entropy is about 3 nats. Bytes and memory depend on shapes alone and are what a real model's would be; KL divergence
is an illustration, for the tails of a trained model's distributions look otherwise (`kld_estimate` compares it with that over all words).
Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from benchmarks.peak_memory import high_water, peaks_of
from benchmarks.running import show
from benchmarks.stock import find_stock, why_not_built
from cerebellum.domain import Chunk
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.llamacpp.protocol import Settings
from cerebellum.scoring.reference import DEFAULT_K, ReferenceStore, default_k

WIDTH, FEED_FORWARD = 64, 128
#: Standard deviation of the logits: of a quarter of a million random ones it leaves about 3 nats of entropy.
SPREAD = 4.6
SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
#: The ordinary tokens are the characters from here on.
FIRST_CHARACTER = 0x20000
#: Chunks × context of a sweep's text, as planned for large models.
SWEEPS = ((40, 512), (64, 2048))

BACKEND = LlamaBackend()


@dataclass(frozen=True)
class Cost:
    """One way to keep the reference. Peaks are resident bytes beyond the model's file; KL divergence and the draw's error nats a token."""

    kept: int | None
    n_tokens: int
    n_bytes: int
    capture_peak: int
    score_peak: int
    capture_s: float
    score_s: float
    kld: float
    error: float


# -- the synthetic model -------------------------------------------------------------------------------------------------


def write_model(path: Path, n_vocab: int, n_ctx: int, seed: int = 0) -> Path:
    """A llama of one block in F16, an output matrix of its own."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    _add_tokenizer(writer, n_vocab)
    for name, values in _tensors(n_vocab, np.random.default_rng(seed)):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, n_vocab: int) -> None:
    """Sentencepiece with nothing to merge: specials, bytes, then one character a token."""
    kinds = gguf.TokenType
    characters = [chr(FIRST_CHARACTER + i) for i in range(n_vocab - len(SPECIALS) - len(BYTES))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(characters)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_vocab_size(n_vocab)
    writer.add_token_list([*SPECIALS, *BYTES, *characters])
    writer.add_token_scores([0.0] * n_vocab)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _tensors(n_vocab: int, rng: np.random.Generator) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The last norm gives rows of mean square 1, so the output's scale is the logits' spread."""

    def normal(rows: int, columns: int, spread: float) -> npt.NDArray[np.float16]:
        return (rng.standard_normal((rows, columns), np.float32) * np.float32(spread)).astype(np.float16)

    yield "token_embd.weight", normal(n_vocab, WIDTH, 1.0)
    yield "output.weight", normal(n_vocab, WIDTH, SPREAD / WIDTH**0.5)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        yield f"{name}.weight", np.ones(WIDTH, np.float32)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        yield f"blk.0.{name}.weight", normal(WIDTH, WIDTH, WIDTH**-0.5)
    for name in ("ffn_gate", "ffn_up"):
        yield f"blk.0.{name}.weight", normal(FEED_FORWARD, WIDTH, WIDTH**-0.5)
    yield "blk.0.ffn_down.weight", normal(WIDTH, FEED_FORWARD, FEED_FORWARD**-0.5)


def make_text(n_tokens: int, n_vocab: int, seed: int = 1) -> str:
    """``n_tokens`` characters, each a token."""
    ordinary = n_vocab - len(SPECIALS) - len(BYTES)
    return "".join(map(chr, FIRST_CHARACTER + np.random.default_rng(seed).integers(ordinary, size=n_tokens)))


def entropy(engine: EngineProcess, chunk: Chunk) -> float:
    """Mean entropy of the next-token distributions at a few places, in nats."""
    logits = engine.logits((), Chunk(chunk.id, chunk.tokens[:32])).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(np.exp(logits) * logits).sum(axis=1).mean())


# -- our way -------------------------------------------------------------------------------------------------------------


def cost(models: tuple[Path, Path], text: str, options: argparse.Namespace, kept: int | None, folder: Path) -> Cost:
    """Capture ``models[0]``'s rows and score ``models[1]`` against them, each in a process of its own."""
    store = ReferenceStore(folder / f"rows-{kept}", kept)
    settings = Settings(n_ctx=options.ctx, n_threads=options.threads)
    engine = BACKEND.open(models[0], settings)
    try:
        chunks = engine.corpus("synthetic", text, options.ctx).chunks(range(options.chunks))
        started = time.monotonic()
        list(engine.capture(chunks, store))
        capture_s, capture_peak = time.monotonic() - started, high_water(engine.pid) - models[0].stat().st_size
    finally:
        engine.close()
    engine = BACKEND.open(models[1], settings)
    try:
        started = time.monotonic()
        scores = list(engine.score((), chunks, reference=store))
        score_s, score_peak = time.monotonic() - started, high_water(engine.pid) - models[1].stat().st_size
    finally:
        engine.close()
    n = sum(score.n_tokens for score in scores)
    kld = sum(s.kld or 0.0 for s in scores) / n
    error = sum(s.kld_var or 0.0 for s in scores) ** 0.5 / n
    return Cost(kept, n, store.n_bytes, capture_peak, score_peak, capture_s, score_s, kld, error)


# -- the stock program's way ---------------------------------------------------------------------------------------------


def stock_bytes(n_chunks: int, n_ctx: int, n_vocab: int) -> int:
    """What ``llama-perplexity --kl-divergence-base`` writes: a header, the tokens, 16 bits a word and 8 bytes a scored token."""
    scored = n_chunks * (n_ctx - 1 - n_ctx // 2)
    return 8 + 3 * 4 + 4 * n_chunks * n_ctx + scored * (2 * (2 * ((n_vocab + 1) // 2) + 4))


def stock_cost(model: Path, text: Path, options: argparse.Namespace, folder: Path) -> tuple[int, int] | None:
    """Bytes on disk and peak resident bytes beyond the model's, measured; None where the program isn't built."""
    stock, out = find_stock(), folder / "stock.kld"
    if stock is None:
        return None
    words = [stock.perplexity, "-m", model, "-f", text, "-c", options.ctx, "--chunks", options.chunks, "--no-repack"]
    peaks = peaks_of([*map(str, words), "-t", str(options.threads), "--kl-divergence-base", str(out)])
    return out.stat().st_size, peaks.parent - model.stat().st_size


# -- printing ------------------------------------------------------------------------------------------------------------


def show_costs(costs: list[Cost], stock: tuple[int, int] | None, options: argparse.Namespace) -> None:
    rows: list[tuple[str, ...]] = [
        (
            "all (exact)" if c.kept is None else f"{c.kept} words" + " *" * (c.kept == default_k(options.vocab)),
            f"{c.n_bytes:,}",
            f"{c.n_bytes / c.n_tokens:,.0f}",
            f"{c.capture_peak / 1e6:,.0f}",
            f"{c.score_peak / 1e6:,.0f}",
            f"{1000 * c.capture_s / c.n_tokens:.1f}",
            f"{1000 * c.score_s / c.n_tokens:.1f}",
            f"{c.kld:.6f}",
            f"{c.error:.6f}",
        )
        for c in costs
    ]
    expected, n_tokens = stock_bytes(options.chunks, options.ctx, options.vocab), costs[0].n_tokens
    n_bytes, peak = stock or (expected, None)
    memory = "" if peak is None else f"{peak / 1e6:,.0f}"
    rows.append(("llama-perplexity", f"{n_bytes:,}", f"{n_bytes / n_tokens:,.0f}", memory, *[""] * 5))
    show(
        f"{n_tokens:,} scored tokens ({options.chunks} chunks of {options.ctx}); memory beyond the model's file, time a token",
        (
            "rows kept",
            "bytes",
            "a token",
            "capture, MB",
            "score, MB",
            "capture, ms",
            "score, ms",
            "KLD, nats",
            "± by the draw",
        ),
        rows,
    )
    print(
        f"* the default. llama-perplexity by formula: {expected:,} bytes" + ("" if stock else f" ({why_not_built()})")
    )


def show_sweeps(default: Cost, n_vocab: int) -> None:
    rows = []
    for n_chunks, n_ctx in SWEEPS:
        scored = n_chunks * (n_ctx - 1 - n_ctx // 2)
        ours, stock = scored * default.n_bytes / default.n_tokens, stock_bytes(n_chunks, n_ctx, n_vocab)
        name = f"{n_chunks} chunks of {n_ctx}"
        rows.append((name, f"{scored:,}", f"{ours / 1e6:,.1f}", f"{stock / 1e6:,.1f}", f"{stock / ours:,.0f}"))
    show(
        "a sweep's text, extrapolated from bytes a token",
        ("text", "scored tokens", "ours, MB", "llama-perplexity's, MB", "ratio"),
        rows,
    )


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference_size", description=__doc__.splitlines()[0])
    parser.add_argument("--ctx", type=int, default=512, help="tokens in a chunk (default 512)")
    parser.add_argument("--chunks", type=int, default=2, help="chunks kept and scored (default 2)")
    parser.add_argument("--vocab", type=int, default=262_144, help="words (default 262144)")
    parser.add_argument("--keep", type=int, nargs="+", default=[64, DEFAULT_K, 1024], help="words kept of a row")
    parser.add_argument(
        "--exact", action="store_true", help="also keep complete rows: 4 bytes a token and word of disk"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="folder for models, rows and the stock program's file")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        models = (write_model(folder / "source.gguf", options.vocab, options.ctx), folder / "twin.gguf")
        # Rows of 64 hold no K-quant, which the file type alone would give the output.
        BACKEND.quantize(models[0], models[1], "Q4_0", (("^output.weight$", "Q4_0"),))
        text, text_file = make_text(max(2, options.chunks) * options.ctx, options.vocab), folder / "text.txt"
        text_file.write_text(text, encoding="utf-8")
        engine = BACKEND.open(models[0], Settings(n_ctx=options.ctx, n_threads=options.threads))
        nats = entropy(engine, engine.corpus("synthetic", text, options.ctx).chunk(0))
        engine.close()
        kept = [*options.keep, *([None] if options.exact else [])]
        costs = [cost(models, text, options, k, folder) for k in kept]
        stock = stock_cost(models[0], text_file, options, folder)
        sizes = " and ".join(f"{path.stat().st_size / 1e6:,.1f} MB" for path in models)
    print(
        f"Synthetic vocabulary of {options.vocab:,} words: random weights, {nats:.2f} nats of entropy; F16 and Q4_0, {sizes}.\n"
        "Bytes and memory follow from shapes; KL divergence is an illustration, not a trained model's."
    )
    show_costs(costs, stock, options)
    default = next((c for c in costs if c.kept == default_k(options.vocab)), costs[0])
    show_sweeps(default, options.vocab)
    return 0


if __name__ == "__main__":
    sys.exit(main())
