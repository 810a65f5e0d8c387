"""An allocation's tables: types by role, controls, candidate recipes, stock files beside the recipe, the damage model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cerebellum.domain import TrialKind
from cerebellum.figures import significant
from cerebellum.report.grids import Grid, measured_on, with_limits
from cerebellum.report.plan import counted
from cerebellum.stats.verdicts import MILLI, Verdict

if TYPE_CHECKING:
    from cerebellum.results import Row
    from cerebellum.results.allocation import Allocation
    from cerebellum.stats.intervals import Interval


def megabytes(n: float) -> str:
    """A size of a file."""
    return f"{n / 1e6:,.2f} MB"


def share(x: Any) -> str:
    """A ratio with its interval; "none" where there is none."""
    if not math.isfinite(x.estimate):
        return "none"
    return with_limits(x, 1.0, 3, sign=False)


def in_percent(ratio: float) -> str:
    """A share in percent: a whole number, or a digit that counts under one percent; a question mark where it isn't known."""
    value = 100.0 * max(ratio, 0.0)
    if not math.isfinite(ratio) or value > 1e8:
        return "?"
    return f"{value:.0f}" if value >= 0.95 or value == 0.0 else significant(value, 1)


def ratio_word(ratio: Any) -> str:
    """What a share of the stock file's KL divergence is called."""
    if not math.isfinite(ratio.estimate):
        return "no share"
    if ratio.high < 1.0:
        return "improves"
    return "damages" if ratio.low > 1.0 else "undecided"


def stock_word(result: Allocation) -> str:
    """What the recipe is beside the stock file: the word that its share of the KL divergence and its difference in nats both have. Where
    they say different things, as a few chunks far from the others can make them, nothing is claimed."""
    by_share, in_nats = ratio_word(result.controls.ratio), nats_word(result)
    if by_share in (in_nats, "no share"):
        return by_share
    return in_nats if in_nats == Verdict.NO_DIFFERENCE else "undecided"


def nats_word(result: Allocation) -> str:
    """What the recipe's difference from the stock file is called, in nats a token: the verdict of its row."""
    contrast = result.controls.comparison.rows[1].from_base
    verdict = contrast.judgement.verdict if contrast else Verdict.NO_DIFFERENCE
    return str(Verdict.DAMAGES if verdict is Verdict.DRIFT else verdict)


def types_grid(result: Allocation) -> Grid:
    """Role by role: tensors, types of the base and of the recipe, slopes."""
    table, recipe = result.table, result.recipe.types(result.base.model.types)
    rows = []
    for role in sorted(set(table.roles.values())):
        names = [n for n in table.names if table.roles[n] == role]
        sizes = [sum(table.n_bytes(n, types[n]) for n in names) for types in (table.base_types, recipe)]
        rows.append(
            (
                role,
                str(len(names)),
                counted(table.base_types[n] for n in names),
                counted(recipe[n] for n in names),
                f"{sizes[0] / 1e6:.3f}",
                f"{sizes[1] / 1e6:.3f}",
            )
        )
    columns = ("role", "tensors", "types of the stock file", "types of the recipe", "MB, stock", "MB, recipe")
    return Grid("Types by role", columns, tuple(rows))


def short_types_grid(result: Allocation) -> Grid:
    """Role by role, in few columns: how many tensors, bytes in both files, the recipe's types."""
    rows = tuple((row[0], row[1], row[4], row[5], row[3].replace(" ×", "×")) for row in types_grid(result).rows)
    return Grid("Types by role", ("role", "n", "MB stock", "MB now", "types of the recipe"), rows)


def own_mean(result: Allocation) -> Interval | None:
    """The recipe's mean KL divergence on the report text, nats a token."""
    divergence = result.controls.comparison.rows[1].summary.divergence
    return divergence.mean if divergence else None


def set_bytes(result: Allocation, row: Row) -> int:
    """Bytes of the file with a set's types: of the recipe those written, and of what was chosen beside it those with the same keys. Stock
    files and those of one type carry none."""
    if row.from_base is None:
        return result.base.model.file_bytes
    if row.from_recipe is None:
        return result.written.file_bytes
    n_bytes = result.table.file_bytes(row.trial.types(result.base.model.types))
    return n_bytes - result.table.extra_bytes if row.trial.kind is TrialKind.BLANKET else n_bytes


def controls_grid(result: Allocation) -> Grid:
    """Recipe and controls on the report text: size, KL divergence, verdict against the stock file."""
    rows = []
    for row in result.controls.comparison.rows:
        divergence = row.summary.divergence
        label = f"stock {result.base.ftype}" if row.from_base is None else row.trial.label
        rows.append(
            (
                label,
                megabytes(set_bytes(result, row)),
                with_limits(divergence.mean, MILLI, 3, sign=False) if divergence else "?",
                "" if row.from_base is None else str(row.from_base.judgement.verdict),
            )
        )
    shuffled = result.controls.shuffled
    if limits := shuffled_limits(result):
        cell = f"{limits[0] * MILLI:.3f} to {limits[1] * MILLI:.3f}"
        rows.append(
            (
                f"{len(shuffled.others)} shuffled",
                megabytes(result.written.file_bytes),
                cell,
                f"{shuffled.n_worse} worse",
            )
        )
    notes = (
        measured_on(result.facts, "report"),
        "KLD: mean KL divergence to the reference, thousandths of a nat a token. Brackets: 95 % intervals. Verdicts: against the stock "
        "file, paired by chunk; of the shuffled: against the recipe.",
    )
    return Grid("Recipe and controls, report text", ("set", "size", "KLD", "verdict"), tuple(rows), notes)


def shuffled_limits(result: Allocation) -> tuple[float, float] | None:
    """The least and the largest mean KL divergence of the shuffled compositions, nats a token: what they are of the recipe's on their few
    chunks, of the recipe's on the whole text. So those that are worse are above the recipe's figure."""
    shuffled, rows = result.controls.shuffled, result.controls.comparison.rows
    of_recipe = shuffled.recipe > 0.0 or not shuffled.of_stock
    divergence = rows[1 if of_recipe else 0].summary.divergence if rows else None
    if not shuffled.others or divergence is None:
        return None
    unit = divergence.mean.estimate / (shuffled.recipe if shuffled.recipe > 0.0 else 1.0)
    return min(shuffled.others) * unit, max(shuffled.others) * unit


def tried_grid(result: Allocation) -> Grid:
    """The candidate recipes on the search text."""
    rows = tuple(
        (
            t.candidate.name,
            f"{t.file_bytes:,}",
            f"{t.predicted * MILLI:.3f}",
            f"{t.measured * MILLI:.3f}",
            share(t.ratio),
            "kept" if t.kept else "",
        )
        for t in result.tried
    )
    columns = ("recipe by", "bytes", "KLD predicted", "KLD measured", "share of the stock file's KLD", "")
    notes = (
        measured_on(result.facts, "search"),
        "KLD: mean KL divergence, thousandths of a nat a token. Predictions add up single effects.",
    )
    return Grid("Candidate recipes, measured together", columns, rows, notes)


def ladder_grid(result: Allocation) -> Grid:
    """The stock ladder on the report text, with the recipe among it."""
    controls = result.controls
    row = controls.comparison.rows[1].summary.divergence
    rows = [(r.file_bytes, f"stock {r.ftype}", _kld(r.mean, r.kld)) for r in controls.ladder]
    if row is not None:
        rows.append((result.written.file_bytes, "recipe", _kld(row.mean, row.mean.estimate)))
    cells = tuple((name, f"{n:,}", kld) for n, name, kld in sorted(rows))
    return Grid(
        "Stock files beside the recipe, report text",
        ("file", "bytes", "KLD"),
        cells,
        (measured_on(result.facts, "report"),),
    )


def _kld(mean: Interval | None, estimate: float) -> str:
    return f"{estimate * MILLI:.3f}" if mean is None else with_limits(mean, MILLI, 3, sign=False)


def slopes_grid(result: Allocation) -> Grid:
    """Tensor by tensor: type, damage expected at the stock type and at the recipe's."""
    table, model = result.table, result.anchors.model
    recipe = result.recipe.types(result.base.model.types)
    rows = []
    for name in table.names:
        slope, base = model.slopes[name], table.base_types[name]
        damage = [slope.mean * table.errors[name][k] * MILLI for k in (base, recipe[name])]
        rows.append(
            (
                name.removesuffix(".weight"),
                base,
                recipe[name],
                f"{damage[0]:.4f}",
                f"{damage[1]:.4f}",
                f"{slope.low / slope.mean:.2f} to {slope.high / slope.mean:.2f}",
                str(slope.n_anchors),
            )
        )
    columns = (
        "tensor",
        "stock type",
        "recipe's type",
        "damage at stock type",
        "damage at recipe's",
        "90 % interval of the slope, share",
        "anchors",
    )
    return Grid(
        "Damage model",
        columns,
        tuple(rows),
        ("Damage: expected KL divergence of this tensor alone, thousandths of a nat a token.",),
    )
