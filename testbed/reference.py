"""The exported file against transformers: ``python -m testbed.reference --model GGUF --text FILE``.

Reads the weights *back from the GGUF* into transformers, so that the check covers the names, the sizes and the rotation, and needs no
checkpoint. `testbed.bundle` keeps a sample of transformers' logits: with it, tests check llama.cpp where torch isn't installed.
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

EVERY_TOKEN, EVERY_LOGIT = 31, 16  # the grid of transformers' logits that is kept


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
    """What is kept of transformers' logits: a grid of them, and the best token of each position."""
    kept = [[round(float(value), 4) for value in row[::EVERY_LOGIT]] for row in logits[::EVERY_TOKEN]]
    best = logits.argmax(1).tolist()
    return {"tokens": tokens, "every_token": EVERY_TOKEN, "every_logit": EVERY_LOGIT, "logits": kept, "best": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="world-14")
    parser.add_argument("--text", type=Path, required=True, help="real text to compare on")
    parser.add_argument("--tokens", type=int, default=1024)
    options = parser.parse_args()
    with Runner(options.model) as runner:
        tokens = runner.tokenize(options.text.read_text(encoding="utf-8"))[: options.tokens]
        ours = runner.logits(tokens)
    theirs = transformers_logits(options.model, SHAPES[options.shape], tokens)
    print(json.dumps(agreement(ours, theirs), indent=1))


if __name__ == "__main__":
    main()
