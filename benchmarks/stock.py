"""Builds the stock llama.cpp programs from the sources that the installed llama-cpp-python was built from.

Numbers of two programs can agree to the last bit only when both come from the same sources and the same compiler
flags. The sdist of llama-cpp-python vendors its llama.cpp, so we build the programs from there with the options that
the wheel's own build uses (Release, shared libraries, `GGML_NATIVE` at its default, whatever `CMAKE_ARGS` adds).

    python -m benchmarks.stock            build what is missing, print the paths
    python -m benchmarks.stock --json     the same, as one JSON object

The result lies in `benchmarks/.stock/<version>` or below the folder named by `CEREBELLUM_STOCK`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "llama-cpp-python"
BUILD_COMMAND = "python -m benchmarks.stock"
TARGETS = ("llama-quantize", "llama-perplexity", "llama-imatrix", "llama-gguf-split")
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",  # scikit-build-core's default, so the wheel's
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_OPENSSL=OFF",  # only downloads need it
)


class StockBuildError(RuntimeError):
    """The stock programs could not be built; the message names the step and what it printed last."""


@dataclass(frozen=True)
class StockPrograms:
    """Paths of the programs, and the llama-cpp-python version whose sources they were built from."""

    quantize: Path
    perplexity: Path
    imatrix: Path
    gguf_split: Path
    version: str


def find_stock() -> StockPrograms | None:
    """The programs of the installed llama-cpp-python's version, or None where they have not been built."""
    try:
        wanted = version(PACKAGE)
    except PackageNotFoundError:
        return None
    programs = _programs(_home(wanted), wanted)
    found = all(os.access(path, os.X_OK) for path in (_home(wanted) / "build" / "bin" / name for name in TARGETS))
    return programs if found and _stamp(programs).is_file() else None


def stock_programs(jobs: int = 2) -> StockPrograms:
    """The programs, built first where they are missing. Raises StockBuildError."""
    return find_stock() or _build(version(PACKAGE), jobs)


def why_not_built() -> str:
    """The reason a test gives when it skips for want of the programs."""
    return f"the stock llama.cpp programs are not built; build them with: {BUILD_COMMAND}"


def _build(wanted: str, jobs: int) -> StockPrograms:
    home = _home(wanted)
    home.mkdir(parents=True, exist_ok=True)
    programs = _programs(home, wanted)
    source = _unpacked(_downloaded(wanted, home), home)
    configure = ["cmake", "-S", str(source), "-B", str(home / "build"), *_generator(), *CMAKE_OPTIONS, *_user_options()]
    _step("configure", configure, home)
    compile_ = ["cmake", "--build", str(home / "build"), "-j", str(jobs), "--target", *TARGETS]
    _step("compile (some minutes)", compile_, home)
    _stamp(programs).write_text(json.dumps({"version": wanted, "configure": configure[5:]}, indent=1) + "\n")
    found = find_stock()
    if found is None:
        raise StockBuildError(f"the build ended well but the programs are not in {programs.quantize.parent}")
    return found


def _downloaded(wanted: str, home: Path) -> Path:
    """The sdist, fetched with pip's own settings where it isn't there yet."""
    name = f"{PACKAGE.replace('-', '_')}-{wanted}.tar.gz"
    if not (home / name).is_file():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE]
        _step("download the sources", [*pip, "--dest", str(home), f"{PACKAGE}=={wanted}"], home)
    return home / name


def _unpacked(sdist: Path, home: Path) -> Path:
    """The vendored llama.cpp; unpacked beside its place and moved: an interrupted unpacking isn't taken for whole."""
    source = home / "source"
    if not source.is_dir():
        _say("unpack the sources")
        partial = home / "source.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(source)
    return source / sdist.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _step(what: str, command: list[str], home: Path) -> None:
    """Run one command with its output in a log file; on failure say what it printed last."""
    _say(what)
    started = time.monotonic()
    log = home / f"{what.partition(' ')[0]}.log"
    try:
        with log.open("w") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    except FileNotFoundError:
        raise StockBuildError(f"{what}: {command[0]} is not installed") from None
    if code != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise StockBuildError(f"{what}: {command[0]} ended with {code}; the end of {log}:\n{last}")
    _say(f"  done in {time.monotonic() - started:.0f} s")


def _home(wanted: str) -> Path:
    default = Path(__file__).resolve().parent / ".stock"
    return Path(os.environ.get("CEREBELLUM_STOCK") or default).absolute() / wanted


def _programs(home: Path, wanted: str) -> StockPrograms:
    folder = home / "build" / "bin"
    quantize, perplexity, imatrix, gguf_split = (folder / name for name in TARGETS)
    return StockPrograms(quantize, perplexity, imatrix, gguf_split, wanted)


def _stamp(programs: StockPrograms) -> Path:
    return programs.quantize.parent / "built.json"


def _generator() -> list[str]:
    return ["-G", "Ninja"] if shutil.which("ninja") else []


def _user_options() -> list[str]:
    """What llama-cpp-python's build takes from the environment too (a GPU backend, for example)."""
    return shlex.split(os.environ.get("CMAKE_ARGS", ""))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Command line: build, then the paths on stdout."""
    parser = argparse.ArgumentParser(prog=BUILD_COMMAND, description="Build the stock llama.cpp programs.")
    parser.add_argument("--jobs", "-j", type=int, default=2, help="compilations at a time (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        programs = stock_programs(options.jobs)
    except StockBuildError as error:
        _say(f"error: {error}")
        return 1
    facts = {name: str(value) for name, value in asdict(programs).items()}
    print(json.dumps(facts) if options.json else "\n".join(f"{name}: {value}" for name, value in facts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
