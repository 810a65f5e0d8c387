"""Warnings: told at once, and kept for the report."""

from __future__ import annotations

from collections.abc import Iterable

from cerebellum.progress import Progress


def tell(warnings: Iterable[str], progress: Progress, told: list[str]) -> None:
    """Tell each of ``warnings`` that isn't in ``told`` yet, and put it there."""
    for warning in warnings:
        if warning not in told:
            told.append(warning)
            progress.note(f"warning: {warning}")
