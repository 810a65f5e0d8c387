"""Bad input: one clear message that says what, which and what to do; a non-zero exit; nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.command import cerebellum, cerebellum_process, refused
from tests.llamacpp import tiny
from tests.templates import CHATML

pytestmark = pytest.mark.engine

SMALL = ("--ctx", "64", "-t", "1", "--quiet")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    model = tiny.llama(folder / "model.gguf")
    data = model.read_bytes()
    (folder / "half.gguf").write_bytes(data[: len(data) // 2])
    (folder / "notes.gguf").write_text("not a model at all, but long enough to be looked at")
    (folder / "empty.gguf").write_bytes(b"")
    (folder / "strange.gguf").write_bytes(data.replace(b"llama", b"lamma"))
    (folder / "text.txt").write_text(tiny.text(1200))
    (folder / "empty.txt").write_text("\n")
    (folder / "short.txt").write_text("once upon a time")
    (folder / "latin.txt").write_bytes("à la carte".encode("latin-1") * 400)
    (folder / "chat.jsonl").write_text('{"messages": [{"role": "assistant", "content": "hello"}]}\n' * 4)
    (folder / "broken.jsonl").write_text('[{"role": "assistant", "content": "hello"}]\n{"messages": [}\n')
    (folder / "comment.txt").write_text("# mine\nblk.0.ffn_gate.weight=Q2_K\n")
    (folder / "nothing.txt").write_text("blk.99.ffn_gate.weight=Q2_K\n")
    return folder


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("notes.gguf", ("notes.gguf", "GGUF")),
        ("half.gguf", ("half.gguf", "truncated")),
        ("empty.gguf", ("empty.gguf",)),
        ("absent.gguf", ("absent.gguf",)),
        ("strange.gguf", ("strange.gguf",)),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("run", "--text", "text.txt", "--out", "out"),
        ("inspect",),
        ("quantize", "Q3_K_M", "--out", "out.gguf"),
        ("perplexity", "--text", "text.txt"),
    ],
)
def test_a_file_that_is_no_whole_model(
    ground: Path, command: tuple[str, ...], model: str, words: tuple[str, ...]
) -> None:
    verb, *rest = command
    options = SMALL if verb in ("run", "perplexity") else ()
    if verb == "inspect" and model == "strange.gguf":
        pytest.skip("an unknown architecture can still be looked at")
    refused(cerebellum(ground, verb, model, *rest, *options), 2, *words)
    assert not (ground / "out.gguf").exists()
    assert not (ground / "out" / "report.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "half.gguf"),
        ("quantize", "strange.gguf", "Q3_K_M", "--out", "out.gguf"),
        ("perplexity", "model.gguf", "--text", "latin.txt", *SMALL),
        ("run", "model.gguf", "--out", "typo", "--base", "Q3_KM"),
    ],
)
def test_a_process_of_its_own_says_the_same(ground: Path, arguments: tuple[str, ...]) -> None:
    """Exit code and both streams: what the tests here see in their own process is what a user sees."""
    ours, theirs = cerebellum(ground, *arguments), cerebellum_process(ground, *arguments)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    refused(theirs, 2)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--text", "empty.txt"), 2, ("empty.txt", "empty")),
        (("--text", "short.txt"), 2, ("short.txt", "tokens", "--ctx")),
        (("--text", "latin.txt"), 2, ("latin.txt", "UTF-8")),
        (("--text", "absent.txt"), 2, ("absent.txt",)),
        (("--text", "text.txt", "--report-text", "text.txt"), 2, ("same text",)),
        (("--chat",), 2, ("--chat needs --text",)),
        (("--chat", "--text", "broken.jsonl"), 2, ("broken.jsonl, line 2", "JSON")),
        (("--chat", "--text", "chat.jsonl"), 2, ("model.gguf has no chat template", "without --chat")),
        (("--text", "text.txt", "--role", "ffn_gaet"), 2, ("ffn_gaet", "ffn_gate")),
        (("--text", "text.txt", "--role", "attn_norm"), 2, ("attn_norm", "never quantizes")),
        (("--text", "text.txt", "--to", "Q9_K"), 2, ("Q9_K",)),
        (("--text", "text.txt", "--to", "IQ1_S", "--imatrix", "none"), 2, ("IQ1_S", "--imatrix")),
        (
            ("--text", "text.txt", "--imatrix", "auto", "--calibration-text", "text.txt"),
            2,
            ("text.txt", "--calibration-text"),
        ),
        (("--text", "text.txt", "--base", "Q9_K_M"), 2, ("Q9_K_M",)),
        (("--text", "text.txt", "--blocks", "7"), 2, ("block 7",)),
        (("--text", "text.txt", "--policy", "lucky"), 2, ("lucky", "greedy")),
        (("--text", "text.txt", "--imatrix", "text.txt"), 2, ("text.txt",)),
        (("--text", "text.txt", "--reference", "notes.gguf"), 2, ("notes.gguf",)),
        (("--text", "text.txt", "--bench-limit", "9"), 2, ("--bench-limit", "--bench TASKS")),
        (("--text", "text.txt", "--blocks", "3-1"), 2, ("'3-1'", "write 1-3")),
        (("--text", "text.txt", "--base", "Q3_KM"), 2, ("unknown file type 'Q3_KM'", "Q3_K_M")),
        (("--text", "text.txt", "--unsafe-execution"), 2, ("--unsafe-execution", "--bench TASKS")),
        (("--text", "text.txt", "--race", "--budget-minutes", "0"), 2, ("--budget-minutes", "more than 0")),
    ],
)
def test_options_that_cant_be(
    ground: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    refused(cerebellum(ground, "run", "model.gguf", "--out", tmp_path / "out", *SMALL, *options), code, *words)
    assert not list((tmp_path / "out").glob("*cerebellum*.gguf"))


def test_a_row_that_no_asked_type_fits_names_the_type_that_would_be_stored(tmp_path: Path) -> None:
    model = Path(__file__).resolve().parents[3] / "shared" / "data" / "models" / "babyllama-tok361-F32.gguf"
    if not model.exists():
        pytest.skip(f"{model} is not here")
    (tmp_path / "text.txt").write_text(tiny.text(1200))
    done = cerebellum(tmp_path, "run", model, "--to", "Q2_K", "--text", "text.txt", *SMALL, "--out", "out")
    refused(done, 2, "Q2_K", "256", "128", "Q4_0")


@pytest.mark.parametrize(
    ("file", "words"), [("comment.txt", ("line 1", "no comments")), ("nothing.txt", ("hits no tensor",))]
)
def test_overrides_that_say_nothing(ground: Path, file: str, words: tuple[str, ...]) -> None:
    done = cerebellum(ground, "quantize", "model.gguf", "Q3_K_M", "--overrides", file, "--out", "out.gguf")
    refused(done, 2, *words)
    assert not (ground / "out.gguf").exists()


def test_an_existing_file_is_not_replaced_without_force(ground: Path) -> None:
    (ground / "precious.gguf").write_text("precious")
    refused(
        cerebellum(ground, "quantize", "model.gguf", "Q3_K_M", "--out", "precious.gguf"), 3, "precious.gguf", "--force"
    )
    assert (ground / "precious.gguf").read_text() == "precious"
    refused(
        cerebellum(ground, "quantize", "model.gguf", "Q3_K_M", "--force", "--out", "model.gguf"),
        3,
        "which this command reads",
    )


def test_an_output_folder_that_is_a_file(ground: Path) -> None:
    (ground / "taken").write_text("a file")
    refused(cerebellum(ground, "run", "model.gguf", "--text", "text.txt", *SMALL, "--out", "taken"), 3, "taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission(ground: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = cerebellum(ground, "run", "model.gguf", "--text", "text.txt", *SMALL, "--out", tmp_path / "out")
    refused(done, 3, str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_while_writing_says_so(ground: Path, tmp_path: Path) -> None:
    """A file size limit stands for the full disk: writes past it fail as writes to a full disk do."""
    import resource
    import signal

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = cerebellum_process(ground, "quantize", "model.gguf", "Q8_0", "--out", tmp_path / "out.gguf", before=limit)
    refused(done, 3, "out.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("broken.jsonl", ("broken.jsonl, line 2", "not JSON")),
        ("text.txt", ("text.txt, line 1", "not JSON")),
        ("empty.txt", ("empty.txt", "empty")),
        ("chat.jsonl", ("model.gguf has no chat template", "without --chat")),
    ],
)
def test_conversations_that_cant_be_scored(ground: Path, text: str, words: tuple[str, ...]) -> None:
    refused(cerebellum(ground, "perplexity", "model.gguf", "--chat", "--text", text, *SMALL), 2, *words)


def test_conversations_too_long_for_the_context_name_the_option(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "model.gguf", chat_template=CHATML)
    (tmp_path / "chat.jsonl").write_text('[{"role": "assistant", "content": "hello"}]\n')
    done = cerebellum(tmp_path, "perplexity", "model.gguf", "--chat", "--text", "chat.jsonl", "--ctx", "8", "-q")
    refused(done, 2, "chat.jsonl", "8 tokens", "--ctx")
    done = cerebellum(tmp_path, "perplexity", "model.gguf", "--chat", "--text", "chat.jsonl", *SMALL)
    assert done.returncode == 0 and "1 conversation of at most 64 tokens" in done.stdout
