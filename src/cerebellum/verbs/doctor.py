"""Is everything here that Cerebellum needs, and does it work? Each check says what is missing for what, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cerebellum import bundled
from cerebellum.cores import n_cores
from cerebellum.errors import CerebellumError
from cerebellum.evals.sandbox.boxes import working_box
from cerebellum.llamacpp.generate.protocol import Prompt
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.results.health import Check, Native

#: Packages that everything needs, and those of the extras: what for.
NEEDED = ("llama-cpp-python", "gguf", "numpy", "scipy", "numba", "click", "jinja2", "rich", "filelock")
EXTRAS = (
    ("lm_eval", "benchmarks from lm-evaluation-harness", "pip install 'cerebellum[bench]'"),
    ("altair", "interactive charts in report.html", "pip install 'cerebellum[report]'"),
    ("vl-convert-python", "interactive charts in report.html", "pip install 'cerebellum[report]'"),
    ("huggingface_hub", "models of a hub, publishing", "pip install 'cerebellum[hub]'"),
)
PROGRAMS = (
    ("ollama", "running a file with `ollama run`", "see Ollama's download page"),
    ("llama-server", "serving a file", "see llama.cpp's releases"),
    ("cmake", "building llama-cpp-python for a GPU", "pip install cmake"),
)
#: How llama-cpp-python is built for a device: `pip` with these CMake arguments.
BUILDS = {
    "NVIDIA (CUDA)": "-DGGML_CUDA=on",
    "Apple (Metal)": "-DGGML_METAL=on",
    "Vulkan": "-DGGML_VULKAN=on",
    "AMD (ROCm)": "-DGGML_HIP=on",
}
#: Instructions whose kernels make most of the speed, as llama.cpp and as Linux name them.
FEATURES = {
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "DOTPROD": "asimddp",
}
_LEAST_DISK, _LEAST_MEMORY = 5 << 30, 4 << 30

#: Asks llama.cpp, in a process of its own, what it is (`LlamaBackend.native`).
AskNative = Callable[[], Native]


def examine(backend: Backend, ask: AskNative, folder: Path) -> list[Check]:
    """Every check, in the order in which it is shown. Raises nothing that a check can say."""
    checks = [*_packages(), *_extras()]
    try:
        facts = ask()
    except CerebellumError as error:
        return [*checks, Check("llama.cpp", "loads", "broken", str(error), build_command()), *_machine(folder)]
    checks += _native(facts)
    checks.append(computes(backend, 0))
    if facts.devices and facts.can_offload:
        checks.append(computes(backend, 99))
    return [*checks, *_machine(folder)]


def build_command(arguments: str = "") -> str:
    """The line that builds the pinned llama-cpp-python anew, for a device by its CMake arguments."""
    flags = f'CMAKE_ARGS="{arguments}" ' if arguments else ""
    return f"{flags}pip install --no-binary llama-cpp-python --force-reinstall --no-deps {pinned()}"


def pinned() -> str:
    """``llama-cpp-python==X``, as this package wants it."""
    try:
        wanted = importlib.metadata.requires("cerebellum") or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    return next(
        (each.split(";")[0].strip() for each in wanted if each.startswith("llama-cpp-python")), "llama-cpp-python"
    )


def _packages() -> Iterator[Check]:
    python = platform.python_version()
    yield Check("packages", "Python", "ok" if sys.version_info >= (3, 11) else "broken", python)
    for name in NEEDED:
        version = _version(name)
        wrong = name == "llama-cpp-python" and version and "==" in pinned() and pinned().partition("==")[2] != version
        state = "warning" if wrong else "ok" if version else "broken"
        text = f"{version}, where {pinned()} is wanted" if wrong else version or "not installed"
        yield Check(
            "packages", name, state, text, "" if state == "ok" else build_command() if wrong else f"pip install {name}"
        )


def _extras() -> Iterator[Check]:
    for name, purpose, mend in EXTRAS:
        version = _version(name)
        yield Check(
            "packages",
            name,
            "ok" if version else "missing",
            version or f"not installed: for {purpose}",
            "" if version else mend,
        )
    for name, purpose, mend in PROGRAMS:
        path = shutil.which(name)
        yield Check(
            "programs",
            name,
            "ok" if path else "missing",
            path or f"not on the path: for {purpose}",
            "" if path else mend,
        )
    box = working_box()
    text = str(box) if box else "nothing isolates what a model writes: for benchmarks that run code"
    yield Check("programs", "sandbox", "ok" if box else "missing", text, "" if box else "sudo apt install bubblewrap")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _native(facts: Native) -> Iterator[Check]:
    yield Check("llama.cpp", "build", "ok", facts.build)
    for device in facts.devices:
        yield Check("llama.cpp", "device", "ok", device)
    if not facts.devices:
        yield Check(
            "llama.cpp",
            "device",
            "missing",
            "the CPU alone: no GPU that this build can use; builds for one are listed below",
        )
    has = _processor_flags()
    unused = [name for name, flag in FEATURES.items() if flag in has and name not in facts.features]
    used = [name for name in FEATURES if name in facts.features]
    yield Check("llama.cpp", "CPU features", "ok", f"kernels use {', '.join(used) or 'none of note'}")
    if unused:
        text = f"the CPU has {', '.join(unused)}, which this build doesn't use"
        yield Check("llama.cpp", "CPU features", "warning", text, build_command("-DGGML_NATIVE=on"))


def _processor_flags() -> frozenset[str]:
    """As Linux lists them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        next((line.split(":")[1].split() for line in lines if line.lower().startswith(("flags", "features"))), ())
    )


def computes(backend: Backend, n_gpu_layers: int) -> Check:
    """Whether the bundled model writes four tokens, twice the same, in a process of its own: a build whose kernels die is noticed here."""
    what = "computes on a GPU" if n_gpu_layers else "computes"
    try:
        first, second = (_written(backend, n_gpu_layers) for _ in range(2))
    except CerebellumError as error:
        mend = (
            build_command("-DGGML_NATIVE=off")
            if not n_gpu_layers
            else "run without -ngl, or rebuild for the device (see below)"
        )
        return Check("llama.cpp", what, "broken", str(error), mend)
    if first != second:
        return Check(
            "llama.cpp", what, "broken", f"the same prompt gave {first!r} and then {second!r}", build_command()
        )
    return Check("llama.cpp", what, "ok", "the bundled model writes, twice the same")


def _written(backend: Backend, n_gpu_layers: int) -> str:
    responder = backend.respond(
        bundled.MODEL, Settings(n_ctx=256, n_gpu_layers=n_gpu_layers, n_threads=min(2, n_cores())), 256
    )
    try:
        tokens = responder.tokenize(["The old house"], special=True)[0]
        return "".join(answer.text for _, answer in responder.write([Prompt(tokens, (), 4)]))
    finally:
        responder.close()


def _machine(folder: Path) -> Iterator[Check]:
    yield Check(
        "machine", "system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}, {n_cores()} cores"
    )
    free = _free_memory()
    if free is not None:
        state = "ok" if free >= _LEAST_MEMORY else "warning"
        yield Check(
            "machine",
            "memory",
            state,
            f"{free / 1e9:.1f} GB free" + ("" if state == "ok" else ": models must be smaller than that"),
        )
    disk = shutil.disk_usage(folder).free
    state = "ok" if disk >= _LEAST_DISK else "warning"
    text = f"{disk / 1e9:.1f} GB free in {folder}"
    yield Check(
        "machine",
        "disk",
        state,
        text if state == "ok" else f"{text}: a run writes its base, its file and the reference's rows there",
    )


def _free_memory() -> int | None:
    """Bytes that programs can still have; None where the system doesn't say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
