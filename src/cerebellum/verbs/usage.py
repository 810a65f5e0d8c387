"""How a finished file is run: its chat template checked, a Modelfile, command lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cerebellum.domain import Model
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.vocabulary import TokenList, token_list
from cerebellum.keys import stem_of
from cerebellum.quoting import shell_line
from cerebellum.text.chat import TEMPLATE
from cerebellum.text.ollama import Modelfile, modelfile
from cerebellum.text.template_lint import Template, TemplateFinding, lint

_PREFIX = "tokenizer.ggml."
#: Tokens that end an answer.
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
#: A context to begin with, where the model was trained for more.
_CONTEXT = 8192


def template_of(model: Model) -> Template | None:
    """The model's chat template with its special tokens; None where there is none. Raises `ModelFileError`."""
    source = model.metadata.get(TEMPLATE)
    if not isinstance(source, str) or not source.strip():
        return None
    tokens = token_list(model)
    bos, eos = (_text(model, tokens, f"{name}_token_id") for name in ("bos", "eos"))
    return Template(source, bos, eos, _adds_bos(model))


def _text(model: Model, tokens: TokenList, key: str) -> str:
    number = model.metadata.get(_PREFIX + key)
    return tokens.texts[number] if isinstance(number, int) and 0 <= number < len(tokens.texts) else ""


def _adds_bos(model: Model) -> bool:
    """As llama.cpp decides: what the metadata say, else by the kind of vocabulary."""
    stored = model.metadata.get(_PREFIX + "add_bos_token")
    return bool(stored) if stored is not None else model.metadata.get(_PREFIX + "model") in ("llama", "bert")


def lint_template(path: Path) -> tuple[TemplateFinding, ...] | None:
    """The findings; None where the model has no chat template. Raises `ModelFileError`."""
    template = template_of(read_model(path))
    return None if template is None else lint(template)


def modelfile_of(path: Path, file: Path, n_ctx: int | None) -> Modelfile:
    """A Modelfile for the GGUF at ``path``, which it names ``file``. Raises `ModelFileError`, `InputError`."""
    model = read_model(path)
    template = template_of(model)
    tokens = token_list(model)
    stops = [_text(model, tokens, key) for key in _ENDS]
    license_name = model.metadata.get("general.license")
    made = modelfile(file, template, stops, n_ctx, license_name if isinstance(license_name, str) else "")
    if len(model.files) > 1:
        joined = "the model is in several files, and Ollama takes one: join them with llama-gguf-split --merge"
        made = replace(made, notes=(*made.notes, joined))
    return made


def commands_of(path: Path, n_ctx: int | None, type_k: str = "F16", type_v: str = "F16") -> dict[str, str]:
    """Command lines by program, for the file at ``path``. Raises `ModelFileError`."""
    model = read_model(path)
    n_ctx = n_ctx or min(model.context_length or _CONTEXT, _CONTEXT)
    types = [
        w for option, kind in (("-ctk", type_k), ("-ctv", type_v)) if kind != "F16" for w in (option, kind.lower())
    ]
    flash = ["-fa", "on"] if type_v != "F16" else []
    chat = ["--jinja"] if isinstance(model.metadata.get(TEMPLATE), str) else ["--no-conversation"]
    name = f"./{path}" if str(path).startswith("-") else str(path)
    shared = ["-m", name, "-c", str(n_ctx), "-ngl", "99", *flash, *types]
    server = [*shared, *(chat if chat == ["--jinja"] else []), "--host", "127.0.0.1", "--port", "8080"]
    short = stem_of(model.path).lower().replace(" ", "-")
    return {
        "llama-server": shell_line(["llama-server", *server]),
        "llama-cli": shell_line(["llama-cli", *shared, *chat]),
        "ollama": f"{shell_line(['cerebellum', 'modelfile', name, '-o', 'Modelfile'])} && "
        f"{shell_line(['ollama', 'create', short, '-f', 'Modelfile'])} && {shell_line(['ollama', 'run', short])}",
        "LM Studio": shell_line(["lms", "import", name]),
    }
