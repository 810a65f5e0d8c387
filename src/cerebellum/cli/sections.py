"""A group of commands whose ``--help`` lists them in sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class SectionedGroup(click.Group):
    """``sections``: heading → names of commands, in this order. What is in none comes last, under *Other*."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = dict(sections or {})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Called by click in place of its one list."""
        placed = {name for names in self.sections.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in placed]
        for heading, names in {**self.sections, "Other": others}.items():
            self._section(ctx, formatter, heading, names)

    def _section(self, ctx: click.Context, formatter: click.HelpFormatter, heading: str, names: Sequence[str]) -> None:
        known = [(name, command) for name in names if (command := self.get_command(ctx, name)) and not command.hidden]
        if not known:
            return
        room = formatter.width - 6 - max(len(name) for name, _ in known)
        with formatter.section(heading):
            formatter.write_dl([(name, command.get_short_help_str(room)) for name, command in known])
