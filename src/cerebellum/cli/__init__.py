"""The command line: one verb a command. Results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import click

from cerebellum import __version__
from cerebellum.cli.basic import inspect, perplexity, quantize
from cerebellum.cli.bench import bench
from cerebellum.cli.harness import lm_eval
from cerebellum.cli.imatrix import imatrix
from cerebellum.cli.measure import measure, validity
from cerebellum.cli.run import demo, run, sweep


class _Commands(click.Group):
    """The verbs. What the terminal's encoding lacks is written as an escape: a name from a file never ends a command."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                with contextlib.suppress(OSError, ValueError):
                    stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cerebellum")
def main() -> None:
    """Find the mixed-precision quantization that a GGUF model deserves, by measured ablation in memory.

    Start with: cerebellum demo
    """


for command in (run, sweep, demo, inspect, quantize, imatrix, perplexity, measure, bench, validity, lm_eval):
    main.add_command(command)
