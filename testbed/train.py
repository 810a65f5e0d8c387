"""Train the bundled model: ``python -m testbed.train --out FOLDER``. Resumes from FOLDER; Ctrl-C keeps the last step.

Warm-up, constant rate, then linear decay over the last fifth, so the end can be moved while it runs. Every batch is a function of the
seed and the step only, so a resumed run sees the same text as one that was never stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from testbed.documents import text_of
from testbed.grow import grow
from testbed.model import BOS, SHAPES, VOCAB, new_model, train_tokenizer

Ids = npt.NDArray[np.uint16]
HELD_OUT_ROWS = 24
DECAY_SHARE = 0.2
SAVE_EVERY = 100


def rate(step: int, steps: int) -> float:
    """The learning rate's factor at a step."""
    warm_up = min(60, max(1, steps // 10))
    decay_from = steps * (1 - DECAY_SHARE)
    return min(1.0, (step + 1) / warm_up, max(0.02, (steps - step) / (steps - decay_from)))


def encode(folder: Path, split: str, n_bytes: int, *, chat: bool) -> Ids:
    """The tokens of a split, cached in ``folder``; the tokenizer is trained first where there is none."""
    from tokenizers import Tokenizer

    cache = folder / f"{split}-{n_bytes}.npy"
    if cache.exists():
        return np.asarray(np.load(cache), np.uint16)
    path = folder / "tokenizer.json"
    if not path.exists():
        train_tokenizer(text_of("train", 4_000_000, seed=99), path)
    tokenizer = Tokenizer.from_file(str(path))
    documents = text_of(split, n_bytes, chat=chat).split("\n\n")
    pieces = [documents[0], *("\n\n" + doc for doc in documents[1:])]  # cut where running text is cut, too
    ids = np.concatenate([np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(pieces)])
    np.save(cache, ids)
    return ids


def rows(ids: Ids, starts: npt.NDArray[np.int64], length: int) -> torch.Tensor:
    """int64 [rows, length]: BOS and the ``length`` − 1 tokens from each start."""
    out = np.stack([np.concatenate([[BOS], ids[s : s + length - 1]]) for s in starts])
    return torch.from_numpy(out.astype(np.int64))


def loss_of(model: Any, batch: torch.Tensor) -> torch.Tensor:
    """Mean NLL of the next token, in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().reshape(-1, VOCAB), batch[:, 1:].reshape(-1))


def optimizers(model: Any, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else."""
    matrices: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        inside = ".layers." in name and parameter.dim() == 2
        (matrices if inside else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=peak, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.0)]


class Run:
    """A training under way in a folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        folder.mkdir(parents=True, exist_ok=True)
        if options.grown_from:  # the same tokens: what is compared later reads the same text
            shutil.copyfile(options.grown_from.with_name("tokenizer.json"), folder / "tokenizer.json")
        self.train = encode(folder, "train", options.megabytes * 1_000_000, chat=True)
        self.held = encode(folder, "search", 300_000, chat=False)
        self.model = new_model(SHAPES[options.shape], options.seed)
        if options.grown_from:
            grow(self.model, SHAPES[options.shape], options.grown_from)
        self.forward = torch.compile(self.model) if options.compile else self.model
        self.optimizers = optimizers(self.model, options.rate)
        self.step = 0
        self._resume()

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = state["step"]

    def save(self) -> None:
        """Keep model, optimizers and step; all or nothing."""
        partial = self.folder / "checkpoint.partial"
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"model": self.model.state_dict(), "optimizers": states, "step": self.step}, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def batch(self) -> torch.Tensor:
        """The batch of this step: long rows near the end, as many tokens as ever."""
        long = self.step >= self.options.steps * 0.95
        length = 2048 if long else 512
        draw = np.random.default_rng([self.options.seed, self.step])
        n = max(1, self.options.tokens // length)
        return rows(self.train, draw.integers(0, len(self.train) - length, n), length)

    def advance(self) -> float:
        """One step; the loss before it."""
        factor = rate(self.step, self.options.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.options.rate * factor
            optimizer.zero_grad(set_to_none=True)
        batch = self.batch()
        loss = loss_of(self.forward if batch.shape[1] == 512 else self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def held_out(self) -> float:
        """Mean NLL in nats a token on the first rows of the search split."""
        starts = np.arange(HELD_OUT_ROWS) * 511
        losses = [float(loss_of(self.model, rows(self.held, part, 512))) for part in np.split(starts, 3)]
        return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: cache, checkpoint, log")
    parser.add_argument("--shape", choices=SHAPES, default="world-14")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=24, help="training text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--grown-from", type=Path, help="begin with the blocks of this GGUF of another depth")
    parser.add_argument("--compile", action="store_true", help="torch.compile the 512-token step: a quarter faster")
    parser.add_argument("--stop", type=int, help="stop at this step (for trials)")
    options = parser.parse_args()
    run = Run(options.out, options)
    size = sum(p.numel() for p in run.model.parameters())
    print(
        f"{size / 1e6:.2f} M parameters, {len(run.train) / 1e6:.2f} M tokens of text, from step {run.step}", flush=True
    )
    loop(run, options.stop or options.steps)


def loop(run: Run, last: int) -> None:
    """Step until ``last``, logging; an interrupt saves first."""
    torch.set_num_threads(run.options.threads)
    clock, seen = time.perf_counter(), 0
    try:
        while run.step < last:
            loss = run.advance()
            seen += run.options.tokens
            if run.step % 20 == 0 or run.step == last:
                held = run.held_out() if run.step % SAVE_EVERY == 0 or run.step == last else None
                speed = seen / (time.perf_counter() - clock)
                row = {"step": run.step, "tokens": run.step * run.options.tokens, "loss": round(loss, 4)}
                row |= {"rate": round(rate(run.step - 1, run.options.steps), 4), "tokens_per_second": round(speed)}
                row |= {} if held is None else {"held_out": round(held, 4)}
                with (run.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
                print(row, flush=True)
                clock, seen = time.perf_counter(), 0
            if run.step % SAVE_EVERY == 0:
                run.save()
    finally:
        run.save()


if __name__ == "__main__":
    main()
