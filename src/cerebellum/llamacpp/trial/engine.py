"""One opened model in this process: tokenize, swap, score. The rest of the code meets it through `process.EngineProcess`.

Chunks are cut as `llama-perplexity` cuts them and decoded by `decoding`; logits are summed where they lie.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cerebellum.domain import Chunk, ChunkScore, Corpus, TensorTypes, Tokens, Trial
from cerebellum.errors import EngineError, TensorChoiceError
from cerebellum.gguf import model_file
from cerebellum.gguf.importance import Importance
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.keys import sha256_bytes
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.prediction import PROBE, check_logits
from cerebellum.llamacpp.protocol import Collected, Settings, Sources, SweepEvent
from cerebellum.llamacpp.trial.decoding import Batch, Bundle, Decoder, Logits, Programs, decode, new_context
from cerebellum.llamacpp.trial.quantizer import Bytes, imatrix_rows, quantize_rows
from cerebellum.llamacpp.trial.sums import Reader, add_scores, join_reference, slice_reference
from cerebellum.llamacpp.trial.weights import WeightFinder, Weights
from cerebellum.llamacpp.vocabulary import Vocabulary, load_model
from cerebellum.llamacpp.warned import telling
from cerebellum.parallel import Threads
from cerebellum.scoring.metrics import ReferenceRows, coded_rows, draw_offsets, reference_rows, score_rows
from cerebellum.scoring.reference import EXACT_BITS, ReferenceStore
from cerebellum.text.chat import Conversations, all_tokenized
from cerebellum.text.corpus import check_length, cut, cut_conversations

#: Quantized data of swapped tensors kept for the next trial that wants it: in another part of the text, another round of a race, a control.
CACHE_BYTES = 256 << 20


class LlamaEngine:
    """See `cerebellum.llamacpp.protocol.Engine` for the contract."""

    decoder_type = Decoder

    def __init__(self, path: Path, settings: Settings, sources: Sources | None = None) -> None:
        # CUDA tells a graph that it has kept by its tensors' places and sizes: a swapped tensor of another type can have the same.
        os.environ["GGML_CUDA_DISABLE_GRAPHS"] = "1"
        self._log = native.native_log()
        self._log.warned.clear()
        self.settings = settings
        self.model_file = model_file.read_model(path)
        self._tensors = {t.name: t for t in self.model_file.tensors}
        self._swappable = {t.name for t in quantizable_tensors(self.model_file)}
        self._n_threads = settings.threads
        # Two pools: scoring has its helpers while a tensor is quantized ahead.
        self._quantizers, self._scorers = Threads.of(self._n_threads), Threads.of(self._n_threads)
        self._open_sources(sources)
        self._model = load_model(path, settings)
        self.vocabulary = Vocabulary(self._model)
        self.n_vocab = self.vocabulary.n_tokens
        self.decoder = self.decoder_type(self._model, settings, self.n_vocab, self._n_threads)

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open_sources(self, sources: Sources | None) -> None:
        self._source = model_file.open_weights(sources.weights) if sources else None
        self._imatrix = model_file.load_imatrix(sources.imatrix) if sources and sources.imatrix else None

    @functools.cached_property
    def _weights(self) -> Weights:
        """Found when first wanted, since that reads the whole file: who cuts texts or keeps a reference has no use for them."""
        return Weights(self._find(), self._make, CACHE_BYTES)

    def _find(self) -> dict[str, list[int]]:
        """Run one token with an eval callback to learn where the weights are; that context is then closed."""
        finder = WeightFinder()
        callback = lc.ggml_backend_sched_eval_callback(finder)
        n_ctx = min(32, self.settings.n_ctx)
        context = new_context(
            self._model, self.settings, n_ctx=n_ctx, n_batch=1, n_threads=self._n_threads, callback=callback
        )
        batch = Batch(1)
        try:
            decode(context, batch.fill([np.zeros(1, np.int32)], 0, [np.ones(1, np.bool_)]))
        finally:
            lc.llama_free(context)
        pointers_of = {name: pointers for name, pointers in finder.found.items() if name in self._tensors}
        for pointers in pointers_of.values():
            for pointer in pointers:
                native.check_layout(pointer)
        return pointers_of

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        return telling(self._log.warned, self.model_file.path.name)

    @property
    def unused(self) -> frozenset[str]:
        return frozenset(self._tensors) - frozenset(self._weights.found)

    def quantized_sha256(self, tensor_types: TensorTypes) -> dict[str, str]:
        self.check(tensor_types)
        return {f"{s.tensor}={s.type}": sha256_bytes(self._make(s.tensor, s.type).data) for s in tensor_types}

    # -- text --------------------------------------------------------------------------------------------------------

    def corpus(self, name: str, text: str, n_ctx: int) -> Corpus:
        tokens = self.vocabulary.tokenize(text)
        check_length(name, len(tokens), n_ctx)
        return cut(name, text, tokens, n_ctx, self.vocabulary.bos)

    def chat_corpus(self, conversations: Conversations, n_ctx: int) -> Corpus:
        template = self.vocabulary.chat_template(self.model_file)
        parts, refused = all_tokenized(template, conversations, self._parsed, self.vocabulary.bos)
        return cut_conversations(conversations.name, conversations.text_sha256, parts, n_ctx, refused)

    def _parsed(self, text: str) -> Tokens:
        return self.vocabulary.tokenize(text, special=False, parse=True)

    # -- swapping ----------------------------------------------------------------------------------------------------

    def _make(self, name: str, kind: str) -> Bytes:
        if self._source is None:
            raise EngineError(f"no weights to make {name} {kind} from: open the engine with sources")
        tensor = self._source.tensor(name)
        importance = imatrix_rows(tensor, self._imatrix.entries.get(name) if self._imatrix else None)
        return quantize_rows(tensor, self._source.raw(name), kind, importance, self._quantizers)

    def addresses(self, tensor: str) -> Sequence[int]:
        """Where a tensor's structs are; none for one that no forward pass reads."""
        return self._weights.found.get(tensor, ())

    @contextlib.contextmanager
    def swapped(self, tensor_types: TensorTypes) -> Iterator[None]:
        """The model with ``tensor_types`` in force."""
        with self._weights.swapped(tensor_types) if tensor_types else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Work at whose end what was swapped is let go again but for a bounded part."""
        try:
            yield
        finally:
            if "_weights" in vars(self):
                self._weights.rest()

    def ahead(self, tensor_types: TensorTypes) -> None:
        """Begin to quantize for the next trial where a GPU computes this one, or as many cores are idle; else they are busy with it."""
        if self.settings.n_gpu_layers or self.settings.has_idle_cores:
            self._weights.ahead(tensor_types)

    @property
    def makes_ahead(self) -> bool:
        """Whether something is being quantized for a later trial now."""
        return self._weights.makes_ahead

    def check(self, tensor_types: TensorTypes) -> None:
        for swap in tensor_types:
            if swap.tensor not in self._tensors:
                raise TensorChoiceError(f"{self.model_file.path.name} has no tensor {swap.tensor}")
            if swap.tensor not in self._swappable:
                raise TensorChoiceError(f"llama.cpp never quantizes {swap.tensor}, so it can't be {swap.type}")

    # -- scoring -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _predicts(self) -> bool:
        """Looked at before the first logits are used. Raises `ModelFileError` where they predict no next token."""
        tokens = self.vocabulary.tokenize(PROBE)
        check_logits(self._model, self.settings, self._n_threads, tokens, self.n_vocab, self.model_file.path.name)
        return True

    def score(
        self,
        tensor_types: TensorTypes,
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        label: str = "",
    ) -> Iterator[ChunkScore]:
        self.check(tensor_types)
        assert self._predicts
        with self.resting(), self.swapped(tensor_types):
            for chunk in chunks:
                yield from self.score_bundle(self.decoder, (chunk,), reference.read if reference else None, None)

    @contextlib.contextmanager
    def _decoding(self, settings: Settings | None) -> Iterator[Decoder]:
        """The engine's own context, or for a while one of ``settings`` where they differ, which computes everything whole."""
        if settings is None or settings == self.settings:
            yield self.decoder
            return
        shape = replace(self.settings, n_batch=settings.n_batch, n_ubatch=settings.n_ubatch, replay_bytes=0)
        other = self.decoder_type(self._model, shape, self.n_vocab, settings.threads)
        try:
            yield other
        finally:
            other.close()

    def sweep(
        self,
        trials: Sequence[Trial],
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        settings: Settings | None = None,
    ) -> Iterator[SweepEvent]:
        from cerebellum.llamacpp.trial.sweep import TrialSweep

        for trial in trials:
            self.check(trial.tensor_types)
        if not trials or not chunks:
            return
        assert self._predicts
        if any(trial.tensor_types for trial in trials):
            self._weights.expect(trial.tensor_types for trial in trials)
        with self.resting(), self._decoding(settings) as decoder:
            yield from TrialSweep(self, decoder, trials).events(chunks, reference)

    def score_bundle(
        self, decoder: Decoder, bundle: Bundle, read: Reader | None, programs: Programs
    ) -> Iterator[ChunkScore]:
        """Each chunk's sums with the weights that are in force; ``read`` gives the reference's rows. ``programs`` None: computed whole."""
        rows = [read(chunk.id) if read else None for chunk in bundle]
        parts: list[list[ChunkScore]] = [[] for _ in bundle]
        for i_chunk, first, logits, targets in decoder.logits(bundle, programs):
            reference = slice_reference(rows[i_chunk], first, first + len(targets))
            parts[i_chunk].append(score_rows(bundle[i_chunk].id, logits, targets, reference, self._scorers))
        return map(add_scores, parts)

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        assert self._predicts
        lacking = [chunk for chunk in chunks if not store.has(chunk.id)]
        bundles = self.decoder.bundles(lacking)
        if bundles and self.decoder.is_lean_worth(bundles[0], len(bundles)):
            self.decoder.try_lean(bundles[0])
        for bundle in bundles:
            parts: list[list[ReferenceRows]] = [[] for _ in bundle]
            offsets = [draw_offsets(chunk.tokens)[chunk.wanted()] for chunk in bundle]
            for i_chunk, first, logits, targets in self.decoder.logits(bundle, self.decoder.lean_programs(bundle)):
                if store.bits == EXACT_BITS:
                    parts[i_chunk].append(coded_rows(logits, targets, self._scorers))
                    continue
                own_offsets = offsets[i_chunk][first : first + len(targets)]
                parts[i_chunk].append(reference_rows(logits, targets, store.k, self._scorers, own_offsets))
            for chunk, pieces in zip(bundle, parts, strict=True):
                store.write(chunk.id, join_reference(pieces))
                yield chunk.id
        yield from {chunk.id for chunk in chunks} - {chunk.id for chunk in lacking}

    def importance(
        self, chunks: Sequence[Chunk], *, begin: Importance | None = None, with_output: bool = False
    ) -> Iterator[Collected]:
        from cerebellum.llamacpp.trial.activations import collect

        return collect(self._model, self.settings, chunks, begin, with_output=with_output)

    def logits(self, tensor_types: TensorTypes, chunk: Chunk) -> Logits:
        """All scored rows of one chunk, float32 [n, vocabulary]: for tests and proofs, not for the sweep."""
        self.check(tensor_types)
        with self.resting(), self.swapped(tensor_types):
            return self.decoder.rows((chunk,), None)

    def close(self) -> None:
        if self._model is not None:
            if "_weights" in self.__dict__:
                self._weights.close()
            self._scorers.close()
            self.decoder.close()
            lc.llama_model_free(self._model)
            self._quantizers.close()
            self._model = None
