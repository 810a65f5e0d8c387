"""One opened model in this process that is asked. The rest of the code meets it through `process.ResponderProcess`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cerebellum.domain import Tokens
from cerebellum.gguf import model_file
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.generate.likelihood import likelihoods
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood, Prompt, ResponderFacts, Writing, WrittenText
from cerebellum.llamacpp.generate.sequences import Sequences
from cerebellum.llamacpp.generate.writing import write, write_told
from cerebellum.llamacpp.prediction import PROBE, check_logits
from cerebellum.llamacpp.protocol import Settings
from cerebellum.llamacpp.vocabulary import Vocabulary, load_model
from cerebellum.llamacpp.warned import telling
from cerebellum.text.chat import TEMPLATE


class LlamaResponder:
    """Keeps the contract of `cerebellum.llamacpp.generate.protocol.Responder`; `Backend.respond` says what ``n_ctx`` is."""

    def __init__(self, path: Path, settings: Settings, n_ctx: int | None = None) -> None:
        self._file, self._settings = model_file.read_model(path), settings
        log = native.native_log()
        log.warned.clear()
        self._model = load_model(path, settings)
        self._vocabulary = Vocabulary(self._model)
        template = self._file.metadata.get(TEMPLATE)
        self.facts = ResponderFacts(
            n_vocab=self._vocabulary.n_tokens,
            n_ctx=n_ctx or min(settings.n_ctx, lc.llama_model_n_ctx_train(self._model)),
            bos=self._vocabulary.bos,
            eos=self._vocabulary.eos,
            chat_template=template if isinstance(template, str) and template.strip() else None,
            warnings=telling(log.warned, path.name),
        )
        self._sequences = Sequences(self._model, settings, self.facts.n_ctx, self.facts.n_vocab)

    @property
    def n_vocab(self) -> int:
        return self.facts.n_vocab

    @property
    def n_ctx(self) -> int:
        return self.facts.n_ctx

    @property
    def bos(self) -> int | None:
        return self.facts.bos

    @property
    def eos(self) -> int:
        return self.facts.eos

    @property
    def chat_template(self) -> str | None:
        return self.facts.chat_template

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.facts.warnings

    def tokenize(self, texts: Sequence[str], *, special: bool = False, parse: bool = True) -> list[Tokens]:
        return [self._vocabulary.tokenize(text, special=special, parse=parse) for text in texts]

    def render(self, messages: Sequence[Mapping[str, str]], *, answer_begun: str = "") -> str:
        return self._vocabulary.chat_template(self._file).prompt(messages, answer_begun)

    @functools.cached_property
    def _predicts(self) -> bool:
        """Looked at before the first logits are used. Raises `ModelFileError` where they predict no next token."""
        tokens, name = self._vocabulary.tokenize(PROBE), self._file.path.name
        check_logits(self._model, self._settings, self._settings.threads, tokens, self.n_vocab, name)
        return True

    def likelihoods(self, requests: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        assert self._predicts
        return likelihoods(self._sequences, requests, self.n_ctx)

    def write(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText]]:
        assert self._predicts
        return write(self._sequences, self._vocabulary, requests, self.n_ctx)

    def write_told(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText] | Writing]:
        assert self._predicts
        return write_told(self._sequences, self._vocabulary, requests, self.n_ctx)

    def close(self) -> None:
        if self._model is not None:
            self._sequences.close()
            lc.llama_model_free(self._model)
            self._model = None
