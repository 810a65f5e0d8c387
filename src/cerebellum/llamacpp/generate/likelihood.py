"""Log-likelihoods of continuations. Shared beginnings of their contexts are computed once (`prefix_tree`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.errors import EngineError
from cerebellum.llamacpp.generate.prefix_tree import Path, Wave, merged, waves
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood
from cerebellum.llamacpp.generate.sequences import Sequences
from cerebellum.llamacpp.trial.decoding import Logits
from cerebellum.scoring.metrics import log_sum_exp


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a request's rows are: tokens ``start`` … ``start`` + m − 1 of its path predict its continuation."""

    start: int
    n_cut: int


def likelihoods(sequences: Sequences, requests: Sequence[Continuation], n_ctx: int) -> Iterator[tuple[int, Likelihood]]:
    """(number, answer), wave by wave. Contexts lose their beginning where the tokens to be read are more than ``n_ctx``."""
    cut = [_path(number, request, n_ctx) for number, request in enumerate(requests)]
    places = [at for _, at in cut]
    sequences.clear()
    for wave in waves(merged([path for path, _ in cut]), sequences.room, sequences.shares):
        yield from _answers(sequences, wave, requests, places)
        sequences.release_all()


def _path(number: int, request: Continuation, n_ctx: int) -> tuple[Path, _Places]:
    """The continuation's last token is never read, so ``n_ctx`` counts all but that."""
    n, m = len(request.context), len(request.continuation)
    if not n or not m:
        raise EngineError(f"request {number + 1} has an empty {'context' if not n else 'continuation'}")
    if m > n_ctx:
        raise EngineError(
            f"the continuation of request {number + 1} has {m} tokens, more than a context of {n_ctx} holds"
        )
    n_cut = max(0, n + m - 1 - n_ctx)
    tokens = np.concatenate([request.context[n_cut:], request.continuation[:-1]]).astype(np.int32)
    start = n - n_cut - 1
    return Path(tokens, np.arange(len(tokens)) >= start, (number,)), _Places(start, n_cut)


def _answers(
    sequences: Sequences, wave: Wave, requests: Sequence[Continuation], places: Sequence[_Places]
) -> Iterator[tuple[int, Likelihood]]:
    numbers = [(i, number) for i, path in enumerate(wave.paths) for number in path.requests]
    targets = [requests[number].continuation for _, number in numbers]
    nodes = [
        wave.nodes[i][places[number].start :][: len(target)]
        for (i, number), target in zip(numbers, targets, strict=True)
    ]
    scores = _Scores(np.concatenate(nodes), np.concatenate(targets))
    for nodes_read, rows in sequences.decode(wave):
        scores.read(nodes_read, rows)
    bounds = np.cumsum([0, *map(len, targets)])
    for i_request, (_, number) in enumerate(numbers):
        span = slice(bounds[i_request], bounds[i_request + 1])
        total, greedy = float(scores.logs[span].sum()), bool(scores.likeliest[span].all())
        yield number, Likelihood(total, greedy, places[number].n_cut)


class _Scores:
    """log p of ``targets`` [n] at ``nodes`` [n], float64 nats, and whether each was the likeliest."""

    def __init__(self, nodes: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        self._nodes, self._targets = nodes, targets
        self.logs = np.full(len(nodes), np.nan)
        self.likeliest = np.zeros(len(nodes), np.bool_)

    def read(self, nodes: npt.NDArray[np.int32], rows: Logits) -> None:
        """``rows`` [k, vocabulary] are the logits of ``nodes`` [k], increasing."""
        mine = np.flatnonzero((self._nodes >= nodes[0]) & (self._nodes <= nodes[-1]))
        row, targets = np.searchsorted(nodes, self._nodes[mine]), self._targets[mine]
        self.logs[mine] = rows[row, targets] - log_sum_exp(rows)[row]
        self.likeliest[mine] = rows.argmax(axis=1)[row] == targets
