"""llama.cpp as the testbed needs it: tokens, logits, greedy text. Apart from the product's engine, so that each checks the other."""

from __future__ import annotations

import ctypes as C
import functools
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.llamacpp.binding import lc

Floats = npt.NDArray[np.float32]
MAX_BRANCHES = 4


@functools.cache
def _quiet() -> Any:
    """Loads the backends and silences the log; the callback must outlive every call, hence the cache."""
    silent = lc.llama_log_callback(lambda level, text, user: None)
    lc.llama_log_set(silent, C.c_void_p(0))
    lc.llama_backend_init()
    return silent


class Runner:
    """An opened GGUF with one context. Use it with ``with``; the plain weight layout is kept (no repacking)."""

    def __init__(self, path: Path, n_ctx: int = 2048, threads: int = 2) -> None:
        _quiet()
        model_params = lc.llama_model_default_params()
        model_params.use_extra_bufts = False
        self._model = lc.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise OSError(f"llama.cpp can't open {path}")
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_seq_max, params.kv_unified = MAX_BRANCHES, True
        params.n_threads = params.n_threads_batch = threads
        self._context = lc.llama_init_from_model(self._model, params)
        self._vocab = lc.llama_model_get_vocab(self._model)
        self.n_ctx, self.n_vocab = n_ctx, lc.llama_vocab_n_tokens(self._vocab)
        self.bos, self.eos = lc.llama_vocab_bos(self._vocab), lc.llama_vocab_eos(self._vocab)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        lc.llama_free(self._context)
        lc.llama_model_free(self._model)

    def tokenize(self, text: str, *, bos: bool = True, special: bool = False) -> list[int]:
        """The tokens of ``text``; ``special`` reads <start_of_turn> and its like as the tokens they name."""
        data = text.encode()
        out = (lc.llama_token * (len(data) + 2))()
        n = lc.llama_tokenize(self._vocab, data, len(data), out, len(out), bos, special)
        if n < 0:
            raise ValueError("llama.cpp could not tokenize the text")
        return list(out[:n])

    def text(self, tokens: list[int]) -> str:
        """The text of ``tokens``, special ones left out."""
        piece, parts = C.create_string_buffer(256), []
        for token in tokens:
            n = lc.llama_token_to_piece(self._vocab, token, piece, len(piece), 0, False)
            parts.append(piece.raw[:n])
        return b"".join(parts).decode("utf-8", "replace")

    def logits(self, tokens: list[int], *, start: int = 0) -> Floats:
        """float32 [tokens, vocabulary]: one decode of ``tokens`` at positions from ``start``; 0 clears what came before."""
        return self._decode(tokens, range(start, start + len(tokens)), [[0]] * len(tokens), clear=start == 0)

    def branches(self, prompt: list[int], options: list[list[int]]) -> list[float]:
        """The log-probability in nats of each of up to `MAX_BRANCHES` continuations of ``prompt``.

        One decode: the prompt's tokens belong to every branch, an option's only to its own, so the prompt is computed once.
        """
        tokens, positions = list(prompt), list(range(len(prompt)))
        branches = [list(range(len(options)))] * len(prompt)
        ends = [len(prompt)]
        for number, option in enumerate(options):
            tokens += option
            positions += range(len(prompt), len(prompt) + len(option))
            branches += [[number]] * len(option)
            ends.append(len(tokens))
        log_p = log_softmax(self._decode(tokens, positions, branches, clear=True))
        scores = []
        for first, option in zip(ends, options, strict=False):
            before = [len(prompt) - 1, *range(first, first + len(option) - 1)]
            scores.append(float(log_p[before, option].sum()))
        return scores

    def _decode(self, tokens: list[int], positions: Sequence[int], branches: list[list[int]], *, clear: bool) -> Floats:
        if len(tokens) > self.n_ctx:  # llama.cpp would abort the process
            raise ValueError(f"{len(tokens)} tokens do not fit a context of {self.n_ctx}")
        if clear:
            lc.llama_memory_clear(lc.llama_get_memory(self._context), True)
        batch = lc.llama_batch_init(len(tokens), 0, MAX_BRANCHES)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = int(token), positions[i], 1
            batch.n_seq_id[i] = len(branches[i])
            for k, branch in enumerate(branches[i]):
                batch.seq_id[i][k] = branch
        status = lc.llama_decode(self._context, batch)
        lc.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode failed with status {status}")
        return np.ctypeslib.as_array(lc.llama_get_logits(self._context), shape=(len(tokens), self.n_vocab)).copy()

    def greedy(self, prompt: list[int], n: int, stop: str) -> str:
        """Up to ``n`` most likely tokens after ``prompt``, cut before ``stop``."""
        out: list[int] = []
        last, position = self.logits(prompt)[-1], len(prompt)
        while len(out) < n:
            token = int(last.argmax())
            out.append(token)
            if token == self.eos or stop in self.text(out):
                break
            last = self.logits([token], start=position)[-1]
            position += 1
        return self.text(out).split(stop)[0]


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Natural log-probabilities over the last axis, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
