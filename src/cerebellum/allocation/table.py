"""The table everything is decided on: tensor by tensor the types it may take, their bytes in the file and their weight errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cerebellum.allocation.candidates import undominated
from cerebellum.allocation.sizes import alignment_of, padded_bytes
from cerebellum.allocation.solver import Constraint, Offer, Solution, solve
from cerebellum.domain import Model, Tensor

#: What a weight error costs a tensor: (tensor, error) → damage.
Cost = Callable[[str, float], float]


@dataclass(frozen=True, slots=True)
class Table:
    """``types``: tensor → the types it may take, smallest first. ``errors`` knows these and the base's own type; ``power`` is the
    importance-weighted square of the source's weights. ``base`` is the file that stands for the stock mix; ``extra_bytes``: what the
    finished file's header has more than its (keys that say where it comes from). ``groups``: tensors that get one type together; those of
    a group have the same ``types``."""

    base: Model
    tensors: Mapping[str, Tensor]
    types: Mapping[str, tuple[str, ...]]
    errors: Mapping[str, Mapping[str, float]]
    power: Mapping[str, float]
    extra_bytes: int = 0
    groups: tuple[tuple[str, ...], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.types)

    @property
    def roles(self) -> dict[str, str]:
        """Tensor → role."""
        return {name: self.tensors[name].role for name in self.types}

    @property
    def base_types(self) -> dict[str, str]:
        """The base's type of every tensor that may change."""
        return {name: self.tensors[name].type for name in self.types}

    def n_bytes(self, name: str, kind: str) -> int:
        """Bytes in the file, padding included."""
        return padded_bytes(self.tensors[name], kind, alignment_of(self.base))

    def fixed_bytes(self) -> int:
        """Bytes of the file that no choice changes: header and all other tensors."""
        return (
            self.base.file_bytes
            + self.extra_bytes
            - sum(self.n_bytes(name, kind) for name, kind in self.base_types.items())
        )

    def file_bytes(self, types: Mapping[str, str]) -> int:
        """Bytes of the finished file with these types; tensors that aren't named have the base's."""
        chosen = {**self.base_types, **{n: k for n, k in types.items() if n in self.types}}
        return self.fixed_bytes() + sum(self.n_bytes(name, kind) for name, kind in chosen.items())

    def least_bytes(self) -> int:
        """Bytes of the smallest file that the types give."""
        return self.file_bytes({n: min(kinds, key=lambda k: self.n_bytes(n, k)) for n, kinds in self.types.items()})

    def offers(self, cost: Cost) -> dict[str, tuple[Offer, ...]]:
        """What the solver chooses from: types that no other beats, at the damage that ``cost`` gives them. In a group all types are kept:
        which are beaten differs from tensor to tensor."""
        offers, grouped = {}, {name for group in self.groups for name in group}
        for name, types in self.types.items():
            sizes, errors = {kind: self.n_bytes(name, kind) for kind in types}, self.errors[name]
            kept = types if name in grouped else undominated(types, sizes, errors)
            offers[name] = tuple(Offer(kind, sizes[kind], cost(name, errors[kind])) for kind in kept)
        return offers

    def best(self, cost: Cost, budget: int, constraints: Sequence[Constraint] = ()) -> Solution:
        """The least damage, by ``cost``, within ``budget`` bytes of the table's tensors. Raises `InputError` where nothing fits."""
        return solve(self.offers(cost), budget, constraints, self.groups)

    def allows(self, types: Mapping[str, str]) -> bool:
        """Whether every tensor may have its type, and the tensors of each group have one."""
        return all(types[name] in measured for name, measured in self.types.items()) and all(
            len({types[name] for name in group}) == 1 for group in self.groups
        )

    def error_change(self, name: str, kind: str, since: str | None = None) -> float:
        """Weight error at ``kind`` less that at ``since`` (the base's type by default)."""
        return self.errors[name][kind] - self.errors[name][since or self.tensors[name].type]

    def without(self, cells: Iterable[tuple[str, str]]) -> Table:
        """The table without some (tensor, type), unless a tensor would have none left. A group loses what one of its tensors loses."""
        gone = set(cells)
        gone |= {(other, kind) for name, kind in gone for group in self.groups if name in group for other in group}
        kept = {n: tuple(k for k in types if (n, k) not in gone) or types for n, types in self.types.items()}
        return replace(self, types=kept)


def table_of(
    base: Model,
    types: Mapping[str, tuple[str, ...]],
    errors: Mapping[str, Mapping[str, float]],
    power: Mapping[str, float],
) -> Table:
    """The table of the tensors in ``types``, in the order of their names."""
    tensors = {t.name: t for t in base.tensors}
    names = sorted(types)
    return Table(
        base,
        {name: tensors[name] for name in names},
        {name: types[name] for name in names},
        {name: errors[name] for name in names},
        {name: power[name] for name in names},
    )
