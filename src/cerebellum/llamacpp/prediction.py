"""Whether an opened model predicts the next token: a few tokens decoded, and the logits themselves looked at.

Metadata can lack a key or lie. Three things show in the logits: rows of one value (no output matrix was used), rows that are all the
same (the tokens were not read), and rows that change when a *later* token does (attention is not causal).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cerebellum.domain import Tokens
from cerebellum.errors import ModelFileError
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.protocol import Settings
from cerebellum.llamacpp.trial.decoding import Batch, Logits, decode, new_context

#: A text whose tokens are decoded.
PROBE = "On the hill stood 3 old houses."
#: Tokens decoded: few, so that it costs about one token's time.
_LENGTH = 6
#: A row that moves by more than this share of its largest logit has seen a later token. Rounding moves it by a millionth.
_MOVED = 1e-4


def check_logits(model: Any, settings: Settings, n_threads: int, tokens: Tokens, n_vocab: int, name: str) -> None:
    """Decode the first of ``tokens`` (int32 [n], a text's) twice, with another last one. Raises `ModelFileError` naming ``name``."""
    probe = _probe_tokens(tokens, n_vocab)
    changed = probe.copy()
    changed[-1] = (probe[-1] + n_vocab // 2) % n_vocab
    context = new_context(model, settings, n_ctx=len(probe), n_batch=len(probe), n_threads=n_threads)
    try:
        rows, others = (_rows(context, each, n_vocab) for each in (probe, changed))
    finally:
        lc.llama_free(context)
    if problem := _problem(rows, others):
        raise ModelFileError(
            f"{name} predicts no next token: {problem}. Perplexity and KL divergence say nothing of it; give a model that writes text"
        )


def _probe_tokens(tokens: Tokens, n_vocab: int) -> Tokens:
    """The text's first tokens; of a vocabulary that has no words for it, some that lie apart."""
    probe = tokens[:_LENGTH]
    if len(probe) < _LENGTH or len(set(probe.tolist())) < _LENGTH // 2:
        probe = (np.arange(1, _LENGTH + 1) * n_vocab // (_LENGTH + 2)).astype(np.int32)
    return probe


def _rows(context: Any, tokens: Tokens, n_vocab: int) -> Logits:
    """The logits of every token, float32 [n, vocabulary]."""
    lc.llama_memory_clear(lc.llama_get_memory(context), True)
    batch = Batch(len(tokens))
    decode(context, batch.fill([tokens], 0, [np.ones(len(tokens), np.bool_)]))
    return np.ctypeslib.as_array(lc.llama_get_logits(context), shape=(len(tokens), n_vocab)).copy()


def _problem(rows: Logits, others: Logits) -> str:
    if (rows == rows[:, :1]).all():
        return "its logits are all the same"
    if (rows[1:] == rows[:-1]).all():
        return "its logits are the same after every token"
    moved = np.abs(rows[:-1] - others[:-1]).max()
    if moved > _MOVED * np.abs(rows[np.isfinite(rows)]).max(initial=0.0):
        return "what it says of a token depends on the tokens after it"
    return ""
