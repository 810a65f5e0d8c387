"""What the page shows, as numbers: frozen, read from ``report.json`` (`cerebellum.report.reading`), drawn by charts, pictures and tables.

KL divergence is in nats a token; a limit that isn't known is None.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The series of `Point`, in the order of the key.
OURS, STOCK, CONTROL, SHUFFLED = "Cerebellum", "stock file", "control", "shuffled"
#: The series where any files are compared.
WORTH, UNPROVEN, DOMINATED = "worth having", "not shown to be better", "smaller ones are better"


@dataclass(frozen=True, slots=True)
class Mean:
    """An estimate and its 95 % interval."""

    estimate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A file, or a set of types that would make one: bytes, mean KL divergence on the report text, verdict against the stock file."""

    label: str
    series: str
    file_bytes: float
    kld: Mean
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A tensor of the file. ``slope`` (nats for a unit of weight error) and the damages that the model predicts are None where nothing was
    fitted; ``slope`` has its 90 % interval."""

    tensor: str
    role: str
    block: int | None
    type: str
    stock_type: str
    n_bytes: int
    stock_bytes: int
    n_elements: int
    slope: Mean | None = None
    damage: float | None = None
    stock_damage: float | None = None
    n_anchors: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """A tensor alone at another type: the change of KL divergence as the others predict it and as it was measured."""

    tensor: str
    type: str
    predicted: float
    measured: float
    std_error: float | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe, predicted and measured on the search text."""

    name: str
    file_bytes: int | None
    predicted: float
    measured: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Single:
    """A trial of a sweep: one tensor at another type. ``change`` is of KL divergence, or of perplexity in percent where there is none."""

    tensor: str
    role: str
    block: int | None
    from_type: str
    to_type: str
    delta_bytes: int
    percent: Mean
    kld: Mean | None
    verdict: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Rung:
    """A file of the validity ladder: ``change`` of perplexity from the reference's, percent."""

    name: str
    ppl: float
    change: Mean
    kld: float


@dataclass(frozen=True, slots=True)
class Score:
    """A file's score on a task, 0 … 1; ``unusable`` says why it counts for nothing."""

    task: str
    role: str
    n: int
    value: Mean
    unusable: str


@dataclass(frozen=True, slots=True)
class Flips:
    """Two files on the same items of a task: answers lost and gained (None where items are graded), change, share of the items."""

    task: str
    new: str
    old: str
    lost: int | None
    gained: int | None
    p_value: float | None
    change: Mean
    gate: str


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second: the mean over repetitions and its standard deviation (None for one)."""

    mean: float
    spread: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """A file among others. ``tail``: KL divergence of single tokens (median, 99 %, 99.9 %), ``largest`` that of one token. ``change``: of
    perplexity from the reference's, percent. ``types``: (role, type, number of tensors)."""

    file: str
    sha256: str
    file_bytes: int
    bits: float
    rank: int
    series: str
    worth: str
    kld: Mean | None
    tail: tuple[Mean, ...]
    largest: float | None
    same_top: Mean | None
    ppl: Mean
    change: Mean
    types: tuple[tuple[str, str, int], ...]
    prompt: Rate | None = None
    generation: Rate | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """``file`` less ``less``: bytes, KL divergence, perplexity in percent; limits of all pairs hold together."""

    file: str
    less: str
    delta_bytes: int
    kld: Mean | None
    percent: Mean


@dataclass(frozen=True, slots=True)
class Command:
    """A line to copy, and what it does."""

    what: str
    line: str


@dataclass(frozen=True, slots=True)
class Size:
    """A size of a ladder: its label, which is its folder's name, its five lines, and its tensors."""

    label: str
    file: str
    file_bytes: int
    verdict: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Everything of a page. Empty tuples are left out of it. ``by_kld``: whether singles have a KL divergence."""

    kind: str
    title: str
    subtitle: str
    verdict: tuple[str, ...]
    more: tuple[str, ...]
    warnings: tuple[str, ...]
    report_text: str
    search_text: str
    floor: float
    noise: str
    facts: tuple[str, ...]
    commands: tuple[Command, ...]
    points: tuple[Point, ...] = ()
    cells: tuple[Cell, ...] = ()
    other_bytes: int | None = None
    effects: tuple[Effect, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    ranks: tuple[tuple[str, float | None], ...] = ()
    singles: tuple[Single, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    rungs: tuple[Rung, ...] = ()
    validity: str = ""
    scores: tuple[Score, ...] = ()
    flips: tuple[Flips, ...] = ()
    bench: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    compared: tuple[Compared, ...] = ()
    pairs: tuple[Pair, ...] = ()
    speed: tuple[str, ...] = ()
