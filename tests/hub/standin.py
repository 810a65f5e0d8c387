"""A hub of models on this machine: what `huggingface_hub` asks to read, fetch, look into and publish, with the faults that hubs have."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.local_server import Answering, served

WRITER, READER = "hf_the_writers_token", "hf_the_readers_token"
#: Files from this size on are stored as large ones.
LARGE = 10_000


@dataclass
class Repo:
    """``files``: path → bytes. ``version`` counts commits."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    version: int = 1

    @property
    def commit(self) -> str:
        return f"{self.version:040x}"


@dataclass
class Hub:
    """``objects``: what was uploaded, by sha256. ``asked``: (method, path, Range) of every request. ``served``: bytes of large files given.

    Faults: ``budget`` bytes of large files are given, then every connection ends; ``puts`` uploads are taken, then every connection ends;
    ``spoiled``: large files have a wrong byte; ``damaged``: what is uploaded arrives with one; ``careless``: it is kept with one;
    ``down``: 503 for everything; ``whole``: ranges are ignored; ``longer``: bytes that follow those of a large file, in one answer
    without a length.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    served: int = 0
    budget: int | None = None
    puts: int | None = None
    spoiled: bool = False
    damaged: bool = False
    careless: bool = False
    down: bool = False
    whole: bool = False
    longer: int = 0
    address: str = ""

    def requests(self, method: str, part: str) -> list[tuple[str, str, str]]:
        return [one for one in self.asked if one[0] == method and part in one[1]]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """``hub`` at ``hub.address``."""
    with served(Handler, hub=hub) as hub.address:
        yield hub


class Handler(Answering):
    hub: Hub

    def answer(self) -> None:  # noqa: PLR0911 it is a table
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if self.command == "PUT" and self.hub.puts is not None:
            if self.hub.puts <= 0:
                return self.hang_up()
            self.hub.puts -= 1
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.hub.down:
            return self.error(503, "")
        if path.startswith("/store/"):
            assert not token, "the token went to the store"
            return self.store(path.rpartition("/")[2])
        if token and token not in (WRITER, READER):
            return self.error(401, "", "Invalid credentials in Authorization header")
        for prefix, answer in (("/api/repos/create", self.create), ("/api/validate-yaml", self.validate)):
            if path == prefix:
                return answer(token)
        for name, repo in self.hub.repos.items():
            if path.startswith((f"/api/models/{name}/", f"/{name}/", f"/{name}.git/")) or path == f"/api/models/{name}":
                if repo.private and not token:
                    break
                return self.of_repo(name, repo, path, token)
        return self.error(404 if token else 401, "RepoNotFound")

    def of_repo(self, name: str, repo: Repo, path: str, token: str) -> None:  # noqa: PLR0911 it is a table
        if path == f"/api/models/{name}" or path.startswith(f"/api/models/{name}/revision/"):
            return self.json(about(name, repo))
        if path.startswith(f"/{name}/resolve/"):
            if repo.gated:
                return self.error(403 if token else 401, "GatedRepo")
            return self.file(repo, path.split("/resolve/")[1].partition("/")[2])
        if token != WRITER:
            return self.error(403 if token else 401, "", "you have no right to write here")
        if path.startswith(f"/api/models/{name}/preupload/"):
            return self.json({"files": [self.mode(f) for f in json.loads(self.body)["files"]]})
        if path.endswith("/info/lfs/objects/batch"):
            return self.json({"objects": [self.wanted(o) for o in json.loads(self.body)["objects"]]})
        if path.startswith(f"/api/models/{name}/commit/"):
            return self.commit(name, repo)
        return self.error(404, "EntryNotFound")

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= LARGE else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def wanted(self, item: dict[str, Any]) -> dict[str, Any]:
        """No action for what is stored already."""
        if item["oid"] in self.hub.objects:
            return item
        return {**item, "actions": {"upload": {"href": f"{self.hub.address}/store/{item['oid']}"}}}

    def commit(self, name: str, repo: Repo) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        if lines[0]["value"].get("parentCommit", repo.commit) != repo.commit:
            return self.error(412, "")
        for line in lines[1:]:
            value = line["value"]
            data = self.hub.objects[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
            repo.files[value["path"]] = data
        repo.version += 1
        self.json({"commitUrl": f"{self.hub.address}/{name}/commit/{repo.commit}", "commitOid": repo.commit})

    def create(self, token: str) -> None:
        if token != WRITER:
            return self.error(403 if token else 401, "", "you have no right to create it")
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repos[name] = Repo({".gitattributes": b"*.gguf filter=lfs\n"}, private)
        self.json({"url": f"{self.hub.address}/{name}"})

    def validate(self, _token: str) -> None:
        self.json({"errors": [], "warnings": []})

    def file(self, repo: Repo, name: str) -> None:
        if name not in repo.files:
            return self.error(404, "EntryNotFound")
        data, facts = repo.files[name], {"X-Repo-Commit": repo.commit}
        if len(data) < LARGE:
            return self.reply(200, data, {**facts, "ETag": f'"{git_digest(data)}"'})
        linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        # Another name of this machine: the store is not the hub, and must not see the token.
        store = self.hub.address.replace("127.0.0.1", "localhost")
        self.reply(302, b"", {**facts, **linked, "Location": f"{store}/store/{sha256(data)}"})

    def store(self, oid: str) -> None:
        if self.command == "PUT":
            if sha256(wrong(self.body) if self.hub.damaged else self.body) != oid:
                return self.error(400, "")
            self.hub.objects[oid] = wrong(self.body) if self.hub.careless else self.body
            return self.reply(200, b"", {})
        data = self.hub.objects.get(oid) or next(
            d for r in self.hub.repos.values() for d in r.files.values() if sha256(d) == oid
        )
        if self.hub.spoiled:
            data = wrong(data)
        self.ranged(data)

    def ranged(self, data: bytes) -> None:
        asked = self.headers.get("Range")
        first, end = 0, len(data)
        if asked and not self.hub.whole:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, end = int(low), min(int(high) + 1 if high else len(data), len(data))
        code, facts = (
            (206, {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}"}) if first or end < len(data) else (200, {})
        )
        if asked and not self.hub.whole:
            code, facts = 206, {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}"}
        if self.hub.longer:
            data, end = data[:end] + bytes(self.hub.longer), end + self.hub.longer
            self.close_connection = True
        self.start(code, None if self.hub.longer else end - first, facts)
        for at in range(first, end, 1 << 14):
            block = data[at : min(at + (1 << 14), end)]
            if self.hub.budget is not None:
                if self.hub.budget < len(block):
                    return self.hang_up()
                self.hub.budget -= len(block)
            self.wfile.write(block)
            self.hub.served += len(block)

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def error(self, status: int, code: str, message: str = "") -> None:
        facts = {name: text for name, text in (("X-Error-Code", code), ("X-Error-Message", message)) if text}
        self.reply(status, b"", facts)


def wrong(data: bytes) -> bytes:
    """The same with another last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


def about(name: str, repo: Repo) -> dict[str, Any]:
    siblings = []
    for path, data in repo.files.items():
        one: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_digest(data)}
        if len(data) >= LARGE:
            one["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
        siblings.append(one)
    facts = {
        "id": name,
        "sha": repo.commit,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
    }
    return {**facts, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
