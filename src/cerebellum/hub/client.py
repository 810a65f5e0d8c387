"""What is asked of a hub: the one place that knows its client. Every failure is one `HubError` that says what to do."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import CerebellumError, HubError
from cerebellum.evals.hub import CLIENTS, DISK
from cerebellum.hub.names import HubName
from cerebellum.progress import Progress
from cerebellum.quoting import printable

LOG_IN = "set HF_TOKEN to a token of yours, or log in with `hf auth login`"
#: Seconds that the hub may take to answer a question.
PATIENCE = 30.0
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. ``digest``: its sha256 (stored as a large file) or git's sha1."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at a commit. ``is_private`` None: not known (read from the cache)."""

    commit: str
    files: dict[str, RemoteFile]
    is_private: bool | None = None


@contextlib.contextmanager
def asking(repo: str, doing: str = "read") -> Iterator[None]:
    """While the hub's client works on ``repo``. Raises `HubError` for whatever it raises."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise HubError(
            "names that begin with hf: and `publish` need huggingface_hub: pip install 'cerebellum[hub]'"
        ) from error
    try:
        yield
    except CerebellumError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
        if isinstance(cause, OSError) and cause.errno in DISK:
            raise cause from error
        raise HubError(_reason(cause, repo, doing)) from error


def _reason(error: Exception, repo: str, doing: str) -> str:
    """What went wrong and what to do, in a sentence."""
    from huggingface_hub import constants, errors

    endpoint, status = constants.ENDPOINT, getattr(getattr(error, "response", None), "status_code", None)
    refused = f"{endpoint} doesn't accept the token (401): {LOG_IN}"
    changed = f"{repo} was changed by somebody else meanwhile ({status}): look at it and run the same command again"
    reasons: tuple[tuple[type[Exception], int | None, str], ...] = (
        (
            errors.GatedRepoError,
            None,
            f"{repo} is gated: accept its conditions at {endpoint}/{repo}, and {LOG_IN} of that account",
        ),
        (
            errors.RepositoryNotFoundError,
            None,
            f"there is no model {repo} at {endpoint}, or it is private: check the name; for a private one {LOG_IN}",
        ),
        (errors.RevisionNotFoundError, None, f"{repo} has no such revision; leave it out for the newest"),
        (
            errors.OfflineModeIsEnabled,
            None,
            f"HF_HUB_OFFLINE is set, and the cache doesn't hold what is asked of {repo}; fetch it once without it",
        ),
        (errors.HfHubHTTPError, 401, refused),
        (
            errors.HfHubHTTPError,
            403,
            f"the token may not {doing} {repo} (403): {LOG_IN}, with the right to {doing} there",
        ),
        (errors.HfHubHTTPError, 409, changed),
        (errors.HfHubHTTPError, 412, changed),
    )
    for kind, code, reason in reasons:
        if isinstance(error, kind) and code in (None, status):
            return reason
    return _failure(error, endpoint, repo, status, doing)


def _failure(error: Exception, endpoint: str, repo: str, status: int | None, doing: str) -> str:
    if status == 400 and doing == "write":
        return (
            f"{endpoint} refuses what was sent to {repo} (400: {_first(error)}): if it names no other reason, bytes were damaged on the "
            "way; run the same command again"
        )
    if status is not None:
        return f"{endpoint} answers {status} when asked for {repo} ({_first(error)}): try again later"
    if type(error).__module__.partition(".")[0] in CLIENTS or isinstance(error, OSError):
        again = "run the same command again; what is there by now is kept"
        return f"{endpoint} can't be reached, or ended the connection ({_first(error)}): {again}"
    return f"{endpoint} gave an answer for {repo} that can't be used: {_first(error)}"


def _first(error: Exception) -> str:
    """An error's first line, without the token."""
    from huggingface_hub import get_token

    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip().rstrip(".:")
    token = get_token()
    return printable(text.replace(token, "…") if token else text, 300)


@contextlib.contextmanager
def bars(progress: Progress) -> Iterator[None]:
    """The client's own bars, where somebody watches and was not told to be quiet; of its tries that fail only the last is told, by us."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, logging

    logging.set_verbosity_error()
    with contextlib.suppress(Exception):
        (enable_progress_bars if sys.stderr.isatty() and getattr(progress, "shows", False) else disable_progress_bars)()
    yield


def listing(name: HubName, progress: Progress) -> Listing:
    """The files of the repository; of what the cache holds where the hub can't be reached. Raises `HubError`."""
    try:
        with asking(name.repo):
            from huggingface_hub import HfApi

            info = HfApi().model_info(name.repo, revision=name.revision or None, files_metadata=True, timeout=PATIENCE)
    except HubError as error:
        if is_answer(error.__cause__) or (cached := _cached(name)) is None:
            raise
        progress.note(f"the hub wasn't reached: {name.repo} as the cache holds it")
        return cached
    if not is_hash(commit := str(info.sha)):
        raise HubError(f"the hub doesn't say which commit of {name.repo} it gives; is HF_ENDPOINT a hub?")
    files = {s.rfilename: _remote(s) for s in info.siblings or () if stays_inside(s.rfilename)}
    return Listing(commit, files, bool(info.private))


def is_hash(text: str) -> bool:
    """Whether ``text`` is a sha256 or git's sha1, which can be a file's name in the cache: a hub's word goes nowhere else."""
    return re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def stays_inside(path: str) -> bool:
    """Whether a repository's path leads to no place outside of the folder that it is put into."""
    return "\0" not in path and not {"", ".", ".."} & set(path.replace("\\", "/").split("/"))


def is_answer(error: object) -> bool:
    """Whether the hub itself said no."""
    return getattr(error, "response", None) is not None


def _remote(sibling: Any) -> RemoteFile:
    digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    size = sibling.lfs.size if sibling.lfs is not None else sibling.size
    return RemoteFile(sibling.rfilename, int(size or 0), str(digest or ""))


def repo_folder(repo: str) -> Path:
    """Where the cache keeps a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / str(repo_folder_name(repo_id=repo, repo_type="model"))


def _cached(name: HubName) -> Listing | None:
    """What the cache holds of the revision; None for nothing."""
    with contextlib.suppress(OSError):
        folder, revision = repo_folder(name.repo), name.revision or "main"
        reference = folder / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
        snapshot = folder / "snapshots" / commit
        files = [path for path in snapshot.rglob("*") if path.is_file()]
        names = {path.relative_to(snapshot).as_posix(): path for path in files}
        if files:
            return Listing(commit, {n: RemoteFile(n, p.stat().st_size, "") for n, p in names.items()})
    return None


def digest_of(path: Path, like: str) -> str:
    """The file's sha256, or git's sha1 where ``like`` is one."""
    git = len(like) == 40
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False) if git else hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
