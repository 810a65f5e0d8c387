"""The error tree. Every failure that a user can meet is one of these, and says what, which and what to do.

    CerebellumError                 exit 1   anything we raise on purpose
    ├── InputError                  exit 2   what was given can't be used
    │   ├── ModelFileError                   not a GGUF, truncated, wrong architecture
    │   ├── TextError                        empty, too short, not UTF-8
    │   ├── TypeChoiceError                  unknown type or ftype, a type the row can't hold, imatrix missing
    │   ├── TensorChoiceError                unknown tensor, role or block
    │   └── OverrideError                    an override line that is malformed, hits nothing or hits too much
    ├── OutputError                 exit 3   a folder that can't be written, a full disk
    ├── EngineError                 exit 4   llama.cpp refused or failed; names the trial
    │   ├── TensorStoreError                 a tensor whose values a type can't hold
    │   └── EngineDied                       the native process is gone (abort, kill); names the trial
    ├── StudyError                  exit 5   a foreign, newer or damaged study database
    ├── ProofError                  exit 6   the written file is not what was measured
    ├── RefusedError                exit 7   a policy refuses to choose (perplexity not valid, say)
    ├── SandboxError                exit 8   nothing here can run what a model wrote in isolation
    └── HubError                    exit 9   a hub that refused, failed or can't be reached

Exit code 130 is Ctrl-C: what was measured is kept and the same command goes on. `EXIT_CODES` says what each code means.
"""

from __future__ import annotations

#: What the command line ends with, and what it means: one meaning each. ``docs/reference/exit-codes.md`` is made of it.
EXIT_CODES = {
    0: "It is done. A verdict, whatever the word, is a result too.",
    1: "An error that nobody foresaw. Python's traceback is printed: please report it.",
    2: "What was given can't be used: an option, a model, a text, a type, a tensor, an override line; a recipe or template has errors. "
    "Nothing was measured in vain; the message says what to give instead.",
    3: "Something can't be written: the folder, a full disk, a file that exists. What was measured is kept.",
    4: "llama.cpp failed, or isn't installed as it must be (`doctor`). The message names the trial. What was measured is kept.",
    5: "The study's database is of another model, of a newer version, or damaged.",
    6: "A file is not what it should be: the written file differs from what was measured, or `verify` found a change.",
    7: "It was measured, and the answer is no: a policy refuses to choose, or a task's gate fails (`--fail-on-loss`).",
    8: "Nothing on this machine can run in isolation what a model wrote.",
    9: "A hub refused, or can't be reached.",
    130: "Stopped with Ctrl-C or SIGTERM. What was measured is kept, and the same command goes on.",
}


class CerebellumError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class InputError(CerebellumError):
    """Something the user gave can't be used."""

    exit_code = 2


class ModelFileError(InputError):
    """A model file that isn't a whole GGUF, or whose architecture llama.cpp doesn't know."""


class TextError(InputError):
    """A text that is missing, empty, not UTF-8, or shorter than what the measurement needs."""


class TypeChoiceError(InputError):
    """A quantization type that is unknown, that the row can't hold, or that needs an importance matrix."""


class TensorChoiceError(InputError):
    """A tensor, role or block that the model doesn't have."""


class OverrideError(InputError):
    """An override that is malformed, hits no tensor, or hits more than it says."""


class OutputError(CerebellumError):
    """Something couldn't be written: the folder, the disk, the file."""

    exit_code = 3


class EngineError(CerebellumError):
    """llama.cpp refused or failed; the message names the trial."""

    exit_code = 4


class TensorStoreError(EngineError):
    """A tensor whose values a type can't hold: ``tensor`` and ``kind`` say which."""

    def __init__(self, message: str, tensor: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.tensor, self.kind = tensor, kind

    def __reduce__(self) -> tuple[type[TensorStoreError], tuple[str, str, str]]:
        return type(self), (str(self), self.tensor, self.kind)


class EngineDied(EngineError):
    """The process that holds llama.cpp ended by itself: an abort, a signal, out of memory."""


class StudyError(CerebellumError):
    """A study database that is of another model, of a newer version, or damaged."""

    exit_code = 5


class ProofError(CerebellumError):
    """The written file isn't what was planned or measured."""

    exit_code = 6


class RefusedError(CerebellumError):
    """A policy that refuses to choose, with its reason."""

    exit_code = 7


class HubError(CerebellumError):
    """A hub that refused, failed, can't be reached, or gave other bytes than it said."""

    exit_code = 9


class SandboxError(CerebellumError):
    """Nothing on this machine isolates what a model wrote from everything else."""

    exit_code = 8
