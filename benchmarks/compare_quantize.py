"""Files written by the stock llama-quantize and by `cerebellum quantize`: every tensor byte for byte, every metadata key.

python -m benchmarks.compare_quantize MODEL --type Q3_K_M [--type Q4_K_M] [--overrides FILE] [--imatrix FILE] [--keep DIR]

Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from gguf import GGUFReader, ReaderTensor

from benchmarks.running import CommandFailedError, run, run_ours, show
from benchmarks.stock import StockBuildError, stock_programs


@dataclass(frozen=True)
class Differences:
    """Names of what isn't the same in two GGUF files, and how much there was to compare."""

    n_tensors: int
    n_bytes: int
    n_keys: int
    tensors: tuple[str, ...]
    keys: tuple[str, ...]
    same_file: bool

    @property
    def none(self) -> bool:
        """All tensors and all metadata are the same."""
        return not self.tensors and not self.keys


@dataclass(frozen=True)
class Case:
    """One file to write twice."""

    model: Path
    ftype: str
    overrides: Path | None
    imatrix: Path | None

    def row(self, found: Differences) -> list[str]:
        """For the table."""
        with_ = [path.name if path else "–" for path in (self.overrides, self.imatrix)]
        tensors = f"{found.n_tensors - len(found.tensors)} of {found.n_tensors}"
        keys = f"{found.n_keys - len(found.keys)} of {found.n_keys}"
        return [
            self.model.name,
            self.ftype,
            *with_,
            tensors,
            f"{found.n_bytes:,}",
            keys,
            "yes" if found.same_file else "no",
        ]


def differences(one: Path, other: Path) -> Differences:
    """Compare two GGUF files: tensors by type, shape and bytes; metadata by type and value."""
    left, right = GGUFReader(one), GGUFReader(other)
    tensors, others = ({tensor.name: tensor for tensor in reader.tensors} for reader in (left, right))
    keys, other_keys = (_metadata(reader) for reader in (left, right))
    unlike = [name for name in tensors | others if not _same_tensor(tensors.get(name), others.get(name))]
    unlike_keys = [name for name in keys | other_keys if keys.get(name) != other_keys.get(name)]
    n_bytes = sum(tensor.n_bytes for tensor in left.tensors)
    same_file = one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    return Differences(
        len(tensors | others), n_bytes, len(keys | other_keys), tuple(unlike), tuple(unlike_keys), same_file
    )


def write_both(case: Case, folder: Path, allow_requantize: bool) -> tuple[Path, Path]:
    """Write the case with both programs; (stock's file, ours). Raises CommandFailedError."""
    stock, ours = (folder / f"{case.model.stem}-{case.ftype}.{who}.gguf" for who in ("stock", "ours"))
    imatrix: list[str | Path] = ["--imatrix", case.imatrix] if case.imatrix else []
    override: list[str | Path] = ["--tensor-type-file", case.overrides] if case.overrides else []
    requantize = ["--allow-requantize"] if allow_requantize else []
    run([stock_programs().quantize, *requantize, *imatrix, *override, case.model, stock, case.ftype])
    ours.unlink(missing_ok=True)
    override = ["--overrides", case.overrides] if case.overrides else []
    run_ours("quantize", case.model, case.ftype, *override, *imatrix, "--out", ours)
    return stock, ours


def compared(options: argparse.Namespace) -> Iterator[tuple[Case, Differences]]:
    """Every model × type × override file."""
    for model, ftype, overrides in product(options.models, options.type, options.overrides or [None]):
        case = Case(model, ftype, overrides, options.imatrix)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(options.keep or scratch)
            folder.mkdir(parents=True, exist_ok=True)
            yield case, differences(*write_both(case, folder, options.allow_requantize))


def _same_tensor(one: ReaderTensor | None, other: ReaderTensor | None) -> bool:
    if one is None or other is None:
        return False
    same_kind = one.tensor_type == other.tensor_type and one.shape.tolist() == other.shape.tolist()
    return same_kind and one.data.tobytes() == other.data.tobytes()


def _metadata(reader: GGUFReader) -> dict[str, object]:
    # The GGUF.* fields are the header: counts and version.
    return {name: (field.types, field.contents()) for name, field in reader.fields.items()}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_quantize", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--type", action="append", required=True, help="file type, as Q3_K_M; may be repeated")
    parser.add_argument("--overrides", action="append", type=Path, help="override file; may be repeated")
    parser.add_argument("--imatrix", type=Path, help="importance matrix for both programs")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the written files here")
    parser.add_argument("--allow-requantize", action="store_true", help="the source is quantized already")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 where all is the same, 1 where not, 2 where a program failed."""
    options = arguments().parse_args(argv)
    try:
        found = list(compared(options))
    except (CommandFailedError, StockBuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = ["source", "type", "overrides", "imatrix", "same tensors", "bytes", "same keys", "same file"]
    show("Written files", columns, (case.row(result) for case, result in found))
    for case, result in found:
        for name in (*result.tensors, *result.keys):
            print(f"differs: {case.model.name} {case.ftype}: {name}")
    same = all(result.none for _, result in found)
    print("identical" if same else "DIFFERENT")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
