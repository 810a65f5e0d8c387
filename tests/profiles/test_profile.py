"""Profiles in characters, and the commands on tables as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cerebellum.errors import InputError
from cerebellum.profiles.profile import parse_table
from cerebellum.report.profile import curve, profile_grid, profile_json
from cerebellum.verbs.transfer_check import chosen_profiles
from tests.cli.command import cerebellum, refused

TABLE = {
    "model": "toy\x1b[31m",
    "by_type": {
        "q2_k": {f"blk.{b}.ffn_gate.weight": 10.0**b for b in range(8)}
        | {"blk.3.attn_q.weight": 0.5, "blk.7.attn_q.weight": 0.1, "output.weight": 1.0}
    },
}


def test_a_curve() -> None:
    """Eight steps of a geometric rise; a role of every fourth block has gaps; a flat one is low."""
    assert curve({b: 10.0**b for b in range(8)}, 8) == "▁▂▃▄▅▆▇█"
    assert curve({3: 0.5, 7: 0.1}, 8) == "   █   ▁"
    assert curve({0: 1.0, 1: 1.0}, 2) == "▁▁"


def test_more_blocks_than_columns() -> None:
    """The largest of a column's blocks is drawn: a peak is never lost."""
    drawn = curve({b: 100.0 if b == 61 else 1.0 for b in range(120)}, 120)
    assert len(drawn) == 60
    assert drawn.count("█") == 1


def test_rows() -> None:
    table = parse_table(TABLE, "t")
    kind, roles = chosen_profiles(table)
    grid = profile_grid(table, kind, roles)
    assert grid.rows[0] == ("attn_q", "   █   ▁", "0.1", "7", "0.5", "3")
    assert profile_json(table, kind, roles)["roles"]["attn_q"][0] == {"block": 3, "depth": 0.4286, "damage": 0.5}
    with pytest.raises(InputError, match="no role 'ffn_up'"):
        chosen_profiles(table, ["ffn_up"])
    with pytest.raises(InputError, match="no table of the type 'q8_0'"):
        chosen_profiles(table, (), "q8_0")


def test_commands(tmp_path: Path) -> None:
    (tmp_path / "a.kld.json").write_text(json.dumps(TABLE))
    (tmp_path / "bad.json").write_text("[")
    shown = cerebellum(tmp_path, "profile", "show", "a.kld.json", "--role", "ffn_gate")
    assert shown.returncode == 0, shown.stderr
    assert "▁▂▃▄▅▆▇█" in shown.stdout
    assert "\x1b" not in shown.stdout
    checked = cerebellum(tmp_path, "transfer-check", "a.kld.json", "a.kld.json", "--role", "ffn_gate", "--json")
    found = json.loads(checked.stdout)["roles"]["ffn_gate"]
    assert (found["verdict"], found["probes"], found["kept"]) == ("holds", 8, 1.0)
    refused(cerebellum(tmp_path, "transfer-check", "a.kld.json", "bad.json"), 2, "bad.json")
    unknown = cerebellum(tmp_path, "profile", "show", "a.kld.json", "--role", "no")
    refused(unknown, 2, "no role 'no'")
    assert "\x1b" not in unknown.stderr
    (tmp_path / "r.toml").write_text('format = "cerebellum-recipe"\nversion = 9\n')
    refused(cerebellum(tmp_path, "recipe", "show", "r.toml"), 2, "r.toml, line 2", "version")
    refused(cerebellum(tmp_path, "recipe", "diff", "r.toml", "absent.toml"), 2)
