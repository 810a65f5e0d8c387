"""What makes a sweep, its race or its choice unable to show or to hold anything: said before the first trial, with what to do."""

from __future__ import annotations

import math

from cerebellum.allocation.plan import SweepPlan
from cerebellum.domain import Model
from cerebellum.errors import InputError
from cerebellum.figures import counted, significant
from cerebellum.gguf.mix import MixOptions
from cerebellum.gguf.types import quant_type
from cerebellum.results import Noise
from cerebellum.stats.racing import plan_race
from cerebellum.stats.verdicts import MILLI, SCALE, scale_of
from cerebellum.verbs.base import own_base

#: A race that can't save this share of the text can't pay: its intervals are wider, since they hold under repeated looks.
LEAST_SAVING = 0.3
OWN_REFERENCE = (
    "The base is (all but) its own reference, so it has no KL divergence that --allow could be a share of: it is a share of "
    f"{MILLI * SCALE:g} thousandths of a nat a token instead, and no larger type can pay. Give --reference "
    "with the unquantized model if you have it."
)


def base_is_reference(source: Model, asked: str | None, mix: MixOptions, is_own_reference: bool) -> bool:
    """Whether the base is the very file that KL divergence is taken to. ``is_own_reference``: no other reference was given."""
    return is_own_reference and own_base(source, asked, mix) is not None


def race_doubts(n_chunks: int, seed: int) -> list[str]:
    """That a race over so few chunks can't pay, where it can't."""
    looks = plan_race(range(n_chunks), seed)[1].looks
    saving = 1.0 - looks[0] / n_chunks
    if saving > LEAST_SAVING:
        return []
    what = "can't save anything" if saving <= 0.0 else f"can save {100 * saving:.0f} % of the text at most"
    enough = next(n for n in range(n_chunks + 1, 1000) if not race_doubts(n, seed))
    return [
        f"A race over {counted(n_chunks, 'chunk')} {what}, since its first look takes {looks[0]}; and its intervals are wider. Leave "
        f"out --race, or give {enough} chunks or more (--chunks, a longer text, a smaller --ctx)."
    ]


def allowance_doubts(allowed_damage: float, base_kld: float, noise: Noise) -> list[str]:
    """That an allowance is under the noise floor. ``allowed_damage``: share of the base's mean KL divergence ``base_kld``, nats a
    token."""
    scale = scale_of(base_kld)
    allowed = allowed_damage * scale
    if allowed >= noise.floor:
        return []
    least = noise.floor / scale
    return [
        f"--allow {allowed_damage:g} is {significant(allowed * MILLI, 2)} thousandths of a nat a token, under the noise floor of "
        f"{significant(noise.floor * MILLI, 2)}: what costs so little can't be told from what costs nothing, so the choice may hold "
        f"nothing. Give --allow {upward(least)} or more."
    ]


def upward(share: float) -> str:
    """A share that is at least this, in hundredths."""
    return f"{math.ceil(100.0 * share) / 100.0:g}"


def refuse_hopeless(plan: SweepPlan, source: Model) -> None:
    """For a base that is its own reference: raises `InputError` where every trial is of a larger type, since nothing is nearer to a file
    than itself."""
    tensors = {t.name: t for t in source.tensors}
    if all(tensors[s.tensor].bytes_as(quant_type(s.type)) > tensors[s.tensor].n_bytes for s in plan.tensor_types):
        raise InputError(
            f"{source.path.name} is its own base and its own reference, and every type to try is larger: nothing can be nearer to a file "
            "than itself, so nothing can be chosen. Give --reference with the unquantized model, or smaller types (--to)"
        )
