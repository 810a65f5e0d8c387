"""How near KL divergence from compact reference rows comes to that over all words, in float64: bias, deviation over draws, differences.

python -m benchmarks.kld_estimate [--model FILE.gguf]... [--text FILE] [--ctx 256] [--chunks 2] [--draws 20] [--scratch FOLDER]

Each model is the reference of its own Q8_0, Q4_K_M and Q2_K. Without --model a generated one with 262,144 words is taken, whose rows are
about as flat as a base model's (the 124 most likely words leave a seventh of the probability). Beside the estimate stands what the largest
256 words and the rest lumped into one would say. The last table is of two close trials: the base, and the base with one tensor changed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.models import small, write_model
from benchmarks.running import show
from cerebellum import bundled
from cerebellum.domain import Chunk, TensorTypes, tensor_types_of
from cerebellum.gguf import model_file
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.parallel import Threads
from cerebellum.scoring.metrics import ReferenceRows, reference_rows, score_rows
from cerebellum.scoring.reference import DEFAULT_K, ReferenceStore

FTYPES = ("Q8_0", "Q4_K_M", "Q2_K")
#: Deviation of the generated model's logits: of 262,144 Gaussian ones it leaves a tenth of the probability to all but the largest 256.
FLAT = 4.6
LUMPED = 256

BACKEND = LlamaBackend()
Logits = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """A trial: nats a token. ``errors`` are the standard errors that single draws give themselves, ``found`` their means."""

    exact: float
    lumped: float
    found: Doubles
    errors: Doubles


def log_softmax(row: Logits) -> Doubles:
    wide = row.astype(np.float64)
    wide -= wide.max()
    out: Doubles = wide - np.log(np.exp(wide).sum())
    return out


def exact_and_lumped(reference: Logits, trial: Logits) -> tuple[float, float]:
    """Mean KL divergence over all words in float64, and with all but the largest as one."""
    exact, lumped = [], []
    for p_row, q_row in zip(reference, trial, strict=True):
        log_p, log_q = log_softmax(p_row), log_softmax(q_row)
        exact.append(float((np.exp(log_p) * (log_p - log_q)).sum()))
        top = np.argpartition(-log_p, LUMPED)[:LUMPED]
        p, q = np.exp(log_p), np.exp(log_q)
        rest = np.ones(len(p), np.bool_)
        rest[top] = False
        known = float((p[top] * (log_p[top] - log_q[top])).sum())
        lumped.append(known + float(p[rest].sum() * np.log(p[rest].sum() / q[rest].sum())))
    return float(np.mean(exact)), float(np.mean(lumped))


def draws(reference: Logits, n_draws: int, threads: Threads) -> Iterator[ReferenceRows]:
    """The reference's rows as they are kept, each time with other words drawn."""
    targets = np.zeros(len(reference), np.int64)
    for seed in range(n_draws):
        offsets = np.random.default_rng(seed).random(len(reference))
        yield reference_rows(reference, targets, DEFAULT_K, threads, offsets)


def compare(reference: Logits, trials: dict[str, Logits], n_draws: int, threads: Threads) -> dict[str, Compared]:
    """Every trial against the same draws."""
    n, targets = len(reference), np.zeros(len(reference), np.int64)
    found: dict[str, list[float]] = {name: [] for name in trials}
    errors: dict[str, list[float]] = {name: [] for name in trials}
    for rows in draws(reference, n_draws, threads):
        for name, trial in trials.items():
            score = score_rows(0, trial, targets, rows, threads)
            found[name].append((score.kld or 0.0) / n)
            errors[name].append((score.kld_var or 0.0) ** 0.5 / n)
    truth = {name: exact_and_lumped(reference, trial) for name, trial in trials.items()}
    return {name: Compared(*truth[name], np.array(found[name]), np.array(errors[name])) for name in trials}


def rows_of(engine: EngineProcess, chunks: list[Chunk], tensor_types: TensorTypes = ()) -> Logits:
    return np.concatenate([engine.logits(tensor_types, chunk) for chunk in chunks])


def one_changed(path: Path) -> TensorTypes:
    """The feed-forward output of the middle block, at another type than the base's."""
    model = model_file.read_model(path)
    name = f"blk.{model.n_blocks // 2}.ffn_down.weight"
    return tensor_types_of({name: "Q8_0" if model.types[name] in ("Q2_K", "Q3_K", "Q4_0") else "Q4_0"})


def logits_of(model: Path, options: argparse.Namespace, folder: Path) -> tuple[Logits, dict[str, Logits], float]:
    """The reference's rows, those of each file type and of its neighbour (``TYPE*``), and bytes a token of the reference on disk."""
    settings, text = Settings(n_ctx=options.ctx, n_threads=options.threads), options.text.read_text(encoding="utf-8")
    engine = BACKEND.open(model, settings)
    chunks = engine.corpus("text", text[: 16 * options.ctx * (options.chunks + 2)], options.ctx).chunks(
        range(options.chunks)
    )
    reference, store = rows_of(engine, chunks), ReferenceStore(folder / f"rows-{model.stem}", DEFAULT_K)
    list(engine.capture(chunks, store))
    engine.close()
    trials: dict[str, Logits] = {}
    for ftype in FTYPES:
        path = folder / f"{model.stem}-{ftype}.gguf"
        BACKEND.quantize(model, path, ftype)
        engine = BACKEND.open(path, settings, Sources(model))
        trials[ftype], trials[f"{ftype}*"] = rows_of(engine, chunks), rows_of(engine, chunks, one_changed(path))
        engine.close()
        path.unlink()
    return reference, trials, store.n_bytes / len(reference)


def tail_mass(reference: Logits) -> Doubles:
    """What the words that are kept for sure leave, of each row."""
    sure = DEFAULT_K - DEFAULT_K // 2
    return np.array([1.0 - np.sort(np.exp(log_softmax(row)))[-sure:].sum() for row in reference])


def show_model(name: str, reference: Logits, found: dict[str, Compared], n_bytes: float) -> None:
    mass = tail_mass(reference)
    print(
        f"\n{name}: {reference.shape[1]:,} words, {len(reference)} scored tokens; the {DEFAULT_K - DEFAULT_K // 2} most likely words leave "
        f"{100 * mass.mean():.1f} % of the probability (median {100 * np.median(mass):.1f} %, most {100 * mass.max():.0f} %); "
        f"{n_bytes:,.0f} bytes a token on disk"
    )
    rows = []
    for ftype in FTYPES:
        c = found[ftype]
        bias, deviation = c.found.mean() - c.exact, c.found.std(ddof=1)
        rows.append(
            (
                ftype,
                f"{c.exact:.6f}",
                f"{100 * (c.lumped / c.exact - 1):+.2f} %",
                f"{100 * bias / c.exact:+.3f} ± {100 * deviation / len(c.found) ** 0.5 / c.exact:.3f} %",
                f"{deviation:.6f} ({100 * deviation / c.exact:.2f} %)",
                f"{c.errors.mean():.6f}",
            )
        )
    columns = (
        "type",
        "KLD, float64",
        "256 and the rest lumped",
        "bias of ours",
        "deviation over draws",
        "error it gives itself",
    )
    show("mean KL divergence, nats a token", columns, rows)
    pairs = []
    for ftype in FTYPES:
        one, other = found[ftype], found[f"{ftype}*"]
        true, each = other.exact - one.exact, other.found - one.found
        right = int((np.sign(each) == np.sign(true)).sum())
        signs = f"{right} of {len(each)}"
        pairs.append((ftype, f"{true:+.6f}", f"{each.mean():+.6f}", f"{each.std(ddof=1):.6f}", signs))
    show("one tensor changed, less the base", ("base", "float64", "ours", "deviation over draws", "same sign"), pairs)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kld_estimate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", help="a reference (several: give it again)")
    parser.add_argument("--text", type=Path, default=bundled.SEARCH_TEXT, help="UTF-8 text [the bundled small world]")
    parser.add_argument("--ctx", type=int, default=256, help="tokens in a chunk (default 256)")
    parser.add_argument("--chunks", type=int, default=2, help="chunks (default 2)")
    parser.add_argument("--draws", type=int, default=20, help="draws (default 20)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="folder for models and rows")
    return parser


def main(argv: list[str] | None = None) -> int:
    options, threads = arguments().parse_args(argv), Threads.of(2)
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        models = options.model or [write_model(folder / "flat-F16.gguf", small(2, 262_144, 256), sharpness=FLAT)]
        for model in models:
            reference, trials, n_bytes = logits_of(model, options, folder)
            show_model(model.name, reference, compare(reference, trials, options.draws, threads), n_bytes)
    threads.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
