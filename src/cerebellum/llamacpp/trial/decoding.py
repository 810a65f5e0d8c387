"""Chunks through llama.cpp: decoded in batches, whole or in part, logits only where they are scored.

The memory of keys and values is cleared for each chunk. A batch has at most ``n_ubatch`` tokens, so it is one graph.

Four things save time or memory and change no number. An engine tries each of them before it relies on it. With ``replay_bytes`` 0 none of
them but the first is done.

* Short chunks of one length are decoded side by side, each as a sequence of its own: a **bundle**. This is done only where no operation of
  the graph lets one sequence change another (`mixing`).
* Dead nodes are left out.
* A trial begins at the block that it changes.
* Logits are computed in the memory to which llama.cpp would copy them. With a large vocabulary they take more memory than anything else,
  and so they take it once.
"""

from __future__ import annotations

import collections
import ctypes as C
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Chunk, Mask, Tokens
from cerebellum.errors import EngineError
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.protocol import Settings
from cerebellum.llamacpp.trial.eval_callback import EvalCallback, Program, program, whole_program
from cerebellum.llamacpp.trial.graph import Graph
from cerebellum.llamacpp.trial.mixing import kernels_are_known
from cerebellum.llamacpp.trial.replay_cache import ReplayCache

_COPIED = (
    "note: llama.cpp copies weights from one device to another here, so every trial is computed whole: the same numbers"
)
#: Shapes of bundles whose recorded graphs are kept.
GRAPHS = 64
#: A bundle is tried, which costs two passes, for every so many bundles that are to be decoded; at most so many.
TRIED, MOST_TRIED = 32, 4

Logits = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64]
#: Chunks decoded together: one, or several of one length that fit a batch.
Bundle = tuple[Chunk, ...]
#: Digests of scored rows by chunk id and the index of the first row among the chunk's scored ones.
Digests = dict[tuple[int, int], bytes]
#: What to do in each of a bundle's batches; None: compute everything.
Programs = Sequence[Program] | None


class Decoder:
    """A context of an opened model. ``places``, ``lean``, ``replays``, ``packs``: whether computing logits where they are read, leaving out
    what is dead, beginning at a trial's block, and decoding side by side were found exact here; None: not tried yet. ``unsaid``: what the
    user should know of it."""

    def __init__(self, model: Any, settings: Settings, n_vocab: int, n_threads: int) -> None:
        room = settings.batch_room(n_vocab)
        self.settings, self.n_vocab, self.n_threads = settings, n_vocab, n_threads
        self.n_batch = min(room, settings.n_ctx)
        self.together = max(1, room // settings.n_ctx)
        self.unsaid: list[str] = []
        self._tap = EvalCallback() if settings.replay_bytes and only_attends(model) else None
        if self._tap and is_split(model, settings):
            self._tap = None
            self.unsaid.append(
                f"note: with {settings.n_gpu_layers} of {n_layers(model)} layers on the GPU every trial is computed whole (-ngl 99 puts "
                "all of them there: figures of its own)"
            )
        self._context = new_context(
            model,
            settings,
            n_ctx=settings.n_ctx,
            n_batch=self.n_batch,
            n_seq=self.together,
            n_threads=n_threads,
            callback=self._tap.callback if self._tap else None,
        )
        self._batch = Batch(self.n_batch * self.together)
        self._graphs: collections.OrderedDict[tuple[int, ...], list[Graph]] = collections.OrderedDict()
        self.lean: bool | None = None if self._tap else False
        self.places: bool | None = self.lean
        self.replays: bool | None = self.lean
        self.packs: bool | None = None if self.together > 1 else False

    def close(self) -> None:
        lc.llama_free(self._context)

    # -- whole or in part --------------------------------------------------------------------------------------------

    def logits(self, bundle: Bundle, programs: Programs) -> Iterator[tuple[int, int, Logits, Targets]]:
        """Decode a bundle; per chunk and batch: the chunk's place in the bundle, the index of the first row among the chunk's scored
        ones, logits [n, vocabulary] in place, the true next tokens [n]."""
        if len(bundle[0].tokens) > self.settings.n_ctx:
            n = len(bundle[0].tokens)
            raise EngineError(f"a chunk of {n} tokens does not fit a context of {self.settings.n_ctx}")
        if self.places is None:
            self._try_placing(bundle[0])
        if self.places:
            programs = programs or self._whole_programs(bundle)
        wanted, done = [chunk.wanted() for chunk in bundle], 0
        self._clear()
        for number, span in enumerate(self._batches(bundle)):
            self._decode(bundle, span, wanted, programs[number] if programs else None)
            counts = [int(mask[span].sum()) for mask in wanted]
            if not sum(counts):
                continue
            logits = np.ctypeslib.as_array(lc.llama_get_logits(self._context), shape=(sum(counts), self.n_vocab))
            for i_chunk, (chunk, mask) in enumerate(zip(bundle, wanted, strict=True)):
                first = sum(counts[:i_chunk])
                targets = chunk.tokens[span.start + np.flatnonzero(mask[span]) + 1].astype(np.int64)
                yield i_chunk, done, logits[first : first + counts[i_chunk]], targets
            done += counts[0]
        lc.llama_synchronize(self._context)  # a device may be busy with a batch that nothing was read of

    def rows(self, bundle: Bundle, programs: Programs) -> Logits:
        """All scored rows of a bundle, float32 [n, vocabulary]."""
        return np.concatenate([logits.copy() for _, _, logits, _ in self.logits(bundle, programs)])

    def digests(self, bundle: Bundle, programs: Programs) -> Digests:
        """What a bundle's scored rows are, without keeping them: equal digests are equal bits."""
        return {
            (bundle[i_chunk].id, first): hashlib.blake2b(logits.data).digest()
            for i_chunk, first, logits, _ in self.logits(bundle, programs)
        }

    def pass_over(self, bundle: Bundle, programs: Programs) -> None:
        """Compute a bundle only for what its programs keep of it."""
        for _ in self.logits(bundle, programs):
            pass

    def _try_placing(self, chunk: Chunk) -> None:
        """A chunk's first two tokens, which cost little memory, with logits copied and placed: sets ``places``."""
        bundle = (Chunk(chunk.id, chunk.tokens[:2], np.array([False, True])),)
        self.places = False
        copied = self.digests(bundle, None)
        programs = self._whole_programs(bundle)
        if self._tap and any(program.graph.outputs for program in programs):
            self._tap.place_logits = self._room
            self.places = self.digests(bundle, programs) == copied
            if not self.places:
                self._tap.place_logits = None
                self.unsaid.append(
                    "warning: logits computed where they are read differ from those that llama.cpp copies there, so they are copied: more "
                    "memory, the same numbers"
                )

    def _whole_programs(self, bundle: Bundle) -> Sequence[Program]:
        return [whole_program(graph) for graph in self.graphs(bundle)]

    def _room(self) -> int:
        """Where llama.cpp has room for the logits of the batch that it computes."""
        return C.cast(lc.llama_get_logits(self._context), C.c_void_p).value or 0

    def _clear(self) -> None:
        lc.llama_memory_clear(lc.llama_get_memory(self._context), False)

    def _batches(self, bundle: Bundle) -> list[slice]:
        n = len(bundle[0].tokens)
        return [slice(at, min(at + self.n_batch, n)) for at in range(0, n, self.n_batch)]

    def _decode(self, bundle: Bundle, span: slice, wanted: Sequence[Mask], program: Program | None) -> None:
        batch = self._batch.fill([chunk.tokens[span] for chunk in bundle], span.start, [mask[span] for mask in wanted])
        if program is None or self._tap is None:
            decode(self._context, batch)
        else:
            self._tap.run(lambda: decode(self._context, batch), program)

    # -- side by side ------------------------------------------------------------------------------------------------

    def bundles(self, chunks: Sequence[Chunk], times: int = 1) -> list[Bundle]:
        """``chunks``, each to be decoded ``times`` times, as bundles: several a bundle where that is exact and pays."""
        if not self._can_pack(chunks):
            return [(chunk,) for chunk in chunks]
        if self.packs is None and len(chunks) * times >= 4 * self.together:
            self.packs = True  # for `same_side_by_side`, which decodes bundles
            self.packs = all(map(self.same_side_by_side, spread(self._packed(chunks), len(chunks) * times)))
        return self._packed(chunks) if self.packs else [(chunk,) for chunk in chunks]

    def _can_pack(self, chunks: Sequence[Chunk]) -> bool:
        """Whether no operation can let one of ``chunks`` change another beside it: seen from the graphs of each shape of them alone."""
        if self.packs is False or len(chunks) < 2 or any(len(c.tokens) != self.settings.n_ctx for c in chunks):
            return False
        if not kernels_are_known(self.settings.n_gpu_layers):
            return False
        alone = list({self._shape((chunk,)): (chunk,) for chunk in chunks}.values())
        if len(alone) > GRAPHS:
            return False
        graphs = [self.graphs(bundle) for bundle in alone]
        return all(of_bundle and not any(graph.mixes for graph in of_bundle) for of_bundle in graphs)

    def _packed(self, chunks: Sequence[Chunk]) -> list[Bundle]:
        return [tuple(chunks[at : at + self.together]) for at in range(0, len(chunks), self.together)]

    def same_side_by_side(self, bundle: Bundle) -> bool:
        """Whether a bundle's chunks give the same bits side by side as each alone, with the weights that are in force."""
        alone: Digests = {}
        for chunk in bundle:
            alone |= self.digests((chunk,), None)
        return self.digests(bundle, None) == alone

    # -- leaving out -------------------------------------------------------------------------------------------------

    def graphs(self, bundle: Bundle) -> list[Graph]:
        """The graph of each of a bundle's batches, recorded where its shape is new; none where nothing can be left out."""
        if self._tap is None or self.lean is False:
            return []
        shape = self._shape(bundle)
        if shape not in self._graphs:
            self._graphs[shape] = self._record(bundle, self._tap)
            while len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
            if self._tap.weights_copied:
                self.lean = self.replays = self.places = False
                self.unsaid.append(_COPIED)
                return []
        self._graphs.move_to_end(shape)
        return self._graphs[shape]

    def _shape(self, bundle: Bundle) -> tuple[int, ...]:
        """Bundles of one shape have one graph a batch."""
        counts = [int(chunk.wanted()[span].sum()) for span in self._batches(bundle) for chunk in bundle]
        return (len(bundle[0].tokens), len(bundle), *counts)

    def most_at_once(self, bundles: Sequence[Bundle]) -> int:
        """How many of these in a row can be gone over again and again with their graphs kept."""
        return GRAPHS if len({self._shape(bundle) for bundle in bundles}) > GRAPHS else len(bundles)

    def _record(self, bundle: Bundle, callback: EvalCallback) -> list[Graph]:
        wanted, graphs = [chunk.wanted() for chunk in bundle], []
        self._clear()
        for span in self._batches(bundle):
            work = functools.partial(self._decode, bundle, span, wanted, None)
            graphs.append(callback.record(work, 4 * self.n_vocab * sum(int(mask[span].sum()) for mask in wanted)))
        return graphs

    def state_bytes(self, bundle: Bundle) -> Callable[[Sequence[int]], int]:
        """How many bytes a bundle's states take, as a function of the boundaries kept."""
        graphs = self.graphs(bundle)
        return lambda boundaries: sum(graph.cut_bytes(boundaries) for graph in graphs)

    def capturing(self, bundle: Bundle, states: ReplayCache, boundaries: Sequence[int], *, whole: bool) -> Programs:
        """Programs that keep a bundle's states at ``boundaries``."""
        graphs = enumerate(self.graphs(bundle))
        return [states.capturing(i, graph, boundaries, whole=whole) for i, graph in graphs]

    def replaying(self, bundle: Bundle, states: ReplayCache, start: int) -> Programs:
        """Programs that compute what comes after boundary ``start``; −1: everything that leads to a scored row."""
        if start < 0:
            return self.lean_programs(bundle)
        return [states.replaying(i, graph, start) for i, graph in enumerate(self.graphs(bundle))]

    def lean_programs(self, bundle: Bundle) -> Programs:
        """Programs that leave out what leads to no scored row, where that was found exact; else None."""
        return [program(graph, range(len(graph))) for graph in self.graphs(bundle)] if self.lean else None

    def is_lean_worth(self, bundle: Bundle, times: int) -> bool:
        """Whether enough is dead in a bundle to pay, over ``times`` passes, for trying to leave it out once."""
        graphs = self.graphs(bundle)
        dead = sum(graph.live.count(False) for graph in graphs) / max(1, sum(map(len, graphs)))
        return self.lean is None and dead * times > 1

    def try_lean(self, bundle: Bundle) -> bool:
        """Leave out what is dead, and don't, with the weights that are in force: sets and returns ``lean``."""
        self.lean = True
        self.lean = self.digests(bundle, None) == self.digests(bundle, self.lean_programs(bundle))
        return self.lean


def spread(bundles: Sequence[Bundle], n_chunks: int) -> list[Bundle]:
    """One of ``bundles`` to try for every `TRIED` chunks that are to be decoded, at least one and at most `MOST_TRIED`, from first to
    last."""
    n = min(len(bundles), MOST_TRIED, max(1, n_chunks // (TRIED * len(bundles[0]))))
    return [bundles[i * (len(bundles) - 1) // max(1, n - 1)] for i in range(n)]


class Batch:
    """A reusable `llama_batch`, each chunk of a bundle a sequence of its own."""

    def __init__(self, size: int) -> None:
        self._batch = lc.llama_batch_init(size, 0, 1)
        for i in range(size):
            self._batch.n_seq_id[i] = 1
        self._token, self._pos, self._wanted = (
            np.ctypeslib.as_array(field, shape=(size,))
            for field in (self._batch.token, self._batch.pos, self._batch.logits)
        )
        self._ids = [self._batch.seq_id[i] for i in range(size)]
        self._shape = (0, 0)

    def fill(self, tokens: Sequence[Tokens], start: int, wanted: Sequence[Mask]) -> Any:
        """Of each chunk ``tokens`` [n] at positions ``start``…; logits of those that ``wanted`` bool [n] marks."""
        n = len(tokens[0])
        for i_chunk, (of_chunk, mask) in enumerate(zip(tokens, wanted, strict=True)):
            span = slice(i_chunk * n, (i_chunk + 1) * n)
            self._token[span], self._pos[span], self._wanted[span] = of_chunk, np.arange(start, start + n), mask
        self._take_sequences(len(tokens), n)
        self._batch.n_tokens = n * len(tokens)
        return self._batch

    def _take_sequences(self, count: int, n: int) -> None:
        """``count`` sequences of ``n`` tokens, one after the other."""
        if (count, n) != self._shape:
            self._shape = count, n
            for i, seq_id in enumerate(self._ids[: count * n]):
                seq_id[0] = i // n

    def __del__(self) -> None:
        lc.llama_batch_free(self._batch)


def only_attends(model: Any) -> bool:
    """Whether the memory is keys and values alone; a recurrent state can't be begun in the middle."""
    return not (lc.llama_model_is_recurrent(model) or lc.llama_model_is_hybrid(model))


def is_split(model: Any, settings: Settings) -> bool:
    """Whether some layers, but not all and the output, are computed on a GPU. There the scheduler may copy a tensor's part by what a node
    has computed, which a graph that is only recorded doesn't have."""
    return 0 < settings.n_gpu_layers < n_layers(model) and bool(lc.llama_supports_gpu_offload())


def n_layers(model: Any) -> int:
    """As ``-ngl`` counts them: the blocks, those that predict further tokens among them, and the output."""
    return int(lc.llama_model_n_layer(model) + lc.llama_model_n_layer_nextn(model)) + 1


def new_context(
    model: Any,
    settings: Settings,
    *,
    n_ctx: int,
    n_batch: int,
    n_threads: int,
    n_seq: int = 1,
    n_graph: int | None = None,
    callback: Any = None,
) -> Any:
    """A context for ``n_seq`` sequences of ``n_ctx`` tokens each, batches of ``n_batch`` tokens of each, or of ``n_graph`` tokens of all
    of them together. Raises `EngineError`."""
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * n_seq, n_seq, False
    params.n_batch = params.n_ubatch = n_graph or n_batch * n_seq  # a decode is one graph
    params.n_threads = params.n_threads_batch = n_threads
    params.no_perf = True
    params.op_offload = settings.n_gpu_layers != 0  # else batches would go to a GPU that wasn't asked for
    if settings.flash_attention is not None:
        params.flash_attn_type = int(settings.flash_attention)
    if callback is not None:
        params.cb_eval = callback
    context = lc.llama_init_from_model(model, params)
    if not context:
        raise EngineError(f"llama.cpp can't open a context of {n_ctx * n_seq} tokens: {native.native_log().errors()}")
    return context


def decode(context: Any, batch: Any) -> None:
    """Compute a batch. Raises `EngineError`."""
    status = lc.llama_decode(context, batch)
    if status != 0:
        raise EngineError(f"llama_decode ended with {status}: {native.native_log().errors()}")
