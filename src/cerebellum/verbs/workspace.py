"""What all measurements in one folder share: the backend, the study, the folder, the settings, the build, the warnings."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebellum.domain import Corpus
from cerebellum.files import STUDY_FILE, STUDY_FILES, make_folder, refuse_inputs_in
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.progress import Progress
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study.hashes import cached_file_sha256, cached_sha256
from cerebellum.study.store import Study
from cerebellum.verbs.capture import store_for
from cerebellum.verbs.warned import tell


@dataclass(frozen=True, slots=True)
class Workspace:
    """What all verbs on one study share. ``build`` is that of ``backend``, asked once; ``warnings`` are those told so far."""

    backend: Backend
    study: Study
    out: Path
    settings: Settings
    build: str
    progress: Progress
    warnings: list[str] = field(default_factory=list)

    def sha256(self, path: Path) -> str:
        """The hash of a file's content, computed once for each state of the file."""
        return cached_sha256(self.study, path)

    def file_sha256(self, path: Path) -> str:
        """As `sha256`, of one file of a model that may have several."""
        return cached_file_sha256(self.study, path)

    def reference_store(self, corpus: Corpus, reference: Mapping[str, Any]) -> ReferenceStore:
        """Where the rows of a reference (`capture.reference_facts`) on a text are kept."""
        return store_for(self.out, corpus, reference, self.settings, self.build, self.study.watched)

    def warn(self, sentences: Iterable[str]) -> None:
        """Tell what wasn't told yet, and keep it for the report."""
        tell(sentences, self.progress, self.warnings)


@contextlib.contextmanager
def opened_workspace(
    backend: Backend,
    settings: Settings,
    out: Path | None,
    inputs: Iterable[Path | None],
    progress: Progress,
    names: Sequence[str] = STUDY_FILES,
) -> Iterator[Workspace]:
    """A workspace in ``out``, or in a folder that is gone afterwards. Raises `OutputError` where one of ``inputs`` lies in ``out`` under
    one of the ``names`` that are written."""
    with contextlib.ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cerebellum-")))
        else:
            make_folder(out)
            refuse_inputs_in(out, inputs, names)
            folder = out
        study = stack.enter_context(Study.open(folder / STUDY_FILE))
        yield Workspace(backend, study, folder, settings, backend.build(settings), progress)
