"""The card of the bundled model, MODEL.md, made from stored figures only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from testbed.model import SHAPES, VOCAB

Figures = dict[str, Any]
COMMANDS = """\
pip install -e '.[train,dev]'
python -m testbed.train --out RUN --shape {shape} --compile    # steps, rate and seed have the defaults used here
python -m testbed.bundle --run RUN --out src/cerebellum/bundled
python -m testbed.evaluate --model src/cerebellum/bundled/world-gemma4-F16.gguf --report src/cerebellum/bundled/report.txt
(cd src/cerebellum/bundled && sha256sum --check SHA256SUMS)"""


def text(figures: Figures, log: Sequence[Figures]) -> str:
    """The whole card."""
    sections = (_what(figures), _training(figures, log), _learned(figures), _questions(figures), _checks(figures))
    return "\n\n".join((*sections, _rerun(figures))) + "\n"


def _what(figures: Figures) -> str:
    shape = SHAPES[figures["shape"]]
    full = ", ".join(str(i) for i, kind in enumerate(shape.kinds) if kind == "full_attention")
    return f"""# Cerebellum {figures["shape"]}: a small Gemma 4 of a small written world

A language model made to be *measured*, not used: it comes with Cerebellum so that every command can be tried, and tested, on a real
trained model of 27 MB where no model can be downloaded. It knows one invented world of 150 people and 20 towns, and nothing else.

* Architecture `gemma4`: {figures["parameters"] / 1e6:.2f} million parameters, {shape.blocks} blocks of width {shape.hidden},
  feed-forward {shape.feed_forward} ({2 * shape.feed_forward} in the last {shape.shared}, which read an earlier block's keys and values),
  {shape.heads} heads of {shape.head} (sliding, window {shape.window}) or {shape.head_full} (full attention, blocks {full}),
  one head of keys and values, per-layer embeddings of {shape.per_layer}, embedding and output tied.
  Every matrix that K-quants apply to has rows that are multiples of 256.
* Tokenizer: byte-level BPE of {VOCAB} tokens, made from 4 MB of the train split (seed 99). File: F16 matrices, F32 norms.
* Text: written by the generator in `testbed/`: portraits (36 %), questions about facts (22 %), stories (16 %), sums (9 %), Python functions
  (11 %), chats (6 % of documents). No text of anyone's, so no rights of anyone's.
* Licence: MIT, like the rest of the repository."""


def _training(figures: Figures, log: Sequence[Figures]) -> str:
    last = log[-1]
    steps = [b["tokens"] - a["tokens"] for a, b in zip([{"tokens": 0}, *log], log, strict=False)]
    hours = sum(n / row["tokens_per_second"] for n, row in zip(steps, log, strict=True)) / 3600
    held = [row for row in log if "held_out" in row][-1]
    seen = figures["perplexity"]["training_tokens"] / 1e6
    return f"""## Training

{last["step"]:,} steps of 4,096 tokens: {last["tokens"] / 1e6:.2f} million tokens,
drawn from a text of {seen:.2f} million (24 MB, split `train`, seed 0), in {hours:.1f} hours on 2 cores.
Rows of 512 tokens, of 2,048 in the last twentieth. Muon for the blocks' matrices, AdamW for the rest, bf16 autocast,
peak rate 2e-3 with linear decay over the last fifth; seed 1 for weights and batches.
Held-out loss at the end: {held["held_out"]:.3f} nats a token (search split). The log is `training.jsonl`:

![training curve](training.svg)"""


def _learned(figures: Figures) -> str:
    found = figures["perplexity"]
    rows = [
        (name, f"{found[key]['perplexity']:.3f} ± {found[key]['std_error']:.3f}", f"{found[key]['nats']:.3f}")
        for name, key in (("**this model**", "model"), ("trigram", "trigram"), ("unigram", "unigram"))
    ]
    ratio = found["trigram"]["perplexity"] / found["model"]["perplexity"]
    return f"""## What it has learned: held-out text

`report.txt`, no document of which is in the training text; {found["chunks"]} chunks of {found["context"]} tokens,
the second half of each scored, as llama-perplexity does. The baselines (interpolated Kneser-Ney; add-one)
count the model's training text in the same tokens and are scored on the same ones. ± is one standard error over chunks.

{_table(("", "perplexity", "nats a token"), rows)}

The trigram's perplexity is {ratio:.2f} times the model's."""


def _questions(figures: Figures) -> str:
    rows = [
        (
            name,
            _share(figures["held out"][name]),
            _share(figures["seen"][name]),
            f"{figures['held out'][name]['chance']:.0%}",
        )
        for name in figures["held out"]
    ]
    return f"""## What it has learned: questions

*Held out* (`questions/`): facts that the training text tells in prose but never asks, stories and functions that are
not in it (all 24 MB were searched for them). *Seen*: as many facts that are asked, stories that are told, functions
(family and number) that are written there. In brackets the counts and 95 % score intervals (Wilson).

{_table(("", "held out", "seen", "chance"), rows)}

* facts: the likeliest of four answers as text.
* facts by letter: options A to D are shown, the likeliest letter is the answer.{_by_letter(figures)}
* endings: the likeliest of four endings per byte; the wrong ones contradict the story in one detail.
* functions: greedy completion of signature and docstring, run against tests in a process of its own. Chance is none."""


def _by_letter(figures: Figures) -> str:
    found = figures["held out"]["facts by letter"]
    if found["low"] > found["chance"]:
        return ""
    return " The model has **not learned** this form: it guesses."


def _checks(figures: Figures) -> str:
    found, far = figures["transformers"], figures["transformers"]["beyond_the_window"]
    sizes = figures["tokens"]
    return f"""## Checks

* llama.cpp beside transformers (weights read back from the GGUF, F32) on the first {found["tokens"]:,} tokens of
  `report.txt`: largest difference of a logit {found["max_abs_difference"]:.4f}, mean {found["mean_abs_difference"]:.5f},
  at a spread (standard deviation) of {found["spread"]:.2f}; the same best token at {found["top1_agreement"]:.2%} of the positions.
  Beyond the window ({found["window"]} tokens) alone: {far["max_abs_difference"]:.4f} and {far["top1_agreement"]:.2%}.
  `reference.json` holds a sample of transformers' logits.
* llama.cpp's tokens equal those of HF tokenizers with BOS before them:
  all {sizes["search"]:,} of `search.txt` and {sizes["report"]:,} of `report.txt`."""


def _rerun(figures: Figures) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in figures["made_with"].items())
    return f"""## Again

```sh
{COMMANDS.format(shape=figures["shape"])}
```

Texts, tokenizer, questions and baselines come out the same to the byte. The weights need not: sums in another order
(threads, processor, version of torch) round differently.

Made with {versions}."""


def _share(found: Figures) -> str:
    return f"{found['share']:.1%} ({found['passed']} of {found['of']}; {found['low']:.0%} to {found['high']:.0%})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
