"""`View` of a ``report.json``: what the page shows comes from that file and from nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cerebellum.errors import InputError
from cerebellum.gguf.types import STORED
from cerebellum.quoting import name as quoted
from cerebellum.report.grids import measured_on
from cerebellum.report.markdown import fact_lines
from cerebellum.report.noise import noise_line
from cerebellum.report.views import (
    CONTROL,
    OURS,
    SHUFFLED,
    STOCK,
    Cell,
    Command,
    Effect,
    Flips,
    Mean,
    Point,
    Recipe,
    Rung,
    Score,
    Single,
    Size,
    View,
)
from cerebellum.results import Harmless, Noise

Data = dict[str, Any]

#: The format of ``report.json`` that is read.
FORMAT = 1
#: The first five sentences of an allocation are its verdict.
HEAD = 5


def view_of(value: Any, source: str = "report.json") -> View:
    """What a ``report.json`` says. Raises `InputError`, which names ``source``, where it isn't one."""
    source = quoted(source)
    if not isinstance(value, dict) or value.get("kind") not in _READERS or "facts" not in value:
        raise InputError(f"{source} is no report of an allocation, a ladder or a sweep; `cerebellum run` writes one")
    if value.get("format") != FORMAT:
        raise InputError(
            f"{source} is a report of format {quoted(str(value.get('format')))}, this version reads {FORMAT}: take the version of "
            "cerebellum that made it, or repeat its command"
        )
    if "version" not in value:
        raise InputError(
            f"{source} was written before there were pages and lacks what one shows: repeat the command that made it; all that was "
            "measured is taken over"
        )
    try:
        return _READERS[value["kind"]](value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{source} is damaged: {quoted(f'{type(error).__name__} {error}')}") from error


# -- numbers -----------------------------------------------------------------------------------------------------------


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise TypeError(f"{value!r} is no count")
    return value


def _maybe(value: Any) -> float | None:
    return None if value is None else _number(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(map(_text, values))


def _mean(value: Data, scale: Callable[[float], float] = float) -> Mean:
    low, high = (None if value[k] is None else scale(_number(value[k])) for k in ("low", "high"))
    return Mean(scale(_number(value["estimate"])), low, high)


def _percent(log_ratio: float) -> float:
    """Of a change of mean NLL that of perplexity, percent; a limit beyond all numbers is refused as damage."""
    return 100.0 * math.expm1(log_ratio)


# -- the three kinds ---------------------------------------------------------------------------------------------------


def _common(value: Data) -> Data:
    facts, noise = value["facts"], value["noise"]
    changes = tuple(Harmless(_text(c["change"]), _maybe(c["reference"]), _maybe(c["base"])) for c in noise["changes"])
    commands = [("repeat the whole work", value["commands"]["cerebellum"])]
    commands.append(("make the same tensors with stock llama.cpp", value["commands"]["llama_quantize"]))
    return {
        "kind": value["kind"],
        "warnings": _texts(facts.get("warnings", ())),
        "report_text": measured_on(facts, "report"),
        "search_text": measured_on(facts, "search"),
        "floor": _number(noise["floor"]),
        "noise": noise_line(Noise(changes, _whole(noise["n_chunks"]))),
        "facts": tuple(fact_lines(facts, _text(value["version"]))),
        "commands": tuple(Command(what, _text(line)) for what, line in commands if line),
    }


def _allocation(value: Data) -> View:
    facts, controls, written = value["facts"], value["controls"], value["written"]
    model, base = _text(facts["model"]["file"]), _text(facts["base"]["ftype"])
    effects = [e for e in value["anchors"]["effects"] if e["effect"] is not None and e["predicted"] is not None]
    ranks = value["anchors"]["left_out"]["rank_correlation"]
    return View(
        title=f"{model}: {base} size, types by measurement",
        subtitle=_file_line(written),
        verdict=_texts(value["verdict"][:HEAD]),
        more=_texts(value["verdict"][HEAD:]),
        points=(*_stock_points(controls["stock_ladder"]), *_control_points(controls, facts)),
        cells=_cells(value["tensors"]),
        other_bytes=_whole(value["other_bytes"]),
        effects=tuple(
            Effect(_text(e["tensor"]), _text(e["type"]), _number(e["predicted"]), _number(e["effect"]), _maybe(e["std_error"]))
            for e in effects
        ),
        recipes=tuple(
            Recipe(_text(t["name"]), _whole(t["file_bytes"]), _number(t["predicted"]), _number(t["measured"]), bool(t["kept"]))
            for t in value["tried"]
        ),
        ranks=tuple((_text(rule).replace("_", " "), _maybe(rank)) for rule, rank in ranks.items()),
        overrides=_overrides(written),
        **_bench(value["bench"]),
        **_common(value),
    )  # fmt: skip


def _ladder(value: Data) -> View:
    facts, recipes = value["facts"], value["recipes"]
    ours = [
        Point(_text(r["label"]), OURS, _whole(r["file_bytes"]), _mean(r["kld"]))
        for r in recipes
        if r["kld"] is not None
    ]
    return View(
        title=f"{_text(facts['model']['file'])}: a ladder of {len(recipes)} sizes",
        subtitle="A file for each size, all from one study.",
        verdict=tuple(f"{_text(r['label'])}: {_text(r['verdict'][1])} {_text(r['verdict'][3])}" for r in recipes),
        more=(),
        points=(*_stock_points(value["stock"]), *ours),
        sizes=tuple(
            Size(_text(r["label"]), _text(r["file"]), _whole(r["file_bytes"]), _texts(r["verdict"]), _cells(r["tensors"]))
            for r in recipes
        ),
        **_common(value),
    )  # fmt: skip


def _sweep(value: Data) -> View:
    facts, written, combination = value["facts"], value["written"], value["combination"]
    model, base = _text(facts["model"]["file"]), _text(facts["base"]["ftype"])
    chosen = value["choice"]["swaps"]
    by_kld = all(row["contrast"]["kld"] is not None for row in value["sweep"])
    validity = value["validity"]
    points = () if combination is None else _sweep_points(combination["report"], _whole(facts["base"]["file_bytes"]))
    return View(
        title=f"{model}: a sweep from {base}, choice by {_text(value['choice']['policy'])}",
        subtitle="No file was written." if written is None else _file_line(written),
        verdict=_texts(value["verdict"]),
        more=(),
        points=points,
        cells=_cells(value["tensors"]),
        other_bytes=_whole(max(value["other_bytes"], 0)),
        recipes=() if combination is None else _combined(combination),
        singles=tuple(_single(row, chosen, by_kld) for row in value["sweep"]),
        failed=tuple((_text(f["label"]), _text(f["reason"])) for f in value["failed"]),
        rungs=() if validity is None else _rungs(validity),
        validity="" if validity is None else f"Perplexity as a judge: {validity['verdict']}. {validity['reason']}",
        overrides=() if written is None else _overrides(written),
        **_bench(value["bench"]),
        **_common(value),
    )


_READERS: dict[str, Callable[[Data], View]] = {"allocation": _allocation, "ladder": _ladder, "sweep": _sweep}


# -- parts of them -----------------------------------------------------------------------------------------------------


def _file_line(written: Data) -> str:
    name = _text(written["path"]).replace("\\", "/").rpartition("/")[2]
    return f"{name}: {_whole(written['file_bytes']):,} bytes, sha256 {_text(written['sha256'])}"


def _overrides(written: Data) -> tuple[str, ...]:
    return tuple(f"{_text(o['pattern'])}={_text(o['type'])}" for o in written["overrides"])


def _stock_points(rungs: list[Data]) -> tuple[Point, ...]:
    return tuple(
        Point(_text(r["ftype"]), STOCK, _whole(r["file_bytes"]), _mean(r["mean"]) if r["mean"] else Mean(_number(r["kld"])))
        for r in rungs
    )  # fmt: skip


def _control_points(controls: Data, facts: Data) -> list[Point]:
    """The recipe and its controls, the stock file (which is in the ladder) left out."""
    base_bytes, rows = _whole(facts["base"]["file_bytes"]), controls["report"]["rows"]
    points = [
        Point(
            "this file" if i == 1 else _text(row["trial"]["label"]),
            OURS if i == 1 else CONTROL,
            _whole(base_bytes + row["delta_bytes"]),
            _mean(row["summary"]["divergence"]["mean"]),
            "" if row["from_base"] is None else _text(row["from_base"]["judgement"]["verdict"]),
        )
        for i, row in enumerate(rows)
        if i and row["summary"]["divergence"]
    ]
    known = {r["ftype"] for r in controls["stock_ladder"]}
    if (stock := rows[0]["summary"]["divergence"]) and facts["base"]["ftype"] not in known:
        points.append(Point(_text(facts["base"]["ftype"]), STOCK, base_bytes, _mean(stock["mean"])))
    if stock and len(rows) > 1:
        size, mean = _whole(base_bytes + rows[1]["delta_bytes"]), _number(stock["mean"]["estimate"])
        points += [
            Point(f"shuffled {i}", SHUFFLED, size, Mean(mean * _number(ratio)))
            for i, ratio in enumerate(controls["shuffled"]["others"], start=1)
        ]
    return points


def _sweep_points(report: Data, base_bytes: int) -> tuple[Point, ...]:
    series = {"base": STOCK, "recipe": OURS}
    return tuple(
        Point(
            _text(row["trial"]["label"]),
            series.get(row["trial"]["kind"], CONTROL),
            _whole(base_bytes + row["delta_bytes"]),
            _mean(row["summary"]["divergence"]["mean"]),
            "" if row["from_base"] is None else _text(row["from_base"]["judgement"]["verdict"]),
        )
        for row in report["rows"]
        if row["summary"]["divergence"]
    )


def _cells(rows: list[Data]) -> tuple[Cell, ...]:
    cells = []
    for row in rows:
        slope, block = row.get("slope"), row["block"]
        cells.append(
            Cell(
                _text(row["name"]),
                _text(row["role"]),
                None if block is None else _whole(block),
                STORED[row["type"]].name,
                STORED[row["stock_type"]].name,
                _whole(row["bytes"]),
                _whole(row["stock_bytes"]),
                _whole(row["elements"]),
                slope and Mean(_number(slope["mean"]), _maybe(slope["low"]), _maybe(slope["high"])),
                _maybe(row.get("damage")),
                _maybe(row.get("stock_damage")),
                _whole(slope["anchors"]) if slope else 0,
            )
        )
    return tuple(cells)


def _single(row: Data, chosen: Data, by_kld: bool) -> Single:
    contrast, block = row["contrast"], row["block"]
    tensor, kind = _text(row["tensor"]), _text(row["to_type"])
    return Single(
        tensor,
        _text(row["role"]),
        None if block is None else _whole(block),
        _text(row["from_type"]),
        kind,
        int(_number(row["delta_bytes"])),
        _mean(contrast["ppl"], _percent),
        _mean(contrast["kld"]) if by_kld else None,
        _text(contrast["judgement"]["verdict"]),
        chosen.get(tensor) == kind,
    )


def _combined(combination: Data) -> tuple[Recipe, ...]:
    """The chosen set's change of KL divergence: added up, and measured on the search text."""
    recipe = next((r for r in combination["search"]["rows"] if r["trial"]["kind"] == "recipe"), None)
    predicted = combination["predicted"]["kld"]
    if recipe is None or predicted is None or not recipe["from_base"] or not recipe["from_base"]["kld"]:
        return ()
    measured = _number(recipe["from_base"]["kld"]["estimate"])
    return (Recipe("the choice, change from the base", None, _number(predicted), measured, True),)


def _rungs(validity: Data) -> tuple[Rung, ...]:
    own = _number(validity["reference_ppl"])

    def change(ppl: Any) -> float | None:
        return None if ppl is None else 100.0 * (_number(ppl) / own - 1.0)

    rungs = [Rung("reference", own, Mean(0.0), 0.0)]
    for r in sorted(validity["rungs"], key=lambda r: (_number(r["kld"]), _text(r["name"]))):
        low, high = change(r["ppl_low"]), change(r["ppl_high"])
        ppl = _number(r["ppl"])
        rungs.append(Rung(_text(r["name"]), ppl, Mean(100.0 * (ppl / own - 1.0), low, high), _number(r["kld"])))
    return tuple(rungs)


def _bench(bench: Data | None) -> Data:
    if bench is None:
        return {}
    scores, flips, lines = [], [], []
    for role, about in bench["files"].items():
        lines.append(f"{_text(role)}: {_text(about['file'])}")
    for task in bench["tasks"]:
        name = _text(task["task"])
        for s in task["scores"]:
            value = Mean(_number(s["value"])) if s["interval"] is None else _mean(s["interval"])
            scores.append(Score(name, _text(s["role"]), _whole(s["n"]), value, _text(s["unusable"])))
        for p in task["pairs"]:
            counted, gate = p["flips"], p["gate"]
            lost, gained, chance = (
                (None, None, None)
                if counted is None
                else (_whole(counted["lost"]), _whole(counted["gained"]), _maybe(counted["p_value"]))
            )
            word = "" if gate is None else _text(gate["word"])
            flips.append(
                Flips(name, _text(p["new"]), _text(p["old"]), lost, gained, chance, _mean(p["difference"]), word)
            )
            if gate:
                lines.append(f"{name}, against the {p['old']}: {word}. {_text(gate['reason'])}")
    if bench["gate"]:
        lines.append(f"Gate over all tasks: {_text(bench['gate'])}.")
    return {"scores": tuple(scores), "flips": tuple(flips), "bench": tuple(lines)}
