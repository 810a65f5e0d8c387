"""A wrong option is an error that names it, before anything is opened; what the command line takes, a notebook takes too."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from cerebellum import api, bundled
from cerebellum.errors import InputError, TypeChoiceError
from cerebellum.gguf.types import FTYPES, TYPES, ftype_name, quant_type
from cerebellum.keyword_checks import RANGES, blocks_of, checked
from cerebellum.keywords import RunKeywords
from cerebellum.quoting import did_you_mean
from cerebellum.testing import FakeBackend


class Closed(FakeBackend):
    """Opens nothing."""

    def open(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a model was opened")


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("run", {"like": 5}, r"like \(--like\) is 5; it must be a text"),
    ("run", {"ctx": "64"}, r"ctx \(--ctx\) is '64'; it must be a whole number"),
    ("run", {"ctx": True}, r"ctx .* whole number"),
    ("run", {"ctx": 1 << 40}, r"ctx .* from 8 to 1048576"),
    ("run", {"threads": 10**9}, r"threads .* from 1 to 512"),
    ("run", {"ubatch_size": 10**12}, r"ubatch_size .* from 1 to 65536"),
    ("allocate", {"seed": -1}, r"seed \(--seed\) is -1"),
    ("allocate", {"chunk": 3}, r"unknown option 'chunk' \(did you mean chunks\?\)"),
    ("allocate", {"n_shuffled": math.nan}, r"n_shuffled \(--shuffled\) is nan; it must be a whole number"),
    ("sweep", {"role": 5}, r"role \(--role\) is 5; it must be a text or a list of texts"),
    ("sweep", {"blocks": [1.5]}, r"blocks .* list of whole numbers"),
    ("sweep", {"blocks": "3-1"}, r"'3-1' is a range that ends before it begins; write 1-3"),
    ("choose", {"objective": "ppl"}, r"objective .* 'kld' or 'nll'"),
    ("choose", {"thresholds": 3}, r"thresholds .* of the class Thresholds"),
    ("choose", {"max_growth": "5 per cent"}, r"max-growth"),
    ("choose", {"max_growth": "x%"}, r"'x%' is no share of the base \(--max-growth\); write 5%"),
    ("run", {"chat": "yes"}, r"chat .* True or False"),
    ("run", {"reference": 3}, r"reference .* a path"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "options", "message"), WRONG)
def test_a_wrong_option_is_named_before_anything_is_opened(
    tmp_path: Path, verb: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        getattr(api, verb)(bundled.MODEL, out=tmp_path / "out", backend=Closed(), **options)
    assert not (tmp_path / "out").exists()


ARGUMENTS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("inspect", (5,), {}),
    ("measure", ([5],), {"reference": "x", "text": "y"}),
    ("bench", ("x", 5), {}),
    ("plan", ("x",), {"size": 5.5}),
    ("perplexity", ("x", None), {}),
]


@pytest.mark.parametrize(("verb", "arguments", "options"), ARGUMENTS)
def test_arguments_too(verb: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="it must be"):
        getattr(api, verb)(*arguments, **options)


def test_every_public_function_is_checked() -> None:
    for name in api.__all__:
        if inspect.isfunction(function := getattr(api, name)):
            assert hasattr(function, "__wrapped__"), name


def test_ranges_are_of_options_that_there_are() -> None:
    named = set(RunKeywords.__annotations__)
    for name in api.__all__:
        if inspect.isfunction(function := getattr(api, name)):
            named |= set(inspect.signature(function).parameters)
    assert set(RANGES) <= named


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    @checked
    def opened(ctx: int, allow: float | None = None) -> int:
        return ctx

    some: Any = np
    assert opened(some.int64(64), allow=some.float32(0.5)) == 64
    assert opened(64, allow=1) == 64
    with pytest.raises(InputError, match="ctx"):
        opened(some.float64(64.0))


def test_blocks_as_the_command_takes_them() -> None:
    assert blocks_of("0-3,7") == blocks_of([0, 1, 2, 3, 7]) == (0, 1, 2, 3, 7)
    assert get_type_hints(blocks_of)["return"] == tuple[int, ...]


@pytest.mark.parametrize(
    ("typed", "meant"), [("Q3KM", "Q3_K_M"), ("q4k_m", "Q4_K_M"), ("Q8", "Q8_0"), ("IQ4XS", "IQ4_XS")]
)
def test_a_file_type_that_is_nearly_right(typed: str, meant: str) -> None:
    with pytest.raises(TypeChoiceError, match=rf"did you mean {meant}\?"):
        ftype_name(typed)


def test_a_type_that_is_nothing_like_one_gets_no_guess() -> None:
    with pytest.raises(TypeChoiceError) as caught:
        quant_type("banana")
    assert "did you mean" not in str(caught.value) and ", ".join(TYPES) in str(caught.value)
    assert did_you_mean("x" * 10**6, FTYPES) == ""


def test_growth_as_a_share_a_size_or_bytes() -> None:
    assert api.growth_of("5%") == {"max_growth_share": 0.05}
    assert api.growth_of("2MB") == {"max_growth_bytes": 2_000_000}
    assert api.growth_of("0") == {"max_growth_bytes": 0} and api.growth_of("1234") == {"max_growth_bytes": 1234}


def test_none_is_an_option_that_is_not_given(tmp_path: Path) -> None:
    """As the command line passes what nobody typed."""
    with pytest.raises(InputError, match="can't read the map"):
        api.plan(tmp_path / "none.json", size="5MB", types=None, never=None, keep=None)  # type: ignore[arg-type]
