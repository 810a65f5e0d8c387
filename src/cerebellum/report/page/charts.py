"""The page's charts as Vega-Lite specifications, by Altair; needs the `report` extra. Numbers come from a `View` alone.

Colours are the page's CSS variables, so that one specification serves light, dark and paper; `cerebellum.report.page.vega` puts light
colours in for pictures outside of a page. Marks differ in shape too. Text from files is data, never part of an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from statistics import median
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from cerebellum.gguf.types import STORED
from cerebellum.quoting import name
from cerebellum.report.page.compared import rate_cell
from cerebellum.report.page.label_places import BESIDE, NARROWEST, Named, name_steps
from cerebellum.report.page.words import bits, figure, milli, short, span, with_range
from cerebellum.report.short_names import short_names
from cerebellum.report.svg import log_ticks, shade
from cerebellum.report.views import (
    CONTROL,
    DOMINATED,
    OURS,
    SHUFFLED,
    STOCK,
    UNPROVEN,
    WORTH,
    Cell,
    Compared,
    Mean,
    View,
)
from cerebellum.stats.verdicts import MILLI

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
#: A chart of named data, and the data.
Drawn = tuple[Any, dict[str, Rows]]

#: CSS variables of the page.
INK, QUIET, LINE, BACK = "var(--ink)", "var(--quiet)", "var(--line)", "var(--back)"
COLOURS = {
    OURS: "var(--ours)", STOCK: "var(--stock)", CONTROL: "var(--control)", SHUFFLED: "var(--shuffled)",
    WORTH: "var(--ours)", UNPROVEN: "var(--shuffled)", DOMINATED: "var(--stock)",
}  # fmt: skip
SHAPES = {
    OURS: "circle", STOCK: "square", CONTROL: "diamond", SHUFFLED: "stroke", WORTH: "circle", UNPROVEN: "diamond", DOMINATED: "square",
}  # fmt: skip
#: From this share of the width on, a mark's name stands to its left, within the chart.
RIGHT = 0.75
#: Series whose marks are joined, and those whose marks have their names beside them.
JOINED, NAMED = [OURS, STOCK, WORTH], [OURS, STOCK, WORTH, UNPROVEN, DOMINATED]
#: Marks from which on intervals are left to the table and the hover.
MANY = 800
#: Of charts whose marks have names, in points.
FRONTIER_HEIGHT, VALIDITY_HEIGHT = 380, 300
KLD_TITLE = "KL divergence, thousandths of a nat a token"


def charts(view: View, *, only: str = "", check: bool = False) -> dict[str, Spec]:
    """The specifications that there is something to draw for, by the page's names of charts; of ``only`` one where it is named. ``check``:
    against Vega-Lite's schema, which takes longer than all the rest; a test does it."""
    makers: dict[str, tuple[bool, Callable[[View], Drawn]]] = {
        "frontier": (any(p.kld.estimate > 0.0 for p in view.points), frontier),
        "types": (bool(view.cells or view.sizes), types),
        "prediction": (bool(prediction_rows(view)), prediction),
        "sweep": (bool(view.singles), sweep),
        "validity": (len(view.rungs) > 1, validity),
        "bench": (bool(view.scores), scores),
        "flips": (any(f.lost is not None for f in view.flips), flips),
        "bytes": (bool(view.cells), bytes_by_role),
        "roles": (bool(view.compared), roles),
        "speed": (any(f.generation for f in view.compared), speed),
    }
    with debug_mode(check):
        return {
            key: finished(maker(view), check) for key, (wanted, maker) in makers.items() if wanted and only in ("", key)
        }


def finished(drawn: Drawn, check: bool) -> Spec:
    """The specification in the page's style. Charts are as wide as the page lets them be.

    The data is put in afterwards: to check thousands of rows takes Altair minutes."""
    chart, data = drawn
    axis = {
        "labelColor": QUIET, "titleColor": INK, "gridColor": LINE, "domainColor": LINE, "tickColor": LINE,
        "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 240,
    }  # fmt: skip
    legend = {"labelColor": INK, "titleColor": QUIET, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}  # fmt: skip
    chart = chart.configure(background="transparent", font="system-ui, sans-serif", axis=axis, legend=legend)
    spec: Spec = chart.configure_view(stroke=None).to_dict(validate=check)
    spec |= {"autosize": {"type": "fit-x", "contains": "padding"}}
    return {**spec, "datasets": {key: [rounded(row) for row in rows] for key, rows in data.items()}}


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers with as many digits as a picture can show."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def named(data: str = "rows") -> Any:
    """A chart of the data of that name."""
    return alt.Chart(alt.NamedData(name=data))


def log_axis(values: Sequence[float], title: str) -> dict[str, Any]:
    """Keywords of a logarithmic channel that holds ``values`` (over 0), with round ticks."""
    ticks = log_ticks(min(values), max(values))
    if len(ticks) > 12:
        ticks = [t for t in ticks if f"{t:e}".startswith(("1", "9.99"))]
    ends = [min(ticks[0], *values), max(ticks[-1], *values)]
    return {
        "title": title,
        "scale": alt.Scale(type="log", domain=ends, nice=False),
        "axis": alt.Axis(values=ticks, format="~g", labelOverlap=True),
    }


def hover(*fields: str) -> list[Any]:
    """What is shown on hovering: ``field=title``; every value is a text made in Python."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, _, title in (f.partition("=") for f in fields)]


def by_series(channel: Any, used: Sequence[str], range_of: dict[str, str], **more: Any) -> Any:
    """A colour or shape by series."""
    return channel("series:N", scale=alt.Scale(domain=list(used), range=[range_of[s] for s in used]), **more)


# -- KL divergence against bytes ---------------------------------------------------------------------------------------


def frontier(view: View) -> Drawn:
    """Files and controls: bytes against KL divergence, with intervals."""
    known = [p for p in view.points if p.kld.estimate > 0.0]
    floor = 0.3 * min(p.kld.estimate for p in known) * MILLI
    ends = [f(p.file_bytes for p in known) for f in (min, max)]
    rows: Rows = [
        {
            "at_right": p.file_bytes > ends[0] + RIGHT * (ends[1] - ends[0]), "label": name(p.label), "series": p.series,
            "mb": p.file_bytes / 1e6, "kld": p.kld.estimate * MILLI,
            "low": max(milli(p.kld.low, p.kld.estimate), floor), "high": milli(p.kld.high, p.kld.estimate),
            "size": f"{p.file_bytes / 1e6:,.2f} MB", "value": with_range(p.kld), "verdict": p.verdict,
        }
        for p in known
    ]  # fmt: skip
    words = [r for r in rows if r["series"] in NAMED]
    limits = [log(v) for r in rows for v in (r["low"], r["high"])]
    place_names(words, "mb", ends[1] / 1e6 - ends[0] / 1e6, [log(r["kld"]) for r in words], limits, FRONTIER_HEIGHT)
    used = [s for s in COLOURS if any(p.series == s for p in known)]
    x = alt.X("mb:Q", title="size of the file, MB", scale=alt.Scale(zero=False, padding=24), axis=alt.Axis(tickCount=7))
    y = alt.Y("kld:Q", **log_axis([v for r in rows for v in (r["low"], r["high"])], KLD_TITLE))
    colour = by_series(
        alt.Color, used, COLOURS, legend=alt.Legend(title=None, orient="top", symbolSize=90, symbolOpacity=1)
    )
    shape = by_series(alt.Shape, used, SHAPES, legend=alt.Legend(title=None, orient="top", symbolOpacity=1))
    chart = named()
    joined = chart.transform_filter(alt.FieldOneOfPredicate("series", JOINED)).mark_line(
        strokeDash=[5, 4], strokeWidth=1, opacity=0.7
    )
    bars = chart.transform_filter("datum.high > datum.low").mark_rule(strokeWidth=2)
    faint = alt.condition(alt.FieldEqualPredicate(CONTROL, "series"), alt.value(0.35), alt.value(1))
    marks = chart.mark_point(filled=True, size=90, opacity=1, strokeWidth=2)
    tips = hover("label=", "series=series", "size=size", "value=KLD [95 %]", "verdict=against stock")
    layers = [
        joined.encode(x=x, y=y, color=colour),
        bars.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour, opacity=faint),
        marks.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
        *(text.encode(x=x, y=y, text="label:N", color=colour) for text in names_of(chart, words, fontWeight="bold")),
    ]
    if view.floor * MILLI > min(r["low"] for r in rows):
        layers.append(named("floor").mark_rule(color=QUIET, strokeDash=[2, 3]).encode(y="y:Q", tooltip=hover("what=")))
    data = {"rows": rows, "floor": [{"y": view.floor * MILLI, "what": "noise floor"}]}
    return alt.layer(*layers).properties(width="container", height=FRONTIER_HEIGHT), data


def place_names(
    rows: Rows, x: str, x_range: float, y: Sequence[float], y_limits: Sequence[float], height: float
) -> None:
    """Put into each row how far below its mark its name stands, as `step`: apart on the narrowest page. ``x`` is the rows' field, ``y``
    are their values on an even scale that holds ``y_limits``."""
    top, y_range = max(y_limits), max(y_limits) - min(y_limits)
    marks = [
        Named(
            NARROWEST * row[x] / (x_range or 1.0), height * (top - value) / (y_range or 1.0), row["label"], row.get("at_right", False)
        )
        for row, value in zip(rows, y, strict=True)
    ]  # fmt: skip
    for row, step in zip(rows, name_steps(marks), strict=True):
        row["step"] = step


def names_of(chart: Any, rows: Rows, **more: Any) -> list[Any]:
    """The names beside the marks of ``rows``: a layer for each way to stand there."""
    ways = sorted({(row.get("at_right", False), row["step"]) for row in rows})
    return [
        chart.transform_filter(alt.FieldEqualPredicate(step, "step"))
        .transform_filter("datum.at_right === true" if at_right else "datum.at_right !== true")
        .mark_text(align="right" if at_right else "left", dx=-BESIDE if at_right else BESIDE, dy=step, fontSize=12, **more)
        for at_right, step in ways
    ]  # fmt: skip


# -- types by role and block -------------------------------------------------------------------------------------------


def types(view: View) -> Drawn:
    """Role by block, coloured by the bits of the type; of a ladder one size at a time."""
    sizes = [(name(s.label), s.cells) for s in view.sizes] or [("", view.cells)]
    rows = [{**cell_row(cell), "size": label} for label, cells in sizes for cell in cells]
    every = [cell for _, cells in sizes for cell in cells]
    kinds = sorted({c.type for c in every}, key=lambda k: (STORED[k].bits_per_weight, k))
    low, high = STORED[kinds[0]].bits_per_weight, STORED[kinds[-1]].bits_per_weight
    shades = [shade(STORED[k].bits_per_weight, low, high) for k in kinds]
    blocks = sorted({c.block for c in every if c.block is not None})
    columns = ["–"] * any(c.block is None for c in every) + [str(b) for b in blocks]
    inside, outside = (sorted({c.role for c in every if (c.block is None) == alone}) for alone in (False, True))
    roles = list(dict.fromkeys([*inside, *outside]))
    chart = named()
    if view.sizes:
        pick = alt.param(
            name="size", value=sizes[0][0], bind=alt.binding_select(options=[s for s, _ in sizes], name="size: ")
        )
        chart = chart.transform_filter("datum.size == size").add_params(pick)
    x = alt.X(
        "column:O", title="block (–: outside the blocks)", sort=columns, axis=alt.Axis(labelAngle=0, labelOverlap=True)
    )
    y = alt.Y("role:N", title=None, sort=[name(r) for r in roles])
    fill = alt.Color(
        "label:N", scale=alt.Scale(domain=[bits(k) for k in kinds], range=[fill for fill, _ in shades]),
        legend=alt.Legend(title="type and its bits a weight", orient="top", symbolType="square", columns=legend_columns(len(kinds))),
    )  # fmt: skip
    tips = hover(
        "tensor=tensor", "type=type", "size_kb=bytes", "stock=stock type", "stock_kb=stock bytes", "slope=slope [90 %]",
        "damage=predicted damage", "stock_damage=at the stock type",
    )  # fmt: skip
    cells = chart.mark_rect(stroke=BACK, strokeWidth=1).encode(x=x, y=y, color=fill, tooltip=tips)
    layers = [cells]
    if len(columns) <= 33:
        ink = alt.Color("ink:N", scale=None)
        layers.append(chart_text(chart).encode(x=x, y=y, text="short:N", color=ink, tooltip=tips))
    chart = alt.layer(*layers).resolve_scale(color="independent")
    return chart.properties(width="container", height=24 * len(roles)), {"rows": rows}


def chart_text(chart: Any) -> Any:
    """Small words on cells."""
    return chart.mark_text(fontSize=10)


def legend_columns(n: int) -> int:
    """Columns of a key that a phone finds room for."""
    return min(n, 3)


def cell_row(cell: Cell) -> dict[str, Any]:
    """A cell of the heat map with what hovering shows."""
    slope = cell.slope
    return {
        "tensor": name(cell.tensor), "role": name(cell.role), "column": "–" if cell.block is None else str(cell.block),
        "type": cell.type, "label": bits(cell.type), "short": f"{STORED[cell.type].bits_per_weight:.2g}",
        "ink": "#fff" if STORED[cell.type].bits_per_weight < 5 else "#000",
        "size_kb": f"{cell.n_bytes:,}", "stock": cell.stock_type, "stock_kb": f"{cell.stock_bytes:,}",
        "slope": "not fitted" if slope is None else span(slope, 1.0),
        "damage": short(cell.damage), "stock_damage": short(cell.stock_damage),
    }  # fmt: skip


# -- predicted and measured --------------------------------------------------------------------------------------------

SINGLE_EFFECT, WHOLE_RECIPE, KEPT = "one tensor", "whole recipe", "the recipe kept"


def prediction_rows(view: View) -> Rows:
    """What has room on logarithmic axes."""
    rows: Rows = []
    for e in view.effects:
        error = e.std_error or 0.0
        rows.append({
            "series": SINGLE_EFFECT, "label": f"{name(e.tensor)} → {name(e.type)}", "x": e.predicted * MILLI, "y": e.measured * MILLI,
            "low": max(e.measured - error, 0.5 * e.measured) * MILLI, "high": (e.measured + error) * MILLI, "predicted": short(e.predicted),
            "measured": short(e.measured) + (f" ± {figure(error * MILLI, 3)}" if error else ""),
        })  # fmt: skip
    for r in view.recipes:
        rows.append({
            "series": KEPT if r.kept else WHOLE_RECIPE, "label": name(r.name), "x": r.predicted * MILLI, "y": r.measured * MILLI,
            "low": r.measured * MILLI, "high": r.measured * MILLI, "predicted": short(r.predicted), "measured": short(r.measured),
        })  # fmt: skip
    return [row for row in rows if row["x"] > 0.0 and row["y"] > 0.0]


def prediction(view: View) -> Drawn:
    """Predicted against measured, of single tensors and of whole recipes, on logarithmic axes."""
    rows = prediction_rows(view)
    values = [v for r in rows for v in (r["x"], r["y"])]
    used = [s for s in (SINGLE_EFFECT, WHOLE_RECIPE, KEPT) if any(r["series"] == s for r in rows)]
    colours = {SINGLE_EFFECT: "var(--shuffled)", WHOLE_RECIPE: "var(--stock)", KEPT: "var(--ours)"}
    shapes = {SINGLE_EFFECT: "circle", WHOLE_RECIPE: "square", KEPT: "diamond"}
    x = alt.X("x:Q", **log_axis(values, "predicted, thousandths of a nat a token"))
    y = alt.Y("y:Q", **log_axis(values, "measured"))
    key = alt.Legend(title=None, orient="top")
    marks = named().mark_point(filled=True, strokeWidth=0).encode(
        x=x, y=y, color=by_series(alt.Color, used, colours, legend=key), shape=by_series(alt.Shape, used, shapes, legend=key),
        size=alt.condition(alt.FieldEqualPredicate(SINGLE_EFFECT, "series"), alt.value(34), alt.value(110)),
        opacity=alt.condition(alt.FieldEqualPredicate(SINGLE_EFFECT, "series"), alt.value(0.75), alt.value(1)),
        tooltip=hover("label=", "series=what", "predicted=predicted", "measured=measured ± s.e."),
    )  # fmt: skip
    equal = named("equal").mark_line(color=QUIET, strokeDash=[5, 4], strokeWidth=1).encode(x=x, y=y)
    layers = [equal, marks]
    if len(rows) <= MANY:
        bars = named().mark_rule(color="var(--shuffled)", opacity=0.5)
        layers.insert(1, bars.encode(x=x, y=alt.Y("low:Q"), y2="high:Q"))
    data = {"rows": rows, "equal": [{"x": v, "y": v} for v in (min(values), max(values))]}
    return alt.layer(*layers).properties(width="container", height=400), data


# -- the sweep ---------------------------------------------------------------------------------------------------------

#: Colours of types in a sweep, told apart by colour-blind readers (Okabe and Ito); further ones repeat with another shape.
TYPE_COLOURS = ("var(--ours)", "var(--stock)", "var(--control)", "var(--pink)", "var(--yellow)", "var(--shuffled)")
TYPE_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


def sweep(view: View) -> Drawn:
    """Each trial of a role by block, with intervals, coloured by the type tried; a role at a time where there are several."""
    by_kld = all(s.kld for s in view.singles)
    scale = MILLI if by_kld else 1.0
    rows: Rows = []
    for s in view.singles:
        change = s.kld if by_kld and s.kld else s.percent
        rows.append({
            "role": name(s.role), "column": "–" if s.block is None else str(s.block), "type": name(s.to_type), "y": change.estimate * scale,
            "low": scaled(change.low, change, scale), "high": scaled(change.high, change, scale),
            "label": f"{name(s.tensor)}: {name(s.from_type)} → {name(s.to_type)}", "value": span(change, scale, sign=True),
            "ppl": span(s.percent, 1.0, sign=True), "bytes": f"{s.delta_bytes:+,}", "verdict": s.verdict,
            "chosen": "chosen" if s.chosen else "",
        })  # fmt: skip
    roles, kinds = list(dict.fromkeys(r["role"] for r in rows)), list(dict.fromkeys(r["type"] for r in rows))
    blocks = sorted({s.block for s in view.singles if s.block is not None})
    chart = named()
    if len(roles) > 1:
        pick = alt.param(
            name="role", value=first_role(view, roles), bind=alt.binding_select(options=roles, name="role: ")
        )
        chart = chart.transform_filter("datum.role == role").add_params(pick)
    columns = ["–"] * any(s.block is None for s in view.singles) + [str(b) for b in blocks]
    x = alt.X("column:O", title="block", sort=columns, axis=alt.Axis(labelAngle=0, labelOverlap=True))
    title = f"change of {KLD_TITLE}" if by_kld else "change of perplexity, %"
    y = alt.Y("y:Q", title=title, **change_axis([v for r in rows for v in (r["low"], r["y"], r["high"])]))
    domain = alt.Scale(domain=kinds, range=[TYPE_COLOURS[i % len(TYPE_COLOURS)] for i in range(len(kinds))])
    shapes = alt.Scale(domain=kinds, range=[TYPE_SHAPES[i % len(TYPE_SHAPES)] for i in range(len(kinds))])
    offset: dict[str, Any] = {"xOffset": alt.XOffset("type:N", sort=kinds)} if len(kinds) > 1 else {}
    key = alt.Legend(title="type", orient="top", columns=5)
    tips = hover("label=", "value=change [95 %]", "ppl=perplexity, %", "bytes=bytes", "verdict=verdict", "chosen=")
    bars = chart.mark_rule(strokeWidth=1.6).encode(
        x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=alt.Color("type:N", scale=domain, legend=key), **offset
    )
    marks = chart.mark_point(filled=True, size=60, opacity=1).encode(
        x=x, y=y, color=alt.Color("type:N", scale=domain, legend=key), shape=alt.Shape("type:N", scale=shapes, legend=key), tooltip=tips,
        stroke=alt.condition(alt.FieldEqualPredicate("chosen", "chosen"), alt.value(INK), alt.value(None)), **offset,
    )  # fmt: skip
    zero = named("zero").mark_rule(color=QUIET).encode(y="y:Q")
    return alt.layer(zero, bars, marks).properties(width="container", height=340), {"rows": rows, "zero": [{"y": 0}]}


#: Where the largest change is so many times the usual one, the axis is logarithmic on both sides of zero.
SKEWED = 30.0


def change_axis(values: Sequence[float]) -> dict[str, Any]:
    """Keywords of a channel of changes: linear, or where a few changes dwarf all others linear near zero and logarithmic beyond."""
    sizes = [abs(v) for v in values if v]
    usual, largest = (median(sizes), max(sizes)) if sizes else (1.0, 1.0)
    if largest <= SKEWED * usual:
        return {}
    ticks = [t for t in log_ticks(usual, largest) if f"{t:e}".startswith(("1", "9.99"))]
    marks = [*(-t for t in ticks if min(values) < -0.3 * t), 0.0, *ticks]
    return {
        "scale": alt.Scale(type="symlog", constant=usual),
        "axis": alt.Axis(values=marks, format="~g", labelOverlap=True),
    }


def first_role(view: View, roles: Sequence[str]) -> str:
    """The role with the most trials: what a reader most likely wants to see first."""
    counts = {role: sum(name(s.role) == role for s in view.singles) for role in roles}
    return max(roles, key=lambda role: counts[role])


def scaled(limit: float | None, mean: Mean, scale: float) -> float:
    """A limit, or the estimate where it isn't known."""
    return (mean.estimate if limit is None else limit) * scale


# -- validity, benchmarks, bytes ---------------------------------------------------------------------------------------


def validity(view: View) -> Drawn:
    """Perplexity against KL divergence: where perplexity can judge, the one grows with the other."""
    most = max(r.kld for r in view.rungs)
    rows: Rows = [
        {
            "label": name(r.name), "at_right": r.kld > RIGHT * most, "kld": r.kld * MILLI, "y": r.change.estimate,
            "low": scaled(r.change.low, r.change, 1.0), "high": scaled(r.change.high, r.change, 1.0),
            "ppl": f"{r.ppl:.4f}", "value": span(r.change, 1.0, sign=True),
            "kl": short(r.kld),
        }
        for r in view.rungs
    ]  # fmt: skip
    klds, limits = [r["kld"] for r in rows], [v for r in rows for v in (r["low"], r["high"])]
    place_names(rows, "kld", max(klds) - min(klds), [r["y"] for r in rows], limits, VALIDITY_HEIGHT)
    x = alt.X("kld:Q", title=KLD_TITLE, scale=alt.Scale(padding=20))
    y = alt.Y("y:Q", title="perplexity, % from the reference's", scale=alt.Scale(padding=20))
    chart = named()
    tips = hover("label=", "ppl=perplexity", "value=change, % [95 %]", "kl=KLD")
    marks = chart.mark_point(filled=True, size=80, opacity=1, color=COLOURS[OURS]).encode(x=x, y=y, tooltip=tips)
    bars = chart.mark_rule(strokeWidth=2, color=COLOURS[OURS]).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    words = [text.encode(x=x, y=y, text="label:N") for text in names_of(chart, rows, color=INK)]
    return alt.layer(bars, marks, *words).properties(width="container", height=VALIDITY_HEIGHT), {"rows": rows}


ROLE_COLOURS = {"file": "var(--ours)", "base": "var(--stock)", "reference": "var(--control)"}
ROLE_SHAPES = {"file": "circle", "base": "square", "reference": "diamond"}


def scores(view: View) -> Drawn:
    """Each file's score on each task, with its interval."""
    rows: Rows = [
        {
            "task": name(s.task), "series": name(s.role), "x": 100 * s.value.estimate, "low": scaled(s.value.low, s.value, 100.0),
            "high": scaled(s.value.high, s.value, 100.0), "value": span(s.value, 100.0, digits=1), "n": f"{s.n:,}",
        }
        for s in view.scores
        if not s.unusable
    ]  # fmt: skip
    used = list(dict.fromkeys(r["series"] for r in rows))
    colours = {role: ROLE_COLOURS.get(role, "var(--shuffled)") for role in used}
    shapes = {role: ROLE_SHAPES.get(role, "cross") for role in used}
    x = alt.X("x:Q", title="score, %", scale=alt.Scale(zero=False, padding=10))
    y, offset = alt.Y("task:N", title=None, sort=None), alt.YOffset("series:N", sort=used)
    chart, key = named(), alt.Legend(title=None, orient="top")
    bars = chart.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="score, %"),
        x2="high:Q",
        y=y,
        yOffset=offset,
        color=by_series(alt.Color, used, colours, legend=key),
    )
    marks = chart.mark_point(filled=True, size=80, opacity=1).encode(
        x=x, y=y, yOffset=offset, color=by_series(alt.Color, used, colours, legend=key),
        shape=by_series(alt.Shape, used, shapes, legend=key),
        tooltip=hover("task=task", "series=file", "value=score, % [95 %]", "n=items"),
    )  # fmt: skip
    chart = alt.layer(bars, marks).properties(width="container", height=22 * len(rows))
    return chart, {"rows": rows}


def flips(view: View) -> Drawn:
    """Answers lost (to the left) and gained (to the right)."""
    rows: Rows = []
    for f in view.flips:
        if f.lost is not None and f.gained is not None:
            what = f"{name(f.task)}: {name(f.new)} against {name(f.old)}"
            tips = {
                "what": what,
                "change": span(f.change, 100.0, digits=2, sign=True),
                "p": "?" if f.p_value is None else f"{f.p_value:.2g}",
            }
            rows.append({**tips, "series": "lost", "n": -f.lost, "count": str(f.lost)})
            rows.append({**tips, "series": "gained", "n": f.gained, "count": str(f.gained)})
    colours = {"lost": "var(--stock)", "gained": "var(--ours)"}
    x = alt.X(
        "n:Q",
        title="answers lost (left) and gained (right)",
        axis=alt.Axis(tickMinStep=1, labelExpr="abs(datum.value)"),
    )
    key = alt.Legend(title=None, orient="top")
    chart = named().mark_bar().encode(
        x=x, y=alt.Y("what:N", title=None, sort=None), color=by_series(alt.Color, list(colours), colours, legend=key),
        tooltip=hover("what=", "series=", "count=items", "change=change, points [95 %]", "p=McNemar's p"),
    ).properties(width="container", height=26 * len({row["what"] for row in rows}))  # fmt: skip
    return chart, {"rows": rows}


def bytes_by_role(view: View) -> Drawn:
    """How many bytes each role takes in this file and in the stock file."""
    sums: dict[str, list[int]] = {}
    for cell in view.cells:
        both = sums.setdefault(name(cell.role), [0, 0])
        both[0] += cell.n_bytes
        both[1] += cell.stock_bytes
    if view.other_bytes:
        sums["all else"] = [view.other_bytes, view.other_bytes]
    total = [sum(both[i] for both in sums.values()) or 1 for i in (0, 1)]
    order = sorted(sums, key=lambda role: -sums[role][0])
    rows: Rows = [
        {
            "role": role, "series": series, "mb": sums[role][i] / 1e6, "n": f"{sums[role][i]:,}",
            "share": f"{100 * sums[role][i] / total[i]:.1f} %",
        }
        for role in order
        for i, series in ((0, OURS), (1, STOCK))
    ]  # fmt: skip
    used = [OURS, STOCK]
    chart = named().mark_bar().encode(
        x=alt.X("mb:Q", title="MB of the file", axis=alt.Axis(tickCount=6)), y=alt.Y("role:N", title=None, sort=order),
        yOffset=alt.YOffset("series:N", sort=used),
        color=by_series(alt.Color, used, COLOURS, legend=alt.Legend(title=None, orient="top")),
        tooltip=hover("role=role", "series=file", "n=bytes", "share=share of the file"),
    ).properties(width="container", height=13 * len(rows))  # fmt: skip
    return chart, {"rows": rows}


# -- files compared ----------------------------------------------------------------------------------------------------


def roles(view: View) -> Drawn:
    """Role by file, coloured by the mean bits a weight of the role's tensors."""
    names = short_names([f.file for f in view.compared])
    rows: Rows = [
        {"file": name(label), **role_row(file, role)}
        for label, file in zip(names, view.compared, strict=True)
        for role in dict.fromkeys(r for r, *_ in file.types)
    ]
    order = list(dict.fromkeys(row["role"] for row in rows))
    ends = [min(row["bits"] for row in rows), max(row["bits"] for row in rows)]
    for row in rows:
        row["fill"], row["ink"] = shade(row["bits"], *ends)
    x = alt.X("file:N", title=None, sort=[name(label) for label in names], axis=alt.Axis(labelAngle=0, orient="top"))
    y = alt.Y("role:N", title=None, sort=order)
    tips = hover("file=file", "role=role", "types=types", "short=bits a weight, mean")
    cells = named().mark_rect(stroke=BACK, strokeWidth=1)
    layers = [
        cells.encode(x=x, y=y, color=alt.Color("fill:N", scale=None), tooltip=tips),
        chart_text(named()).encode(x=x, y=y, text="short:N", color=alt.Color("ink:N", scale=None), tooltip=tips),
    ]
    chart = alt.layer(*layers).resolve_scale(color="independent")
    return chart.properties(width="container", height=22 * len(order)), {"rows": rows}


def role_row(file: Compared, role: str) -> dict[str, Any]:
    """A role of a file: its types, and the mean bits a weight of its tensors."""
    kinds = [(kind, n) for r, kind, n in file.types if r == role]
    mean = sum(STORED[kind].bits_per_weight * n for kind, n in kinds) / (sum(n for _, n in kinds) or 1)
    return {
        "role": name(role), "types": ", ".join(f"{kind} ×{n}" for kind, n in kinds), "bits": mean, "short": f"{mean:.3g}",
    }  # fmt: skip


def speed(view: View) -> Drawn:
    """Tokens a second that are written, with the standard deviation."""
    names = short_names([f.file for f in view.compared])
    timed = [(label, f.prompt, f.generation) for label, f in zip(names, view.compared, strict=True) if f.generation]
    rows: Rows = []
    for label, read, wrote in timed:
        spread = wrote.spread or 0.0
        rows.append({
            "file": name(label), "x": wrote.mean, "low": max(wrote.mean - spread, 0.0), "high": wrote.mean + spread,
            "generation": rate_cell(wrote).text, "prompt": rate_cell(read).text,
        })  # fmt: skip
    y = alt.Y("file:N", title=None, sort=[row["file"] for row in rows])
    title = "tokens written a second, ± standard deviation"
    bars = named().mark_bar(color=COLOURS[OURS], size=13).encode(
        x=alt.X("x:Q", title=title), y=y, tooltip=hover("file=file", "generation=written a second", "prompt=read a second")
    )  # fmt: skip
    whiskers = named().mark_rule(color=INK, strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y)
    return alt.layer(bars, whiskers).properties(width="container", height=24 * len(rows)), {"rows": rows}
