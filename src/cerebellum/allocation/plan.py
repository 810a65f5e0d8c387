"""What a sweep will measure: every trial known, labelled and in order before the first one runs.

Order matters for speed alone: a replayed suffix starts at the changed block, so blocks come last first, everything of one block
together, all types of one tensor together; tensors after the blocks come before them, embeddings last.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cerebellum.domain import Model, Tensor, TensorType, TensorTypes, Trial, TrialKind, role_of, tensor_types_of
from cerebellum.errors import TensorChoiceError, TypeChoiceError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.types import fallback_type, needs_imatrix, quant_type
from cerebellum.quoting import did_you_mean

ALL_ROLES = "all"
#: Draws tried before a random set that differs from all earlier ones is given up.
_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One single trial: ``asked`` are the types that ask for it; ``trial.tensor_types[0].type`` the one that is really stored."""

    trial: Trial
    asked: tuple[str, ...]

    @property
    def swap(self) -> TensorType:
        return self.trial.tensor_types[0]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor and type that are not measured, and why."""

    tensor: str
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The single trials in order of execution, what was left out, and notes for the user (fallbacks)."""

    planned: tuple[PlannedTrial, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]

    @property
    def trials(self) -> tuple[Trial, ...]:
        return tuple(p.trial for p in self.planned)

    @property
    def tensor_types(self) -> TensorTypes:
        return tensor_types_of((p.swap.tensor, p.swap.type) for p in self.planned)


def plan_sweep(
    model: Model,
    base_types: Mapping[str, str],
    roles: Sequence[str],
    types: Sequence[str],
    blocks: Iterable[int] | None = None,
    *,
    has_imatrix: bool = False,
    unused: frozenset[str] = frozenset(),
    barred: Callable[[TensorType], str] = lambda _swap: "",
) -> SweepPlan:
    """Each tensor of ``roles`` (or "all") in ``blocks`` (None: all) alone at each of ``types``, demotions and promotions alike.

    ``base_types``: every tensor's type in the base; ``unused``: tensors that no forward pass reads; ``barred``: why else a
    swap isn't to be measured, "" where it is. Raises `TensorChoiceError`
    for an unknown role or block or where nothing is left to measure, `TypeChoiceError` for an unknown type, one that no chosen
    tensor can hold, or one that needs an importance matrix where there is none.
    """
    tensors, wanted, notes = check_choice(model, roles, types, blocks, has_imatrix)
    planned: dict[TensorType, PlannedTrial] = {}
    skipped = []
    for tensor in _replay_order(tensors):
        for kind in wanted:
            swap = TensorType(tensor.name, fallback_type(kind, tensor.row_length).name)
            if reason := _why_not(swap, base_types, unused, planned) or barred(swap):
                skipped.append(Skipped(tensor.name, kind, reason))
            if not reason or swap in planned:
                askers = planned[swap].asked if swap in planned else ()
                planned[swap] = PlannedTrial(single_trial(swap), (*askers, kind))
    if not planned:
        raise TensorChoiceError(
            f"nothing to measure: {skipped[0].tensor} {skipped[0].reason}; choose another role or type"
        )
    return SweepPlan(tuple(planned.values()), tuple(skipped), tuple(notes))


def check_choice(
    model: Model, roles: Sequence[str], types: Sequence[str], blocks: Iterable[int] | None, has_imatrix: bool
) -> tuple[tuple[Tensor, ...], list[str], list[str]]:
    """(tensors, types, notes on fallbacks) of a sweep: what is known before there is a base. Raises as `plan_sweep` does."""
    tensors = select_tensors(model, roles, blocks)
    wanted = list(dict.fromkeys(quant_type(name).name for name in types))
    if not wanted:
        raise TypeChoiceError("no type to sweep was given; give one with --to, Q2_K for example")
    return tensors, wanted, [note for kind in wanted if (note := _check_type(kind, tensors, has_imatrix))]


def _why_not(
    swap: TensorType, base_types: Mapping[str, str], unused: frozenset[str], planned: Mapping[TensorType, PlannedTrial]
) -> str:
    if swap.tensor in unused:
        return "is never read by this model, so its type can change nothing but size"
    if base_types[swap.tensor] == swap.type:
        return f"is {swap.type} in the base already"
    return f"falls back to {swap.type}, which is measured already" if swap in planned else ""


def single_trial(swap: TensorType) -> Trial:
    """The trial of one swap alone."""
    return Trial(f"{swap.tensor}={swap.type}", TrialKind.SINGLE, (swap,))


def select_tensors(model: Model, roles: Sequence[str], blocks: Iterable[int] | None = None) -> tuple[Tensor, ...]:
    """The tensors of ``roles`` in ``blocks``, in the order of the file. Raises `TensorChoiceError` listing the roles there are."""
    tensors = quantizable_tensors(model)
    counts = Counter(t.role for t in tensors)
    listed = ", ".join(f"{role} ({n})" for role, n in sorted(counts.items()))
    for role in roles:
        if role != ALL_ROLES and role not in counts:
            kept = any(t.role == role for t in model.tensors)
            problem = "which llama.cpp never quantizes" if kept else f"which {model.path.name} doesn't have"
            raise TensorChoiceError(
                f"the role {role!r} was asked for, {problem}{did_you_mean(role, counts)}; the roles are {listed}, or {ALL_ROLES}"
            )
    chosen = set(counts) if ALL_ROLES in roles else set(roles)
    selected = tuple(t for t in tensors if t.role in chosen)
    if blocks is not None:
        selected = _in_blocks(selected, set(blocks), model)
    if not selected:
        raise TensorChoiceError(f"no tensor was chosen; the roles are {listed}, or {ALL_ROLES}")
    return selected


def _in_blocks(tensors: tuple[Tensor, ...], blocks: set[int], model: Model) -> tuple[Tensor, ...]:
    if unknown := sorted(block for block in blocks if not 0 <= block < model.n_blocks):
        raise TensorChoiceError(f"{model.path.name} has blocks 0 to {model.n_blocks - 1}, no block {unknown[0]}")
    return tuple(t for t in tensors if t.block in blocks)


def _check_type(kind: str, tensors: Sequence[Tensor], has_imatrix: bool) -> str:
    """A note on fallbacks, or nothing. Raises `TypeChoiceError`."""
    quant = quant_type(kind)
    fits = [t for t in tensors if quant.fits(t.row_length)]
    if not fits:
        lengths = ", ".join(str(n) for n in sorted({t.row_length for t in tensors}))
        second = fallback_type(kind, tensors[0].row_length).name
        raise TypeChoiceError(
            f"{kind} needs rows of a multiple of {quant.block_size} weights, the chosen tensors have {lengths}: "
            f"llama.cpp would store {second} instead; ask for that"
        )
    if not has_imatrix and (name := next((t.name for t in fits if needs_imatrix(kind, t.name)), None)):
        raise TypeChoiceError(f"{kind} needs an importance matrix for {name}; give one with --imatrix")
    short = Counter(fallback_type(kind, t.row_length).name for t in tensors if t not in fits)
    return "; ".join(
        f"{n} of {len(tensors)} tensors can't hold {kind} in their rows and are stored as {second}"
        for second, n in sorted(short.items())
    )


def _replay_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    def key(tensor: Tensor) -> float:
        if tensor.block is not None:
            return -tensor.block
        return math.inf if "_embd" in tensor.name else -math.inf

    return sorted(tensors, key=key)


def blanket_trial(plan: SweepPlan, kind: str) -> Trial:
    """Every tensor of the plan at the type ``kind`` (its fallback where a row can't hold it). Raises `TypeChoiceError` if unplanned."""
    name = quant_type(kind).name
    tensor_types = tensor_types_of((p.swap.tensor, p.swap.type) for p in plan.planned if name in p.asked)
    if not tensor_types:
        raise TypeChoiceError(f"{name} is not in the sweep, so there is no blanket of it; add it with --to")
    return Trial(f"blanket {name}", TrialKind.BLANKET, tensor_types)


def random_trials(plan: SweepPlan, chosen: TensorTypes, n: int, seed: int) -> tuple[Trial, ...]:
    """``n`` random sets like ``chosen``: of each role and type as many tensors, drawn from the plan, all sets different.

    Fewer than ``n`` where there aren't that many other sets, none for an empty ``chosen``. Draw ``i`` depends on ``seed`` and
    ``i`` and the draws before it, not on the order of the plan. Raises `TensorChoiceError` where ``chosen`` isn't in the plan.
    """
    pools: dict[tuple[str, str], list[str]] = defaultdict(list)
    for swap in sorted(plan.tensor_types):
        pools[role_of(swap.tensor), swap.type].append(swap.tensor)
    counts = Counter((role_of(swap.tensor), swap.type) for swap in chosen)
    if strange := [swap for swap in chosen if swap.tensor not in pools[role_of(swap.tensor), swap.type]]:
        raise TensorChoiceError(
            f"{strange[0].tensor} as {strange[0].type} is not in the sweep, so no random set is like it"
        )
    seen = [tensor_types_of((s.tensor, s.type) for s in chosen)]
    while len(seen) <= n and (drawn := _new_set(pools, counts, seed, seen)):
        seen.append(drawn)
    return tuple(
        Trial(f"random {i}", TrialKind.RANDOM, tensor_types) for i, tensor_types in enumerate(seen[1:], start=1)
    )


def _new_set(
    pools: Mapping[tuple[str, str], list[str]],
    counts: Mapping[tuple[str, str], int],
    seed: int,
    seen: Sequence[TensorTypes],
) -> TensorTypes | None:
    for attempt in range(_DRAWS):
        rng = np.random.default_rng([seed, len(seen), attempt])
        drawn = [
            TensorType(str(tensor), kind)
            for (role, kind), count in sorted(counts.items())
            for tensor in rng.choice(pools[role, kind], size=count, replace=False)
        ]
        tensor_types = tuple(sorted(drawn))
        if len({s.tensor for s in tensor_types}) == len(tensor_types) and tensor_types not in seen:
            return tensor_types
    return None
