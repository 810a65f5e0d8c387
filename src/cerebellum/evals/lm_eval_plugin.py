"""Makes the model `cerebellum` known wherever lm-evaluation-harness is imported, so that its own command finds it.

The harness looks for no models of other packages. `cerebellum lm-eval register` therefore leaves a line in this environment's
site-packages that imports this module when Python starts; it costs a look at each import until ``lm_eval.models`` has come.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

MODEL, TARGET = "cerebellum", "cerebellum.cli.harness:open_model"
WHERE = "lm_eval.models"
#: Last of its folder, so that the lines that make an editable installation known have been read.
FILE = "zz-cerebellum-lm-eval.pth"
LINE = (
    "import importlib.util as u; u.find_spec('cerebellum') and "
    "__import__('cerebellum.evals.lm_eval_plugin', fromlist=['watch']).watch()\n"
)


def add() -> None:
    """Register the model beside the harness's own, which have come."""
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)


class Loader(importlib.abc.Loader):
    """The harness's own loader, and then our model."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._own = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        add()


class Finder(importlib.abc.MetaPathFinder):
    """Waits for the harness's models."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != WHERE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


def watch() -> None:
    """Register the model when the harness's come. Where they have come already, nothing happens."""
    if WHERE not in sys.modules and not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def write(folder: Path) -> Path:
    """Leave the line in a site-packages folder. Raises OSError."""
    path = folder / FILE
    path.write_text(LINE)
    return path


def remove(folder: Path) -> bool:
    """Take it away; whether it was there. Raises OSError."""
    path = folder / FILE
    there = path.exists()
    path.unlink(missing_ok=True)
    return there
