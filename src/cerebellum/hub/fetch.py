"""Files of a hub, brought into the cache of `huggingface_hub`: each goes on where it was interrupted, and has its name there only when its
bytes are those that the hub says."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import shutil
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from cerebellum.errors import HubError, InputError, OutputError
from cerebellum.hub.client import Listing, asking, bars, digest_of, is_hash, listing, repo_folder
from cerebellum.hub.names import HubName, choose, is_hub_name
from cerebellum.keys import partial_of
from cerebellum.progress import Progress, Silent

P = ParamSpec("P")
R = TypeVar("R")


def fetch(name: str | HubName, progress: Progress | None = None) -> Path:
    """The model (or other file) called ``hf:org/name[@revision][:file or label]`` as a local path; of a model in several files all are
    there, and the first is returned. Raises `InputError` for a name that means nothing there, `HubError` or `OutputError`."""
    progress = progress or Silent()
    meant = name if isinstance(name, HubName) else HubName.parse(name)
    repository = listing(meant, progress)
    paths = [_one(meant, path, repository, progress) for path in choose(meant, repository.files)]
    _note_revision(meant, repository)
    return paths[0]


def _one(name: HubName, path: str, repository: Listing, progress: Progress) -> Path:
    pointer = repo_folder(name.repo) / "snapshots" / repository.commit / path
    if pointer.is_file():
        return pointer
    with asking(name.repo), bars(progress):
        from huggingface_hub import constants, hf_hub_download, hf_hub_url
        from huggingface_hub.file_download import get_hf_file_metadata

        url = hf_hub_url(name.repo, path, revision=repository.commit)
        remote = get_hf_file_metadata(url)
        if not is_hash(remote.etag or "") or remote.size is None:
            raise HubError(
                f"the hub doesn't say size and hash of {path}, so it can't be checked; is HF_ENDPOINT a hub?"
            )
        if remote.size > constants.MAX_HTTP_DOWNLOAD_SIZE:  # only its own protocol carries these
            got = Path(hf_hub_download(name.repo, path, revision=repository.commit))
            _check(got, remote.etag, path)
            return got
        _blob(name.repo, path, remote, progress)
        return _pointed(repo_folder(name.repo) / "blobs" / remote.etag, pointer)


def _pointed(blob: Path, pointer: Path) -> Path:
    """``pointer``, which leads to ``blob`` as in any cache of a hub; a second file where links can't be made. The hub isn't asked again."""
    try:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        shutil.copyfile(blob, partial_of(pointer))
        partial_of(pointer).replace(pointer)
    return pointer


def _blob(repo: str, path: str, remote: Any, progress: Progress) -> None:
    """The file's bytes under its hash in the cache."""
    from filelock import FileLock

    blob = repo_folder(repo) / "blobs" / remote.etag
    partial = blob.with_name(f"{remote.etag}.cerebellum-partial")
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"can't write in the hub's cache {blob.parent}: {error.strerror}; HF_HOME names another"
        ) from error
    with FileLock(partial.with_suffix(".lock")):
        if blob.exists():
            return
        done = partial.stat().st_size if partial.exists() else 0
        if done > remote.size:
            partial.unlink()
            done = 0
        free = shutil.disk_usage(blob.parent).free
        if remote.size - done > free:
            raise OutputError(
                f"{path} needs {(remote.size - done) / 1e9:,.1f} GB more in {blob.parent}, where {free / 1e9:,.1f} GB are free"
            )
        went_on = f", going on after {done / 1e6:,.1f} MB" if done else ""
        progress.note(f"fetching {path} ({remote.size / 1e6:,.1f} MB) of {repo}{went_on}")
        _download(partial, done, remote, path)
        _check(partial, remote.etag, path)
        partial.replace(blob)


def _download(partial: Path, done: int, remote: Any, path: str) -> None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    at_hub = urlsplit(remote.location).netloc == urlsplit(constants.ENDPOINT).netloc
    headers = build_hf_headers(token=None if at_hub else False)  # no token for a store that is not the hub
    with AtMost(partial, remote.size, path) as stream:
        http_get(
            remote.location,
            stream,
            resume_size=done,
            headers=headers,
            expected_size=remote.size,
            displayed_filename=path,
        )


class AtMost(io.BufferedWriter):
    """The end of the file ``path``, that takes no more than ``size`` bytes in all. Raises `HubError` for more, and empties the file."""

    def __init__(self, path: Path, size: int, name: str) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._size, self._name = size, name

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._size:
            self.truncate(0)
            raise HubError(
                f"the hub gives more of {self._name} than the {self._size:,} bytes that it says: nothing is kept of them"
            )
        return super().write(data)


def _check(path: Path, etag: str, name: str) -> None:
    """Raises `HubError`, and removes the file, where its bytes are not those of the hash."""
    if (digest := digest_of(path, etag)) != etag:
        with contextlib.suppress(OSError):
            path.resolve().unlink()
            path.unlink(missing_ok=True)
        raise HubError(
            f"the bytes of {name} aren't those that the hub says (hash {digest[:16]}…, {etag[:16]}… is due): nothing is kept of "
            "them; run the same command again, and if it fails again, ask the owner of the repository"
        )


def _note_revision(name: HubName, repository: Listing) -> None:
    """So that the cache knows, without the hub, which commit the name means."""
    reference = repo_folder(name.repo) / "refs" / (name.revision or "main")
    if repository.is_private is not None and reference.name != repository.commit:
        with contextlib.suppress(OSError):
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(repository.commit)


#: Arguments that name what is written, or asked.
_NOT_READ = frozenset({"out", "repo", "prompt", "command", "system", "pattern"})


def local(arguments: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """``arguments`` with every ``hf:…`` fetched. Raises as `fetch`; `InputError` where one is to be written."""
    return {key: _local(key, value, progress) for key, value in arguments.items()}


def _local(key: str, value: Any, progress: Progress | None) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(v, str | Path) and is_hub_name(v) for v in value):
        return type(value)(_local(key, v, progress) for v in value)
    if not isinstance(value, str | Path) or not is_hub_name(value):
        return value
    if key == "out":
        raise InputError(f"{value} can't be written (--out): write a file here, and `cerebellum publish` it")
    return value if key in _NOT_READ else fetch(str(value), progress)


def takes_hub_names(function: Callable[P, R]) -> Callable[P, R]:
    """A function of paths that takes ``hf:…`` for each that it reads; its ``progress`` tells what is fetched."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        names = list(inspect.signature(function).parameters)
        progress: Any = kwargs.get("progress")
        given = local(dict(zip(names, args, strict=False)), progress).values()
        return function(*given, **local(kwargs, progress))

    return run
