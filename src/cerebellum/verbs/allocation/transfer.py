"""Anchors of a transfer: what another model's sensitivities predict is probed where that decides most, judged role by role, then used.

Roles whose profile does not hold get all their anchors. Of the others only the probes are measured and, once, the tensors whose decision
the predictions leave open. Probes are anchors like any other: where nothing holds, no measurement was in vain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cerebellum.allocation.anchors import first_anchors, open_tensors
from cerebellum.allocation.damage import Anchor, DamageModel, fit
from cerebellum.allocation.floor import Floor
from cerebellum.allocation.table import Table
from cerebellum.domain import Model, block_of
from cerebellum.errors import InputError
from cerebellum.profiles.check import CarryVerdict
from cerebellum.profiles.layout import Layout, carried_over, layout_of
from cerebellum.profiles.origin import Origin
from cerebellum.profiles.roles import (
    LEAST_PROBES,
    JudgedRole,
    Probe,
    Role,
    look,
    most_probes,
    next_place,
    predicted_slopes,
    probes_of,
    role_of_profile,
    sensitivity_of,
)
from cerebellum.results.allocation import Anchors, RoleTransfer, Transferred
from cerebellum.study.runner import TrialRunner
from cerebellum.verbs.allocation.anchors import (
    LOOKS,
    Wanted,
    measure_floor,
    measure_start,
    measured_anchors,
    source_runner,
)
from cerebellum.verbs.allocation.first import refuse_unmeasurable
from cerebellum.verbs.allocation.measuring import shuffled_chunks
from cerebellum.verbs.allocation.origin import other_family
from cerebellum.verbs.session import Session

#: Share of the tensors that are measured beside the probes because their decision is open, at most.
OPEN_SHARE = 1 / 8
#: A transfer as a whole holds where all its roles do, and fails where those that hold have less than this share of the tensors.
LEAST_HOLDING = 1 / 4


@dataclass
class _Job:
    """What is asked for, and what is known by now. ``cells``: tensor → the type that it is measured at."""

    runner: TrialRunner
    table: Table
    cells: Mapping[str, str]
    order: Sequence[int]
    seed: int
    floor: Floor
    wanted: Wanted = field(default_factory=dict)
    anchors: dict[str, Anchor] = field(default_factory=dict)

    def measure(self, names: Sequence[str], what: str, chunks: int = LOOKS[0]) -> None:
        """The tensors of ``names`` on so many chunks, beside all that was wanted before."""
        self.wanted |= {(name, self.cells[name]): self.order[:chunks] for name in names}
        anchors = measured_anchors(self.runner, self.table, self.wanted, what, self.floor)
        self.anchors = {a.tensor: a for a in anchors}

    @property
    def asked(self) -> frozenset[str]:
        """Tensors that were measured, or couldn't be."""
        return frozenset(name for name, _ in self.wanted)

    def anchors_of(self, role: Role) -> dict[int, Anchor]:
        """Place in the role → its anchor."""
        return {i: self.anchors[n] for i, n in enumerate(role.names) if n in self.anchors}

    def judge(self, role: Role) -> JudgedRole:
        """What the role's anchors say by now."""
        known = {i: sensitivity_of(a, float(role.sizes[i])) for i, a in self.anchors_of(role).items()}
        return look(role, known, self.seed)


def transfer_anchors(
    session: Session, table: Table, origin: Origin, budget: int, seed: int
) -> tuple[Anchors, Transferred]:
    """Anchors and damage model by few probes; see the module. Raises `InputError` where nothing can be measured or carried over."""
    cells = first_anchors(table, budget)
    if not cells:
        refuse_unmeasurable(table, session.source)
    roles, whole = roles_of(table, cells, origin, session.source)
    for warning in other_family(origin, session.source):
        session.progress.note(f"warning: {warning}")
    start = measure_start(session)
    with source_runner(session) as runner:
        order = shuffled_chunks(session.search, seed)
        floor, n_harmless = measure_floor(runner, table, session.source.types, order[: LOOKS[1]])
        job = _Job(runner, table, cells, order, seed, floor)
        judged = _probe(job, roles, [n for n in cells if table.tensors[n].role in whole])
        probes = {r.role: probes_of(r, job.anchors_of(r)) for r in roles}
        failed = [r for r in roles if judged[r.role].verdict is CarryVerdict.FAILS]
        for role in roles:
            session.progress.note(sentence(role, judged[role.role], len(probes[role.role])))
        if failed:
            job.measure([n for r in failed for n in r.names], "anchors of roles that don't hold")
        held = [r for r in roles if r not in failed]
        model = predicted_model(job, held, origin)
        model = _settle(job, held, origin, model, budget)
    measured = tuple(sorted(job.anchors.values(), key=lambda a: (a.tensor, a.type)))
    lost = tuple(sorted(cell for cell in job.wanted if cell[0] not in job.anchors))
    n_chunks = sum(map(len, job.wanted.values())) + n_harmless * len(order[: LOOKS[1]])
    anchors = Anchors(
        measured, replace(model, floor=floor.whole, start=start), len(job.wanted) + n_harmless, n_chunks, lost, floor
    )
    results = tuple(_result(job, r, judged[r.role], probes[r.role]) for r in roles)
    return anchors, _overall(
        session, origin, results, whole, [judged[r.role] for r in roles], len(cells), len(job.asked)
    )


def roles_of(
    table: Table, cells: Mapping[str, str], origin: Origin, source: Model
) -> tuple[tuple[Role, ...], dict[str, str]]:
    """(roles that are predicted, role → why it is measured whole). Raises `InputError` where none can be predicted."""
    layout, names = layout_of(source), dict[str, list[str]]()
    for name in cells:
        names.setdefault(table.tensors[name].role, []).append(name)
    roles, whole = [], dict[str, str]()
    for role, of_role in sorted(names.items()):
        if any(block_of(name) is None for name in of_role):
            whole[role] = "not in the blocks"
        elif role not in origin.profiles:
            whole[role] = f"{origin.label} doesn't have it"
        elif len(of_role) <= LEAST_PROBES:
            whole[role] = f"only {len(of_role)} of it"
        elif len({*origin.profiles[role].values()}) == 1:
            whole[role] = f"{origin.label} treats all of it alike"
        else:
            roles.append(_role(table, role, sorted(of_role, key=lambda n: block_of(n) or 0), origin, layout))
    if not roles:
        reasons = dict.fromkeys(whole.values())
        why = "; ".join(f"{', '.join(role for role in whole if whole[role] == reason)}: {reason}" for reason in reasons)
        raise InputError(
            f"{origin.label} has nothing to carry over to {source.path.name} ({why}): use `cerebellum run`"
        )
    return tuple(roles), whole


def _role(table: Table, role: str, names: Sequence[str], origin: Origin, layout: Layout) -> Role:
    blocks = [block_of(name) or 0 for name in names]
    expected = carried_over(origin.profiles[role], origin.layout, blocks, layout, attention=role.startswith("attn"))
    n_weights = np.array([float(table.tensors[n].n_elements) for n in names])
    power = np.array([table.power[n] for n in names])
    return role_of_profile(role, names, blocks, expected, n_weights, power, layout.n_blocks)


def _probe(job: _Job, roles: Sequence[Role], whole: Sequence[str]) -> dict[str, JudgedRole]:
    """Rounds of one probe a role, until each is settled or has its probes; the first beside the tensors that nothing is predicted of."""
    judged = {role.role: job.judge(role) for role in roles}
    for done in range(max(role.most_probes for role in roles)):
        going = [r for r in roles if done < r.most_probes and not (done >= LEAST_PROBES and judged[r.role].is_settled)]
        names = []
        for role in going:
            left_out = {i for i, name in enumerate(role.names) if name in job.asked}
            if len(left_out) < len(role.names):
                names.append(role.names[next_place(judged[role.role], {}, left_out) if done else _first(role)])
        if not names:
            break
        job.measure([*names, *whole] if done == 0 else names, f"probes, round {done + 1}")
        judged |= {role.role: job.judge(role) for role in going}
    return judged


def _first(role: Role) -> int:
    """The tensor that the profile calls most sensitive: what is wrong there costs most."""
    return int(np.argmax(role.expected))


def predicted_model(job: _Job, held: Sequence[Role], origin: Origin) -> DamageModel:
    """The damage model of the anchors, with the slopes that the profiles predict where none was measured."""
    model = fit(job.table.roles, list(job.anchors.values()))
    slopes = dict(model.slopes)
    for role in held:
        prior_mean = model.slopes[role.names[0]].prior
        predicted = predicted_slopes(role, job.judge(role), prior_mean)
        slopes |= {name: slope for name, slope in predicted.items() if name not in job.anchors}
    return replace(model, slopes=slopes, misfit=max(model.misfit, origin.misfit or 0.0))


def _settle(job: _Job, held: Sequence[Role], origin: Origin, model: DamageModel, budget: int) -> DamageModel:
    """Measure the predicted tensors whose decision is open, the costliest doubts first, and what was measured there on more text."""
    undecided = open_tensors(job.table, model, budget)
    new = [n for n in undecided if n in job.cells and n not in job.asked][: round(OPEN_SHARE * len(job.cells))]
    again = [n for n in undecided if n in job.anchors]
    if new or (again and len(job.order) > LOOKS[0]):
        job.measure([*new, *again], f"anchors of open decisions: {len(new) + len(again)}", LOOKS[1])
        model = predicted_model(job, held, origin)
    return model


def expected_trials(table: Table, cells: Mapping[str, str], origin: Origin, source: Model) -> int:
    """Trials that a transfer makes where every profile holds."""
    roles, whole = roles_of(table, cells, origin, source)
    measured = sum(table.tensors[n].role in whole for n in cells)
    return measured + sum(most_probes(len(r.names)) for r in roles) + round(OPEN_SHARE * len(cells))


def sentence(role: Role, judged: JudgedRole, n_probes: int) -> str:
    """What a role's probes said, for the terminal."""
    return f"{role.role}: {judged.verdict}; agreement {judged.agreements.mean():.2f}, {n_probes} of {len(role.names)} tensors probed"


def _result(job: _Job, role: Role, judged: JudgedRole, probes: Sequence[Probe]) -> RoleTransfer:
    low, high = np.quantile(judged.agreements, (0.05, 0.95))
    n_measured = sum(name in job.asked for name in role.names)
    return RoleTransfer(
        role.role, judged.verdict, float(judged.agreements.mean()), float(low), float(high), judged.odds,
        len(role.names), n_measured, tuple(probes),
    )  # fmt: skip


def _overall(
    session: Session,
    origin: Origin,
    roles: Sequence[RoleTransfer],
    whole: Mapping[str, str],
    judged: Sequence[JudgedRole],
    n_full: int,
    n_measured: int,
) -> Transferred:
    sizes = np.array([r.n_tensors for r in roles], dtype=np.float64)
    each = sizes @ np.stack([j.agreements for j in judged]) / sizes.sum()
    low, high = np.quantile(each, (0.05, 0.95))
    families = (origin.architecture, session.source.architecture)
    return Transferred(
        origin.label, origin.form, families, (origin.layout.n_blocks, session.source.n_blocks), tuple(roles), dict(whole),
        overall(roles), float(each.mean()), float(low), float(high), n_full, n_measured,
    )  # fmt: skip


def overall(roles: Sequence[RoleTransfer]) -> CarryVerdict:
    """The verdict on all roles together."""
    if all(r.verdict is CarryVerdict.HOLDS for r in roles):
        return CarryVerdict.HOLDS
    holding = sum(r.n_tensors for r in roles if r.verdict is CarryVerdict.HOLDS)
    usable = sum(r.n_tensors for r in roles if r.verdict is not CarryVerdict.FAILS)
    total = sum(r.n_tensors for r in roles)
    if usable == 0 or (holding == 0 and usable < LEAST_HOLDING * total):
        return CarryVerdict.FAILS
    return CarryVerdict.PARTLY
