"""A folder of results put on a hub: what is there is not uploaded again, and nothing is overwritten unasked.

All files come in one commit, so a repository is never half published. Large files are stored one by one before it. A second try finds those
that were stored by their hash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import HubError, InputError, OutputError
from cerebellum.files import FileState, check_unchanged
from cerebellum.gguf import model_file
from cerebellum.gguf.split_set import SplitName
from cerebellum.hub.client import LOG_IN, Listing, RemoteFile, asking, bars, digest_of, is_answer, listing
from cerebellum.hub.names import HubName
from cerebellum.progress import Progress, Silent
from cerebellum.quoting import printable

CARD = "README.md"
#: What is published beside the models, in the folder and in the folders of a ladder.
PAGES = ("report.html", "report.md", "report.json", "sensitivity.json", "*.svg", "*.png")
BESIDE = ("*.overrides.txt", "*.recipe.toml", "Modelfile", "LICENSE*")
#: The largest file that a hub takes from everybody, bytes.
LARGEST = 50_000_000_000
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Upload:
    """A local file and its path in the repository. ``state``: "new", "same" (it is there), "replaces" (another one is there)."""

    file: Path
    path: str
    size: int
    sha256: str
    state: str


@dataclass(frozen=True, slots=True)
class Published:
    """What is, or with a dry run would be, on the hub. ``commit`` "": nothing was sent. ``asked``: the hub said what is there."""

    repo: str
    url: str
    uploads: tuple[Upload, ...]
    is_new: bool
    is_private: bool
    commit: str = ""
    asked: bool = True

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        files = [{"path": u.path, "bytes": u.size, "sha256": u.sha256, "state": u.state} for u in self.uploads]
        facts = {"repo": self.repo, "url": self.url, "new": self.is_new, "private": self.is_private}
        return {**facts, "commit": self.commit or None, "asked": self.asked, "files": files}

    def lines(self) -> list[str]:
        """What is uploaded, a line a file, and where it is."""
        lines = [f"{u.size:>15,}  {u.sha256[:16]}  {u.state:<8}  {u.path}" for u in self.uploads]
        sent = [u for u in self.uploads if u.state != "same"]
        total = f"{len(sent)} of {len(self.uploads)} files, {sum(u.size for u in sent) / 1e6:,.1f} MB"
        kind = f"{'private' if self.is_private else 'public'} repository{', new' if self.is_new else ''}"
        what = (
            "published"
            if self.commit
            else "nothing to do: all is there"
            if not sent and self.asked
            else "would be sent"
        )
        lines.append(f"{what}: {total}, to {self.url} ({kind})")
        return [printable(line) for line in lines]


def publish(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    force: bool = False,
    card: Path | None = None,
    progress: Progress | None = None,
) -> Published:
    """Put the results in ``folder`` into the repository ``repo``; made where there is none, ``private`` or not.

    ``dry_run``: only say what would be sent. ``force``: replace files of the same names and other content. Raises `InputError` (nothing
    to publish), `OutputError` (something would be overwritten) or `HubError`.
    """
    progress = progress or Silent()
    if not _REPO.fullmatch(repo):
        raise InputError(f"{repo!r} is no repository (--repo); write user/name")
    files = files_of(folder, card)
    there, asked = _there(repo, dry_run, progress)
    _check_visibility(repo, there, private)
    states = [FileState.of(path) for path, _ in files]
    uploads = _compared(files, there, progress)
    with asking(repo):
        from huggingface_hub import constants
    is_private = there.is_private or False if there else private
    plan = Published(repo, f"{constants.ENDPOINT}/{repo}", uploads, there is None, is_private, asked=asked)
    if dry_run:
        return plan
    _refuse_replacing(uploads, repo, force)
    check_unchanged(states)
    return _sent(plan, there, states, progress)


def files_of(folder: Path, card: Path | None = None) -> list[tuple[Path, str]]:
    """(file, path in the repository) of all that is published of a folder. Raises `InputError` or `ModelFileError`."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the folder of a run, or any folder with a GGUF")
    models = _models(folder)
    if not models:
        raise InputError(f"{folder} holds no GGUF to publish (base-*.gguf is what a recipe starts from, not a result)")
    files = [*models, *_matching(folder, BESIDE + PAGES)]
    inner_folders = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    for inner in sorted(path for path in inner_folders if (path / "report.json").is_file()):
        files += _matching(inner, PAGES)
    if (readme := _card(folder, card)) is not None:
        files.append(readme)
    names = [(path, CARD if path == readme else path.relative_to(folder).as_posix()) for path in dict.fromkeys(files)]
    return sorted(names, key=lambda pair: (not pair[1].lower().endswith(".gguf"), pair[1]))


def _models(folder: Path) -> list[Path]:
    """The GGUFs that are results, checked to be whole."""
    paths = [p for p in folder.glob("*.gguf") if not re.match(r"\.|base-", p.name) and ".kept-" not in p.name]
    files: list[Path] = []
    for path in sorted(paths):
        split = SplitName.parse(path.name)
        if split is not None and split.number > 1:
            if path.with_name(str(SplitName(split.stem, 1, split.count))) not in paths:
                raise InputError(
                    f"{path.name} is one of {split.count} files of a model, and its first is not in {folder}"
                )
            continue
        if "imatrix" in path.name:
            model_file.load_imatrix(path)
            files.append(path)
        else:
            files += model_file.read_model(path).files
    return files


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files of these names. Raises `InputError` for a link that leads out of the folder: who made it could have anything published."""
    files = [
        p for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file() and not p.name.startswith(".")
    ]
    for path in files:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{path} is a link to a file outside of {folder}: put the file itself there, or remove the link"
            )
    return files


def _card(folder: Path, card: Path | None) -> Path | None:
    """The one card: the file named, ``README.md``, or the only ``*.card.md``. Raises `InputError`."""
    if card is not None:
        if not card.is_file():
            raise InputError(f"there is no card {card} (--card)")
        return card
    if named := _matching(folder, (CARD,)):
        return named[0]
    cards = _matching(folder, ("*.card.md",))
    if len(cards) > 1:
        raise InputError(f"{folder} holds {len(cards)} cards ({cards[0].name}, …): name the one for {CARD} with --card")
    return cards[0] if cards else None


def _there(repo: str, dry_run: bool, progress: Progress) -> tuple[Listing | None, bool]:
    """What is in the repository now (None: it isn't there), and whether the hub said so. A dry run does without the hub."""
    try:
        with asking(repo):
            from huggingface_hub import get_token
            from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

            token = get_token()
        if token is None and not dry_run:
            raise HubError(f"publishing needs a token with the right to write: {LOG_IN}")
        with asking(repo):
            listed = listing(HubName(repo), Silent())
        return (listed, True) if listed.is_private is not None else _unasked(dry_run, repo, progress)
    except HubError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError) and not isinstance(error.__cause__, GatedRepoError):
            return None, True
        if dry_run and not is_answer(error.__cause__):
            return _unasked(dry_run, repo, progress)
        raise


def _unasked(dry_run: bool, repo: str, progress: Progress) -> tuple[None, bool]:
    if not dry_run:
        raise HubError(f"the hub can't be reached, so nothing can be published to {repo}: run the same command again")
    progress.note(f"the hub can't be reached: what is in {repo} isn't known")
    return None, False


def _check_visibility(repo: str, there: Listing | None, private: bool) -> None:
    if there is not None and private and not there.is_private:
        raise OutputError(
            f"{repo} exists and is public, which --private doesn't change: change it on the hub, or leave --private out"
        )


def _compared(files: Sequence[tuple[Path, str]], there: Listing | None, progress: Progress) -> tuple[Upload, ...]:
    """Each file with its hash, and what it is to the one of its name that is there."""
    uploads = []
    progress.begin("hashing", len(files))
    for path, name in files:
        sha256 = digest_of(path, "")
        uploads.append(Upload(path, name, path.stat().st_size, sha256, _state(path, sha256, there, name)))
        progress.step(name)
    progress.end()
    return tuple(uploads)


def _state(path: Path, sha256: str, there: Listing | None, name: str) -> str:
    known: RemoteFile | None = there.files.get(name) if there else None
    if known is None:
        return "new"
    digest = digest_of(path, known.digest) if len(known.digest) == 40 else sha256
    return "same" if digest == known.digest else "replaces"


def _refuse_replacing(uploads: Sequence[Upload], repo: str, force: bool) -> None:
    """Raises `OutputError` where a file of the same name and other content is there, and not ``force``."""
    others = [u.path for u in uploads if u.state == "replaces"]
    if others and not force:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise OutputError(
            f"{repo} holds another {others[0]}{more}: --force replaces {'them' if more else 'it'}, or publish to another --repo"
        )


def _sent(plan: Published, there: Listing | None, states: Sequence[FileState], progress: Progress) -> Published:
    """Everything uploaded and committed."""
    sent = [u for u in plan.uploads if u.state != "same"]
    if not sent:
        return plan
    for upload in sent:
        if upload.size > LARGEST:
            progress.note(f"warning: {upload.path} is larger than 50 GB, which a hub may refuse: --split-max-size 48G")
    with asking(plan.repo, "write"), bars(progress):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        if there is None:
            progress.note(f"making {plan.repo} ({'private' if plan.is_private else 'public'})")
            api.create_repo(plan.repo, private=plan.is_private, exist_ok=False)
        operations = []
        for number, upload in enumerate(sent, 1):
            progress.note(f"uploading {upload.path} ({upload.size / 1e6:,.1f} MB; {number} of {len(sent)})")
            operations.append(CommitOperationAdd(upload.path, upload.file))
            api.preupload_lfs_files(plan.repo, [operations[-1]], free_memory=False)
        check_unchanged(states)
        parent = there.commit if there is not None else None
        commit = api.create_commit(
            plan.repo, operations, commit_message="Published by cerebellum", parent_commit=parent
        )
    _check_stored(plan.repo, sent, listing(HubName(plan.repo, str(commit.oid)), progress))
    return Published(plan.repo, plan.url, plan.uploads, plan.is_new, plan.is_private, str(commit.oid))


def _check_stored(repo: str, sent: Sequence[Upload], there: Listing) -> None:
    """The hub says of each file the hash that was sent. Raises `HubError` where it has other bytes, which nobody should fetch."""
    wrong = [u.path for u in sent if _state(u.file, u.sha256, there, u.path) != "same"]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise HubError(
            f"{repo} doesn't have the bytes of {wrong[0]}{more} that were sent, by the hash that the hub tells: delete what is there, and "
            "publish again"
        )
