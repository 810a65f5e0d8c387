"""The options of the front, spelled out once: names, types, and what they are where they aren't given.

`cerebellum.api` takes them as typed keywords (PEP 692); the command line has one option for each. An option that isn't here is an error
before anything is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from cerebellum.allocation.effects import Objective
    from cerebellum.stats.classes import Thresholds

PathLike = str | Path
#: What of a device's memory is left free where ``vram`` asks for a size, and the context that must fit where none is named.
DRIVER_MEMORY, FIT_CTX = "300MB", 4096
#: One name, several with commas between, or a list of them.
Names = str | Iterable[str]


class MeasureKeywords(TypedDict, total=False):
    """What is measured on what, and how models are opened."""

    text: (
        PathLike | None
    )  # what chooses; without one the bundled text, on the bundled model alone where a size is asked for
    report_text: PathLike | None  # what reports; None: the second half of ``text``
    chat: bool  # False; True: the texts are conversations, JSON lines, of which the assistant's turns are scored
    ctx: int  # 2048 tokens a chunk
    chunks: int | None  # of each text; None: as many as have 32,768 tokens, 16 at least
    base: str | None  # the stock mix to start from; None: that of ``like``, or Q3_K_M
    reference: PathLike | None  # the GGUF that KL divergence is taken to; None: the model
    imatrix: PathLike | None  # a file, "auto" or "none"; None: "auto" where it is of use
    calibration_text: PathLike | None  # what "auto" makes the importance matrix on; None: a bundled text
    base_overrides: PathLike | None  # pattern=type lines for the base
    pure: bool  # False; True: the base without llama.cpp's mix
    exclude: str | Sequence[str]  # patterns of tensors that stay as the model has them
    ubatch_size: int | None  # tokens decoded at a time; None: 512, fewer with a large vocabulary
    threads: int | None  # None: one for each core
    gpu_layers: int  # 0: the CPU alone
    workers: (
        int | str
    )  # 1 engine; "auto": one for each GPU (or set of them), else as many as cores and memory have room for
    cluster: str | None  # "ray", or "ray://HOST:PORT": the nodes that measure; None: this machine
    cluster_files: str | Sequence[str]  # folders where the nodes have the model's files
    same_build_only: bool  # False; True: no node of another build, even where its figures agree
    gpus_per_worker: int | None  # GPUs that each engine has for its own; None: 1 where there are several engines
    replay_bytes: int  # 1 GiB of memory to begin each trial at the block that it changes; 0: all whole
    exact_reference: bool  # False; True: all words of the reference's rows, 2 bytes × vocabulary a scored token
    retry_failed: bool  # False; True: trials that failed before are tried again
    seed: int  # 0
    command: Sequence[str]  # what the report names as the command


class BenchKeywords(TypedDict, total=False):
    """Benchmarks of the written file, the base and the reference."""

    bench: Names | None  # task names; None: none
    bench_limit: int | None  # questions of each; None: all
    bench_data: PathLike | None  # a folder with the questions; None: the hub
    bench_margin: float | None  # points that may be lost; None: the task's own
    bench_shots: int | None  # examples before each question; None: the task's own
    unsafe_execution: bool  # False; True: run what a model wrote even where no sandbox can be had


class SplitKeywords(TypedDict, total=False):
    """In how many files the model is written."""

    split_max_size: str | int | None  # "48G": bytes of tensors in a file; None: one file holds all
    split_max_tensors: int | None  # instead: tensors in a file


class OutKeywords(TypedDict, total=False):
    """What may happen to what lies in the folder."""

    force: bool  # False; True: a finished result of other settings is replaced


class SweepKeywords(MeasureKeywords, total=False):
    """Which tensors are tried alone, at which types."""

    role: Names | None  # ("ffn_gate",); "all" for every role
    to: Names | None  # ("Q2_K",)
    blocks: str | Sequence[int] | None  # "0-3,7" or numbers; None: all
    race: bool  # False; True: each trial gets text only until its verdict is settled
    budget_tokens: int | None  # of a race; None: no bound
    budget_minutes: float | None  # of a race, or of an allocation's refinement; None: no bound
    allow: float | None  # 0.05: share of the base's own KL divergence that smaller types together may add
    thresholds: Thresholds


class ChooseKeywords(SweepKeywords, BenchKeywords, SplitKeywords, OutKeywords, total=False):
    """What a sweep's choice follows."""

    policy: str | None  # "greedy" or "published"
    objective: Objective | None  # "kld" or "nll"
    max_growth: int | str | None  # 0 bytes; "2MB"; "5%" of the base's file
    n_random: int | None  # 3 random sets as controls
    trust_perplexity: bool  # False; True: perplexity may choose where its ladder says that it can't


class SizeKeywords(TypedDict, total=False):
    """The size asked for, and the types allowed."""

    size: str | int | None  # "3.0GB" or bytes
    bpw: float | None  # bits a weight
    like: str | None  # "Q4_K_M": that stock file's bytes; what is meant where no size is given
    vram: str | int | None  # "4GB" of a device: the largest file that fits it, less 300 MB for the driver and others
    fit_ctx: int | None  # 4096 tokens of context that must fit beside it
    types: Names | None  # names or patterns that tensors may take; None: all
    never: Names | None  # names or patterns that none may take
    only: Names | None  # roles or names that may change; None: all
    keep: Names | None  # "token_embd=Q8_0"
    same_type: Names | None  # "ffn_gate+ffn_up": roles that get one type in each block


class TransferKeywords(MeasureKeywords, BenchKeywords, SizeKeywords, SplitKeywords, OutKeywords, total=False):
    """An allocation of types to all tensors that begins with what another model's taught."""

    n_shuffled: int | None  # 20 shuffled compositions as controls
    refine: bool | None  # True: the recipe is improved by measuring it
    budget_minutes: float | None  # of refinement; None: up to as much text as the anchors took


class AllocateKeywords(TransferKeywords, total=False):
    """An allocation of types to all tensors."""

    map: PathLike | None  # a sensitivity.json to start from


class RunKeywords(ChooseKeywords, SizeKeywords, total=False):
    """All options of `cerebellum.run`: those of an allocation, or those of a sweep and its choice."""

    n_shuffled: int | None
    refine: bool | None
    map: PathLike | None
