"""The engine in a process of its own: a native abort becomes an error that names the trial, and the run goes on or ends cleanly."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from cerebellum.cores import n_cores
from cerebellum.domain import Chunk, ChunkScore, Corpus, TensorTypes, Tokens, Trial
from cerebellum.errors import EngineDied, EngineError, InputError
from cerebellum.gguf.importance import Importance
from cerebellum.gguf.memory import Allocated, ContextUse
from cerebellum.keys import partial_of
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood, Prompt, ResponderFacts, Writing, WrittenText
from cerebellum.llamacpp.one_stream import OneStream, closing
from cerebellum.llamacpp.pinning import pinnable, visible
from cerebellum.llamacpp.protocol import (
    Collected,
    Settings,
    Sources,
    SpeedUse,
    SweepEvent,
    Timed,
    TrialStarted,
    WeightErrors,
)
from cerebellum.results.health import Native
from cerebellum.safe_path import importable
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.text.chat import Conversations

#: How long OpenMP's threads spin at a barrier before they sleep. A pass of the bundled model on two cores, in ms, alone and beside another
#: busy process: 1,000 spins 144 and 237, 10,000 138 and 283, 40,000 134 and 392, libgomp's default 135 and 1,177.
WAITING = {"GOMP_SPINCOUNT": "10000"}


Surroundings = tuple[int, str, tuple[tuple[str, str], ...], tuple[str, ...]]


def surroundings() -> Surroundings:
    """What a child takes from this process when it starts: this process's id, the current folder, the environment, `sys.path`."""
    try:
        folder = os.getcwd()  # noqa: PTH109 as a string
    except FileNotFoundError:
        folder = ""
    return os.getpid(), folder, tuple(sorted(os.environ.items())), tuple(sys.path)


def child_environment(waiting: Mapping[str, str] = WAITING) -> dict[str, str]:
    """The environment of a Python that runs our code alone: `importable` for its path, and nothing from the folder that it is started in.
    ``waiting``: how its threads wait, where the user says nothing of it.

    A native abort prints its reason and no backtrace: where gdb is installed, ggml would attach it, and that hides the reason.
    """
    fixed = {"PYTHONPATH": os.pathsep.join(importable()), "PYTHONSAFEPATH": "1", "GGML_NO_BACKTRACE": "1"}
    return {**waiting, **os.environ, **fixed}


def last_words(stream: IO[bytes]) -> str:
    """Why a process died, from what it printed: the first assertion that failed, else the last line."""
    if stream.closed:
        return ""
    stream.seek(0)
    lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    asserted = [line for line in lines if "GGML_ASSERT" in line or "GGML_ABORT" in line]
    aborts = asserted[:1] or [line for line in lines if "abort" in line.lower()][-1:]
    return (aborts or lines[-1:] or [""])[0].strip()[:400]


#: Seconds that a process which is to end may take.
PATIENCE = 10.0


class Child:
    """A worker process and the two pipes to it. Not safe to share between threads."""

    def __init__(
        self, doing: str, devices: Sequence[str] | None = None, *, waiting: Mapping[str, str] = WAITING
    ) -> None:
        """``doing`` names the work in messages where a call has no label of its own. ``devices``: the only GPUs that it sees. ``waiting``:
        see `child_environment`."""
        self.doing = doing
        self.surroundings = surroundings()
        self.has_computed = False
        self._turns = OneStream()
        self._n_calls = 0
        self._unread = False
        self._closed = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cerebellum.llamacpp.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=child_environment(waiting) | (visible(devices, os.environ) if devices is not None else {}),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def stream(self, label: str, method: str, *args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
        """Call ``method`` and yield its items, then return its value. Errors carry ``label``.

        Closed early, the stream tells the worker to stop; what is still on its way is read before the next call.
        """
        with self._turns.stream(label or self.doing):
            self._finish_last(label)
            self._n_calls += 1
            self._send(label, ("call", self._n_calls, method, args, kwargs))
            while True:
                kind, value = self._receive_whole(label)
                if kind == "error":
                    raise self._named(value, label)
                if kind != "item":
                    return value
                try:
                    yield value
                except GeneratorExit:
                    self._stop_early()
                    raise

    def call(self, label: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``method`` and return its value."""
        stream = self.stream(label, method, *args, **kwargs)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    def _stop_early(self) -> None:
        """Tell the worker that nobody reads on. A worker that is gone needs no telling."""
        if self._process.poll() is None and not self._closed:
            self._unread = True
            with contextlib.suppress(EngineError):
                self._send("", ("stop", self._n_calls))

    def _finish_last(self, label: str) -> None:
        """Read away what a stream that was closed early had on its way."""
        while self._unread:
            kind, _ = self._receive_whole(label)
            self._unread = kind == "item"

    def _receive_whole(self, label: str) -> tuple[str, Any]:
        """A message. An interruption in its midst (Ctrl-C) leaves half of it in the pipe, so the process is ended then."""
        try:
            return self._receive(label)
        except EngineError:
            raise
        except BaseException:
            self.kill()
            raise

    def _send(self, label: str, message: Any) -> None:
        if self._closed:
            raise EngineError(f"{label or self.doing}: the engine is closed")
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._death(label) from error

    def _receive(self, label: str) -> tuple[str, Any]:
        assert self._process.stdout is not None
        try:
            return cast(tuple[str, Any], pickle.load(self._process.stdout))
        except (EOFError, pickle.UnpicklingError, ConnectionError, ValueError) as error:
            raise self._death(label) from error

    def _named(self, error: Exception, label: str) -> Exception:
        label = label or self.doing
        if isinstance(error, EngineError) and label not in str(error):
            error.args = (f"{label}: {error}",)
        return error

    def _death(self, label: str) -> EngineDied:
        code = self._ended(PATIENCE)
        try:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"signal {-code}"
        words = last_words(self._stderr)
        return EngineDied(f"{label or self.doing}: llama.cpp's process died ({how}){': ' + words if words else ''}")

    @property
    def has_answered(self) -> bool:
        """Whether it was called before."""
        return self._n_calls > 0

    @property
    def is_free(self) -> bool:
        """Whether the process lives, no stream is open and nothing of one is unread."""
        return self.is_alive and not self._closed and not self._turns.is_open and not self._unread

    def begin(self, doing: str) -> None:
        """Take up other work: what the process printed before is no last word of it."""
        self.doing = doing
        self._stderr.seek(0)
        self._stderr.truncate()

    def kill(self) -> None:
        """End the process now. One that the kernel holds on to is left to it: nothing waits for it for ever."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=PATIENCE)

    def _ended(self, seconds: float) -> int:
        """The exit code of a process that is ending; it is killed where it takes longer."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode or -signal.SIGKILL

    def close(self) -> None:
        """Let the process end by itself; insist after a while, and at once where it still computes for a stream."""
        self._closed = True
        if self._turns.is_open or self._unread:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=PATIENCE / 2)
        except subprocess.TimeoutExpired:
            self.kill()
        self._stderr.close()


class IdleChild:
    """At most one child without work, kept for the next work, so that short questions start no process each.

    An engine measures in a process that has computed nothing else: a child that has held one is not kept, and one that has held a
    responder (which lets CUDA keep graphs, for the whole process) goes to other responders and to what computes nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None

    def take(self, doing: str, *, measures: bool = False) -> Child:
        """The idle child if a new one would start in the same surroundings, else a new one. ``measures``: an engine is to be held."""
        child = self._exchange(None)
        usable = child is not None and child.is_free and child.surroundings == surroundings()
        if child is not None and usable and not (measures and child.has_computed):
            child.begin(doing)
            return child
        self._end(child)
        return Child(doing)

    def give(self, child: Child) -> None:
        """Keep a child whose work is done, in place of the one that was kept; one that died or is busy is closed."""
        if child.is_free:
            self._end(self._exchange(child))
        else:
            child.close()

    def close(self) -> None:
        self._end(self._exchange(None))

    def _exchange(self, child: Child | None) -> Child | None:
        with self._lock:
            before, self._child = self._child, child
        return before

    @staticmethod
    def _end(child: Child | None) -> None:
        """Without waiting: it has nothing to lose. After a fork the child is the other process's, and goes on there."""
        if child is not None:
            if child.surroundings[0] == os.getpid():
                child.kill()
            child.close()


IDLE = IdleChild()
atexit.register(IDLE.close)


@functools.lru_cache(maxsize=4)
def _build_id(_where: Surroundings) -> str:
    """The build as a child in these surroundings sees it; that child is then there for other work."""
    return cast(str, _once("asking llama.cpp for its build", "build_id"))


@functools.lru_cache(maxsize=16)
def _build_on(_where: Surroundings, devices: tuple[str, ...]) -> str:
    """The build as a child that sees these devices alone has it."""
    label = "asking llama.cpp for its build"
    child = Child(label, devices)
    try:
        return cast(str, child.call(label, "build_id"))
    finally:
        child.close()


@functools.lru_cache(maxsize=4)
def _can_offload(_where: Surroundings) -> bool:
    """Whether llama.cpp, as a child in these surroundings sees it, has a device to put layers on."""
    return bool(cast(Native, _once("asking llama.cpp for its devices", "native")).can_offload)


def check_device(settings: Settings) -> None:
    """Raises `InputError` where layers are to be on a GPU and there is none: llama.cpp would use the processor without a word."""
    if settings.n_gpu_layers and not _can_offload(surroundings()):
        raise InputError(
            f"gpu_layers (--gpu-layers, -ngl) is {settings.n_gpu_layers}, but llama.cpp finds no GPU here: it was built without one, or "
            "the driver is missing. Leave the option out to compute on the processor; `cerebellum doctor` has the line that builds it for "
            "a GPU"
        )


def _once(label: str, method: str, *args: Any) -> Any:
    child = IDLE.take(label)
    was_idle = child.has_answered
    try:
        return child.call(label, method, *args)
    except EngineDied:
        if not was_idle:
            raise
        child.close()
        child = Child(label)  # the idle one may have died before it was asked: this one alone can tell
        return child.call(label, method, *args)
    finally:
        IDLE.give(child)


class EngineProcess:
    """An `Engine` whose llama.cpp lives in a `Child`."""

    def __init__(self, path: Path, settings: Settings, sources: Sources | None) -> None:
        self._opening = (path, settings, sources)
        self._closed = False
        self._open()

    def _open(self) -> None:
        path, settings, _ = self._opening
        doing = f"opening {path.name}"
        self._child = IDLE.take(doing, measures=True) if settings.devices is None else Child(doing, settings.devices)
        try:
            self.n_vocab = cast(int, self._child.call(f"opening {path.name}", "open", *self._opening))
        except BaseException:
            self._child.close()
            raise

    def reopen(self) -> None:
        if self._closed:
            raise EngineError(f"opening {self._opening[0].name}: the engine is closed")
        if not self._child.is_alive:
            self._child.close()
            self._open()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._child.pid

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        return cast(tuple[str, ...], self._child.call("asking for warnings", "call", "warnings"))

    @functools.cached_property
    def unused(self) -> frozenset[str]:
        return cast(frozenset[str], self._child.call("finding the weights", "call", "unused"))

    def quantized_sha256(self, tensor_types: TensorTypes) -> Mapping[str, str]:
        label = "hashing quantized tensors"
        return cast(Mapping[str, str], self._child.call(label, "call", "quantized_sha256", tensor_types))

    def corpus(self, name: str, text: str, n_ctx: int) -> Corpus:
        return cast(Corpus, self._child.call(f"tokenizing {name}", "call", "corpus", name, text, n_ctx))

    def chat_corpus(self, conversations: Conversations, n_ctx: int) -> Corpus:
        label = f"tokenizing {conversations.name}"
        return cast(Corpus, self._child.call(label, "call", "chat_corpus", conversations, n_ctx))

    def score(
        self,
        tensor_types: TensorTypes,
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        label: str = "",
    ) -> Iterator[ChunkScore]:
        return self._child.stream(label, "call", "score", tensor_types, chunks, reference=reference)

    def sweep(
        self,
        trials: Sequence[Trial],
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        settings: Settings | None = None,
    ) -> Iterator[SweepEvent]:
        if trials and chunks:
            self._child.doing = TrialStarted(0, chunks[0].id, base=True).told(trials[0].label)
        events = self._child.stream("", "call", "sweep", trials, chunks, reference=reference, settings=settings)
        with closing(events):
            for event in events:
                if isinstance(event, TrialStarted):
                    self._child.doing = event.told(trials[event.trial].label)
                yield event

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        return self._child.stream("keeping the reference", "call", "capture", chunks, store)

    def importance(
        self, chunks: Sequence[Chunk], *, begin: Importance | None = None, with_output: bool = False
    ) -> Iterator[Collected]:
        label = "collecting activations"
        return self._child.stream(label, "call", "importance", chunks, begin=begin, with_output=with_output)

    def logits(self, tensor_types: TensorTypes, chunk: Chunk) -> Any:
        """Scored rows float32 [n, vocabulary] of one chunk; for proofs."""
        return self._child.call("logits", "call", "logits", tensor_types, chunk)

    def close(self) -> None:
        self._closed = True
        self._child.close()


class ResponderProcess:
    """A `Responder` whose llama.cpp lives in a `Child`."""

    def __init__(self, path: Path, settings: Settings, n_ctx: int | None) -> None:
        self._name = path.name
        self._child = IDLE.take(f"opening {path.name}")
        self._child.has_computed = True
        try:
            facts = self._child.call(f"opening {path.name}", "open_responder", path, settings, n_ctx)
        except BaseException:
            self._child.close()
            raise
        self._facts = cast(ResponderFacts, facts)
        self._closed = False

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._child.pid

    @property
    def n_vocab(self) -> int:
        return self._facts.n_vocab

    @property
    def n_ctx(self) -> int:
        return self._facts.n_ctx

    @property
    def bos(self) -> int | None:
        return self._facts.bos

    @property
    def eos(self) -> int:
        return self._facts.eos

    @property
    def chat_template(self) -> str | None:
        return self._facts.chat_template

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._facts.warnings

    def tokenize(self, texts: Sequence[str], *, special: bool = False, parse: bool = True) -> list[Tokens]:
        label = f"tokenizing for {self._name}"
        return cast(list[Tokens], self._child.call(label, "call", "tokenize", texts, special=special, parse=parse))

    def render(self, messages: Sequence[Mapping[str, str]], *, answer_begun: str = "") -> str:
        label = f"the chat template of {self._name}"
        return cast(str, self._child.call(label, "call", "render", messages, answer_begun=answer_begun))

    def likelihoods(self, requests: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        return self._child.stream(f"log-likelihoods by {self._name}", "call", "likelihoods", requests)

    def write(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText]]:
        return self._child.stream(f"writing by {self._name}", "call", "write", requests)

    def write_told(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText] | Writing]:
        return self._child.stream(f"writing by {self._name}", "call", "write_told", requests)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._child.is_free:
            self._child.call(f"closing {self._name}", "close")
        IDLE.give(self._child)


@dataclass(frozen=True, slots=True)
class LlamaBackend:
    """llama.cpp through llama-cpp-python. See `cerebellum.llamacpp.protocol.Backend`."""

    @property
    def id(self) -> str:
        return _build_id(surroundings())

    @property
    def devices(self) -> tuple[str, ...]:
        return pinnable(self.native().devices)

    def build(self, settings: Settings) -> str:
        return self.id if settings.devices is None else _build_on(surroundings(), settings.devices)

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> EngineProcess:
        check_device(settings)
        return EngineProcess(model, settings, sources)

    def respond(self, model: Path, settings: Settings, n_ctx: int | None = None) -> ResponderProcess:
        check_device(settings)
        return ResponderProcess(model, settings, n_ctx)

    def native(self) -> Native:
        """What this build of llama.cpp is. Raises `EngineError`, also where it can't be loaded."""
        return cast(Native, _once("asking llama.cpp what it is", "native"))

    def memory(self, model: Path, use: ContextUse) -> Allocated:
        """What llama.cpp itself would allocate for ``use``; nothing is. Raises `ModelFileError` or `EngineError`."""
        return cast(Allocated, _once(f"memory of {model.name}", "memory", model, use))

    def types(
        self, source: Path, ftype: str, overrides: Sequence[tuple[str, str]] = (), imatrix: Path | None = None
    ) -> Mapping[str, str]:
        label = f"planning {ftype} of {source.name}"
        return cast(Mapping[str, str], _once(label, "types", source, ftype, tuple(overrides), imatrix))

    def quantize(
        self,
        source: Path,
        out: Path,
        ftype: str,
        overrides: Sequence[tuple[str, str]] = (),
        imatrix: Path | None = None,
    ) -> None:
        try:
            _once(f"quantizing {source.name} to {ftype}", "quantize", source, out, ftype, tuple(overrides), imatrix)
        except BaseException:  # the child may have been killed before it could tidy up
            with contextlib.suppress(OSError):
                partial_of(out).unlink(missing_ok=True)
            raise

    def weight_errors(
        self,
        source: Path,
        imatrix: Path | None,
        wanted: Sequence[tuple[str, Sequence[str]]],
        sampled: int,
        judge: Path | None = None,
    ) -> Iterator[WeightErrors]:
        label = f"errors of the weights of {source.name}"
        child = IDLE.take(label)
        try:
            yield from child.stream(label, "weight_errors", source, imatrix, tuple(wanted), sampled, n_cores(), judge)
        finally:
            IDLE.give(child)

    def speed(self, model: Path, settings: Settings, use: SpeedUse) -> Iterator[Timed]:
        """In a process of its own, whose threads wait as those of llama.cpp's own programs do."""
        label = f"speed of {model.name}"
        child = Child(label, settings.devices, waiting={})
        try:
            yield from child.stream(label, "speed", model, settings, use)
        finally:
            child.close()
