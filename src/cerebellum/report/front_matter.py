"""The YAML block at the head of a model card, as the model hub reads it (its *Model Card* metadata), from the source's metadata.

What the metadata doesn't say and nobody can guess is left out, with a comment that names the key. `for_repository` fills in what is known
only when the card is published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cerebellum.quoting import printable, yaml_string
from cerebellum.text.chat import TEMPLATE

#: What stands for names that nobody knows before the card is published.
UNKNOWN_BASE, UNKNOWN_MAKER = "OWNER/NAME", "YOUR-NAME"
UNKNOWN_REPO = f"{UNKNOWN_MAKER}/REPOSITORY"

_REPOSITORY = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+?)/?$", re.ASCII)
_HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_TAG = re.compile(r"[\w][\w .+/-]{0,60}", re.ASCII)
_SLUG = re.compile(r"[^a-z0-9]+")
#: Ends of names that are files, not data sets of a hub.
_FILES = (".txt", ".raw", ".json", ".jsonl", ".parquet", ".md", ".gguf")
#: Tags of the source that say what a source is, not what this file is.
_NOT_OURS = frozenset({"transformers", "safetensors", "pytorch", "text-generation-inference", "endpoints_compatible"})
_MOST_TAGS = 20
#: The licenses that the hub knows by these names; any other is "other" with its name.
LICENSES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0
    bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0
    odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other""".split()
)


def front_matter(
    metadata: Mapping[str, Any], name: str, results: Sequence[Mapping[str, Any]] = (), *, has_imatrix: bool = False
) -> list[str]:
    """The block's lines, the two rules included. ``name``: of the model-index; ``results``: its entries (`measured_results`)."""
    known: dict[str, Any] = {}
    if languages := [word for word in texts(metadata, "general.languages") if _LANGUAGE.fullmatch(word)]:
        known["language"] = languages
    known |= license_of(metadata)
    base = base_model(metadata)
    known |= {"base_model": base} if base != UNKNOWN_BASE else {}
    known |= {"base_model_relation": "quantized", "quantized_by": UNKNOWN_MAKER, "pipeline_tag": "text-generation"}
    known["library_name"] = "gguf"
    known["tags"] = tags_of(metadata, has_imatrix=has_imatrix)
    if datasets := datasets_of(metadata):
        known["datasets"] = datasets
    if results:
        known["model-index"] = [{"name": printable(name), "results": list(results)}]
    lines = ["---", *yaml_lines(known), "---"]
    if base == UNKNOWN_BASE:
        lines.insert(1, f"# base_model: {UNKNOWN_BASE}, the hub's name of the source: its metadata doesn't say it")
    return [f"{line}  # replace" if line.startswith("quantized_by") else line for line in lines]


def for_repository(card: str, repo: str, base: str | None = None) -> str:
    """The card for the hub's repository ``repo`` (``user/name``): names that were unknown are filled in, ``base`` where it is given."""
    user = repo.partition("/")[0]
    card = re.sub(r"(?m)^quantized_by: .*  # replace$", f"quantized_by: {yaml_string(user)}", card, count=1)
    if base is not None:
        card = re.sub(r"(?m)^# base_model: .*$", f"base_model: {yaml_string(base)}", card, count=1)
    return card.replace(UNKNOWN_REPO, repo)


def texts(metadata: Mapping[str, Any], key: str) -> list[str]:
    """The strings under ``key``: one, or a list of them."""
    value = metadata.get(key)
    values = [value] if isinstance(value, str) else value if isinstance(value, tuple | list) else []
    return [each.strip() for each in values if isinstance(each, str) and each.strip()]


def base_model(metadata: Mapping[str, Any]) -> str:
    """OWNER/NAME of the model as its metadata knows it."""
    for key in ("general.repo_url", "general.source.repo_url", "general.base_model.0.repo_url"):
        value = metadata.get(key)
        if isinstance(value, str) and (match := _REPOSITORY.match(value)):
            return match[1]
    return UNKNOWN_BASE


def license_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The license by the hub's name, or "other" with its own name and where it can be read."""
    stored = next(iter(texts(metadata, "general.license")), "")
    if not stored:
        return {}
    if stored.lower() in LICENSES:
        return {"license": stored.lower()}
    name = next(iter(texts(metadata, "general.license.name")), stored)
    link = next(iter(texts(metadata, "general.license.link")), "")
    entry = {"license": "other", "license_name": _SLUG.sub("-", name.lower()[:80]).strip("-") or "unnamed"}
    return entry | ({"license_link": link[:300]} if re.match(r"https?://[^\s\"'<>]+$", link) else {})


def tags_of(metadata: Mapping[str, Any], *, has_imatrix: bool) -> list[str]:
    """Ours, then the source's."""
    tags = ["gguf", "quantized", "cerebellum", "mixed-precision", "llama.cpp"]
    tags += (["imatrix"] if has_imatrix else []) + (["conversational"] if metadata.get(TEMPLATE) else [])
    others = [t for t in texts(metadata, "general.tags") if _TAG.fullmatch(t) and t not in _NOT_OURS]
    return list(dict.fromkeys([*tags, *others[:_MOST_TAGS]]))


def datasets_of(metadata: Mapping[str, Any]) -> list[str]:
    """Data sets of a hub that the importance matrix was made on, as the file says: names of files are none."""
    named = [*texts(metadata, "quantize.imatrix.dataset"), *texts(metadata, "imatrix.datasets")]
    return [n for n in dict.fromkeys(named) if _HUB_NAME.fullmatch(n) and not n.lower().endswith(_FILES)]


# -- results -----------------------------------------------------------------------------------------------------------


def measured_results(data: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An entry of the model-index: ``data`` names the text or the questions (`name`, `type`, `args`)."""
    return {"task": {"type": "text-generation"}, "dataset": dict(data), "metrics": [dict(m) for m in metrics]}


def metric(kind: str, name: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """One figure with its 95 % interval."""
    limits = {} if low is None or high is None else {"args": {"low": low, "high": high, "level": 0.95}}
    return {"type": kind, "name": name, "value": value, **limits}


def slug(text: str) -> str:
    """``text`` as a word of small letters, digits and dashes."""
    return _SLUG.sub("-", text.lower()).strip("-")[:80] or "text"


# -- YAML --------------------------------------------------------------------------------------------------------------


def yaml_lines(value: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """A mapping of strings, numbers, lists and mappings as YAML. Keys are words of ours."""
    room = " " * indent
    for key, held in value.items():
        if isinstance(held, Mapping):
            yield f"{room}{key}:"
            yield from yaml_lines(held, indent + 2)
        elif isinstance(held, list):
            yield f"{room}{key}:"
            for item in held:
                yield from _yaml_item(item, indent)
        else:
            yield f"{room}{key}: {_scalar(held)}"


def _yaml_item(item: Any, indent: int) -> Iterator[str]:
    room = " " * indent
    if not isinstance(item, Mapping):
        yield f"{room}- {_scalar(item)}"
        return
    first, *others = yaml_lines(item, indent + 2)
    yield f"{room}- {first.strip()}"
    yield from others


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) if "e" not in repr(value) else f"{value:.12f}"
    return yaml_string(str(value)).replace("<", "\\u003c")  # a viewer that knows no front matter takes it for text
