"""Requests in, replies out: texts made tokens, known answers taken from the study, the rest asked in batches, each saved as it comes.

A request and its continuation are tokenized together and split where the request's own tokens end; spaces at the request's end belong to
the continuation. That is how lm-evaluation-harness cuts them, so the two give the same tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from cerebellum.domain import Tokens
from cerebellum.errors import EngineError
from cerebellum.evals.items import MERGED, SPACE, TRUNCATED, Reply, Request, Rolling, Write
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood, Prompt, Responder, Writing, WrittenText
from cerebellum.progress import Progress, Silent, tell_written

#: Requests handed to the engine at once. Enough to fill it many times over, few enough that a break costs little.
LIKELY_TOGETHER, WRITTEN_TOGETHER = 128, 32


class Render(Protocol):
    """A conversation as text in the model's own chat template, ready for the assistant's turn or in the midst of it."""

    def __call__(self, messages: Sequence[Mapping[str, str]], *, answer_begun: str = "") -> str: ...


class Memory(Protocol):
    """Where answers are kept: request → answer, of one file under one build and settings."""

    def known(self) -> Mapping[str, str]: ...

    def keep(self, request: str, answer: str) -> None: ...


class Forgetful:
    """Keeps nothing."""

    def known(self) -> Mapping[str, str]:
        return {}

    def keep(self, request: str, answer: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class TextPart:
    """What a responder is asked for a request; ``flags`` is what is odd about its prompt. A rolling text has several parts."""

    asked: Continuation | Prompt
    flags: tuple[str, ...] = ()

    @property
    def order(self) -> bytes:
        """Sorts parts so that those that begin alike are neighbours."""
        tokens = self.asked.context if isinstance(self.asked, Continuation) else self.asked.tokens
        return np.ascontiguousarray(tokens, ">i4").tobytes()

    @property
    def key(self) -> str:
        """Hash of all that can change the answer, apart from the file, the build and the settings."""
        asked = self.asked
        if isinstance(asked, Continuation):
            rest, tokens = "likely", (asked.context, asked.continuation)
        else:
            rest = json.dumps(["write", asked.stop, asked.max_tokens, asked.temperature, asked.seed])
            tokens = (asked.tokens, asked.tokens[:0])
        digest = hashlib.sha256(rest.encode())
        for array in tokens:
            digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array, "<i4").tobytes())
        return digest.hexdigest()[:40]


class Asker:
    """One opened file that answers. Raises `EngineError` where it fails; what it had answered by then is kept."""

    def __init__(self, responder: Responder, memory: Memory | None = None, progress: Progress | None = None) -> None:
        self._responder = responder
        self._memory = memory or Forgetful()
        self._progress = progress or Silent()
        self._n_written = 0

    def ask(self, requests: Sequence[Request], what: str = "asking", items: Sequence[str] = ()) -> list[Reply]:
        """A reply to each request, in their order; ``what`` names the work to whoever watches, ``items`` each request's item.

        Raises `EngineError` that names the item of a log-likelihood that is no finite number; such an answer isn't kept.
        """
        parts = self.parts(requests)
        keys = [[text_part.key for text_part in of_one] for of_one in parts]
        wanted = {k: p for ks, ps in zip(keys, parts, strict=True) for k, p in zip(ks, ps, strict=True)}
        named = items or [f"request {n} ({_texts(r)[-1][-40:]!r})" for n, r in enumerate(requests, 1)]
        owners = {k: item for item, ks in reversed(list(zip(named, keys, strict=True))) for k in ks}
        known = self._memory.known()
        answers = {key: known[key] for key in wanted if key in known and not no_number(known[key])}
        self._progress.begin(what, len(wanted), len(answers))
        self._n_written = 0
        try:
            for batch in batches(wanted):
                for key, answer in self._answers(batch) if not all(key in answers for key in batch) else ():
                    if odd := no_number(answer):
                        raise EngineError(
                            f"{what}, {owners[key]}: a log-likelihood of {odd} is no number: the model or its quantization is broken, "
                            "or overflows here. The answers before it are kept"
                        )
                    if key not in answers:
                        self._memory.keep(key, answer)
                        answers[key] = answer
                        self._progress.step()
        finally:
            self._progress.end()
        return [_reply(ps, [answers[k] for k in ks]) for ks, ps in zip(keys, parts, strict=True)]

    def _answers(self, batch: Mapping[str, TextPart]) -> Iterator[tuple[str, str]]:
        names, asked = list(batch), [text_part.asked for text_part in batch.values()]
        if isinstance(asked[0], Continuation):
            likely = self._responder.likelihoods([a for a in asked if isinstance(a, Continuation)])
            yield from ((names[number], _packed(answer)) for number, answer in likely)
        else:
            n_before, n_ended = self._n_written, 0
            for told in self._responder.write_told([a for a in asked if isinstance(a, Prompt)]):
                if isinstance(told, Writing):
                    self._n_written = n_before + told.n_tokens
                    tell_written(self._progress, self._n_written, n_before + n_ended)
                else:
                    number, answer = told
                    n_ended += answer.n_tokens
                    yield names[number], _packed(answer)
            self._n_written = n_before + n_ended

    # -- tokens --------------------------------------------------------------------------------------------------------

    def parts(self, requests: Sequence[Request]) -> list[list[TextPart]]:
        """What the responder is asked for each request."""
        texts: dict[tuple[str, bool], Tokens] = {}
        for chat in (False, True):
            wanted = list(dict.fromkeys(text for r in requests for text in _texts(r) if _is_chat(r) == chat))
            tokens = self._responder.tokenize(wanted, special=False, parse=chat) if wanted else []
            texts |= {(text, chat): self._begun(t, chat) for text, t in zip(wanted, tokens, strict=True)}
        return [self._parts(r, texts) for r in requests]

    def _begun(self, tokens: Tokens, chat: bool) -> Tokens:
        """With BOS where the vocabulary wants it, once: a chat template may have written it already."""
        bos = self._responder.bos
        if bos is None or (chat and len(tokens) and tokens[0] == bos):
            return tokens
        return np.concatenate([np.array([bos], np.int32), tokens])

    @property
    def prefix(self) -> Tokens:
        """What stands before a text that has nothing before it: BOS, or the end of another text where there is none."""
        bos = self._responder.bos
        return np.array([self._responder.eos if bos is None else bos], np.int32)

    def _parts(self, request: Request, texts: Mapping[tuple[str, bool], Tokens]) -> list[TextPart]:
        if isinstance(request, Rolling):
            return [
                TextPart(c) for c in rolling(self._bare(texts[request.text, False]), self.prefix, self._responder.n_ctx)
            ]
        if isinstance(request, Write):
            tokens = texts[request.prompt, request.chat]
            most = max(1, min(request.max_tokens, self._responder.n_ctx - 1))
            asked = Prompt(
                tokens if len(tokens) else self.prefix, request.stop, most, request.temperature, request.sample
            )
            return [TextPart(asked, _spaced(request.prompt))]
        context, continuation = split_spaces(request.context, request.continuation)
        whole, before = texts[context + continuation, request.chat], texts[context, request.chat]
        if not len(before):
            return [TextPart(Continuation(self.prefix, whole))]
        merged = len(whole) <= len(before) or not np.array_equal(whole[: len(before)], before)
        n = min(len(before), len(whole) - 1)
        flags = (*_spaced(request.context), *((MERGED,) if merged else ()))
        return [TextPart(Continuation(before if n == len(before) else whole[:n], whole[n:]), flags)]

    def _bare(self, tokens: Tokens) -> Tokens:
        return tokens if self._responder.bos is None else tokens[1:]


def batches(wanted: Mapping[str, TextPart]) -> Iterator[dict[str, TextPart]]:
    """Parts to be asked together, always the same of the same: what beginnings they share stays together.

    What stands beside a request in llama.cpp's batch moves the last digits of its answer, so a batch that was broken off is asked
    again as a whole; answers that are known from before stay.
    """
    for kind, size in ((Continuation, LIKELY_TOGETHER), (Prompt, WRITTEN_TOGETHER)):
        mine = sorted((p.order, k) for k, p in wanted.items() if isinstance(p.asked, kind))
        for first in range(0, len(mine), size):
            yield {key: wanted[key] for _, key in mine[first : first + size]}


def split_spaces(context: str, continuation: str) -> tuple[str, str]:
    """White space at the end of the context goes to the continuation: tokens begin with it."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def rolling(tokens: Tokens, prefix: Tokens, n_ctx: int) -> list[Continuation]:
    """Windows of at most ``n_ctx`` tokens in which each token is predicted once, with as much before it as fits in the last of them."""
    step, out = n_ctx - 1, []
    text = np.concatenate([prefix, tokens])
    for first in range(0, len(tokens), step):
        last = min(first + step, len(tokens))
        start = max(0, last + 1 - n_ctx)
        out.append(Continuation(text[start : first + 1], text[first + 1 : last + 1]))
    return out


def _texts(request: Request) -> tuple[str, ...]:
    if isinstance(request, Rolling):
        return (request.text,)
    if isinstance(request, Write):
        return (request.prompt,)
    context, continuation = split_spaces(request.context, request.continuation)
    return context, context + continuation


def _is_chat(request: Request) -> bool:
    return not isinstance(request, Rolling) and request.chat


def _spaced(prompt: str) -> tuple[str, ...]:
    return (SPACE,) if prompt.endswith((" ", "\t")) else ()


# -- as kept -----------------------------------------------------------------------------------------------------------


def no_number(answer: str) -> str:
    """A kept answer's log-likelihood where it is NaN or infinite, by which nothing can be chosen; else ""."""
    first = json.loads(answer)[0]
    return str(first) if isinstance(first, float) and not math.isfinite(first) else ""


def _packed(answer: Likelihood | WrittenText) -> str:
    if isinstance(answer, Likelihood):
        return json.dumps([answer.total, answer.greedy, answer.n_cut])
    return json.dumps([answer.text, answer.n_tokens, answer.ended, answer.n_cut])


def _reply(parts: Sequence[TextPart], kept: Sequence[str]) -> Reply:
    """One reply from the answers to its parts."""
    if not parts:
        return Reply()  # nothing to predict
    first, values = parts[0], [json.loads(answer) for answer in kept]
    if isinstance(first.asked, Prompt):
        text, n_tokens, ended, n_cut = values[0]
        reply = Reply(text=text, n_tokens=n_tokens, ended=ended, n_cut=n_cut)
    else:
        n_tokens = sum(len(p.asked.continuation) for p in parts if isinstance(p.asked, Continuation))
        total, greedy = sum(v[0] for v in values), all(v[1] for v in values)
        reply = Reply(nats=total, greedy=greedy, n_tokens=n_tokens, n_cut=sum(v[2] for v in values))
    return replace(reply, flags=(*first.flags, *((TRUNCATED,) if reply.n_cut else ())))
