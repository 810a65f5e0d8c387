"""A sibling of the bundled model, of another depth: ``python -m testbed.sibling --run RUN``.

Trains it, exports it, measures it and writes its card. It begins with its elder's blocks (`testbed.grow`) and is trained on with new
batches, so that its tensors' sensitivities become its own. The command goes on where it was stopped. It needs the `train` extra.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from testbed import evaluate, export
from testbed.grow import elder_of, origins
from testbed.model import SHAPES
from testbed.runner import Runner

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "src" / "cerebellum" / "bundled"
ELDER = BUNDLED / "world-gemma4-F16.gguf"
OUT = ROOT / "testbed" / "siblings"
SHAPE, STEPS, TOKENS, RATE, SEED, MEGABYTES = "world-10", 20, 512, 1e-3, 2, 6
CHUNKS = 16  # of the report text
PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "numpy")


def train(run: Path, steps: int, threads: int) -> None:
    """The run of `testbed.train` with the sibling's options, from where it stands."""
    options = {
        "--out": run, "--shape": SHAPE, "--grown-from": ELDER, "--steps": steps, "--tokens": TOKENS, "--megabytes": MEGABYTES,
        "--rate": RATE, "--seed": SEED, "--threads": threads,
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    subprocess.run([sys.executable, "-m", "testbed.train", *words], check=True)


def measured(path: Path, threads: int) -> dict[str, Any]:
    """Perplexity of the sibling and of its elder on the report text, as `testbed.evaluate` has it."""
    text = (BUNDLED / "report.txt").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    for name, model in (("sibling", path), ("elder", ELDER)):
        with Runner(model, threads=threads) as runner:
            chunks = evaluate.chunks_of(runner.tokenize(text), runner.bos)[:CHUNKS]
            found[name] = evaluate.perplexity(evaluate.model_nll(runner, chunks)) | {"chunks": len(chunks)}
    return found


def card(path: Path, figures: dict[str, Any], log: list[dict[str, Any]], n_weights: int) -> str:
    """What the sibling is, how it was made, what it can do."""
    shape, elder = SHAPES[SHAPE], elder_of(ELDER)
    made = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    blocks = ", ".join(map(str, origins(shape, elder)))
    perplexities = [
        f"{figures[name]['perplexity']:.3f} ± {figures[name]['std_error']:.3f}" for name in ("sibling", "elder")
    ]
    return f"""# Cerebellum {SHAPE}: a sibling of the bundled model

Made so that a transfer between two models of one family and other depths can be tried. It is no part of the package.

* The bundled model's family (`gemma4`), world, tokenizer and widths: {n_weights / 1e6:.2f} million weights, {shape.blocks} blocks
  instead of {elder.blocks}; the last {shape.shared} share keys and values (of the elder {elder.shared}).
* It begins with the elder's blocks {blocks} (`testbed/grow.py`) and was trained on:
  {log[-1]["step"]} steps of {TOKENS} tokens, new batches (seed {SEED}), the bundled model's optimizers, peak rate {RATE:g},
  {MEGABYTES} MB of the train split.
  That is a short training: {log[-1]["tokens"]:,} tokens, where the elder had 5.7 million.
  It is a real model, less good than its elder, and its weights are kin to the elder's: agreement between the two
  says little of models that were trained apart.
* Perplexity on `report.txt` ({figures["sibling"]["chunks"]} chunks of 512 tokens): {perplexities[0]}; its elder's is {perplexities[1]}.
* File: F16 matrices, F32 norms, {path.stat().st_size:,} bytes,
  sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`. Licence: MIT.

Again (the weights need not come out the same to the byte: sums in another order round differently):

```sh
pip install -e '.[train,dev]'
python -m testbed.sibling --run RUN
```

Made with python {platform.python_version()}, {made}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="folder of the training: cache, checkpoint, log")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=STEPS, help="more on a quiet machine make a better one")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options.run, options.steps, options.threads)
    weights = export.weights_of(options.run)
    path = options.out / f"{SHAPE}-F16.gguf"
    export.write(path, SHAPE, weights, options.run / "tokenizer.json")
    n_weights = sum(int(np.prod(w.shape)) for key, w in weights.items() if key != "lm_head.weight")
    log = [json.loads(line) for line in (options.run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    text = card(path, measured(path, options.threads), log, n_weights)
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
