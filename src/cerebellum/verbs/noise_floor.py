"""The noise floor of a session: what harmless changes do to the reference and to the base; the larger counts."""

from __future__ import annotations

from cerebellum.gguf import model_file
from cerebellum.results import Harmless, Noise
from cerebellum.scoring.summary import mean_kld
from cerebellum.verbs.noise import changes_of
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL


def measure_noise(session: Session) -> Noise:
    """The floor of a job's figures: what its reference was found to do, and the base. Raises a `CerebellumError`."""
    noise_context = session.reference.noise_context
    base = mean_kld(
        session.runner(session.search).measure([BASE_TRIAL], noise_context.chunks, "base")[BASE_TRIAL.label]
    )
    changes = []
    batch = noise_context.batch(session.engines[0].n_vocab)
    for change in changes_of(noise_context.settings, model_file.read_model(session.reference_path), batch):
        moved = None
        if not change.tensor_types:
            moved = abs(mean_kld(noise_context.scores(session.engines[:1], session.base.model, change, "base")) - base)
        changes.append(Harmless(change.name, session.reference.noise[change.name], moved))
    return Noise(tuple(changes), len(noise_context.chunks))
