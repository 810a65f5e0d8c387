"""What a transfer starts from, read: a sensitivity map, the folder of an allocation, a recipe, a GGUF's type map."""

from __future__ import annotations

from pathlib import Path

from cerebellum.domain import Model
from cerebellum.errors import InputError
from cerebellum.gguf import model_file
from cerebellum.profiles.layout import Layout, layout_of
from cerebellum.profiles.origin import Origin, origin_of_map, origin_of_recipe
from cerebellum.quoting import name as quoted
from cerebellum.verbs.allocation.sensitivity import read_map
from cerebellum.verbs.recipe import is_gguf, read_recipe

#: The file of an allocation's folder.
MAP_FILE = "sensitivity.json"


def read_origin(path: Path) -> Origin:
    """What can be carried over from ``path``. Raises `InputError`."""
    if path.is_dir():
        return origin_of_map(read_map(map_of_folder(path)), path.resolve().name)
    if path.suffix.lower() == ".json":
        return origin_of_map(read_map(path), path.name)
    recipe = read_recipe(path)
    if is_gguf(path):
        layout = layout_of(model_file.read_model(path))
    else:
        layout = Layout(recipe.model.blocks)
    if layout.n_blocks < 1:
        raise InputError(
            f"{quoted(path.name)} doesn't say how many blocks its model has ([model], blocks), so there is no depth to go by"
        )
    return origin_of_recipe(recipe, layout, path.name)


def map_of_folder(path: Path) -> Path:
    """A study's map. Raises `InputError`, which names the maps of a ladder's folder."""
    if (path / MAP_FILE).exists():
        return path / MAP_FILE
    below = sorted(p.parent.name for p in path.glob(f"*/{MAP_FILE}"))
    if below:
        raise InputError(
            f"{quoted(str(path))} is the folder of a ladder; give one of its sizes, {quoted(str(path / below[0]))} for example"
        )
    raise InputError(
        f"{quoted(str(path))} has no {MAP_FILE}: it is not the folder of a finished allocation (`cerebellum run`)"
    )


def check_origin(origin: Origin, model: Path) -> None:
    """Raises `InputError` where the map is of this very model: nothing needs to be carried over."""
    if origin.sha256 is not None and origin.sha256 == model_file.sha256_model(model):
        raise InputError(
            f"{origin.label} is a map of {model.name} itself: use `cerebellum run {model.name} --map`, which measures no anchors"
        )


def other_family(origin: Origin, model: Model) -> tuple[str, ...]:
    """What is worth a warning: profiles rarely hold across families."""
    if not origin.architecture or origin.architecture == model.architecture:
        return ()
    families = f"{quoted(origin.label)} is of the family {quoted(origin.architecture)}, {model.path.name} of {model.architecture}"
    return (f"{families}; the probes will say whether anything holds",)
