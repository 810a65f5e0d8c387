"""What the bundled model has learned: ``python -m testbed.evaluate --model GGUF --report TEXT --out FILE.json``.

Perplexity on held-out text beside a unigram and a trigram of the same training text in the same tokens; the question sets beside chance.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed import questions
from testbed.baselines import Trigram, Unigram
from testbed.documents import text_of
from testbed.runner import Runner, log_softmax
from testbed.tasks import TASKS, wilson

CHUNK = 512
Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Figures = dict[str, Any]


def chunks_of(tokens: list[int], bos: int, size: int = CHUNK) -> Ids:
    """int64 [chunks, size]: consecutive chunks, the first token of each replaced by BOS, as llama-perplexity cuts."""
    whole = len(tokens) // size
    out = np.array(tokens[: whole * size], np.int64).reshape(whole, size)
    out[:, 0] = bos
    return out


def model_nll(runner: Runner, chunks: Ids) -> Floats:
    """float64 [chunks, scored]: nats of each token that llama-perplexity scores, those of the second half but the first."""
    half, out = chunks.shape[1] // 2, []
    for chunk in chunks:
        log_p = log_softmax(runner.logits(chunk.tolist())[half:-1])
        out.append(-log_p[np.arange(len(log_p)), chunk[half + 1 :]])
    return np.stack(out)


def baseline_nll(nll: Callable[[Any], Floats], chunks: Ids) -> Floats:
    """The same tokens as `model_nll` scores, by a model that sees the two before."""
    half = chunks.shape[1] // 2
    return np.stack([nll(chunk[half - 1 :]) for chunk in chunks])


def perplexity(nll: Floats) -> Figures:
    """Perplexity and its standard error, with chunks (not tokens) as the independent samples."""
    means = nll.mean(axis=1)
    value = math.exp(float(means.mean()))
    error = float(means.std(ddof=1) / math.sqrt(len(means)))
    return {"perplexity": value, "std_error": value * error, "nats": float(means.mean())}


def training_tokens(runner: Runner, n_bytes: int) -> Ids:
    """The tokens that `testbed.train` draws its rows from, by llama.cpp's tokenizer."""
    documents = text_of("train", n_bytes, chat=True).split("\n\n")
    pieces = [
        "\n\n".join(documents[i : i + 100]) for i in range(0, len(documents), 100)
    ]  # it is quick on short texts only
    pieces = [pieces[0], *("\n\n" + piece for piece in pieces[1:])]
    return np.concatenate([np.array(runner.tokenize(p, bos=False, special=True), np.int64) for p in pieces])


def perplexities(runner: Runner, text: str, train_bytes: int) -> Figures:
    """Perplexity of model, trigram and unigram on ``text``."""
    chunks = chunks_of(runner.tokenize(text), runner.bos)
    train = training_tokens(runner, train_bytes)
    baselines = {"trigram": Trigram(train, runner.n_vocab).nll_nats, "unigram": Unigram(train, runner.n_vocab).nll_nats}
    out = {"model": perplexity(model_nll(runner, chunks))}
    out |= {name: perplexity(baseline_nll(nll, chunks)) for name, nll in baselines.items()}
    return out | {"context": CHUNK, "chunks": len(chunks), "training_tokens": len(train)}


def scores(runner: Runner, sets: dict[str, list[Any]]) -> Figures:
    """Passed and asked, the share with its interval, and what guessing gives, for every task."""
    out: Figures = {}
    for name, (answer, which, chance) in TASKS.items():
        passed = answer(runner, sets[which])
        low, high = wilson(sum(passed), len(passed))
        out[name] = {"passed": sum(passed), "of": len(passed), "share": sum(passed) / len(passed)}
        out[name] |= {"low": low, "high": high, "chance": chance}
    return out


def evaluate(model: Path, text: str, train_bytes: int, threads: int = 2) -> Figures:
    """Every figure, as one JSON-able mapping."""
    with Runner(model, threads=threads) as runner:
        return {
            "perplexity": perplexities(runner, text, train_bytes),
            "held out": scores(runner, questions.sets(held_out=True)),
            "seen": scores(runner, questions.sets(held_out=False)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="held-out text")
    parser.add_argument("--megabytes", type=int, default=24, help="training text that the unigram and trigram count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    text = options.report.read_text(encoding="utf-8")
    figures = json.dumps(evaluate(options.model, text, options.megabytes * 1_000_000, options.threads), indent=1)
    print(figures)
    if options.out:
        options.out.write_text(figures + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
