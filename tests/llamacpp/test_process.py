"""The engine's process: its death is an error that names the trial, what was measured stays, and it never outlives its parent."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cerebellum.domain import Chunk, Corpus, Trial, TrialKind, tensor_types_of
from cerebellum.errors import EngineDied, EngineError, ModelFileError, OutputError, TypeChoiceError
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp import process
from cerebellum.llamacpp.process import IDLE, Child, EngineProcess, LlamaBackend, child_environment, last_words
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.study.runner import TrialFailed, TrialRunner
from cerebellum.study.store import Study
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

BACKEND = LlamaBackend()
SETTINGS = Settings(n_ctx=64, n_threads=1)
BASE = Trial("base", TrialKind.BASE)
ONE = Trial("one", TrialKind.SINGLE, tensor_types_of({"blk.1.ffn_gate.weight": "Q2_K"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("process") / "model.gguf")


@pytest.fixture
def engine(model: Path) -> Iterator[EngineProcess]:
    engine = BACKEND.open(model, SETTINGS, Sources(model))
    yield engine
    engine.close()


@pytest.fixture
def corpus(engine: EngineProcess) -> Corpus:
    return engine.corpus("words", tiny.text(), 64)


def ended(pid: int, within: float) -> bool:
    """Whether the process is gone (or a zombie that nobody waited for) within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV])
def test_death_while_scoring_names_the_trial_and_the_signal(
    engine: EngineProcess, corpus: Corpus, number: signal.Signals
) -> None:
    """The scores that were out already are good; then one error says which trial, and how it died."""
    chunks = corpus.chunks([0, 1, 2])
    whole = list(engine.score(ONE.tensor_types, chunks))
    trial = engine.score(ONE.tensor_types, chunks * 200, label="trial 'one'")
    assert next(trial) == whole[0]
    os.kill(engine.pid, number)
    with pytest.raises(EngineDied, match=rf"trial 'one': llama\.cpp's process died \({number.name}\)"):
        for place, score in enumerate(trial, start=1):
            assert score == whole[place % 3]
    with pytest.raises(EngineDied, match="the next one"):
        list(engine.score((), chunks, label="the next one"))


def test_a_context_of_other_settings_that_can_not_be_opened_names_what_wanted_it(
    engine: EngineProcess, corpus: Corpus
) -> None:
    """Not what was under way before."""
    chunks, other = corpus.chunks([1, 2]), replace(SETTINGS, n_ubatch=0)
    list(engine.sweep([ONE], chunks))
    with pytest.raises(EngineError, match=r"^the base, before trial 'two', chunk 1: (?!.*'one')"):
        list(engine.sweep([replace(ONE, label="two")], chunks, settings=other))


def test_a_native_abort_is_reported_with_its_own_words(
    model: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm in a quantized type is more than ggml can compute: it aborts, and what it printed is in the message.

    The engine refuses such a swap, so the worker is started with that check taken out.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "from cerebellum.gguf import llama_rules\nllama_rules.quantizable_tensors = lambda model: model.tensors\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    unchecked = BACKEND.open(model, SETTINGS, Sources(model))
    try:
        with pytest.raises(
            EngineDied, match=r"^trial 'norm': llama\.cpp's process died \(SIG(ABRT|SEGV)\): \S+"
        ) as caught:
            list(
                unchecked.score(
                    tensor_types_of({"blk.1.attn_norm.weight": "Q8_0"}), corpus.chunks([0]), label="trial 'norm'"
                )
            )
    finally:
        unchecked.close()
    assert len(str(caught.value)) < 600


class Killer:
    """Progress that kills the worker after five results of a trial, and the one that takes its place after five more.

    A trial that a worker died of gets a second one.
    """

    def __init__(self, engine: EngineProcess, label: str) -> None:
        self.engine, self.label, self.steps = engine, label, 0

    def note(self, text: str) -> None: ...
    def begin(self, what: str, total: int, done: int = 0) -> None: ...
    def end(self) -> None: ...
    def step(self, what: str = "") -> None:
        self.steps += what == self.label
        if what == self.label and self.steps in (5, 10):
            os.kill(self.engine.pid, signal.SIGABRT)


def test_a_trial_that_dies_is_left_out_and_the_others_are_measured(
    engine: EngineProcess, model: Path, tmp_path: Path
) -> None:
    """Killed in the middle of a trial: a failure with its trial and signal, a process anew, and the others whole.

    The worker is ahead of what its parent has read, so what is told lasts longer than the worker; far more is asked than it can be ahead.
    """
    types, corpus = read_model(model).types, engine.corpus("many words", tiny.text(4000), 64)
    chunks, killer = range(corpus.n_chunks), Killer(engine, ONE.label)
    trials = [ONE, Trial("two", TrialKind.SINGLE, tensor_types_of({"blk.2.ffn_up.weight": "Q2_K"}))]
    assert corpus.n_chunks > 200
    before = engine.pid
    with Study.open(tmp_path / "study.sqlite") as study:
        runner = TrialRunner([engine], study, study.series("search", {}), types, corpus, None, killer)
        scores = runner.measure(trials, chunks)
        ((lost, _, reason),) = study.failures()
        assert lost == ONE.label
        assert re.search(rf"trial '{lost}', chunk \d+: llama\.cpp's process died \(SIGABRT\)", reason)
        assert engine.pid != before and list(scores) == ["two"]
        assert list(scores["two"].values()) == list(engine.score(trials[1].tensor_types, corpus.chunks(chunks)))


def test_the_base_dying_ends_the_run_and_keeps_what_was_measured(
    engine: EngineProcess, model: Path, tmp_path: Path
) -> None:
    """Every result told so far is in the study, and the next call goes on from there."""
    types, corpus = read_model(model).types, engine.corpus("many words", tiny.text(4000), 64)
    chunks, killer = range(corpus.n_chunks), Killer(engine, BASE.label)
    with Study.open(tmp_path / "study.sqlite") as study:
        runner = TrialRunner([engine], study, study.series("search", {}), types, corpus, None, killer)
        with pytest.raises(TrialFailed, match=r"trial 'base', chunk \d+: llama\.cpp's process died \(SIGABRT\)"):
            runner.measure([BASE], chunks)
        done = study.chunks_done(study.trial(runner.series, BASE, types))
        assert 5 <= len(done) == killer.steps < len(chunks)
        scores = runner.measure([BASE], chunks)
        assert list(scores["base"].values()) == list(engine.score((), corpus.chunks(chunks)))


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("loading\n/x/ggml.c:12: GGML_ASSERT(a == b) failed\n#0 0x1 in main\naborted\n/y.c:1: GGML_ASSERT(late) failed\n",
         "/x/ggml.c:12: GGML_ASSERT(a == b) failed"),
        ("one\nterminate called, aborting\nlast line\n", "terminate called, aborting"),
        ("one\nlast line\n", "last line"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_first_assertion_is_the_reason(printed: str, words: str) -> None:
    """What comes after the first failed assertion follows from it."""
    assert last_words(io.BytesIO(printed.encode())) == words


def test_a_native_abort_prints_no_backtrace() -> None:
    """Where gdb is installed, ggml attaches it: seconds, memory, and the reason is lost in what it prints."""
    assert child_environment()["GGML_NO_BACKTRACE"] == "1"


def test_an_error_leaves_the_engine_usable(engine: EngineProcess, corpus: Corpus) -> None:
    """A refusal isn't a death: it names the trial, and the next call works."""
    too_long = Chunk(0, corpus.tokens[:100])
    with pytest.raises(EngineError, match=r"^trial 'long': a chunk of 100 tokens") as caught:
        list(engine.score((), [too_long], label="trial 'long'"))
    assert not isinstance(caught.value, EngineDied)
    assert len(list(engine.score((), corpus.chunks([0])))) == 1


def test_a_model_that_llama_cpp_refuses(model: Path, tmp_path: Path) -> None:
    """Not a GGUF, or cut short: a model file error, and no process is left."""
    for data in (b"no GGUF at all", model.read_bytes()[:100_000]):
        path = tmp_path / "bad.gguf"
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=r"bad\.gguf"):
            BACKEND.open(path, SETTINGS)


def test_closing_ends_the_process(model: Path) -> None:
    """Close returns when it is gone, and may be called twice."""
    engine = BACKEND.open(model, SETTINGS)
    engine.close()
    assert ended(engine.pid, 0.1)
    engine.close()


_PARENT = """
import sys, time
from pathlib import Path
from cerebellum.llamacpp.protocol import Settings
from cerebellum.llamacpp.process import LlamaBackend
engine = LlamaBackend().open(Path(sys.argv[1]), Settings(n_ctx=64, n_threads=1))
print(engine.pid, flush=True)
if sys.argv[2] == "busy":
    corpus = engine.corpus("words", Path(sys.argv[3]).read_text(), 64)
    for score in engine.score((), corpus.chunks([0]) * 1_000_000):
        pass
time.sleep(600)
"""


@pytest.mark.parametrize("busy", ["idle", "busy"])
def test_the_process_ends_with_its_parent(model: Path, tmp_path: Path, busy: str) -> None:
    """Even when the parent is killed without a word, waiting or in the midst of scoring."""
    text = tmp_path / "text.txt"
    text.write_text(tiny.text())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", _PARENT, str(model), busy, str(text)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        assert not ended(pid, 0.1)
        parent.kill()
    assert ended(pid, 5.0)


def test_quantizing_leaves_nothing_half_written(model: Path, tmp_path: Path) -> None:
    """A folder that can't be made, an error on the way: no file, no partial file."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="can't write"):
        BACKEND.quantize(model, tmp_path / "file" / "out.gguf", "Q4_0")
    with pytest.raises(TypeChoiceError, match="IQ1_S needs an importance matrix"):
        BACKEND.quantize(model, tmp_path / "out.gguf", "IQ1_S")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_the_build_is_named(model: Path) -> None:
    """One identity, the same in every process, with the package's version in it."""
    assert BACKEND.id == LlamaBackend().id and BACKEND.id.startswith("llama-cpp-python 0.3.")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The processes that are started from now on; none is idle."""
    children, start = list[Child](), Child.__init__

    def noting(child: Child, doing: str) -> None:
        start(child, doing)
        children.append(child)

    IDLE.close()
    monkeypatch.setattr(Child, "__init__", noting)
    return children


def test_questions_files_and_responders_take_turns_in_one_process(
    model: Path, tmp_path: Path, started: list[Child]
) -> None:
    """An engine gets a process in which nothing was computed, and no one gets that one after it."""
    types = BACKEND.types(model, "Q4_0")
    BACKEND.quantize(model, tmp_path / "out.gguf", "Q4_0")
    with pytest.raises(TypeChoiceError):
        BACKEND.quantize(model, tmp_path / "other.gguf", "IQ1_S")
    for _ in range(2):
        responder = BACKEND.respond(tmp_path / "out.gguf", SETTINGS)
        assert len(responder.tokenize(["once"])) == 1
        responder.close()
        responder.close()
    assert len(started) == 1 and read_model(tmp_path / "out.gguf").types == types == BACKEND.types(model, "Q4_0")
    first, second = BACKEND.open(model, SETTINGS), BACKEND.open(model, SETTINGS)
    assert len({started[0].pid, first.pid, second.pid}) == 3
    first.close()
    second.close()
    assert BACKEND.types(model, "Q4_0") == types and len(started) == 4


def test_a_question_before_an_engine_is_opened_costs_no_process(model: Path, started: list[Child]) -> None:
    BACKEND.types(model, "Q4_0")
    BACKEND.open(model, SETTINGS).close()
    assert len(started) == 1


def test_an_idle_process_that_started_otherwise_or_died_is_not_taken(
    model: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another current folder, where a relative path means another file; another environment; a process that was killed."""
    types = BACKEND.types(model, "Q4_0")
    with monkeypatch.context() as patch:
        patch.chdir(model.parent)
        assert BACKEND.types(Path(model.name), "Q4_0") == types
    monkeypatch.setenv("CEREBELLUM_TEST", "1")
    assert BACKEND.types(model, "Q4_0") == types and len(started) == 3
    os.kill(started[-1].pid, signal.SIGKILL)
    assert ended(started[-1].pid, 5.0)
    assert BACKEND.types(model, "Q4_0") == types and len(started) == 4
    assert ended(started[0].pid, 5.0) and ended(started[1].pid, 5.0)


def test_a_child_that_answers_nonsense_and_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waited for without end."""
    monkeypatch.setattr(process, "PATIENCE", 0.3)
    child = Child("nonsense")
    os.kill(child.pid, signal.SIGSTOP)
    pipe = child._process.stdout
    assert pipe is not None
    monkeypatch.setattr(child._process, "stdout", io.BytesIO(b"no pickle"))
    with pytest.raises(EngineDied, match=r"asked: llama\.cpp's process died \(SIGKILL\)"):
        child.call("asked", "build_id")
    assert ended(child.pid, within=5.0)
    child.close()
    pipe.close()
