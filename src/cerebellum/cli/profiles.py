"""`transfer-check`: may one model's sensitivities be used for another's? `profile show`: what they look like."""

from __future__ import annotations

from pathlib import Path

import click

from cerebellum.cli.common import guarded, json_option, print_json
from cerebellum.cli.console import print_grid, print_narrow

FilePath = click.Path(path_type=Path)
#: More blocks than any model has.
MOST_BLOCKS = 99_999


@click.command("transfer-check")
@click.argument("old", metavar="FROM.kld.json", type=FilePath)
@click.argument("new", metavar="TO.kld.json", type=FilePath)
@click.option(
    "--role",
    "roles",
    multiple=True,
    help="Only this role (ffn_gate); may be given again. [default: all that both have]",
)
@click.option(
    "--type", "kind", help="The tables of this type. [default: the first that both have, else the nearest in bits]"
)
@json_option
@guarded
def transfer_check(old: Path, new: Path, roles: tuple[str, ...], kind: str | None, as_json: bool) -> None:
    """Would a choice of tensors made on one model be right for another? Replayed on two published tables of sensitivities.

    The second table answers at most 8 probes a role. Each role's verdict (holds, partly, does not hold) is given from these alone; what
    the transferred choice really keeps is read from the whole table afterwards.

    Example: cerebellum transfer-check Qwen3.5-0.8B.kld.json Qwen3.5-2B.kld.json
    """
    from cerebellum.report.transfer import transfer_grid, transfer_json
    from cerebellum.verbs.transfer_check import check_transfer

    checked = check_transfer(old, new, roles, kind)
    if as_json:
        print_json(transfer_json(checked))
    else:
        print_narrow(transfer_grid(checked))


@click.group()
def profile() -> None:
    """Sensitivity by role over relative depth."""


@profile.command()
@click.argument("table", metavar="SOURCE", type=FilePath)
@click.option("--role", "roles", multiple=True, help="Only this role (ffn_gate); may be given again. [default: all]")
@click.option(
    "--type",
    "kind",
    help="The profiles at this type. [default: the first of a table; of a study, the smallest that most tensors may take]",
)
@json_option
@guarded
def show(table: Path, roles: tuple[str, ...], kind: str | None, as_json: bool) -> None:
    """Draw the profile of every role of SOURCE in the terminal.

    SOURCE is the folder of an allocation or its sensitivity.json (then by the study's damage model), or a published table
    (*.kld.json).

    Example: cerebellum profile show Qwen3.5-2B.kld.json --role ffn_gate
    """
    from cerebellum.report.profile import profile_grid, profile_json
    from cerebellum.verbs.profile_tables import read_profiles
    from cerebellum.verbs.transfer_check import chosen_profiles

    profiles = read_profiles(table)
    name, chosen = chosen_profiles(profiles, roles, kind)
    if as_json:
        print_json(profile_json(profiles, name, chosen))
    else:
        print_grid(profile_grid(profiles, name, chosen))


@profile.command("map")
@click.argument("blocks", metavar="BLOCKS")
@click.argument("n_from", metavar="OF", type=click.IntRange(1, MOST_BLOCKS))
@click.argument("n_to", metavar="TO", type=click.IntRange(1, MOST_BLOCKS))
@guarded
def map_blocks(blocks: str, n_from: int, n_to: int) -> None:
    """Say which blocks of a model of TO blocks lie at the depth of BLOCKS (11-14, or 11) of a model of OF blocks.

    The run keeps its length, and its middle its relative depth.

    Example: cerebellum profile map 11-14 35 42
    """
    from cerebellum.errors import InputError
    from cerebellum.profiles.depth import map_run
    from cerebellum.quoting import name as quoted

    first, _, last = blocks.partition("-")
    if not all(word.isascii() and word.isdecimal() and len(word) < 6 for word in (first, last or first)):
        raise InputError(f"{quoted(blocks)} is no run of blocks; write 11-14, or 11 for one block")
    try:
        start, end = map_run(int(first), int(last or first), n_from, n_to)
    except ValueError as error:
        raise InputError(str(error)) from error
    click.echo(f"blocks {first} to {last or first} of {n_from} lie at the depth of blocks {start} to {end} of {n_to}")
