"""The hub's data sets, when there is a network: without one the cache is asked at once instead of after half a minute of retries."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from cerebellum.errors import CerebellumError, InputError

#: Seconds that the hub may take to answer the door.
PATIENCE = 5.0
#: Packages that load data sets, and those that they ask over the network.
CLIENTS = {
    "aiohttp", "datasets", "evaluate", "fsspec", "hf_xet", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3",
}  # fmt: skip
#: Errors of this machine's disk, whoever meets them.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES)
UNREACHABLE = "the hub can't be reached; "
LATER = "load it once where the hub can be reached, and the cache serves it from then on"
THEIRS = "it is a task of lm-evaluation-harness's own, for which --data isn't used"
OURS = "--data FOLDER has files for humaneval, arc_challenge, hellaswag and mmlu_redux"


@contextlib.contextmanager
def hub(what: str, *, local: bool = True) -> Iterator[None]:
    """While ``what`` is loaded. Where the hub can't be reached, its client is told so for this while only.

    Raises `InputError` where the data are neither there nor in the cache; ``local``: a folder would do instead.
    """
    with offline_if_unreachable() as why:
        try:
            yield
        except CerebellumError:
            raise
        except Exception as error:  # the harness and its tasks raise what they like
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            wants = isinstance(error, ImportError) or "install" in str(error).lower()
            instead = "install what it wants, or leave it out" if wants else "leave it out, or report it there"
            if of_the_hub(error) or (why and isinstance(error, OSError)):
                instead = f"give them with --data ({OURS}), or {LATER}" if local else f"{THEIRS}; {LATER}"
            raise InputError(f"can't load the questions of {what}: {cause(why, error)}; {instead}") from error


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[str]:
    """For a while the hub's client knows whether it can be reached; gives the reason why not in words, or ""."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    why = "HF_HUB_OFFLINE is set; " if any(before) else "" if answers(constants.ENDPOINT) else UNREACHABLE
    if why:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield why
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def cause(why: str, error: BaseException) -> str:
    """What went wrong. Where the client was told to keep off the hub, that it says so is our doing and no setting of the user's."""
    offline = why == UNREACHABLE and "offline" in str(error).lower()
    return f"{why}its cache doesn't hold them" if offline else f"{why}{first_line(error)}"


def of_the_hub(error: BaseException) -> bool:
    """Whether an error is one of the clients', or of a connection that they wanted."""
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    ordinary = isinstance(error, OSError | ValueError | RuntimeError)
    return bool(kinds & CLIENTS) or (ordinary and raised_in(error).partition(".")[0] in CLIENTS)


def raised_in(error: BaseException) -> str:
    """The module whose code raised it."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        name, trace = str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_next
    return name


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


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
