"""Where Python may import from: never from the folder that a command happens to be started in.

Beside a downloaded model may lie a ``json.py`` or a ``numpy.py``. Python puts the current folder first on ``sys.path`` with ``-m`` and
``-c``, and wherever ``PYTHONPATH`` has an empty entry; code from there would run with the user's rights.
"""

from __future__ import annotations

import os
import sys

#: The folder that this package lies in: our code is imported from there wherever it is.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH120, PTH100 pathlib isn't loaded yet


def leave_current_folder() -> None:
    """Take the current folder out of ``sys.path``, unless this package lies in it."""
    sys.path[:] = [path for path in sys.path if not _is_current(path)]


def importable() -> list[str]:
    """``sys.path`` for a child Python: absolute folders, without the current one and without the started script's."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    scripts = os.path.dirname(os.path.abspath(main)) if main else ""  # noqa: PTH120, PTH100
    paths = [os.path.abspath(path) for path in sys.path if path and not _is_current(path)]  # noqa: PTH100
    kept = [path for path in paths if path == _HOME or path != scripts]
    return list(dict.fromkeys([*kept, _HOME]))


def _is_current(path: str) -> bool:
    """Whether an entry of ``sys.path`` is the current folder, and not this package's own."""
    try:
        here = os.path.realpath(os.getcwd())  # noqa: PTH109
    except OSError:  # the current folder was removed
        return path == ""
    return os.path.realpath(path or here) == here and os.path.realpath(_HOME) != here
