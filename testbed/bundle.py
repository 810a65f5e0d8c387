"""Everything that ships with the package: ``python -m testbed.bundle --run RUN --out src/cerebellum/bundled``.

Exports the trained model, writes its texts and question sets, checks that none of them leaked into the training text and that llama.cpp
computes what transformers does, measures what was learned, and puts the figures on a card. `SHA256SUMS` comes last: a folder without it is
unfinished. Needs the `train` extra, because the weights are read from torch's checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from testbed import card, curve, evaluate, export, questions, reference
from testbed.documents import text_of
from testbed.model import SHAPES
from testbed.runner import Runner

MODEL, SUMS = "world-gemma4-F16.gguf", "SHA256SUMS"
TEXT_BYTES = 150_000  # 85 chunks of 512 tokens
COMPARED_TOKENS = 1024  # eight sliding windows
PACKAGES = ("torch", "transformers", "tokenizers", "llama-cpp-python", "gguf", "numpy")


def texts(out: Path, train_bytes: int) -> None:
    """search.txt, report.txt and the question sets. Raises `ValueError` if something held out stands in the training text."""
    for split in ("search", "report"):
        (out / f"{split}.txt").write_text(text_of(split, TEXT_BYTES), encoding="utf-8")
    questions.write(out / "questions")
    leaked = questions.leaks(text_of("train", train_bytes, chat=True))
    if leaked:
        raise ValueError(f"{len(leaked)} held-out items are in the training text, first: {leaked[0]!r}")


def tokenizers_agree(model: Path, tokenizer: Path, text: str) -> int:
    """How many tokens ``text`` has, by both tokenizers. Raises `ValueError` where llama.cpp and HF tokenizers differ."""
    from tokenizers import Tokenizer

    with Runner(model, threads=1) as runner:
        ours = runner.tokenize(text)
    theirs = [runner.bos, *Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids]
    if ours != theirs:
        raise ValueError(f"llama.cpp reads {len(ours)} tokens, tokenizers {len(theirs)}, and they are not the same")
    return len(ours)


def compare(out: Path, shape: str, threads: int) -> dict[str, Any]:
    """llama.cpp beside transformers on real text well beyond the sliding window, and a sample of it kept for CI."""
    text = (out / "report.txt").read_text(encoding="utf-8")
    with Runner(out / MODEL, threads=threads) as runner:
        tokens = runner.tokenize(text)[:COMPARED_TOKENS]
        ours = runner.logits(tokens)
    theirs = reference.transformers_logits(out / MODEL, SHAPES[shape], tokens)
    kept = reference.sample(tokens, theirs)
    (out / "reference.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
    beyond = SHAPES[shape].window
    figures = {"tokens": len(tokens), "window": beyond} | reference.agreement(ours, theirs)
    return figures | {"beyond_the_window": reference.agreement(ours[beyond:], theirs[beyond:])}


def made_with() -> dict[str, str]:
    """Versions that can move a figure."""
    return {"python": platform.python_version(), "machine": platform.machine()} | {p: version(p) for p in PACKAGES}


def bundle(run: Path, out: Path, shape: str, megabytes: int, threads: int) -> dict[str, Any]:
    """Write the whole folder; the figures on its card."""
    (out / SUMS).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "tokenizer.json", out / "tokenizer.json")
    shutil.copyfile(run / "log.jsonl", out / "training.jsonl")
    weights = export.weights_of(run)
    export.write(out / MODEL, shape, weights, out / "tokenizer.json")
    _say("texts and questions")
    texts(out, megabytes * 1_000_000)
    sizes = {
        name: tokenizers_agree(out / MODEL, out / "tokenizer.json", (out / f"{name}.txt").read_text(encoding="utf-8"))
        for name in ("search", "report")
    }
    _say("llama.cpp beside transformers")
    figures: dict[str, Any] = {"shape": shape, "tokens": sizes, "made_with": made_with()}
    figures["parameters"] = sum(int(np.prod(w.shape)) for key, w in weights.items() if key != "lm_head.weight")
    figures["transformers"] = compare(out, shape, threads)
    _say("perplexity and questions")
    text = (out / "report.txt").read_text(encoding="utf-8")
    figures |= evaluate.evaluate(out / MODEL, text, megabytes * 1_000_000, threads)
    (out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_card(out, figures)
    return figures


def write_card(out: Path, figures: dict[str, Any]) -> None:
    """Card, curve and sums from what is already in the folder."""
    log = questions.read(out / "training.jsonl")
    lines = {f"{name}, report split": figures["perplexity"][name]["nats"] for name in ("unigram", "trigram")}
    (out / "training.svg").write_text(curve.svg(log, lines), encoding="utf-8")
    (out / "MODEL.md").write_text(card.text(figures, log), encoding="utf-8")
    (out / SUMS).write_text(sums(out), encoding="utf-8")


def sums(folder: Path) -> str:
    """One ``sha256  path`` line a file, as ``sha256sum --check`` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files
    )


def _say(words: str) -> None:
    print(f"bundle: {words}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, help="folder of a finished testbed.train run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="world-14")
    parser.add_argument("--megabytes", type=int, default=24, help="training text, as given to testbed.train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--card-only", action="store_true", help="only card, curve and sums, from evaluation.json")
    options = parser.parse_args()
    if options.card_only:
        write_card(options.out, json.loads((options.out / "evaluation.json").read_text(encoding="utf-8")))
        return
    if options.run is None:
        parser.error("--run is needed")
    bundle(options.run, options.out, options.shape, options.megabytes, options.threads)
    print((options.out / SUMS).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
