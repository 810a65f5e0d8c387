"""`fit`, and the options of `run` that turn a device's memory and a context into a size."""

from __future__ import annotations

from pathlib import Path

import click

from cerebellum.cli.common import guarded, json_option, model_argument, print_json, whole
from cerebellum.cli.console import print_folded, print_narrow
from cerebellum.keyword_checks import RANGES
from cerebellum.keywords import DRIVER_MEMORY, FIT_CTX

CACHE_TYPES = ("F16", "BF16", "F32", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
#: Tokens of a context that anything can be said of.
MOST_CTX = int(RANGES["fit_ctx"][1])
_cache_type = click.Choice(CACHE_TYPES, case_sensitive=False)

vram_option = click.option("--vram", metavar="SIZE", help="Memory of the device: 4GB, 8GiB, a number of bytes.")
cache_k_option = click.option(
    "--cache-type-k", "type_k", type=_cache_type, default="F16", show_default=True, help="Type of the cached keys."
)
cache_v_option = click.option(
    "--cache-type-v", "type_v", type=_cache_type, default="F16", show_default=True, help="Type of the cached values."
)
margin_option = click.option(
    "--margin",
    metavar="SIZE",
    default=DRIVER_MEMORY,
    show_default=True,
    help="Left free for the driver, the screen and other programs.",
)

#: Options of `run` that lead to its size.
FIT_OPTIONS = (
    vram_option,
    click.option(
        "--fit-ctx",
        type=click.IntRange(1, MOST_CTX),
        help=f"With --vram: tokens of context that must fit. [default: {FIT_CTX}]",
    ),
)


def limit_of(vram: str, margin: str) -> int:
    """Bytes of the device that llama.cpp may take. Raises `InputError`."""
    from cerebellum.allocation.sizes import parse_bytes
    from cerebellum.errors import InputError

    whole = parse_bytes(vram, "--vram")
    limit = whole - (parse_bytes(margin, "--margin") if margin != "0" else 0)
    if limit <= 0:
        raise InputError(
            f"--vram {vram} without --margin {margin} leaves nothing; give more memory or a smaller margin"
        )
    return limit


@click.command()
@model_argument
@click.option("--vram", metavar="SIZE", required=True, help="Memory of the device: 4GB, 8GiB, a number of bytes.")
@click.option("-c", "--ctx", "n_ctx", type=click.IntRange(1, MOST_CTX), help="Tokens of context that are asked for.")
@cache_k_option
@cache_v_option
@click.option(
    "-ngl",
    "--gpu-layers",
    "n_gpu_layers",
    type=whole("gpu_layers"),
    default=-1,
    show_default=True,
    help="Layers on the device; -1: all, 0: none (then --vram is the machine's memory).",
)
@click.option(
    "-ub",
    "--ubatch-size",
    "n_ubatch",
    type=whole("ubatch_size"),
    default=512,
    show_default=True,
    help="Tokens decoded at a time.",
)
@click.option(
    "--no-flash-attention", is_flag=True, help="Without flash attention, which llama.cpp uses where the device can."
)
@margin_option
@click.option("--no-check", is_flag=True, help="Don't ask llama.cpp itself.")
@json_option
@guarded
def fit(
    model: Path, vram: str, n_ctx: int | None, type_k: str, type_v: str, n_gpu_layers: int, n_ubatch: int,
    no_flash_attention: bool, margin: str, no_check: bool, as_json: bool,
) -> None:  # fmt: skip
    """Up to which context MODEL fits into a memory: weights, key/value cache and compute buffers, as llama.cpp allocates them.

    Sliding windows, layers that share keys and values and recurrent layers are counted as llama.cpp counts them, for one sequence. The
    result is compared with what llama.cpp itself says, which is asked without loading the weights.

    Example: cerebellum fit model-Q4_K_M.gguf --vram 4GB --cache-type-k Q8_0 --cache-type-v Q8_0
    """
    from cerebellum.gguf.memory import ContextUse
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.report.fit import fit_grid, fit_json, fit_lines
    from cerebellum.verbs.fit import fit_model

    use = ContextUse(n_ctx or 0, type_k.upper(), type_v.upper(), n_gpu_layers, not no_flash_attention, n_ubatch)
    fitted = fit_model(model, limit_of(vram, margin), use, None if no_check else LlamaBackend().memory)
    if as_json:
        print_json(fit_json(fitted))
        return
    print_narrow(fit_grid(fitted))
    for line in fit_lines(fitted):
        print_folded(f"  {line}", indent="    ")
