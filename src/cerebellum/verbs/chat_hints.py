"""What to know before a model is measured: a chat template with faults, or conversations that would suit the model better than its text."""

from __future__ import annotations

from pathlib import Path

from cerebellum.bundled import FOLDER
from cerebellum.domain import Model
from cerebellum.progress import Progress
from cerebellum.text.chat import TEMPLATE, Conversations
from cerebellum.text.template_lint import lint
from cerebellum.verbs.usage import template_of


def chat_hints(model: Model, path: Path, text: str | Conversations, progress: Progress) -> None:
    """Tell both. Texts of the bundled small world are left alone: they are there to be tried."""
    if isinstance(text, Conversations):
        _faults(model, progress)
    elif model.metadata.get(TEMPLATE) and FOLDER not in path.resolve().parents:
        progress.note(
            f"{model.path.name} has a chat template, so it is made for conversations, and {path.name} is measured as plain text: "
            "what that says of its answers is little. Conversations (JSON lines) are measured with --chat"
        )


def _faults(model: Model, progress: Progress) -> None:
    template = template_of(model)
    for finding in lint(template) if template is not None else ():
        if finding.level != "note":
            progress.note(f"warning: the chat template of {model.path.name}, {finding.check}: {finding.message}")
