"""Peak memory of a sweep beside that of merely measuring the base and the states that it keeps, and beside the size of the files.

python -m benchmarks.peak_memory MODEL --text FILE [--base Q3_K_M] [--role ffn_gate] [--to Q2_K] [--ctx 512] [--chunks 4]

Peaks are the kernel's own (VmHWM) of llama.cpp's process and of the process that commands it, read while both run. The states are computed
from the graphs, not measured. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.running import OURS, CommandFailedError, show
from cerebellum.allocation.plan import select_tensors, single_trial
from cerebellum.domain import TensorType
from cerebellum.gguf.types import fallback_type
from cerebellum.llamacpp.protocol import Settings


@dataclass(frozen=True)
class Peaks:
    """Peak resident bytes of the commanding process and of the largest of its engines."""

    parent: int
    engine: int


def peaks_of(command: list[str]) -> Peaks:
    """Run a command to its end and watch it and its children. Raises CommandFailedError."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        parent = engine = 0
        while process.poll() is None:
            parent = max(parent, high_water(process.pid))
            engine = max([engine, *map(high_water, children(process.pid))])
            time.sleep(0.02)
        if process.returncode:
            errors.seek(0)
            raise CommandFailedError(errors.read()[-1500:])
    return Peaks(parent, engine)


def high_water(pid: int) -> int:
    """A process's peak resident set in bytes; 0 when it's gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    try:
        return [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def state_bytes(base: Path, given: argparse.Namespace) -> int:
    """What a sweep with these options keeps of the base's pass, at most at once."""
    from cerebellum.llamacpp.trial.engine import LlamaEngine
    from cerebellum.llamacpp.trial.sweep import TrialSweep, captured_of, in_parts

    engine = LlamaEngine(base, Settings(n_ctx=int(given.ctx)))
    decoder, tensors = engine.decoder, select_tensors(engine.model_file, given.role.split(","))
    used = [tensor for tensor in tensors if engine.addresses(tensor.name)]
    trials = [single_trial(TensorType(t.name, fallback_type(given.to, t.row_length).name)) for t in used]
    corpus = engine.corpus(given.text.name, given.text.read_text(encoding="utf-8"), int(given.ctx))
    bundles = decoder.bundles(corpus.chunks(range(int(given.chunks))), len(trials))
    sweep = TrialSweep(engine, decoder, trials)
    parts = in_parts(decoder, bundles, [sweep.starts_on(bundle) for bundle in bundles])
    kept = max(
        sum(decoder.state_bytes(b)(captured_of(s)) for b, s in zip(part.bundles, part.starts, strict=True))
        for part in parts
    )
    engine.close()
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--text", type=Path, required=True)
    for name, default in (("base", "Q3_K_M"), ("role", "ffn_gate"), ("to", "Q2_K"), ("ctx", "512"), ("chunks", "4")):
        parser.add_argument(f"--{name}", default=default)
    given = parser.parse_args()
    size = ["--text", str(given.text), "--ctx", given.ctx, "--chunks", given.chunks, "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.gguf"
        subprocess.run([*OURS, "quantize", str(given.model), given.base, "--out", str(base), "--quiet"], check=True)
        bare = peaks_of([*OURS, "perplexity", str(base), *size])
        # Twice: the first one also quantizes the base and opens the reference; the second one only sweeps other blocks.
        options = ["--base", given.base, "--role", given.role, "--to", given.to, "--out", f"{folder}/study", *size]
        first = peaks_of([*OURS, "sweep", str(given.model), *options, "--blocks", "0"])
        sweep = peaks_of([*OURS, "sweep", str(given.model), *options])
        base_bytes, states = base.stat().st_size, state_bytes(base, given)
    rows = [
        (name, f"{p.engine / 1e6:,.1f}", f"{p.engine / bare.engine:.3f}", f"{p.parent / 1e6:,.1f}")
        for name, p in (
            ("perplexity of the base", bare),
            ("study begun (reference, noise floor as F32)", first),
            ("sweep", sweep),
        )
    ]
    extra = sweep.engine - bare.engine
    show(
        f"{given.model.name}: {given.model.stat().st_size / 1e6:,.1f} MB, base {given.base} {base_bytes / 1e6:,.1f} MB; "
        f"the sweep's engine takes {extra / 1e6:+.1f} MB against perplexity alone: a chunk's reference rows, what is swapped, and pages of "
        "the source that were read",
        ("peak resident memory", "engine, MB", "÷ perplexity's", "parent, MB"),
        rows,
    )
    total = bare.engine + states
    print(
        f"Perplexity's engine and the states of the sweep's trials ({states / 1e6:,.1f} MB): {total / 1e6:,.1f} MB; the "
        f"sweep's engine takes {sweep.engine / total:.3f} of that."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
