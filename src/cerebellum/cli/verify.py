"""`verify`: what a file says of itself, checked."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cerebellum.cli.common import guarded, json_option, print_json, wide_option
from cerebellum.cli.console import print_table
from cerebellum.errors import ProofError

FilePath = click.Path(path_type=Path)


@click.command()
@click.argument("file", metavar="FILE.gguf", type=FilePath)
@click.option(
    "--source", type=FilePath, help="The model it was made from: the file is made again and compared byte for byte."
)
@click.option("--study", type=FilePath, help="The folder of the study that wrote it.")
@click.option("--imatrix", type=FilePath, help="The importance matrix it was made with.")
@click.option("--base", help="Base mix to rebuild on. [default: what the file says]")
@wide_option
@json_option
@guarded
def verify(
    file: Path,
    source: Path | None,
    study: Path | None,
    imatrix: Path | None,
    base: str | None,
    as_json: bool,
    wide: bool,
) -> None:
    """What FILE says of itself, and whether its tensors still are what they were. Ends with exit code 6 where a check fails.

    Edited metadata does no harm: the hashes are over tensors. A rebuild needs as much room on the disk as the file.

    Example: cerebellum verify model-mixed.gguf --source model-BF16.gguf
    """
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.report.verify import verify_grid, verify_json
    from cerebellum.verbs.verify import verify_file

    verified = verify_file(LlamaBackend(), file, source, study, imatrix, base)
    if as_json:
        print_json(verify_json(verified))
    else:
        print_table(verify_grid(verified), wide=wide)
    if verified.failed:
        sys.exit(ProofError.exit_code)
