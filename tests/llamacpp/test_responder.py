"""A model that is asked: each answer is what the request would get alone, whatever is shared with it or stands beside it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as lc
import numpy as np
import pytest

from cerebellum import bundled
from cerebellum.errors import EngineDied, EngineError, TextError
from cerebellum.llamacpp.generate import writing
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood, Prompt, Responder, Writing, WrittenText
from cerebellum.llamacpp.generate.responder import LlamaResponder
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import Settings
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

#: The bundled model's window is 128 tokens, the made gemma3's 32: what the questions share is longer than either.
N_CTX = 256
#: One token is one batch: no sum depends on what else is in it.
ONE_BY_ONE = Settings(n_batch=1, n_ubatch=1, n_threads=1)
PLAIN = Settings(n_threads=1)
F32 = 0

MAKERS = {"llama": tiny.llama, "gemma3": tiny.gemma3, "mamba": tiny.mamba}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("responder")
    made = {name: make(folder / f"{name}.gguf") for name, make in MAKERS.items()}
    return {"bundled": bundled.MODEL, **made}


@contextmanager
def opened(model: Path, settings: Settings = PLAIN, n_ctx: int = N_CTX) -> Iterator[LlamaResponder]:
    responder = LlamaResponder(model, settings, n_ctx)
    try:
        yield responder
    finally:
        responder.close()


def requests(responder: Responder, n_shared: int = 150) -> list[Continuation]:
    """A long beginning that all share, then two questions: one with four endings, one with four letters; and one with nothing shared."""
    words = bundled.SEARCH_TEXT.read_text() if responder.n_vocab > 500 else tiny.text(400)
    given = responder.tokenize([words[:3000]], special=True)[0]
    rest = given[n_shared:]
    contexts = [np.concatenate([given[:n_shared], rest[:5]]), np.concatenate([given[:n_shared], rest[20:27]])]
    endings = [np.concatenate([rest[40:42], rest[at : at + n]]) for at, n in ((50, 3), (50, 6), (60, 1), (70, 4))]
    letters = rest[80:84]
    found = [Continuation(contexts[0], ending) for ending in endings]
    found += [Continuation(contexts[1], letter) for letter in letters.reshape(-1, 1)]
    return [*found[::-1], Continuation(given[3:20], given[20:24])]


def together(responder: Responder, asked: Sequence[Continuation]) -> list[Likelihood]:
    return [answer for _, answer in sorted(responder.likelihoods(asked), key=lambda item: item[0])]


def alone(responder: Responder, asked: Sequence[Continuation]) -> list[Likelihood]:
    return [answer for request in asked for _, answer in responder.likelihoods([request])]


def furthest(a: Sequence[Likelihood], b: Sequence[Likelihood]) -> float:
    """Largest difference of two totals, nats."""
    return max(abs(x.total - y.total) for x, y in zip(a, b, strict=True))


# -- log-likelihoods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba"])
def test_shared_beginnings_change_no_bit(models: dict[str, Path], name: str) -> None:
    """Where every batch has the same shape, what was kept in memory gives the very sums of each request alone."""
    with opened(models[name], ONE_BY_ONE) as responder:
        asked = requests(responder, 60)
        assert together(responder, asked) == alone(responder, asked)


@pytest.mark.slow
def test_shared_beginnings_change_no_bit_of_the_bundled_model(models: dict[str, Path]) -> None:
    """Sliding windows of 128 tokens, keys and values that blocks share."""
    with opened(models["bundled"], ONE_BY_ONE) as responder:
        asked = requests(responder)[2:6]
        assert together(responder, asked) == alone(responder, asked)


@pytest.mark.parametrize("name", ["bundled", "llama", "gemma3", "mamba"])
@pytest.mark.parametrize("n_batch", [None, 24])
def test_side_by_side_is_within_the_noise_of_another_batch_shape(
    models: dict[str, Path], name: str, n_batch: int | None
) -> None:
    """Waves of one batch and of many: no further from alone than three times what another batch shape does to alone."""
    with opened(models[name], Settings(n_ubatch=7, n_threads=1)) as responder:
        asked = requests(responder)
        otherwise = alone(responder, asked)
    with opened(models[name]) as responder:
        plain = alone(responder, asked)
    floor = furthest(plain, otherwise)
    with opened(models[name], Settings(n_batch=n_batch, n_threads=1)) as responder:
        assert furthest(together(responder, asked), plain) <= 3 * floor + 1e-9
    assert floor < 0.05


def test_in_full_precision_side_by_side_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights and memory in F32 rounding is small enough that a single wrong row or mask would stand out."""
    full_precision(monkeypatch)
    with opened(stories()) as responder:
        asked = requests(responder)
        assert furthest(together(responder, asked), alone(responder, asked)) < 1e-4


@pytest.mark.parametrize("name", ["bundled", "llama", "mamba"])
def test_sums_are_those_of_all_logits(models: dict[str, Path], name: str) -> None:
    """llama-cpp-python's own logits of every position, added up one by one in float64."""
    with opened(models[name]) as responder:
        asked = requests(responder)
        found = together(responder, asked)
    stock = llama_cpp.Llama(str(models[name]), n_ctx=N_CTX, n_threads=1, logits_all=True, verbose=False)
    for request, answer in zip(asked, found, strict=True):
        total, greedy = slow(stock, request)
        assert answer.total == pytest.approx(total, rel=2e-3)
        assert answer.greedy == greedy and answer.n_cut == 0
    stock.close()


def slow(stock: llama_cpp.Llama, request: Continuation) -> tuple[float, bool]:
    tokens = [*request.context.tolist(), *request.continuation.tolist()]
    stock.n_tokens = 0
    stock.eval(tokens)
    total, greedy = 0.0, True
    for place in range(len(request.context), len(tokens)):
        row = np.array(stock.scores[place - 1], np.float64)
        total += row[tokens[place]] - row.max() - float(np.log(np.exp(row - row.max()).sum()))
        greedy = greedy and int(row.argmax()) == tokens[place]
    return total, greedy


def test_the_likeliest_continuation_is_greedy(models: dict[str, Path]) -> None:
    """What the model itself writes is greedy; with its last token exchanged it isn't."""
    with opened(models["llama"]) as responder:
        context = responder.tokenize(["the old key"], special=True)[0]
        tokens = context
        for _ in range(3):
            likelihoods = together(
                responder, [Continuation(tokens, np.array([t], np.int32)) for t in range(responder.n_vocab)]
            )
            assert sum(answer.greedy for answer in likelihoods) == 1
            assert sum(np.exp(answer.total) for answer in likelihoods) == pytest.approx(1.0)
            tokens = np.append(tokens, np.int32(np.argmax([answer.total for answer in likelihoods])))
        said = tokens[len(context) :]
        other = np.append(said[:-1], (said[-1] + 1) % responder.n_vocab).astype(np.int32)
        assert [a.greedy for a in together(responder, [Continuation(context, said), Continuation(context, other)])] == [
            True,
            False,
        ]


def test_a_long_context_loses_its_beginning_and_says_so(models: dict[str, Path]) -> None:
    """All but the last token must fit; what is left is scored as if it had been given."""
    with opened(models["llama"], n_ctx=64) as responder:
        tokens = responder.tokenize([tiny.text(60)], special=True)[0]
        whole, end = tokens[:80], tokens[80:90]
        (cut,), (fits,) = (together(responder, [Continuation(c, end)]) for c in (whole, whole[-55:]))
        assert (cut.n_cut, fits.n_cut) == (25, 0) and (cut.total, cut.greedy) == (fits.total, fits.greedy)
        (whole_context,) = together(responder, [Continuation(tokens[:1], tokens[1:65])])
        assert whole_context.n_cut == 0
        with pytest.raises(EngineError, match="request 1 has 65 tokens, more than a context of 64"):
            together(responder, [Continuation(tokens[:1], tokens[1:66])])
        with pytest.raises(EngineError, match="request 2 has an empty context"):
            together(responder, [Continuation(whole[:3], end), Continuation(whole[:0], end)])


# -- writing -----------------------------------------------------------------------------------------------------------


def prompts(responder: Responder, temperature: float, n: int = 9, max_tokens: int = 12) -> list[Prompt]:
    """Some equal, some one another's beginning, more than can be written at a time."""
    given = responder.tokenize(["once upon a time there was a little girl who"], special=True)[0]
    rest = responder.tokenize([" found the old key and ran home"], special=False)[0]
    tokens = [np.concatenate([given, rest[: i % 4]]) if i % 3 else rest[: 1 + i] for i in range(n)]
    return [Prompt(t, max_tokens=max_tokens + i, temperature=temperature, seed=i) for i, t in enumerate(tokens)]


def written(responder: Responder, asked: Sequence[Prompt]) -> list[WrittenText]:
    return [answer for _, answer in sorted(responder.write(asked), key=lambda item: item[0])]


def written_alone(responder: Responder, asked: Sequence[Prompt]) -> list[WrittenText]:
    return [answer for prompt in asked for _, answer in responder.write([prompt])]


@pytest.mark.parametrize("name", ["bundled", "gemma3", "mamba"])
def test_a_text_is_written_as_it_would_be_alone(models: dict[str, Path], name: str) -> None:
    """Greedy; three sequences for nine prompts, so that freed ones are taken again and shared beginnings are kept."""
    with opened(models[name], Settings(n_batch=4, n_ubatch=4, n_threads=1), 96) as responder:
        asked = prompts(responder, 0.0)
        found = written(responder, asked)
        assert found == written_alone(responder, asked)
        assert written(responder, asked[::-1])[::-1] == found
        assert len({answer.text for answer in found}) > 2


def test_tokens_are_counted_while_they_are_written(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last word counts all tokens but those of the last step or two, and the answers are those of `write`."""
    monkeypatch.setattr(writing, "TELL_EVERY", -1.0)
    with opened(models["gemma3"], PLAIN, 96) as responder:
        asked = prompts(responder, 0.0, n=4)
        told = list(responder.write_told(asked))
        counts = [each.n_tokens for each in told if isinstance(each, Writing)]
        answers = [each for each in told if not isinstance(each, Writing)]
        assert sorted(answers, key=lambda item: item[0]) == sorted(responder.write(asked), key=lambda item: item[0])
    assert counts == sorted(counts) and len(counts) >= max(answer.n_tokens for _, answer in answers) - 1
    assert counts[-1] >= sum(answer.n_tokens for _, answer in answers) > counts[0]


def test_draws_do_not_depend_on_neighbours_or_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """In full precision, where rounding decides no draw: twenty texts at temperature 1, each seeded by its own request."""
    full_precision(monkeypatch)
    with opened(stories()) as responder:
        asked = prompts(responder, 1.0, 20)
        found = written(responder, asked)
        assert found == written_alone(responder, asked)
        assert written(responder, asked[::-1])[::-1] == found
        other = [Prompt(p.tokens, p.stop, p.max_tokens, 1.0, p.seed + 100) for p in asked]
        assert written(responder, other) != found


def test_cells_run_out_and_all_is_written(models: dict[str, Path]) -> None:
    """Prompts that fill the context, eight of them: only some fit at a time."""
    with opened(models["gemma3"], n_ctx=64) as responder:
        given = responder.tokenize([tiny.text(100)], special=True)[0]
        asked = [Prompt(given[i : i + 40], max_tokens=24) for i in range(8)]
        found = written(responder, asked)
        assert max(answer.n_tokens for answer in found) == 24
        assert found == written_alone(responder, asked)


def test_greedy_writing_is_that_of_llama_cpp_python(models: dict[str, Path]) -> None:
    """The same text as the library's own generation at temperature 0, ended by the end of the turn."""
    with opened(models["bundled"]) as responder:
        text = responder.render([{"role": "user", "content": "Where does Ada live?"}])
        (tokens,) = responder.tokenize([text])
        (found,) = written(responder, [Prompt(tokens, max_tokens=30)])
        (stopped,) = written(responder, [Prompt(tokens, stop=(found.text[9:14],), max_tokens=30)])
    stock = llama_cpp.Llama(str(models["bundled"]), n_ctx=N_CTX, n_threads=1, verbose=False)
    answer: Any = stock.create_completion(tokens.tolist(), max_tokens=30, temperature=0.0)
    stock.close()
    assert found.text == answer["choices"][0]["text"] and found.ended == "eos"
    assert stopped.ended == "stop" and stopped.text == found.text[: found.text.index(found.text[9:14])]


def test_a_long_prompt_loses_its_beginning_and_says_so(models: dict[str, Path]) -> None:
    """So that ``max_tokens`` fit behind it; where nothing of it could stay, that is an error."""
    with opened(models["llama"], n_ctx=64) as responder:
        tokens = responder.tokenize([tiny.text(60)], special=True)[0][:80]
        cut, fits = written(responder, [Prompt(tokens, max_tokens=10), Prompt(tokens[-54:], max_tokens=10)])
        assert (cut.n_cut, fits.n_cut) == (26, 0) and cut.text == fits.text
        for n in (0, 64):
            with pytest.raises(EngineError, match=f"prompt 1 asks for {n} tokens"):
                written(responder, [Prompt(tokens, max_tokens=n)])


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_process_answers_as_the_responder_does(models: dict[str, Path]) -> None:
    """The same facts, tokens, renderings, sums and texts on the other side of the pipe."""
    with opened(models["bundled"]) as inside:
        outside = LlamaBackend().respond(models["bundled"], PLAIN, N_CTX)
        try:
            assert (outside.n_vocab, outside.n_ctx, outside.bos, outside.eos, outside.chat_template) == (
                inside.n_vocab,
                inside.n_ctx,
                inside.bos,
                inside.eos,
                inside.chat_template,
            )
            asked = requests(inside)
            assert together(outside, asked) == together(inside, asked)
            assert written(outside, prompts(inside, 0.5)) == written(inside, prompts(inside, 0.5))
            said = [{"role": "user", "content": "Who?"}]
            assert outside.render(said, answer_begun="It is") == inside.render(said, answer_begun="It is")
            assert together(outside, asked[:1])
        finally:
            outside.close()


def test_without_a_template_nothing_is_rendered(models: dict[str, Path]) -> None:
    """The error names the file and crosses the pipe; the responder stays usable."""
    responder = LlamaBackend().respond(models["llama"], PLAIN, N_CTX)
    try:
        assert responder.chat_template is None
        with pytest.raises(TextError, match=r"llama\.gguf has no chat template"):
            responder.render([{"role": "user", "content": "Who?"}])
        assert len(responder.tokenize(["Who?"])) == 1
    finally:
        responder.close()


def test_a_death_is_named_and_what_was_answered_is_good(models: dict[str, Path]) -> None:
    """Killed between two answers: one error that says what was being done, after answers that are right."""
    responder = LlamaBackend().respond(models["llama"], PLAIN, N_CTX)
    try:
        asked = requests(responder)
        good = dict(enumerate(together(responder, asked * 300)))
        stream = responder.likelihoods(asked * 300 + [Continuation(r.continuation, r.context) for r in asked] * 300)
        number, answer = next(stream)
        os.kill(responder.pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match=r"log-likelihoods by llama\.gguf: llama\.cpp's process died \(SIGKILL\)"):
            for _ in stream:
                pass
        assert number >= len(good) or abs(good[number].total - answer.total) < 0.05
        with pytest.raises(EngineDied, match="tokenizing"):
            responder.tokenize(["gone"])
    finally:
        responder.close()


def test_the_context_is_at_most_what_the_model_was_trained_on(models: dict[str, Path]) -> None:
    """Unless told otherwise."""
    for given, n_ctx in ((None, 512), (600, 600)):
        responder = LlamaResponder(models["llama"], PLAIN, given)
        assert responder.n_ctx == n_ctx
        responder.close()


# -- full precision ----------------------------------------------------------------------------------------------------


def stories() -> Path:
    """Weights in F32. Skips where the shared data are absent."""
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "models" / "stories260K-F32.gguf"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values in F32; ordinary ones are F16."""
    usual = lc.llama_context_default_params

    def wide() -> Any:
        params = usual()
        params.type_k = params.type_v = F32
        params.flash_attn_type = 0
        return params

    monkeypatch.setattr(lc, "llama_context_default_params", wide)
