"""Profiles to look at: those of a published table, or what the damage model of a study says."""

from __future__ import annotations

from pathlib import Path

from cerebellum.allocation.sensitivity import KIND, map_of
from cerebellum.profiles.origin import table_of_map
from cerebellum.profiles.profile import SensitivityTable, parse_table
from cerebellum.verbs.allocation.origin import map_of_folder
from cerebellum.verbs.allocation.sensitivity import read_map
from cerebellum.verbs.transfer_check import read_json


def read_profiles(path: Path) -> SensitivityTable:
    """Of a ``*.kld.json``, a ``sensitivity.json`` or the folder of an allocation. Raises `InputError`."""
    if path.is_dir():
        return table_of_map(read_map(map_of_folder(path)), path.resolve().name)
    data = read_json(path)
    if isinstance(data, dict) and data.get("kind") == KIND:
        return table_of_map(map_of(data, path.name), path.name)
    return parse_table(data, path.name)
