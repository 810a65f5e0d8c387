"""What is known of an allocation before a model is opened: the stock file's types, a table without weight errors, and a source that no file
of the size asked for can be nearer to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from cerebellum.allocation.candidates import (
    DEFAULT_TYPES,
    TypeRules,
    allowed_types,
    candidate_types,
    chosen_tensors,
    kept_types,
)
from cerebellum.allocation.sizes import file_bytes, target_bytes
from cerebellum.allocation.table import Table, table_of
from cerebellum.domain import Model
from cerebellum.errors import InputError
from cerebellum.files import STUDY_FILE
from cerebellum.gguf import model_file
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.mix import MixOptions
from cerebellum.gguf.types import NEEDS_IMATRIX, TYPES, fallback_type
from cerebellum.llamacpp.protocol import Backend
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.stock import nearest_mix
from cerebellum.verbs.allocation.weights import important
from cerebellum.verbs.calibration import check_calibration, wants_imatrix
from cerebellum.verbs.estimating import nominal_base
from cerebellum.verbs.inputs import Inputs, read_inputs
from cerebellum.verbs.options import SessionOptions


@dataclass(frozen=True)
class StockPlan:
    """The stock mix that the recipe is compared with, the types that llama.cpp gives its tensors, whether an importance matrix is made
    first, and the bytes that the recipe may have."""

    ftype: str
    types: Mapping[str, str]
    makes_imatrix: bool
    limit: int = 0


def check_first(options: SessionOptions, allocation: AllocationOptions, backend: Backend) -> None:
    """Raises `InputError` where no file of the size asked for can be made, or where the source is its own reference and fits that size,
    before anything is made. Said later, when the base is there, where overrides shape the base; a job that goes on was not refused. Rules
    that name no type or tensor are refused too."""
    check_rules(allocation.rules, model_file.read_model(options.model))
    if options.mix != MixOptions() or (options.out / STUDY_FILE).exists():
        return
    inputs = read_inputs(options)
    stock = stock_plan(inputs, options, allocation, backend)
    checked_budget(nominal_table(inputs, stock, allocation), stock.limit)


def check_rules(rules: TypeRules, source: Model) -> None:
    """Raises `TypeChoiceError` or `TensorChoiceError` where a rule names a type or a tensor that there isn't."""
    tensors = quantizable_tensors(source)
    allowed_types(rules)
    kept_types(tensors, rules)
    chosen_tensors(tensors, rules.only)


def stock_plan(inputs: Inputs, options: SessionOptions, allocation: AllocationOptions, backend: Backend) -> StockPlan:
    """Asks llama.cpp, without opening the model. Raises a `CerebellumError` where that shows that the job can't be."""
    ftype = options.base or stock_base(backend, inputs.source, options, allocation)
    named = () if allocation.rules.types == DEFAULT_TYPES else allowed_types(allocation.rules)
    makes_imatrix = wants_imatrix(replace(options, base=ftype), named, backend)
    if makes_imatrix:
        check_calibration(options)
    stock = StockPlan(ftype, backend.types(inputs.source.path, ftype, (), options.imatrix), makes_imatrix)
    table, like = nominal_table(inputs, stock, allocation), allocation.target.like
    limit = target_bytes(allocation.target, table.base)
    if like is not None and like != ftype:  # those of the stock file, whatever base was named
        limit = file_bytes(table.base, backend.types(inputs.source.path, like, (), options.imatrix))
    refuse_own_reference(table, inputs, limit)
    refuse_fixed(table, inputs.source)
    return replace(stock, limit=limit)


def nominal_table(
    inputs: Inputs, stock: StockPlan, allocation: AllocationOptions, unused: frozenset[str] = frozenset()
) -> Table:
    """The job's table with errors that fall by 4 a bit, as they do about: which types are measured depends on their order alone."""
    source = inputs.source
    base = nominal_base(source, stock.ftype, stock.types)
    known = frozenset(t.name for t in base.tensors) if stock.makes_imatrix else important(inputs.imatrix, source)
    kinds_of = candidate_types(source, base.types, allocation.rules, known, unused)
    source_types = source.types

    def error(name: str, kind: str) -> float:
        return 0.0 if kind == source_types[name] else 4.0 ** -TYPES[kind].bits_per_weight

    errors = {name: {k: error(name, k) for k in (*kinds, base.types[name])} for name, kinds in kinds_of.items()}
    return table_of(base, kinds_of, errors, dict.fromkeys(kinds_of, 1.0))


def stock_base(backend: Backend, source: Model, options: SessionOptions, allocation: AllocationOptions) -> str:
    """The stock mix that the recipe is compared with: the one whose size is asked for, or the nearest in size."""
    target = allocation.target
    return target.like or nearest_mix(backend, source, options, allocation.rules, target_bytes(target, source))


def checked_budget(table: Table, limit: int) -> int:
    """Bytes left for the table's tensors. Raises `InputError` where even the smallest types are too large."""
    smallest = {name: types[0] for name, types in table.types.items()}
    if (least := table.file_bytes(smallest)) > limit:
        raise InputError(
            f"the smallest file that the allowed types give has {least:,} bytes, more than the {limit:,} asked for: give a larger size"
            f"{smaller_types(table, smallest)}"
        )
    return limit - table.fixed_bytes()


def smaller_types(table: Table, types: Mapping[str, str]) -> str:
    """How tensors could have fewer bytes than ``types`` gives them, or that they can't."""
    is_smaller = any(
        table.n_bytes(n, fallback_type(kind, table.tensors[n].row_length).name) < table.n_bytes(n, now)
        for n, now in types.items()
        for kind in DEFAULT_TYPES
    )
    if not is_smaller:
        return "; the tensors' rows can hold no smaller types"
    has_imatrix = any(kind in NEEDS_IMATRIX for offered in table.types.values() for kind in offered)
    return (
        f", or allow smaller types{'' if has_imatrix else ' (those under 3 bits need an importance matrix: --imatrix)'}"
    )


def own_reference_doubts(inputs: Inputs) -> list[str]:
    """That figures are distances from a quantized file, where they are."""
    source = inputs.source
    if not (source.is_quantized and inputs.is_own_reference):
        return []
    return [
        f"{source.path.name} is quantized already ({source.ftype or 'mixed types'}) and is its own reference: every figure says how far a "
        "file is from it, and nothing of how far it is from the unquantized model. Give --reference with that if you have it."
    ]


def refuse_fixed(table: Table, source: Model) -> None:
    """Raises `InputError` where no tensor may have another type than ``source`` gives it, so that there is nothing to choose."""
    now = source.types
    if any(kind != now[name] for name, kinds in table.types.items() for kind in kinds):
        return
    lengths = sorted({table.tensors[name].row_length for name in table.names})
    if not any(TYPES[kind].fits(length) for kind in DEFAULT_TYPES for length in lengths):
        rows = " and ".join(map(str, lengths))
        raise InputError(
            f"no tensor of {source.path.name} can be quantized: their rows have {rows} weights, and a type needs a multiple of 32"
        )
    raise InputError("no tensor may take another type than the model's own: allow more with --types or --only")


def refuse_unmeasurable(table: Table, source: Model) -> NoReturn:
    """Raises `InputError` for a table without a type that damages a tensor."""
    refuse_fixed(table, source)
    raise InputError(
        f"every type that the tensors may take keeps all of their values, so there is nothing to measure: any such file is as good as "
        f"{source.path.name}; cerebellum quantize makes one"
    )


def refuse_own_reference(table: Table, inputs: Inputs, limit: int) -> None:
    """Raises `InputError` where the source is its own reference and fits: nothing can be nearer to it than itself."""
    source_types, base = inputs.source.types, table.base.types
    if not (inputs.source.is_quantized and inputs.is_own_reference):
        return
    types = {name: source_types[name] for name in table.names}
    same = all(kind in table.types[name] for name, kind in types.items())
    same = same and all(source_types[name] == kind for name, kind in base.items() if name not in types)
    if same and table.file_bytes(types) - table.extra_bytes <= limit:  # as it is, it carries no keys of ours
        raise InputError(
            f"{inputs.source.path.name} is quantized already ({inputs.source.ftype or 'mixed types'}) and is its own reference: within "
            f"{limit:,} bytes no file is nearer to it than itself. Give fewer bytes than its {inputs.source.file_bytes:,} (--like with a "
            "smaller stock type, --size), or --reference with the unquantized model"
        )
