"""The tables of `benchmarks.sweep_speed`, and the same figures as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.decisions import Agreement, compare, decisions
from benchmarks.measuring import Usage
from benchmarks.ratios import Spread, ratios, spread
from benchmarks.running import relative, show
from benchmarks.stock_loop import StockLoop
from benchmarks.sweep_cases import Ready
from benchmarks.trials_write import Written

_PHASE = re.compile(r"^(?P<what>.+): (?P<done>\d+) of \d+ in (?P<seconds>[\d.]+) s$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ours:
    """A whole `cerebellum sweep`: what it took and what it printed."""

    usage: Usage
    result: Mapping[str, Any]

    @property
    def tensor_types(self) -> list[tuple[str, str]]:
        """(tensor, type) of every trial."""
        return [(row["tensor"], row["to_type"]) for row in self.result["sweep"]]

    @property
    def base_bytes(self) -> int:
        return int(self.result["facts"]["base"]["file_bytes"])

    @property
    def trial_seconds(self) -> float:
        """Seconds of one trial: those of all trials, as the progress tells them, over their number."""
        return phase_seconds(self.usage.messages, "sweep", "race") / len(self.result["sweep"])


@dataclass(frozen=True, slots=True)
class Round:
    """One alternation: ``ours`` or a ``race``; ``whole`` says what the whole text decides."""

    stock: StockLoop
    ours: Ours | None
    race: Ours | None
    whole: Ours


def phase_seconds(messages: str, *kinds: str) -> float:
    """Seconds of the work whose name begins with one of ``kinds``, summed up from what the progress said. Raises ValueError."""
    found = [float(m["seconds"]) for m in _PHASE.finditer(messages) if m["what"].startswith(kinds)]
    if not found:
        raise ValueError(f"the progress tells of no {' or '.join(kinds)}; it ends:\n{messages[-400:]}")
    return sum(found)


def figures(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Name → the figure over all rounds; times in seconds, sizes in MB."""
    pairs = [(r.stock, r.ours) for r in rounds if r.ours is not None]
    stock, ours = [s for s, _ in pairs], [o for _, o in pairs]
    found = {"stock loop, s": spread([r.stock.seconds for r in rounds])}
    if ours:
        found |= beside_sweep(stock, ours)
    races = [(r.race, r.stock) for r in rounds if r.race is not None]
    if races:
        found["race, s"] = spread([race.usage.seconds for race, _ in races])
        found["stock ÷ race"] = spread([s.seconds / race.usage.seconds for race, s in races])
        found["stock ÷ race, processor time"] = spread([s.cpu_seconds / race.usage.cpu_seconds for race, s in races])
    return found


def beside_sweep(stock: Sequence[StockLoop], ours: Sequence[Ours]) -> dict[str, Spread]:
    """The stock loop beside a sweep over the same text."""
    trials = [spread([t.seconds for t in s.trials]).median for s in stock]
    return {
        "sweep, s": spread([o.usage.seconds for o in ours]),
        "stock ÷ sweep": ratios([s.seconds for s in stock], [o.usage.seconds for o in ours]),
        "stock ÷ sweep, processor time": ratios([s.cpu_seconds for s in stock], [o.usage.cpu_seconds for o in ours]),
        "stock trial, s": spread(trials),
        "of it llama-quantize, %": spread([100 * t.quantize.seconds / t.seconds for s in stock for t in s.trials]),
        "sweep's trial, s": spread([o.trial_seconds for o in ours]),
        "stock ÷ sweep, trials alone": ratios(trials, [o.trial_seconds for o in ours]),
        **sizes(stock, ours),
    }


def sizes(stock: Sequence[StockLoop], ours: Sequence[Ours]) -> dict[str, Spread]:
    """Memory and bytes written, MB."""
    return {
        "peak memory, stock loop, MB": spread([s.resident / 1e6 for s in stock]),
        "peak memory, sweep with its base, reference and noise floor, MB": spread(
            [o.usage.resident / 1e6 for o in ours]
        ),
        "written by the stock loop, MB": spread([s.written / 1e6 for s in stock]),
        "written by the sweep (base, reference, database), MB": spread([o.usage.written / 1e6 for o in ours]),
    }


def differences(rounds: Sequence[Round]) -> tuple[float, float]:
    """Largest relative difference of a trial's perplexity, and of its KL divergence, between the two programs."""
    worst = [0.0, 0.0]
    for r in rounds:
        ours = {(row["tensor"], row["to_type"]): row["summary"] for row in rounds[0].whole.result["sweep"]}
        for trial in r.stock.trials:
            assert trial.swap is not None
            summary = ours[trial.swap]
            kld = summary["divergence"]["mean"]["estimate"]
            worst[0] = max(worst[0], abs(relative(summary["perplexity"], trial.perplexity)))
            worst[1] = max(worst[1], abs(relative(kld, trial.kld)))
    return worst[0], worst[1]


def agreements(rounds: Sequence[Round]) -> list[tuple[float, Agreement]]:
    """Per race: share of the text it measured, what it kept of the decisions."""
    found = []
    for r in rounds:
        if r.race is not None:
            raced = decisions(r.race.result)
            found.append((raced.share, compare(decisions(r.whole.result), raced)))
    return found


def show_rounds(case: Ready, rounds: Sequence[Round]) -> dict[str, Any]:
    """Print the comparison; all of it as plain data."""
    first, found = rounds[0], figures(rounds)
    n, run = first.stock.n_trials, len(first.stock.trials)
    text = f"{case.text.chunks} chunks of {case.text.ctx} tokens, {case.text.threads} threads"
    if case.text.repack:
        text += "; stock programs with repacked weights"
    base = f"base {case.case.base} ({rounds[0].whole.base_bytes / 1e6:,.1f} MB)"
    print(f"{case.model.name} ({case.model.stat().st_size / 1e6:,.1f} MB), {base}")
    print(f"{n} trials ({case.case.role} at {case.case.to}), {text}; {len(rounds)} alternations")
    if run < n:
        print(
            f"Of the stock loop's {n} trials {run} were run in each alternation; the others are counted as their mean."
        )
    rows = [(name, f"{x.median:,.2f}", f"{x.low:,.2f}", f"{x.high:,.2f}") for name, x in found.items()]
    show("", ("", "median", "least", "largest"), rows)
    perplexity, kld = differences(rounds)
    print(
        f"Trials by both programs: perplexity differs by {perplexity:.1e} at most, KL divergence by {kld:.1e} (relative)."
    )
    races = agreements(rounds)
    for share, kept in races:
        print(
            f"Race: {100 * share:.1f} % of the text measured; of {kept.chosen} tensors that the whole text chooses {kept.chosen_too}, "
            f"and {kept.others} others; of {kept.clear} verdicts on the whole text {kept.same} the same word, {kept.same_way} the same way "
            f"by KL divergence, {kept.opposite} opposite."
        )
    return {
        "model": case.model.name,
        "what": text,
        "figures": {name: asdict(x) for name, x in found.items()},
        "perplexity_difference": perplexity,
        "kld_difference": kld,
        "races": [{"share": share, **asdict(kept)} for share, kept in races],
        "rounds": [_round(r) for r in rounds],
    }


def _round(r: Round) -> dict[str, Any]:
    stock = [r.stock.base, *r.stock.trials]
    return {
        "stock_logits": r.stock.logits.figures(),
        "stock_trials": [
            {"swap": t.swap, "quantize": t.quantize.figures(), "measure": t.measure.figures()} for t in stock
        ],
        "ours": r.ours and r.ours.usage.figures(),
        "race": r.race and r.race.usage.figures(),
    }


def show_written(case: Ready, found: Written) -> dict[str, Any]:
    """Print what the trials wrote and held; the same as plain data."""
    usage = found.usage
    rows = [
        ("sent to storage by the engine that runs the trials", f"{found.engine:,}"),
        ("growth of the study's database", f"{found.database:,}"),
        ("its journal, at most", f"{found.journal:,}"),
        ("sent to storage by the commanding process (database and journal, pages rewritten)", f"{found.process:,}"),
        ("files beside the database", ", ".join(f"{name} {size:,}" for name, size in found.others.items()) or "none"),
        ("peak memory while trials run, both processes", f"{usage.resident:,}"),
        ("of it not pages of files", f"{usage.anonymous:,}"),
    ]
    show(f"{case.model.name}: what trials write and hold", ("", "bytes"), rows)
    data = {**asdict(found), "usage": usage.figures()}
    return data
