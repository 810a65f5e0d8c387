"""What a written file carries of where it comes from."""

from __future__ import annotations

from pathlib import Path

from cerebellum import __version__
from cerebellum.gguf.stamp import DIGITS, PREFIX, Value, joined, stamp, tensor_digests, tensors_key
from cerebellum.keys import content_key, sha256_file

RECIPE, BASE, BUILD, SOURCE, IMATRIX, TENSORS, DIGESTS, EXPECTED = (
    PREFIX + word
    for word in ("recipe", "base", "build", "source_tensors", "imatrix", "tensors", "tensor_digests", "expected_kld")
)


def blank_keys(n_tensors: int, base: str, build: str, has_imatrix: bool) -> dict[str, Value]:
    """Keys as long as those of `provenance`, with an expected KL divergence, for files of so many tensors: what they will take is known
    before the file is."""
    key, digest = content_key("tensors", {}), "0" * DIGITS
    values: dict[str, Value] = {
        PREFIX + "version": __version__,
        RECIPE: content_key("recipe", {}),
        BASE: base,
        BUILD: build,
        SOURCE: key,
        TENSORS: key,
        DIGESTS: digest * n_tensors,
    }
    values |= {IMATRIX: "0" * 64} if has_imatrix else {}
    return {**values, EXPECTED: 0.0}


def provenance(
    path: Path,
    source: Path,
    base: str,
    recipe: str,
    build: str,
    imatrix: Path | None,
    expected_kld: float | None = None,
    source_tensors: str | None = None,
) -> dict[str, Value]:
    """The keys for the file at ``path``, made from ``source``. Both are read whole, once; the source not where the hash over its tensors is
    known (``source_tensors``). Raises `ModelFileError`."""
    digests = tensor_digests(path)
    values: dict[str, Value] = {
        PREFIX + "version": __version__,
        RECIPE: recipe,
        BASE: base,
        BUILD: build,
        SOURCE: source_tensors or tensors_key(tensor_digests(source)),
        TENSORS: tensors_key(digests),
        DIGESTS: joined(digests),
    }
    values |= {} if imatrix is None else {IMATRIX: sha256_file(imatrix)}
    return values if expected_kld is None else {**values, EXPECTED: expected_kld}


def stamp_file(
    path: Path,
    source: Path,
    base: str,
    recipe: str,
    build: str,
    imatrix: Path | None,
    expected_kld: float | None = None,
    source_tensors: str | None = None,
) -> None:
    """Write the keys into the file. Raises `ModelFileError` or `OutputError`."""
    stamp(path, provenance(path, source, base, recipe, build, imatrix, expected_kld, source_tensors))
