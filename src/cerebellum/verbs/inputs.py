"""What a session is given: the model, its reference, the importance matrix and the texts, each read and checked once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.domain import Model
from cerebellum.errors import InputError, ModelFileError, TextError
from cerebellum.gguf import imatrix as imatrix_file
from cerebellum.gguf import model_file
from cerebellum.gguf.imatrix import Imatrix
from cerebellum.gguf.llama_rules import check_numbers, quantizable_tensors
from cerebellum.gguf.next_token import check_predicts
from cerebellum.gguf.types import EMBEDDINGS, FTYPES, TYPES, ftype_name
from cerebellum.keys import sha256_file
from cerebellum.progress import Progress
from cerebellum.text.corpus import read_text
from cerebellum.verbs.calibration_texts import check_apart, texts_at_hand
from cerebellum.verbs.imatrix_entries import entry_fits
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.text import Text, odd_marks, read


@dataclass(frozen=True, slots=True)
class Texts:
    """The text that chooses and the text that reports. ``report`` None: the second half of ``search`` reports. ``n_chunks`` bounds each."""

    search_path: Path
    search: Text
    report_path: Path | None
    report: Text | None
    is_chat: bool
    n_chunks: int | None

    @property
    def given(self) -> tuple[Text, ...]:
        """The one text or the two."""
        return (self.search,) if self.report is None else (self.search, self.report)


@dataclass(frozen=True, slots=True)
class Inputs:
    """``reference_path`` is the file that KL divergence is taken to: the source itself unless another was given. ``doubts``: warnings."""

    source: Model
    reference_path: Path
    imatrix: Path | None
    texts: Texts
    doubts: tuple[str, ...] = ()

    @property
    def is_own_reference(self) -> bool:
        return self.reference_path == self.source.path


def read_inputs(options: SessionOptions) -> Inputs:
    """All that can be checked from the files alone. Raises `ModelFileError`, `InputError` or `TextError`."""
    source = model_file.read_model(options.model)
    check_predicts(source)
    check_numbers(source)
    check_base(options, source)
    texts = Texts(
        options.text,
        read(options.text, options.chat),
        options.report_text,
        read(options.report_text, options.chat) if options.report_text else None,
        options.chat,
        options.n_chunks,
    )
    doubts = conversations_unasked(texts)
    doubts += [] if options.imatrix is None else check_imatrix(options.imatrix, source, texts)
    if options.reference:
        check_predicts(model_file.read_model(options.reference))
    return Inputs(source, options.reference or options.model, options.imatrix, texts, tuple(doubts))


def conversations_unasked(texts: Texts) -> list[str]:
    """A warning for each plain text that is JSON lines of conversations: its brackets and names would be measured as text."""
    paths = (texts.search_path, texts.report_path)
    named = [(path, text) for path, text in zip(paths, (texts.search, texts.report), strict=True) if path and text]
    return [
        f"{path.name} looks like conversations in JSON lines, and its brackets and names are measured as text: give --chat to measure the "
        "assistant's turns."
        for path, text in named
        if isinstance(text, str) and _is_conversation(text)
    ]


def _is_conversation(text: str) -> bool:
    """Whether the first line is a JSON object that holds turns."""
    line = text.lstrip("\ufeff \n").partition("\n")[0]
    if not line.startswith("{") or len(line) > 1 << 20:
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and any(isinstance(value.get(name), list) for name in ("messages", "conversations"))


def check_base(options: SessionOptions, source: Model) -> None:
    """The base asked for is a file type; a quantized source that is to be its own base says which it has, and is not shaped.

    Raises `TypeChoiceError` or `InputError`.
    """
    if options.base is not None:
        ftype_name(options.base)
    if source.is_quantized and options.base is None and source.ftype is None:
        raise InputError(f"{source.path.name} is quantized, but doesn't say to which file type; name one with --base")
    if source.is_quantized and options.base is None and source.ftype and not TYPES[FTYPES[source.ftype][1]].quantized:
        raise InputError(
            f"{source.path.name} says that its file type is {source.ftype}, and its weights are quantized: under that type llama.cpp "
            "takes no overrides. Name the file type that a recipe is to start from with --base"
        )
    if source.is_quantized and options.base is None and (options.mix.overrides or options.mix.pure):
        raise InputError(
            f"{source.path.name} is quantized, so it is its own base; --base-overrides and --pure are of one that is made: name its file "
            "type with --base"
        )


def check_imatrix(path: Path, source: Model, measured_on: Texts) -> list[str]:
    """The importance matrix is of this model, and was not made on a text that measures. Raises `ModelFileError` or `TextError`.

    Returns a warning where a text only shares the name of one that made the matrix, and that one isn't here to be compared.
    """
    doubts = []
    imatrix = imatrix_file.load_imatrix(path)
    check_imatrix_fits(imatrix, path, source)
    texts = {text: sha256_file(text) for text in (measured_on.search_path, measured_on.report_path) if text is not None}
    for name, text_path in texts_at_hand(imatrix, path):
        made_from = Path(name.replace("\\", "/"))
        sha256 = sha256_file(text_path) if text_path else None
        for text, text_sha256 in texts.items():
            if text_sha256 == sha256:
                raise TextError(
                    f"{text.name} made the importance matrix, so it can't measure what comes of it; give another text"
                )
            if text.name == made_from.name and text_path is None:
                doubts.append(
                    f"{text.name} has the name of the text that made the importance matrix ({name}), which is not here to be compared. "
                    "If it is the same text, the figures flatter what the matrix has shaped: give another text."
                )
        if text_path and is_text(text_path):
            check_apart(text_path, texts, "made")
    return doubts


def is_text(path: Path) -> bool:
    """Whether the file is one that could be compared."""
    try:
        return bool(read_text(path))
    except TextError:
        return False


def odd_marks_of(texts: Texts, progress: Progress) -> list[str]:
    """Warnings about line ends and marks in the texts, told."""
    warnings = odd_marks(texts.search_path.name, texts.search, progress)
    if texts.report_path is not None and texts.report is not None:
        warnings += odd_marks(texts.report_path.name, texts.report, progress)
    return warnings


def check_imatrix_fits(imatrix: Imatrix, path: Path, source: Model) -> None:
    """Some tensor of the model has an entry, and none has one of another size, but embeddings, of which llama.cpp passes over it.

    Raises `ModelFileError`."""
    known = [t for t in quantizable_tensors(source) if t.name in imatrix.entries]
    if not known:
        raise ModelFileError(
            f"the importance matrix {path} has no entry for any tensor of {source.path.name}; it was made for another model; make one with "
            "`cerebellum imatrix`"
        )
    wrong = next((t.name for t in known if t.name not in EMBEDDINGS and not entry_fits(imatrix, t)), None)
    if wrong is not None:
        raise ModelFileError(
            f"the importance matrix {path} isn't of {source.path.name}: its entry for {wrong} has another size than the tensor; it was "
            "made for another model"
        )


def subject_of(source_sha256: str, imatrix: Path | None) -> dict[str, Any]:
    """What a study is of: the weights everything is quantized from, and the importance matrix that shapes it."""
    return {"weights_sha256": source_sha256, "imatrix_sha256": sha256_file(imatrix) if imatrix else None}
