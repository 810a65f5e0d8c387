"""A hub of our own on this machine: the few answers that the hub's client asks for before it loads a data set, from files in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.local_server import Answering, served

COMMIT = "a" * 40
Files = Mapping[str, bytes]


def repository(configs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Files:
    """A data set's files: config → split → rows, as JSON lines, and the card that says which is which."""
    card, files = ["---", "configs:"], dict[str, bytes]()
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = f"{config}/{split}.jsonl"
            card += [f"  - split: {split}", f"    path: {path}"]
            files[path] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return {"README.md": "\n".join([*card, "---", ""]).encode(), **files}


@contextmanager
def hub(repositories: Mapping[str, Files]) -> Iterator[str]:
    """Serve data sets by name; gives the address."""
    with served(Handler, repositories=repositories) as address:
        yield address


class Handler(Answering):
    """Whatever is asked of a data set: its commit, its tree, a file."""

    repositories: Mapping[str, Files] = {}

    def answer(self) -> None:
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = unquote(urlsplit(self.path).path)
        for name, files in self.repositories.items():
            api = f"/api/datasets/{name}"
            if path.startswith(f"/datasets/{name}/resolve/"):
                return self.file(files, path.split("/resolve/")[1].partition("/")[2])
            if path.startswith(f"{api}/tree/"):
                folder = path.split("/tree/")[1].partition("/")[2]
                return self.json([entry(f, files[f]) for f in files if f.startswith(folder)])
            if path.startswith(f"{api}/paths-info/"):
                asked = parse_qs(posted).get("paths", [])
                return self.json([entry(f, files[f]) for f in asked if f in files])
            if path == api or path.startswith(f"{api}/revision/"):
                return self.json(about(name, files))
        return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

    def file(self, files: Files, name: str) -> None:
        if name not in files:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return self.reply(200, files[name], {"ETag": f'"{digest(files[name])}"', "X-Repo-Commit": COMMIT})


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": digest(data)}


def about(name: str, files: Files) -> dict[str, Any]:
    facts = {"id": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False, "tags": []}
    return {**facts, "downloads": 0, "likes": 0, "siblings": [{"rfilename": f} for f in files]}
