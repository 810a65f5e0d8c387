"""The page's sections from a `View`: words and tables; charts and pictures are put in by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cerebellum.gguf.types import STORED
from cerebellum.report.page import compared
from cerebellum.report.page.html import Cell, Number, Table, code, folded, listed, table, text
from cerebellum.report.page.parts import Section, block_cell, mean_cell, nats, number, open_table, quiet, whole
from cerebellum.report.page.words import span
from cerebellum.report.views import OURS, SHUFFLED, WORTH, View
from cerebellum.stats.verdicts import MILLI

KLD = "KL divergence to the reference, thousandths of a nat a token; lower is nearer to the reference."


def sections(view: View) -> list[Section]:
    """Those that there is something to show in, in the page's order."""
    makers = (
        frontier, compared.figures, types, compared.roles, prediction, sweep, validity, compared.speed, compared.pairs, bench, sizes,
        commands,
    )  # fmt: skip
    return [section for maker in makers if (section := maker(view)) is not None]


# -- one by one --------------------------------------------------------------------------------------------------------


def frontier(view: View) -> Section | None:
    if not view.points:
        return None
    points = sorted(view.points, key=lambda p: (p.series == SHUFFLED, p.kld.estimate))
    rows: list[tuple[Cell, ...]] = [
        (p.label, p.series, Number(f"{p.file_bytes / 1e6:,.2f}", p.file_bytes), mean_cell(p.kld), p.verdict)
        for p in points
    ]
    ours = frozenset(i for i, p in enumerate(points) if p.series in (OURS, WORTH))
    columns = ("file or set", "kind", "MB", "KLD [95 %]", "against the stock file")
    judged = any(p.verdict for p in points)
    content = Table(columns if judged else columns[:4], rows if judged else [row[:4] for row in rows], ours)
    parts = [
        folded_sizes(view),
        open_table(content, "KL divergence and bytes"),
        listed(view.more),
        quiet(view.report_text, KLD),
    ]
    if any(p.series == SHUFFLED for p in view.points):
        parts.append(
            quiet(
                "Shuffled: the recipe's types dealt anew within each role, on fewer chunks; shown is the stock file's KL divergence times "
                "their share of it."
            )
        )
    return Section(
        "frontier", "KL divergence against bytes", "Below and to the left is better.", ("frontier",), "".join(parts)
    )


def folded_sizes(view: View) -> str:
    """Of a ladder: each size's five lines, and the way to its own page."""
    parts = []
    for size in view.sizes:
        link = (
            f'<p><a href="{text(size.label)}/report.html">The page of {text(size.label)}</a></p>'
            if is_folder(size.label)
            else ""
        )
        parts.append(folded(f"{size.label}: {size.file}, {size.file_bytes:,} bytes", listed(size.verdict) + link))
    return "".join(parts)


def is_folder(label: str) -> bool:
    """Whether a label can be a folder's name in a link: nothing in it leads elsewhere."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", label) is not None


def types(view: View) -> Section | None:
    sets = [(s.label, s.cells) for s in view.sizes] or [("", view.cells)]
    if not any(cells for _, cells in sets):
        return None
    several, fitted = bool(view.sizes), any(c.slope for _, cells in sets for c in cells)
    columns = ["tensor", "role", "block", "type", "stock type", "bits a weight", "bytes", "stock bytes"]
    columns += ["slope [90 %]", "predicted damage", "at the stock type", "anchors"] if fitted else []
    rows: list[tuple[Cell, ...]] = []
    for label, cells in sets:
        for c in cells:
            bits = STORED[c.type].bits_per_weight
            row: list[Cell] = [label] if several else []
            row += [c.tensor.removesuffix(".weight"), c.role, block_cell(c.block), c.type, c.stock_type, number(bits)]
            row += [whole(c.n_bytes), whole(c.stock_bytes)]
            if fitted:
                row.append(Number(span(c.slope, 1.0), c.slope.estimate) if c.slope else Number("?", None))
                row += [nats(c.damage), nats(c.stock_damage), whole(c.n_anchors)]
            rows.append(tuple(row))
    content = Table((*(["size"] if several else []), *columns), rows)
    notes = [
        "Slope: nats a token for a unit of weight error, with its 90 % interval. Predicted damage: slope times weight error, the KL "
        "divergence expected of this tensor alone, thousandths of a nat a token. Anchors: measured effects of this tensor."
    ] * fitted
    widest = max((c.block or 0 for _, cells in sets for c in cells), default=0) + 2
    least = 9.0 + widest * (1.7 if widest <= 33 else 0.9)
    intro = "Each cell is a tensor. Hover over it, or tap it, for its figures."
    return Section(
        "types", "Types by role and block", intro, ("types",), open_table(content, "tensors") + quiet(*notes), least
    )


def prediction(view: View) -> Section | None:
    if not view.effects and not view.recipes:
        return None
    parts = []
    if view.recipes:
        rows: list[tuple[Cell, ...]] = [
            (
                r.name,
                Number("", None) if r.file_bytes is None else whole(r.file_bytes),
                nats(r.predicted),
                nats(r.measured),
                "kept" if r.kept else "",
            )
            for r in view.recipes
        ]
        kept = frozenset(i for i, r in enumerate(view.recipes) if r.kept)
        parts.append(table(Table(("recipe", "bytes", "KLD predicted", "KLD measured", ""), rows, kept), "recipes"))
    if view.effects:
        effects: list[tuple[Cell, ...]] = [
            (e.tensor.removesuffix(".weight"), e.type, nats(e.predicted), nats(e.measured), nats(e.std_error))
            for e in view.effects
        ]
        parts.append(
            open_table(Table(("tensor", "to type", "predicted", "measured", "s.e."), effects), "single tensors")
        )
    unseen = sum(e.predicted <= 0.0 or e.measured <= 0.0 for e in view.effects)
    notes = [view.search_text, "Changes of mean KL divergence, thousandths of a nat a token."]
    if view.effects:
        notes.append(
            "A single tensor's effect is predicted from the other measurements alone; bars are one standard error."
        )
    if unseen:
        notes.append(
            f"{unseen} of {len(view.effects)} effects are zero or below, which a logarithmic axis can't show; the table has them."
        )
    if known := [(rule, rank) for rule, rank in view.ranks if rank is not None]:
        notes.append(
            "Rank correlation with the measured effects: "
            + ", ".join(f"{rule} {rank:.2f}" for rule, rank in known)
            + "."
        )
    intro = "On the dashed line a prediction is exact."
    return Section("prediction", "Predicted against measured", intro, ("prediction",), "".join(parts) + quiet(*notes))


def sweep(view: View) -> Section | None:
    if not view.singles and not view.failed:
        return None
    rows: list[tuple[Cell, ...]] = []
    for s in view.singles:
        row: list[Cell] = [
            s.tensor.removesuffix(".weight"),
            s.role,
            block_cell(s.block),
            f"{s.from_type} → {s.to_type}",
        ]
        row += [
            Number(f"{s.delta_bytes:+,}", s.delta_bytes),
            Number(span(s.percent, 1.0, sign=True), s.percent.estimate),
        ]
        if s.kld:
            row.append(Number(span(s.kld, MILLI, sign=True), s.kld.estimate))
        rows.append((*row, s.verdict, "chosen" if s.chosen else ""))
    kld = ("KLD change [95 %]",) if any(s.kld for s in view.singles) else ()
    columns = ("tensor", "role", "block", "type", "bytes", "PPL change, % [95 %]", *kld, "verdict", "")
    chosen = frozenset(i for i, s in enumerate(view.singles) if s.chosen)
    failed = (
        folded(f"{len(view.failed)} trials failed", listed([f"{label}: {reason}" for label, reason in view.failed]))
        if view.failed
        else ""
    )
    many = len({s.role for s in view.singles}) > 1
    intro = "Each tensor alone at another type, with its 95 % interval." + (" Choose a role." if many else "")
    html = open_table(Table(columns, rows, chosen), "trials of the sweep") + failed
    html += quiet(
        view.search_text,
        "Changes from the base. Outlined, and in bold in the table: chosen." if chosen else "Changes from the base.",
    )
    blocks = max((s.block or 0 for s in view.singles), default=0) + 1
    least = max(17.0, 5.0 + 0.45 * blocks * max(1, len({s.to_type for s in view.singles})) ** 0.5)
    return Section("sweep", "The sweep, by block", intro, ("sweep",) if view.singles else (), html, least)


def validity(view: View) -> Section | None:
    if not view.rungs:
        return None
    rows: list[tuple[Cell, ...]] = [
        (r.name, number(r.ppl, f"{r.ppl:.4f}"), Number(span(r.change, 1.0, sign=True), r.change.estimate), nats(r.kld))
        for r in view.rungs
    ]
    content = Table(("file", "PPL", "from the reference's, % [95 %]", "KLD"), rows)
    intro = "Where perplexity can judge, it grows with KL divergence."
    return Section(
        "validity",
        "May perplexity judge here?",
        intro,
        ("validity",),
        quiet(view.validity) + open_table(content, "validity ladder"),
    )


def bench(view: View) -> Section | None:
    if not view.scores:
        return None
    rows: list[tuple[Cell, ...]] = [
        (s.task, s.role, whole(s.n), Number(span(s.value, 100.0, digits=1), s.value.estimate), s.unusable)
        for s in view.scores
    ]
    unusable = any(s.unusable for s in view.scores)
    columns, rows = (
        ("task", "file", "items", "score, % [95 %]", *(["unusable"] * unusable)),
        [r if unusable else r[:4] for r in rows],
    )
    parts = [table(Table(columns, rows), "scores")]
    if view.flips:
        flips: list[tuple[Cell, ...]] = [
            (
                f.task, f.new, f.old, number(f.lost, str(f.lost)), number(f.gained, str(f.gained)),
                Number(span(f.change, 100.0, digits=2, sign=True), f.change.estimate),
                number(f.p_value, None if f.p_value is None else f"{f.p_value:.2g}"), f.gate,
            )
            for f in view.flips
        ]  # fmt: skip
        heads = ("task", "file", "against", "lost", "gained", "change, points [95 %]", "McNemar's p", "gate")
        parts.append(table(Table(heads, flips), "flips"))
    parts.append(listed(view.bench))
    notes = (
        "lost, gained: items that only the other file, or only this one, got right. Intervals: Wilson's of a score, Tango's of a "
        "change."
    )
    charts = ("bench", "flips") if any(f.lost is not None for f in view.flips) else ("bench",)
    return Section("bench", "Benchmarks", "Each file on the same items.", charts, "".join(parts) + quiet(notes))


def sizes(view: View) -> Section | None:
    if not view.cells:
        return None
    sums: dict[str, list[int]] = {}
    for c in view.cells:
        row = sums.setdefault(c.role, [0, 0, 0])
        for i, n in enumerate((1, c.n_bytes, c.stock_bytes)):
            row[i] += n
    other = view.other_bytes or 0
    total = sum(r[1] for r in sums.values()) + other
    rows: list[tuple[Cell, ...]] = [
        (
            role, whole(n), whole(ours), number(100 * ours / (total or 1), f"{100 * ours / (total or 1):.1f}"), whole(stock),
            Number(f"{ours - stock:+,}", ours - stock),
        )
        for role, (n, ours, stock) in sorted(sums.items(), key=lambda item: -item[1][1])
    ]  # fmt: skip
    if other:
        share = 100 * other / (total or 1)
        rows.append(
            (
                "all else (header, norms, kept)",
                Number("", None),
                whole(other),
                number(share, f"{share:.1f}"),
                whole(other),
                Number("+0", 0),
            )
        )
    columns = ("role", "tensors", "bytes", "share, %", "stock bytes", "difference")
    return Section("bytes", "Where each byte went", "", ("bytes",), table(Table(columns, rows), "bytes by role"))


def commands(view: View) -> Section:
    parts = [f"<p>{text(c.what)}:</p>{code([c.line])}" for c in view.commands]
    if view.overrides:
        parts.append(folded(f"Overrides, for --tensor-type-file ({len(view.overrides):,} lines)", code(view.overrides)))
    return Section(
        "commands",
        "Make it again",
        "",
        (),
        "".join(parts) + "<h3>On what</h3>" + listed([line for line in (*view.facts, view.noise) if line]),
    )


def navigation(listed: Sequence[Section]) -> str:
    """Links within the page."""
    return f"<nav>{''.join(f'<a href=#{s.key}>{text(s.title)}</a>' for s in listed)}</nav>"
