"""Sections that every model card has: how to use the file, memory, files, how it was made, details, hardware, what was not tested."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebellum import __version__
from cerebellum.evals.score import FILE
from cerebellum.gguf.labels import label_of
from cerebellum.gguf.overrides import format_overrides
from cerebellum.keys import stem_of
from cerebellum.quoting import code_block, code_span, markdown, markdown_cell, printable, shell_file
from cerebellum.report.file_facts import blocks_grid, memory_grid
from cerebellum.report.front_matter import UNKNOWN_REPO, front_matter, measured_results, metric, slug
from cerebellum.report.grids import Grid
from cerebellum.report.markdown import Found, grid_markdown, on_what

if TYPE_CHECKING:
    from cerebellum.domain import Model
    from cerebellum.evals.score import BenchResult
    from cerebellum.results import RunResult, Written
    from cerebellum.results.allocation import Allocation
    from cerebellum.scoring.summary import Summary

#: A context to begin with, where the model was trained for more.
_CONTEXT = 8192


# -- how to use it -----------------------------------------------------------------------------------------------------


def use_section(file: str, details: Mapping[str, Any]) -> list[str]:
    """Commands for llama.cpp, Ollama and LM Studio: from the hub, and for the file at hand."""
    context = min(details["context_length"] or _CONTEXT, _CONTEXT)
    chat = ["--jinja"] if details["has_chat_template"] else []
    server = " ".join(["llama-server", *hub_words(file), "-c", str(context), *chat])
    return [
        "## Run it",
        "",
        f"Replace {code_span(UNKNOWN_REPO)} by this repository's name. llama.cpp fetches the file from the hub by itself:",
        "",
        code_block(server, "sh"),
        "",
        "With the file at hand:",
        "",
        code_block(f"llama-cli -m {shell_file(file)}", "sh"),
        "",
        *ollama_lines(file),
        f"or {code_span('cerebellum modelfile')} with the file, then `ollama create`: then the file's own chat template is carried over."
        if details["has_chat_template"]
        else "The model has no chat template, so it writes on where a text ends.",
        "",
        f"LM Studio: search for {code_span(UNKNOWN_REPO)}, or with the file at hand:",
        "",
        code_block(f"lms import {shell_file(file)}", "sh"),
        "",
    ]


def ollama_lines(file: str) -> list[str]:
    """How Ollama takes the file; a model in several files it doesn't take."""
    if stem_of_name(file) != file.removesuffix(".gguf"):
        return ["Ollama takes one file: join these with `llama-gguf-split --merge`;", ""]
    return ["Ollama:", "", code_block(f"ollama run hf.co/{UNKNOWN_REPO}:{shell_file(file)}", "sh"), ""]


def hub_words(file: str) -> list[str]:
    """What llama.cpp takes to fetch this file: by its label where that stands at its end, else by its name."""
    label = label_of(file)
    if label is not None and stem_of_name(file).endswith(f"-{label}"):
        return ["-hf", f"{UNKNOWN_REPO}:{label}"]
    return ["-hf", UNKNOWN_REPO, "-hff", shell_file(file)]


def stem_of_name(file: str) -> str:
    """A file's name without its ending; of a model in several files the name that they share."""
    return stem_of(Path(file))


def memory_section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Memory by context; nothing where it isn't known."""
    return [grid_markdown(memory_grid(rows))] if rows else []


# -- what it is --------------------------------------------------------------------------------------------------------


def files_section(written: Sequence[Written]) -> list[str]:
    """Every file with its bytes and hash."""
    rows = []
    for each in written:
        text = format_overrides(each.overrides).encode()
        rows += [
            *(
                (name, f"{n:,}", sha256)
                for name, n, sha256 in each.files or [(each.path.name, each.file_bytes, each.sha256)]
            ),
            (each.overrides_path.name, f"{len(text):,}", hashlib.sha256(text).hexdigest()),
        ]
    table = ["| file | bytes | sha256 |", "|---|---|---|"]
    table += [f"| {markdown_cell(name)} | {n_bytes} | {code_span(digest)} |" for name, n_bytes, digest in rows]
    return ["## Files", "", *table, ""]


def details_section(result: Found, details: Mapping[str, Any], written: Written) -> list[str]:
    """What kind of model it is."""
    facts = result.facts
    imatrix = facts["imatrix"]
    rows = (
        ("made from", f"{facts['model']['file']}, sha256 {facts['model']['sha256']}"),
        ("architecture", details["architecture"]),
        ("parameters", f"{details['parameters']:,}"),
        ("blocks", str(details["blocks"])),
        (
            "trained for a context of",
            f"{details['context_length']:,} tokens" if details["context_length"] else "not known",
        ),
        ("bits a weight", f"{details['bits_per_weight']:.3f}"),
        ("chat template", "the source's own" if details["has_chat_template"] else "none"),
        ("starting from", written.ftype),
        ("importance matrix", f"{imatrix['file']}, sha256 {imatrix['sha256']}" if imatrix else "none"),
    )
    table = ["| | |", "|---|---|", *(f"| {name} | {markdown_cell(printable(value))} |" for name, value in rows)]
    return ["## Model details", "", *table, ""]


def types_section(model: Model, names: Sequence[str]) -> list[str]:
    """Every tensor's type."""
    return [grid_markdown(blocks_grid(model, names))]


def reproduce_section(written: Written) -> list[str]:
    """The override file and the stock command."""
    lines = "\n".join(printable(str(line)) for line in written.overrides)
    return [
        "## Reproduce it",
        "",
        f"Stock llama.cpp makes the same tensors. Save as {code_span(written.overrides_path.name)}:",
        "",
        code_block(lines),
        "",
        code_block(written.reproduce, "sh"),
        "",
        f"The file's sha256 is {code_span(written.sha256)}. `cerebellum verify` checks a file against what it says of itself.",
        "",
    ]


def hardware_section(result: Found) -> list[str]:
    """What it was measured on and with."""
    hardware = result.facts.get("hardware")
    return [
        "## On what",
        "",
        *([f"* hardware: {markdown(hardware)}"] if hardware else []),
        *on_what(result, public=True),
        "",
        f"Made with cerebellum {__version__}.",
    ]


def not_tested_section(result: Found, bench: BenchResult | None) -> list[str]:
    """What nobody should think was shown."""
    return ["## Not tested", "", *(f"* {line}" for line in not_tested(result, bench)), ""]


def not_tested(result: Found, bench: BenchResult | None) -> list[str]:
    """In sentences, for Markdown."""
    split = result.facts["splits"]["report"]
    tasks = "Tasks: KL divergence is measured, and whether a task notices isn't. Run the benchmarks that matter to you."
    if bench is not None:
        tasks = f"Other tasks than {', '.join(markdown(task.name) for task in bench.tasks)}."
    chat = "plain text" if split.get("conversations") else "chat"
    return [
        tasks,
        f"Other texts: all figures are from {split['n_chunks']} chunks of {markdown(split['text'])}; code, other languages and {chat} can "
        "differ.",
        f"Contexts longer than {split['ctx']} tokens, and generation at length.",
        "Speed: types differ in how fast a processor computes them.",
        "Safety: what the source model says or refuses to say was not looked at.",
    ]


# -- the model-index ---------------------------------------------------------------------------------------------------


def results_of(summary: Summary, facts: Mapping[str, Any], bench: BenchResult | None) -> list[dict[str, Any]]:
    """The measured results of a file for the front matter: on the report text, then each benchmark."""
    split = facts["splits"]["report"]
    data = {
        "name": split["text"],
        "type": slug(split["text"]),
        "args": {"sha256": split["text_sha256"], "chunks": split["n_chunks"], "context": split["ctx"]},
    }
    metrics = []
    if (d := summary.divergence) is not None:
        reference = facts["reference"].get("file") or facts["model"]["file"]
        for kind, name, x in (
            ("kl-divergence", f"mean KL divergence to {reference}, nats a token", d.mean),
            ("same-top-token", "share of tokens whose likeliest next token is the reference's", d.same_top),
        ):
            limits = (x.low, x.high) if x.n_chunks > 1 else (None, None)
            metrics.append(metric(kind, printable(name), x.estimate, *limits))
    metrics.append(metric("perplexity", "perplexity", summary.perplexity))
    metrics[-1]["args"] = {"std_error": summary.std_error}
    return [measured_results(data, metrics), *(bench_results(bench) if bench else [])]


def bench_results(bench: BenchResult) -> list[dict[str, Any]]:
    """An entry a benchmark, of the file's own score."""
    entries = []
    for task in bench.tasks:
        score = next((s for s in task.scores if s.role == FILE and not s.unusable), None)
        if score is None:
            continue
        x = score.interval
        limits = (None, None) if x is None or score.n < 2 else (x.low, x.high)
        data = {"name": task.name, "type": slug(task.name), "args": {"questions": score.n}}
        entries.append(measured_results(data, [metric(slug(task.metric), task.metric, score.value, *limits)]))
    return entries


def head_section(result: RunResult | Allocation) -> list[str]:
    """The front matter of a model hub, and the title."""
    written, facts = result.written, result.facts
    assert written is not None
    entries = results_of(written.summary, facts, result.bench)
    metadata, stem = result.base.model.metadata, stem_of(written.path)
    matter = front_matter(metadata, stem, entries, has_imatrix=facts["imatrix"] is not None)
    return [*matter, "", title_of(written), ""]


def title_of(written: Written) -> str:
    """The heading."""
    return f"# {markdown(stem_of(written.path))}"


def table_of(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]], notes: Sequence[str] = ()) -> str:
    """A table as Markdown."""
    return grid_markdown(Grid(title, tuple(columns), tuple(rows), tuple(notes)))
