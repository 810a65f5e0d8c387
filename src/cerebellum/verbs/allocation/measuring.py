"""Trials of whole recipes and of single changes, and what is read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cerebellum.allocation.damage import Anchor
from cerebellum.allocation.table import Table
from cerebellum.domain import Trial, TrialKind, tensor_types_of
from cerebellum.scoring.summary import kld_sums
from cerebellum.stats.intervals import Interval, mean_interval, paired_values, ratio_values
from cerebellum.study.runner import Scores, Split
from cerebellum.verbs.session import Session


def recipe_trial(session: Session, label: str, types: Mapping[str, str], kind: TrialKind = TrialKind.RECIPE) -> Trial:
    """A recipe as swaps away from the base."""
    base = session.base.model.types
    return Trial(label, kind, tensor_types_of({name: q for name, q in types.items() if q != base[name]}))


def shuffled_chunks(split: Split, seed: int) -> tuple[int, ...]:
    """The split's chunks in a seeded random order, so that the first n are a sample of the text."""
    order = np.random.default_rng([seed, len(split.chunks)]).permutation(len(split.chunks))
    return tuple(split.chunks[i] for i in order)


def first_chunks(split: Split, n: int, seed: int) -> Split:
    """The split with ``n`` of its chunks, the same for every caller, in the order of the text."""
    return replace(split, chunks=tuple(sorted(shuffled_chunks(split, seed)[:n])))


def anchor_of(table: Table, name: str, kind: str, trial: Scores, source: Scores) -> Anchor:
    """What one tensor of the source at ``kind`` says of its slope."""
    values = effect_values(trial, source)
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else abs(float(values.mean()))
    return Anchor(name, kind, table.errors[name][kind], float(values.mean()), error)


def effect_values(trial: Scores, base: Scores) -> np.ndarray:
    """Change of KL divergence by chunk, nats a token, over the chunks that both have."""
    ours, theirs = kld_sums(trial), kld_sums(base)
    assert ours is not None and theirs is not None  # a job has a reference
    common = ours.keys() & theirs.keys()
    return paired_values({c: ours[c] for c in common}, {c: theirs[c] for c in common})


def steadied(anchors: Sequence[Anchor], n_chunks: int) -> list[Anchor]:
    """Standard errors from few chunks, drawn toward what is usual for effects of their size (4 chunks' worth of belief)."""
    shares = [a.std_error / abs(a.effect) for a in anchors if a.effect and math.isfinite(a.std_error)]
    usual = float(np.median(shares)) if shares else 0.5
    noise = float(np.median([a.std_error for a in anchors])) if anchors else 0.0
    belief, degrees = 4.0, float(max(n_chunks - 1, 0))
    steady = []
    for a in anchors:
        expected = max(usual * abs(a.effect), 0.2 * noise)
        variance = (belief * expected**2 + degrees * a.std_error**2) / (belief + degrees)
        steady.append(replace(a, std_error=math.sqrt(variance)))
    return steady


def kld_ratio(trial: Scores, base: Scores) -> Interval:
    """Mean KL divergence of the trial as a share of the base's, with the interval of a ratio over paired chunks. An estimate that is no
    number where there is none: the base has no KL divergence, or no chunk is measured of both."""
    shared = sorted(trial.keys() & base.keys())
    ours = np.array([trial[c].kld or 0.0 for c in shared])
    theirs = np.array([base[c].kld or 0.0 for c in shared])
    if not theirs.sum() > 0.0:
        return Interval(math.nan, -math.inf, math.inf, math.inf, len(shared), 0.95)
    return mean_interval(ratio_values(ours, theirs))
