"""Writes one of the generated models: python -m benchmarks.models medium FOLDER"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.models import E2B, MEDIUM, NoRoomError, Shape, n_weights, small, write_model

NAMED: dict[str, Shape] = {"small": small(), "medium": MEDIUM, "e2b": E2B}


def main(argv: list[str] | None = None) -> int:
    """Write the model, print its path and size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("name", choices=NAMED, help="e2b: the shape of Gemma 4 E2B, 9.3 GB")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    shape, started = NAMED[options.name], time.monotonic()
    path = options.folder / f"random-{options.name}-{shape.stored_as}.gguf"
    try:
        write_model(path, shape)
    except NoRoomError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - started
    print(f"{path}: {n_weights(shape):,} weights, {path.stat().st_size:,} bytes, written in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
