"""What a study is made of, or what files are measured on, as the user says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebellum import bundled
from cerebellum.gguf.mix import MixOptions
from cerebellum.gguf.split_file import SplitLimit
from cerebellum.llamacpp.protocol import Settings
from cerebellum.study.shards import Shard


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a study is made of. ``base`` None: Q3_K_M of an unquantized model, the file itself of a quantized one.

    Without ``report_text`` the first half of ``text`` searches and the second half reports. ``n_chunks`` bounds each split.
    ``chat``: the texts are conversations, of which the assistant's turns are scored. ``reference`` None: the model file itself.
    ``command`` is noted in the study and the report. ``retry_failed``: trials that failed before are tried again.
    ``split``: what one file of the written model may hold; None: one file holds all.
    ``force``: replace what another job left in the folder. ``job``: the job's settings by the names of their options, which its results are
    known by. ``make_imatrix``: make an importance matrix on ``calibration`` (None: the bundled text) where none is given; None: where that
    is of use.
    ``workers``: engines side by side; None: as many as there are GPUs or room for. ``gpus_per_worker``: GPUs that each has for its own.
    ``cluster``: the Ray cluster that measures, whose nodes look for files in ``cluster_files`` too. ``same_build_only``: no other build.
    ``shard``: only this part of the trials is measured.
    ``left_out``: tensors whose entries of the importance matrix aren't used; None: those that a race says.
    ``also_read``: other files that the job was made of; nothing is written onto them.
    """

    model: Path
    out: Path
    text: Path = bundled.SEARCH_TEXT
    report_text: Path | None = None
    chat: bool = False
    base: str | None = None
    reference: Path | None = None
    imatrix: Path | None = None
    settings: Settings = field(default_factory=Settings)
    n_chunks: int | None = None
    workers: int | None = 1
    command: tuple[str, ...] = ()
    retry_failed: bool = False
    calibration: Path | None = None
    make_imatrix: bool | None = None
    mix: MixOptions = field(default_factory=MixOptions)
    shard: Shard | None = None
    gpus_per_worker: int | None = None
    cluster: str | None = None
    cluster_files: tuple[str, ...] = ()
    same_build_only: bool = False
    split: SplitLimit | None = None
    also_read: tuple[Path, ...] = ()
    left_out: tuple[str, ...] | None = None
    force: bool = False
    job: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path | None, ...]:
        """All that is read."""
        texts = (self.text, self.report_text, self.calibration)
        return (self.model, self.reference, self.imatrix, self.mix.overrides, *texts, *self.also_read)


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """Files measured against a reference on a text. ``n_chunks`` None: the whole text. ``chat``: the text is conversations.

    ``out`` keeps the measurements; None: nothing is kept. No ``models``: the reference's own stock quantizations (`validity`).
    """

    models: tuple[Path, ...]
    reference: Path
    text: Path
    settings: Settings = field(default_factory=Settings)
    n_chunks: int | None = None
    chat: bool = False
    out: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read."""
        return (*self.models, self.reference, self.text)
