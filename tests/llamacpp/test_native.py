"""The tables of `cerebellum.gguf.types` against the library that is loaded: a new llama.cpp can't drift from them unseen."""

from __future__ import annotations

import pytest

from cerebellum.gguf.types import TYPES, QuantType

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_a_type_is_what_ggml_says(kind: QuantType) -> None:
    from cerebellum.llamacpp.native import ggml

    library = ggml()
    assert library.ggml_type_name(kind.id).decode().upper() == kind.name
    assert library.ggml_blck_size(kind.id) == kind.block_size
    assert library.ggml_type_size(kind.id) == kind.block_bytes
    assert library.ggml_row_size(kind.id, 4 * kind.block_size) == kind.n_bytes(4 * kind.block_size)


@pytest.mark.parametrize("kind", [t for t in TYPES.values() if t.quantized], ids=lambda t: t.name)
def test_what_ggml_itself_refuses_without_importance_is_listed(kind: QuantType) -> None:
    from cerebellum.gguf.types import NEEDS_IMATRIX
    from cerebellum.llamacpp.native import ggml

    if ggml().ggml_quantize_requires_imatrix(kind.id):
        assert kind.name in NEEDS_IMATRIX


def test_only_what_llama_cpp_logs_as_an_error_is_one() -> None:
    """A metadata key with "unknown" in its name is none, nor is a line of the load before; a line may come in pieces."""
    from cerebellum.llamacpp.native import NativeLog

    info, warning, error, more = 2, 3, 4, 5
    log = NativeLog()
    log._take(error, b"of the model before\n", None)
    log.clear()
    log._take(info, b"llama_model_loader: - kv  21: tokenizer.ggml.unknown_token_id u32 = 0\n", None)
    log._take(warning, b"a failed guess\n", None)
    log._take(error, b"llama_model_load: error loading model: ", None)
    log._take(more, b"missing tensor 'x'\n", None)
    log._take(info, b"print_info: rope_finetuned = unknown\n", None)
    log._take(error, b"llama_model_load_from_file_impl: failed to load model\n", None)
    assert log.errors() == "llama_model_load: error loading model: missing tensor 'x'"
    assert list(log.warned) == ["a failed guess"]


def test_without_an_error_the_last_lines_are_told() -> None:
    from cerebellum.llamacpp.native import NativeLog

    log = NativeLog()
    log._take(2, b"one\ntwo\nthree\n", None)
    assert log.errors() == "two; three"
