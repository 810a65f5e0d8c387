"""Fakes of llama.cpp with planted effects, knowledge and failures: the whole of Cerebellum runs on them without a model."""

from cerebellum.testing.fake_backend import Effect, FakeBackend, FakeEngine, Fault, write_fake_model
from cerebellum.testing.fake_responder import AnswerFault, FakeResponder, Knowledge

__all__ = [
    "AnswerFault",
    "Effect",
    "FakeBackend",
    "FakeEngine",
    "FakeResponder",
    "Fault",
    "Knowledge",
    "write_fake_model",
]
