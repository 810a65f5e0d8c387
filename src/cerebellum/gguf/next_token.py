"""Whether a model predicts the next token, as far as its metadata say: only then is there anything to measure.

Encoders (BERT and its kind) and diffusion models see the whole text, translators (T5) read one text and write another, draft models
continue another model's hidden state, projectors turn images into embeddings. llama.cpp gives logits for most of them, and every figure
made of those logits is wrong. `cerebellum.llamacpp.prediction` looks at the logits themselves.
"""

from __future__ import annotations

from cerebellum.domain import Model
from cerebellum.errors import ModelFileError

_NO_NEXT = "so it predicts no next token, and perplexity and KL divergence say nothing of it"
_ENCODER = f"is an encoder: each token sees those after it, {_NO_NEXT}"
_DIFFUSION = f"fills in masked tokens (diffusion): each token sees those after it, {_NO_NEXT}"
_TRANSLATOR = f"reads one text with an encoder and writes another, {_NO_NEXT}"
_DRAFT = f"goes on from the hidden states of another model, {_NO_NEXT}"
_OTHER = f"is no language model, {_NO_NEXT}"

#: llama.cpp's architectures (``llama_hparams::causal_attn``, ``llama_model_has_encoder``) that predict no next token, and why.
_ARCHITECTURES = {
    **dict.fromkeys(
        (
            *("bert", "modern-bert", "neo-bert", "eurobert", "nomic-bert", "nomic-bert-moe"),
            *("jina-bert-v2", "jina-bert-v3", "gemma-embedding", "llama-embed", "t5encoder"),
        ),
        _ENCODER,
    ),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), _DIFFUSION),
    "t5": _TRANSLATOR,
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), _DRAFT),
    **dict.fromkeys(("clip", "wavtokenizer-dec"), _OTHER),
}
_KINDS = {
    "mmproj": "is a projector for images or sound, the second file of a model; give the model itself",
    "adapter": "is an adapter (LoRA), not a model; merge it into its model first",
    "vocab": "is a vocabulary alone",
}


def check_predicts(model: Model) -> None:
    """Raises `ModelFileError` where ``model`` predicts no next token of a text, or can't read one."""
    if problem := _problem(model):
        raise ModelFileError(f"{model.path.name} {problem}")


def _problem(model: Model) -> str:
    metadata = model.metadata
    if why := _KINDS.get(str(metadata.get("general.type", ""))):
        return why
    if why := _ARCHITECTURES.get(model.architecture):
        return f"({model.architecture}) {why}"
    causal = f"{model.architecture}.attention.causal"
    if not metadata.get(causal, True):
        return f"says {causal} = false: each token sees those after it, {_NO_NEXT}"
    if metadata.get("tokenizer.ggml.model") in ("none", "no_vocab"):
        return "has no tokenizer (tokenizer.ggml.model = none), so it can't read a text"
    return ""
