"""The engine in a process of its own: a native abort becomes an error that names the trial, and the run goes on or ends cleanly."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cerebellum.domain import Chunk, ChunkScore, Corpus, TensorTypes, Tokens, Trial
from cerebellum.errors import EngineDied, EngineError
from cerebellum.keys import partial_of
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood, Prompt, ResponderFacts, Written
from cerebellum.llamacpp.protocol import Settings, Sources, SweepEvent, TrialStarted
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.text.chat import Conversations

#: How long OpenMP's threads spin at a barrier before they sleep. A pass of the bundled model on two cores, in ms, alone and beside another
#: busy process: 1,000 spins 144 and 237, 10,000 138 and 283, 40,000 134 and 392, libgomp's default 135 and 1,177.
WAITING = {"GOMP_SPINCOUNT": "10000"}


class Child:
    """A worker process and the two pipes to it. Not safe to share between threads."""

    def __init__(self, doing: str) -> None:
        """``doing`` names the work in messages where a call has no label of its own."""
        self.doing = doing
        self._busy = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        environment = {**WAITING, **os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cerebellum.llamacpp.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def stream(self, label: str, method: str, *args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
        """Call ``method`` and yield its items, then return its value. Errors carry ``label``."""
        self._send(label, (method, args, kwargs))
        finished, self._busy = False, True
        try:
            while True:
                kind, value = self._receive(label)
                if kind == "item":
                    yield value
                    continue
                finished = True
                if kind == "error":
                    raise self._named(value, label)
                return value
        finally:
            if not finished and self._process.poll() is None:
                self.kill()
            self._busy = False

    def call(self, label: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``method`` and return its value."""
        stream = self.stream(label, method, *args, **kwargs)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    def _send(self, label: str, message: Any) -> None:
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
        except (EOFError, pickle.UnpicklingError, ConnectionError) as error:
            raise self._death(label) from error

    def _named(self, error: Exception, label: str) -> Exception:
        label = label or self.doing
        if isinstance(error, EngineError) and label not in str(error):
            error.args = (f"{label}: {error}",)
        return error

    def _death(self, label: str) -> EngineDied:
        code = self._process.wait()
        try:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"signal {-code}"
        said = self._last_words()
        return EngineDied(f"{label or self.doing}: llama.cpp's process died ({how}){': ' + said if said else ''}")

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        aborts = [line for line in lines if "GGML_ASSERT" in line or "abort" in line.lower()]
        return (aborts or lines or [""])[-1].strip()[:400]

    def kill(self) -> None:
        """End the process now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let the process end by itself; insist after a while, and at once where another thread waits for its answer."""
        if self._busy:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._stderr.close()


class EngineProcess:
    """An `Engine` whose llama.cpp lives in a `Child`."""

    def __init__(self, path: Path, settings: Settings, sources: Sources | None) -> None:
        self._child = Child(f"opening {path.name}")
        try:
            self.n_vocab = cast(int, self._child.call(f"opening {path.name}", "open", path, settings, sources))
        except BaseException:
            self._child.close()
            raise

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
        for event in self._child.stream("", "call", "sweep", trials, chunks, reference=reference, settings=settings):
            if isinstance(event, TrialStarted):
                self._child.doing = event.told(trials[event.trial].label)
            yield event

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        return self._child.stream("keeping the reference", "call", "capture", chunks, store)

    def logits(self, tensor_types: TensorTypes, chunk: Chunk) -> Any:
        """Scored rows float32 [n, vocabulary] of one chunk; for proofs."""
        return self._child.call("logits", "call", "logits", tensor_types, chunk)

    def close(self) -> None:
        self._child.close()


class ResponderProcess:
    """A `Responder` whose llama.cpp lives in a `Child`. A stream that isn't read to its end ends the process."""

    def __init__(self, path: Path, settings: Settings, n_ctx: int | None) -> None:
        self._name = path.name
        self._child = Child(f"opening {path.name}")
        try:
            facts = self._child.call(f"opening {path.name}", "open_responder", path, settings, n_ctx)
        except BaseException:
            self._child.close()
            raise
        self._facts = cast(ResponderFacts, facts)

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

    def write(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, Written]]:
        return self._child.stream(f"writing by {self._name}", "call", "write", requests)

    def close(self) -> None:
        self._child.close()


@dataclass(frozen=True, slots=True)
class LlamaBackend:
    """llama.cpp through llama-cpp-python. See `cerebellum.llamacpp.protocol.Backend`."""

    @property
    def id(self) -> str:
        return cast(str, self._once("asking llama.cpp for its build", "build_id"))

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> EngineProcess:
        return EngineProcess(model, settings, sources)

    def respond(self, model: Path, settings: Settings, n_ctx: int | None = None) -> ResponderProcess:
        return ResponderProcess(model, settings, n_ctx)

    def types(
        self, source: Path, ftype: str, overrides: Sequence[tuple[str, str]] = (), imatrix: Path | None = None
    ) -> Mapping[str, str]:
        label = f"planning {ftype} of {source.name}"
        return cast(Mapping[str, str], self._once(label, "types", source, ftype, tuple(overrides), imatrix))

    def quantize(
        self,
        source: Path,
        out: Path,
        ftype: str,
        overrides: Sequence[tuple[str, str]] = (),
        imatrix: Path | None = None,
    ) -> None:
        try:
            self._once(
                f"quantizing {source.name} to {ftype}", "quantize", source, out, ftype, tuple(overrides), imatrix
            )
        except BaseException:  # the child may have been killed before it could tidy up
            with contextlib.suppress(OSError):
                partial_of(out).unlink(missing_ok=True)
            raise

    def _once(self, label: str, method: str, *args: Any) -> Any:
        child = Child(label)
        try:
            return child.call(label, method, *args)
        finally:
            child.close()
