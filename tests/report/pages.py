"""Pages for tests: finished jobs on the fake backend, a report of 500 tensors at 10 types, what a page is made of."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from base64 import b64encode
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ROLES = "attn_k attn_output attn_q attn_v ffn_down ffn_gate ffn_up inp_gate proj ssm_in".split()
KINDS = "Q2_K Q3_K Q4_K Q5_K Q6_K Q8_0 IQ3_S IQ4_XS Q5_0 Q4_0".split()
#: Names that a file of a stranger can have.
HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\"'><svg onload=window.hacked=1>",
    "\u202egnp.exe\u2028\x1b[31m&lt;b&gt;",
    "]]><!--<script>",
    "datum.x + alert(1) || constructor.constructor('window.hacked=1')()",
)


@dataclass
class Parsed(HTMLParser):
    """A page's elements, scripts, data blocks, links and text."""

    tags: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    blocks: dict[str, Any] = field(default_factory=dict)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    policy: str = ""
    words: list[str] = field(default_factory=list)
    style: str = ""
    _open: tuple[str, dict[str, str | None]] = ("", {})

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self._open = (tag, dict(attrs))
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open
        if tag == "script" and attributes.get("type") == "application/json":
            self.blocks[attributes.get("id") or f"table {len(self.blocks)}"] = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self.style += data
        else:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", {})

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parsed(page: str | Path) -> Parsed:
    parser = Parsed()
    parser.feed(page.read_text(encoding="utf-8") if isinstance(page, Path) else page)
    return parser


def hash_of(script: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def large_allocation(report: dict[str, Any]) -> dict[str, Any]:
    """An allocation's report with 500 tensors in 50 blocks, each measured at 10 types."""
    report, draw = copy.deepcopy(report), random.Random(1)
    example = next(t for t in report["tensors"] if t["block"] is not None)
    tensors, effects = [], []
    for block in range(50):
        for role in ROLES:
            slope, name = draw.lognormvariate(-5.0, 1.0), f"blk.{block}.{role}.weight"
            tensors.append(example | {
                "name": name, "role": role, "block": block, "type": draw.choice(KINDS), "bytes": draw.randrange(10**6, 10**7),
                "stock_bytes": 5 * 10**6, "slope": {"mean": slope, "low": 0.6 * slope, "high": 1.6 * slope, "anchors": 10},
                "damage": 1e-3 * slope, "stock_damage": 2e-3 * slope,
            })  # fmt: skip
            for kind in KINDS:
                effect = slope * 1e-3 * draw.lognormvariate(0.0, 0.8) - 2e-6
                predicted = slope * 1e-3 * draw.lognormvariate(0.0, 0.4)
                effects.append(
                    {
                        "tensor": name,
                        "type": kind,
                        "effect": effect,
                        "std_error": 0.2 * abs(effect),
                        "predicted": predicted,
                    }
                )
    report["tensors"], report["anchors"]["effects"] = tensors, effects
    return report


def large_sweep(report: dict[str, Any]) -> dict[str, Any]:
    """A sweep's report with 500 tensors at 10 types each."""
    report, draw = copy.deepcopy(report), random.Random(2)
    example, rows = report["sweep"][1], []
    for block in range(50):
        for role in ROLES:
            for kind in KINDS:
                row = example | {"tensor": f"blk.{block}.{role}.weight", "role": role, "block": block, "to_type": kind}
                value = draw.lognormvariate(-9.0, 1.5)
                row["contrast"] = copy.deepcopy(example["contrast"])
                row["contrast"]["kld"] |= {"estimate": value, "low": 0.7 * value, "high": 1.4 * value}
                rows.append(row)
    report["sweep"] = rows
    return report


def hostile(report: dict[str, Any]) -> dict[str, Any]:
    """The report with a stranger's names wherever names of a file, a model, a text or a tensor stand."""
    report = copy.deepcopy(report)
    evil = iter(HOSTILE * 1000)
    for row in report["tensors"]:
        row["name"], row["role"] = next(evil), next(evil)
    for row in report.get("sweep", ()):
        row["tensor"], row["role"], row["to_type"] = next(evil), next(evil), next(evil)
    for row in report.get("anchors", {}).get("effects", ()):
        row["tensor"], row["type"] = next(evil), next(evil)
    for row in report.get("tried", ()):
        row["name"] = next(evil)
    for row in report.get("controls", {}).get("stock_ladder", ()):
        row["ftype"] = next(evil)
    facts = report["facts"]
    facts["model"] |= {"file": next(evil), "architecture": next(evil)}
    facts["base"]["ftype"] = facts["build"] = facts["reference"]["file"] = next(evil)
    facts["warnings"] = list(HOSTILE)
    for split in facts["splits"].values():
        split["text"] = next(evil)
    report["verdict"] = [f"Size: {words}" for words in HOSTILE]
    report["commands"] = dict.fromkeys(report["commands"], next(evil))
    report["written"]["path"] = f"/tmp/{next(evil)}"
    report["written"]["overrides"] = [{"pattern": words, "type": "Q4_K", "why": ""} for words in HOSTILE]
    return report


def interval(estimate: float, width: float) -> dict[str, Any]:
    return {
        "estimate": estimate,
        "low": estimate - width,
        "high": estimate + width,
        "std_error": width / 2,
        "n_chunks": 100,
        "level": 0.95,
    }


FLIPS = {"n": 100, "both": 40, "neither": 43, "gained": 10, "lost": 7, "p_value": 0.63}
PAIR = {
    "new": "file", "old": "base", "could_show": 0.1, "gate": {"word": "too few items to tell", "reason": "+3.00 points."},
    "difference": interval(0.03, 0.08), "flips": FLIPS,
}  # fmt: skip
SCORES = [
    {"role": role, "n": 100, "value": value, "unusable": "", "interval": interval(value, 0.1)}
    for role, value in (("file", 0.5), ("base", 0.47))
]
#: A benchmark of two files on two tasks, as ``report.json`` has it.
BENCH: dict[str, Any] = {
    "files": {"file": {"file": "ours.gguf"}, "base": {"file": "stock.gguf"}},
    "gate": "too few items to tell",
    "facts": {},
    "tasks": [{"task": task, "scores": SCORES, "pairs": [PAIR]} for task in ("facts", "sums")],
}

#: A validity ladder, as ``report.json`` has it.
VALIDITY: dict[str, Any] = {
    "verdict": "doubtful", "reason": "Two of six pairs are in another order.", "reference_ppl": 10.0,
    "rungs": [
        {"name": kind, "ppl": 10.0 + i, "kld": 0.01 * 2**i, "ppl_low": 9.9 + i, "ppl_high": 10.1 + i if i else None}
        for i, kind in enumerate(("Q8_0", "Q5_K_M", "Q3_K_M", "Q2_K"))
    ],
}  # fmt: skip
