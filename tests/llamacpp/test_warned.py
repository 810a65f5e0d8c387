"""llama.cpp's warnings that change figures reach who measures; and a text that another file cuts otherwise isn't compared."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from cerebellum import api
from cerebellum.errors import InputError
from cerebellum.llamacpp.warned import MOST, telling
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine


class Notes:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None: ...
    def step(self, what: str = "") -> None: ...
    def end(self) -> None: ...


def bpe(path: Path, pre: str | None = "gpt-2", merges: tuple[str, ...] = ("t h", "th e")) -> Path:
    """A model with byte-level pairs; ``pre`` None: no pre-tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(32)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    letters = [chr(c) for c in (*range(33, 127), 0x120, 0x10A)]
    pairs = [pair.replace(" ", "") for pair in ("t h", "th e", "h e")]
    tokens = [*letters, *pairs, "<|end|>"]
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(list(merges))
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (len(tokens), 32)),
        ("output_norm.weight", (32,)),
    ]
    shapes += [(f"blk.0.{name}.weight", (32, 32)) for name in ("attn_q", "attn_k", "attn_v", "attn_output")]
    shapes += [(f"blk.0.{name}.weight", (32, 32)) for name in ("ffn_gate", "ffn_up", "ffn_down")]
    shapes += [("blk.0.attn_norm.weight", (32,)), ("blk.0.ffn_norm.weight", (32,))]
    return tiny.finish(writer, path, shapes, 0)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the hen then bathed. " * 40, encoding="utf-8")
    return path


def test_no_pre_tokenizer_is_told(tmp_path: Path, text: Path) -> None:
    """To who watches, and in the result; of a file that has one nothing is said."""
    notes = Notes()
    found = api.perplexity(bpe(tmp_path / "a.gguf", None), text, ctx=32, chunks=2, threads=1, progress=notes)
    assert any("warning: llama.cpp on a.gguf: missing pre-tokenizer" in said for said in notes.said)
    assert len(found.warnings) == 1 and "cut into other tokens" in found.warnings[0]
    assert api.perplexity(bpe(tmp_path / "b.gguf"), text, ctx=32, chunks=2, threads=1).warnings == ()


def test_told_once_in_a_measurement(tmp_path: Path, text: Path) -> None:
    """The reference's warning and the file's, each once, kept among the facts."""
    one, other = bpe(tmp_path / "a.gguf", None), bpe(tmp_path / "b.gguf", None)
    found = api.measure([one], reference=other, text=text, ctx=32, chunks=2, threads=1)
    assert [said.split(":")[0] for said in found.facts["warnings"]] == ["llama.cpp on a.gguf", "llama.cpp on b.gguf"]


def test_merges_that_cut_otherwise_are_refused(tmp_path: Path, text: Path) -> None:
    """The same tokens with other merges: the first token of the text that differs is named."""
    one, other = bpe(tmp_path / "a.gguf"), bpe(tmp_path / "b.gguf", merges=("h e", "t h"))
    with pytest.raises(InputError, match=r"token 1 of the text is number \d+, 'the', in the first"):
        api.measure(one, reference=other, text=text, ctx=32, chunks=2, threads=1)
    other_text = tmp_path / "other.txt"
    other_text.write_text("bathed then hen the. " * 40, encoding="utf-8")
    with pytest.raises(InputError, match="cut the text into other tokens"):
        api.choose(
            one,
            report_text=other_text,
            out=tmp_path / "out",
            reference=other,
            text=text,
            ctx=32,
            chunks=2,
            threads=1,
            base="Q8_0",
            role="all",
            to="Q4_0",
        )


def test_merges_that_cut_alike_are_told(tmp_path: Path, text: Path) -> None:
    """Rules that no word of the text is touched by."""
    one, other = bpe(tmp_path / "a.gguf"), bpe(tmp_path / "b.gguf", merges=("t h", "th e", "X Y"))
    found = api.measure(one, reference=other, text=text, ctx=32, chunks=2, threads=1)
    assert any("differ in tokenizer.ggml.merges" in said for said in found.facts["warnings"])


def test_what_is_told_of_a_log() -> None:
    """Without functions' names and rules of stars; alike ones counted; harmless ones not at all; a bounded number."""
    lines = [
        "load: missing pre-tokenizer type, using: 'default'",
        "load: *****",
        "load: GENERATION QUALITY!",
        "x: graph reuse disabled",
    ]
    lines += [f"load: control-looking token: {i} '<|x{i}|>' was not control-type" for i in range(5)]
    found = telling(lines, "m.gguf")
    assert len(found) == 2 and found[0].startswith(
        "llama.cpp on m.gguf: missing pre-tokenizer type, using: 'default' (texts are cut"
    )
    assert found[1].endswith("token: 0 '<|x0|>' was not control-type (and 4 like it)")
    many = telling([f"load: kind {'abcdefghijklmnopqrst'[i]} of it" for i in range(20)], "m.gguf")
    assert len(many) == MOST + 1 and many[-1].endswith("and 12 more warnings")
