"""A bare forward pass: llama.cpp decodes the chunks of a text, and nothing else is done. A trial computed whole can't be faster.

python -m benchmarks.bare_pass MODEL --text FILE [--ctx 512] [--chunks 4] [--threads N] [--passes 3] [-ngl 0]

A program of its own over llama-cpp-python, with none of Cerebellum's engine in it: the same cutting of the text, logits for the second
half of each chunk, weights not repacked. Prints one JSON object: seconds of each pass over all chunks, and whether all logits were finite.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.running import positive

#: llama.cpp looks at it when a context is made.
NO_REUSE = "LLAMA_GRAPH_REUSE_DISABLE"


class BarePass:
    """A model and a context of ``ctx`` tokens, ``ubatch`` of them computed at a time; ``reuse``: graphs are used again, if they
    can be."""

    def __init__(
        self, model: Path, ctx: int, ubatch: int, threads: int, gpu_layers: int, *, reuse: bool = True
    ) -> None:
        import llama_cpp.llama_cpp as lc

        self._lc, self._ctx = lc, ctx
        lc.llama_backend_init()
        model_params = lc.llama_model_default_params()
        model_params.use_extra_bufts = False
        model_params.n_gpu_layers = gpu_layers
        self._model = lc.llama_model_load_from_file(os.fsencode(model), model_params)
        if not self._model:
            raise SystemExit(f"error: llama.cpp can't load {model}")
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = ctx
        params.n_ubatch = min(ubatch, ctx)
        params.n_threads = params.n_threads_batch = threads
        params.op_offload = gpu_layers != 0
        params.no_perf = True
        with mock.patch.dict(os.environ):
            os.environ.pop(NO_REUSE, None)
            if not reuse:
                os.environ[NO_REUSE] = "1"
            self._context = lc.llama_init_from_model(self._model, params)
        self._vocab = lc.llama_model_get_vocab(self._model)
        self._batch = lc.llama_batch_init(ctx, 0, 1)

    def close(self) -> None:
        self._lc.llama_batch_free(self._batch)
        self._lc.llama_free(self._context)
        self._lc.llama_model_free(self._model)

    def chunks(self, text: str, n: int) -> list[list[int]]:
        """The first ``n`` chunks, each beginning with BOS where the vocabulary wants it."""
        import ctypes

        lc, data = self._lc, text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        count = lc.llama_tokenize(self._vocab, data, len(data), room, len(room), True, False)
        chunks = [list(room[at : at + self._ctx]) for at in range(0, count - self._ctx + 1, self._ctx)][:n]
        if lc.llama_vocab_get_add_bos(self._vocab):
            for chunk in chunks:
                chunk[0] = lc.llama_vocab_bos(self._vocab)
        if len(chunks) < n:
            raise SystemExit(f"error: the text has only {len(chunks)} chunks of {self._ctx} tokens")
        return chunks

    def run(self, chunk: list[int]) -> float:
        """Seconds that llama.cpp takes for one chunk."""
        lc, batch = self._lc, self._fill(chunk)
        lc.llama_memory_clear(lc.llama_get_memory(self._context), False)
        started = time.perf_counter()
        status = lc.llama_decode(self._context, batch)
        lc.llama_synchronize(self._context)
        if status:
            raise SystemExit(f"error: llama_decode ended with {status}")
        return time.perf_counter() - started

    def _fill(self, chunk: list[int]) -> Any:
        batch = self._batch
        batch.n_tokens = len(chunk)
        for at, token in enumerate(chunk):
            batch.token[at], batch.pos[at] = token, at
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
            batch.logits[at] = self._ctx // 2 <= at < len(chunk) - 1
        return batch

    def finite(self) -> bool:
        """Whether the logits of the last chunk are all finite."""
        rows = self._ctx - 1 - self._ctx // 2
        n_vocab = self._lc.llama_vocab_n_tokens(self._vocab)
        return bool(np.isfinite(np.ctypeslib.as_array(self._lc.llama_get_logits(self._context), (rows, n_vocab))).all())


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bare_pass", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    for name, default in (("ctx", 512), ("chunks", 4), ("threads", os.cpu_count() or 1), ("passes", 3)):
        parser.add_argument(f"--{name}", type=positive, default=default, help=f"default {default}")
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on the GPU (default: none)")
    options = parser.parse_args()
    try:
        text = options.text.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"error: {options.text}: {error}") from None
    bare = BarePass(options.model, options.ctx, 512, options.threads, options.gpu_layers)
    chunks = bare.chunks(text, options.chunks)
    bare.run(chunks[0])  # pages are read and threads started
    passes = [[bare.run(chunk) for chunk in chunks] for _ in range(options.passes)]
    print(json.dumps({"seconds": [sum(times) for times in passes], "finite": bare.finite()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
