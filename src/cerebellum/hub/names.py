"""``hf:org/name[@revision][:file or label]``: which files of a repository are meant. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cerebellum.errors import InputError
from cerebellum.gguf.split_set import SplitName
from cerebellum.quoting import name as quoted

PREFIX = "hf:"
_WORD = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"hf:(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>[^:@\s]+))?(?::(?P<which>[^\x00-\x1f]+))?")
#: A file's label: its quantization, as names have it.
_LABEL = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]+)*|TQ[12]_0|MXFP4(?:_[A-Z]+)?|BF16|F16|F32))(?=$|[-._/])",
    re.IGNORECASE,
)
#: Names of a repository that are listed in a message.
_LISTED = 12


@dataclass(frozen=True, slots=True)
class HubName:
    """``which``: a file, a label, or "" for the only model."""

    repo: str
    revision: str = ""
    which: str = ""

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Raises `InputError`."""
        if (match := _NAME.fullmatch(text)) is None:
            raise InputError(
                f"{quoted(text)} is no model of a hub: write hf:org/name, hf:org/name:Q4_K_M or hf:org/name:file.gguf"
            )
        if ".." in (match["revision"] or "").split("/"):
            raise InputError(f"{quoted(text)} has no revision after the @; leave it out for the newest")
        return cls(match["repo"], match["revision"] or "", match["which"] or "")

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}{self.revision and '@' + self.revision}{self.which and ':' + self.which}"


def is_hub_name(value: object) -> bool:
    """Whether ``value`` (a path or a text) is meant as one."""
    return str(value).startswith(PREFIX)


def label_of(path: str) -> str:
    """The label in a file's name (or, failing that, in its folder's), upper case; "" where there is none."""
    labels = _LABEL.findall(_stem(path))
    return str(labels[-1]).upper() if labels else ""


def models_in(paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """First file → all files, of each model among the files of a repository: GGUFs but importance matrices and projectors."""
    models: dict[str, tuple[str, ...]] = {}
    for path in sorted(paths):
        folder, slash, file = path.rpartition("/")
        if not file.lower().endswith(".gguf") or re.search("mmproj|imatrix", file, re.IGNORECASE):
            continue
        split = SplitName.parse(file)
        if split is None or split.number == 1:
            models[path] = (path,) if split is None else tuple(f"{folder}{slash}{name}" for name in split.all())
    return models


def choose(name: HubName, paths: Iterable[str]) -> tuple[str, ...]:
    """The files that ``name`` means among those of its repository, the one to open first. Raises `InputError` with what there is."""
    known = sorted(paths)
    models = models_in(known)
    files = _meant(name, known, models)
    if missing := [path for path in files if path not in known]:
        raise InputError(f"{name} is a model in {len(files)} files, and {quoted(missing[0])} is not in the repository")
    return files


def _meant(name: HubName, known: list[str], models: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if name.which in known:
        return models.get(name.which, (name.which,))
    if not name.which and len(models) == 1:
        return next(iter(models.values()))
    if not models:
        raise InputError(f"{name.repo} holds no GGUF{_close(name.which, known)}")
    labels = {path: label_of(path) for path in models}
    there = ", ".join(dict.fromkeys(_called(name, path, labels) for path in list(models)[:_LISTED]))
    there += f" and {len(models) - _LISTED} more" if len(models) > _LISTED else ""
    if not name.which:
        raise InputError(f"{name.repo} holds {len(models)} models; name one: {there}")
    if "/" in name.which or name.which.lower().endswith(".gguf"):
        raise InputError(f"{name.repo} has no file {quoted(name.which)}{_close(name.which, known)}; it has {there}")
    wanted = [path for path, label in labels.items() if label == name.which.upper()]
    if not wanted:
        close = difflib.get_close_matches(name.which.upper(), labels.values(), 1, 0.5)
        hint = f"; did you mean {name.repo}:{close[0]}? It" if close and close[0] else "; it"
        raise InputError(f"{name.repo} has no model labelled {quoted(name.which)}{hint} has {there}")
    if len(wanted) > 1:
        files = ", ".join(quoted(path) for path in wanted[:_LISTED])
        raise InputError(f"{name.repo} has {len(wanted)} models labelled {quoted(name.which)}; name the file: {files}")
    return models[wanted[0]]


def _called(name: HubName, path: str, labels: Mapping[str, str]) -> str:
    """How a model of the repository is asked for: by its label where that is its own."""
    label = labels[path]
    return quoted(label if label and list(labels.values()).count(label) == 1 else path)


def _close(which: str, known: list[str]) -> str:
    close = difflib.get_close_matches(which, known, 1, 0.6)
    return f"; did you mean {quoted(close[0])}?" if close else ""


def _stem(path: str) -> str:
    stem = re.sub(r"\.gguf$", "", path, flags=re.IGNORECASE)
    return re.sub(r"-\d{5}-of-\d{5}$", "", stem)
