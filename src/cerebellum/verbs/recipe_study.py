"""The recipe that a study found: its written file's types, with the figures and hashes of its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from cerebellum.errors import InputError
from cerebellum.gguf import model_file
from cerebellum.llamacpp.protocol import Backend
from cerebellum.quoting import name as quoted
from cerebellum.recipes.recipe import Figure, Recipe
from cerebellum.verbs.recipe import recipe_of_gguf, reduced


def read_report(folder: Path) -> Mapping[str, Any]:
    """The study's report.json. Raises `InputError` where it can't be read or has no written file."""
    path = folder / "report.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"can't read the study's {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(entry(data, "written", "sha256"), str):
        if isinstance(data, Mapping) and data.get("kind") == "ladder" and isinstance(data.get("recipes"), list):
            labels = ", ".join(quoted(str(entry(one, "label"))) for one in data["recipes"][:12])
            raise InputError(
                f"{quoted(str(folder))} holds a ladder of several files: give the folder of one of them, {labels}"
            )
        raise InputError(f"the study's {path} has no written file: it is not finished, or no report of cerebellum's")
    return data if isinstance(data, Mapping) else {}


def entry(data: Any, *keys: str) -> Any:
    """What lies under ``keys``; None where anything on the way is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def recipe_of_study(folder: Path) -> Recipe:
    """The whole type map of the file that the study wrote, on its base. Raises `InputError` where report or file are missing."""
    data = read_report(folder)
    name, base = entry(data, "written", "path"), entry(data, "written", "ftype")
    if not isinstance(name, str) or not isinstance(base, str):
        raise InputError(f"{folder / 'report.json'} doesn't say what was written")
    file = PurePath(name.replace("\\", "/")).name
    path = folder / file
    if (
        not path.exists() and (folder.parent / file).exists()
    ):  # a ladder's files lie beside the folders of their reports
        path = folder.parent / file
    recipe = recipe_of_gguf(model_file.read_model(path), base)
    facts = {
        "imported_from": path.name,
        "build": entry(data, "facts", "build"),
        "source": entry(data, "facts", "model", "sha256"),
        "imatrix": entry(data, "facts", "imatrix", "sha256"),
        "search_text": entry(data, "facts", "splits", "search", "text_sha256"),
        "report_text": entry(data, "facts", "splits", "report", "text_sha256"),
    }
    known = {key: value for key, value in facts.items() if isinstance(value, str)}
    measured = _figure(entry(data, "written", "summary", "divergence", "mean"))
    n = entry(data, "written", "equal_chunks")
    proof = f"the written file gave the sums measured in memory, bit for bit, on {n} chunks of the report text"
    return replace(
        recipe,
        made_with={**recipe.made_with, **known},
        objective="kld" if measured else "",
        measured=measured,
        verified=proof if isinstance(n, int) else "",
    )


def import_study(
    backend: Backend,
    folder: Path,
    model: Path | None = None,
    imatrix: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Recipe:
    """As `recipe_of_study`; with ``model`` only what differs from the base is named. Raises a `CerebellumError`."""
    recipe = recipe_of_study(folder)
    if model is None:
        return recipe
    return reduced(backend, recipe, model_file.read_model(model), folder.name, imatrix, warn)


def _figure(data: Any) -> Figure | None:
    values = [entry(data, key) for key in ("estimate", "low", "high")]
    mean, low, high = (float(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values)
    return None if mean is None else Figure(mean, low, high)
