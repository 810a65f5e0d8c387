"""The shapes of the bundled model by name, the transformers model of a shape, and its tokenizer.

Every row that K-quants should apply to is a multiple of 256 long: hidden, feed-forward, both head widths times the heads, the per-layer
inputs. Otherwise llama.cpp falls back to other types without a word and a study of Q2_K would measure something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCAB, CONTEXT = 1024, 2048
SPECIALS = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
PAD, EOS, BOS, START_OF_TURN, END_OF_TURN = range(len(SPECIALS))
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class Shape:
    """One member of the family. ``shared`` counts the last blocks, which read the keys and values of an earlier one.

    llama.cpp takes the last two blocks that own keys and values for a sliding and a full one, in this order: ``blocks`` − ``shared`` must
    be a multiple of 4.
    """

    blocks: int
    shared: int
    hidden: int = 256
    feed_forward: int = 256
    heads: int = 2
    head: int = 128
    head_full: int = 256
    per_layer: int = 256
    window: int = 128

    @property
    def kinds(self) -> list[str]:
        """Three sliding blocks, then a full one; the last block is always full."""
        return [FULL if i % 4 == 3 or i == self.blocks - 1 else SLIDING for i in range(self.blocks)]

    @property
    def feed_forwards(self) -> list[int]:
        """The width per block: blocks that share keys and values have twice the feed-forward."""
        return [self.feed_forward * (1 + (i >= self.blocks - self.shared)) for i in range(self.blocks)]


SHAPES = {"world-10": Shape(10, 2), "world-14": Shape(14, 6), "world-21": Shape(21, 9)}


def config(shape: Shape) -> Any:
    """The transformers configuration of a shape."""
    from transformers import Gemma4TextConfig

    return Gemma4TextConfig(
        vocab_size=VOCAB,
        vocab_size_per_layer_input=VOCAB,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=1,
        head_dim=shape.head,
        global_head_dim=shape.head_full,
        sliding_window=shape.window,
        hidden_size_per_layer_input=shape.per_layer,
        num_kv_shared_layers=shape.shared,
        use_double_wide_mlp=True,
        layer_types=shape.kinds,
        final_logit_softcapping=30.0,
        max_position_embeddings=CONTEXT,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def new_model(shape: Shape, seed: int = 0) -> Any:
    """A fresh model with seeded weights."""
    import torch
    from transformers import Gemma4ForCausalLM

    torch.manual_seed(seed)
    return Gemma4ForCausalLM(config(shape))


def train_tokenizer(text: str, path: Path) -> None:
    """A byte-level BPE of ``VOCAB`` tokens, the special ones first, written as tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split("\n\n"), trainer)
    tokenizer.save(str(path))
