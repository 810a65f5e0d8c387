"""Models split into several files: llama.cpp's names and keys, and what tells that files are one whole set. Pure.

``NAME-00001-of-00003.gguf`` is the first of three. It has the model's metadata; each has its number (``split.no``, from 0), how many
there are (``split.count``) and how many tensors they hold together (``split.tensors.count``). llama.cpp opens the first and finds the
others by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebellum.domain import Tensor
from cerebellum.errors import ModelFileError
from cerebellum.gguf.header import Header

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
#: The most files of a set: ``split.count`` has 16 bits.
MOST_FILES = (1 << 16) - 1

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
#: The one norm that is as wide as the model in every block of every architecture: another model's is seldom.
_WIDTH = "attn_norm"


@dataclass(frozen=True, slots=True)
class SplitName:
    """A file's name as one of a set's; ``number`` counts from 1."""

    stem: str
    number: int
    count: int

    @classmethod
    def parse(cls, name: str) -> SplitName | None:
        """None where ``name`` isn't of that form."""
        if (match := _NAME.fullmatch(name)) is None:
            return None
        number, count = int(match["number"]), int(match["count"])
        return cls(match["stem"], number, count) if 1 <= number <= count else None

    def __str__(self) -> str:
        return f"{self.stem}-{self.number:05d}-of-{self.count:05d}.gguf"

    def all(self) -> tuple[str, ...]:
        """The names of the whole set, in order."""
        return tuple(str(SplitName(self.stem, number, self.count)) for number in range(1, self.count + 1))


def names_of_set(name: str, metadata: Mapping[str, Any], label: str) -> tuple[str, ...]:
    """The names of a set by its first file's name and metadata; ``name`` alone where the file is whole.

    Raises `ModelFileError` (``label`` names the file) where it isn't the first, or llama.cpp couldn't find the others by its name.
    """
    count, number = _whole(metadata, COUNT, 1, label), _whole(metadata, NUMBER, 0, label)
    if count <= 1:
        return (name,)
    split = SplitName.parse(name)
    if count > MOST_FILES or number >= count:
        raise ModelFileError(
            f"{label} says that it is part {number + 1} of {count}, which can't be; fetch the set again"
        )
    if split is None or split.count != count:
        form = SplitName("NAME", number + 1, count)
        raise ModelFileError(
            f"{label} is part {number + 1} of a model in {count} files, and is not called {form}: llama.cpp finds the other files by that "
            "name. Give all files of the set their names back"
        )
    if split.number != number + 1:
        raise _swapped(label, number, split.number)
    if number:
        first = SplitName(split.stem, 1, count)
        raise ModelFileError(f"{label} is part {number + 1} of {count} of a model; give the first part, {first}")
    return split.all()


def refuse_missing(names: Sequence[str], is_there: Callable[[str], bool], label: str) -> None:
    """Raises `ModelFileError` where a file of the set isn't there."""
    if missing := [name for name in names if not is_there(name)]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelFileError(
            f"{label} is one of {len(names)} files of a model, and {missing[0]}{more} {'are' if more else 'is'} not there; put all of "
            "them into one folder"
        )


def check_set(labels: Sequence[str], headers: Sequence[Header]) -> None:
    """The files are one model's parts, each in its place, whole together. Raises `ModelFileError` naming the first that isn't."""
    first, n_tensors = headers[0], _whole(headers[0].metadata, TENSORS, -1, labels[0])
    for number, (label, header) in enumerate(zip(labels, headers, strict=True)):
        metadata = header.metadata
        count, total = _whole(metadata, COUNT, -1, label), _whole(metadata, TENSORS, -1, label)
        if count != len(headers):
            raise _foreign(label, f"it says that it is one of {count}, {labels[0]} that it is one of {len(headers)}")
        if total != n_tensors:
            raise _foreign(label, f"its model has {total} tensors, that of {labels[0]} {n_tensors}")
        name = "general.architecture"
        if metadata.get(name, first.metadata.get(name)) != first.metadata.get(name):
            raise _foreign(label, f"it is of the architecture {metadata[name]}, not {first.metadata.get(name)}")
        if (stored := _whole(metadata, NUMBER, -1, label)) != number:
            raise _swapped(label, stored, number + 1)
    _check_tensors(labels, headers, n_tensors)


def _check_tensors(labels: Sequence[str], headers: Sequence[Header], n_tensors: int) -> None:
    """No tensor is there twice, none is missing, and all are of one width."""
    holder: dict[str, str] = {}
    width: Tensor | None = None
    for label, header in zip(labels, headers, strict=True):
        for tensor in header.tensors:
            if tensor.name in holder:
                raise _foreign(label, f"it holds the tensor {tensor.name}, which {holder[tensor.name]} holds too")
            holder[tensor.name] = label
            if tensor.role == _WIDTH:
                width = width or tensor
                if tensor.shape != width.shape:
                    raise _foreign(
                        label, f"its {tensor.name} has the shape {tensor.shape}, that of {width.name} is {width.shape}"
                    )
    if len(holder) != n_tensors:
        raise ModelFileError(
            f"the {len(labels)} files of {labels[0]} hold {len(holder)} tensors, where {n_tensors} are due: one of them is of another "
            "model; fetch the set again"
        )


def _whole(metadata: Mapping[str, Any], key: str, default: int, label: str) -> int:
    value = metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelFileError(f"{label} says {key} with a value that is no number; fetch it again")
    return value


def _foreign(label: str, why: str) -> ModelFileError:
    return ModelFileError(f"{label} is no part of this model: {why}; fetch the set again")


def _swapped(label: str, stored: int, named: int) -> ModelFileError:
    return ModelFileError(
        f"{label} says that it is part {stored + 1}, its name that it is part {named}: files of the set were renamed or exchanged; give "
        "each its own name, or fetch the set again"
    )
