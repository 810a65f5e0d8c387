"""The hub's data sets, when there is a network: without one the cache is asked at once instead of after half a minute of retries."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from cerebellum.errors import InputError

#: Seconds that the hub may take to answer the door.
PATIENCE = 5.0


@contextlib.contextmanager
def hub(what: str, *, local: bool = True) -> Iterator[None]:
    """While ``what`` is loaded. Where the hub can't be reached, its client is told so for this while only.

    Raises `InputError` where the data are neither there nor in the cache; ``local``: it mentions that a folder would do.
    """
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    reachable = not any(before) and answers(constants.ENDPOINT)
    if not reachable:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    except (OSError, ValueError) as error:  # the clients' own errors are kinds of these
        instead = "; give them with --data" if local else ""
        why = "" if reachable else "the hub can't be reached; "
        raise InputError(f"can't load the questions of {what}: {why}{_first_line(error)}{instead}") from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def answers(endpoint: str) -> bool:
    """Whether something listens there, or a proxy is set that will know."""
    import urllib.request

    if urllib.request.getproxies():
        return True
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=PATIENCE):
            return True
    except OSError:
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
