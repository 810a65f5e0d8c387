"""Canonical JSON and tagged content hashes. Two measurements share a key only if they agree in everything that can change a number."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError
from cerebellum.text.untrusted import open_regular

_BLOCK = 1 << 22
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys and no spaces. Raises `ValueError` on NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(tag: str, value: Any) -> str:
    """``tag:`` and the first 40 hex digits of the sha256 of the tag and the canonical JSON of ``value``."""
    digest = hashlib.sha256(f"{tag}\n{canonical_json(value)}".encode()).hexdigest()
    return f"{tag}:{digest[:40]}"


def sha256_bytes(data: bytes | memoryview) -> str:
    """Hex sha256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(*paths: Path) -> str:
    """Hex sha256 of a file, or of the bytes of several one after the other. Raises `InputError` if one can't be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open_regular(Path(path)) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"can't read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def stem_of(path: Path) -> str:
    """A model file's name without ``.gguf``, and whole where it ends otherwise: ``Model.v1.5`` keeps its ``.5``. Of a model in several
    files the name that they share."""
    return _SPLIT.sub("", path.stem) if path.suffix.lower() == ".gguf" else path.name


def partial_of(path: Path) -> Path:
    """The hidden name beside ``path`` under which it is written until it is whole; always the same, so that a later try replaces what a
    killed one left."""
    return path.with_name(f".{path.name}.partial")
