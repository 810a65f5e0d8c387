"""The model card of an allocated file: front matter, five lines, tables, how to run and reproduce it, what was not tested."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cerebellum import __version__
from cerebellum.keys import stem_of
from cerebellum.quoting import code_block, code_span, markdown, printable, shell_file, yaml_string
from cerebellum.report.allocation_lines import five_lines, weight_error_line
from cerebellum.report.allocation_tables import controls_grid, ladder_grid, types_grid
from cerebellum.report.bench import bench_grid
from cerebellum.report.markdown import grid_markdown, on_what

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation

_REPOSITORY = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+?)/?$", re.ASCII)
#: What stands for a name that the file doesn't know.
UNKNOWN_BASE, UNKNOWN_MAKER = "OWNER/NAME", "YOUR-NAME"


def allocation_card(result: Allocation) -> str:
    """Markdown with the front matter of a model hub."""
    written = result.written
    lines = "\n".join(printable(str(line)) for line in written.overrides)
    parts = [
        *front_matter(result.base.model.metadata),
        "",
        f"# {markdown(stem_of(written.path))}",
        "",
        f"{markdown(result.model)}, quantized so that each of {len(result.table.names)} tensors has the type that serves the whole best "
        f"within the bytes of {markdown(str(result.target).removeprefix('the size of '))}. The types were chosen by measurement.",
        "",
        *(f"* {markdown(line)}" for line in five_lines(result)[:4]),
        f"* {markdown(weight_error_line(result))}",
        "",
        "## Run it",
        "",
        code_block(f"llama-cli -m {shell_file(written.path.name)}", "sh"),
        "",
        f"For Ollama, a `Modelfile` with one line, {code_span(f'FROM ./{written.path.name}')}, then `ollama create NAME -f Modelfile`.",
        "",
        grid_markdown(controls_grid(result)),
        grid_markdown(ladder_grid(result)),
        grid_markdown(types_grid(result)),
        *([grid_markdown(bench_grid(result.bench))] if result.bench else []),
        "## Not tested",
        "",
        *(f"* {line}" for line in not_tested(result)),
        "",
        "## Reproduce it",
        "",
        f"Save as {code_span(written.overrides_path.name)}:",
        "",
        code_block(lines),
        "",
        code_block(written.reproduce, "sh"),
        "",
        f"The file's sha256 is {code_span(written.sha256)}.",
        "",
        "## On what",
        "",
        *on_what(result, public=True),
        "",
        f"Made with cerebellum {__version__}.",
    ]
    return "\n".join(parts) + "\n"


def front_matter(metadata: Mapping[str, Any]) -> list[str]:
    """The YAML block; what the model's metadata doesn't say is a name to replace."""
    base = base_model(metadata)
    lines = ["---", f"base_model: {yaml_string(base)}" + ("  # replace" if base == UNKNOWN_BASE else "")]
    lines += ["base_model_relation: quantized", f"quantized_by: {UNKNOWN_MAKER}  # replace"]
    license_name = metadata.get("general.license")
    if isinstance(license_name, str) and license_name.strip():
        lines.append(f"license: {yaml_string(license_name.strip().lower()[:80])}")
    return [*lines, "tags:", *(f"- {tag}" for tag in ("gguf", "quantized", "cerebellum", "mixed-precision")), "---"]


def base_model(metadata: Mapping[str, Any]) -> str:
    """OWNER/NAME of the model as its metadata knows it."""
    for key in ("general.repo_url", "general.source.repo_url", "general.base_model.0.repo_url"):
        value = metadata.get(key)
        if isinstance(value, str) and (found := _REPOSITORY.match(value)):
            return found[1]
    return UNKNOWN_BASE


def not_tested(result: Allocation) -> list[str]:
    """What nobody should think was shown."""
    split = result.facts["splits"]["report"]
    found = []
    if result.bench is None:
        found.append(
            "Tasks: KL divergence is measured, and whether a task notices isn't. Run the benchmarks that matter to you."
        )
    found += [
        f"Other texts: all figures are from {split['n_chunks']} chunks of {markdown(split['text'])}; code, other languages and chat can "
        "differ.",
        f"Contexts longer than {split['ctx']} tokens, and generation at length.",
        "Speed: types differ in how fast a processor computes them.",
    ]
    return found
