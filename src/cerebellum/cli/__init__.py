"""The command line: one verb a command. Results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import click

from cerebellum import __version__
from cerebellum.cli.basic import inspect, perplexity, quantize, split
from cerebellum.cli.bench import bench
from cerebellum.cli.common import for_stderr
from cerebellum.cli.compare import compare
from cerebellum.cli.doctor import doctor
from cerebellum.cli.fit import fit
from cerebellum.cli.harness import lm_eval
from cerebellum.cli.imatrix import imatrix
from cerebellum.cli.measure import measure, validity
from cerebellum.cli.merge import merge
from cerebellum.cli.plan import plan
from cerebellum.cli.profiles import profile, transfer_check
from cerebellum.cli.publish import publish
from cerebellum.cli.recipe import recipe
from cerebellum.cli.report import report
from cerebellum.cli.run import demo, run, sweep
from cerebellum.cli.sections import SectionedGroup
from cerebellum.cli.transfer import transfer
from cerebellum.cli.usage import commands, lint_template, modelfile, try_model
from cerebellum.cli.verify import verify
from cerebellum.silence import open_standard_streams

SECTIONS = {
    "Start here": ("demo", "doctor", "run", "transfer"),
    "Make files": ("quantize", "split", "imatrix", "plan", "sweep", "merge", "recipe", "profile", "transfer-check"),
    "Measure and prove": ("inspect", "perplexity", "measure", "compare", "bench", "validity", "verify", "lm-eval"),
    "Use a file": ("report", "publish", "fit", "try", "commands", "modelfile", "lint-template"),
}


class _Commands(SectionedGroup):
    """The verbs. What the terminal's encoding lacks is written as an escape: a name from a file never ends a command."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_standard_streams()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                with contextlib.suppress(OSError, ValueError):
                    stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's; what it says of wrong options is wrapped to the terminal."""
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:  # its text is the help
            raise
        except click.UsageError as error:
            lead = "Error: "  # click puts it in front
            raise click.UsageError(for_stderr(lead + error.format_message()).removeprefix(lead), error.ctx) from error


@click.group(
    cls=_Commands,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="cerebellum")
def main() -> None:
    """Find the mixed-precision quantization that a GGUF model deserves, by measured ablation in memory.

    Start with: cerebellum demo
    """


for command in (
    run,
    transfer,
    plan,
    sweep,
    merge,
    demo,
    inspect,
    quantize,
    split,
    imatrix,
    perplexity,
    measure,
    compare,
    bench,
    validity,
    recipe,
    profile,
    transfer_check,
    verify,
    lm_eval,
    doctor,
    fit,
    try_model,
    commands,
    modelfile,
    lint_template,
    publish,
    report,
):
    main.add_command(command)
