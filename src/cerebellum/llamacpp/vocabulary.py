"""Opens a model file; text to tokens and back, as its own vocabulary has it."""

from __future__ import annotations

import ctypes as C
import os
from pathlib import Path
from typing import Any

import numpy as np

from cerebellum.domain import Model, Tokens
from cerebellum.errors import EngineError, ModelFileError
from cerebellum.gguf import model_file
from cerebellum.gguf.header import DEFAULT_ALIGNMENT
from cerebellum.gguf.llama_rules import check_numbers
from cerebellum.gguf.next_token import check_predicts
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.memory_trim import drop_compiler
from cerebellum.llamacpp.metadata import ALIGNMENT
from cerebellum.llamacpp.protocol import Settings
from cerebellum.text.chat import ChatTemplate

#: Bytes that almost every token's spelling fits in.
_PIECE_BYTES = 64
#: `LLAMA_LAZY_MODE_ON` of llama.h: of a table that an architecture marks as only looked up in (Gemma 4's per-layer embeddings) the rows
#: that are wanted are read.
_LAZY = 2


def load_model(path: Path, settings: Settings) -> Any:
    """llama.cpp's model. Raises `ModelFileError` with what it said, or where the model predicts no next token."""
    file = model_file.read_model(path)
    check_predicts(file)
    check_numbers(file)
    drop_compiler()  # before the weights are in memory
    log = native.native_log()
    log.clear()
    params = lc.llama_model_default_params()
    params.use_extra_bufts = False  # repacked weights can't be swapped
    params.n_gpu_layers = settings.n_gpu_layers
    if settings.devices is not None and len(settings.devices) == 1:  # the only one that this process sees
        params.split_mode, params.main_gpu = lc.LLAMA_SPLIT_MODE_NONE, 0
    if (
        file.metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT) % DEFAULT_ALIGNMENT
    ):  # mapped, its tensors lie where llama.cpp can't have them
        params.load_mode = lc.LLAMA_LOAD_MODE_NONE
    elif not settings.n_gpu_layers:  # with devices llama.cpp decides, as it knows which of them can do with it
        params.lazy_mode = _LAZY
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelFileError(f"llama.cpp can't load {path}: {log.errors()}")
    return model


class Vocabulary:
    """Of an opened model."""

    def __init__(self, model: Any) -> None:
        self._vocab = lc.llama_model_get_vocab(model)
        self.n_tokens: int = lc.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}

    @property
    def bos(self) -> int | None:
        """BOS where the vocabulary wants a text to begin with it."""
        return int(lc.llama_vocab_bos(self._vocab)) if lc.llama_vocab_get_add_bos(self._vocab) else None

    @property
    def eos(self) -> int:
        """-1 where it has none."""
        return int(lc.llama_vocab_eos(self._vocab))

    def ends(self, token: int) -> bool:
        """Whether the token ends a text or a turn."""
        return bool(lc.llama_vocab_is_eog(self._vocab, token))

    def chat_template(self, model: Model) -> ChatTemplate:
        """Of the same file. Raises `TextError` where it has none."""
        bos, eos = (self._spelled(ask(self._vocab)) for ask in (lc.llama_vocab_bos, lc.llama_vocab_eos))
        return ChatTemplate(model, bos, eos)

    def _spelled(self, token: int) -> str:
        """A special token as the vocabulary spells it; nothing where there is none."""
        return "" if token < 0 else str(lc.llama_vocab_get_text(self._vocab, token).decode(errors="replace"))

    def tokenize(self, text: str, *, special: bool = True, parse: bool = False) -> Tokens:
        """``text`` → int32 tokens; ``special`` adds BOS/EOS where the vocabulary wants them, ``parse`` reads special tokens."""
        data = text.encode()
        room = len(data) + 8
        out = (C.c_int32 * room)()
        n = lc.llama_tokenize(self._vocab, data, len(data), out, room, special, parse)
        if n < 0:
            raise EngineError(f"llama.cpp needs {-n} tokens for a text of {len(data)} bytes, more than expected")
        return np.ctypeslib.as_array(out)[:n].astype(np.int32)

    def piece(self, token: int) -> bytes:
        """What the token adds to a text: bytes, as a character may be spread over several tokens. Special tokens are spelled out."""
        if token not in self._pieces:
            self._pieces[token] = self._read_piece(token, _PIECE_BYTES)
        return self._pieces[token]

    def _read_piece(self, token: int, room: int) -> bytes:
        out = C.create_string_buffer(room)
        n = lc.llama_token_to_piece(self._vocab, token, out, room, 0, True)
        return out.raw[:n] if n >= 0 else self._read_piece(token, -n)
