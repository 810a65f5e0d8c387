"""`try`, `modelfile`, `commands`, `lint-template`: what to do with a finished file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cerebellum.cli.common import (
    FiniteRange,
    gpu_option,
    guarded,
    json_option,
    model_argument,
    print_json,
    say,
    threads_option,
    whole,
)
from cerebellum.cli.console import print_lines, stdout_console
from cerebellum.cli.fit import cache_k_option, cache_v_option
from cerebellum.errors import InputError
from cerebellum.figures import counted
from cerebellum.quoting import printable, printable_lines

if TYPE_CHECKING:
    from cerebellum.verbs.try_model import Answer

#: Columns of a terminal from which on two answers stand side by side.
_SIDE_BY_SIDE = 100
_ctx_option = click.option(
    "-c",
    "--ctx",
    "n_ctx",
    type=whole("ctx"),
    help="Tokens of context. [default: 8192, or what it was trained for]",
)


@click.command("try")
@model_argument
@click.argument("prompt")
@click.option(
    "--against", type=click.Path(path_type=Path), help="Another GGUF, the base for example, that answers beside it."
)
@click.option("--system", help="System message.")
@click.option("--raw", is_flag=True, help="The prompt as it is, without the chat template.")
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(1, 1 << 20),
    default=256,
    show_default=True,
    help="Tokens written at most.",
)
@click.option(
    "--temperature",
    type=FiniteRange(0, 1000),
    default=0.0,
    show_default=True,
    help="0: the likeliest token each time.",
)
@click.option("--seed", type=click.IntRange(0, (1 << 32) - 1), default=0, show_default=True)
@click.option("-c", "--ctx", "n_ctx", type=whole("ctx"), default=4096, show_default=True, help="Tokens of context.")
@gpu_option
@threads_option
@json_option
@guarded
def try_model(
    model: Path, prompt: str, against: Path | None, system: str | None, raw: bool, max_tokens: int, temperature: float, seed: int,
    n_ctx: int, n_gpu_layers: int, n_threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """MODEL answers PROMPT, through its chat template where it has one.

    Example: cerebellum try model-cerebellum.gguf "Why is the sky blue?" --against model-Q3_K_M.gguf
    """
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.llamacpp.protocol import Settings
    from cerebellum.verbs.try_model import Asking, try_models

    asking = Asking(prompt, system, raw, n_ctx, max_tokens, temperature, seed)
    settings = Settings(n_ctx=n_ctx, n_threads=n_threads, n_gpu_layers=n_gpu_layers)
    answers = try_models(LlamaBackend(), [model, *([against] if against else [])], asking, settings)
    if as_json:
        print_json([asdict(answer) for answer in answers])
        return
    _show_answers(answers)


def _show_answers(answers: list[Answer]) -> None:
    """Side by side where the terminal is wide, else one after the other."""
    from rich.table import Table
    from rich.text import Text

    from cerebellum.verbs.try_model import first_difference

    console = stdout_console()
    texts = [Text(printable_lines(answer.text)) for answer in answers]
    if len(answers) > 1 and console.is_terminal and console.width >= _SIDE_BY_SIDE:
        table = Table(expand=True)
        for answer in answers:
            table.add_column(Text(_headline(answer)))
        table.add_row(*texts)
        console.print(table)
    else:
        for answer, text in zip(answers, texts, strict=True):
            console.print(Text(_headline(answer), style="bold"))
            console.print(text, soft_wrap=True)
            console.print()
    if len(answers) > 1:
        n = first_difference(answers[0].text, answers[1].text)
        console.print(
            "the two answers are equal" if n is None else f"the two answers are equal for {counted(n, 'word')}",
            highlight=False,
        )
    for warning in dict.fromkeys(w for answer in answers for w in answer.warnings):
        say(f"warning: {warning}")


def _headline(answer: Answer) -> str:
    how = "" if answer.chat else ", without a chat template"
    cut = ", cut at --max-tokens" if answer.ended == "length" else ""
    return printable(f"{answer.model}: {counted(answer.n_tokens, 'token')} in {answer.seconds:.1f} s{how}{cut}")


@click.command()
@model_argument
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write it here. [default: standard output]")
@_ctx_option
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@guarded
def modelfile(model: Path, out: Path | None, n_ctx: int | None, force: bool) -> None:
    """A Modelfile for Ollama: MODEL with its own chat template, system message and stop words.

    The template is carried over where its turns can be said in Ollama's template language; where they can't, that is told.

    Example: cerebellum modelfile model-Q4_K_M.gguf -o Modelfile && ollama create mine -f Modelfile
    """
    from cerebellum.files import write_text
    from cerebellum.verbs.splitting import refuse_output
    from cerebellum.verbs.usage import modelfile_of

    file = model if out is None else _seen_from(out.parent, model)
    made = modelfile_of(model, file, n_ctx)
    for note in made.notes:
        say(f"note: {note}")
    if out is None:
        sys.stdout.write(made.text)
        return
    refuse_output(out, (model,), force)
    write_text(out, made.text)
    print(printable(f"{out} written: ollama create NAME -f {out}"))


def _seen_from(folder: Path, file: Path) -> Path:
    """``file`` relative to ``folder`` where it lies below, else its whole path."""
    whole = file.resolve()
    return whole.relative_to(folder.resolve()) if whole.is_relative_to(folder.resolve()) else whole


@click.command()
@model_argument
@_ctx_option
@cache_k_option
@cache_v_option
@json_option
@guarded
def commands(model: Path, n_ctx: int | None, type_k: str, type_v: str, as_json: bool) -> None:
    """Command lines that run MODEL in llama.cpp, Ollama and LM Studio.

    Example: cerebellum commands model-Q4_K_M.gguf --ctx 8192
    """
    from cerebellum.verbs.usage import commands_of

    lines = commands_of(model, n_ctx, type_k.upper(), type_v.upper())
    if as_json:
        print_json(lines)
        return
    for program, line in lines.items():
        print(f"# {program}\n{line}")


@click.command("lint-template")
@model_argument
@json_option
@guarded
def lint_template(model: Path, as_json: bool) -> None:
    """Is MODEL's chat template sound? Made-up conversations are rendered through it, and what comes out is checked.

    Errors end with exit code 2: the template does not render, writes BOS twice, ignores the generation prompt, drops a system message,
    an answer or a question, changes what a message says, or marks no end of a turn.

    Example: cerebellum lint-template model-it-BF16.gguf
    """
    from cerebellum.verbs.usage import lint_template as findings_of

    findings = findings_of(model)
    if as_json:
        print_json(None if findings is None else [asdict(f) for f in findings])
    elif findings is None:
        print("no chat template: the model is not made for conversations, or was converted without it")
    else:
        print_lines(stdout_console(), [f"{f.level}: {f.check}: {f.message}" for f in findings] or ["no fault found"])
    if any(f.level == "error" for f in findings or ()):
        sys.exit(InputError.exit_code)
