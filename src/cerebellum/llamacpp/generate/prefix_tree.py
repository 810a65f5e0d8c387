"""Many token paths as a prefix tree: each shared beginning is decoded once.

* A **path** is a sequence of tokens that must go through the model. Some of its positions need a row of logits.
* Paths are taken in lexicographic order, so neighbours share the longest beginnings. A **wave** is a run of consecutive paths, decoded
  together as one tree. A node of the tree is decoded once and belongs to every path through it.
* The **trunk** is the beginning that the next wave shares with this wave's last path. It stays in the model's memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.domain import ByValue, Mask, Tokens

Places = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Path(ByValue):
    """``tokens`` int32 [n ≥ 1], ``wanted`` bool [n] with at least one True; ``requests`` are numbers of whom it answers."""

    tokens: Tokens
    wanted: Mask
    requests: tuple[int, ...]

    @property
    def first_wanted(self) -> int:
        return int(self.wanted.argmax())


@dataclass(frozen=True, slots=True)
class Room:
    """What a wave may take: paths (sequences side by side), new tokens (more only for a path that is longer), cells of memory."""

    paths: int
    tokens: int
    cells: int


@dataclass(frozen=True, slots=True, eq=False)
class Wave(ByValue):
    """``kept`` [paths]: how much of the trunk each path begins with, never increasing.

    Nodes in the order in which they are decoded: ``tokens`` int32, ``places`` int32 (position in the path), ``first`` and ``last``
    int32 (the paths of the wave that run through it, consecutive), ``wanted`` bool, all [nodes]. ``nodes`` holds for each path
    its node at each place, int32 [n], -1 where it is kept.
    """

    paths: tuple[Path, ...]
    kept: tuple[int, ...]
    tokens: Tokens
    places: Places
    first: Places
    last: Places
    wanted: Mask
    nodes: tuple[Places, ...]


def shared(a: Tokens, b: Tokens) -> int:
    """Length of the longest common beginning."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def order(tokens: Tokens) -> bytes:
    """Sorts as the tokens do, token by token."""
    return tokens.astype(">i4").tobytes()


def merged(paths: Sequence[Path]) -> list[Path]:
    """In lexicographic order; a path that another begins with is answered by that one."""
    out: list[Path] = []
    for path in sorted(paths, key=lambda p: order(p.tokens)):
        if out and shared(out[-1].tokens, path.tokens) == len(out[-1].tokens):
            out.append(_joined(out.pop(), path))
        else:
            out.append(path)
    return out


def _joined(beginning: Path, whole: Path) -> Path:
    wanted = whole.wanted.copy()
    wanted[: len(beginning.wanted)] |= beginning.wanted
    return Path(whole.tokens, wanted, (*beginning.requests, *whole.requests))


def waves(paths: Sequence[Path], room: Room, keep: bool = True) -> Iterator[Wave]:
    """Waves of ``paths`` (in lexicographic order); each one's trunk is the last path of the one before, if they ``keep`` it."""
    trunk: Tokens = np.zeros(0, np.int32)
    done = 0
    while done < len(paths):
        n = fitting(trunk, paths[done:], room)
        yield wave(trunk, paths[done : done + n])
        trunk = paths[done + n - 1].tokens if keep else trunk
        done += n


def fitting(trunk: Tokens, paths: Sequence[Path], room: Room) -> int:
    """How many of ``paths``, at least one, go into a wave after ``trunk``."""
    kept = keepable(trunk, paths[0])
    first_kept, n_new = kept, len(paths[0].tokens) - kept
    for n in range(1, min(len(paths), room.paths)):
        path = paths[n]
        common = shared(paths[n - 1].tokens, path.tokens)
        kept = min(kept, common)
        n_new += len(path.tokens) - common
        # A row that is wanted where the trunk is kept has to be decoded again: in a wave that keeps less.
        if n_new > room.tokens or first_kept + n_new > room.cells or path.first_wanted < kept:
            return n
    return min(len(paths), room.paths)


def keepable(trunk: Tokens, path: Path) -> int:
    """How much of ``trunk`` spares ``path`` its decoding: what it shares, up to its first wanted row."""
    return min(shared(trunk, path.tokens), path.first_wanted)


def wave(trunk: Tokens, paths: Sequence[Path]) -> Wave:
    """The nodes of ``paths`` that are not in ``trunk``."""
    links = [keepable(trunk, paths[0]), *(shared(a.tokens, b.tokens) for a, b in itertools.pairwise(paths))]
    kept = tuple(int(k) for k in np.minimum.accumulate(links))
    parts = [_Own(paths, links, i) for i in range(len(paths))]
    bounds = np.cumsum([0, *(len(piece.last) for piece in parts)])
    nodes: list[Places] = []
    for i, path in enumerate(paths):
        added = np.arange(bounds[i], bounds[i + 1], dtype=np.int32)
        before = nodes[-1][: links[i]] if nodes else np.full(links[0], -1, np.int32)
        nodes.append(np.concatenate([before, added]))
        assert len(nodes[-1]) == len(path.tokens)
    return Wave(
        paths=tuple(paths),
        kept=kept,
        tokens=np.concatenate([path.tokens[n:] for path, n in zip(paths, links, strict=True)]),
        places=np.concatenate([np.arange(n, len(p.tokens), dtype=np.int32) for p, n in zip(paths, links, strict=True)]),
        first=np.concatenate([np.full(len(piece.last), i, np.int32) for i, piece in enumerate(parts)]),
        last=np.concatenate([piece.last for piece in parts]),
        wanted=np.concatenate([piece.wanted for piece in parts]),
        nodes=tuple(nodes),
    )


class _Own:
    """The nodes that path ``i`` is the first to run through: the last path that runs through each, and whether any wants its row."""

    def __init__(self, paths: Sequence[Path], links: Sequence[int], i: int) -> None:
        start, n = links[i], len(paths[i].tokens)
        self.last = np.full(n - start, i, np.int32)
        self.wanted = paths[i].wanted[start:].copy()
        common = n
        for j in range(i + 1, len(paths)):
            common = min(common, links[j])
            if common <= start:
                break
            self.last[: common - start] = j
            self.wanted[: common - start] |= paths[j].wanted[start:common]
