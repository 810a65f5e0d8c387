"""Conversations in llama.cpp: the sums are those of llama-cpp-python's own tokens and logits, added up one by one in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from cerebellum import api
from cerebellum.domain import Chunk, Corpus, tensor_types_of
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.text.chat import read_conversations
from tests.llamacpp import tiny
from tests.templates import CHATML, LLAMA3

pytestmark = pytest.mark.engine

BUNDLED = Path(__file__).resolve().parents[2] / "src" / "cerebellum" / "bundled" / "world-gemma4-F16.gguf"
BACKEND = LlamaBackend()
#: Several batches a conversation, some without a scored token.
SETTINGS = Settings(n_ctx=96, n_batch=16, n_ubatch=16, n_threads=1)
SPECIALS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

TALKS = [
    ["where is the key ?", "in her house ."],
    ["who ran home ?", "the old girl .", "to whom ?", "to her mother ."],
    ["tell me a story .", "once upon a time there was a little girl who found the old key and ran home ."],
    ["what is this ?", "a key .", "and this ? " + "more " * 40, "this is too late ."],
]


@dataclass
class Ground:
    """A model with a template, its engine, llama-cpp-python's own view of it, and conversations."""

    model: Path
    text: Path
    engine: EngineProcess
    stock: llama_cpp.Llama

    def corpus(self) -> Corpus:
        return self.engine.chat_corpus(read_conversations(self.text), SETTINGS.n_ctx)

    def tokens(self, text: str) -> list[int]:
        return self.stock.tokenize(text.encode(), add_bos=False, special=True)

    def slow(self, messages: list[Any]) -> tuple[list[int], list[int], float]:
        """Tokens of the conversation's rendering within the context, the scored places, and Σ -log p over them."""
        found = self.stock.metadata
        bos, eos = (self.stock._model.token_get_text(t) for t in (self.stock.token_bos(), self.stock.token_eos()))

        def rendered(n: int, prompt: bool) -> list[int]:
            formatter = Jinja2ChatFormatter(found["tokenizer.chat_template"], eos, bos, add_generation_prompt=prompt)
            tokens = self.tokens(formatter(messages=messages[:n]).prompt)
            return tokens if tokens[0] == self.stock.token_bos() else [self.stock.token_bos(), *tokens]

        tokens, scored = rendered(len(messages), False), []
        for i in range(1, len(messages), 2):
            before, after = rendered(i, True), rendered(i + 1, False)
            assert tokens[: len(after)] == after and after[: len(before)] == before
            scored += [place for place in range(len(before), len(after)) if place < SETTINGS.n_ctx]
        self.stock.n_tokens = 0
        self.stock.eval(tokens[: SETTINGS.n_ctx])
        nll = 0.0
        for place in scored:
            row = np.array(self.stock.scores[place - 1], np.float64)
            nll += float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[tokens[place]])
        return tokens[: SETTINGS.n_ctx], scored, nll


def made(name: str, folder: Path) -> Path:
    templates = {"chatml": CHATML, "llama3": LLAMA3}
    return BUNDLED if name == "bundled" else tiny.llama(folder / "m.gguf", 1, templates[name], SPECIALS)


@pytest.fixture(scope="module", params=["chatml", "llama3", "bundled"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("chat")
    model, text = made(request.param, folder), folder / "chat.jsonl"
    text.write_text("\n".join(json.dumps(messages_of(talk)) for talk in TALKS))
    engine = BACKEND.open(model, SETTINGS, Sources(model))
    stock = llama_cpp.Llama(str(model), n_ctx=SETTINGS.n_ctx, n_threads=1, logits_all=True, verbose=False)
    yield Ground(model, text, engine, stock)
    engine.close()
    stock.close()


def messages_of(talk: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate(talk)]


def test_sums_equal_the_slow_ones(ground: Ground) -> None:
    """Chat templates with special tokens, one turn and several, one of them past the context."""
    corpus = ground.corpus()
    assert corpus.n_chunks == len(TALKS) and corpus.turns is not None and corpus.turns.n_cut >= 1
    chunks = corpus.chunks(range(len(TALKS)))
    for talk, chunk, score in zip(TALKS, chunks, ground.engine.score((), chunks), strict=True):
        tokens, scored, nll = ground.slow(messages_of(talk))
        assert chunk.scored is not None and np.flatnonzero(chunk.scored).tolist() == scored
        assert chunk.tokens.tolist() == tokens[: scored[-1] + 1]
        assert score.n_tokens == len(scored) and score.nll == pytest.approx(nll, rel=1e-3)


def test_perplexity_is_that_of_the_slow_sums(ground: Ground) -> None:
    found = api.perplexity(ground.model, ground.text, chat=True, ctx=SETTINGS.n_ctx, threads=1)
    slow = [ground.slow(messages_of(talk)) for talk in TALKS]
    n = sum(len(scored) for _, scored, _ in slow)
    assert (found.tokens, found.chunks) == (n, len(TALKS))
    assert found.perplexity == pytest.approx(np.exp(sum(nll for *_, nll in slow) / n), rel=1e-3)


def test_a_mask_of_the_second_half_is_the_plain_chunk_to_the_last_bit(ground: Ground) -> None:
    """One way of scoring, two ways of saying what."""
    chunk = ground.engine.corpus("words", tiny.text(400), 64).chunk(1)
    masked = Chunk(chunk.id, chunk.tokens, np.arange(64) > 32)
    assert list(ground.engine.score((), [chunk])) == list(ground.engine.score((), [masked]))


@pytest.mark.parametrize("k", [None, 16])
def test_the_model_is_its_own_reference(ground: Ground, k: int | None, tmp_path: Path) -> None:
    """The reference's rows are those of the same tokens, across batches: no divergence, every first choice the same."""
    chunks, store = ground.corpus().chunks(range(len(TALKS))), ReferenceStore(tmp_path / "reference", k)
    assert list(ground.engine.capture(chunks, store)) == [0, 1, 2, 3]
    for score in ground.engine.score((), chunks, reference=store):
        assert score.kld is not None and abs(score.kld) < 1e-9 * score.n_tokens
        assert score.same_top == score.n_tokens and score.dp == 0.0


def test_a_swap_in_memory_is_the_written_file(ground: Ground, tmp_path: Path) -> None:
    """The promise holds on conversations: sums equal to the last bit."""
    name = "blk.1.ffn_gate.weight"
    BACKEND.quantize(ground.model, tmp_path / "base.gguf", "Q8_0")
    BACKEND.quantize(ground.model, tmp_path / "trial.gguf", "Q8_0", ((f"^{name}$", "Q2_K"),))
    kind = read_model(tmp_path / "trial.gguf").types[name]
    chunks = ground.corpus().chunks(range(len(TALKS)))
    base = BACKEND.open(tmp_path / "base.gguf", SETTINGS, Sources(ground.model))
    trial = BACKEND.open(tmp_path / "trial.gguf", SETTINGS)
    try:
        memory, plain = (list(base.score(tensor_types, chunks)) for tensor_types in (tensor_types_of({name: kind}), ()))
        assert memory == list(trial.score((), chunks)) != plain
        assert trial.chat_corpus(read_conversations(ground.text), SETTINGS.n_ctx) == ground.corpus()
    finally:
        base.close()
        trial.close()
