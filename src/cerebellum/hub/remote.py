"""What a model on a hub is, from the first bytes of its files: no weights are fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cerebellum.domain import Model
from cerebellum.errors import HubError
from cerebellum.gguf.header import Header, HeaderIncomplete, read_header
from cerebellum.gguf.model_file import model_of, read_model
from cerebellum.gguf.split_set import names_of_set, refuse_missing
from cerebellum.hub.client import PATIENCE, Listing, asking, listing
from cerebellum.hub.fetch import fetch
from cerebellum.hub.names import HubName, choose
from cerebellum.progress import Progress, Silent

#: Bytes of a file that are asked for at first (of the later files of a set fewer: they have no vocabulary), and at most.
_FIRST, _OTHERS, _MOST = 1 << 19, 1 << 16, 1 << 30


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """``n_fetched`` bytes of the model's ``model.file_bytes`` were fetched, in ``n_requests`` answers."""

    model: Model
    n_fetched: int
    n_requests: int

    def summary(self) -> str:
        """In words."""
        n = self.n_requests
        if not n:
            return "read from the cache: nothing was fetched"
        return (
            f"fetched {self.n_fetched:,} of {self.model.file_bytes:,} bytes, in {n} {'request' if n == 1 else 'requests'}: "
            "the header only"
        )


class _Reader:
    """Counts what is fetched of a repository's files."""

    def __init__(self, name: HubName, repository: Listing) -> None:
        self.name, self.repository, self.n_fetched, self.n_requests = name, repository, 0, 0

    def header(self, path: str, wanted: int) -> Header:
        """Of one file, by as many ranges as it takes. Raises `HubError` or `ModelFileError`."""
        size, data = self.repository.files[path].size, b""
        while True:
            data += self._range(path, len(data), min(wanted, size))
            try:
                return read_header(data, size, path)
            except HeaderIncomplete as error:
                wanted = max(2 * len(data), error.n_bytes)
                if wanted > _MOST:
                    raise HubError(f"the header of {path} is larger than {_MOST >> 20} MiB; fetch the model") from error

    def _range(self, path: str, first: int, end: int) -> bytes:
        with asking(self.name.repo):
            from huggingface_hub import hf_hub_url
            from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

            headers = {**build_hf_headers(), "Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity"}
            url = hf_hub_url(self.name.repo, path, revision=self.repository.commit)
            with get_session().stream("GET", url, headers=headers, timeout=PATIENCE) as response:
                hf_raise_for_status(response)
                if response.status_code != 206:
                    raise HubError(f"the hub gives {path} only whole, so it can't be looked into; fetch it")
                data = b""
                for block in response.iter_bytes(1 << 16):
                    data += block
                    if len(data) > end - first:
                        break
            if len(data) != end - first:
                raise HubError(
                    f"the hub gave {len(data)} bytes of {path}, where {end - first} were asked for; try again"
                )
            self.n_fetched += len(data)
            self.n_requests += 1
            return data


def inspect_remote(name: str | HubName, progress: Progress | None = None) -> RemoteModel:
    """What the model called ``hf:…`` says of itself, from the headers of its files. Raises `HubError`, `InputError`, `ModelFileError`."""
    meant = name if isinstance(name, HubName) else HubName.parse(name)
    repository = listing(meant, progress or Silent())
    if repository.is_private is None:
        return RemoteModel(read_model(fetch(meant, progress)), 0, 0)
    first = choose(meant, repository.files)[0]
    reader = _Reader(meant, repository)
    headers = [reader.header(first, _FIRST)]
    folder, slash, file = first.rpartition("/")
    names = [folder + slash + n for n in names_of_set(file, headers[0].metadata, first)]
    refuse_missing(names, repository.files.__contains__, first)
    headers += [reader.header(path, _OTHERS) for path in names[1:]]
    where = [Path(f"hf:{meant.repo}/{path}") for path in names]
    model = model_of(where, headers, [repository.files[path].size for path in names])
    return RemoteModel(model, reader.n_fetched, reader.n_requests)
