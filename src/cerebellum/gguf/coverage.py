"""Which tensors of a model an importance matrix covers, and what its gaps mean. Checked before anything is quantized with it.

llama.cpp's rules for gaps:

* A tensor without an entry is quantized without importance. It can't have the types of `NEEDS_IMATRIX`.
* An expert that saw no token has the importance 1 for every column.
* A column whose inputs were always zero has the importance 0, and its weights may be stored as zeros. Where 32 such columns lie side by
  side, ggml's IQ1_S and IQ1_M abort the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cerebellum.domain import Model, Tensor
from cerebellum.gguf.importance import Importance, Sums
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.types import NEEDS_IMATRIX, needs_imatrix

#: Fewer rows than these tell little of an expert's inputs.
FEW_ROWS = 128
#: Columns that ggml's kernels weigh together.
BLOCK = 32

#: What dies of columns that count nothing.
DIE_OF_ZEROS = frozenset({"IQ1_S", "IQ1_M"})


@dataclass(frozen=True, slots=True)
class Gap:
    """What a tensor lacks. ``experts`` of ``n_experts`` saw no row, ``few`` fewer than `FEW_ROWS`; ``zeros`` of its columns count nothing,
    ``zero_blocks``: 32 side by side. ``has_entry`` False: all is missing."""

    tensor: str
    has_entry: bool = True
    experts: int = 0
    few: int = 0
    n_experts: int = 1
    zeros: int = 0
    zero_blocks: int = 0

    @property
    def cannot_have(self) -> frozenset[str]:
        """Types that the tensor can't be stored in."""
        if not self.has_entry:
            return frozenset(kind for kind in NEEDS_IMATRIX if needs_imatrix(kind, self.tensor))
        return DIE_OF_ZEROS if self.zero_blocks else frozenset()


@dataclass(frozen=True, slots=True)
class Coverage:
    """``n_tensors`` can be quantized; ``gaps`` by tensor. ``wrong``: entries whose size or name isn't the model's."""

    n_tensors: int
    gaps: Mapping[str, Gap]
    wrong: tuple[str, ...] = ()

    @property
    def cannot_have(self) -> dict[str, frozenset[str]]:
        """Tensor → types that it can't be stored in, where there are any."""
        return {name: gap.cannot_have for name, gap in self.gaps.items() if gap.cannot_have}

    def lines(self) -> list[str]:
        """A line for people for each kind of gap; none where nothing is missing but the embeddings."""
        return list(_lines(self))


def coverage_of(importance: Importance, model: Model) -> Coverage:
    """What ``importance`` says of the tensors of ``model`` that can be quantized."""
    tensors = quantizable_tensors(model)
    gaps = {t.name: gap for t in tensors if (gap := _gap(t, importance.entries.get(t.name)))}
    known = {t.name: t for t in model.tensors}
    wrong = tuple(n for n, s in importance.entries.items() if n not in known or not _fits(known[n], s))
    return Coverage(len(tensors), gaps, wrong)


def _fits(tensor: Tensor, sums: Sums) -> bool:
    return sums.values.size == tensor.row_length * _matrices(tensor) and sums.values.size % len(sums.counts) == 0


def _matrices(tensor: Tensor) -> int:
    return tensor.shape[2] if len(tensor.shape) > 2 else 1


def _gap(tensor: Tensor, sums: Sums | None) -> Gap | None:
    if sums is None:
        return Gap(tensor.name, has_entry=False)
    counts = sums.counts
    empty = sums.means() == 0
    whole = empty[: empty.size // BLOCK * BLOCK].reshape(-1, BLOCK)
    gap = Gap(
        tensor.name,
        experts=int((counts == 0).sum()),
        few=int(((counts > 0) & (counts < FEW_ROWS)).sum()),
        n_experts=len(counts),
        zeros=int(empty.sum()),
        zero_blocks=int(whole.all(axis=1).sum()),
    )
    return gap if gap.experts or gap.few or gap.zeros else None


def _lines(coverage: Coverage) -> Iterator[str]:
    gaps = coverage.gaps.values()
    if missing := [g.tensor for g in gaps if not g.has_entry]:
        least = ", ".join(sorted(NEEDS_IMATRIX))
        yield (
            f"{len(missing)} of {coverage.n_tensors} tensors have no entry ({_some(missing)}): they are quantized without importance and, "
            f"embeddings apart, can't be {least}"
        )
    if unseen := [g for g in gaps if g.experts]:
        n, total = sum(g.experts for g in unseen), sum(g.n_experts for g in unseen)
        yield (
            f"{n} of {total} experts of {len(unseen)} tensors saw no token ({_some([g.tensor for g in unseen])}): their columns count the "
            "same; give a longer text"
        )
    if few := [g for g in gaps if g.few]:
        n = sum(g.few for g in few)
        yield f"{n} entries are of fewer than {FEW_ROWS} tokens ({_some([g.tensor for g in few])}): give a longer text"
    if zeros := [g for g in gaps if g.zeros]:
        dead = [g for g in zeros if g.zero_blocks]
        end = f"; {_some([g.tensor for g in dead])} can't be {', '.join(sorted(DIE_OF_ZEROS))}" if dead else ""
        n = sum(g.zeros for g in zeros)
        yield f"{n} columns of {len(zeros)} tensors had inputs of zero only ({_some([g.tensor for g in zeros])}) and count nothing{end}"
    if coverage.wrong:
        yield f"{len(coverage.wrong)} entries are of no tensor of this model ({_some(coverage.wrong)}): llama.cpp passes over them"


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
