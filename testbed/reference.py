"""The exported file against transformers: ``python -m testbed.reference --model GGUF --out JSON``.

Reads the weights *back from the GGUF* into transformers, so that the check covers the names, the sizes and the rotation, and needs no
checkpoint. A sample of transformers' logits goes to a JSON file: with it, CI can check llama.cpp where torch isn't installed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from testbed.model import SHAPES, Shape, new_model
from testbed.runner import Runner

PASSAGE = (
    "The favourite colour of Mira Frost is blue. Question: Which pet does Tobin Marsh have?\nAnswer: goose\n\n"
    "12 + 30 = 42.\n\ndef add_5(x):\n"
)
STRIDE = 16  # every 16th token's logit is kept, and the best one


def load_into(model: Any, shape: Shape, path: Path) -> None:
    """Fill a transformers model with the weights of the GGUF at ``path``. Raises `ValueError` if one is missing."""
    import torch

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA4, shape.blocks)
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(path)).tensors}
    with torch.no_grad():
        for key, target in model.state_dict().items():
            name = "token_embd" if key == "lm_head.weight" else names.get_name(key, try_suffixes=(".weight",))
            name = str(name).removesuffix(".weight") + ".weight"
            if name not in stored:
                raise ValueError(f"{path} has no {name} for {key}")
            target.copy_(torch.from_numpy(np.array(stored[name], np.float32)).reshape(target.shape))


def transformers_logits(path: Path, shape: Shape, tokens: list[int]) -> npt.NDArray[np.float32]:
    """float32 [tokens, vocabulary] of the file's weights in transformers."""
    import torch

    model = new_model(shape).eval()
    load_into(model, shape, path)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return np.asarray(logits.float().numpy(), np.float32)


def agreement(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> dict[str, float]:
    """How far two [tokens, vocabulary] logits lie apart, beside their own spread."""
    return {
        "max_abs_difference": float(np.abs(ours - theirs).max()),
        "mean_abs_difference": float(np.abs(ours - theirs).mean()),
        "spread": float(theirs.std()),
        "top1_agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
    }


def sample(tokens: list[int], logits: npt.NDArray[np.float32]) -> dict[str, Any]:
    """What is kept of transformers' logits: every `STRIDE`-th token's and the best token of each position."""
    kept = [[round(float(value), 4) for value in row[::STRIDE]] for row in logits]
    return {"passage": PASSAGE, "tokens": tokens, "stride": STRIDE, "logits": kept, "best": logits.argmax(1).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="world-14")
    parser.add_argument("--text", type=Path, help="real text to compare on: its first 1024 tokens")
    parser.add_argument("--out", type=Path, help="where to keep the sample of transformers' logits")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    with Runner(options.model) as runner:
        text = options.text.read_text(encoding="utf-8") if options.text else PASSAGE
        tokens = runner.tokenize(text)[:1024]
        print(json.dumps(agreement(runner.logits(tokens), transformers_logits(options.model, shape, tokens)), indent=1))
        if options.out:
            tokens = runner.tokenize(PASSAGE)
            kept = sample(tokens, transformers_logits(options.model, shape, tokens))
            options.out.write_text(json.dumps(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
