"""Sections of a page on which files are compared: every figure, types by role, tokens a second, each two files."""

from __future__ import annotations

from cerebellum.report.page.html import Cell, Number, Table, listed, table
from cerebellum.report.page.parts import Section, mean_cell, nats, open_table, quiet, whole
from cerebellum.report.page.words import span
from cerebellum.report.short_names import short_names
from cerebellum.report.views import WORTH, Mean, Rate, View
from cerebellum.stats.pareto import pair_level

RANKING = (
    "Rank: 1 and the number of files that are better beyond the interval of the pair. Worth having: yes where every smaller file is worse; "
    "no: the files named are not larger and are better; not shown: those named are smaller, and this text does not show that this "
    "file is better than they are. The intervals of all pairs hold together at 95 %."
)


def figures(view: View) -> Section | None:
    """A row a file: size, divergence with its tail, agreement, perplexity, rank."""
    if not view.compared:
        return None
    rows: list[tuple[Cell, ...]] = []
    for f in view.compared:
        head: list[Cell] = [f.file, whole(f.rank), whole(f.file_bytes), Number(f"{f.bits:.3f}", f.bits)]
        kld: list[Cell] = [Number("?", None)] * 6
        if f.kld is not None:
            kld = [mean_cell(f.kld), *map(mean_cell, f.tail), nats(f.largest), _percent(f.same_top)]
        ppl = [Number(span(f.ppl, 1.0), f.ppl.estimate), Number(span(f.change, 1.0, sign=True), f.change.estimate)]
        rows.append((*head, *kld, *ppl, f.worth))
    columns = (
        "file", "rank", "bytes", "bits a weight", "KLD mean [95 %]", "median", "99 %", "99.9 %", "largest", "same top token, % [95 %]",
        "PPL [95 %]", "PPL from the reference's, % [95 %]", "worth having",
    )  # fmt: skip
    best = frozenset(i for i, f in enumerate(view.compared) if f.series == WORTH)
    notes = quiet("KLD: thousandths of a nat a token; median and the rest are of single tokens.", RANKING)
    hashes = listed([f"{f.file}: sha256 {f.sha256}" for f in view.compared])
    return Section("figures", "Every figure", "", (), table(Table(columns, rows, best), "figures") + notes + hashes)


def _percent(share: Mean | None) -> Number:
    return Number("?", None) if share is None else Number(span(share, 100.0), share.estimate)


def roles(view: View) -> Section | None:
    """Which types each role has in each file."""
    if not view.compared:
        return None
    order = list(dict.fromkeys(role for f in view.compared for role, *_ in f.types))
    names = short_names([f.file for f in view.compared])
    rows: list[tuple[Cell, ...]] = [
        (role, *(", ".join(_times(kind, n) for r, kind, n in f.types if r == role) for f in view.compared))
        for role in order
    ]
    content = open_table(Table(("role", *names), rows), "types by role")
    intro = "Coloured by the mean bits a weight of the role's tensors. Hover over a cell, or tap it."
    notes = quiet("Tensors of one dimension are left out.")
    least = 9.0 + 4.5 * len(names)
    return Section("roles", "Types by role", intro, ("roles",), content + notes, least)


def _times(kind: str, n: int) -> str:
    return f"{kind} ×{n}" if n > 1 else kind


def speed(view: View) -> Section | None:
    """Tokens a second."""
    timed = [f for f in view.compared if f.prompt and f.generation]
    if not timed:
        return None
    rows: list[tuple[Cell, ...]] = [(f.file, rate_cell(f.prompt), rate_cell(f.generation)) for f in timed]
    content = table(Table(("file", "prompt", "generation"), rows), "tokens a second")
    notes = quiet(
        *view.speed,
        "Mean ± standard deviation. Other work on the machine slows what is timed while it runs: differences of a few percent say nothing.",
    )
    return Section("speed", "Tokens a second", "More is faster.", ("speed",), content + notes)


def rate_cell(rate: Rate | None) -> Number:
    """A speed with its standard deviation."""
    if rate is None:
        return Number("?", None)
    return Number(f"{rate.mean:,.1f}" + ("" if rate.spread is None else f" ± {rate.spread:.1f}"), rate.mean)


def pairs(view: View) -> Section | None:
    """Each two files."""
    if not view.pairs:
        return None
    rows: list[tuple[Cell, ...]] = [
        (
            p.file, p.less, Number(f"{p.delta_bytes / 1e6:+,.2f}", p.delta_bytes),
            Number("?", None) if p.kld is None else Number(span(p.kld, 1e3, sign=True), p.kld.estimate),
            Number(span(p.percent, 1.0, sign=True), p.percent.estimate),
        )
        for p in view.pairs
    ]  # fmt: skip
    content = open_table(Table(("file", "less", "MB", "KLD", "PPL, %"), rows), "each two files")
    level = 100.0 * pair_level(len(view.compared))
    notes = quiet(
        f"The first less the second. Brackets: {level:.4g} % intervals, paired by chunk: those of all pairs hold together at 95 %."
    )
    return Section("pairs", "Each two files", "", (), content + notes)
