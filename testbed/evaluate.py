"""What the bundled model has learned: ``python -m testbed.evaluate --model GGUF --bundled FOLDER --out FILE.json``.

Perplexity on held-out text beside a unigram and a trigram over the same tokens, and the three question sets beside chance. All in
llama.cpp, on the file that is shipped.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.baselines import Trigram, Unigram
from testbed.documents import letter_question, text_of
from testbed.runner import Runner, log_softmax

CHUNK = 512
LIMIT_SECONDS = 10
Row = dict[str, Any]


def chunks_of(tokens: list[int], bos: int, size: int = CHUNK) -> npt.NDArray[np.int64]:
    """int64 [chunks, size]: consecutive chunks, the first token of each replaced by BOS, as llama-perplexity cuts."""
    whole = len(tokens) // size
    out = np.array(tokens[: whole * size], np.int64).reshape(whole, size)
    out[:, 0] = bos
    return out


def model_nll(runner: Runner, chunks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Nats of each token in the second half of each chunk."""
    half, out = chunks.shape[1] // 2, []
    for chunk in chunks:
        log_p = log_softmax(runner.logits(chunk.tolist())[half - 1 : -1])
        out.append(-log_p[np.arange(len(log_p)), chunk[half:]])
    return np.concatenate(out)


def baseline_nll(
    nll: Callable[[Any], npt.NDArray[np.float64]], chunks: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The same tokens as `model_nll` scores, by a model of two tokens' context."""
    half = chunks.shape[1] // 2
    return np.concatenate([nll(chunk[half - 2 :]) for chunk in chunks])


def perplexities(runner: Runner, text: str, train_bytes: int) -> dict[str, float]:
    """Perplexity of model, trigram and unigram on ``text``."""
    chunks = chunks_of(runner.tokenize(text), runner.bos)
    # The tokenizer is quick on short texts only, and a document boundary parts words anyway.
    documents = text_of("train", train_bytes).split("\n\n")
    blocks = ["\n\n".join(documents[i : i + 100]) + "\n\n" for i in range(0, len(documents), 100)]
    train = np.array([token for block in blocks for token in runner.tokenize(block, bos=False, special=True)], np.int64)
    values = {
        "model": model_nll(runner, chunks),
        "trigram": baseline_nll(Trigram(train, runner.n_vocab).nll_nats, chunks),
        "unigram": baseline_nll(Unigram(train, runner.n_vocab).nll_nats, chunks),
    }
    return {name: math.exp(float(nll.mean())) for name, nll in values.items()} | {"chunks": len(chunks)}


def best(runner: Runner, context: str, options: Sequence[str], *, mean: bool) -> int:
    """The option whose tokens are likeliest after ``context``: in sum, or on average per byte where lengths differ."""
    scores, prompt = [], runner.tokenize(context)
    for option in options:
        tokens = runner.tokenize(context + option)
        log_p = log_softmax(runner.logits(tokens)[len(prompt) - 1 : -1])
        score = float(log_p[np.arange(len(log_p)), tokens[len(prompt) :]].sum())
        scores.append(score / len(option.encode()) if mean else score)
    return int(np.argmax(scores))


def facts(runner: Runner, rows: list[Row]) -> list[bool]:
    """Questions answered by text."""
    ask = "Question: {}\nAnswer:"
    return [
        best(runner, ask.format(r["question"]), [f" {c}" for c in r["choices"]], mean=False) == r["answer"]
        for r in rows
    ]


def letters(runner: Runner, rows: list[Row]) -> list[bool]:
    """The same questions, options shown, answered by letter."""
    return [
        best(runner, letter_question(r["question"], r["choices"]), [" A", " B", " C", " D"], mean=False) == r["answer"]
        for r in rows
    ]


def endings(runner: Runner, rows: list[Row]) -> list[bool]:
    """Stories: the likeliest of four endings."""
    return [best(runner, r["context"], [f" {e}" for e in r["endings"]], mean=True) == r["label"] for r in rows]


def runs(row: Row, body: str) -> bool:
    """Whether prompt and ``body`` pass the item's tests, in a process of their own."""
    program = f"{row['prompt']}{body}\n\n{row['test']}\ncheck({row['entry_point']})\n"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def functions(runner: Runner, rows: list[Row]) -> list[bool]:
    """Functions completed greedily, up to an empty line, and run."""
    return [runs(row, runner.greedy(runner.tokenize(row["prompt"]), 64, "\n\n")) for row in rows]


def share(passed: list[bool], chance: float) -> dict[str, float]:
    """Passed and asked, the share, and what guessing gives."""
    return {"passed": sum(passed), "of": len(passed), "share": sum(passed) / len(passed), "chance": chance}


def read_rows(path: Path) -> list[Row]:
    """The items of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def evaluate(model: Path, bundled: Path, train_bytes: int) -> Row:
    """Every figure, as one JSON-able mapping."""
    sets = {
        name: read_rows(bundled / "questions" / f"world_{name}.jsonl") for name in ("facts", "endings", "functions")
    }
    with Runner(model) as runner:
        return {
            "perplexity": perplexities(runner, (bundled / "report.txt").read_text(encoding="utf-8"), train_bytes),
            "facts": share(facts(runner, sets["facts"]), 0.25),
            "facts_by_letter": share(letters(runner, sets["facts"]), 0.25),
            "endings": share(endings(runner, sets["endings"]), 0.25),
            "functions": share(functions(runner, sets["functions"]), 0.0),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bundled", type=Path, required=True, help="folder with report.txt and questions/")
    parser.add_argument(
        "--train-megabytes", type=int, default=24, help="text the trigram counts: what the model was trained on"
    )
    parser.add_argument("--out", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    figures = json.dumps(evaluate(options.model, options.bundled, options.train_megabytes * 1_000_000), indent=1)
    print(figures)
    if options.out:
        options.out.write_text(figures + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
