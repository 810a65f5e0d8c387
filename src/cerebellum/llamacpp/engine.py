"""One opened model in this process: tokenize, swap, score. The rest of the code meets it through `process.EngineProcess`.

Chunks are decoded one at a time, as `llama-perplexity` cuts them: the memory is cleared, the chunk goes through in batches, logits are
computed only where they are scored, and summed where they lie.
"""

from __future__ import annotations

import ctypes as C
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc
import numpy as np
import numpy.typing as npt

from cerebellum import gguf_file
from cerebellum.backend import LOGITS_BYTES, Settings, Sources
from cerebellum.chat import ChatTemplate, Conversations, tokenized
from cerebellum.corpus import check_length, cut, cut_conversations
from cerebellum.domain import Chunk, ChunkScore, Corpus, Mask, Swaps, Tokens
from cerebellum.errors import EngineError, ModelFileError, TensorChoiceError
from cerebellum.llama_rules import quantizable_tensors
from cerebellum.llamacpp import native
from cerebellum.llamacpp.quantizer import Bytes, imatrix_rows, quantize_rows
from cerebellum.llamacpp.weights import Finder, Weights
from cerebellum.metrics import ReferenceRows, Threads, reference_rows, score_rows
from cerebellum.reference import ReferenceStore

#: Quantized data of swapped tensors kept for the next trial that wants it.
CACHE_BYTES = 1 << 30

Logits = npt.NDArray[np.float32]


def batch_size(settings: Settings, n_vocab: int) -> int:
    """Tokens a decode takes: the setting, or what `LOGITS_BYTES` and 2048 allow, a power of two at most ``n_ctx``."""
    if settings.n_batch is not None:
        return min(settings.n_batch, settings.n_ctx)
    room = max(32, min(2048, LOGITS_BYTES // (4 * n_vocab)))
    return min(settings.n_ctx, 1 << (room.bit_length() - 1))


class LlamaEngine:
    """See `cerebellum.backend.Engine` for the contract."""

    def __init__(self, path: Path, settings: Settings, sources: Sources | None = None) -> None:
        self._log = native.native_log()
        self.settings = settings
        self.model_file = gguf_file.read_model(path)
        self._tensors = {t.name: t for t in self.model_file.tensors}
        self._swappable = {t.name for t in quantizable_tensors(self.model_file)}
        self._n_threads = settings.n_threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._n_threads)
        # A pool of its own: scoring never waits behind a tensor that is being quantized.
        self._scorers = Threads(ThreadPoolExecutor(self._n_threads), self._n_threads)
        self._open_sources(sources)
        self._model = self._load(path)
        self._vocab = lc.llama_model_get_vocab(self._model)
        self.n_vocab: int = lc.llama_vocab_n_tokens(self._vocab)
        self._n_batch = batch_size(settings, self.n_vocab)
        self._weights = Weights(self._find(), self._make, CACHE_BYTES)
        self._context = self._new_context(settings.n_ctx, None)
        self._batch = Batch(self._n_batch)

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open_sources(self, sources: Sources | None) -> None:
        self._source = gguf_file.open_weights(sources.weights) if sources else None
        self._imatrix = gguf_file.load_imatrix(sources.imatrix) if sources and sources.imatrix else None

    def _load(self, path: Path) -> Any:
        params = lc.llama_model_default_params()
        params.use_extra_bufts = False  # repacked weights can't be swapped
        params.n_gpu_layers = self.settings.n_gpu_layers
        model = lc.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise ModelFileError(f"llama.cpp can't load {path}: {self._log.errors()}")
        return model

    def _new_context(self, n_ctx: int, callback: Any) -> Any:
        params = lc.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(self._n_batch, n_ctx)
        params.n_ubatch = min(self.settings.n_ubatch, params.n_batch)
        params.n_threads = params.n_threads_batch = self._n_threads
        params.no_perf = True
        if self.settings.flash_attention is not None:
            params.flash_attn_type = int(self.settings.flash_attention)
        if callback is not None:
            params.cb_eval = callback
        context = lc.llama_init_from_model(self._model, params)
        if not context:
            raise EngineError(f"llama.cpp can't open a context of {n_ctx} tokens: {self._log.errors()}")
        return context

    def _find(self) -> dict[str, list[int]]:
        """Run one token with an eval callback to learn where the weights are; that context is then closed."""
        finder = Finder()
        callback = lc.ggml_backend_sched_eval_callback(finder)
        context = self._new_context(min(32, self.settings.n_ctx), callback)
        batch = Batch(1)
        try:
            _decode(context, batch.fill(np.zeros(1, np.int32), 0, np.ones(1, np.bool_)))
        finally:
            lc.llama_free(context)
        found = {name: pointers for name, pointers in finder.found.items() if name in self._tensors}
        for pointers in found.values():
            native.check_layout(pointers[0])
        return found

    @property
    def unused(self) -> frozenset[str]:
        return frozenset(self._tensors) - frozenset(self._weights.found)

    # -- text --------------------------------------------------------------------------------------------------------

    def corpus(self, name: str, text: str, n_ctx: int) -> Corpus:
        tokens = self.tokenize(text)
        check_length(name, len(tokens), n_ctx)
        return cut(name, text, tokens, n_ctx, self._wanted_bos())

    def chat_corpus(self, conversations: Conversations, n_ctx: int) -> Corpus:
        bos, eos = (self._spelled(ask(self._vocab)) for ask in (lc.llama_vocab_bos, lc.llama_vocab_eos))
        template = ChatTemplate(self.model_file, bos, eos)
        parts = [
            tokenized(template.segments(conversation), self._parsed, self._wanted_bos())
            for conversation in conversations.items
        ]
        return cut_conversations(conversations.name, conversations.text_sha256, parts, n_ctx)

    def _wanted_bos(self) -> int | None:
        """BOS where the vocabulary wants a text to begin with it."""
        return int(lc.llama_vocab_bos(self._vocab)) if lc.llama_vocab_get_add_bos(self._vocab) else None

    def _spelled(self, token: int) -> str:
        """A special token as the vocabulary spells it; nothing where there is none."""
        return "" if token < 0 else str(lc.llama_vocab_get_text(self._vocab, token).decode(errors="replace"))

    def _parsed(self, text: str) -> Tokens:
        return self.tokenize(text, special=False, parse=True)

    def tokenize(self, text: str, *, special: bool = True, parse: bool = False) -> Tokens:
        """``text`` → int32 tokens; ``special`` adds BOS/EOS where the vocabulary wants them, ``parse`` reads special tokens."""
        data = text.encode()
        room = len(data) + 8
        out = (C.c_int32 * room)()
        n = lc.llama_tokenize(self._vocab, data, len(data), out, room, special, parse)
        if n < 0:
            raise EngineError(f"llama.cpp needs {-n} tokens for a text of {len(data)} bytes, more than expected")
        return np.ctypeslib.as_array(out)[:n].astype(np.int32)

    # -- swapping ----------------------------------------------------------------------------------------------------

    def _make(self, name: str, kind: str) -> Bytes:
        if self._source is None:
            raise EngineError(f"no weights to make {name} {kind} from: open the engine with sources")
        tensor = self._source.tensor(name)
        importance = imatrix_rows(tensor, self._imatrix.entries.get(name) if self._imatrix else None)
        return quantize_rows(tensor, self._source.raw(name), kind, importance, self._pool, self._n_threads)

    def _check(self, swaps: Swaps) -> None:
        for swap in swaps:
            if swap.tensor not in self._tensors:
                raise TensorChoiceError(f"{self.model_file.path.name} has no tensor {swap.tensor}")
            if swap.tensor not in self._swappable:
                raise TensorChoiceError(f"llama.cpp never quantizes {swap.tensor}, so it can't be {swap.type}")

    # -- scoring -----------------------------------------------------------------------------------------------------

    def score(
        self, swaps: Swaps, chunks: Sequence[Chunk], *, reference: ReferenceStore | None = None, label: str = ""
    ) -> Iterator[ChunkScore]:
        self._check(swaps)
        with self._weights.swapped(swaps):
            self._rebuild()
            for chunk in chunks:
                rows = reference.read(chunk.id) if reference else None
                yield self._score_chunk(chunk, rows)

    def _score_chunk(self, chunk: Chunk, reference: ReferenceRows | None) -> ChunkScore:
        parts = [
            score_rows(
                chunk.id, logits, targets, slice_reference(reference, first, first + len(targets)), self._scorers
            )
            for first, logits, targets in self._logits(chunk)
        ]
        return add_scores(parts)

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        self._rebuild()
        for chunk in chunks:
            if not store.has(chunk.id):
                parts = [
                    reference_rows(logits, targets, store.k, self._scorers)
                    for _, logits, targets in self._logits(chunk)
                ]
                store.write(chunk.id, join_reference(parts))
            yield chunk.id

    def logits(self, swaps: Swaps, chunk: Chunk) -> Logits:
        """All scored rows of one chunk, float32 [n, vocabulary]: for tests and proofs, not for the sweep."""
        self._check(swaps)
        with self._weights.swapped(swaps):
            self._rebuild()
            return np.concatenate([logits.copy() for _, logits, _ in self._logits(chunk)])

    def _logits(self, chunk: Chunk) -> Iterator[tuple[int, Logits, npt.NDArray[np.int64]]]:
        """Decode a chunk; per batch: index of its first scored token, logits [n, vocabulary] in place, the true next tokens [n]."""
        tokens, n = chunk.tokens, len(chunk.tokens)
        if n > self.settings.n_ctx:
            raise EngineError(f"a chunk of {n} tokens does not fit a context of {self.settings.n_ctx}")
        wanted = chunk.wanted()
        done = 0
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)
        for start in range(0, n, self._n_batch):
            stop = min(start + self._n_batch, n)
            _decode(self._context, self._batch.fill(tokens[start:stop], start, wanted[start:stop]))
            places = start + np.flatnonzero(wanted[start:stop])
            if len(places):
                pointer = lc.llama_get_logits(self._context)
                logits = np.ctypeslib.as_array(pointer, shape=(len(places), self.n_vocab))
                yield done, logits, tokens[places + 1].astype(np.int64)
                done += len(places)

    def _rebuild(self) -> None:
        """Decode one token, so that llama.cpp builds a new graph: a reused one may hold views made of the old weights."""
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)
        _decode(self._context, self._batch.fill(np.zeros(1, np.int32), 0, np.ones(1, np.bool_)))

    def close(self) -> None:
        if self._model is not None:
            self._weights.close()
            lc.llama_free(self._context)
            lc.llama_model_free(self._model)
            self._pool.shutdown()
            self._scorers.close()
            self._model = None


class Batch:
    """A reusable `llama_batch` of one sequence."""

    def __init__(self, size: int) -> None:
        self._batch = lc.llama_batch_init(size, 0, 1)
        self._size = size
        for i in range(size):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        self._token, self._pos, self._wanted = (
            np.ctypeslib.as_array(field, shape=(size,))
            for field in (self._batch.token, self._batch.pos, self._batch.logits)
        )

    def fill(self, tokens: Tokens, start: int, wanted: Mask) -> Any:
        """``tokens`` at positions ``start``…; logits of those that ``wanted`` bool [n] marks."""
        n = len(tokens)
        self._batch.n_tokens = n
        self._token[:n] = tokens
        self._pos[:n] = np.arange(start, start + n)
        self._wanted[:n] = wanted
        return self._batch

    def __del__(self) -> None:
        lc.llama_batch_free(self._batch)


def _decode(context: Any, batch: Any) -> None:
    status = lc.llama_decode(context, batch)
    if status != 0:
        raise EngineError(f"llama_decode ended with {status}: {native.native_log().errors()}")


def slice_reference(rows: ReferenceRows | None, first: int, last: int) -> ReferenceRows | None:
    """The reference's rows ``first``…``last`` − 1 of a chunk."""
    if rows is None:
        return None
    ids = None if rows.ids is None else rows.ids[first:last]
    part = slice(first, last)
    return ReferenceRows(rows.logits[part], rows.lse[part], rows.target_nll[part], rows.top[part], ids)


def join_reference(parts: Sequence[ReferenceRows]) -> ReferenceRows:
    """Rows of consecutive batches as one."""
    ids = [part.ids for part in parts if part.ids is not None]
    return ReferenceRows(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.lse for part in parts]),
        np.concatenate([part.target_nll for part in parts]),
        np.concatenate([part.top for part in parts]),
        np.concatenate(ids) if ids else None,
    )


def add_scores(parts: Sequence[ChunkScore]) -> ChunkScore:
    """Sums of the parts of one chunk, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = _add(total, part)
    return total


def _add(a: ChunkScore, b: ChunkScore) -> ChunkScore:
    def both(name: str) -> Any:
        left, right = getattr(a, name), getattr(b, name)
        return None if left is None or right is None else left + right

    names = ("n_tokens", "nll", "nll2", "kld", "kld2", "kld_slack", "same_top", "dp", "dp2", "dp4", "kld_tokens")
    tempered = tuple(x + y for x, y in zip(a.tempered, b.tempered, strict=True))
    return ChunkScore(chunk=a.chunk, tempered=tempered, **{name: both(name) for name in names})
