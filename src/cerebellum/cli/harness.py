"""`lm-eval`: lm-evaluation-harness's own command line with our engine as its model ``cerebellum``.

The harness has no way to discover models of other packages, so its own command can't know ours: this one registers it and calls that one.
``register`` makes ours known to that command too, in this environment (`cerebellum.lm_eval_plugin`).
"""

from __future__ import annotations

import contextlib
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cerebellum.cli.common import guarded
from cerebellum.errors import InputError, OutputError
from cerebellum.evals import lm_eval_plugin

MODEL = lm_eval_plugin.MODEL
#: Model arguments that are numbers, as the engine's settings call them; and what the harness passes to every model.
_NUMBERS = {"ctx": "n_ctx", "threads": "n_threads", "gpu_layers": "n_gpu_layers"}
_HARNESS_OWN = ("batch_size", "max_batch_size", "device")


@click.command(
    "lm-eval",
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@guarded
def lm_eval(arguments: tuple[str, ...]) -> None:
    """lm-evaluation-harness's command line, with the model `cerebellum` in it. All arguments go to it.

    Model arguments: pretrained=FILE.gguf, and ctx, threads, gpu_layers, out=FOLDER (answers are kept there, and the same command goes on).

    `cerebellum lm-eval register` makes the model known to the harness's own command `lm_eval` in this environment; `unregister` undoes it.

    Example: cerebellum lm-eval run --model cerebellum --model_args pretrained=model-Q4_K_M.gguf --tasks piqa --limit 100
    """
    if arguments == ("unregister",):
        click.echo(pull_out())
        return
    register()
    if arguments == ("register",):
        click.echo(plug_in())
        return
    if arguments in ((), ("-h",), ("--help",), ("run", "-h"), ("run", "--help")):
        click.echo(click.get_current_context().get_help() + "\n\nWhat follows is the harness's own help.\n")
    from lm_eval.__main__ import cli_evaluate

    from cerebellum.evals.hub import offline_if_unreachable

    sys.argv = ["lm-eval", *arguments]
    with offline_if_unreachable() if asks(arguments) else contextlib.nullcontext("") as why:
        try:
            cli_evaluate()
        except Exception as error:
            if words := in_words(error, tasks_of(arguments), why):
                raise InputError(words) from error
            raise


def site_packages() -> Path:
    """Where this environment's packages are."""
    return Path(sysconfig.get_path("purelib"))


def plug_in() -> str:
    """Make the harness's own command know the model; what was done. Raises `OutputError`."""
    try:
        path = lm_eval_plugin.write(site_packages())
    except OSError as error:
        raise OutputError(
            f"can't write in {site_packages()}: {error.strerror or error}; use an environment of your own"
        ) from error
    return (
        f"wrote {path}: lm_eval --model {MODEL} works in this environment now; cerebellum lm-eval unregister undoes it"
    )


def pull_out() -> str:
    """Undo `plug_in`; what was done. Raises `OutputError`."""
    try:
        there = lm_eval_plugin.remove(site_packages())
    except OSError as error:
        raise OutputError(f"can't remove {site_packages() / lm_eval_plugin.FILE}: {error.strerror or error}") from error
    return f"removed {site_packages() / lm_eval_plugin.FILE}" if there else "it wasn't registered: nothing to do"


def asks(arguments: Sequence[str]) -> bool:
    """Whether tasks are to be asked, for which data may be wanted from the hub."""
    return bool(arguments) and arguments[0] not in ("ls", "validate", "-h", "--help") and "--help" not in arguments


def tasks_of(arguments: Sequence[str]) -> str:
    """What ``--tasks`` names, for a message."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("--tasks", "-t"):
            return following
        if word.startswith("--tasks="):
            return word.partition("=")[2]
    return "the tasks"


def in_words(error: Exception, tasks: str, why: str) -> str:
    """A user's message of an error that is the hub's or says what was given wrongly; "" for any other, which keeps its traceback."""
    from cerebellum.evals.hub import LATER, cause, first_line, of_the_hub, raised_in

    if of_the_hub(error):
        return f"lm-evaluation-harness can't load what {tasks} needs: {cause(why, error)}; {LATER}"
    if isinstance(error, ValueError) and raised_in(error).startswith(
        ("lm_eval.config", "lm_eval._cli", "lm_eval.tasks")
    ):
        return f"lm-evaluation-harness: {first_line(error)}; its tasks: cerebellum lm-eval ls tasks"
    ours = f"ours is --model {MODEL} --model_args pretrained=FILE.gguf"
    if isinstance(error, ImportError):
        return f"lm-evaluation-harness: {first_line(error)}; install what it wants, or take another model: {ours}"
    if isinstance(error, KeyError | ValueError) and raised_in(error).startswith("lm_eval.api.registry"):
        return f"lm-evaluation-harness: {re.split(r'[!?.]', str(error.args[0]))[0]}; {ours}"
    return ""


def register() -> None:
    """Make the model known to lm-evaluation-harness in this process, for `lm_eval.simple_evaluate` too. Raises `InputError` without it."""
    from cerebellum.evals.harness import need_harness

    need_harness()
    import lm_eval.models  # noqa: F401 its own models first

    lm_eval_plugin.add()


def whole_number(name: str, value: Any) -> int:
    """A model argument as a number. Raises `InputError`."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputError(f"--model_args {name}={value}: give a whole number") from None


def open_model_class() -> Any:
    """The class that the harness makes models of; made when asked for, so that nothing here needs the harness."""
    from cerebellum.cli.console import ConsoleProgress
    from cerebellum.evals.lm import HarnessModel
    from cerebellum.llamacpp.generate.protocol import Responder
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.llamacpp.protocol import Settings
    from cerebellum.verbs.bench import memory_of

    class LlamaModel(HarnessModel):
        """A GGUF in llama.cpp."""

        def __init__(self, pretrained: str = "", out: str | None = None, **given: Any) -> None:
            """Arguments of the harness's own (batch size, device) mean nothing here."""
            if not pretrained:
                raise InputError("--model_args needs pretrained=FILE.gguf")
            if unknown := given.keys() - {*_NUMBERS, *_HARNESS_OWN}:
                raise InputError(
                    f"--model_args has no {min(unknown)}; there are pretrained, out, {', '.join(_NUMBERS)}"
                )
            numbers: dict[str, Any] = {
                field: whole_number(name, given[name]) for name, field in _NUMBERS.items() if name in given
            }
            path, settings, backend = Path(pretrained), Settings(**numbers), LlamaBackend()
            self._open = contextlib.ExitStack()
            memory = self._open.enter_context(memory_of(backend, path, settings, None if out is None else Path(out)))
            responder: Responder = backend.respond(path, settings)
            self._open.callback(responder.close)
            super().__init__(responder, path.name, memory, ConsoleProgress())

    return LlamaModel


def __getattr__(name: str) -> Any:
    """``open_model``: what the harness's registry points at."""
    if name == "open_model":
        return open_model_class()
    raise AttributeError(name)
