"""`View` of a ``report.json``: what the page shows comes from that file and from nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from cerebellum.errors import InputError
from cerebellum.gguf.types import STORED
from cerebellum.quoting import name as quoted
from cerebellum.report.grids import measured_on
from cerebellum.report.markdown import fact_lines
from cerebellum.report.noise import noise_line
from cerebellum.report.reading_files import comparison
from cerebellum.report.values import Data, lines, maybe, mean, number, percent, whole, words
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

#: The format of ``report.json`` that is read.
FORMAT = 1
#: The first five sentences of an allocation are its verdict.
HEAD = 5


def view_of(value: Any, source: str = "report.json") -> View:
    """What a ``report.json`` says. Raises `InputError`, which names ``source``, where it isn't one."""
    source = quoted(source)
    if not isinstance(value, dict) or value.get("kind") not in _READERS or "facts" not in value:
        raise InputError(
            f"{source} is no report of an allocation, a ladder, a sweep or a comparison; `run`, `sweep` and `compare` write one"
        )
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


# -- the kinds ---------------------------------------------------------------------------------------------------


def _common(value: Data) -> Data:
    facts, noise = value["facts"], value["noise"]
    changes = tuple(Harmless(words(c["change"]), maybe(c["reference"]), maybe(c["base"])) for c in noise["changes"])
    commands = [("repeat the whole work", value["commands"]["cerebellum"])]
    commands.append(("make the same tensors with stock llama.cpp", value["commands"].get("llama_quantize")))
    return {
        "kind": value["kind"],
        "warnings": lines(facts.get("warnings", ())),
        "report_text": measured_on(facts, "report"),
        "search_text": measured_on(facts, "search"),
        "floor": number(noise["floor"]),
        "noise": noise_line(Noise(changes, whole(noise["n_chunks"]))),
        "facts": tuple(fact_lines(facts, words(value["version"]))),
        "commands": tuple(Command(what, words(line)) for what, line in commands if line),
    }


def _allocation(value: Data) -> View:
    facts, controls, written = value["facts"], value["controls"], value["written"]
    model, base = words(facts["model"]["file"]), words(facts["base"]["ftype"])
    effects = [e for e in value["anchors"]["effects"] if e["effect"] is not None and e["predicted"] is not None]
    ranks = value["anchors"]["left_out"]["rank_correlation"]
    return View(
        title=f"{model}: {base} size, types by measurement",
        subtitle=_file_line(written),
        verdict=lines(value["verdict"][:HEAD]),
        more=lines(value["verdict"][HEAD:]),
        points=(*_stock_points(controls["stock_ladder"]), *_control_points(controls, facts)),
        cells=_cells(value["tensors"]),
        other_bytes=whole(value["other_bytes"]),
        effects=tuple(
            Effect(words(e["tensor"]), words(e["type"]), number(e["predicted"]), number(e["effect"]), maybe(e["std_error"]))
            for e in effects
        ),
        recipes=tuple(
            Recipe(words(t["name"]), whole(t["file_bytes"]), number(t["predicted"]), number(t["measured"]), bool(t["kept"]))
            for t in value["tried"]
        ),
        ranks=tuple((words(rule).replace("_", " "), maybe(rank)) for rule, rank in ranks.items()),
        overrides=_overrides(written),
        **_bench(value["bench"]),
        **_common(value),
    )  # fmt: skip


def _ladder(value: Data) -> View:
    facts, recipes = value["facts"], value["recipes"]
    ours = [
        Point(words(r["label"]), OURS, whole(r["file_bytes"]), mean(r["kld"])) for r in recipes if r["kld"] is not None
    ]
    return View(
        title=f"{words(facts['model']['file'])}: a ladder of {len(recipes)} sizes",
        subtitle="A file for each size, all from one study.",
        verdict=tuple(f"{words(r['label'])}: {words(r['verdict'][1])} {words(r['verdict'][3])}" for r in recipes),
        more=(),
        points=(*_stock_points(value["stock"]), *ours),
        sizes=tuple(
            Size(words(r["label"]), words(r["file"]), whole(r["file_bytes"]), lines(r["verdict"]), _cells(r["tensors"]))
            for r in recipes
        ),
        **_common(value),
    )  # fmt: skip


def _sweep(value: Data) -> View:
    facts, written, combination = value["facts"], value["written"], value["combination"]
    model, base = words(facts["model"]["file"]), words(facts["base"]["ftype"])
    chosen = value["choice"]["swaps"]
    by_kld = all(row["contrast"]["kld"] is not None for row in value["sweep"])
    validity = value["validity"]
    points = () if combination is None else _sweep_points(combination["report"], value)
    return View(
        title=f"{model}: a sweep from {base}, choice by {words(value['choice']['policy'])}",
        subtitle="No file was written." if written is None else _file_line(written),
        verdict=lines(value["verdict"]),
        more=(),
        points=points,
        cells=_cells(value["tensors"]),
        other_bytes=whole(max(value["other_bytes"], 0)),
        recipes=() if combination is None else _combined(combination),
        singles=tuple(_single(row, chosen, by_kld) for row in value["sweep"]),
        failed=tuple((words(f["label"]), words(f["reason"])) for f in value["failed"]),
        rungs=() if validity is None else _rungs(validity),
        validity="" if validity is None else f"Perplexity as a judge: {validity['verdict']}. {validity['reason']}",
        overrides=() if written is None else _overrides(written),
        **_bench(value["bench"]),
        **_common(value),
    )


def _sweep_only(value: Data) -> View:
    """A sweep from which nothing was chosen."""
    facts, rows = value["facts"], value["sweep"]
    model, base = words(facts["model"]["file"]), words(facts["base"]["ftype"])
    by_kld = all(row["contrast"]["kld"] is not None for row in rows)
    counts = Counter(words(row["contrast"]["judgement"]["verdict"]) for row in rows)
    verdicts = ", ".join(f"{n} {word}" for word, n in counts.most_common())
    return View(
        title=f"{model}: each tensor alone at another type, from {base}",
        subtitle="Nothing was chosen, and no file was written: the command cerebellum run does that, and takes these measurements over.",
        verdict=(f"{len(rows)} trials: {verdicts or 'none was measured'}.",),
        more=(),
        singles=tuple(_single(row, {}, by_kld) for row in rows),
        failed=tuple((words(f["label"]), words(f["reason"])) for f in value["failed"]),
        **_common(value),
    )


_READERS: dict[str, Callable[[Data], View]] = {
    "allocation": _allocation, "ladder": _ladder, "sweep": _sweep, "sweep only": _sweep_only, "comparison": comparison,
}  # fmt: skip


# -- parts of them -----------------------------------------------------------------------------------------------------


def _file_line(written: Data) -> str:
    name = words(written["path"]).replace("\\", "/").rpartition("/")[2]
    return f"{name}: {whole(written['file_bytes']):,} bytes, sha256 {words(written['sha256'])}"


def _overrides(written: Data) -> tuple[str, ...]:
    return tuple(f"{words(o['pattern'])}={words(o['type'])}" for o in written["overrides"])


def _stock_points(rungs: list[Data]) -> tuple[Point, ...]:
    return tuple(
        Point(words(r["ftype"]), STOCK, whole(r["file_bytes"]), mean(r["mean"]) if r["mean"] else Mean(number(r["kld"])))
        for r in rungs
    )  # fmt: skip


def set_bytes(base_bytes: int, row: Data) -> int:
    """Bytes of a file with a set's types; reports that don't name them have what its tensors add to the base's."""
    return whole(row["file_bytes"] if "file_bytes" in row else base_bytes + row["delta_bytes"])


def _control_points(controls: Data, facts: Data) -> list[Point]:
    """The recipe and its controls, the stock file (which is in the ladder) left out."""
    base_bytes, rows = whole(facts["base"]["file_bytes"]), controls["report"]["rows"]
    points = [
        Point(
            "this file" if i == 1 else words(row["trial"]["label"]),
            OURS if i == 1 else CONTROL,
            set_bytes(base_bytes, row),
            mean(row["summary"]["divergence"]["mean"]),
            "" if row["from_base"] is None else words(row["from_base"]["judgement"]["verdict"]),
        )
        for i, row in enumerate(rows)
        if i and row["summary"]["divergence"]
    ]
    known = {r["ftype"] for r in controls["stock_ladder"]}
    if (stock := rows[0]["summary"]["divergence"]) and facts["base"]["ftype"] not in known:
        points.append(Point(words(facts["base"]["ftype"]), STOCK, base_bytes, mean(stock["mean"])))
    if stock and len(rows) > 1:
        size, unit = set_bytes(base_bytes, rows[1]), number(stock["mean"]["estimate"])
        points += [
            Point(f"shuffled {i}", SHUFFLED, size, Mean(unit * number(ratio)))
            for i, ratio in enumerate(controls["shuffled"]["others"], start=1)
        ]
    return points


def _sweep_points(report: Data, value: Data) -> tuple[Point, ...]:
    series, base_bytes = {"base": STOCK, "recipe": OURS}, whole(value["facts"]["base"]["file_bytes"])
    rows = list(report["rows"])
    if value["written"] is not None:  # with the keys that the file carries
        rows[1] = {**rows[1], "file_bytes": value["written"]["file_bytes"]}
    return tuple(
        Point(
            words(row["trial"]["label"]),
            series.get(row["trial"]["kind"], CONTROL),
            set_bytes(base_bytes, row),
            mean(row["summary"]["divergence"]["mean"]),
            "" if row["from_base"] is None else words(row["from_base"]["judgement"]["verdict"]),
        )
        for row in rows
        if row["summary"]["divergence"]
    )


def _cells(rows: list[Data]) -> tuple[Cell, ...]:
    cells = []
    for row in rows:
        slope, block = row.get("slope"), row["block"]
        cells.append(
            Cell(
                words(row["name"]),
                words(row["role"]),
                None if block is None else whole(block),
                STORED[row["type"]].name,
                STORED[row["stock_type"]].name,
                whole(row["bytes"]),
                whole(row["stock_bytes"]),
                whole(row["elements"]),
                slope and Mean(number(slope["mean"]), maybe(slope["low"]), maybe(slope["high"])),
                maybe(row.get("damage")),
                maybe(row.get("stock_damage")),
                whole(slope["anchors"]) if slope else 0,
            )
        )
    return tuple(cells)


def _single(row: Data, chosen: Data, by_kld: bool) -> Single:
    contrast, block = row["contrast"], row["block"]
    tensor, kind = words(row["tensor"]), words(row["to_type"])
    return Single(
        tensor,
        words(row["role"]),
        None if block is None else whole(block),
        words(row["from_type"]),
        kind,
        int(number(row["delta_bytes"])),
        mean(contrast["ppl"], percent),
        mean(contrast["kld"]) if by_kld else None,
        words(contrast["judgement"]["verdict"]),
        chosen.get(tensor) == kind,
    )


def _combined(combination: Data) -> tuple[Recipe, ...]:
    """The chosen set's change of KL divergence: added up, and measured on the search text."""
    recipe = next((r for r in combination["search"]["rows"] if r["trial"]["kind"] == "recipe"), None)
    predicted = combination["predicted"]["kld"]
    if recipe is None or predicted is None or not recipe["from_base"] or not recipe["from_base"]["kld"]:
        return ()
    measured = number(recipe["from_base"]["kld"]["estimate"])
    return (Recipe("the choice, change from the base", None, number(predicted), measured, True),)


def _rungs(validity: Data) -> tuple[Rung, ...]:
    reference_ppl = number(validity["reference_ppl"])

    def change(ppl: Any) -> float | None:
        return None if ppl is None else 100.0 * (number(ppl) / reference_ppl - 1.0)

    rungs = [Rung("reference", reference_ppl, Mean(0.0), 0.0)]
    for r in sorted(validity["rungs"], key=lambda r: (number(r["kld"]), words(r["name"]))):
        low, high = change(r["ppl_low"]), change(r["ppl_high"])
        ppl = number(r["ppl"])
        rungs.append(
            Rung(words(r["name"]), ppl, Mean(100.0 * (ppl / reference_ppl - 1.0), low, high), number(r["kld"]))
        )
    return tuple(rungs)


def _bench(bench: Data | None) -> Data:
    if bench is None:
        return {}
    scores, flips, notes = [], [], []
    for role, about in bench["files"].items():
        notes.append(f"{words(role)}: {words(about['file'])}")
    for task in bench["tasks"]:
        name = words(task["task"])
        for s in task["scores"]:
            value = Mean(number(s["value"])) if s["interval"] is None else mean(s["interval"])
            scores.append(Score(name, words(s["role"]), whole(s["n"]), value, words(s["unusable"])))
        for p in task["pairs"]:
            counted, gate = p["flips"], p["gate"]
            lost, gained, chance = (
                (None, None, None)
                if counted is None
                else (whole(counted["lost"]), whole(counted["gained"]), maybe(counted["p_value"]))
            )
            word = "" if gate is None else words(gate["word"])
            flips.append(
                Flips(name, words(p["new"]), words(p["old"]), lost, gained, chance, mean(p["difference"]), word)
            )
            if gate:
                notes.append(f"{name}, against the {p['old']}: {word}. {words(gate['reason'])}")
    if bench["gate"]:
        notes.append(f"Gate over all tasks: {words(bench['gate'])}.")
    return {"scores": tuple(scores), "flips": tuple(flips), "bench": tuple(notes)}
