"""Transfers between two siblings, both ways, beside a full allocation of each: verdicts, trials saved, KL divergence at equal bytes.

    python -m benchmarks.transfer --out FOLDER [--pair ELDER.gguf SIBLING.gguf] [--text FILE --report-text FILE] [--like Q3_K_M]

Without ``--pair``: the bundled model and its sibling of `testbed/siblings`, on the bundled texts. Without ``--refine`` recipes are not
improved by measurement, so that what anchors alone are worth is seen. What a folder holds already isn't measured again; stop it and go on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.running import show
from cerebellum import api, bundled
from cerebellum.cli.console import ConsoleProgress
from cerebellum.gguf.model_file import read_model
from cerebellum.profiles.check import agreements
from cerebellum.profiles.layout import carried_over, layout_of
from cerebellum.profiles.probes import ENOUGH, kept_share, n_chosen
from cerebellum.stats.verdicts import MILLI
from cerebellum.verbs.allocation.origin import read_origin

SIBLING = Path(__file__).resolve().parents[1] / "testbed" / "siblings" / "world-10-F16.gguf"
COLUMNS = (
    "from", "to", "verdict", "agreement, probes", "agreement, all", "probes that hit", "tensors measured", "KLD ÷ stock, transferred",
    "KLD ÷ stock, full", "KLD transferred ÷ full",
)  # fmt: skip
ROLE_COLUMNS = ("from", "to", "role", "verdict", "agreement, probes", "agreement, all", "kept", "right", "measured")


def report_of(out: Path, make: Any) -> dict[str, Any]:
    """The report of a finished job in ``out``; ``make()`` finishes it where it isn't there."""
    path = out / "report.json"
    if not path.exists():
        make()
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def truths(old: Path, new: Path, model: Path) -> dict[str, tuple[float, float]]:
    """Role → (rank correlation of the profile of the map in ``old``, carried over, with that of the full map in ``new``; what the quarter
    keeps that the carried profile says to hurt least)."""
    import numpy as np

    source, target = read_origin(old), read_origin(new)
    found, header = {}, read_model(model)
    layout, sizes = layout_of(header), {(t.role, t.block): t.n_elements for t in header.tensors}
    for role in sorted({*source.profiles} & {*target.profiles}):
        blocks = sorted(target.profiles[role])
        if len(blocks) > 2:
            carried = carried_over(
                source.profiles[role], source.layout, blocks, layout, attention=role.startswith("attn")
            )
            own = np.array([[target.profiles[role][b] for b in blocks]])
            weights = np.log([sizes[role, b] for b in blocks])
            chosen = np.argsort(carried + weights, kind="stable")[: n_chosen(len(blocks))]
            found[role] = float(agreements(carried, own)[0]), float(kept_share(np.exp(own + weights), chosen)[0])
    return found


def mean_kld(report: dict[str, Any]) -> float:
    """Of the written file on the report text, nats a token."""
    return float(report["written"]["summary"]["divergence"]["mean"]["estimate"])


def direction(out: Path, old: Path, new: Path, options: dict[str, Any]) -> dict[str, Any]:
    """One transfer beside the full allocation of its model."""
    full = {
        m: report_of(out / f"full-{m.stem}", lambda m=m: api.allocate(m, out=out / f"full-{m.stem}", **options))
        for m in (old, new)
    }
    folder = out / f"{old.stem}-to-{new.stem}"
    ours = report_of(folder, lambda: api.transfer(out / f"full-{old.stem}", new, out=folder, **options))
    true = truths(out / f"full-{old.stem}", out / f"full-{new.stem}", new)
    whole = {role: agreement for role, (agreement, _) in true.items()}
    sizes = {role: entry["tensors"] for role, entry in ours["transfer"]["roles"].items()}
    return {
        "from": old.stem,
        "to": new.stem,
        "transfer": ours["transfer"],
        "agreement_of_full_profiles": {
            "all": sum(whole[r] * n for r, n in sizes.items()) / sum(sizes.values()),
            **whole,
        },
        "kept_by_full_profiles": {role: kept for role, (_, kept) in true.items()},
        "ratio": ours["controls"]["ratio"],
        "full_ratio": full[new]["controls"]["ratio"],
        "kld": mean_kld(ours) * MILLI,
        "full_kld": mean_kld(full[new]) * MILLI,
        "bytes": [r["written"]["file_bytes"] for r in (ours, full[new])],
        "chunks": [r["anchors"]["chunks"] for r in (ours, full[new])],
    }


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a direction, in the order of `COLUMNS`."""
    t = found["transfer"]
    probes = [p for role in t["roles"].values() for p in role["probes"]]
    low, high = t["agreement_interval"]
    return (
        found["from"],
        found["to"],
        t["verdict"],
        f"{t['agreement']:.2f} [{low:.2f}, {high:.2f}]",
        f"{found['agreement_of_full_profiles']['all']:.2f}",
        f"{sum(p['hit'] for p in probes)} of {len(probes)}",
        f"{t['trials']['measured']} of {t['trials']['full_anchors']}",
        ratio(found["ratio"]),
        ratio(found["full_ratio"]),
        f"{found['kld'] / found['full_kld']:.3f}",
    )


def role_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row a role."""
    rows: list[tuple[str, ...]] = []
    for role, entry in found["transfer"]["roles"].items():
        low, high = entry["agreement_interval"]
        kept = found["kept_by_full_profiles"][role]
        rows.append(
            (
                found["from"],
                found["to"],
                role,
                entry["verdict"],
                f"{entry['agreement']:.2f} [{low:.2f}, {high:.2f}]",
                f"{found['agreement_of_full_profiles'][role]:.2f}",
                f"{kept:.2f}",
                {"holds": kept >= ENOUGH, "does not hold": kept < ENOUGH}.get(entry["verdict"], "open"),
                f"{entry['measured']} of {entry['tensors']}",
            )
        )
    return rows


def ratio(x: dict[str, Any]) -> str:
    """A ratio with its interval."""
    return f"{x['estimate']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, type=Path, default=(bundled.MODEL, SIBLING), metavar=("ELDER", "SIBLING"))
    parser.add_argument("--text", type=Path, default=bundled.SEARCH_TEXT)
    parser.add_argument("--report-text", type=Path, default=bundled.REPORT_TEXT)
    parser.add_argument("--like", default="Q3_K_M", help="stock file whose bytes are taken")
    parser.add_argument("--imatrix", default="none", help="none, auto, or a file")
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=8, help="of each text")
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options: dict[str, Any] = {
        "text": given.text, "report_text": given.report_text, "ctx": given.ctx, "chunks": given.chunks, "like": given.like,
        "imatrix": given.imatrix, "refine": given.refine, "n_shuffled": 5, "progress": ConsoleProgress(quiet=False),
    }  # fmt: skip
    options |= {"threads": given.threads} if given.threads else {}
    elder, sibling = given.pair
    found = [direction(given.out, *pair, options) for pair in ((elder, sibling), (sibling, elder))]
    show(
        f"Transfers at the bytes of {given.like}, {given.chunks} chunks of {given.ctx} tokens",
        COLUMNS,
        [row(one) for one in found],
    )
    show("By role", ROLE_COLUMNS, [cells for one in found for cells in role_rows(one)])
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
