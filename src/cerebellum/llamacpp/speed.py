"""How fast a file is on this device, as llama-bench times it: random tokens, from an empty memory, after one pass that doesn't count.

Unlike an engine, the model is opened as llama.cpp's own programs open it: weights are repacked where that is faster, and graphs are kept.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cerebellum.domain import Tokens
from cerebellum.errors import EngineError, ModelFileError
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.next_token import check_predicts
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.protocol import Settings, SpeedUse, Timed
from cerebellum.llamacpp.trial.decoding import decode
from cerebellum.llamacpp.vocabulary import Vocabulary

#: Tokens handed over at a time: llama-bench's.
N_BATCH = 2048
_NO_REUSE = "LLAMA_GRAPH_REUSE_DISABLE"


def timed(path: Path, settings: Settings, use: SpeedUse) -> Iterator[Timed]:
    """The repetitions of the prompt, then those of the generation. Raises `ModelFileError` or `EngineError`."""
    check_predicts(read_model(path))
    native.native_log().clear()
    params = lc.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts = settings.n_gpu_layers, use.repack
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelFileError(f"llama.cpp can't load {path}: {native.native_log().errors()}")
    try:
        for generation, n_tokens in ((False, use.n_prompt), (True, use.n_generate)):
            if not n_tokens:
                continue
            with _opened(model, settings, n_tokens) as context:
                work = _work(context, _tokens(model, n_tokens), generation=generation)
                work(1 if generation else n_tokens)
                for _ in range(use.repetitions):
                    yield Timed(generation, _seconds(context, work, n_tokens))
    finally:
        lc.llama_model_free(model)


def _seconds(context: Any, work: Callable[[int], None], n_tokens: int) -> float:
    lc.llama_memory_clear(lc.llama_get_memory(context), False)
    started = time.perf_counter()
    work(n_tokens)
    return time.perf_counter() - started


def _work(context: Any, tokens: Tokens, *, generation: bool) -> Callable[[int], None]:
    """Decodes the first n of ``tokens``: in batches, or one by one."""
    step = 1 if generation else N_BATCH

    def work(n_tokens: int) -> None:
        for at in range(0, n_tokens, step):
            piece = tokens[at : min(at + step, n_tokens)]
            decode(context, lc.llama_batch_get_one(piece.ctypes.data_as(lc.llama_token_p), len(piece)))
            if generation:
                lc.llama_synchronize(context)
        lc.llama_synchronize(context)

    return work


def _tokens(model: Any, n: int) -> Tokens:
    """BOS where the vocabulary wants one, then any tokens: the same for every file."""
    vocabulary = Vocabulary(model)
    tokens = np.random.default_rng(0).integers(0, vocabulary.n_tokens, n, dtype=np.int32)
    if vocabulary.bos is not None:
        tokens[0] = vocabulary.bos
    return tokens


@contextlib.contextmanager
def _opened(model: Any, settings: Settings, n_ctx: int) -> Iterator[Any]:
    """A context as llama-bench opens it; llama.cpp may keep its graphs, which `native_log` forbids for engines."""
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, N_BATCH, settings.n_ubatch
    params.n_threads = params.n_threads_batch = settings.threads
    params.swa_full = False
    params.op_offload = settings.n_gpu_layers != 0  # else a prompt would go to a GPU that wasn't asked for
    if settings.flash_attention is not None:
        params.flash_attn_type = int(settings.flash_attention)
    before = os.environ.pop(_NO_REUSE, None)
    try:
        context = lc.llama_init_from_model(model, params)
    finally:
        if before is not None:
            os.environ[_NO_REUSE] = before
    if not context:
        raise EngineError(f"llama.cpp can't open a context of {n_ctx} tokens: {native.native_log().errors()}")
    try:
        yield context
    finally:
        lc.llama_free(context)
