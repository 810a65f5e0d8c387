"""The ggml types and the file types (ftypes) of llama.cpp: sizes, shapes they fit, what they need.

The table is checked against the library that is actually loaded (``tests/llamacpp/test_native.py``), so a new llama.cpp can't
drift from it unseen. Type names are llama.cpp's, upper case (``Q3_K``); ftype names are those of ``llama-quantize`` (``Q3_K_M``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cerebellum.errors import TypeChoiceError
from cerebellum.quoting import did_you_mean


@dataclass(frozen=True, slots=True)
class QuantType:
    """One ggml type: ``block_bytes`` bytes hold ``block_size`` weights of one row."""

    name: str
    id: int
    block_size: int
    block_bytes: int
    quantized: bool = True

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight takes, scales included."""
        return 8.0 * self.block_bytes / self.block_size

    def fits(self, row_length: int) -> bool:
        """Whether a row of ``row_length`` weights is a whole number of blocks."""
        return row_length % self.block_size == 0

    def n_bytes(self, n_elements: int) -> int:
        """Bytes of ``n_elements`` weights in whole blocks."""
        return n_elements // self.block_size * self.block_bytes


_ROWS = (
    ("F32", 0, 1, 4, False),
    ("F16", 1, 1, 2, False),
    ("BF16", 30, 1, 2, False),
    ("Q1_0", 41, 128, 18, True),
    ("Q2_0", 42, 64, 18, True),
    ("Q4_0", 2, 32, 18, True),
    ("Q4_1", 3, 32, 20, True),
    ("Q5_0", 6, 32, 22, True),
    ("Q5_1", 7, 32, 24, True),
    ("Q8_0", 8, 32, 34, True),
    ("Q2_K", 10, 256, 84, True),
    ("Q3_K", 11, 256, 110, True),
    ("Q4_K", 12, 256, 144, True),
    ("Q5_K", 13, 256, 176, True),
    ("Q6_K", 14, 256, 210, True),
    ("IQ1_S", 19, 256, 50, True),
    ("IQ1_M", 29, 256, 56, True),
    ("IQ2_XXS", 16, 256, 66, True),
    ("IQ2_XS", 17, 256, 74, True),
    ("IQ2_S", 22, 256, 82, True),
    ("IQ3_XXS", 18, 256, 98, True),
    ("IQ3_S", 21, 256, 110, True),
    ("IQ4_NL", 20, 32, 18, True),
    ("IQ4_XS", 23, 256, 136, True),
    ("TQ1_0", 34, 256, 54, True),
    ("TQ2_0", 35, 256, 66, True),
    ("MXFP4", 39, 32, 17, True),
    ("NVFP4", 40, 64, 36, True),
)

#: Types that a weight can be stored in, by name.
TYPES: dict[str, QuantType] = {row[0]: QuantType(*row) for row in _ROWS}

#: Types that a file's tensors can have and no weight is turned into or out of: tables of integers, doubles. They are copied.
COPIED: dict[str, QuantType] = {
    name: QuantType(name, number, 1, n_bytes, False)
    for name, number, n_bytes in (("I8", 24, 1), ("I16", 25, 2), ("I32", 26, 4), ("I64", 27, 8), ("F64", 28, 8))
}
#: All that a tensor can be stored as.
STORED: dict[str, QuantType] = TYPES | COPIED
TYPES_BY_ID: dict[int, QuantType] = {t.id: t for t in STORED.values()}

#: llama.cpp refuses these without an importance matrix (``tensor_requires_imatrix`` in llama-quant.cpp).
NEEDS_IMATRIX = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})

#: Tensors that go without an importance matrix, but for the types that ggml itself refuses without one.
EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight", "output.weight"})
_ALWAYS_IMATRIX = frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"})


def needs_imatrix(kind: str, tensor: str, ftype: str = "") -> bool:
    """Whether ``tensor`` can be stored as ``kind`` only with an entry in an importance matrix; under Q2_K_S llama.cpp wants one for Q2_K
    too."""
    if kind == "Q2_K" and ftype == "Q2_K_S":
        return tensor not in EMBEDDINGS
    return kind in NEEDS_IMATRIX and (kind in _ALWAYS_IMATRIX or tensor not in EMBEDDINGS)


def any_needs_imatrix(types: Mapping[str, str], ftype: str = "") -> bool:
    """Whether a file with these ``types`` (tensor → type, as a dry run says) can't be made without an importance matrix."""
    return any(needs_imatrix(kind, tensor, ftype) for tensor, kind in types.items())


#: What llama.cpp stores instead where a row isn't a whole number of blocks (``tensor_type_fallback`` in llama-quant.cpp).
_FALLBACK = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
        "IQ4_NL",
    ),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

#: File types by the name that ``llama-quantize`` takes: (llama_ftype, default ggml type).
FTYPES: dict[str, tuple[int, str]] = {
    "F32": (0, "F32"),
    "F16": (1, "F16"),
    "BF16": (32, "BF16"),
    "Q1_0": (40, "Q1_0"),
    "Q2_0": (41, "Q2_0"),
    "Q4_0": (2, "Q4_0"),
    "Q4_1": (3, "Q4_1"),
    "Q5_0": (8, "Q5_0"),
    "Q5_1": (9, "Q5_1"),
    "Q8_0": (7, "Q8_0"),
    "Q2_K": (10, "Q2_K"),
    "Q2_K_S": (21, "Q2_K"),
    "Q3_K_S": (11, "Q3_K"),
    "Q3_K_M": (12, "Q3_K"),
    "Q3_K_L": (13, "Q3_K"),
    "Q4_K_S": (14, "Q4_K"),
    "Q4_K_M": (15, "Q4_K"),
    "Q5_K_S": (16, "Q5_K"),
    "Q5_K_M": (17, "Q5_K"),
    "Q6_K": (18, "Q6_K"),
    "IQ1_S": (24, "IQ1_S"),
    "IQ1_M": (31, "IQ1_M"),
    "IQ2_XXS": (19, "IQ2_XXS"),
    "IQ2_XS": (20, "IQ2_XS"),
    "IQ2_S": (28, "IQ2_XS"),
    "IQ2_M": (29, "IQ2_S"),
    "IQ3_XXS": (23, "IQ3_XXS"),
    "IQ3_XS": (22, "IQ3_S"),
    "IQ3_S": (26, "IQ3_S"),
    "IQ3_M": (27, "IQ3_S"),
    "IQ4_NL": (25, "IQ4_NL"),
    "IQ4_XS": (30, "IQ4_XS"),
    "TQ1_0": (36, "TQ1_0"),
    "TQ2_0": (37, "TQ2_0"),
    "MXFP4_MOE": (38, "MXFP4"),
}
_FTYPE_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_FTYPE_NAMES = {number: name for name, (number, _) in FTYPES.items()}


def quant_type(name: str) -> QuantType:
    """The type called ``name`` (any case). Raises `TypeChoiceError` with the names there are."""
    kind = TYPES.get(name.strip().upper())
    if kind is None:
        raise TypeChoiceError(f"unknown type {name!r}{did_you_mean(name, TYPES)}; the types are {', '.join(TYPES)}")
    return kind


def ftype_name(name: str) -> str:
    """The canonical ftype name for ``name`` (any case; ``Q3_K`` means ``Q3_K_M``). Raises `TypeChoiceError`."""
    upper = name.strip().upper()
    upper = _FTYPE_ALIASES.get(upper, upper)
    if upper not in FTYPES:
        raise TypeChoiceError(
            f"unknown file type {name!r}{did_you_mean(name, FTYPES)}; the file types are {', '.join(FTYPES)}"
        )
    return upper


def ftype_of_id(number: int | None) -> str | None:
    """The ftype name that a GGUF's ``general.file_type`` number stands for, if we know it."""
    return None if number is None else _FTYPE_NAMES.get(number)


def fallback_type(name: str, row_length: int) -> QuantType:
    """The type llama.cpp really stores when ``name`` is asked for and a row holds ``row_length`` weights."""
    wanted = quant_type(name)
    if wanted.fits(row_length):
        return wanted
    second = TYPES[_FALLBACK.get(wanted.name, wanted.name)]
    return second if second.fits(row_length) else TYPES["F16"]
