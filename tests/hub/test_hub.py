"""Models from a hub and results to one, by the real client against a stand-in on this machine: whole, interrupted, refused, spoiled."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub", reason="needs the hub extra")

from huggingface_hub import constants

from cerebellum import api, bundled
from cerebellum.errors import CerebellumError, HubError, InputError, OutputError
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.split_file import SplitLimit, write_set
from cerebellum.hub.fetch import AtMost
from cerebellum.hub.remote import inspect_remote
from cerebellum.progress import Silent
from cerebellum.testing import FakeBackend, write_fake_model
from tests.cli.command import cerebellum, refused, start
from tests.hub.standin import READER, WRITER, Handler, Hub, Repo, serving, sha256

# The client uploads in a way that its HTTP library is about to leave.
pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")

MODEL = bundled.MODEL.read_bytes()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a model in two quantizations and one in several files; the client's cache is empty, and it waits for nothing."""
    small = write_fake_model(tmp_path / "small.gguf").read_bytes()
    shards = write_set(tmp_path / "small.gguf", tmp_path / "s-BF16.gguf", SplitLimit(max_bytes=40_000))
    files = {f"BF16/{path.name}": path.read_bytes() for path in shards}
    files |= {"m-F16.gguf": MODEL, "m-Q4_K_M.gguf": small, "README.md": b"# A model\n"}
    with serving(Hub({"org/model": Repo(files), "org/one": Repo({"one.gguf": small})})) as served:
        at(monkeypatch, served, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setattr("time.sleep", lambda _seconds: None)
        yield served


def at(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache: Path) -> None:
    """The client, which reads its settings once, is told where the hub is."""
    own = {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_STORED_TOKENS_PATH": str(cache / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in own.items():
        monkeypatch.setattr(constants, name, value)


# -- in ----------------------------------------------------------------------------------------------------------------


def test_a_model_is_fetched_once_and_then_from_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = api.fetch("hf:org/model:F16")
    assert path.read_bytes() == MODEL and path.name == "m-F16.gguf"
    assert api.fetch("hf:org/model:m-F16.gguf") == path and hub.served == len(MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert api.fetch("hf:org/model:F16") == path
    assert inspect_remote("hf:org/model:F16").summary() == "read from the cache: nothing was fetched"
    with pytest.raises(InputError, match=r"no model labelled Q4_K_M; .* has F16|holds"):
        api.fetch("hf:org/model:Q4_K_M")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, and the cache doesn't hold"):
        api.fetch("hf:org/one")


def test_a_set_is_fetched_whole_and_used(hub: Hub, tmp_path: Path) -> None:
    path = api.fetch("hf:org/model:BF16")
    model = read_model(path)
    assert len(model.files) == 3 and model.types == read_model(tmp_path / "small.gguf").types
    made = api.quantize("hf:org/model:BF16", "Q4_K_M", out=tmp_path / "q.gguf", backend=FakeBackend())
    assert made.source.path == path and made.model.types["blk.0.ffn_up.weight"] == "Q4_K"


def test_the_token_goes_to_the_hub_only(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private model needs it; the store that the bytes come from must not see it (the stand-in would fail)."""
    hub.repos["org/one"].private = True
    assert api.fetch("hf:org/one").name == "one.gguf"
    monkeypatch.delenv("HF_TOKEN")
    hub.repos["org/two"] = Repo(dict(hub.repos["org/one"].files), private=True)
    with pytest.raises(HubError, match=r"there is no model org/two at .*, or it is private: .* set HF_TOKEN"):
        api.fetch("hf:org/two")


def test_an_interrupted_fetch_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.budget = 22_000_000
    with pytest.raises(
        HubError, match=r"can't be reached, or ended the connection .* run the same command again"
    ) as error:
        api.fetch("hf:org/model:F16")
    assert "\n" not in str(error.value) and WRITER not in str(error.value)
    kept = hub.served
    assert 21_000_000 < kept <= 22_000_000 and not list(Path(constants.HF_HUB_CACHE).rglob("m-F16.gguf"))
    hub.budget = None
    assert api.fetch("hf:org/model:F16").read_bytes() == MODEL
    assert hub.served < len(MODEL) + 2_000_000  # the client keeps blocks of 10 MiB
    assert int(hub.requests("GET", "/store/")[-1][2].removeprefix("bytes=").rstrip("-")) == 20 << 20


def test_a_killed_fetch_goes_on_where_it_stopped(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own, killed in the middle; the next one asks for the rest."""
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "own"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        "tests.cli.command.ENVIRONMENT", {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )
    hub.budget = 26_000_000
    process = start(tmp_path, "split", "hf:org/model:F16", "--split-max-size", "5M", "-o", "w.gguf")
    deadline = time.monotonic() + 60
    event = threading.Event()
    while (
        sum(p.stat().st_size for p in (tmp_path / "own").rglob("*-partial")) < 20 << 20 and time.monotonic() < deadline
    ):
        event.wait(0.01)
    process.kill()
    process.communicate()
    served, hub.budget = hub.served, None
    assert served > 20 << 20
    done = start(tmp_path, "split", "hf:org/model:F16", "--split-max-size", "5M", "-o", "w.gguf")
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0 and "w-00006-of-00006.gguf" in out, err
    assert "going on after" in err and hub.served - served == len(MODEL) - (20 << 20)


def test_other_bytes_than_the_hub_says_are_not_kept(hub: Hub) -> None:
    hub.spoiled = True
    with pytest.raises(HubError, match=r"the bytes of m-F16.gguf aren't those that the hub says .* nothing is kept"):
        api.fetch("hf:org/model:F16")
    assert not [p for p in Path(constants.HF_HUB_CACHE).rglob("*") if p.is_file() and p.stat().st_size > 100]
    hub.spoiled = False
    assert api.fetch("hf:org/model:F16").read_bytes() == MODEL


def test_no_word_of_a_hub_leads_out_of_the_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose names climb aren't there; a commit or a hash that is none, and a revision that climbs, are refused."""
    outside = tmp_path / "cache" / "x.gguf"
    climbing = {"../../../../x.gguf": MODEL, "/x.gguf": MODEL, "a/../../x.gguf": MODEL, "..\\x.gguf": MODEL}
    hub.repos["org/evil"] = Repo({**climbing, "tame.gguf": hub.repos["org/one"].files["one.gguf"]})
    assert api.fetch("hf:org/evil").name == "tame.gguf"
    for name in climbing:
        with pytest.raises(CerebellumError):
            api.fetch(f"hf:org/evil:{name}")
    with pytest.raises(InputError, match="no revision after the @"):
        api.fetch("hf:org/one@../../../x:one.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(Repo, "commit", "../../../x")
        with pytest.raises(HubError, match="doesn't say which commit"):
            api.fetch("hf:org/one")
    monkeypatch.setattr("tests.hub.standin.sha256", lambda data: "../../../../x.gguf")
    with pytest.raises(HubError, match="doesn't say size and hash of m-F16"):
        api.fetch("hf:org/model:F16")
    assert not outside.exists() and not list(tmp_path.rglob("x.gguf*"))


def test_more_bytes_than_a_hub_says_are_not_written(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that doesn't end would fill the disk; what is written by then is not kept."""
    with AtMost(tmp_path / "f", 10, "m.gguf") as stream:
        stream.write(b"x" * 10)
        with pytest.raises(HubError, match=r"more of m\.gguf than the 10 bytes that it says"):
            stream.write(b"x")
    assert (tmp_path / "f").stat().st_size == 0
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.longer = 40_000_000
    with pytest.raises(HubError, match="nothing is kept of them"):
        api.fetch("hf:org/model:F16")
    assert hub.served < len(MODEL) + 30_000_000
    with pytest.raises(HubError, match="were asked for"):
        inspect_remote("hf:org/model:F16")
    hub.longer = 0
    assert api.fetch("hf:org/model:F16").read_bytes() == MODEL


def test_only_the_header_is_fetched_to_look_into_a_model(hub: Hub, tmp_path: Path) -> None:
    found = inspect_remote("hf:org/model:F16")
    whole = read_model(bundled.MODEL)
    assert found.model.tensors == whole.tensors and found.model.file_bytes == len(MODEL)
    assert found.n_fetched == hub.served < 600_000 and found.n_requests == len(hub.requests("GET", "/store/")) == 1
    split = inspect_remote("hf:org/model:BF16")
    assert split.model.types == read_model(tmp_path / "small.gguf").types and len(split.model.files) == 3
    assert api.inspect("hf:org/one").architecture == "llama"
    assert not Path(constants.HF_HUB_CACHE).exists()
    done = cerebellum(tmp_path, "inspect", "hf:org/model:F16", "--json")
    assert json.loads(done.stdout)["fetched_bytes"] == found.n_fetched
    assert (
        f"fetched {found.n_fetched:,} of 27,394,496 bytes" in cerebellum(tmp_path, "inspect", "hf:org/model:F16").stdout
    )


@pytest.mark.parametrize("first", [1, 40, 1000, 4000])
def test_a_header_longer_than_the_first_answer_takes_more(
    hub: Hub, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cerebellum.hub.remote._FIRST", first)
    found = inspect_remote("hf:org/model:F16")
    assert found.model.tensors == read_model(bundled.MODEL).tensors and found.n_requests > 1


def gated(hub: Hub) -> None:
    hub.repos["org/model"].gated = True


def down(hub: Hub) -> None:
    hub.down = True


def whole(hub: Hub) -> None:
    hub.whole = True


REFUSALS: dict[str, tuple[Callable[[Hub], None], str, int, str]] = {
    "no such repository": (lambda _: None, "hf:org/nothing", 9, "there is no model org/nothing at http"),
    "no such revision's file": (lambda _: None, "hf:org/model:x.gguf", 2, "has no file x.gguf"),
    "no such label": (lambda _: None, "hf:org/model:Q4_K_S", 2, "did you mean org/model:Q4_K_M?"),
    "no label": (lambda _: None, "hf:org/model", 2, "holds 3 models; name one: BF16, F16, Q4_K_M"),
    "gated": (gated, "hf:org/model:F16", 9, "org/model is gated: accept its conditions at http"),
    "down": (down, "hf:org/model:F16", 9, "answers 503"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_can_t_be_had_is_one_message(name: str, hub: Hub, tmp_path: Path) -> None:
    spoil, asked, code, words = REFUSALS[name]
    spoil(hub)
    for arguments in (("inspect", asked), ("quantize", asked, "Q4_K_M", "-o", "x.gguf")):
        done = cerebellum(tmp_path, *arguments)
        refused(done, code, words)
        assert WRITER not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x.gguf").exists()


def test_a_wrong_token_is_told_and_never_shown(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_wrong_token")
    done = cerebellum(tmp_path, "inspect", "hf:org/model:F16")
    refused(done, 9, "doesn't accept the token (401): set HF_TOKEN")
    assert "hf_a_wrong_token" not in done.stderr


def test_a_hub_that_is_gone_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.whole = True
    refused(cerebellum(tmp_path, "inspect", "hf:org/model:F16"), 9, "gives m-F16.gguf only whole")
    hub.address = "http://127.0.0.1:9"
    at(monkeypatch, hub, tmp_path / "cache")
    refused(cerebellum(tmp_path, "inspect", "hf:org/model:F16"), 9, "http://127.0.0.1:9 can't be reached")


def test_a_name_of_a_hub_is_no_place_to_write(hub: Hub, tmp_path: Path) -> None:
    done = cerebellum(tmp_path, "quantize", str(bundled.MODEL), "Q4_K_M", "-o", "hf:org/model:Q2_K")
    refused(done, 2, "can't be written (--out)", "cerebellum publish")


# -- out ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder as a run leaves it, the model in several files."""
    folder = tmp_path / "results"
    (folder / "Q4_K_M").mkdir(parents=True)
    write_set(tmp_path / "small.gguf", folder / "small-cerebellum.gguf", SplitLimit(max_bytes=40_000))
    write_fake_model(folder / "other-Q8_0.gguf", 6)
    write_fake_model(folder / "base-Q3_K_M.gguf")
    for name in (
        "small-cerebellum.overrides.txt",
        "report.json",
        "report.md",
        "Q4_K_M/report.json",
        "study.sqlite",
        ".x.gguf",
    ):
        (folder / name).write_text(f"{name}\n")
    (folder / "small-cerebellum.card.md").write_text("---\nlicense: mit\n---\n# Card\n")
    return folder


NAMES = {
    *(f"small-cerebellum-0000{i}-of-00003.gguf" for i in (1, 2, 3)), "other-Q8_0.gguf", "small-cerebellum.overrides.txt",
    "report.json", "report.md", "Q4_K_M/report.json", "README.md",
}  # fmt: skip


def test_a_dry_run_shows_all_and_sends_nothing(hub: Hub, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cerebellum(results.parent, "publish", results, "--repo", "me/new", "--dry-run")
    assert (
        done.returncode == 0
        and "would be sent: 9 of 9 files" in done.stdout
        and "public repository, new" in done.stdout
    )
    first = sha256((results / "other-Q8_0.gguf").read_bytes())[:16]
    assert any(first in line and "new" in line and "other-Q8_0.gguf" in line for line in done.stdout.splitlines())
    assert {one[0] for one in hub.asked} == {"GET"} and "me/new" not in hub.repos
    hub.address = "http://127.0.0.1:9"
    at(monkeypatch, hub, results.parent / "cache")
    assert len(api.publish(results, "me/new", dry_run=True).uploads) == 9


def test_results_are_published_in_one_commit(hub: Hub, results: Path) -> None:
    """And come back as they were; a second time there is nothing to do."""
    sent = api.publish(results, "me/new", private=True)
    repo = hub.repos["me/new"]
    assert set(repo.files) == {*NAMES, ".gitattributes"} and repo.private and sent.commit == repo.commit
    assert repo.files["README.md"].startswith(b"---\nlicense: mit")
    assert all(
        repo.files[u.path] == u.file.read_bytes() and sha256(repo.files[u.path]) == u.sha256 for u in sent.uploads
    )
    assert len(hub.requests("POST", "/commit/")) == 1
    path = api.fetch("hf:me/new:small-cerebellum-00001-of-00003.gguf")
    assert read_model(path).types == read_model(results / path.name).types
    again = cerebellum(results.parent, "publish", results, "--repo", "me/new")
    assert "nothing to do: all is there: 0 of 9 files" in again.stdout and len(hub.requests("POST", "/commit/")) == 1


def test_an_interrupted_publication_goes_on(hub: Hub, results: Path) -> None:
    """Nothing shows before all is there; what was stored is not sent again."""
    hub.puts = 2
    with pytest.raises(HubError, match="can't be reached, or ended the connection"):
        api.publish(results, "me/new")
    stored = set(hub.objects)
    assert len(stored) == 2 and set(hub.repos["me/new"].files) == {".gitattributes"}
    before, hub.puts = len(hub.requests("PUT", "/store/")), None
    api.publish(results, "me/new")
    assert set(hub.repos["me/new"].files) == {*NAMES, ".gitattributes"}
    new = [one[1].rpartition("/")[2] for one in hub.requests("PUT", "/store/")[before:]]
    assert len(new) == len(set(new)) and not set(new) & stored


def test_bytes_that_were_damaged_on_the_way_are_told(hub: Hub, results: Path) -> None:
    """A hub that checks refuses them, and nothing is published; the same command then does it."""
    hub.damaged = True
    done = cerebellum(results.parent, "publish", results, "--repo", "me/new")
    refused(done, HubError.exit_code, "bytes were damaged on the way; run the same command again")
    assert set(hub.repos["me/new"].files) == {".gitattributes"} and not hub.objects
    hub.damaged = False
    assert api.publish(results, "me/new").commit


def test_a_hub_that_kept_other_bytes_is_told(hub: Hub, results: Path) -> None:
    """The hashes that it tells afterwards are compared with those of the files."""
    hub.careless = True
    with pytest.raises(HubError, match=r"me/new doesn't have the bytes of other-Q8_0.gguf and 3 more that were sent"):
        api.publish(results, "me/new")


def test_a_file_that_changes_while_it_is_sent_is_not_published(hub: Hub, results: Path) -> None:
    class Meanwhile(Silent):
        def note(self, text: str) -> None:
            if text.startswith("uploading report.md"):
                (results / "report.md").write_text("other words\n")

    with pytest.raises(InputError, match=r"report.md changed while it was used"):
        api.publish(results, "me/new", progress=Meanwhile())
    assert set(hub.repos["me/new"].files) == {".gitattributes"}


def test_another_file_of_a_name_is_not_overwritten(hub: Hub, results: Path) -> None:
    theirs = {"README.md": b"# Mine\n", "other-Q8_0.gguf": MODEL[:20_000]}
    hub.repos["me/new"] = Repo(dict(theirs))
    done = cerebellum(results.parent, "publish", results, "--repo", "me/new")
    refused(done, 3, "me/new holds another other-Q8_0.gguf and 1 more: --force replaces them")
    assert hub.repos["me/new"].files == theirs and not hub.requests("PUT", "/store/")
    shown = cerebellum(results.parent, "publish", results, "--repo", "me/new", "--dry-run").stdout
    assert sum("replaces" in line for line in shown.splitlines()) == 2
    api.publish(results, "me/new", force=True)
    assert hub.repos["me/new"].files["README.md"] != theirs["README.md"]


def test_what_may_not_be_published_is_told_before_anything_is_sent(
    hub: Hub, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["me/public"] = Repo()
    with pytest.raises(OutputError, match="me/public exists and is public, which --private doesn't change"):
        api.publish(results, "me/public", private=True)
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(HubError, match=r"the token may not write me/public \(403\)"):
        api.publish(results, "me/public")
    with pytest.raises(HubError, match=r"the token may not write me/new \(403\)"):
        api.publish(results, "me/new")
    monkeypatch.setenv("HF_TOKEN", "hf_a_wrong_token")
    with pytest.raises(HubError, match=r"doesn't accept the token \(401\)"):
        api.publish(results, "me/new")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="publishing needs a token"):
        api.publish(results, "me/new")
    assert not hub.requests("PUT", "/store/") and not hub.requests("POST", "/commit/")


def test_a_change_by_somebody_else_is_not_undone(hub: Hub, results: Path) -> None:
    repo = hub.repos["me/new"] = Repo()

    class Meanwhile(Silent):
        def note(self, text: str) -> None:
            if text.startswith("uploading README.md"):
                repo.version += 1

    with pytest.raises(HubError, match=r"was changed by somebody else meanwhile \(412\)"):
        api.publish(results, "me/new", progress=Meanwhile())


def test_folders_that_can_t_be_published(hub: Hub, results: Path, tmp_path: Path) -> None:
    def fails(message: str, folder: Path = results) -> None:
        with pytest.raises(CerebellumError, match=message):
            api.publish(folder, "me/new")

    fails("is no folder", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    fails("holds no GGUF to publish", tmp_path / "empty")
    with pytest.raises(InputError, match="write user/name"):
        api.publish(results, "new")
    (results / "two.card.md").write_text("# Two\n")
    fails("holds 2 cards .* name the one for README.md with --card")
    (results / "two.card.md").unlink()
    (tmp_path / "secret").write_text("-----BEGIN PRIVATE KEY-----")
    for name in ("LICENSE", "README.md", "report.md"):
        aside = results / "aside"
        if (results / name).exists():
            (results / name).rename(aside)
        (results / name).symlink_to(tmp_path / "secret")
        fails(f"{name} is a link to a file outside of")
        (results / name).unlink()
        if aside.exists():
            aside.rename(results / name)
    shard = results / "small-cerebellum-00002-of-00003.gguf"
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-40])
    fails("00002-of-00003.gguf is truncated")
    shard.write_bytes(kept)
    (results / "small-cerebellum-00001-of-00003.gguf").unlink()
    fails("is one of 3 files of a model, and its first is not in")
    assert not hub.asked


def test_a_hub_that_answers_otherwise_when_asked_again_leads_nowhere(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of a second answer is a way out of the cache: nobody asks a second time for what was checked."""
    real, asked = Handler.file, list[str]()

    def file(self: Handler, repo: Any, name: str) -> Any:
        asked.append(name)
        if len(asked) > 1:  # size and hash were told the first time; the bytes are at the store
            return self.reply(200, b"evil", {"X-Repo-Commit": repo.commit, "ETag": '"../../../../escaped"'})
        return real(self, repo, name)

    monkeypatch.setattr(Handler, "file", file)
    path = api.fetch("hf:org/model:F16")
    assert path.read_bytes() != b"evil" and not list(tmp_path.rglob("escaped*"))


def test_where_links_can_not_be_made_the_file_is_copied_whole(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name first: what lies under its own name is taken for whole."""

    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    path = api.fetch("hf:org/model:F16")
    assert not path.is_symlink() and path.read_bytes()[:4] == b"GGUF" and not list(path.parent.glob("*partial*"))
