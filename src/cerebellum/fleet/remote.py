"""An engine on another machine, as an `Engine`: a channel carries calls by name, and streams item by item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol, cast

from cerebellum.domain import Chunk, ChunkScore, Corpus, TensorTypes, Trial
from cerebellum.errors import EngineDied, EngineError
from cerebellum.fleet.node import Order, Rows
from cerebellum.gguf.importance import Importance
from cerebellum.llamacpp.one_stream import OneStream, closing
from cerebellum.llamacpp.protocol import Collected, Settings, SweepEvent, TrialStarted
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.text.chat import Conversations


class Channel(Protocol):
    """A `NodeHost` somewhere."""

    @property
    def name(self) -> str:
        """The node, for messages."""
        ...

    def call(self, label: str, method: str, *args: Any) -> Any:
        """Raises what the host raised; `EngineDied` where it is gone."""
        ...

    def stream(self, label: str, method: str, *args: Any) -> Iterator[Any]:
        """The items of what the host's method gives. Closed early, the host is told to stop. Raises as `call`."""
        ...

    def restart(self) -> None:
        """A new host in place of one that is gone. Raises `EngineError` where its node is gone too."""
        ...

    def close(self) -> None: ...


class RemoteEngine:
    """See `Engine`. It measures; texts are cut and references kept on the machine that runs the command.

    ``build`` is the build as that engine has it.
    """

    def __init__(self, channel: Channel, order: Order) -> None:
        self._channel, self._order = channel, order
        self._closed = False
        self._turns = OneStream()
        self._sent: set[tuple[str, int]] = set()
        self._unused: frozenset[str] | None = None
        self._open()

    def _open(self) -> None:
        self._sent.clear()
        self.n_vocab, self.build = self._call("open", self._order)

    @property
    def node(self) -> str:
        return self._channel.name

    def _call(self, method: str, *args: Any) -> Any:
        if self._closed:
            raise EngineError(f"the engine on {self.node} is closed")
        return self._channel.call(f"{method} on {self.node}", method, *args)

    @property
    def warnings(self) -> tuple[str, ...]:
        return cast(tuple[str, ...], self._call("warnings"))

    @property
    def unused(self) -> frozenset[str]:
        if self._unused is None:
            self._unused = cast(frozenset[str], self._call("unused"))
        return self._unused

    def quantized_sha256(self, tensor_types: TensorTypes) -> Mapping[str, str]:
        return cast(Mapping[str, str], self._call("quantized_sha256", tensor_types))

    def score(
        self,
        tensor_types: TensorTypes,
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        label: str = "",
    ) -> Iterator[ChunkScore]:
        with self._turns.stream(label):
            rows = self._send_rows(reference, chunks)
            with closing(self._channel.stream(label, "score", tensor_types, chunks, rows, label)) as scores:
                yield from scores

    def sweep(
        self,
        trials: Sequence[Trial],
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        settings: Settings | None = None,
    ) -> Iterator[SweepEvent]:
        label = TrialStarted(0, chunks[0].id, base=True).told(trials[0].label) if trials and chunks else "a sweep"
        with self._turns.stream(label):
            rows = self._send_rows(reference, chunks)
            with closing(self._channel.stream(label, "sweep", trials, chunks, rows, settings)) as events:
                yield from events

    def _send_rows(self, reference: ReferenceStore | None, chunks: Sequence[Chunk]) -> Rows | None:
        """Let the node have the reference's rows of these chunks, each sent once."""
        if reference is None:
            return None
        rows, name = Rows.of(reference), reference.folder.name
        unknown = [chunk.id for chunk in chunks if (name, chunk.id) not in self._sent]
        if unknown:
            for chunk in self._call("lacking", rows, unknown):
                try:
                    data = reference.path(chunk).read_bytes()
                except OSError as error:
                    raise EngineError(
                        f"can't read the reference's rows {reference.path(chunk)}: {error.strerror or error}"
                    ) from error
                self._call("keep", rows, chunk, data)
            self._sent |= {(name, chunk) for chunk in unknown}
        return rows

    def reopen(self) -> None:
        if self._closed:
            raise EngineError(f"the engine on {self.node} is closed")
        try:
            self._call("reopen")
        except EngineDied:
            self._channel.restart()
            self._open()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._channel.close()

    # -- what the machine that runs the command does itself ---------------------------------------------------------------

    def corpus(self, name: str, text: str, n_ctx: int) -> Corpus:
        self._refuse("cuts no texts")

    def chat_corpus(self, conversations: Conversations, n_ctx: int) -> Corpus:
        self._refuse("cuts no texts")

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        self._refuse("keeps no reference")

    def importance(
        self, chunks: Sequence[Chunk], *, begin: Importance | None = None, with_output: bool = False
    ) -> Iterator[Collected]:
        self._refuse("collects no activations")

    def _refuse(self, what: str) -> NoReturn:
        raise EngineError(f"an engine on a node {what}: open one here")
