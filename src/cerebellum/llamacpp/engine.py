"""One opened model in this process: tokenize, swap, score. The rest of the code meets it through `process.EngineProcess`.

Chunks are decoded one at a time, as `llama-perplexity` cuts them: the memory is cleared, the chunk goes through in batches, logits are
computed only where they are scored, and summed where they lie.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes as C
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc
import numpy as np
import numpy.typing as npt

from cerebellum import gguf_file
from cerebellum.backend import LOGITS_BYTES, Settings, Sources, SweepEvent
from cerebellum.chat import ChatTemplate, Conversations, tokenized
from cerebellum.corpus import check_length, cut, cut_conversations
from cerebellum.domain import Chunk, ChunkScore, Corpus, Mask, Swaps, Tokens, Trial
from cerebellum.errors import EngineError, ModelFileError, TensorChoiceError
from cerebellum.llama_rules import quantizable_tensors
from cerebellum.llamacpp import native
from cerebellum.llamacpp.graph import Graph
from cerebellum.llamacpp.quantizer import Bytes, imatrix_rows, quantize_rows
from cerebellum.llamacpp.states import States
from cerebellum.llamacpp.tap import Program, Tap, program
from cerebellum.llamacpp.weights import Finder, Weights
from cerebellum.metrics import ReferenceRows, reference_rows, score_rows
from cerebellum.reference import ReferenceStore

#: Quantized data of swapped tensors kept for the next trial that wants it.
CACHE_BYTES = 1 << 30

#: Shapes of chunks whose recorded graphs are kept.
GRAPHS = 64

Logits = npt.NDArray[np.float32]
#: What to do in each of a chunk's batches; None: compute everything.
Programs = Sequence[Program] | None


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
        self._open_sources(sources)
        self._model = self._load(path)
        self._vocab = lc.llama_model_get_vocab(self._model)
        self.n_vocab: int = lc.llama_vocab_n_tokens(self._vocab)
        self._n_batch = min(batch_size(settings, self.n_vocab), settings.n_ubatch)
        self._weights = Weights(self._find(), self._make, CACHE_BYTES)
        self._tap = Tap() if settings.replay_bytes and self._forgets() else None
        self._context = self._new_context(settings.n_ctx, self._tap.callback if self._tap else None)
        self._batch = Batch(self._n_batch)
        self._graphs: collections.OrderedDict[tuple[tuple[int, int], ...], list[Graph]] = collections.OrderedDict()
        #: Whether leaving out what is dead, and beginning at a trial's block, were found exact here; None: not tried yet.
        self.lean: bool | None = None if self._tap else False
        self.replays: bool | None = self.lean

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
        params.n_batch = params.n_ubatch = min(self._n_batch, n_ctx)  # a decode is one graph
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

    def _forgets(self) -> bool:
        """Whether the memory is keys and values alone, which clearing empties; a recurrent state can't be begun in the middle."""
        return not (lc.llama_model_is_recurrent(self._model) or lc.llama_model_is_hybrid(self._model))

    def _find(self) -> dict[str, list[int]]:
        """Run one token with an eval callback to learn where the weights are; that context is then closed."""
        finder = Finder()
        callback = lc.ggml_backend_sched_eval_callback(finder)
        context = self._new_context(min(32, self.settings.n_ctx), callback)
        batch = Batch(1)
        try:
            decode(context, batch.fill(np.zeros(1, np.int32), 0, np.ones(1, np.bool_)))
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

    def addresses(self, tensor: str) -> Sequence[int]:
        """Where a tensor's structs are; none for one that no forward pass reads."""
        return self._weights.found.get(tensor, ())

    @contextlib.contextmanager
    def swapped(self, swaps: Swaps) -> Iterator[None]:
        """The model with ``swaps`` in force."""
        with self._weights.swapped(swaps):
            yield

    def ahead(self, swaps: Swaps) -> None:
        """Begin to quantize for the next trial where a GPU computes this one; a CPU's cores are busy with it."""
        if self.settings.n_gpu_layers:
            self._weights.ahead(swaps)

    def forget(self) -> None:
        """Free what was quantized: it won't be wanted again."""
        self._weights.trim(0)

    def check(self, swaps: Swaps) -> None:
        for swap in swaps:
            if swap.tensor not in self._tensors:
                raise TensorChoiceError(f"{self.model_file.path.name} has no tensor {swap.tensor}")
            if swap.tensor not in self._swappable:
                raise TensorChoiceError(f"llama.cpp never quantizes {swap.tensor}, so it can't be {swap.type}")

    # -- scoring -----------------------------------------------------------------------------------------------------

    def score(
        self, swaps: Swaps, chunks: Sequence[Chunk], *, reference: ReferenceStore | None = None, label: str = ""
    ) -> Iterator[ChunkScore]:
        self.check(swaps)
        with self._weights.swapped(swaps):
            for chunk in chunks:
                yield self.score_chunk(chunk, reference.read(chunk.id) if reference else None, None)

    def sweep(
        self, trials: Sequence[Trial], chunks: Sequence[Chunk], *, reference: ReferenceStore | None = None
    ) -> Iterator[SweepEvent]:
        from cerebellum.llamacpp.sweeping import sweep

        return sweep(self, trials, chunks, reference)

    def score_chunk(self, chunk: Chunk, reference: ReferenceRows | None, programs: Programs) -> ChunkScore:
        """A chunk's sums with the weights that are in force. ``programs`` None: computed whole."""
        parts = [
            score_rows(chunk.id, logits, targets, slice_reference(reference, first, first + len(targets)))
            for first, logits, targets in self._logits(chunk, programs)
        ]
        return add_scores(parts)

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        lacking = [chunk for chunk in chunks if not store.has(chunk.id)]
        if self.lean is None and self.is_lean_worth(lacking):
            self.check_lean(lacking[0])
        for chunk in chunks:
            if not store.has(chunk.id):
                rows = self._logits(chunk, self.lean_programs(chunk))
                parts = [reference_rows(logits, targets, store.k) for _, logits, targets in rows]
                store.write(chunk.id, join_reference(parts))
            yield chunk.id

    def logits(self, swaps: Swaps, chunk: Chunk) -> Logits:
        """All scored rows of one chunk, float32 [n, vocabulary]: for tests and proofs, not for the sweep."""
        self.check(swaps)
        with self._weights.swapped(swaps):
            return self.rows(chunk, None)

    def rows(self, chunk: Chunk, programs: Programs) -> Logits:
        """All scored rows of a chunk with the weights that are in force, float32 [n, vocabulary]."""
        return np.concatenate([logits.copy() for _, logits, _ in self._logits(chunk, programs)])

    def pass_over(self, chunk: Chunk, programs: Programs) -> None:
        """Compute a chunk only for what its programs keep of it."""
        for _ in self._logits(chunk, programs):
            pass

    def _batches(self, chunk: Chunk) -> list[slice]:
        return [
            slice(at, min(at + self._n_batch, len(chunk.tokens))) for at in range(0, len(chunk.tokens), self._n_batch)
        ]

    def _logits(self, chunk: Chunk, programs: Programs) -> Iterator[tuple[int, Logits, npt.NDArray[np.int64]]]:
        """Decode a chunk; per batch: index of its first scored token, logits [n, vocabulary] in place, the true next tokens [n].

        ``programs``: what to leave out and keep in each batch; None: everything is computed.
        """
        if len(chunk.tokens) > self.settings.n_ctx:
            raise EngineError(f"a chunk of {len(chunk.tokens)} tokens does not fit a context of {self.settings.n_ctx}")
        wanted, done = chunk.wanted(), 0
        lc.llama_memory_clear(lc.llama_get_memory(self._context), False)
        for number, part in enumerate(self._batches(chunk)):
            self._decode_batch(chunk, part, wanted, programs[number] if programs else None)
            places = part.start + np.flatnonzero(wanted[part])
            if len(places):
                pointer = lc.llama_get_logits(self._context)
                logits = np.ctypeslib.as_array(pointer, shape=(len(places), self.n_vocab))
                yield done, logits, chunk.tokens[places + 1].astype(np.int64)
                done += len(places)

    def _decode_batch(self, chunk: Chunk, part: slice, wanted: Mask, program: Program | None) -> None:
        batch = self._batch.fill(chunk.tokens[part], part.start, wanted[part])
        if program is None or self._tap is None:
            decode(self._context, batch)
        else:
            self._tap.run(lambda: decode(self._context, batch), program)

    # -- replaying ---------------------------------------------------------------------------------------------------

    def graphs(self, chunk: Chunk) -> list[Graph]:
        """The graph of each of a chunk's batches, recorded where chunks of this shape are new; none where nothing can be replayed."""
        if self._tap is None or self.lean is False:
            return []
        wanted = chunk.wanted()
        shape = tuple((part.stop, int(wanted[part].sum())) for part in self._batches(chunk))
        if shape not in self._graphs:
            self._graphs[shape] = self._record(chunk, self._tap)
            while len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        return self._graphs[shape]

    def _record(self, chunk: Chunk, tap: Tap) -> list[Graph]:
        wanted, found = chunk.wanted(), []
        lc.llama_memory_clear(lc.llama_get_memory(self._context), False)
        for part in self._batches(chunk):
            work = functools.partial(self._decode_batch, chunk, part, wanted, None)
            found.append(tap.record(work, bool(wanted[part].any())))
        return found

    def state_bytes(self, chunk: Chunk) -> Callable[[Sequence[int]], int]:
        """How many bytes a chunk's states take, as a function of the boundaries kept."""
        graphs = self.graphs(chunk)
        return lambda boundaries: sum(graph.cut_bytes(boundaries) for graph in graphs)

    def capturing(self, chunk: Chunk, states: States, boundaries: Sequence[int], *, whole: bool) -> Programs:
        """Programs that keep a chunk's states at ``boundaries``."""
        graphs = enumerate(self.graphs(chunk))
        return [states.capturing(i, graph, boundaries, whole=whole) for i, graph in graphs]

    def replaying(self, chunk: Chunk, states: States, start: int) -> Programs:
        """Programs that compute what comes after boundary ``start``; −1: everything that leads to a scored row."""
        if start < 0:
            return self.lean_programs(chunk)
        return [states.replaying(i, graph, start) for i, graph in enumerate(self.graphs(chunk))]

    def lean_programs(self, chunk: Chunk) -> Programs:
        """Programs that leave out what leads to no scored row, where that was found exact; else None."""
        return [program(graph, range(len(graph))) for graph in self.graphs(chunk)] if self.lean else None

    def is_lean_worth(self, chunks: Sequence[Chunk]) -> bool:
        """Whether enough is dead in these chunks to pay for trying it on one of them."""
        graphs = self.graphs(chunks[0]) if chunks else []
        dead = sum(graph.live.count(False) for graph in graphs) / max(1, sum(map(len, graphs)))
        return dead * len(chunks) > 1

    def check_lean(self, chunk: Chunk) -> bool:
        """Try leaving out what is dead, with the weights that are in force: sets and returns ``lean``."""
        self.lean = True
        self.lean = equal(self.rows(chunk, None), self.rows(chunk, self.lean_programs(chunk)))
        return self.lean

    def close(self) -> None:
        if self._model is not None:
            self._weights.close()
            lc.llama_free(self._context)
            lc.llama_model_free(self._model)
            self._pool.shutdown()
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


def decode(context: Any, batch: Any) -> None:
    status = lc.llama_decode(context, batch)
    if status != 0:
        raise EngineError(f"llama_decode ended with {status}: {native.native_log().errors()}")


def equal(a: Logits, b: Logits) -> bool:
    """Whether two arrays are the same bit for bit."""
    return a.shape == b.shape and a.tobytes() == b.tobytes()


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
