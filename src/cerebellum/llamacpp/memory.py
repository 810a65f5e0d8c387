"""What llama.cpp itself would allocate for a model and a context, from its own log: the model is opened without weights (`no_alloc`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from cerebellum.errors import EngineError, ModelFileError
from cerebellum.gguf.memory import Allocated, ContextUse, cache_type
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc

#: `LLAMA_FLASH_ATTN_TYPE_DISABLED` and `…_ENABLED` of llama.h.
_FLASH = {False: 0, True: 1}
_CACHE = re.compile(r"size =\s*(?P<mib>[\d.]+) MiB \(\s*\d+ cells")
_COMPUTE = re.compile(r"\s(?P<device>\S+) compute buffer size =\s*(?P<mib>[\d.]+) MiB")
_OUTPUT = re.compile(r"output buffer size =\s*(?P<mib>[\d.]+) MiB")


def allocated(path: Path, use: ContextUse) -> Allocated:
    """Bytes, to a hundredth of a MiB as llama.cpp prints them. Raises `ModelFileError` or `EngineError` with what llama.cpp said."""
    log = native.native_log()
    log.lines.clear()
    model = _opened(path, use)
    try:
        context = lc.llama_init_from_model(model, _parameters(use))
        if not context:
            raise EngineError(f"llama.cpp can't open {path.name} with a context of {use.n_ctx}: {log.errors()}")
        lc.llama_free(context)
    finally:
        lc.llama_model_free(model)
    return read_log(log.lines)


def _opened(path: Path, use: ContextUse) -> object:
    params = lc.llama_model_default_params()
    params.no_alloc, params.use_extra_bufts = True, False
    params.load_mode = lc.LLAMA_LOAD_MODE_NONE
    params.n_gpu_layers = use.n_gpu_layers
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelFileError(f"llama.cpp can't load {path}: {native.native_log().errors()}")
    return model


def _parameters(use: ContextUse) -> object:
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_ubatch = use.n_ctx, use.n_ubatch
    params.type_k, params.type_v = cache_type(use.type_k).id, cache_type(use.type_v).id
    params.flash_attn_type = _FLASH[use.flash_attention]
    params.swa_full = False
    return params


def read_log(lines: Iterable[str]) -> Allocated:
    """The sizes in llama.cpp's log. Raises `EngineError` where it says nothing of a compute buffer."""
    text = "\n".join(lines)
    compute: dict[str, int] = {}
    for match in _COMPUTE.finditer(text):
        compute[match["device"]] = _bytes(match["mib"])  # the last of them counts: it is reserved more than once
    if not compute:
        raise EngineError("llama.cpp did not say how large its buffers are; is it the pinned build?")
    cache = sum(_bytes(match["mib"]) for match in _CACHE.finditer(text))
    return Allocated(cache, sum(_bytes(match["mib"]) for match in _OUTPUT.finditer(text)), compute)


def _bytes(mib: str) -> int:
    return round(float(mib) * (1 << 20))
