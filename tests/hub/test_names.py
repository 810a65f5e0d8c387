"""Which files of a repository a name means, and what is said where it means none."""

from __future__ import annotations

import pytest

from cerebellum.errors import InputError
from cerebellum.hub.names import HubName, choose, label_of, models_in

FILES = [
    ".gitattributes", "README.md", "imatrix.dat", "model-imatrix.gguf", "mmproj-F16.gguf",
    "model-Q4_K_M.gguf", "model-UD-Q4_K_M.gguf", "model-IQ2_XXS.gguf", "model.Q8_0.gguf",
    *(f"BF16/model-BF16-0000{i}-of-00003.gguf" for i in (1, 2, 3)),
]  # fmt: skip


def meant(text: str, files: list[str] = FILES) -> tuple[str, ...]:
    return choose(HubName.parse(text), files)


@pytest.mark.parametrize(
    ("which", "files"),
    [
        ("Q4_K_M", ("model-Q4_K_M.gguf",)),
        ("q4_k_m", ("model-Q4_K_M.gguf",)),
        ("UD-Q4_K_M", ("model-UD-Q4_K_M.gguf",)),
        ("Q8_0", ("model.Q8_0.gguf",)),
        ("BF16", tuple(FILES[-3:])),
        ("model-IQ2_XXS.gguf", ("model-IQ2_XXS.gguf",)),
        (FILES[-3], tuple(FILES[-3:])),
        ("imatrix.dat", ("imatrix.dat",)),
    ],
)
def test_a_file_or_a_label(which: str, files: tuple[str, ...]) -> None:
    assert meant(f"hf:org/name:{which}") == files
    assert meant(f"hf:org/name@v2.0:{which}") == files


def test_the_only_model_needs_no_label() -> None:
    assert meant("hf:org/name", ["README.md", "a.gguf", "mmproj-a.gguf"]) == ("a.gguf",)


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        ("hf:org/name", FILES, "holds 5 models; name one: BF16, IQ2_XXS, Q4_K_M, UD-Q4_K_M, Q8_0"),
        ("hf:org/name:Q4_K_S", FILES, r"no model labelled Q4_K_S; did you mean org/name:Q4_K_M\? It has BF16"),
        ("hf:org/name:nothing", FILES, "no model labelled nothing.* [Ii]t has BF16, IQ2_XXS"),
        ("hf:org/name:model-Q4_K_N.gguf", FILES, r"has no file model-Q4_K_N.gguf; did you mean model-Q4_K_M.gguf\?"),
        ("hf:org/name:Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], "2 models labelled Q8_0; name the file: a-Q8_0.gguf, b"),
        ("hf:org/name:BF16", FILES[:-1], "BF16/model-BF16-00003-of-00003.gguf is not in the repository"),
        ("hf:org/name:Q8_0", ["README.md"], "holds no GGUF"),
        ("hf:name", [], "is no model of a hub: write hf:org/name"),
        ("hf:org/name:", [], "is no model of a hub"),
        ("hf:../name:x", [], "is no model of a hub"),
        ("hf:org/na\x1bme", [], r"hf:org/na\\x1bme is no model of a hub"),
    ],
)
def test_what_means_nothing_is_told_with_what_there_is(text: str, files: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        meant(text, files)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_labels() -> None:
    assert [label_of(f) for f in ("x-7B-IQ3_XXS.gguf", "F16/x.gguf", "x.gguf", "x-mxfp4-00001-of-00002.gguf")] == [
        "IQ3_XXS", "F16", "", "MXFP4",
    ]  # fmt: skip
    assert list(models_in(FILES)) == [
        FILES[-3],
        "model-IQ2_XXS.gguf",
        "model-Q4_K_M.gguf",
        "model-UD-Q4_K_M.gguf",
        "model.Q8_0.gguf",
    ]
