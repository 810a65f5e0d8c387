"""The recipe file: what is written is read again, what is wrong is named with its line."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.errors import InputError
from cerebellum.gguf.types import FTYPES, TYPES
from cerebellum.recipes.recipe import Difference, Figure, ModelId, Recipe, differences
from cerebellum.recipes.toml_form import BOM, entry_lines, format_recipe, is_recipe, parse_recipe

SMALL = Recipe("Q3_K_M", {"blk.11.ffn_gate.weight": "Q2_K"}, model=ModelId("gemma4", "E2B", 35, "shapes:1"))

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
tensors = st.one_of(
    st.sampled_from(["output.weight", "token_embd.weight"]),
    st.builds("blk.{}.{}.weight".format, st.integers(0, 34), st.sampled_from(["ffn_gate", "attn_q"])),
    texts,
)
numbers = st.floats(0, 100, allow_nan=False)
recipes = st.builds(
    Recipe,
    st.sampled_from(sorted(FTYPES)),
    st.dictionaries(tensors, st.sampled_from(sorted(TYPES)), max_size=5),
    st.booleans(),
    st.builds(ModelId, texts, texts, st.just(35), texts),
    texts,
    st.none() | st.builds(Figure, numbers, st.none() | numbers, st.none() | numbers),
    st.none() | st.builds(Figure, numbers),
    st.dictionaries(st.sampled_from(["build", "imatrix", "text"]), texts),
    texts,
)


@given(recipes)
def test_a_recipe_is_read_as_it_was_written(recipe: Recipe) -> None:
    text = format_recipe(recipe)
    assert is_recipe(text)
    assert parse_recipe(text, "r.toml") == recipe
    assert parse_recipe(text, "r.toml").key == recipe.key


def test_how_it_looks() -> None:
    assert format_recipe(SMALL) == (
        'format = "cerebellum-recipe"\nversion = 1\nbase = "Q3_K_M"\ncomplete = false\n\n'
        '[model]\narchitecture = "gemma4"\nname = "E2B"\nblocks = 35\nfingerprint = "shapes:1"\n\n'
        '[types]\n"blk.11.ffn_gate.weight" = { type = "Q2_K", depth = 0.3235 }\n'
    )


def test_written_by_hand() -> None:
    """Comments, small letters, a type without a depth."""
    text = (
        '# mine\nformat = "cerebellum-recipe"\nversion = 1\nbase = "q3_k"\n[types]\n"output.weight" = "q6_k"  # head\n'
    )
    assert is_recipe(text)
    assert parse_recipe(text, "r.toml") == Recipe("Q3_K_M", {"output.weight": "Q6_K"})
    assert not is_recipe("blk.0.ffn_gate.weight=Q2_K\n")
    assert not is_recipe("")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"Q2_K"', '"Q2_X"', ("line 13", "blk.11.ffn_gate.weight", "Q2_X")),
        ("0.3235", "0.5", ("line 13", "depth 0.5", "0.3235")),
        ("version = 1", "version = 2", ("line 2", "version", "update")),
        ("version = 1", "version = true", ("line 2", "version")),
        ('base = "Q3_K_M"', 'base = "Q3_K_X"', ("line 3", "base", "Q3_K_X")),
        ('base = "Q3_K_M"', "base = 3", ("line 3", "base")),
        ("complete = false", "completed = false", ("line 4", "completed", "unknown")),
        ("blocks = 35", 'blocks = "35"', ("line 9", "blocks")),
        ("[types]", "[made_with]\nbuild = 3\n[types]", ("build", "3")),
        ("[types]", "[measured]\nmean = nan\n[types]", ("measured", "nan")),
        ("[types]", "[measured]\nlow = 1.0\n[types]", ("measured", "no mean")),
        ('format = "cerebellum-recipe"', 'format = "other"', ("line 1", "format")),
        ("[types]", "[types", ("can't", "line 12")[1:]),
        ('"blk.11.ffn_gate.weight"', '"' + "x" * 80 + '"', ("line 13", "too long")),
    ],
)
def test_faults_are_named_with_their_line(old: str, new: str, words: tuple[str, ...]) -> None:
    text = format_recipe(SMALL)
    assert old in text
    with pytest.raises(InputError) as error:
        parse_recipe(text.replace(old, new, 1), "r.toml")
    for word in ("r.toml", *words):
        assert word in str(error.value)


def test_differences() -> None:
    other = Recipe("Q3_K_M", {"blk.2.ffn_up.weight": "Q4_K", "blk.11.ffn_gate.weight": "Q3_K"})
    assert differences(SMALL, other) == (
        Difference("blk.2.ffn_up.weight", None, "Q4_K"),
        Difference("blk.11.ffn_gate.weight", "Q2_K", "Q3_K"),
    )
    assert differences(SMALL, SMALL) == ()


def test_the_key_is_of_what_decides_the_file() -> None:
    said = Recipe("Q3_K_M", dict(SMALL.types), made_with={"build": "x"}, verified="twice")
    assert said.key == SMALL.key
    assert Recipe("Q3_K_S", SMALL.types).key != SMALL.key


def test_entries_in_any_order_and_with_a_byte_order_mark() -> None:
    """TOML knows no order of entries; an override file is no recipe."""
    text = 'base = "Q3_K_M"\nversion = 1\nformat = "cerebellum-recipe"\n[types]\n"blk.0.ffn_up.weight" = "Q2_K"\n'
    assert is_recipe(text) and parse_recipe(text, "r").types == {"blk.0.ffn_up.weight": "Q2_K"}
    assert is_recipe(BOM + text) and parse_recipe(BOM + text, "r") == parse_recipe(text, "r")
    assert not is_recipe("blk.0.ffn_up=Q2_K\n# format = x\ntypes=Q2_K\n")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('blk.0.ffn_up.weight = "Q2_K"', "r, line 5: blk: the name of a tensor goes in quotes"),
        ('"a" = { type = "Q2_K", dept = 0.5 }', "r, line 5: a: unknown entry 'dept'"),
        ('"a" = { depth = 0.5 }', "r, line 5: a: is missing"),
        ('"a" = "Q2_K"\n"a" = "Q3_K"', "line 6: '\"a\"' is there twice"),
        ('"a" = 3', "r, line 5: a: '3' is not a text in quotes"),
        ('"a', "at line 5.*: '\"a'"),
    ],
)
def test_entries_that_people_get_wrong(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe(f'format = "cerebellum-recipe"\nversion = 1\nbase = "Q3_K_M"\n[types]\n{entry}\n', "r")


def test_a_missing_base_is_told() -> None:
    with pytest.raises(InputError, match="base: is missing"):
        parse_recipe('format = "cerebellum-recipe"\nversion = 1\n', "r")


def test_lines_of_entries() -> None:
    """Against a slow reading of the same file: the line that holds the name."""
    names = ["a.weight", 'q"uote', "back\\slash", "tab\t", "é\u2028"]
    text = format_recipe(Recipe("Q3_K_M", dict.fromkeys(names, "Q2_K")))
    lines = text.split("\n")
    found = entry_lines(text)
    for name in names:
        assert next(iter(tomllib.loads(lines[found[name] - 1]))) == name
    assert lines[found["types"] - 1] == "[types]"
    many = 'format = "cerebellum-recipe"\n' + "".join(f'"blk.{i}.x" = "Q2_K"\n' for i in range(50_000))
    assert entry_lines(many)["blk.49999.x"] == 50_001
