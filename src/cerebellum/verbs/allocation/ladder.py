"""A ladder of recipes: several sizes from one study and one set of anchors, a file each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cerebellum.allocation.sizes import Target, file_bytes, target_bytes
from cerebellum.domain import Model
from cerebellum.errors import InputError
from cerebellum.files import REPORT_FILES, refuse_inputs_in
from cerebellum.gguf import model_file
from cerebellum.llamacpp.protocol import Backend
from cerebellum.progress import Progress, Silent
from cerebellum.results.allocation import Allocation, AllocationLadder
from cerebellum.results.part import Part
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.run import Publish, allocate_session, anchor_part, calibrated
from cerebellum.verbs.allocation.stock import STOCK
from cerebellum.verbs.bench import BenchOptions
from cerebellum.verbs.options import SessionOptions

#: Writes the report of a ladder into a folder.
PublishLadder = Callable[[AllocationLadder, Path], None]


def allocate_ladder(
    options: SessionOptions,
    allocation: AllocationOptions,
    targets: Sequence[Target],
    *,
    backend: Backend,
    publish: Publish,
    publish_ladder: PublishLadder,
    progress: Progress | None = None,
    bench_options: BenchOptions | None = None,
) -> AllocationLadder:
    """The best file of each size, all in ``options.out``; each one's report in a folder of its label's name.

    Anchors are measured for the size in the middle, and serve all. Resumes what was begun. Raises a `CerebellumError`.
    """
    progress = progress or Silent()
    if options.base is not None:
        raise InputError("a ladder's files each have their own stock file to compare with: leave out --base")
    for target in targets:  # one importance matrix for all, where any size wants one
        options = calibrated(options, replace(allocation, target=target), backend, progress)
    labels = labels_of(targets, model_file.read_model(options.model), backend, options.imatrix)
    for label in labels:
        refuse_inputs_in(options.out / label, options.files, REPORT_FILES)
    found: dict[str, Allocation] = {}
    for label in from_the_middle(list(labels)):
        progress.note(f"ladder: {label} ({len(found) + 1} of {len(labels)})")
        known = allocation.sensitivity or next((one.sensitivity for one in found.values()), None)
        found[label] = allocate_session(
            options,
            replace(allocation, target=labels[label], sensitivity=known, label=label),
            backend=backend,
            publish=into_folder(publish, label),
            progress=progress,
            bench_options=bench_options,
        )
    ordered = sorted(found.items(), key=lambda pair: pair[1].written.file_bytes)
    ladder = AllocationLadder(tuple(label for label, _ in ordered), tuple(result for _, result in ordered))
    publish_ladder(ladder, options.out)
    return ladder


def ladder_part(
    options: SessionOptions,
    allocation: AllocationOptions,
    targets: Sequence[Target],
    *,
    backend: Backend,
    progress: Progress | None = None,
) -> Part:
    """The part ``options.shard`` of the anchors of a ladder: those of the size in the middle. See `anchor_part`."""
    for target in targets:
        options = calibrated(options, replace(allocation, target=target), backend, progress or Silent())
    labels = labels_of(targets, model_file.read_model(options.model), backend, options.imatrix)
    middle = labels[from_the_middle(list(labels))[0]]
    return anchor_part(options, replace(allocation, target=middle), backend=backend, progress=progress)


def into_folder(publish: Publish, label: str) -> Publish:
    """``publish`` into a folder of the label's name, in the folder that it is given."""

    def write(result: Allocation, out: Path) -> dict[str, Any]:
        folder = out / label
        folder.mkdir(exist_ok=True)
        return publish(result, folder)

    return write


def from_the_middle(labels: Sequence[str]) -> list[str]:
    """The middle one first, then the others in their order."""
    middle = labels[(len(labels) - 1) // 2]
    return [middle, *(label for label in labels if label != middle)]


def labels_of(targets: Sequence[Target], source: Model, backend: Backend, imatrix: Path | None) -> dict[str, Target]:
    """Label → target, smallest file first; no two targets have one label, so that the hub tells their files apart.

    A stock mix's size has its name; another size that of the nearest stock mix that is free. Raises `InputError`.
    """
    if len(set(targets)) < len(targets):
        raise InputError("--ladder names a size twice")
    sizes = {f: file_bytes(source, backend.types(source.path, f, (), imatrix)) for f in mixes_of(targets)}
    limits = {t: sizes[t.like] if t.like else target_bytes(t, source) for t in targets}
    taken = {t.like: t for t in targets if t.like is not None}
    for target in sorted((t for t in targets if t.like is None), key=lambda t: limits[t]):
        label = nearest_free(sizes, limits[target], taken)
        taken[label] = target
    return dict(sorted(taken.items(), key=lambda pair: limits[pair[1]]))


def mixes_of(targets: Sequence[Target]) -> list[str]:
    """The stock mixes whose sizes are needed."""
    return list(dict.fromkeys([*STOCK, *(t.like for t in targets if t.like)]))


def nearest_free(sizes: Mapping[str, int], n_bytes: int, taken: Mapping[str, Target]) -> str:
    """The stock mix nearest in size that isn't taken. Raises `InputError` where there are more sizes than labels."""
    free = [f for f in sizes if f not in taken]
    if not free:
        raise InputError(f"--ladder takes at most {len(sizes)} sizes: there are no more labels to tell the files apart")
    return min(free, key=lambda f: abs(math.log(sizes[f] / n_bytes)))
