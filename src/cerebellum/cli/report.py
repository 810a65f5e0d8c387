"""`report`: the page of a finished folder, drawn again."""

from __future__ import annotations

from pathlib import Path

import click

from cerebellum.cli.common import guarded, say
from cerebellum.quoting import printable


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@guarded
def report(folder: Path, show: bool) -> None:
    """Draw report.html of DIR, a folder that `run` or `compare` wrote, again from its report.json, of a ladder the page of each size, and
    sweep.html of a folder that `sweep` wrote.

    Nothing is measured and no model is opened. Every figure on the page is in report.json. With the `report` extra
    (pip install 'cerebellum[report]') the charts answer to the pointer.

    Example: cerebellum report study --open
    """
    from cerebellum import api

    paths = api.report(folder)
    for path in paths:
        print(printable(str(path)))
    if show and click.launch(paths[0].resolve().as_uri()) != 0:
        say("cerebellum: no browser could be started; open the file yourself")
