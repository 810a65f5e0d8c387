"""Override files: the lines of ``llama-quantize --tensor-type-file``, read."""

from __future__ import annotations

from pathlib import Path

from cerebellum.errors import OverrideError
from cerebellum.gguf.overrides import Overrides, parse_overrides
from cerebellum.text.untrusted import read_regular


def read_overrides(path: Path) -> Overrides:
    """The lines of an override file. Raises `OverrideError`."""
    try:
        text = read_regular(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OverrideError(
            f"can't read the overrides {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from error
    if text.startswith("\ufeff"):
        raise OverrideError(
            f"the overrides {path} begin with a byte-order mark (BOM), which llama-quantize would take for a part of the first pattern; "
            "save the file as UTF-8 without BOM"
        )
    try:
        lines = parse_overrides(text)
    except OverrideError as error:
        raise OverrideError(f"{path.name}, {error}") from error
    if not lines:
        raise OverrideError(f"the overrides {path} hold no line: write pattern=type, one a line, or leave the file out")
    return lines
