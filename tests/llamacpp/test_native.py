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
