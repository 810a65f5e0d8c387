"""`recipe`: show, lint, diff, apply, export, import."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cerebellum.cli.common import guarded, json_option, print_json, say, split_options, wide_option
from cerebellum.cli.console import print_folded, print_grid, print_table
from cerebellum.errors import InputError

FilePath = click.Path(path_type=Path)
recipe_argument = click.argument("recipe", metavar="RECIPE", type=FilePath)
model_argument = click.argument("model", metavar="MODEL.gguf", type=FilePath)
base_option = click.option("--base", help="Base mix (Q3_K_M, …) of an override file. [default: the recipe's own]")
imatrix_option = click.option("--imatrix", type=FilePath, help="Importance matrix (GGUF or .dat).")
out_option = click.option("-o", "--out", type=FilePath, help="File to write. [default: standard output]")


@click.group()
def recipe() -> None:
    """Type maps as files: one readable format, checked against a model, taken from any GGUF, given to llama-quantize."""


@recipe.command()
@recipe_argument
@wide_option
@json_option
@guarded
def show(recipe: Path, as_json: bool, wide: bool) -> None:
    """What a recipe, or the type map of a GGUF, says.

    Example: cerebellum recipe show model.recipe.toml
    """
    from cerebellum.report.recipe import recipe_grid, recipe_json
    from cerebellum.verbs.recipe import read_recipe

    read = read_recipe(recipe)
    if as_json:
        print_json(recipe_json(read))
    else:
        print_table(recipe_grid(read, recipe.name), wide=wide)


@recipe.command()
@recipe_argument
@model_argument
@base_option
@imatrix_option
@wide_option
@json_option
@guarded
def lint(recipe: Path, model: Path, base: str | None, imatrix: Path | None, as_json: bool, wide: bool) -> None:
    """What may go wrong when RECIPE (a recipe, an override file, a GGUF) is applied to MODEL. Ends with exit code 2 where there are errors.

    Example: cerebellum recipe lint overrides.txt model-BF16.gguf --base Q3_K_M
    """
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.report.recipe import lint_grid, lint_json, lint_lines
    from cerebellum.verbs.recipe import lint_file

    linted = lint_file(LlamaBackend(), recipe, model, base, imatrix)
    if as_json:
        print_json(lint_json(linted))
    elif wide:
        print_grid(lint_grid(linted))
    else:
        for line in lint_lines(linted):
            print_folded(line)
    if linted.errors:
        sys.exit(InputError.exit_code)


@recipe.command()
@click.argument("ours", metavar="RECIPE", type=FilePath)
@click.argument("theirs", metavar="OTHER", type=FilePath)
@wide_option
@json_option
@guarded
def diff(ours: Path, theirs: Path, as_json: bool, wide: bool) -> None:
    """Tensors that two recipes (or GGUFs) treat differently.

    Example: cerebellum recipe diff mine.recipe.toml published-Q3_K_M.gguf
    """
    from cerebellum.report.recipe import diff_grid, diff_json
    from cerebellum.verbs.recipe import read_recipe

    first, second = read_recipe(ours), read_recipe(theirs)
    if as_json:
        print_json(diff_json(first, second))
    else:
        print_table(diff_grid(first, second, (ours.name, theirs.name)), wide=wide)


@recipe.command()
@recipe_argument
@model_argument
@base_option
@imatrix_option
@click.option("-o", "--out", type=FilePath, required=True, help="The GGUF to write.")
@split_options[0]
@split_options[1]
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
@guarded
def apply(
    recipe: Path, model: Path, base: str | None, imatrix: Path | None, out: Path, split_max_size: str | None,
    split_max_tensors: int | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write MODEL as RECIPE says: errors are refused, warnings shown, the types of the written file proven.

    Example: cerebellum recipe apply model.recipe.toml model-BF16.gguf --out model-mixed.gguf
    """
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.recipes.lint import Level
    from cerebellum.verbs.recipe import apply_recipe, lint_file
    from cerebellum.verbs.splitting import refuse_output, split_limit

    refuse_output(out, (recipe, model, imatrix), force)
    backend, limit = LlamaBackend(), split_limit(split_max_size, split_max_tensors)
    linted = lint_file(backend, recipe, model, base, imatrix)
    for finding in linted.findings:
        if finding.level is Level.WARNING:
            _warn(f"line {finding.line}: {finding.message}" if finding.line else finding.message)
    result = apply_recipe(backend, linted, out, imatrix, force, limit)
    if as_json:
        print_json(result.as_json())
    else:
        print(result.summary())


@recipe.command()
@recipe_argument
@model_argument
@base_option
@imatrix_option
@out_option
@guarded
def export(recipe: Path, model: Path, base: str | None, imatrix: Path | None, out: Path | None) -> None:
    """The override file under which stock llama-quantize stores exactly RECIPE: each line hits one tensor, what shifts is held.

    Example: cerebellum recipe export model.recipe.toml model-BF16.gguf --out overrides.txt
    """
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.verbs.recipe import export_overrides, lint_file

    _check(out)
    backend = LlamaBackend()
    _write(export_overrides(backend, lint_file(backend, recipe, model, base, imatrix), imatrix), out)


@recipe.command("import")
@click.argument("source", metavar="SOURCE", type=FilePath)
@click.option("--model", type=FilePath, help="The unquantized model: only what differs from the base is named then.")
@base_option
@imatrix_option
@out_option
@guarded
def import_(source: Path, model: Path | None, base: str | None, imatrix: Path | None, out: Path | None) -> None:
    """A recipe from SOURCE: any quantized GGUF, a study's folder, or an override file (with --model and --base).

    Example: cerebellum recipe import some-UD-Q3_K_XL.gguf --out published.recipe.toml
    """
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.recipes.toml_form import format_recipe
    from cerebellum.verbs.recipe import import_recipe
    from cerebellum.verbs.recipe_study import import_study

    _check(out)
    backend = LlamaBackend()
    if source.is_dir():
        imported = import_study(backend, source, model, imatrix, _warn)
    else:
        imported = import_recipe(backend, source, model, base, imatrix, _warn)
    _write(format_recipe(imported), out)


def _warn(message: str) -> None:
    say(f"cerebellum: warning: {message}")


def _check(out: Path | None) -> None:
    from cerebellum.errors import OutputError

    if out is not None and out.exists():
        raise OutputError(f"{out} exists; give another --out, or remove it first")


def _write(text: str, out: Path | None) -> None:
    from cerebellum.files import write_text

    if out is None:
        print(text, end="")
    else:
        _check(out)
        write_text(out, text)
        print(out)
