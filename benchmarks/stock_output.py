"""Reads what the stock llama-perplexity prints: the estimate of a text, statistics of a KL divergence run, HellaSwag answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CHUNKS = re.compile(r"(?:calculating perplexity|computing) over (\d+) chunks, n_ctx=(\d+)")
_RUNNING = re.compile(r"\[(\d+)\](\d+\.\d+|nan|inf),")
_HELLASWAG = re.compile(r"^(\d+)\t\s*(\d+\.\d+)%\t\[", re.MULTILINE)
_FINAL = re.compile(r"Final estimate: PPL = (\S+) \+/- (\S+)")
_SECTION = re.compile(r"^=+ .* statistics =+$")
_STATISTIC = re.compile(
    r"^\s*(?P<name>\S.*?)\s*:\s*(?P<value>-?\d+\.\d+)(?:\s*±\s*(?P<error>\d+\.\d+))?\s*(?P<percent>%?)$"
)


#: Without it the end of the output was lost.
LAST_STATISTIC = "Same top p"


class StockOutputError(ValueError):
    """The text isn't what the program prints when all went well."""


@dataclass(frozen=True)
class StockPerplexity:
    """`running` holds the perplexity after each chunk; `perplexity` and `std_error` are the program's last line."""

    perplexity: float
    std_error: float
    chunks: int
    n_ctx: int
    running: tuple[float, ...]


@dataclass(frozen=True)
class Statistic:
    """One printed figure. Percentages become fractions. `resolution` is the unit of the last digit printed."""

    value: float
    error: float | None
    resolution: float


def parse_perplexity(output: str) -> StockPerplexity:
    """From the program's stdout and stderr together. Raises StockOutputError where the final estimate is missing."""
    final, shape = _FINAL.search(output), _CHUNKS.search(output)
    if final is None or shape is None:
        raise StockOutputError(f"no final estimate in llama-perplexity's output, which ends:\n{output[-400:]}")
    running = tuple(float(value) for _, value in _RUNNING.findall(output))
    return StockPerplexity(float(final[1]), float(final[2]), int(shape[1]), int(shape[2]), running)


def parse_divergence(output: str) -> dict[str, Statistic]:
    """Name as printed ("Mean KLD", "99.9% KLD", "Same top p", …; runs of blanks made one) → figure.

    Raises StockOutputError where they are missing or cut off: the program prints none for fewer than 100 tokens.
    """
    found: dict[str, Statistic] = {}
    in_section = False
    for line in output.splitlines():
        in_section = in_section or bool(_SECTION.match(line))
        match = _STATISTIC.match(line) if in_section else None
        if match:
            found[" ".join(match["name"].split())] = _statistic(match)
    if "Mean KLD" not in found or LAST_STATISTIC not in found:
        raise StockOutputError(
            f"no KL divergence statistics in llama-perplexity's output, which ends:\n{output[-400:]}"
        )
    return found


def parse_hellaswag(output: str, n_tasks: int) -> list[bool]:
    """Whether each task was answered rightly, in the program's order: the differences of its running accuracy.

    Raises StockOutputError where a line of the ``n_tasks`` is missing.
    """
    found = [(int(number), float(share)) for number, share in _HELLASWAG.findall(output)]
    if [number for number, _ in found] != list(range(1, n_tasks + 1)):
        raise StockOutputError(
            f"{len(found)} of {n_tasks} HellaSwag tasks in llama-perplexity's output, which ends:\n{output[-400:]}"
        )
    counts = [round(number * share / 100) for number, share in found]
    return [count > before for before, count in zip([0, *counts], counts, strict=False)]


def _statistic(match: re.Match[str]) -> Statistic:
    unit = 0.01 if match["percent"] else 1.0
    decimals = len(match["value"].partition(".")[2])
    error = None if match["error"] is None else float(match["error"]) * unit
    return Statistic(float(match["value"]) * unit, error, unit * 10.0**-decimals)
