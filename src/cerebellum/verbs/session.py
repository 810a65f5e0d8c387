"""A session: the inputs, the reference's rows, the base and the engines, opened in this order and closed together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebellum.cores import n_cores
from cerebellum.domain import Model, tensor_types_of
from cerebellum.files import JOB_FILES, STUDY_FILE, FileState, make_folder, refuse_inputs_in
from cerebellum.fleet.admission import Canary
from cerebellum.fleet.local import CORES_EACH, Engines, Fleet, LocalFleet, fleet_of
from cerebellum.fleet.node import Made
from cerebellum.fleet.ray_fleet import RayFleet, connected, places_of
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.overrides import pairs
from cerebellum.gguf.types import quant_type
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import Backend, Sources
from cerebellum.progress import Progress
from cerebellum.results import Base
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study import builds
from cerebellum.study.builds import note_build
from cerebellum.study.others import Others
from cerebellum.study.runner import Split, TrialRunner, series_facts
from cerebellum.study.store import Study
from cerebellum.verbs.base import own_base, planned_types, prepare_base
from cerebellum.verbs.base_mix import told
from cerebellum.verbs.capture import note_older
from cerebellum.verbs.captured import CapturedReference, capture_reference
from cerebellum.verbs.chat_hints import chat_hints
from cerebellum.verbs.inputs import Inputs, odd_marks_of, read_inputs, subject_of
from cerebellum.verbs.left_out import LeftOut, without_misled
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.text import too_long
from cerebellum.verbs.tokenization import check_token_lists
from cerebellum.verbs.workspace import Workspace


@dataclass
class Session:
    """Everything opened. ``noise_floor``: nats a token, as `verbs.noise_floor` measures it. ``words``: whose words the series are measured
    by, where that isn't the job's reference; facts of their own, so that a merge doesn't take them for another job's."""

    options: SessionOptions
    workspace: Workspace
    inputs: Inputs
    subject: dict[str, Any]
    reference: CapturedReference
    base: Base
    engines: Engines
    fleet: Fleet
    noise_floor: float = 0.0
    left_out: LeftOut | None = None
    words: str = ""

    @property
    def source(self) -> Model:
        """The model that everything is quantized from."""
        return self.inputs.source

    @property
    def source_sha256(self) -> str:
        return str(self.subject["weights_sha256"])

    @property
    def backend(self) -> Backend:
        return self.workspace.backend

    @property
    def study(self) -> Study:
        return self.workspace.study

    @property
    def progress(self) -> Progress:
        return self.workspace.progress

    @property
    def warnings(self) -> list[str]:
        """What the user was warned of so far."""
        return self.workspace.warnings

    @property
    def build(self) -> str:
        return self.workspace.build

    @property
    def search(self) -> Split:
        """The chunks that choose."""
        return self.reference.search

    @property
    def report(self) -> Split:
        """The chunks that report."""
        return self.reference.report

    @property
    def reference_facts(self) -> dict[str, Any]:
        """What identifies the reference's rows."""
        return self.reference.facts

    @property
    def reference_path(self) -> Path:
        """The file that KL divergence is taken to."""
        return self.inputs.reference_path

    def series(self, split: Split, extra: dict[str, Any] | None = None) -> int:
        """The id of a split's series; ``extra`` facts make it another one."""
        return self.study.series(split.name, self.facts_of(split) | (extra or {}))

    def facts_of(self, split: Split) -> dict[str, Any]:
        """What identifies a split's series."""
        facts = series_facts(self.subject, split, self.workspace.settings, self.build, self.reference_facts)
        return facts | ({"words": self.words} if self.words else {})

    def runner(self, split: Split) -> TrialRunner:
        """What measures trials of the base on a split."""
        types, store = self.base.model.types, self.reference_store(split)
        return TrialRunner(self.engines, self.study, self.series(split), types, split.corpus, store, self.progress)

    def part_runner(self, split: Split) -> TrialRunner:
        """As `runner`; of single trials it measures the part that was asked for, and engines of other builds measure too: read `paired`."""
        others = self.others(split, self.engines)
        return replace(self.runner(split), shard=self.options.shard, reads_pairs=True, others=others)

    def others(self, split: Split, engines: Engines) -> tuple[Others, ...]:
        """Engines beside ``engines`` whose figures differ, each build with its series, which is pooled with the session's own. A part of a
        job has none: its rows are compared by `merge`."""
        if self.options.shard is not None:
            return ()
        ours, others = self.facts_of(split), []
        for build, theirs in sorted(engines.others.items()):
            facts = ours | {"build": build}
            others.append(Others(self.study.series(split.name, facts), theirs))
            builds.pool(self.study, content_key("series", ours), content_key("series", facts))
        return tuple(others)

    def reference_store(self, split: Split) -> ReferenceStore:
        """Where the reference's rows of a split's text are."""
        return self.workspace.reference_store(split.corpus, self.reference_facts)

    def engines_on(self, path: Path, made: Made | None = None) -> contextlib.AbstractContextManager[Engines]:
        """As many engines as the session's own, on another file: trials are made from the source as there. ``made``: how the file was."""
        if isinstance(self.fleet, RayFleet) and made is not None:
            self.fleet.made[path] = made
        return self.fleet.open(path, Sources(self.inputs.source.path, self.inputs.imatrix))

    def close_engines(self) -> None:
        """Close the engines before the session ends: what comes now opens files of its own."""
        for engine in self.engines:
            engine.close()
        self.engines = Engines()


@contextlib.contextmanager
def open_session(
    options: SessionOptions, backend: Backend, progress: Progress, *, reports: bool = True
) -> Iterator[Session]:
    """Prepare and open everything; a second call with the same options finds what the first one left.

    The inputs are checked first, then the reference is measured, and the base quantized last. Not ``reports``: the report text is
    checked, but the reference isn't computed on it.
    """
    refuse_inputs_in(options.out, options.files, JOB_FILES)
    inputs = read_inputs(options)
    source = inputs.source
    rules = check_token_lists([source.path, inputs.reference_path])
    planned_types(backend, source, options.imatrix, options.base, options.mix)
    make_folder(options.out)
    with contextlib.ExitStack() as stack:
        study = stack.enter_context(Study.open(options.out / STUDY_FILE))
        progress.note(f"reading {source.path.name} ({source.file_bytes / 1e6:,.1f} MB)")
        ray = stack.enter_context(connected(options.cluster)) if options.cluster is not None else None
        local = local_fleet(options, backend, source)
        settings = replace(options.settings, devices=local.settings[0].devices)
        workspace = Workspace(backend, study, options.out, settings, backend.build(settings), progress)
        if options.imatrix is not None:
            study.watch(FileState.of(options.imatrix))
        subject = subject_of(workspace.sha256(source.path), options.imatrix)
        study.bind(subject, source.path.name)
        note_older(study, progress)
        study.add_command(list(options.command))
        if options.retry_failed and (n := study.retry_failures()):
            progress.note(f"trying {n} failed {'trial' if n == 1 else 'trials'} again")
        warnings = workspace.warnings
        warnings += too_long(source, options.settings.n_ctx, progress)
        workspace.warn((*rules, *inputs.doubts))
        warnings += odd_marks_of(inputs.texts, progress)
        chat_hints(source, inputs.texts.search_path, inputs.texts.search, progress)
        reference = capture_reference(workspace, inputs, subject, reports=reports)
        inputs, left_out = without_misled(options, workspace, inputs, reference)
        options, subject = (
            replace(options, imatrix=inputs.imatrix),
            subject_of(workspace.sha256(source.path), inputs.imatrix),
        )
        base = own_base(source, options.base, options.mix) or prepare_base(workspace, inputs, options.base, options.mix)
        workspace.warn(told(base.mix, source))
        fleet: LocalFleet | RayFleet = (
            local if ray is None else cluster_fleet(ray, options, workspace, reference.search, base)
        )
        options = replace(options, settings=settings, workers=fleet.n)
        engines = stack.enter_context(fleet.open(base.model.path, Sources(source.path, inputs.imatrix)))
        if base.twice:
            progress.note(f"{source.path.name} is quantized already, so what a recipe changes is quantized twice")
        warnings += reference.warnings
        warnings += builds.sentences(study)
        yield Session(options, workspace, inputs, subject, reference, base, engines, fleet, left_out=left_out)


@contextlib.contextmanager
def opened_runner(
    session: Session, model: Model, split: Split, made: Made | None = None, *, reads_pairs: bool = False
) -> Iterator[TrialRunner]:
    """What measures trials of another file than the base, quantized from the same source or the source itself, on a split. Types alone
    tell trials apart, so they share the base's series. ``made``: how the file is made, where another machine has to make it too.
    ``reads_pairs``: scores are read by `TrialRunner.paired`, so engines of other builds may measure."""
    with session.engines_on(model.path, made) as engines:
        store = session.reference_store(split)
        yield TrialRunner(
            engines, session.study, session.series(split), model.types, split.corpus, store, session.progress,
            shard=session.options.shard, reads_pairs=reads_pairs, others=session.others(split, engines) if reads_pairs else (),
        )  # fmt: skip


def local_fleet(options: SessionOptions, backend: Backend, source: Model) -> LocalFleet:
    """The engines of this machine; where a cluster measures, the one that does what is done here."""
    workers, gpus_per_worker = options.workers, options.gpus_per_worker
    if options.cluster is not None:
        workers, gpus_per_worker = 1, (gpus_per_worker or 1) if options.settings.n_gpu_layers else None
    return fleet_of(backend, options.settings, workers, gpus_per_worker, source.file_bytes)


#: Types that builds of a cluster's nodes are compared by, and chunks.
_CANARY_TYPES, _CANARY_CHUNKS = ("Q2_K", "Q4_K", "Q6_K", "Q8_0"), 2


def engines_a_node(options: SessionOptions) -> int:
    """Engines on a node of a cluster that has no GPUs."""
    return options.workers or max(1, n_cores() // CORES_EACH)


def count_engines(options: SessionOptions, local: LocalFleet) -> int:
    """How many engines will measure, here or on the nodes that a cluster has now. Raises `InputError` where no cluster answers."""
    if options.cluster is None:
        return local.n
    with connected(options.cluster) as ray:
        gpus_each = (options.gpus_per_worker or 1) if options.settings.n_gpu_layers else 0
        return len(places_of(ray.nodes(), engines_a_node(options), gpus_each))


def cluster_fleet(ray: Any, options: SessionOptions, workspace: Workspace, search: Split, base: Base) -> RayFleet:
    """The engines of a Ray cluster for a job."""
    small = sorted(quantizable_tensors(base.model), key=lambda t: (t.n_elements, t.name))[: len(_CANARY_TYPES)]
    swaps = [
        (t.name, kind) for t, kind in zip(small, _CANARY_TYPES, strict=False) if quant_type(kind).fits(t.row_length)
    ]
    canary = Canary(tuple(search.corpus.chunks(search.chunks[:_CANARY_CHUNKS])), tensor_types_of(swaps))
    is_own = base.model.path == options.model
    return RayFleet(
        ray,
        workspace.backend,
        workspace.settings,
        workspace.build,
        workspace.progress,
        workspace.file_sha256,
        lambda build, how, why: note_build(workspace.study, build, how, why),
        engines_a_node(options),
        options.gpus_per_worker or 1,
        options.cluster_files,
        options.same_build_only,
        canary,
        {} if is_own else {base.model.path: Made(base.ftype, tuple(pairs(base.mix.lines)))},
    )
