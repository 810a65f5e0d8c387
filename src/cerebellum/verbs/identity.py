"""What tells the same build, processor and device from another one: bytes of quantized tensors, beside the sums of the base."""

from __future__ import annotations

from collections.abc import Sequence

from cerebellum.domain import Model, TensorTypes, Trial, TrialKind
from cerebellum.study.builds import canary, note_canary
from cerebellum.study.runner import TrialRunner

#: Types whose bytes a canary holds, one tensor of each.
CANARY_TYPES = 4


def canary_swaps(trials: Sequence[Trial], model: Model) -> TensorTypes:
    """The smallest tensor of each of some types among the single trials: the same for all who plan the same trials."""
    sizes = {tensor.name: tensor.n_elements for tensor in model.tensors}
    swaps = sorted({swap for trial in trials if trial.kind is TrialKind.SINGLE for swap in trial.tensor_types})
    smallest = {s.type: s for s in sorted(swaps, key=lambda s: (sizes.get(s.tensor, 0), s.tensor), reverse=True)}
    return tuple(smallest[kind] for kind in sorted(smallest)[:CANARY_TYPES])


def keep_canary(runner: TrialRunner, trials: Sequence[Trial], model: Model) -> None:
    """Hash the bytes of some tensors as this machine quantizes them, once, so that a merge can compare them with another's."""
    known = canary(runner.study, runner.series)
    lacking = tuple(s for s in canary_swaps(trials, model) if f"{s.tensor}={s.type}" not in known)
    if lacking:
        note_canary(runner.study, runner.series, runner.engines[0].quantized_sha256(lacking))
