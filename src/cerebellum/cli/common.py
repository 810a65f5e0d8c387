"""What the commands share: options, printing, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cerebellum.errors import CerebellumError, OutputError
from cerebellum.keyword_checks import RANGES
from cerebellum.quoting import printable, strict_json

INTERRUPTED = 130
#: Chunks that an interval needs at least.
LEAST_CHUNKS = 2


class FiniteRange(click.FloatRange):
    """A number within a range: neither ``nan``, which no comparison finds out of it, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class PairsOfChunks(click.IntRange):
    """Chunks enough for an interval."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = click.INT.convert(value, param, ctx)
        if number < LEAST_CHUNKS:
            self.fail(
                f"{number} can't give an interval, which needs chunks to differ. Give {LEAST_CHUNKS} or more.",
                param,
                ctx,
            )
        return number


def whole(option: str) -> click.IntRange:
    """The whole numbers that the option of `cerebellum.keywords` may be."""
    low, high = RANGES[option]
    return click.IntRange(int(low), None if math.isinf(high) else int(high))


def decimal(option: str) -> FiniteRange:
    """The numbers that the option of `cerebellum.keywords` may be."""
    low, high = RANGES[option]
    return FiniteRange(low, None if math.isinf(high) else high)


model_argument = click.argument("model", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
wide_option = click.option(
    "--wide", is_flag=True, help="All tables with all their columns. [default: within 80 columns]"
)
ctx_option = click.option(
    "-c", "--ctx", "n_ctx", type=whole("ctx"), default=2048, show_default=True, help="Tokens in a chunk."
)
chunks_option = click.option(
    "--chunks", "n_chunks", type=whole("chunks"), help="Use only this many chunks of the text. [default: all]"
)
chat_option = click.option(
    "--chat",
    is_flag=True,
    help="The text is conversations (JSON lines): score the assistant's turns, in the model's own chat template.",
)
exact_option = click.option(
    "--exact-reference",
    is_flag=True,
    help="Keep all words of the reference's rows, at 16 bits and not clamped: 2 bytes x vocabulary of disk a scored token. [default: "
    "all of up to 8,192 words, else 2 kB a token, which estimates KL divergence without bias]",
)
threads_option = click.option(
    "-t", "--threads", "n_threads", type=whole("threads"), help="Threads for llama.cpp. [default: all cores]"
)
batch_option = click.option(
    "-ub",
    "--ubatch-size",
    "n_ubatch",
    type=whole("ubatch_size"),
    help="Tokens decoded at a time: fewer need less memory for logits. Figures differ a little from one size to another: compare only "
    "what was measured with the same. [default: 512, with a large vocabulary fewer]",
)
gpu_option = click.option(
    "-ngl",
    "--gpu-layers",
    "n_gpu_layers",
    type=whole("gpu_layers"),
    default=0,
    show_default=True,
    help="Layers on the GPU. 0: the processor alone; 99 or -1: all. With some of them there every trial is computed whole.",
)


split_options = (
    click.option(
        "--split-max-size",
        metavar="SIZE",
        help="Write several files, none with more than this of tensors: 48G, 500M. [default: one file]",
    ),
    click.option("--split-max-tensors", type=click.IntRange(min=1), help="Write several files of so many tensors."),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a model is opened."""
    for option in (gpu_option, threads_option, batch_option, ctx_option):
        command = option(command)
    return command


#: The keywords of `cerebellum.api` whose parameters have other names here.
_KEYWORDS = {
    "n_ctx": "ctx",
    "n_ubatch": "ubatch_size",
    "n_threads": "threads",
    "n_gpu_layers": "gpu_layers",
    "n_chunks": "chunks",
}


def keywords_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command as `cerebellum.api` names them."""
    return {_KEYWORDS.get(name, name): value for name, value in options.items()}


def print_json(value: Any) -> None:
    """``value`` on standard output."""
    print(strict_json(value))


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, which `timeout`, Slurm and systemd send, ends a command as Ctrl-C does: with a word, and no hidden file left."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the errors a user can meet into one line on standard error and the exit code of `cerebellum.errors`."""

    keeps, fetches = command.__name__ != "quantize", command.__name__ != "inspect"

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with stopped_by_sigterm():
                return command(*args, **_fetched(kwargs) if fetches else kwargs)
        except CerebellumError as error:
            _end(f"error: {error}", error.exit_code)
        except KeyboardInterrupt:
            kept = (
                " What was measured is kept: the same command goes on from there."
                if kwargs.get("out") and keeps and not kwargs.get("dry_run")
                else ""
            )
            _end(f"stopped.{kept}", INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _end(f"error: the disk is full ({error.filename or 'writing'}); free some space and run again", 3)
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                _end(f"error: can't write {error.filename}: {error.strerror}", OutputError.exit_code)
            raise

    return run


def _fetched(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options with every ``hf:…`` among them brought here. Only where there is one is anything of hubs imported."""
    values = [v for value in kwargs.values() for v in (value if isinstance(value, list | tuple) else (value,))]
    if not any(isinstance(v, str | Path) and str(v).startswith("hf:") for v in values):
        return kwargs
    from cerebellum.cli.console import ConsoleProgress
    from cerebellum.hub.fetch import local

    return local(kwargs, ConsoleProgress(quiet=bool(kwargs.get("quiet"))))


def say(text: str) -> None:
    """A line on standard error; between its words wrapped where that is a terminal, else one line, for programs."""
    print(for_stderr(printable(text)), file=sys.stderr)


def for_stderr(text: str) -> str:
    """``text`` as `say` prints it: wrapped to the terminal's columns where standard error is one."""
    if not sys.stderr.isatty():
        return text
    from cerebellum.cli.console import LEAST_COLUMNS, folded

    return folded(text, max(shutil.get_terminal_size().columns, LEAST_COLUMNS))


def _end(message: str, code: int) -> None:
    say(f"cerebellum: {message}")
    sys.exit(code)
