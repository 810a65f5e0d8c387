"""Our engine as a model of lm-evaluation-harness: log-likelihoods, rolling log-likelihoods, text up to a stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM

from cerebellum.evals.asking import Asker, Memory
from cerebellum.evals.harness_task import chat_template, write_of
from cerebellum.evals.items import Likely, Request, Rolling
from cerebellum.evals.reasoning import answer_of
from cerebellum.llamacpp.generate.protocol import Responder
from cerebellum.progress import Progress


class HarnessModel(LM):
    """One opened file. ``name`` tells it from others in the harness's own caches."""

    def __init__(
        self, responder: Responder, name: str, memory: Memory | None = None, progress: Progress | None = None
    ) -> None:
        super().__init__()
        self._responder = responder
        self._asker = Asker(responder, memory, progress)
        self._name = name
        self._chat = False

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(Σ log p in nats, whether greedy decoding would write it) of each (context, continuation)."""
        asked = [Likely(r.args[0], r.args[1], self._chat) for r in requests]
        answers = [(reply.nats, reply.greedy) for reply in self._asker.ask(asked, "log-likelihoods")]
        self._cache("loglikelihood", requests, answers)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Σ log p of each whole text, nats."""
        answers = [reply.nats for reply in self._asker.ask([Rolling(r.args[0]) for r in requests], "whole texts")]
        self._cache("loglikelihood_rolling", requests, answers)
        return answers

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text after each prompt, without reasoning. One prompt asked several times is drawn with another seed each time."""
        times: Counter[str] = Counter()
        asked: list[Request] = []
        for request in requests:
            prompt, options = request.args[:2]
            asked.append(write_of(prompt, options, times[prompt], self._chat))
            times[prompt] += 1
        replies = self._asker.ask(asked, "writing")
        answers = [
            answer_of(reply.text, request.args[0]).text for reply, request in zip(replies, requests, strict=True)
        ]
        self._cache("generate_until", requests, answers)
        return answers

    def apply_chat_template(self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation in the model's own template. From here on prompts are taken to be such conversations."""
        self._chat = True
        return chat_template(self._responder.render)(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that is applied, for the record."""
        return self._responder.chat_template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        return self._name

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        return {"model_file": self._name, "n_ctx": self._responder.n_ctx}

    def _cache(self, kind: str, requests: Sequence[Any], answers: Sequence[Any]) -> None:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
