"""What all measurements of a session share: the backend, the study, the folder, the settings, the build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.domain import Corpus
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.progress import Progress
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study.hashes import cached_sha256
from cerebellum.study.store import Study
from cerebellum.verbs.capture import store_for


@dataclass(frozen=True, slots=True)
class Workspace:
    """What all verbs on one study share. ``build`` is ``backend.id``, asked once."""

    backend: Backend
    study: Study
    out: Path
    settings: Settings
    build: str
    progress: Progress

    def sha256(self, path: Path) -> str:
        """The hash of a file's content, computed once for each state of the file."""
        return cached_sha256(self.study, path)

    def reference_store(self, corpus: Corpus, reference: Mapping[str, Any]) -> ReferenceStore:
        """Where the rows of a reference (`capture.reference_facts`) on a text are kept."""
        return store_for(self.out, corpus, reference, self.settings, self.build, self.study.watched)
