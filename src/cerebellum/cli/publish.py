"""`publish`: results to a hub."""

from __future__ import annotations

from pathlib import Path

import click

from cerebellum.cli.common import guarded, json_option, print_json, quiet_option
from cerebellum.cli.console import ConsoleProgress


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repo", metavar="USER/NAME", required=True, help="The repository; made where there is none.")
@click.option("--private", is_flag=True, help="A new repository is private.")
@click.option(
    "--card", type=click.Path(path_type=Path), help="The file for README.md. [default: README.md or the only *.card.md]"
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent, with sizes and hashes, and send nothing.")
@click.option("--force", is_flag=True, help="Replace files of the same names that are other ones.")
@json_option
@quiet_option
@guarded
def publish(
    folder: Path, repo: str, private: bool, card: Path | None, dry_run: bool, force: bool, as_json: bool, quiet: bool
) -> None:
    """Put the results in DIR on the hub: models (ladders, files of a set), override files, the card, the report's pages.

    What is there already is not sent again, so the same command goes on after an interruption. The token is that of HF_TOKEN or of
    `hf auth login`; HF_ENDPOINT names another hub.

    Example: cerebellum publish study --repo me/model-GGUF --dry-run
    """
    from cerebellum.hub.publish import publish as send

    result = send(
        folder, repo, private=private, dry_run=dry_run, force=force, card=card, progress=ConsoleProgress(quiet=quiet)
    )
    if as_json:
        print_json(result.as_json())
        return
    for line in result.lines():
        print(line)
