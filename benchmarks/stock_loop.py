"""The loop that people run today, with the stock programs: for each trial llama-quantize to a file, llama-perplexity over the text, delete.

It measures what a sweep measures: the KL divergence to the unquantized model, whose logits are made once, and the perplexity.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Usage, measured
from benchmarks.stock import StockPrograms
from benchmarks.stock_output import Statistic, StockOutputError, parse_divergence
from cerebellum.llamacpp.process import WAITING


@dataclass(frozen=True, slots=True)
class Text:
    """What both sides read: a file, tokens in a chunk, chunks, threads. ``calm``: the stock programs' threads wait as our engine's do, for
    a machine that does other work (libgomp's own way is up to 9 % faster on a quiet one and ten times slower on a busy one). ``repack``:
    they store weights anew for the processor as they load, which is their default and gives slightly other numbers than ours.
    ``gpu_layers``: of both sides."""

    path: Path
    ctx: int
    chunks: int
    threads: int
    calm: bool = False
    repack: bool = False
    gpu_layers: int = 0

    def stock(self) -> list[str]:
        """As options of llama-perplexity."""
        return [
            "-f",
            str(self.path),
            "-c",
            str(self.ctx),
            "--chunks",
            str(self.chunks),
            "-t",
            str(self.threads),
            "--repack" if self.repack else "--no-repack",
            "-ngl",
            str(self.gpu_layers),
            "--op-offload" if self.gpu_layers else "--no-op-offload",
        ]

    @property
    def environment(self) -> dict[str, str]:
        """For the stock programs."""
        return dict(WAITING) if self.calm else {}

    def ours(self) -> list[str]:
        """As options of `cerebellum sweep`."""
        size = ["--ctx", str(self.ctx), "--chunks", str(self.chunks), "--threads", str(self.threads)]
        return ["--text", str(self.path), *size, "-ngl", str(self.gpu_layers)]


@dataclass(frozen=True, slots=True)
class StockTrial:
    """One pass of the loop; ``swap`` (tensor, type) None is the base."""

    swap: tuple[str, str] | None
    quantize: Usage
    measure: Usage
    perplexity: float
    kld: float
    file_bytes: int

    @property
    def seconds(self) -> float:
        return self.quantize.seconds + self.measure.seconds

    @property
    def cpu_seconds(self) -> float:
        return self.quantize.cpu_seconds + self.measure.cpu_seconds

    @property
    def written(self) -> int:
        return self.quantize.written + self.measure.written


@dataclass(frozen=True, slots=True)
class StockLoop:
    """A whole loop: the reference's logits, then the base and the trials that were really run, of ``n_trials`` planned.

    All trials of a loop are the same work (the whole file is quantized, the whole model computed), so where only some were run the
    time of all is that of one times their number.
    """

    logits: Usage
    logits_bytes: int
    base: StockTrial
    trials: tuple[StockTrial, ...]
    n_trials: int

    @property
    def seconds(self) -> float:
        return self._whole(self.logits.seconds + self.base.seconds, [t.seconds for t in self.trials])

    @property
    def cpu_seconds(self) -> float:
        return self._whole(self.logits.cpu_seconds + self.base.cpu_seconds, [t.cpu_seconds for t in self.trials])

    @property
    def written(self) -> float:
        return self._whole(self.logits.written + self.base.written, [t.written for t in self.trials])

    @property
    def resident(self) -> int:
        """Largest peak of any of its programs."""
        usages = [self.logits, *(usage for t in (self.base, *self.trials) for usage in (t.quantize, t.measure))]
        return max(usage.resident for usage in usages)

    def _whole(self, once: float, each: Sequence[float]) -> float:
        return once + self.n_trials * sum(each) / len(each)


def run_loop(
    programs: StockPrograms,
    model: Path,
    base: str,
    tensor_types: Sequence[tuple[str, str]],
    n_trials: int,
    text: Text,
    scratch: Path,
) -> StockLoop:
    """The loop over ``tensor_types`` (tensor, type) on the stock mix ``base``. Raises CommandFailedError, StockOutputError."""
    logits = scratch / "reference-logits.bin"
    try:
        made = measured(
            [programs.perplexity, "-m", model, *text.stock(), "--kl-divergence-base", logits], text.environment
        )
        size = logits.stat().st_size
        trials = [stock_trial(programs, model, base, swap, text, scratch, logits) for swap in (None, *tensor_types)]
    finally:
        logits.unlink(missing_ok=True)
    return StockLoop(made, size, trials[0], tuple(trials[1:]), n_trials)


def stock_trial(
    programs: StockPrograms,
    model: Path,
    base: str,
    swap: tuple[str, str] | None,
    text: Text,
    scratch: Path,
    logits: Path,
) -> StockTrial:
    """One pass of the loop; the file is gone afterwards."""
    out = scratch / "trial.gguf"
    override = [] if swap is None else ["--tensor-type", override_of(*swap)]
    try:
        made = measured([programs.quantize, *override, model, out, base, str(text.threads)], text.environment)
        size = out.stat().st_size
        command: list[str | Path] = [
            programs.perplexity,
            "-m",
            out,
            *text.stock(),
            "--kl-divergence-base",
            logits,
            "--kl-divergence",
        ]
        used, found = stock_divergence(command, text.environment)
    finally:
        out.unlink(missing_ok=True)
    return StockTrial(swap, made, used, found["Mean PPL(Q)"].value, found["Mean KLD"].value, size)


def override_of(tensor: str, kind: str) -> str:
    """The override that hits this tensor alone: llama.cpp takes the name as an unanchored pattern."""
    return f"^{tensor.replace('.', chr(92) + '.')}$={kind.lower()}"


def stock_divergence(
    command: Sequence[str | Path], environment: Mapping[str, str], attempts: int = 5
) -> tuple[Usage, dict[str, Statistic]]:
    """Again where the program's last lines were lost, as `running.run_stock` does; the last attempt's usage counts."""
    for _ in range(attempts - 1):
        used = measured(command, environment)
        try:
            return used, parse_divergence(used.output + used.messages)
        except StockOutputError:
            print("  (its last lines were lost; once more)", file=sys.stderr, flush=True)
    used = measured(command, environment)
    return used, parse_divergence(used.output + used.messages)
