"""What `benchmarks.sweep_speed` compares on: a model, a text, which tensors at which types, how often."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import E2B, MEDIUM, Shape, write_model
from benchmarks.stock_loop import Text
from cerebellum import bundled


@dataclass(frozen=True, slots=True)
class Case:
    """``shape``: the model is generated; None: ``model`` is a file. ``stock_trials``: how many of the loop's trials are really run (None:
    all); ``alternated``: False where one stock trial only stands beside ours. ``race``: raced, and compared with a sweep over the whole
    text only for what it decides; ``race_to``: each trial's "verdicts", or the "choice". ``cost_chunks``: text of the comparison with a
    bare pass."""

    model: Path | None = None
    shape: Shape | None = None
    base: str = "Q3_K_M"
    role: str = "ffn_gate"
    to: str = "Q2_K"
    blocks: tuple[int, ...] | None = None
    ctx: int = 512
    ubatch_size: int | None = None
    chunks: int = 8
    stock_trials: int | None = None
    alternated: bool = True
    race: bool = False
    race_to: str = "choice"
    cost_chunks: int = 4


#: llama-perplexity gives no KL divergence for fewer scored tokens than 100: half of ctx, times chunks, must be more.
CASES = {
    "small": Case(bundled.MODEL, role="all", chunks=8, stock_trials=7),
    # Many trials on much text: where racing belongs.
    "race": Case(bundled.MODEL, role="all", ctx=128, chunks=320, stock_trials=2, race=True),
    "medium": Case(shape=MEDIUM, role="ffn_gate,ffn_up,ffn_down", chunks=2, stock_trials=2, cost_chunks=2),
    "e2b": Case(shape=E2B, blocks=(0, 14, 34), ctx=128, chunks=2, stock_trials=1, alternated=False, cost_chunks=2),
}


@dataclass(frozen=True, slots=True)
class Ready:
    """A case with its files in place."""

    name: str
    case: Case
    model: Path
    text: Text
    report_text: Path
    scratch: Path

    def sweep(self, out: Path, *more: str, blocks: Sequence[int] | None = None) -> list[str]:
        """`cerebellum sweep` as words, without the program."""
        case, wanted = self.case, self.case.blocks if blocks is None else tuple(blocks)
        options = ["--base", case.base, "--role", case.role, "--to", case.to, "--report-text", str(self.report_text)]
        if wanted is not None:
            options += ["--blocks", ",".join(map(str, wanted))]
        if case.ubatch_size is not None:
            options += ["--ubatch-size", str(case.ubatch_size)]
        return ["sweep", str(self.model), *self.text.ours(), *options, "--out", str(out), "--json", *more]


def ready(
    case: Case, name: str, scratch: Path, text: Path | None, threads: int | None, gpu_layers: int = 0, **stock: bool
) -> Ready:
    """The model, generated into ``scratch`` where it isn't there yet; ``stock``: of the stock programs (`Text`). Raises NoRoomError."""
    model = case.model
    if model is None:
        assert case.shape is not None
        model = scratch / f"random-{name}-{case.shape.stored_as}.gguf"
        if not model.exists():
            write_model(model, case.shape)
    threads = threads or os.cpu_count() or 1
    lines = Text(text or bundled.SEARCH_TEXT, case.ctx, case.chunks, threads, gpu_layers=gpu_layers, **stock)
    return Ready(name, case, model, lines, bundled.REPORT_TEXT, scratch)
